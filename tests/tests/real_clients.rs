//! Unmodified clients: every supported `openstack` command, openstacksdk, python-troveclient as a library, and
//! trovectl. The results are checked in the database.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use trove_tests::{Clients, Keystone, Stack, connect, poll, rows};

fn names(list: &Value, column: &str) -> Vec<String> {
    let rows = list.as_array().into_iter().flatten();
    rows.filter_map(|row| row[column].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_openstack_command_does_what_it_says() -> Result<()> {
    openstack(&Stack::start().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_openstack_command_does_the_same_with_a_real_keystone() -> Result<()> {
    let keystone = Keystone::start(false).await?;
    openstack(&keystone.stack("", "").await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_clients_do_the_same_with_a_real_keystone() -> Result<()> {
    let keystone = Keystone::start(false).await?;
    let stack = keystone.stack("", "").await?;
    python(&stack, "sdk.py")?;
    python(&stack, "library.py")?;
    trovectl(&stack).await
}

async fn openstack(stack: &Stack) -> Result<()> {
    let api = stack.login("trove").await?;
    let user = Clients::new(&stack.clouds_yaml(), "trove")?;
    let admin = Clients::new(&stack.clouds_yaml(), "trove-admin")?;

    ensure!(user.json(&["token", "issue"])?["project_id"] == api.project.as_str());
    ensure!(user.openstack(&["catalog", "list"])?.contains("8779/v1.0/"));
    assert_eq!(names(&user.json(&["datastore", "list"])?, "Name"), ["postgresql", "redis"]);
    let versions = user.json(&["datastore", "version", "list", "postgresql"])?;
    let version = versions[0]["Name"].as_str().context("a version")?.to_owned();
    ensure!(user.json(&["datastore", "show", "postgresql"])?["name"] == "postgresql");
    ensure!(
        user.json(&["datastore", "version", "show", &version, "--datastore", "postgresql"])?["name"]
            == version.as_str()
    );
    ensure!(user.json(&["database", "flavor", "list"])?.as_array().is_some_and(|flavors| flavors.len() == 4));
    ensure!(user.json(&["database", "flavor", "show", "1"])?["ram"] == 512);
    ensure!(user.openstack(&["database", "limit", "list"])?.contains("POST"));
    assert_eq!(user.json(&["database", "instance", "list"])?, json!([]));

    let created = user.json(&[
        "database",
        "instance",
        "create",
        "demo",
        "--flavor",
        "1",
        "--size",
        "1",
        "--nic",
        "net-id=7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1",
        "--datastore",
        "postgresql",
        "--datastore-version",
        &version,
        "--databases",
        "one",
        "two",
        "--users",
        "alice:Alice-secret-1",
    ])?;
    let id = created["id"].as_str().with_context(|| format!("an id in {created}"))?.to_owned();
    let view = api.await_active(&id).await?;
    ensure!(names(&user.json(&["database", "instance", "list"])?, "Name") == ["demo"]);
    let shown = user.json(&["database", "instance", "show", "demo"])?;
    ensure!(shown["id"] == id.as_str() && shown["status"] == "ACTIVE", "{shown}");
    ensure!(shown.to_string().contains("7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1"), "{shown}");
    let mine = admin.json(&["database", "instance", "list", "--all-projects"])?;
    ensure!(names(&mine, "Name") == ["demo"], "{mine}");
    connect(&view, "alice", "Alice-secret-1", "one").await.context("alice enters a database of the order")?;

    databases_and_users(&user, &view, &id, &api).await?;
    root(&user, &view).await?;

    user.openstack(&["database", "instance", "update", &id, "--name", "renamed"])?;
    ensure!(user.json(&["database", "instance", "show", &id])?["name"] == "renamed");
    user.openstack(&["database", "instance", "restart", "renamed"])?;
    api.await_operations(&id).await?;
    api.await_active(&id).await?;
    let (allowed, said) = user.try_openstack(&["database", "instance", "reset", "status", &id])?;
    ensure!(!allowed && said.contains("403"), "a member may not reset the status: {said}");
    let (ok, said) = user.try_openstack(&["database", "cluster", "list"])?;
    ensure!(!ok && said.contains("501"), "what is not built says so: {said}");
    user.openstack(&["database", "instance", "delete", "renamed"])?;
    api.await_gone(&id).await?;

    let doomed = api.order("doomed").await?;
    let (allowed, said) = user.try_openstack(&["database", "instance", "force", "delete", &doomed])?;
    ensure!(!allowed && said.contains("403"), "its first half is for administrators, as in Trove: {said}");
    admin.openstack(&["database", "instance", "force", "delete", &doomed])?;
    api.await_gone(&doomed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn openstack_commands_resize_and_administer() -> Result<()> {
    let stack = Stack::start().await?;
    let api = stack.login("trove").await?;
    let user = Clients::new(&stack.clouds_yaml(), "trove")?;
    let admin = Clients::new(&stack.clouds_yaml(), "trove-admin")?;
    let id = api.order_and_await("sized").await?;
    let settled = async || {
        api.await_operations(&id).await?;
        api.await_active(&id).await
    };

    user.openstack(&["database", "instance", "resize", "volume", "sized", "2"])?;
    assert_eq!(settled().await?["volume"]["size"], 2);
    user.openstack(&["database", "instance", "resize", "flavor", "sized", "2"])?;
    assert_eq!(settled().await?["flavor"]["id"], "2");
    let (allowed, said) = user.try_openstack(&["database", "instance", "reboot", &id])?;
    ensure!(!allowed && said.contains("401"), "{said}");
    admin.openstack(&["database", "instance", "reboot", &id])?;
    settled().await?;

    let version = api.get("/datastores/postgresql").await?.body["datastore"]["default_version"].clone();
    let version = version.as_str().context("a default version")?;
    let of = ["database", "configuration", "parameter"];
    let list = user.json(&[&of[..], &["list", version]].concat())?;
    ensure!(names(&list, "Name").len() > 100, "{list}");
    let shown = user.json(&[&of[..], &["show", version, "max_connections"]].concat())?;
    ensure!(shown["type"] == "integer" && shown["restart_required"] == true, "{shown}");

    let project = api.project.as_str();
    let quotas = user.json(&["database", "quota", "show", project])?;
    ensure!(quotas.as_array().is_some_and(|quotas| quotas.iter().any(|quota| quota["In Use"] == 2)), "{quotas}");
    admin.openstack(&["database", "quota", "update", project, "instances", "1"])?;
    let (ordered, said) = user.try_openstack(&[
        "database",
        "instance",
        "create",
        "more",
        "--flavor",
        "1",
        "--size",
        "1",
        "--nic",
        "net-id=7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1",
        "--datastore",
        "postgresql",
        "--datastore-version",
        version,
    ])?;
    ensure!(!ordered && said.contains("Quota exceeded for resources: ['instances']"), "{said}");

    let path = format!("/mgmt/datastore-versions/{version}");
    let managed = stack.login("trove-admin").await?;
    let image = managed.get(&path).await?.body["version"]["image"].clone();
    let image = image.as_str().context("an image")?;
    let create = ["datastore", "version", "create", "other", "postgresql", "postgresql"];
    let (made, said) = admin.try_openstack(&[&create[..], &["7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1"]].concat())?;
    ensure!(!made && said.contains(image), "what stands for an engine is named: {said}");
    let (deleted, said) = admin.try_openstack(&["datastore", "version", "delete", version])?;
    ensure!(!deleted && said.contains("is in use by instances"), "{said}");
    assert_eq!(api.delete(&format!("/instances/{id}")).await?.status, 202);
    api.await_gone(&id).await?;
    admin.openstack(&["datastore", "version", "delete", version])?;
    assert_eq!(names(&user.json(&["datastore", "list"])?, "Name"), ["redis"]);
    admin.openstack(&[&create[..], &[image, "--active", "--default"]].concat())?;
    let again = user.json(&["datastore", "version", "list", "postgresql"])?;
    assert_eq!(names(&again, "Name"), ["other"]);
    admin.openstack(&["datastore", "version", "set", again[0]["ID"].as_str().context("an id")?, "--disable"])?;
    assert_eq!(names(&user.json(&["datastore", "list"])?, "Name"), ["redis"]);
    Ok(())
}

async fn databases_and_users(user: &Clients, view: &Value, id: &str, api: &trove_tests::Api) -> Result<()> {
    user.openstack(&["database", "db", "create", id, "three"])?;
    let settled = async || {
        api.await_operations(id).await?;
        anyhow::Ok(())
    };
    settled().await?;
    assert_eq!(names(&user.json(&["database", "db", "list", id])?, "Name"), ["one", "three", "two"]);
    user.openstack(&["database", "user", "create", id, "bob", "Bob-secret-1", "--databases", "three"])?;
    settled().await?;
    assert_eq!(names(&user.json(&["database", "user", "list", id])?, "Name"), ["alice", "bob"]);
    let bob = connect(view, "bob", "Bob-secret-1", "three").await?;
    rows(&bob, "create table bobs (n int); insert into bobs values (1)").await?;
    drop(bob);
    ensure!(user.openstack(&["database", "user", "show", id, "bob"])?.contains("three"));
    user.openstack(&["database", "user", "grant", "access", id, "bob", "one"])?;
    settled().await?;
    assert_eq!(names(&user.json(&["database", "user", "show", "access", id, "bob"])?, "Name"), ["one", "three"]);
    connect(view, "bob", "Bob-secret-1", "one").await?;
    user.openstack(&["database", "user", "revoke", "access", id, "bob", "one"])?;
    settled().await?;
    ensure!(connect(view, "bob", "Bob-secret-1", "one").await.is_err(), "bob comes in after the revocation");
    user.openstack(&[
        "database",
        "user",
        "update",
        "attributes",
        id,
        "bob",
        "--new_name",
        "robert",
        "--new_password",
        "New-secret-1",
    ])?;
    settled().await?;
    let robert = connect(view, "robert", "New-secret-1", "three").await?;
    assert_eq!(rows(&robert, "select n from bobs").await?, ["1"]);
    drop(robert);
    user.openstack(&["database", "user", "delete", id, "robert"])?;
    settled().await?;
    ensure!(connect(view, "robert", "New-secret-1", "three").await.is_err(), "robert comes in after his deletion");
    user.openstack(&["database", "db", "delete", id, "three"])?;
    settled().await?;
    assert_eq!(names(&user.json(&["database", "db", "list", id])?, "Name"), ["one", "two"]);
    Ok(())
}

async fn root(user: &Clients, view: &Value) -> Result<()> {
    let enabled = user.json(&["database", "root", "enable", "demo"])?;
    let password = enabled["password"].as_str().with_context(|| format!("a password in {enabled}"))?;
    let root = connect(view, "root", password, "postgres").await?;
    assert_eq!(rows(&root, "select rolsuper from pg_roles where rolname = 'root'").await?, ["t"]);
    ensure!(user.openstack(&["database", "root", "show", "demo"])?.contains("True"));
    user.openstack(&["database", "root", "disable", "demo"])?;
    let shut = async || Ok(connect(view, "root", password, "postgres").await.is_err());
    poll("root to be shut out", Duration::from_secs(20), shut, |shut| *shut).await?;
    ensure!(user.openstack(&["database", "root", "show", "demo"])?.contains("False"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn openstacksdk_works() -> Result<()> {
    python(&Stack::start().await?, "sdk.py")
}

/// Runs a script of tests/clients as the member.
fn python(stack: &Stack, script: &str) -> Result<()> {
    let said = Clients::new(&stack.clouds_yaml(), "trove")?.python(script, &[])?;
    ensure!(said.contains("done"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn python_troveclient_works_as_a_library() -> Result<()> {
    python(&Stack::start().await?, "library.py")
}

#[tokio::test(flavor = "multi_thread")]
async fn trovectl_does_the_same_without_python() -> Result<()> {
    trovectl(&Stack::start().await?).await
}

async fn trovectl(stack: &Stack) -> Result<()> {
    let api = stack.login("trove").await?;
    let run = |args: &[&str]| -> Result<String> {
        let (ok, text) = stack.trovectl(args)?;
        ensure!(ok, "trovectl {args:?}: {text}");
        Ok(text)
    };
    ensure!(run(&["datastore", "list"])?.contains("postgresql"));
    ensure!(run(&["flavor", "list"])?.contains("512"));
    run(&["instance", "create", "ctl", "--flavor", "1", "--size", "1", "--database", "app", "--wait"])?;
    let list: Value = serde_json::from_str(&run(&["instance", "list", "-o", "json"])?)?;
    let id = list[0]["id"].as_str().with_context(|| format!("an id in {list}"))?.to_owned();
    let view = api.await_active(&id).await?;
    let secret = stack.directory().join("password");
    std::fs::write(&secret, "Ctl-secret-1\n")?;
    let file = secret.to_string_lossy().into_owned();
    run(&["user", "create", "ctl", "carol", "--database", "app", "--password-file", &file, "--wait"])?;
    connect(&view, "carol", "Ctl-secret-1", "app").await?;
    ensure!(run(&["user", "list", "ctl"])?.contains("carol"));
    run(&["db", "create", "ctl", "more", "--wait"])?;
    ensure!(run(&["db", "list", "ctl"])?.contains("more"));
    run(&["instance", "restart", "ctl", "--wait"])?;
    ensure!(run(&["operations", "ctl"])?.contains("restart_instance"));
    run(&["instance", "resize", "ctl", "--size", "2", "--wait"])?;
    run(&["instance", "resize", "ctl", "--flavor", "2", "--wait"])?;
    let shown: Value = serde_json::from_str(&run(&["instance", "show", "ctl", "-o", "json"])?)?;
    ensure!(shown["volume"]["size"] == 2 && shown["flavor"]["id"] == "2" && shown["status"] == "ACTIVE", "{shown}");
    ensure!(run(&["quota", "show"])?.contains("volumes"));
    ensure!(run(&["limits"])?.contains("INSTANCES"));
    ensure!(run(&["parameter", "list", "postgresql"])?.contains("max_connections"));
    ensure!(run(&["parameter", "show", "postgresql", "max_connections"])?.contains("integer"));
    let (ok, text) = stack.trovectl(&["instance", "stop", &id])?;
    ensure!(!ok && text.contains("(401)"), "{text}");
    let admin = |args: &[&str]| run(&[args, &["--os-cloud", "trove-admin"]].concat());
    admin(&["instance", "stop", &id, "--wait"])?;
    ensure!(run(&["instance", "list"])?.contains("SHUTDOWN"));
    admin(&["instance", "reboot", &id, "--wait"])?;
    admin(&["instance", "reset-task", &id])?;
    ensure!(admin(&["root", "history", &id])?.contains("Never"));
    ensure!(admin(&["quota", "set", api.project.as_str(), "--backups", "-1"])?.contains("-1"));
    admin(&["quota", "set", "demo", "--configurations", "77"])?;
    let quotas = api.get(&format!("/mgmt/quotas/{}", api.project)).await?.body["quotas"].clone();
    let mut quotas = quotas.as_array().into_iter().flatten();
    ensure!(quotas.any(|quota| quota["resource"] == "configurations" && quota["limit"] == 77), "by the project's name");
    let (ok, text) = stack.trovectl(&["quota", "set", "no-such", "--backups", "1", "--os-cloud", "trove-admin"])?;
    ensure!(!ok && text.contains("no project of this name or id"), "{text}");
    ensure!(admin(&["datastore", "version", "list-all"])?.contains("/bin"));
    let (ok, text) = stack.trovectl(&["instance", "show", "no-such"])?;
    ensure!(!ok && text.contains("no-such"), "{text}");
    run(&["instance", "delete", "ctl", "--wait"])?;
    api.await_gone(&id).await
}
