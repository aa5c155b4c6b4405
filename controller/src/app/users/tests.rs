use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use super::*;
use crate::testing::app::{World, caller, code, user, world};
use crate::testing::store::{manifest, register};

fn named(name: &str) -> UserRef {
    UserRef { name: name.to_owned(), host: ANY_HOST.to_owned() }
}

fn page(limit: u32, marker: Option<&str>) -> PageRequest {
    PageRequest { limit, marker: marker.map(str::to_owned) }
}

/// An instance with the databases `d1` and `d2` and the account `ann`, who may enter `d1`.
async fn with_ann(world: &World) -> InstanceId {
    let id = world.healthy("demo").await;
    world.agent.has_databases(&["d1", "d2"]);
    world.agent.has_user("ann", "%", &["d1"]);
    id
}

/// The change that was queued, and that it holds no password.
async fn queued(world: &World, accepted: Result<Accepted>) -> String {
    let operation = accepted.unwrap().operation;
    let (kind, _, state) = world.operation(operation).await;
    assert_eq!(kind, "change_accounts");
    assert!(!state.contains("a secret word"), "{state}");
    world.end(operation, "done", None).await;
    state
}

#[tokio::test]
async fn accounts_are_listed_by_name_and_host_without_reserved_ones() {
    let mut world = world().await;
    let mut hosted = manifest();
    hosted.identity.name = "hosted".to_owned();
    hosted.identity.users.hosts = true;
    world.fixture.version = register(&world.app.store, &hosted).await;
    let id = world.healthy("demo").await;
    for (name, host) in [("b", "%"), ("a?x", "%"), ("os_admin", "%"), ("a", "10.%"), ("a", "%"), ("a-b", "%")] {
        world.agent.has_user(name, host, &[]);
    }
    let mut seen = Vec::new();
    let mut marker: Option<String> = None;
    loop {
        let page = world.app.list_users(&caller("demo"), id, page(2, marker.as_deref())).await.unwrap();
        seen.extend(page.items.iter().map(|user| format!("{}@{}", user.name, user.host)));
        let Some(next) = page.next else { break };
        marker = Some(next);
    }
    assert_eq!(seen, ["a@%", "a@10.%", "a-b@%", "a?x@%", "b@%"]);
    for (marker, left) in [("a@%", 4), ("a@10.%", 3), ("a", 3), ("a@", 1), ("b", 0)] {
        let rest = world.app.list_users(&caller("demo"), id, page(9, Some(marker))).await.unwrap();
        assert_eq!(rest.items.len(), left, "{marker}: a name alone is that from all hosts");
    }
}

#[tokio::test]
async fn markers_have_no_host_where_accounts_have_none() {
    let world = world().await;
    let id = world.healthy("demo").await;
    for name in ["c", "a@b", "a@b@%", "a"] {
        world.agent.has_user(name, "%", &[]);
    }
    for (marker, left) in [("a", 3), ("a@b", 2), ("a@b@%", 1), ("a@c", 1)] {
        let rest = world.app.list_users(&caller("demo"), id, page(9, Some(marker))).await.unwrap();
        assert_eq!(rest.items.len(), left, "{marker}");
    }
}

#[tokio::test]
async fn an_account_is_the_one_whose_whole_name_is_given() {
    let world = world().await;
    let id = with_ann(&world).await;
    let demo = caller("demo");
    for name in ["ann@", "ann@%"] {
        assert_eq!(code(&world.app.delete_user(&demo, "r", id, name).await), 404, "{name} is not ann");
        assert_eq!(code(&world.app.grant(&demo, "r", id, name, vec!["d2".to_owned()]).await), 404);
        let state = queued(&world, world.app.create_users(&demo, "r", id, vec![user(name, &[])]).await).await;
        assert!(state.contains(&format!("\"{name}\"")), "{state}");
        world.agent.has_user(name, "%", &["d1"]);
        let states = [
            queued(&world, world.app.delete_user(&demo, "r", id, name).await).await,
            queued(&world, world.app.grant(&demo, "r", id, name, vec!["d2".to_owned()]).await).await,
            queued(&world, world.app.revoke(&demo, "r", id, name, "d1").await).await,
            queued(&world, world.app.change_user(&demo, "r", id, name, password_only()).await).await,
        ];
        for state in states {
            assert!(state.contains(&format!("\"{name}\"")), "{state}");
        }
        assert_eq!(world.app.get_user(&demo, id, name).await.unwrap().name, name);
    }
    let renamed = UserChange { name: Some("ann@home".to_owned()), ..UserChange::default() };
    assert!(queued(&world, world.app.change_user(&demo, "r", id, "ann", renamed).await).await.contains("ann@home"));
}

fn password_only() -> UserChange {
    UserChange { password: Some("a secret word".into()), ..UserChange::default() }
}

#[tokio::test]
async fn a_name_that_reads_like_an_account_from_a_host_is_not_made_where_accounts_have_hosts() {
    let mut world = world().await;
    let mut hosted = manifest();
    hosted.identity.name = "hosted".to_owned();
    hosted.identity.users.hosts = true;
    world.fixture.version = register(&world.app.store, &hosted).await;
    let id = with_ann(&world).await;
    world.agent.has_user("bob", "10.%", &[]);
    world.agent.has_user("by@root", "%", &[]);
    let demo = caller("demo");
    for name in ["ann@", "bob@%", "bob@10.%", "a@b"] {
        assert_eq!(code(&world.app.create_users(&demo, "r", id, vec![user(name, &[])]).await), 400, "{name}");
        let renamed = UserChange { name: Some(name.to_owned()), ..UserChange::default() };
        assert_eq!(code(&world.app.change_user(&demo, "r", id, "ann", renamed).await), 400, "{name}");
    }
    assert_eq!(code(&world.app.delete_user(&demo, "r", id, "ann@").await), 404);
    assert_eq!(code(&world.app.delete_user(&demo, "r", id, "bob@%").await), 404, "bob may come from 10.% only");
    assert_eq!(world.app.get_user(&demo, id, "bob@10.%").await.unwrap().host, "10.%");
    queued(&world, world.app.change_user(&demo, "r", id, "by@root@%", password_only()).await).await;
    queued(&world, world.app.delete_user(&demo, "r", id, "by@root@%").await).await;
}

#[tokio::test]
async fn one_account_is_shown_and_hidden_ones_are_not_found() {
    let world = world().await;
    let id = with_ann(&world).await;
    world.agent.has_user("root", "%", &[]);
    world.agent.has_user("ann@home", "%", &[]);
    let demo = caller("demo");
    let ann = world.app.get_user(&demo, id, "ann").await.unwrap();
    assert_eq!(ann.databases, ["d1"]);
    assert_eq!(world.app.get_user(&demo, id, "ann@home").await.unwrap().name, "ann@home");
    for hidden in ["bob", "root", "os_admin", "sys_x", "", "a\0b", &"x".repeat(65_536), "' or 1=1 --"] {
        assert_eq!(code(&world.app.get_user(&demo, id, hidden).await), 404, "{hidden:?}");
    }
}

#[tokio::test]
async fn accounts_are_created_with_grants_on_databases_that_are_there() {
    let world = world().await;
    let id = with_ann(&world).await;
    let demo = caller("demo");
    let before = world.rows().await;
    let mut bound = user("bob", &[]);
    bound.host = "10.0.0.1".to_owned();
    let mut unsafe_password = user("bob", &[]);
    unsafe_password.password = "a\0b".into();
    for (users, status) in [
        (vec![], 400),
        (vec![user("ann", &[])], 400),
        (vec![user("root", &[])], 400),
        (vec![user("bob", &[]), user("bob", &[])], 400),
        (vec![user("bob", &["nope"])], 400),
        (vec![user("bob", &["system"])], 400),
        (vec![bound], 400),
        (vec![unsafe_password], 400),
    ] {
        let result = world.app.create_users(&demo, "r", id, users.clone()).await;
        assert_eq!(code(&result), status, "{users:?}: {result:?}");
        assert_eq!(world.rows().await, before);
    }
    let state = queued(&world, world.app.create_users(&demo, "r", id, vec![user("bob", &["d1", "d2"])]).await).await;
    assert!(state.contains("create_user") && state.contains("bob") && state.contains("d2"), "{state}");
}

#[tokio::test]
async fn changes_of_an_account_are_checked_and_queued() {
    let world = world().await;
    let id = with_ann(&world).await;
    world.agent.has_user("bob", "%", &[]);
    let demo = caller("demo");
    let before = world.rows().await;
    let name = |name: &str| UserChange { name: Some(name.to_owned()), ..UserChange::default() };
    for (who, change, status) in [
        ("ann", UserChange::default(), 400),
        ("ann", name("bob"), 400),
        ("ann", name("root"), 400),
        ("ann", UserChange { host: Some("10.0.0.1".to_owned()), ..UserChange::default() }, 400),
        ("ann", UserChange { password: Some("".into()), ..UserChange::default() }, 400),
        ("eve", name("eva"), 404),
        ("root", name("eva"), 400),
    ] {
        let result = world.app.change_user(&demo, "r", id, who, change.clone()).await;
        assert_eq!(code(&result), status, "{who} {change:?}: {result:?}");
        assert_eq!(world.rows().await, before);
    }
    let change = UserChange { password: Some("a secret word".into()), ..name("anna") };
    let state = queued(&world, world.app.change_user(&demo, "r", id, "ann", change).await).await;
    assert!(state.contains("anna"), "{state}");
    let same = UserChange { host: Some("%".to_owned()), ..name("ann") };
    assert!(world.app.change_user(&demo, "r", id, "ann", same).await.is_ok(), "its own name is not taken");
}

#[tokio::test]
async fn an_engine_may_not_rename_accounts() {
    let mut world = world().await;
    let mut fixed = manifest();
    fixed.identity.name = "fixed".to_owned();
    fixed.identity.users.rename = false;
    world.fixture.version = register(&world.app.store, &fixed).await;
    let id = with_ann(&world).await;
    let change = UserChange { name: Some("anna".to_owned()), ..UserChange::default() };
    assert_eq!(code(&world.app.change_user(&caller("demo"), "r", id, "ann", change).await), 400);
}

#[tokio::test]
async fn passwords_are_changed_for_accounts_that_are_there() {
    let world = world().await;
    let id = with_ann(&world).await;
    let demo = caller("demo");
    let new = |name: &str| (named(name), SecretString::from("a secret word"));
    assert_eq!(code(&world.app.change_passwords(&demo, "r", id, vec![]).await), 400);
    assert_eq!(code(&world.app.change_passwords(&demo, "r", id, vec![new("ann"), new("eve")]).await), 404);
    assert_eq!(code(&world.app.change_passwords(&demo, "r", id, vec![new("root")]).await), 400);
    queued(&world, world.app.change_passwords(&demo, "r", id, vec![new("ann")]).await).await;
}

#[tokio::test]
async fn grants_and_revocations_need_both_sides() {
    let world = world().await;
    let id = with_ann(&world).await;
    let demo = caller("demo");
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    for (who, databases, status) in [
        ("ann", names(&[]), 400),
        ("ann", names(&["d1", "nope"]), 404),
        ("ann", names(&["system"]), 400),
        ("eve", names(&["d1"]), 404),
        ("root", names(&["d1"]), 400),
    ] {
        let result = world.app.grant(&demo, "r", id, who, databases).await;
        assert_eq!(code(&result), status, "{who}: {result:?}");
    }
    queued(&world, world.app.grant(&demo, "r", id, "ann", names(&["d1", "d2"])).await).await;
    assert_eq!(code(&world.app.revoke(&demo, "r", id, "ann", "d2").await), 404, "no such grant");
    assert_eq!(code(&world.app.revoke(&demo, "r", id, "eve", "d1").await), 404);
    queued(&world, world.app.revoke(&demo, "r", id, "ann", "d1").await).await;
}

#[tokio::test]
async fn only_an_account_that_is_there_can_be_deleted() {
    let world = world().await;
    let id = with_ann(&world).await;
    let demo = caller("demo");
    assert_eq!(code(&world.app.delete_user(&demo, "r", id, "eve").await), 404);
    assert_eq!(code(&world.app.delete_user(&demo, "r", id, "root").await), 400);
    queued(&world, world.app.delete_user(&demo, "r", id, "ann").await).await;
}

#[tokio::test]
async fn strangers_find_no_accounts() {
    let world = world().await;
    let id = with_ann(&world).await;
    let (app, other, ann) = (&world.app, caller("other"), "ann");
    let change = UserChange { name: Some("x".to_owned()), ..UserChange::default() };
    let codes: BTreeSet<u16> = [
        code(&app.list_users(&other, id, page(9, None)).await),
        code(&app.get_user(&other, id, ann).await),
        code(&app.create_users(&other, "r", id, vec![user("bob", &[])]).await),
        code(&app.change_passwords(&other, "r", id, vec![(named(ann), "x".into())]).await),
        code(&app.change_user(&other, "r", id, ann, change).await),
        code(&app.delete_user(&other, "r", id, ann).await),
        code(&app.grant(&other, "r", id, ann, vec!["d1".to_owned()]).await),
        code(&app.revoke(&other, "r", id, ann, "d1").await),
    ]
    .into();
    assert_eq!(codes, [404].into());
    assert_eq!(*world.agent.calls.lock().unwrap(), 0);
}

#[test]
fn no_name_is_an_internal_error() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(world());
    let id = runtime.block_on(with_ann(&world));
    let name = prop_oneof![any::<String>(), "[a-z\"';@\u{0}-\u{2}%$é😀]{0,40}", Just("x".repeat(65_536))];
    let cases = Cases { cases: 64, failure_persistence: None, ..Cases::default() };
    TestRunner::new(cases)
        .run(&(name.clone(), name), |(name, other)| {
            let demo = caller("demo");
            let app = &world.app;
            let who = format!("{name}@{other}");
            prop_assert_eq!(code(&runtime.block_on(app.get_user(&demo, id, &who))), 404);
            let change = UserChange { name: Some(other.clone()), ..UserChange::default() };
            for result in [
                runtime.block_on(app.delete_user(&demo, "r", id, &who)),
                runtime.block_on(app.change_user(&demo, "r", id, &who, change)),
                runtime.block_on(app.grant(&demo, "r", id, &who, vec![other.clone()])),
                runtime.block_on(app.revoke(&demo, "r", id, "ann", &other)),
            ] {
                prop_assert!([400, 404].contains(&code(&result)), "{:?}", result);
            }
            let listed = runtime.block_on(app.list_users(&demo, id, page(9, Some(&name))));
            prop_assert_eq!(code(&listed), 200);
            let created = runtime.block_on(app.create_users(&demo, "r", id, vec![user(&name, &[])]));
            prop_assert!([200, 400].contains(&code(&created)), "{:?}", created);
            if let Ok(accepted) = created {
                runtime.block_on(world.end(accepted.operation, "done", None));
            }
            Ok(())
        })
        .unwrap();
}
