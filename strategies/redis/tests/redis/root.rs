//! What root may do, and what nobody but the agent may.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use trove_conformance::Bench;
use trove_strategy::{Datastore, Settings, StartMode};

use crate::{REDIS, cli, login, make_user, plain};

/// The commands that an account may not run, whatever the key.
async fn refused(bench: &Bench<'_>, account: &str) -> Result<BTreeSet<String>> {
    let password = std::fs::read_to_string(bench.site.secrets.join("os_admin"))?;
    let mut admin = login(bench, "os_admin", &password).await?;
    let mut names: BTreeSet<String> = redis::cmd("COMMAND").arg("LIST").query_async(&mut admin).await?;
    let categories: Vec<String> = redis::cmd("ACL").arg("CAT").query_async(&mut admin).await?;
    for category in categories {
        let mut list = redis::cmd("COMMAND");
        let list = list.arg(&["LIST", "FILTERBY", "ACLCAT"]).arg(category);
        names.extend(list.query_async::<Vec<String>>(&mut admin).await?);
    }
    let has_parts = |name: &str| names.iter().any(|other| other.starts_with(&format!("{name}|")));
    let mut refused = BTreeSet::new();
    for name in names.iter().filter(|name| !has_parts(name)) {
        let facts: Vec<Vec<redis::Value>> = redis::cmd("COMMAND").arg("INFO").arg(name).query_async(&mut admin).await?;
        let arity: i64 = redis::from_redis_value_ref(&facts[0][1])?;
        let mut words: Vec<&str> = name.split('|').collect();
        words.resize(usize::try_from(arity.unsigned_abs())?.max(words.len()), "1");
        let said: String = redis::cmd("ACL").arg("DRYRUN").arg(account).arg(words).query_async(&mut admin).await?;
        if said.contains("has no permissions to run the") {
            refused.insert(name.clone());
        } else {
            ensure!(said == "OK", "{name}: {said}");
        }
    }
    Ok(refused)
}

#[tokio::test]
async fn root_lacks_what_reaches_out_of_the_data_and_nothing_else_and_tenants_lack_more() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    let root = refused(&bench, "default").await?;
    // All of CLUSTER and MODULE, and of ACL what tells of accounts or changes them.
    let (whole, single): (Vec<_>, Vec<_>) =
        root.iter().partition(|name| ["acl|", "cluster|", "module|"].iter().any(|start| name.starts_with(start)));
    let expected = [
        "client|kill",
        "client|pause",
        "config|rewrite",
        "config|set",
        "debug",
        "failover",
        "migrate",
        "psync",
        "replconf",
        "replicaof",
        "save",
        "script|debug",
        "shutdown",
        "slaveof",
        "sync",
    ];
    ensure!(single.iter().eq(&expected), "{single:?}");
    for (of, all, left) in
        [("acl|", 13, &["acl|cat", "acl|genpass", "acl|help", "acl|whoami"] as &[&str]), ("cluster|", 27, &[])]
    {
        let lost = whole.iter().filter(|name| name.starts_with(of)).count();
        ensure!(lost + left.len() >= all, "{of}: {lost} of {all}");
        ensure!(left.iter().all(|name| !root.contains(*name)), "{of}");
    }
    let tenants = refused(&bench, "app").await?;
    ensure!(root.is_subset(&tenants), "root lacks and tenants have: {:?}", root.difference(&tenants));
    running.stop(&bench).await
}

#[tokio::test]
async fn root_works_with_data_and_looks_but_turns_nothing_against_the_host_or_the_agent() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    let root = REDIS.root().expect("announced");
    root.enable(&bench.site, &"Root-secret-1".into()).await.map_err(plain)?;
    let login = Some(("default", "Root-secret-1"));
    for words in [
        &["SET", "k", "v"] as &[&str],
        &["EVAL", "return redis.call('GET', KEYS[1])", "1", "k"],
        &["FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('f', function() return 1 end)"],
        &["CONFIG", "GET", "maxmemory"],
        &["CONFIG", "RESETSTAT"],
        &["CLIENT", "LIST"],
        &["SLOWLOG", "GET"],
        &["LATENCY", "LATEST"],
        &["MEMORY", "DOCTOR"],
        &["SWAPDB", "0", "1"],
        &["ACL", "WHOAMI"],
        &["BGREWRITEAOF"],
        &["FLUSHALL"],
    ] {
        let said = cli(&bench, login).run(words)?;
        ensure!(!said.contains("NOPERM") && !said.starts_with("ERR"), "{words:?}: {said}");
    }
    for words in [
        &["CONFIG", "SET", "port", "7777"] as &[&str],
        &["CONFIG", "SET", "bind", "0.0.0.0"],
        &["CONFIG", "SET", "tls-port", "7777"],
        &["CONFIG", "SET", "maxclients", "1"],
        &["CONFIG", "REWRITE"],
        &["ACL", "SETUSER", "os_admin", "off"],
        &["ACL", "SETUSER", "mine", "on", "nopass", "~*", "+@all"],
        &["ACL", "DELUSER", "os_admin"],
        &["ACL", "LOAD"],
        &["ACL", "LIST"],
        &["CLIENT", "KILL", "TYPE", "normal"],
        &["CLIENT", "PAUSE", "100000000"],
        &["REPLICAOF", "127.0.0.1", "1"],
        &["MIGRATE", "127.0.0.1", "1", "k", "0", "1"],
        &["MODULE", "LOAD", "/tmp/x.so"],
        &["DEBUG", "SLEEP", "1"],
        &["SCRIPT", "DEBUG", "SYNC"],
        &["SHUTDOWN", "NOSAVE"],
        &["EVAL", "return redis.call('CONFIG', 'SET', 'port', '7777')", "0"],
    ] {
        let said = cli(&bench, login).run(words)?;
        ensure!(said.contains("NOPERM") || said.contains("not allowed"), "{words:?}: {said}");
    }
    // A forged value is looked through before it is taken.
    let sanitised = cli(&bench, login).run(&["CONFIG", "GET", "sanitize-dump-payload"])?;
    ensure!(sanitised.ends_with("clients"), "{sanitised}");
    REDIS.engine().probe(&bench.site).await.map_err(plain)?;
    running.stop(&bench).await
}

#[tokio::test]
async fn accounts_of_an_older_version_are_put_right_at_the_next_start_and_at_a_reload() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let mut running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    let (root, engine) = (REDIS.root().expect("announced"), REDIS.engine());
    let accounts = bench.site.data.join("users.acl");
    let hash = format!("#{}", "a".repeat(64));
    for tampered in ["on #OWN >backdoor", "on #OWN -acl", "on nopass", "off #OWN", ""] {
        running.stop(&bench).await?;
        let own = std::fs::read_to_string(&accounts)?;
        let own = own.lines().find_map(|line| line.strip_prefix("user os_admin on ")).context("os_admin")?;
        let own = own.split(' ').find_map(|word| word.strip_prefix('#')).context("a verifier")?.to_owned();
        let agent = match tampered {
            "" => String::new(),
            rules => format!("user os_admin {} ~* &* +@all\n", rules.replace("OWN", &own)),
        };
        let older = format!(
            "user app on {hash} ~* &* +@all -@admin -@dangerous\nuser default on {hash} ~* &* +@all\n\
             user second on {hash} ~* &* +@all\n{agent}"
        );
        std::fs::write(&accounts, older)?;
        engine.configure(&bench.site, &Settings::default()).await.map_err(plain)?;
        running = bench.spawn(StartMode::Normal)?;
        bench.await_answer(&mut running).await?;
        let said = cli(&bench, Some(("os_admin", "backdoor"))).run(&["PING"])?;
        ensure!(said.contains("WRONGPASS"), "{tampered:?}: {said}");
        for account in ["default", "second", "app"] {
            ensure!(
                refused(&bench, account).await?.contains("acl|setuser"),
                "{tampered:?}: {account} changes accounts"
            );
        }
        ensure!(root.is_enabled(&bench.site).await.map_err(plain)?, "root was switched off");
    }
    ensure!(!refused(&bench, "second").await?.contains("slowlog|get"), "it lost more than root lacks");

    // One that runs since before the update.
    let password = std::fs::read_to_string(bench.site.secrets.join("os_admin"))?;
    let admin = cli(&bench, Some(("os_admin", &password)));
    ensure!(admin.run(&["ACL", "SETUSER", "default", "+@all"])? == "OK");
    bench.take_up(&Settings::default()).await.map_err(plain)?;
    ensure!(refused(&bench, "default").await?.contains("config|set"), "not at a reload");
    ensure!(root.is_enabled(&bench.site).await.map_err(plain)?, "root was switched off by a reload");
    running.stop(&bench).await
}
