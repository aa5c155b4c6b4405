use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use secrecy::ExposeSecret;

use super::*;
use crate::app::accounts::NewDatabase;
use crate::ids::ProjectId;
use crate::model::Requirements;
use crate::state::{HostState, Task};
use crate::testing::app::{World, caller, code, database, order, user, world, world_with};
use crate::testing::store::{manifest, register};

async fn create(world: &World, order: NewInstance) -> Result<(Instance, Option<SecretString>, Accepted)> {
    world.app.create_instance(&caller("demo"), "req-1", order).await
}

#[tokio::test]
async fn an_order_writes_the_instance_its_use_and_its_operation() {
    let world = world().await;
    let mut order = order();
    order.databases = vec![database("d1"), database("d2")];
    order.users = vec![user("u1", &["d1"])];
    order.requirements.nics = vec![Nic {
        network_id: Some(uuid::Uuid::new_v4().to_string()),
        subnet_id: Some(uuid::Uuid::new_v4().to_string()),
        ip_address: Some("10.0.0.9".to_owned()),
    }];
    order.requirements.access = Some(Access { is_public: true, allowed_cidrs: Some(vec!["10.0.0.0/8".to_owned()]) });
    let nudged = world.app.runner.subscribe();
    let (instance, root, accepted) = create(&world, order.clone()).await.unwrap();

    let mut read = world.app.get_instance(&caller("demo"), instance.id).await.unwrap();
    read.read = instance.read;
    assert_eq!(format!("{read:?}"), format!("{instance:?}"), "it is answered as it will be read");
    assert_eq!(instance.status(), ("BUILD", ""));
    assert_eq!((instance.task, instance.host), (Task::Building, HostState::Building));
    assert_eq!((instance.nics, instance.access), (order.requirements.nics, order.requirements.access));
    assert_eq!(instance.region, "RegionOne");
    assert_eq!(instance.heartbeat_expiry_s, 90);
    assert!(root.is_none());
    assert!(nudged.has_changed().unwrap(), "the runner is woken");
    let (kind, status, state) = world.operation(accepted.operation).await;
    assert_eq!((kind.as_str(), status.as_str()), ("create_instance", "queued"));
    assert!(state.contains("\"u1\"") && !state.contains("a secret word"), "{state}");
    let in_use: i64 = world.rows().await.iter().filter(|(what, _)| *what == "in use").map(|(_, n)| n).sum();
    assert_eq!(in_use, 1 + 512 + 1);
}

#[tokio::test]
async fn root_on_create_returns_the_password_once() {
    let world = world_with(|config| {
        config.root_on_create = true;
        config.process.allow_root = true;
    })
    .await;
    let (_, root, accepted) = create(&world, order()).await.unwrap();
    let root = root.unwrap();
    assert!(root.expose_secret().len() >= 24);
    assert!(!world.operation(accepted.operation).await.2.contains(root.expose_secret()));
    let (_, root, _) = create(&world, NewInstance { may_have_root: false, ..order() }).await.unwrap();
    assert!(root.is_none(), "who may not have root does not get it");
}

/// What is wrong with each order, and the status it answers.
fn refused() -> Vec<(&'static str, NewInstance, u16)> {
    let with = |change: fn(&mut NewInstance)| {
        let mut order = order();
        change(&mut order);
        order
    };
    let nic = |network: Option<&str>, subnet: Option<&str>, ip: Option<&str>| Nic {
        network_id: network.map(str::to_owned),
        subnet_id: subnet.map(str::to_owned),
        ip_address: ip.map(str::to_owned),
    };
    let uuid = "2ae8b8e2-3a0b-4f31-9f6e-7a2d3a4a8f11";
    let required = |requirements: Requirements| NewInstance { requirements, ..order() };
    let with_nics = |nics: Vec<Nic>| required(Requirements { nics, ..Requirements::default() });
    let with_cidrs = |cidrs: &[&str]| {
        let allowed_cidrs = Some(cidrs.iter().map(|cidr| (*cidr).to_owned()).collect());
        required(Requirements { access: Some(Access { is_public: false, allowed_cidrs }), ..Requirements::default() })
    };
    let many: [String; 51] = std::array::from_fn(|n| format!("10.0.{n}.0/24"));
    vec![
        ("empty name", with(|order| order.name = String::new()), 400),
        ("NUL in the name", with(|order| order.name = "a\0b".to_owned()), 400),
        ("long name", with(|order| order.name = "x".repeat(65_536)), 400),
        ("unknown flavor", with(|order| order.flavor = "99".to_owned()), 400),
        ("no volume", with(|order| order.volume_gib = None), 400),
        ("volume of nothing", with(|order| order.volume_gib = Some(0)), 400),
        ("volume too large", with(|order| order.volume_gib = Some(11)), 413),
        ("volume beyond numbers", with(|order| order.volume_gib = Some(u64::MAX)), 413),
        ("unknown datastore", with(|order| order.datastore = Some("nope".to_owned())), 404),
        ("unknown version", with(|order| order.version = Some("nope".to_owned())), 400),
        ("reserved database", with(|order| order.databases = vec![database("os_admin")]), 400),
        ("database twice", with(|order| order.databases = vec![database("d"), database("d")]), 400),
        ("reserved user", with(|order| order.users = vec![user("root", &[])]), 400),
        ("user twice", with(|order| order.users = vec![user("u", &[]), user("u", &[])]), 400),
        ("database of a user not ordered", with(|order| order.users = vec![user("u", &["d"])]), 400),
        (
            "type of volume that the driver has not",
            with(|order| order.requirements.volume_type = Some("tape".to_owned())),
            422,
        ),
        ("zone with a line feed", with(|order| order.requirements.availability_zone = Some("a\nb".to_owned())), 400),
        ("two nics", with_nics(vec![nic(Some(uuid), None, None), nic(Some(uuid), None, None)]), 400),
        ("nic of nothing", with_nics(vec![nic(None, None, None)]), 400),
        ("nic without a UUID", with_nics(vec![nic(Some("net"), None, None)]), 400),
        ("address without subnet", with_nics(vec![nic(Some(uuid), None, Some("10.0.0.9"))]), 400),
        ("address of IPv6", with_nics(vec![nic(None, Some(uuid), Some("::1"))]), 400),
        ("wrong CIDR", with_cidrs(&["10.0.0.0/33"]), 400),
        ("no CIDR", with_cidrs(&["10.0.0.0/+8"]), 400),
        ("CIDR in octal", with_cidrs(&["10.0.0.0/08"]), 400),
        ("CIDRs", with_cidrs(&many.each_ref().map(String::as_str)), 400),
        ("CIDR twice", with_cidrs(&["10.0.0.0/8", "10.0.0.0/8"]), 400),
    ]
}

#[tokio::test]
async fn a_refused_order_leaves_nothing_behind() {
    let world = world().await;
    create(&world, order()).await.unwrap();
    let before = world.rows().await;
    for (what, order, status) in refused() {
        let result = create(&world, order).await;
        assert_eq!(code(&result), status, "{what}: {result:?}");
        let message = result.unwrap_err().to_string();
        assert!(message.len() < 300 && message.ends_with('.'), "{what}: {message}");
        assert_eq!(world.rows().await, before, "{what}");
    }
}

#[tokio::test]
async fn a_datastore_without_volumes_or_accounts_refuses_them() {
    let world = world_with(|config| config.datastores.allow_open = vec!["plain".to_owned()]).await;
    let mut plain = manifest();
    plain.identity.name = "plain".to_owned();
    plain.identity.volume = false;
    plain.capabilities.clear();
    register(&world.app.store, &plain).await;
    let with = |change: fn(&mut NewInstance)| {
        let mut order = NewInstance { datastore: Some("plain".to_owned()), volume_gib: None, ..order() };
        change(&mut order);
        order
    };
    assert_eq!(code(&create(&world, with(|order| order.volume_gib = Some(1))).await), 501);
    let databases = create(&world, with(|order| order.databases = vec![database("d")])).await;
    assert_eq!(databases.unwrap_err().to_string(), "Operation not supported for datastore plain: it has no databases.");
    assert_eq!(code(&create(&world, with(|order| order.users = vec![user("u", &[])])).await), 422);
    assert_eq!(create(&world, with(|_| ())).await.unwrap().0.volume_gib, 0);
    plain.capabilities = vec![Capability::Users];
    register(&world.app.store, &plain).await;
    let entered = create(&world, with(|order| order.users = vec![user("u", &["d"])])).await;
    let message = "Datastore plain has no databases by name: user \"u\" cannot be given any.";
    assert_eq!(entered.unwrap_err().to_string(), message);
    assert!(create(&world, with(|order| order.users = vec![user("u", &[])])).await.is_ok());
}

#[tokio::test]
async fn a_datastore_without_accounts_is_made_only_where_the_operator_allows_it_by_name() {
    for (allowed, status) in [("", 403), ("another", 403), ("open", 200)] {
        let world = world_with(|config| config.datastores.allow_open = vec![allowed.to_owned()]).await;
        let mut open = manifest();
        open.identity.name = "open".to_owned();
        open.capabilities = vec![Capability::Parameters];
        register(&world.app.store, &open).await;
        let before = world.rows().await;
        let created = create(&world, NewInstance { datastore: Some("open".to_owned()), ..order() }).await;
        assert_eq!(code(&created), status, "{allowed}");
        assert_eq!(world.rows().await == before, status == 403);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_quota_is_exact_under_fifty_parallel_orders() {
    let world = std::sync::Arc::new(world_with(|config| config.quota.max_instances_per_tenant = 7).await);
    let orders = (0..50).map(|_| {
        let world = world.clone();
        tokio::spawn(async move { create(&world, order()).await })
    });
    let mut accepted = 0;
    for result in futures::future::join_all(orders).await {
        match result.unwrap() {
            Ok(_) => accepted += 1,
            Err(error) => assert_eq!(error.to_string(), "Quota exceeded for resources: ['instances']."),
        }
    }
    assert_eq!(accepted, 7);
    let rows = world.rows().await;
    assert!(rows.contains(&("instance", 7)) && rows.contains(&("operation", 7)), "{rows:?}");
    let listed = world.app.store.list_instances(&ProjectId("demo".to_owned()), None, 100).await.unwrap();
    assert_eq!(listed.len(), 7);
    // Another project has a quota of its own.
    assert!(world.app.create_instance(&caller("other"), "req-2", order()).await.is_ok());
}

#[test]
fn no_text_in_an_order_is_an_internal_error() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(world_with(|config| {
        config.quota.max_instances_per_tenant = -1;
        config.quota.max_volumes_per_tenant = -1;
    }));
    let text = prop_oneof![
        1 => any::<String>(),
        1 => Just("'; drop table instance; --".to_owned()),
        1 => Just("\"\\\u{0}\u{202e}é😀".to_owned()),
        1 => Just("x".repeat(65_536)),
        1 => Just("$1 ?1 %s {}".to_owned()),
        15 => "[a-z']{1,8}",
    ];
    let cases = Cases { cases: 96, failure_persistence: None, ..Cases::default() };
    let strategy = proptest::collection::vec(text, 8);
    let accepted = std::cell::Cell::new(0);
    TestRunner::new(cases)
        .run(&strategy, |texts| {
            let mut new = order();
            let mut parts = texts.iter().cloned();
            let mut next = || parts.next().unwrap_or_default();
            new.name = next();
            // Any but this service's own is refused, and the rest is then not looked at.
            new.region = Some(next()).filter(|region| region.len() % 8 == 7);
            let name = next();
            let collation = name.len().is_multiple_of(2).then(|| name.clone());
            new.databases = vec![NewDatabase { name, character_set: None, collation }];
            new.users = vec![user(&next(), &[])];
            new.users[0].password = next().into();
            let (datastore, flavor, zone) = (next(), next(), next());
            if texts[0].len() % 3 == 0 {
                new.datastore = Some(datastore);
                new.flavor = flavor;
            }
            new.requirements.availability_zone = Some(zone);
            let before = runtime.block_on(world.rows());
            let result = runtime.block_on(create(&world, new));
            prop_assert_ne!(code(&result), 500, "{:?}", result);
            if result.is_ok() {
                accepted.set(accepted.get() + 1);
            } else {
                prop_assert_eq!(runtime.block_on(world.rows()), before);
            }
            Ok(())
        })
        .unwrap();
    assert!((5..90).contains(&accepted.get()), "both kinds of orders were tried: {}", accepted.get());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quota_is_exact_under_parallel_orders() {
    let world = Arc::new(world_with(|config| config.quota.max_instances_per_tenant = 7).await);
    let orders: Vec<_> = (0..50)
        .map(|n| {
            let world = world.clone();
            tokio::spawn(async move {
                let mut order = order();
                order.name = format!("n{n}");
                code(&world.app.create_instance(&caller("p"), "r", order).await)
            })
        })
        .collect();
    let mut codes = Vec::new();
    for order in orders {
        codes.push(order.await.unwrap());
    }
    assert_eq!(codes.iter().filter(|code| **code == 200).count(), 7, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 413).count(), 43, "{codes:?}");
    let store = &world.app.store;
    assert_eq!(store.number("select count(*) from instance").await, 7);
    assert_eq!(store.number("select count(*) from operation").await, 7);
    assert_eq!(store.number("select in_use from usage where resource = 'instances'").await, 7);
}
