//! Whatever things are called, and however a client sends the marker, it sees each of them once.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use super::*;
use crate::ids::InstanceId;

#[derive(Clone, Copy, Debug)]
enum Client {
    /// Takes the link as it is, as openstacksdk does.
    Follows,
    /// Reads the marker out of the link and puts it raw into the next URL, as python-troveclient does.
    SendsRaw,
    Quotes,
    QuotesTwice,
    /// Reads the marker out of the link without decoding it, and quotes it.
    QuotesWhatItCutOut,
    /// Asks for more after a full page, and takes the last item's name for the marker, as openstacksdk does.
    TakesTheLastName,
}

const CLIENTS: [Client; 6] = [
    Client::Follows,
    Client::SendsRaw,
    Client::Quotes,
    Client::QuotesTwice,
    Client::QuotesWhatItCutOut,
    Client::TakesTheLastName,
];

/// As Python's `urllib.parse.quote`.
fn quote(text: &str) -> String {
    const QUOTED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, QUOTED).to_string()
}

impl Client {
    /// The path of the next page.
    fn next(self, list: &str, limit: usize, link: &str, last: Option<&str>) -> Option<String> {
        let cut = link.split_once("marker=").map(|(_, marker)| marker.split('&').next().unwrap_or_default());
        let marker = cut.map(|cut| percent_decode_str(cut).decode_utf8().unwrap().into_owned());
        let marker = match self {
            Self::Follows => return cut.and_then(|_| Some(format!("/v1.0{}", link.split_once("/v1.0")?.1))),
            Self::SendsRaw => marker?,
            Self::Quotes => quote(&marker?),
            Self::QuotesTwice => quote(&quote(&marker?)),
            Self::QuotesWhatItCutOut => quote(cut?),
            Self::TakesTheLastName => quote(last?),
        };
        Some(format!("{list}?limit={limit}&marker={marker}"))
    }
}

async fn seen(bench: &Bench, client: Client, list: &str, limit: usize) -> Vec<String> {
    let collection = list.rsplit('/').next().unwrap();
    let (mut seen, mut path) = (Vec::new(), format!("{list}?limit={limit}"));
    loop {
        let answer = bench.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        let items = answer.body[collection].as_array().unwrap();
        seen.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        let link = answer.body["links"][0]["href"].as_str().unwrap_or_default().to_owned();
        let last = items.last().and_then(|item| item["name"].as_str());
        assert!(seen.len() < 100, "{client:?}: {list} does not end");
        match client.next(list, limit, &link, last) {
            Some(next) => path = next,
            None => return seen,
        }
    }
}

fn check(names: &[String], limit: usize, bench: &Bench, id: InstanceId) -> impl Future<Output = ()> {
    let mut sorted = names.to_vec();
    sorted.sort();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    bench.world.agent.has_databases(&names);
    bench.world.agent.users.lock().unwrap().clear();
    names.iter().for_each(|name| bench.world.agent.has_user(name, "%", &[]));
    async move {
        for list in ["databases", "users"] {
            let list = format!("/v1.0/p/instances/{id}/{list}");
            for client in CLIENTS {
                assert_eq!(seen(bench, client, &list, limit).await, sorted, "{client:?} {list}");
            }
        }
    }
}

#[test]
fn every_client_sees_every_name_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bench = runtime.block_on(bench_with(|config| config.rate_limits.get = 1_000_000));
    let id = runtime.block_on(bench.world.healthy("p"));
    let many: Vec<String> = (1..=21).map(|n| format!("r&d{n:02}")).collect();
    runtime.block_on(check(&many, 20, &bench, id));
    let name = "[a-b&+%#/?@=;:.,_~ \"'<>{}é😀-]{1,9}".prop_filter("reserved", |name| name != "root");
    let names = proptest::collection::hash_set(name, 1..8);
    let cases = Cases { cases: 48, failure_persistence: None, ..Cases::default() };
    TestRunner::new(cases)
        .run(&(names, 1_usize..6), |(names, limit)| {
            runtime.block_on(check(&names.into_iter().collect::<Vec<_>>(), limit, &bench, id));
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn who_asks_for_more_after_the_last_item_gets_no_more() {
    let bench = bench().await;
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(bench.world.healthy("p").await.to_string());
    }
    for limit in 1..=5 {
        let (mut seen, mut path) = (Vec::new(), format!("/v1.0/p/instances?limit={limit}"));
        loop {
            let page = bench.get(&path).await.body["instances"].clone();
            let ids = page.as_array().unwrap().iter().map(|instance| instance["id"].as_str().unwrap().to_owned());
            seen.extend(ids);
            assert!(seen.len() <= all.len(), "{limit}: {seen:?}");
            let Some(last) = page.as_array().unwrap().last() else { break };
            path = format!("/v1.0/p/instances?limit={limit}&marker={}", last["id"].as_str().unwrap());
        }
        seen.sort();
        all.sort();
        assert_eq!(seen, all);
    }
    for (list, id) in [("flavors", "str_id"), ("datastores", "id"), ("datastores/enginedb/versions", "id")] {
        let collection = list.rsplit('/').next().unwrap();
        let whole = bench.get(&format!("/v1.0/p/{list}")).await.body[collection].as_array().unwrap().clone();
        let after = async |item: &Value| {
            let path = format!("/v1.0/p/{list}?limit=1&marker={}", item[id].as_str().unwrap());
            bench.get(&path).await.body[collection].as_array().unwrap().len()
        };
        assert_eq!(after(&whole[0]).await, whole.len() - 1, "{list}");
        assert_eq!(after(whole.last().unwrap()).await, 0, "{list}");
    }
}
