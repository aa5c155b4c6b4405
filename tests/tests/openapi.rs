//! Tests the API against its OpenAPI description with schemathesis, with valid and invalid requests.
//!
//! Event streams are left out, since they do not end. Long polling (`wait`) uses 0 seconds. Calls that would delete the
//! test's instance or its agent use an instance that does not exist.

use anyhow::Result;
use reqwest::Method;
use serde_json::json;
use trove_tests::{Api, Clients, Stack};

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
    response_schema_conformance,negative_data_rejection,ignored_auth";

/// Configuration of schemathesis: the token, the caller's project, mostly existing ids, and a fixed seed.
fn configuration(api: &Api, instance: &str, version: &str) -> String {
    let (project, token) = (&api.project, api.token());
    format!(
        r#"
# Known parts of Trove's that are not built yet say so.
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 501]
[generation]
database = "none"
deterministic = true
[auth.openapi.token]
api_key = "{token}"
[dictionaries]
instances = {{ values = ["{instance}"] }}
versions = {{ values = ["{version}"] }}
datastores = {{ values = ["postgresql"] }}
names = {{ values = ["app", "max_connections"] }}
[parameters]
"path.project" = "{project}"
"path.id" = {{ dictionary = "instances", probability = 0.8 }}
"path.datastore" = {{ dictionary = "datastores", probability = 0.8 }}
"path.version" = {{ dictionary = "versions", probability = 0.8 }}
"path.name" = {{ dictionary = "names", probability = 0.5 }}
"path.user" = {{ dictionary = "names", probability = 0.5 }}
[[operations]]
include-path-regex = "versions/{{id}}"
parameters = {{ "path.id" = {{ dictionary = "versions", probability = 0.8 }} }}
[[operations]]
include-operation-id = ["delete_instance", "delete_version", "act_on_any_instance"]
parameters = {{ "path.id" = "7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1" }}
[[operations]]
include-operation-id = "delete_datastore"
parameters = {{ "path.datastore" = "another" }}
[[operations]]
include-operation-id = ["show_quotas", "update_quotas"]
parameters = {{ "path.tenant" = "another" }}
[[operations]]
include-operation-id = "list_operations"
parameters = {{ "query.wait" = 0 }}
"#
    )
}

/// Tests the calls with these tags, as the user of a cloud.
async fn check(stack: &Stack, cloud: &str, tags: &[&str], instance: &str) -> Result<()> {
    let api = stack.login(cloud).await?;
    let datastore = api.get("/datastores/postgresql").await?.body["datastore"]["default_version"].clone();
    let config = stack.directory().join(format!("schemathesis-{cloud}.toml"));
    std::fs::write(&config, configuration(&api, instance, datastore.as_str().unwrap_or_default()))?;
    let (config, url) = (config.to_string_lossy().into_owned(), format!("{}/openapi.json", stack.url()));
    let mut args = vec!["--config-file", &config, "run", &url, "--checks", CHECKS, "--exclude-operation-id", "watch"];
    args.extend([
        "--exclude-operation-id",
        "watch_all",
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        "15",
    ]);
    args.extend(["--request-timeout", "20", "--continue-on-failure", "--warnings", "off", "--no-color"]);
    args.extend(tags.iter().flat_map(|tag| ["--include-tag", tag]));
    Clients::new(&stack.clouds_yaml(), cloud)?.program("schemathesis", &args)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_as_it_describes_itself() -> Result<()> {
    let stack = Stack::start().await?;
    let (member, admin) = (stack.login("trove").await?, stack.login("trove-admin").await?);
    let id = member.order_and_await("described").await?;
    // With this quota, create requests that happen to be valid are refused.
    let (quotas, path) = (json!({"quotas": {"instances": 1}}), format!("/mgmt/quotas/{}", member.project));
    assert_eq!(admin.send(Method::PUT, &path, Some(&quotas)).await?.status, 200);
    let tags = ["service", "instances", "operations", "databases", "users", "datastores", "quotas"];
    check(&stack, "trove", &tags, &id).await?;
    check(&stack, "trove-admin", &["management"], &id).await
}
