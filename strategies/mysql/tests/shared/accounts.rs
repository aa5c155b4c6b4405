//! Names, hosts, passwords and grants.

use std::cell::RefCell;

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use proptest::prelude::*;
use trove_strategy::{Datastore, ExposeSecret, Kind, SecretString, UserChange};

use super::*;

#[tokio::test]
async fn accounts_that_differ_only_by_host_are_two() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    for name in ["one", "two"] {
        make_database(&bench, name).await?;
    }
    let (any, here, elsewhere) = (id("app", "%"), id("app", "127.%"), id("app", "10.0.0.0/255.0.0.0"));
    make_user(&bench, &any, "Any-secret", &["one"]).await?;
    make_user(&bench, &here, "Here-secret", &["two"]).await?;
    make_user(&bench, &elsewhere, "Else-secret", &[]).await?;
    // The one that says most of the address counts.
    ensure!(login(&bench, "app", "Any-secret", None).await.is_err(), "the password of another account is taken");
    let mut session = login(&bench, "app", "Here-secret", Some("two")).await?;
    assert_eq!(one(&mut session, "select current_user()").await?, "app@127.%");
    let listed = users().list(&bench.site).await.map_err(plain)?;
    let listed: Vec<(&str, Vec<String>)> =
        listed.iter().map(|user| (user.id.host.as_str(), user.databases.clone())).collect();
    let expected = [("%", vec!["one".to_owned()]), ("10.0.0.0/255.0.0.0", vec![]), ("127.%", vec!["two".to_owned()])];
    assert_eq!(listed, expected);

    let renewed = UserChange { password: Some(SecretString::from("New-secret")), ..UserChange::default() };
    users().change(&bench.site, &any, &renewed).await.map_err(plain)?;
    assert_eq!(one(&mut session, "select 1").await?, "1", "a session of the other one is cut");
    // The other's session goes on; its own ends.
    users().delete(&bench.site, &any).await.map_err(plain)?;
    assert_eq!(one(&mut session, "select 1").await?, "1");
    users().delete(&bench.site, &here).await.map_err(plain)?;
    ensure!(session.query_drop("select 1").await.is_err(), "a session outlives its account");
    ensure!(users().get(&bench.site, &elsewhere).await.map_err(plain)?.is_some(), "another one is gone");

    // Moved to other hosts, and to a name that is taken.
    let moved = UserChange { host: Some("127.0.0.%".to_owned()), ..UserChange::default() };
    for _ in 0..2 {
        users().change(&bench.site, &elsewhere, &moved).await.map_err(plain)?;
    }
    login(&bench, "app", "Else-secret", None).await?;
    make_user(&bench, &id("other", "127.0.0.%"), "Other-secret", &[]).await?;
    let taken = UserChange { name: Some("other".to_owned()), ..UserChange::default() };
    let refused = users().change(&bench.site, &id("app", "127.0.0.%"), &taken).await;
    ensure!(refused.is_err_and(|error| error.kind() == Kind::Invalid), "two accounts have become one");
    running.stop(&bench).await
}

#[tokio::test]
async fn a_grant_is_for_the_database_of_that_name_alone() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let names = ["x_y", "xzy", "x\\_y", "100%", "100 percent", "it's `q` \"d\"", "ünï-코드", "back\\slash"];
    for name in names {
        make_database(&bench, name).await?;
    }
    for name in names {
        let user = id(&format!("of {name}"), "%");
        make_user(&bench, &user, "Secret-1", &[name]).await?;
        let mut session = login(&bench, &user.name, "Secret-1", Some(name)).await?;
        session.query_drop("create table t (a int)").await?;
        session.query_drop("create trigger tr before insert on t for each row set new.a = 1").await?;
        let mut shown: Vec<String> = session.query("show databases").await?;
        // MySQL shows it to everybody.
        shown.retain(|name| name != "performance_schema");
        assert_eq!(
            shown,
            [name, "information_schema"].map(str::to_owned).into_iter().collect::<Vec<_>>().sorted(),
            "{name}"
        );
        let known = users().get(&bench.site, &user).await.map_err(plain)?.context("it is listed")?;
        assert_eq!(known.databases, [name]);
        for other in names.iter().filter(|other| **other != name) {
            ensure!(login(&bench, &user.name, "Secret-1", Some(other)).await.is_err(), "{name} opens {other}");
        }
        // What is taken away is taken from sessions, too.
        databases().revoke(&bench.site, &user, name).await.map_err(plain)?;
        ensure!(session.query_drop("select * from t").await.is_err(), "a session in {name} goes on");
    }
    // A database that is made again is not theirs who could enter the old one.
    let user = id("of x_y", "%");
    databases().grant(&bench.site, &user, &["x_y".to_owned()]).await.map_err(plain)?;
    databases().delete(&bench.site, "x_y").await.map_err(plain)?;
    make_database(&bench, "x_y").await?;
    ensure!(login(&bench, "of x_y", "Secret-1", Some("x_y")).await.is_err(), "an old grant is for the new one");
    running.stop(&bench).await
}

trait Sorted {
    fn sorted(self) -> Self;
}

impl Sorted for Vec<String> {
    fn sorted(mut self) -> Self {
        self.sort();
        self
    }
}

#[tokio::test]
async fn names_that_cannot_be_are_refused_before_anything_is_changed() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let running = bench.start().await?;
    let long = "x".repeat(65);
    for name in ["", "mysql", "MYSQL", "Information_Schema", "ibdata1", "a ", "😀", "#mysql50#x", "a\0", &long] {
        let refused = databases().create(&bench.site, &Database::named(name)).await;
        ensure!(refused.is_err_and(|error| error.kind() == Kind::Invalid), "{name:?} was made");
    }
    let own = own(&bench);
    for (name, host) in [
        ("", "%"),
        ("root", "%"),
        ("ROOT", "localhost"),
        ("os_admin", "%"),
        ("mariadb.sys", "localhost"),
        ("PUBLIC", "%"),
        ("a ", "%"),
        ("😀", "%"),
        ("''", "%"),
        ("'a'", "%"),
        (&own, "LocalHost"),
        ("a", ""),
        ("a", "x'y"),
        ("a", "x@y"),
    ] {
        let new = NewUser { id: id(name, host), password: "Secret-1".into(), databases: vec![] };
        let refused = users().create(&bench.site, &new).await;
        ensure!(refused.is_err_and(|error| error.kind() == Kind::Invalid), "{name:?}@{host:?} was made");
    }
    ensure!(users().list(&bench.site).await.map_err(plain)?.is_empty());
    ensure!(databases().list(&bench.site).await.map_err(plain)?.is_empty());
    running.stop(&bench).await
}

/// Names, hosts and passwords of all kinds: what the rules allow works for the engine's own program and for a library, and what
/// they refuse changes nothing.
#[test]
fn what_is_accepted_works() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let Some(bench) = runtime.block_on(bench())? else { return Ok(()) };
    let running = runtime.block_on(bench.start())?;
    let identity = ENGINE.identity();
    let name = "[a-zA-Z0-9_%'\"`\\\\ ./#;$äß코-]{1,24}";
    let password = "[ -~äß코😀]{1,40}";
    let clear = async || -> Result<()> {
        for user in users().list(&bench.site).await.map_err(plain)? {
            users().delete(&bench.site, &user.id).await.map_err(plain)?;
        }
        for database in databases().list(&bench.site).await.map_err(plain)? {
            databases().delete(&bench.site, &database.name).await.map_err(plain)?;
        }
        Ok(())
    };
    let made = RefCell::new(0);
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(user in name, database in name, password in password, host in prop_oneof![Just("%"), Just("127.%"), Just("127.0.0.1")])| {
        let refused = identity.users.names.refusal(&user).or(identity.databases.refusal(&database)).is_some();
        let secret = SecretString::from(password.as_str());
        let done: Result<()> = runtime.block_on(async {
            clear().await?;
            let user = id(&user, host);
            let made_database = make_database(&bench, &database).await;
            if refused {
                if identity.databases.refusal(&database).is_none() {
                    made_database?;
                    databases().delete(&bench.site, &database).await.map_err(plain)?;
                }
                return Ok(());
            }
            made_database?;
            make_user(&bench, &user, secret.expose_secret(), &[&database]).await?;
            let mut session = login(&bench, &user.name, &password, Some(&database)).await?;
            ensure!(one(&mut session, "select database()").await? == database, "another database");
            let said = client(&bench, &user.name, &password, &database, "select 'in'")?;
            ensure!(said == "in", "{said}");
            let listed = users().list(&bench.site).await.map_err(plain)?;
            ensure!(listed.len() == 1 && listed[0].id == user && listed[0].databases == [database.clone()], "{listed:?}");
            users().delete(&bench.site, &user).await.map_err(plain)?;
            databases().delete(&bench.site, &database).await.map_err(plain)?;
            ensure!(users().list(&bench.site).await.map_err(plain)?.is_empty(), "it is still there");
            *made.borrow_mut() += 1;
            Ok(())
        });
        prop_assert!(done.is_ok(), "{:?}", done);
    });
    ensure!(*made.borrow() > 10, "only {} were accepted", made.borrow());
    runtime.block_on(running.stop(&bench))
}
