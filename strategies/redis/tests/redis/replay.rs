//! The log of writes is replayed as `default`: nothing that a log can hold is among what that account lacks.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use redis::Value;
use redis::aio::MultiplexedConnection;
use trove_conformance::Bench;
use trove_strategy::{Datastore, Directory, Kind, Settings, StartMode};

use crate::{REDIS, login, make_user, plain};

async fn run(connection: &mut MultiplexedConnection, words: &[&str]) -> Result<Value> {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(connection).await.with_context(|| format!("{words:?}"))
}

/// Every key of every database with its type and its contents.
async fn picture(connection: &mut MultiplexedConnection) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for database in 0..16 {
        run(connection, &["SELECT", &database.to_string()]).await?;
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(connection).await?;
        for key in keys {
            let kind: String = redis::cmd("TYPE").arg(&key).query_async(connection).await?;
            let words: &[&str] = match kind.as_str() {
                "string" => &["GET", &key],
                "list" => &["LRANGE", &key, "0", "-1"],
                "set" => &["SORT", &key, "ALPHA"],
                "zset" => &["ZRANGE", &key, "0", "-1", "WITHSCORES"],
                "hash" => &["SORT", &key, "BY", "nosort", "GET", "#"],
                "stream" => &["XRANGE", &key, "-", "+"],
                // It has expired since it was listed.
                "none" => continue,
                other => anyhow::bail!("{key}: {other}"),
            };
            let contents = if kind == "hash" {
                format!("{:?}", run(connection, &["HGETALL", &key]).await?)
            } else {
                format!("{:?}", run(connection, words).await?)
            };
            let mut expires: i64 = redis::cmd("PEXPIRETIME").arg(&key).query_async(connection).await?;
            expires = expires.signum();
            found.insert(format!("{database} {key}"), format!("{kind} {expires} {contents}"));
        }
    }
    let libraries = run(connection, &["FUNCTION", "LIST"]).await?;
    found.insert("libraries".to_owned(), format!("{libraries:?}"));
    Ok(found)
}

const LIBRARY: &str = "#!lua name=counts
local function count(keys) redis.call('INCR', keys[1]) redis.call('EXPIRE', keys[1], 1000) return redis.call('LPUSH', keys[2], 'x') end
redis.register_function('count', count)";

/// Alone, and as they stand, in a transaction.
const WRITES: &[&[&str]] = &[
    &["SET", "{k}string", "v"],
    &["SET", "{k}gone", "v", "PX", "1"],
    &["GETEX", "{k}string", "EX", "1000"],
    &["PERSIST", "{k}string"],
    &["EXPIREAT", "{k}string", "33177117420"],
    &["APPEND", "{k}string", "more"],
    &["INCRBYFLOAT", "{k}float", "0.1"],
    &["MSETNX", "{k}one", "1", "{k}two", "2"],
    &["RPUSH", "{k}list", "a", "b", "c", "d"],
    &["LMOVE", "{k}list", "{k}other", "LEFT", "RIGHT"],
    &["BLPOP", "{k}list", "0.1"],
    &["BLMOVE", "{k}list", "{k}other", "LEFT", "RIGHT", "0.1"],
    &["LMPOP", "1", "{k}other", "LEFT", "COUNT", "1"],
    &["SADD", "{k}set", "a", "b", "c"],
    &["SPOP", "{k}set"],
    &["SUNIONSTORE", "{k}union", "{k}set"],
    &["ZADD", "{k}zset", "1", "a", "2", "b"],
    &["BZPOPMIN", "{k}zset", "0.1"],
    &["ZRANGESTORE", "{k}range", "{k}zset", "0", "-1"],
    &["GEOADD", "{k}geo", "13.361389", "38.115556", "p"],
    &["GEOSEARCHSTORE", "{k}near", "{k}geo", "FROMMEMBER", "p", "BYRADIUS", "1", "km"],
    &["HSET", "{k}hash", "f", "v"],
    &["HINCRBY", "{k}hash", "n", "3"],
    &["PFADD", "{k}hll", "a", "b"],
    &["PFMERGE", "{k}merged", "{k}hll"],
    &["PFDEBUG", "GETREG", "{k}hll"],
    &["SETBIT", "{k}bits", "7", "1"],
    &["BITOP", "NOT", "{k}not", "{k}bits"],
    &["BITFIELD", "{k}bits", "SET", "u8", "0", "200"],
    &["XADD", "{k}stream", "1-1", "f", "v"],
    &["XGROUP", "CREATE", "{k}stream", "g", "0"],
    &["XREADGROUP", "GROUP", "g", "c", "STREAMS", "{k}stream", ">"],
    &["XACK", "{k}stream", "g", "1-1"],
    &["XADD", "{k}stream", "MAXLEN", "1", "2-1", "f", "v"],
    &["XAUTOCLAIM", "{k}stream", "g", "d", "0", "0"],
    &["SORT", "{k}union", "ALPHA", "STORE", "{k}sorted"],
    &["COPY", "{k}string", "{k}copy"],
    &["COPY", "{k}string", "{k}away", "DB", "5"],
    &["RENAME", "{k}copy", "{k}renamed"],
    &["MOVE", "{k}one", "3"],
    &["UNLINK", "{k}two"],
    &["PUBLISH", "channel", "message"],
    &["SPUBLISH", "channel", "message"],
    &[
        "EVAL",
        "redis.call('SET', KEYS[1], 'x') redis.call('PEXPIRE', KEYS[1], 1000000) return redis.call('PUBLISH', 'c', 'm')",
        "1",
        "{k}script",
    ],
    &["FCALL", "count", "2", "{k}counted", "{k}listed"],
    &["SCRIPT", "FLUSH"],
];

#[tokio::test]
async fn whatever_accounts_can_write_is_there_after_a_replay() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let mut running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    let root = REDIS.root().expect("announced");
    root.enable(&bench.site, &"Root-secret-1".into()).await.map_err(plain)?;
    // FLUSHALL stands at the beginning; the rest is to be found.
    for (user, password) in [("default", "Root-secret-1"), ("app", "Secret-1")] {
        let mut connection = login(&bench, user, password).await?;
        run(&mut connection, &["SET", "k", "v"]).await?;
        let mut all = redis::pipe();
        all.atomic().cmd("FLUSHALL").cmd("SET").arg("k").arg("v").cmd("FLUSHDB").arg("SYNC");
        all.query_async::<()>(&mut connection).await?;
    }
    for (user, password, start) in [("default", "Root-secret-1", "r"), ("app", "Secret-1", "a")] {
        let mut connection = login(&bench, user, password).await?;
        run(&mut connection, &["FUNCTION", "LOAD", "REPLACE", LIBRARY]).await?;
        for (alone, begin) in [(true, "1"), (false, "2")] {
            let mut transaction = redis::pipe();
            transaction.atomic();
            for words in WRITES {
                let words: Vec<String> =
                    words.iter().map(|word| word.replace("{k}", &format!("{start}{begin}"))).collect();
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                if words[0] == "PFDEBUG" && user == "app" {
                    continue;
                }
                if alone {
                    run(&mut connection, &words).await?;
                } else {
                    transaction.cmd(words[0]).arg(&words[1..]);
                }
            }
            // In one transaction over several databases, which are swapped in it.
            for words in [
                &["SELECT", "7"] as &[&str],
                &["SET", &format!("{start}{begin}seventh"), "v"],
                &["SWAPDB", "7", "8"],
                &["SELECT", "0"],
                &[
                    "FUNCTION",
                    "LOAD",
                    "REPLACE",
                    &LIBRARY.replace("name=counts", "name=again").replace("'count'", "'b'"),
                ],
                &["FUNCTION", "DELETE", "again"],
            ] {
                transaction.cmd(words[0]).arg(&words[1..]);
            }
            transaction.query_async::<()>(&mut connection).await.with_context(|| format!("{user}: a transaction"))?;
        }
        if user == "default" {
            // What was dumped is restored, alone and in a transaction; and so are functions.
            let dump: Vec<u8> = redis::cmd("DUMP").arg("r1list").query_async(&mut connection).await?;
            let functions: Vec<u8> = redis::cmd("FUNCTION").arg("DUMP").query_async(&mut connection).await?;
            redis::cmd("RESTORE").arg("r1restored").arg(0).arg(&dump).exec_async(&mut connection).await?;
            let mut transaction = redis::pipe();
            transaction.atomic().cmd("RESTORE").arg("r2restored").arg(0).arg(&dump);
            transaction.cmd("FUNCTION").arg("RESTORE").arg(&functions).arg("FLUSH");
            transaction.cmd("RESTORE-ASKING").arg("r3restored").arg(0).arg(&dump);
            transaction.query_async::<()>(&mut connection).await?;
        }
    }
    let mut connection = login(&bench, "app", "Secret-1").await?;
    let before = picture(&mut connection).await?;
    ensure!(before.len() >= 100, "{} keys: {before:#?}", before.len());
    // Twice: from the log as it was written, then from one that was rewritten and written on.
    for round in 1..=2 {
        running.kill()?;
        REDIS.engine().configure(&bench.site, &Settings::default()).await.map_err(plain)?;
        running = bench.spawn(StartMode::Normal)?;
        // It fails when one refusal stands in the log.
        bench.await_answer(&mut running).await?;
        ensure!(!bench.log().contains("NOPERM"), "{}", bench.log());
        let mut connection = login(&bench, "app", "Secret-1").await?;
        let after = picture(&mut connection).await?;
        println!("round {round}: {} keys before, {} after", before.len() - 1, after.len() - 1);
        let lost = before.iter().filter(|(key, value)| after.get(*key) != Some(value)).collect::<Vec<_>>();
        ensure!(after == before, "round {round}: {lost:#?}");
        run(&mut login(&bench, "default", "Root-secret-1").await?, &["BGREWRITEAOF"]).await?;
    }
    running.stop(&bench).await
}

/// What it logs while it is loaded is in the server's log at every start.
const LOUD: &str = "#!lua name=loud
redis.log(redis.LOG_WARNING, \"sending an error to its AOF-loading-client: '-NOPERM no'\")
redis.register_function('loud', function() return 1 end)";

/// Says the same, and fails when the server has just begun.
const FAILING: &str = "#!lua name=failing
redis.log(redis.LOG_WARNING, \"sending an error to its AOF-loading-client: '-NOPERM no'\")
error('NOPERM no')";

/// Commands as the log of writes has them.
fn logged(commands: &[&[&str]]) -> String {
    let word = |word: &&str| format!("${}\r\n{word}\r\n", word.len());
    let command = |words: &&[&str]| format!("*{}\r\n{}", words.len(), words.iter().map(word).collect::<String>());
    commands.iter().map(command).collect()
}

fn append(bench: &Bench<'_>, text: &str) -> Result<()> {
    let directory = bench.site.path(&Directory::Data.join("data/appendonlydir"));
    let mut files = std::fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    let log = files.find(|path| path.to_string_lossy().ends_with(".incr.aof")).context("a log of writes")?;
    let mut log = std::fs::File::options().append(true).open(log)?;
    Ok(std::io::Write::write_all(&mut log, text.as_bytes())?)
}

#[tokio::test]
async fn what_a_library_writes_into_the_servers_log_stops_no_start() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let mut running = bench.start().await?;
    make_user(&bench, "app", "Secret-1").await?;
    run(&mut login(&bench, "app", "Secret-1").await?, &["FUNCTION", "LOAD", LOUD]).await?;
    running.kill()?;
    append(&bench, &logged(&[&["SELECT", "0"], &["FUNCTION", "LOAD", FAILING]]))?;
    running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    ensure!(bench.log().matches("NOPERM").count() >= 3, "{}", bench.log());
    // Neither does what is refused to tenants.
    let mut app = login(&bench, "app", "Secret-1").await?;
    ensure!(run(&mut app, &["ACL", "LIST"]).await.is_err());
    REDIS.engine().probe(&bench.site).await.map_err(plain)?;
    running.stop(&bench).await
}

#[tokio::test]
async fn a_refusal_while_the_log_is_replayed_is_fatal() -> Result<()> {
    let bench = Bench::new(&REDIS).await?;
    let running = bench.start().await?;
    running.kill()?;
    append(&bench, &logged(&[&["SELECT", "0"], &["MULTI"], &["ACL", "LIST"], &["EXEC"]]))?;
    let running = bench.spawn(StartMode::Normal)?;
    let error = loop {
        match REDIS.engine().probe(&bench.site).await {
            Err(error) if error.kind() == Kind::Transient => {}
            answer => break answer.err().context("it serves")?,
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    ensure!(error.kind() == Kind::Fatal && error.chain().contains("acl|list"), "{}", error.chain());
    running.stop(&bench).await
}
