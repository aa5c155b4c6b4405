//! The service with a real Keystone: which tokens it accepts, for how long, and its answers while Keystone is away.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;
use trove_tests::{Api, Failpoints, Keystone, Stack, StackOptions, order_body, poll};

const SOON: Duration = Duration::from_secs(20);

async fn status(api: &Api, token: &str) -> Result<u16> {
    Ok(api.with_token(token).get("/instances").await?.status)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_checked_at_keystone_and_believed_for_a_while() -> Result<()> {
    let mut keystone = Keystone::start(true).await?;
    let stack = keystone.stack("cache_lifetime = \"3s\"\ntimeout = \"3s\"", "").await?;
    let api = stack.login("trove").await?;

    who_comes_in(&keystone, &stack, &api).await?;
    one_question_for_many(&keystone, &api).await?;
    revoked(&keystone, &api).await?;
    renewed(&keystone, &api).await?;
    hanging(&keystone, &api).await?;
    away_and_back(&mut keystone, &api).await
}

async fn who_comes_in(keystone: &Keystone, stack: &Stack, api: &Api) -> Result<()> {
    ensure!(api.get("/instances").await?.status == 200);
    let wrong = api.with_token("made-up").get("/instances").await?;
    ensure!(wrong.status == 401, "{wrong:?}");
    let challenge = wrong.headers.get("www-authenticate").context("www-authenticate")?.to_str()?;
    ensure!(challenge == format!("Keystone uri=\"{}\"", keystone.url()), "{challenge}");

    let other = stack.login("trove-admin").await?;
    ensure!(status(api, other.token()).await? == 403, "an administrator's token is for its own project");
    ensure!(other.get("/mgmt/instances").await?.status == 200);
    ensure!(api.get("/mgmt/instances").await?.status == 401);
    let unscoped = api.with_token(&keystone.log_in("demo", "demo", "").await?).get("/instances").await?;
    ensure!(unscoped.status == 403 && unscoped.message().contains("project"), "{unscoped:?}");

    let reader = stack.login("trove-reader").await?;
    ensure!(reader.project == api.project && reader.get("/instances").await?.status == 200);
    ensure!(reader.post("/instances", &order_body("no")).await?.status == 403, "a reader ordered");

    let identity = api.send_to(Method::GET, "/identity/v3", None).await?;
    ensure!(identity.status == 404, "the built-in identity is there: {identity:?}");
    Ok(())
}

async fn one_question_for_many(keystone: &Keystone, api: &Api) -> Result<()> {
    let token = keystone.log_in("demo", "demo", "demo").await?;
    let before = keystone.validations()?;
    let all = try_join_all((0..20).map(|_| status(api, &token))).await?;
    ensure!(all.iter().all(|status| *status == 200), "{all:?}");
    ensure!(keystone.validations()? == before + 1, "twenty requests with one token asked more than once");
    let all = try_join_all((0..20).map(|_| status(api, "made-up-too"))).await?;
    ensure!(all.iter().all(|status| *status == 401), "{all:?}");
    ensure!(keystone.validations()? == before + 2, "a token that is none was asked about again and again");
    Ok(())
}

async fn revoked(keystone: &Keystone, api: &Api) -> Result<()> {
    let token = keystone.log_in("demo", "demo", "demo").await?;
    let first = Instant::now();
    ensure!(status(api, &token).await? == 200);
    keystone.revoke(&token).await?;
    let seen = poll("the revoked token to be refused", SOON, || status(api, &token), |status| *status != 200).await?;
    ensure!(seen == 401, "{seen}");
    ensure!(first.elapsed() < Duration::from_secs(15), "it was believed for longer than cache_lifetime");
    Ok(())
}

/// The service logs in once, and again when Keystone refuses its token.
async fn renewed(keystone: &Keystone, api: &Api) -> Result<()> {
    let token = keystone.log_in("demo", "demo", "demo").await?;
    keystone.forget_the_service().await?;
    let before = keystone.logins()?;
    // Keystone also refuses new tokens that are issued in the same second as a revocation.
    poll("the service to log in again", SOON, || status(api, &token), |status| *status == 200).await?;
    let after = keystone.logins()?;
    ensure!((before + 1..=before + 2).contains(&after), "the service logged in {} times", after - before);
    let next = keystone.log_in("demo", "demo", "demo").await?;
    ensure!(status(api, &next).await? == 200);
    ensure!(keystone.logins()? == after + 1, "only the user logged in");
    Ok(())
}

/// While Keystone does not answer, requests are answered after a short time.
async fn hanging(keystone: &Keystone, api: &Api) -> Result<()> {
    let token = keystone.log_in("demo", "demo", "demo").await?;
    keystone.signal(Signal::SIGSTOP)?;
    let asked = Instant::now();
    let all = try_join_all((0..20).map(|_| status(api, &token))).await;
    keystone.signal(Signal::SIGCONT)?;
    let all = all?;
    ensure!(all.iter().all(|status| *status == 503), "{all:?}");
    ensure!(asked.elapsed() < Duration::from_secs(9), "it took {:?}", asked.elapsed());
    poll("the service to reach Keystone again", SOON, || status(api, &token), |status| *status == 200).await?;
    Ok(())
}

async fn away_and_back(keystone: &mut Keystone, api: &Api) -> Result<()> {
    let (known, new) = (keystone.log_in("demo", "demo", "demo").await?, keystone.log_in("demo", "demo", "demo").await?);
    ensure!(status(api, &known).await? == 200);
    keystone.kill()?;
    ensure!(status(api, &known).await? == 200, "what is known goes on");
    let asked = Instant::now();
    let answer = api.with_token(&new).get("/instances").await?;
    ensure!(answer.status == 503 && answer.message().contains("Keystone"), "{answer:?}");
    ensure!(answer.headers.contains_key("retry-after"), "{answer:?}");
    ensure!(asked.elapsed() < Duration::from_secs(5));
    let late = poll("the known token to be asked about", SOON, || status(api, &known), |status| *status != 200).await?;
    ensure!(late == 503, "a token is neither believed for ever nor called wrong: {late}");
    keystone.run()?;
    poll("the service to reach Keystone again", SOON, || status(api, &new), |status| *status == 200).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_file_denies_and_allows() -> Result<()> {
    let policy = tempfile::tempdir()?;
    let file = policy.path().join("policy.yaml");
    std::fs::write(
        &file,
        "# readers may rename nothing, members may reset\n\
         instance:index: role:member and not role:admin\n\
         instance:reset_status: rule:admin_or_owner\n\
         limits:index: '!'\n",
    )?;
    let stack = Stack::start_with(StackOptions {
        config: format!("[identity]\npolicy_file = {file:?}\n"),
        ..StackOptions::default()
    });
    let mut stack = stack.await?;
    let (member, admin) = (stack.login("trove").await?, stack.login("trove-admin").await?);
    ensure!(member.get("/instances").await?.status == 200);
    let denied = admin.get("/instances").await?;
    ensure!(denied.status == 403 && denied.message().contains("instance:index"), "{denied:?}");
    ensure!(member.get("/limits").await?.status == 403);
    let nobody = "/instances/7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1/action";
    let reset = member.post(nobody, &json!({"reset_status": {}})).await?;
    ensure!(reset.status == 404, "a member may by this file, and there is none: {reset:?}");

    stack.stop()?;
    std::fs::write(&file, "instance:index: role:member and\n")?;
    let (ended, said) = stack.run_to_end()?;
    ensure!(!ended.success(), "it serves with a wrong policy");
    ensure!(said.contains("policy.yaml") && said.contains("line 1") && said.contains("instance:index"), "{said}");
    std::fs::write(&file, "instance:inedx: '!'\n")?;
    stack.run(&Failpoints::default())?;
    ensure!(stack.log_end().contains("instance:inedx"), "nobody was warned: {}", stack.log_end());
    Ok(())
}
