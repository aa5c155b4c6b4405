//! The event stream, read by curl: it has every step of a creation, also for a reader whose controller was killed.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use trove_tests::{Api, Failpoints, Stack};

#[derive(Debug)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

/// A reader of a stream.
struct Reader {
    _curl: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Reader {
    fn open(stack: &Stack, api: &Api, since: Option<&str>) -> Result<Self> {
        let mut command = Command::new("curl");
        command.args(["-N", "-i", "-s", "-S", "--fail", "-H", "@-"]).arg(format!(
            "{}/v1.0/{}/events",
            stack.url(),
            api.project
        ));
        let mut curl = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut headers = format!("X-Auth-Token: {}\n", api.token());
        if let Some(since) = since {
            headers.push_str(&format!("Last-Event-ID: {since}\n"));
        }
        let mut stdin = curl.stdin.take().context("stdin")?;
        tokio::spawn(async move {
            // Not as an argument, since other users could read it.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, headers.as_bytes()).await;
        });
        let lines = BufReader::new(curl.stdout.take().context("stdout")?).lines();
        Ok(Self { _curl: curl, lines })
    }

    /// Waits for the head of the answer, from which on the stream is open.
    async fn is_open(&mut self) -> Result<()> {
        while self.lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Event>> {
        let mut event = Event { id: String::new(), name: String::new(), data: Value::Null };
        loop {
            let line =
                tokio::time::timeout(Duration::from_secs(60), self.lines.next_line()).await.context("an event")?;
            let Some(line) = line? else { return Ok(None) };
            match line.split_once(": ") {
                Some(("id", id)) => event.id = id.to_owned(),
                Some(("event", name)) => event.name = name.to_owned(),
                Some(("data", data)) => event.data = serde_json::from_str(data)?,
                _ if line.is_empty() && !event.name.is_empty() => return Ok(Some(event)),
                // A comment, which keeps the connection alive.
                _ => {}
            }
        }
    }

    /// Reads events until one fits; returns all of them.
    async fn until(&mut self, what: &str, fits: impl Fn(&Event) -> bool) -> Result<Vec<Event>> {
        let mut read = Vec::new();
        loop {
            match self.next().await.with_context(|| format!("waiting for {what} after {read:?}"))? {
                Some(event) => read.push(event),
                None => bail!("the stream ended before {what}: {read:?}"),
            }
            if read.last().is_some_and(&fits) {
                return Ok(read);
            }
        }
    }
}

fn is_status(event: &Event, status: &str, operating: &str) -> bool {
    let instance = &event.data["instance"];
    event.name == "instance" && instance["status"] == status && instance["operating_status"] == operating
}

fn has_ended(event: &Event, kind: &str) -> bool {
    event.name == "operation" && event.data["operation"]["kind"] == kind && event.data["operation"]["status"] == "done"
}

#[tokio::test]
async fn each_step_is_told_and_a_reader_that_comes_back_misses_no_end() -> Result<()> {
    let mut stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let mut reader = Reader::open(&stack, &api, None)?;
    let id = api.order("told").await?;
    let mut told = reader.until("the end of the create", |event| has_ended(event, "create_instance")).await?;
    told.extend(reader.until("a healthy instance", |event| is_status(event, "ACTIVE", "HEALTHY")).await?);
    let now: Vec<&str> = told.iter().filter_map(|event| event.data["operation"]["step"].as_str()).collect();
    ensure!(now.contains(&"install_engine"), "the longest step was not told while it ran: {now:?}");
    let ended = told.iter().find(|event| has_ended(event, "create_instance")).context("the end")?;
    let steps = ended.data["operation"]["steps"].as_array().context("steps")?;
    ensure!(steps.len() == 6 && steps.iter().all(|step| step["status"] == "done"), "{steps:?}");
    ensure!(told.iter().any(|event| is_status(event, "BUILD", "")), "{told:?}");
    ensure!(
        told.iter()
            .all(|event| event.data["instance_id"] == id.as_str() || event.data["instance"]["id"] == id.as_str())
    );

    // The controller dies during a restart of the engine. The stream ends, and the reader reconnects to the new
    // controller.
    let last = told.last().context("events")?.id.clone();
    stack.kill()?;
    ensure!(reader.next().await?.is_none(), "the stream goes on after its controller");
    stack.run(&Failpoints {
        controller: Some("operation.restart_instance.restart_engine.after=kill".to_owned()),
        agent: None,
    })?;
    assert_eq!(api.post(&format!("/instances/{id}/action"), &json!({"restart": {}})).await?.status, 202);
    stack.await_death(Duration::from_secs(30)).await?;
    stack.run(&Failpoints::default())?;
    api.await_operations(&id).await?;
    let mut back = Reader::open(&stack, &api, Some(&last))?;
    let missed = back.until("the end that was missed", |event| has_ended(event, "restart_instance")).await?;
    ensure!(
        !missed.iter().any(|event| has_ended(event, "create_instance")),
        "what was told is not told again: {missed:?}"
    );

    assert_eq!(api.delete(&format!("/instances/{id}")).await?.status, 202);
    let gone = |event: &Event| event.name == "deleted" && event.data["instance_id"] == id.as_str();
    back.until("the deletion", gone).await?;
    let begun = std::time::Instant::now();
    stack.stop()?;
    let end = back.until("the last word", |event| event.name == "end").await?;
    assert_eq!(end.last().context("an end")?.data["reason"], "The service stops.");
    ensure!(begun.elapsed() < Duration::from_secs(5), "a stream held the service for {:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_stream_is_for_those_who_may_and_ends_with_their_token() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    assert_eq!(api.with_token("made-up").get("/events").await?.status, 401);
    let mut reader = Reader::open(&stack, &api, Some(""))?;
    reader.is_open().await?;
    let wrong = Reader::open(&stack, &api, Some("yesterday"))?.next().await?;
    ensure!(wrong.is_none(), "a wrong id is refused: {wrong:?}");
    let revoked = api.revoke(api.token()).await?;
    ensure!(revoked.status == 204, "{revoked:?}");
    let end = reader.until("the end", |event| event.name == "end").await?;
    let reason = end.last().context("an end")?.data["reason"].as_str().unwrap_or_default().to_owned();
    ensure!(reason.contains("expired"), "{reason}");
    Ok(())
}
