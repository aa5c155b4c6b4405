//! Whether clients may come in clear, as the service's configuration says.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use trove_tests::{APP, Api, Engine, Stack, each_engine, poll};

/// TLS is enforced while the configuration says so, and only then; the agent goes on acting in both.
async fn follows_the_configuration(engine: Engine) -> Result<()> {
    let mut stack = Stack::of(engine).await?;
    let api = stack.login("trove").await?;
    let id = api.create(&engine.order("private")).await?;
    let view = api.await_active(&id).await?;
    let authority = stack.authority(&api, &id).await?;
    let strange = stack.directory().join("strange.pem");
    std::fs::write(&strange, rcgen::generate_simple_self_signed(["strange".to_owned()])?.cert.pem())?;
    let config = std::fs::read_to_string(stack.config())?;
    let mut was_enforced = false;
    for (mode, open) in [("basic", true), ("enforced", false), ("basic", true)] {
        std::fs::write(stack.config(), format!("{config}\n[datastores]\ntls = \"{mode}\"\n"))?;
        let told = assignments(&stack)?;
        stack.kill_and_run()?;
        if engine == Engine::MongoDb && was_enforced && open {
            // The server never lowers its demands while it runs.
            poll("the assignment", Duration::from_secs(90), async || assignments(&stack), |now| *now > told).await?;
            restart(&api, &id).await?;
        }
        was_enforced = !open;
        // Both are looked at together: an engine that answers nobody does not demand TLS.
        let entered = async || {
            let clear = engine.log_in(&view, APP.0, APP.1).await.is_ok();
            Ok((clear, engine.log_in_with_tls(&view, &authority, APP.0, APP.1).await.is_ok()))
        };
        let what = format!("the engine takes up {mode}");
        poll(&what, Duration::from_secs(90), entered, |entered| *entered == (open, true)).await?;
        ensure!(engine.log_in_with_tls(&view, &authority, APP.0, "wrong").await.is_err(), "any password is let in");
        let foreign = engine.log_in_with_tls(&view, &strange, APP.0, APP.1).await;
        ensure!(foreign.is_err(), "the certificate is signed by anybody");
        api.await_active(&id).await?;
        let users = async || Ok(api.get(&format!("/instances/{id}/users")).await?.status);
        poll("the agent to ask the engine", Duration::from_secs(30), users, |status| *status == 200).await?;
    }
    Ok(())
}

/// How often the service has assigned something new to an agent.
fn assignments(stack: &Stack) -> Result<usize> {
    Ok(std::fs::read_to_string(stack.log())?.matches(" was assigned").count())
}

async fn restart(api: &Api, id: &str) -> Result<()> {
    let accepted = async || {
        let answer = api.post(&format!("/instances/{id}/action"), &json!({"restart": {}})).await?;
        Ok(answer.status)
    };
    poll("a restart", Duration::from_secs(30), accepted, |status| *status == 202).await?;
    let ended = api.await_operations(id).await?;
    ensure!(ended[0]["status"] == "done", "{ended}");
    Ok(())
}

each_engine!(tls_is_demanded_where_the_configuration_says_so_and_only_then_by: follows_the_configuration);
