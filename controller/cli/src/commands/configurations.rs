//! Configuration groups.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{Session, WaitOptions, instances};
use crate::api::segment;
use crate::error::{Failure, Result};
use crate::output::{Column, Format, cell};
use crate::wait::{Of, operations};

/// What can be done with configuration groups.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Make a group of values.
    Create(Order),
    /// List groups.
    List,
    /// Show a group with its values.
    Show {
        /// The group, by name or id.
        group: String,
    },
    /// Change some values of a group, and of every instance that has it.
    #[command(
        after_help = "Examples:\n  trovectl config set tuned work_mem=16MB max_connections=200 --wait\n  trovectl config set \
            tuned --unset work_mem"
    )]
    Set {
        /// The group, by name or id.
        group: String,
        /// Values to set.
        #[arg(value_name = "NAME=VALUE")]
        values: Vec<String>,
        /// A parameter that goes back to its default; may be given several times.
        #[arg(long, value_name = "NAME")]
        unset: Vec<String>,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Rename a group, describe it, or replace all of its values.
    #[command(
        after_help = "Examples:\n  trovectl config update tuned --name 'tuned for the shop'\n  trovectl config update \
            tuned max_connections=200 --wait"
    )]
    Update {
        /// The group, by name or id.
        group: String,
        /// Values that take the place of all that the group has.
        #[arg(value_name = "NAME=VALUE")]
        values: Vec<String>,
        /// The new name.
        #[arg(long)]
        name: Option<String>,
        /// The new description.
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Delete a group that no instance has.
    Delete {
        /// The group, by name or id.
        group: String,
    },
    /// List the instances that have a group.
    Instances {
        /// The group, by name or id.
        group: String,
    },
    /// Give an instance a group. Example: trovectl config attach shop tuned --wait
    Attach {
        /// The instance, by name or id.
        instance: String,
        /// The group, by name or id.
        group: String,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Take its group from an instance: the parameters go back to their defaults.
    Detach {
        /// The instance, by name or id.
        instance: String,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Compare what was asked for with what the engine of an instance runs with.
    Diff {
        /// The instance, by name or id.
        instance: String,
    },
    /// List what can be set in a group, with its rules.
    Parameters {
        /// The group, by name or id.
        group: String,
    },
}

/// A group to be made.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  trovectl config create tuned max_connections=200 work_mem=16MB\n  trovectl config create \
        small --datastore-version 15 --description 'for small instances' max_connections=50"
)]
pub(crate) struct Order {
    /// The name; need not be unique.
    name: String,
    /// Values of parameters, which `trovectl parameter list` shows.
    #[arg(value_name = "NAME=VALUE")]
    values: Vec<String>,
    /// What it is for.
    #[arg(long)]
    description: Option<String>,
    /// The datastore, by name or id; the service's default when absent.
    #[arg(long)]
    datastore: Option<String>,
    /// Its version, by name or id; the default when absent.
    #[arg(long = "datastore-version", value_name = "VERSION")]
    datastore_version: Option<String>,
}

const LIST: &[Column] = &[
    ("ID", "id"),
    ("NAME", "name"),
    ("DATASTORE", "datastore_name"),
    ("VERSION", "datastore_version_name"),
    ("DESCRIPTION", "description"),
];

const SHOW: &[Column] = &[
    ("ID", "id"),
    ("NAME", "name"),
    ("DESCRIPTION", "description"),
    ("DATASTORE", "datastore_name"),
    ("VERSION", "datastore_version_number"),
    ("INSTANCES", "instance_count"),
    ("VALUES", "values"),
    ("CREATED", "created"),
    ("UPDATED", "updated"),
];

const DIFF: &[Column] = &[
    ("NAME", "name"),
    ("WANTED", "wanted"),
    ("IN FORCE", "in_force"),
    ("UNIT", "unit"),
    ("DIFFERS", "differs"),
    ("STATE", "state"),
    ("REASON", "reason"),
];

/// Does it.
pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<()> {
    match verb {
        Verb::Create(order) => create(session, &order).await,
        Verb::List => {
            let list = session.api.list("list the configuration groups", "/configurations", "configurations").await?;
            session.output.list(&list, LIST)
        }
        Verb::Show { group } => {
            let found = session.api.find_configuration(&group).await?;
            show(session, found)
        }
        Verb::Set { group, values, unset, wait } => {
            if values.is_empty() && unset.is_empty() {
                return Err(Failure::Usage("Say what to set: NAME=VALUE, or --unset NAME.".to_owned()));
            }
            let found = session.api.find_configuration(&group).await?;
            let mut values = typed(&parameters(session, &found).await?, &values)?;
            values.extend(unset.into_iter().map(|name| (name, Value::Null)));
            change(session, &found, Method::PATCH, json!({"values": values}), &wait).await
        }
        Verb::Update { group, values, name, description, wait } => {
            let mut body = Map::new();
            body.extend(name.map(|name| ("name".to_owned(), json!(name))));
            body.extend(description.map(|description| ("description".to_owned(), json!(description))));
            let found = session.api.find_configuration(&group).await?;
            if !values.is_empty() {
                let values = typed(&parameters(session, &found).await?, &values)?;
                body.insert("values".to_owned(), json!(values));
            }
            if body.is_empty() {
                return Err(Failure::Usage("Say what to change: --name, --description or NAME=VALUE.".to_owned()));
            }
            change(session, &found, Method::PUT, body.into(), &wait).await
        }
        Verb::Delete { group } => {
            let path = format!("/configurations/{}", id(&session.api.find_configuration(&group).await?));
            session.api.send(&format!("delete the configuration group {group}"), Method::DELETE, &path, None).await?;
            Ok(())
        }
        Verb::Instances { group } => {
            let found = session.api.find_configuration(&group).await?;
            let list = attached(session, &found).await?;
            session.output.list(&list, &[("ID", "id"), ("NAME", "name")])
        }
        Verb::Attach { instance, group, wait } => {
            let configuration = id(&session.api.find_configuration(&group).await?);
            let what = format!("attach the configuration group {group} to {instance}");
            update_instance(session, &instance, &what, &json!(configuration), &wait).await
        }
        Verb::Detach { instance, wait } => {
            let what = format!("detach the configuration group of {instance}");
            update_instance(session, &instance, &what, &Value::Null, &wait).await
        }
        Verb::Diff { instance } => {
            let id = instances::id(session, &instance).await?;
            let what = format!("compare the parameters of {instance}");
            let list = session.api.list(&what, &format!("/instances/{id}/parameters"), "parameters").await?;
            session.output.list(&list, DIFF)
        }
        Verb::Parameters { group } => {
            let found = session.api.find_configuration(&group).await?;
            let list = parameters(session, &found).await?;
            session.output.list(&list, super::parameters::PARAMETER)
        }
    }
}

fn id(group: &Value) -> String {
    group["id"].as_str().unwrap_or_default().to_owned()
}

async fn create(session: &mut Session, order: &Order) -> Result<()> {
    let what = format!("create the configuration group {}", order.name);
    let rules = match &order.datastore {
        Some(datastore) => {
            let path = super::parameters::path(session, datastore, order.datastore_version.clone()).await?;
            session.api.list(&what, &path, "configuration-parameters").await?
        }
        None => default_parameters(session, order).await?,
    };
    let mut body = json!({"name": order.name, "values": typed(&rules, &order.values)?});
    if let Some(description) = &order.description {
        body["description"] = json!(description);
    }
    if order.datastore.is_some() || order.datastore_version.is_some() {
        body["datastore"] = json!({"type": order.datastore, "version": order.datastore_version});
    }
    let made = session.api.send(&what, Method::POST, "/configurations", Some(&json!({"configuration": body}))).await?;
    show(session, made.body["configuration"].clone())
}

/// The rules of the only datastore there is; none where there are several, of which the service chooses.
async fn default_parameters(session: &mut Session, order: &Order) -> Result<Vec<Value>> {
    let datastores = session.api.list("list the datastores", "/datastores", "datastores").await?;
    let [only] = datastores.as_slice() else { return Ok(Vec::new()) };
    let path = super::parameters::path(session, &id(only), order.datastore_version.clone()).await?;
    session.api.list("list the parameters", &path, "configuration-parameters").await
}

/// What can be set in a group's version.
async fn parameters(session: &mut Session, group: &Value) -> Result<Vec<Value>> {
    let version = group["datastore_version_id"].as_str().unwrap_or_default();
    let path = format!("/datastores/versions/{}/parameters", segment(version));
    session.api.list("list the parameters", &path, "configuration-parameters").await
}

/// `NAME=VALUE`s as the types of their parameters want them. What does not fit is left to the service, which says what does.
fn typed(rules: &[Value], given: &[String]) -> Result<Map<String, Value>> {
    let mut values = Map::new();
    for given in given {
        let wrong = || Failure::Usage(format!("{given} is no NAME=VALUE."));
        let (name, text) = given.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
        let same = |rule: &&Value| rule["name"].as_str().is_some_and(|known| known.eq_ignore_ascii_case(name));
        let kind = rules.iter().find(same).and_then(|rule| rule["type"].as_str());
        if values.insert(name.to_owned(), value(kind, text)).is_some() {
            return Err(Failure::Usage(format!("{name} is given twice.")));
        }
    }
    Ok(values)
}

fn value(kind: Option<&str>, text: &str) -> Value {
    let word = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    let scalar = || serde_json::from_str(text).ok().filter(|value: &Value| !value.is_object() && !value.is_array());
    let fitting = match kind {
        Some("boolean") if word(&["true", "on", "yes", "1"]) => Some(Value::Bool(true)),
        Some("boolean") if word(&["false", "off", "no", "0"]) => Some(Value::Bool(false)),
        Some("integer" | "float") => scalar().filter(Value::is_number),
        Some(_) => None,
        None => scalar(),
    };
    fitting.unwrap_or_else(|| Value::from(text))
}

async fn attached(session: &mut Session, group: &Value) -> Result<Vec<Value>> {
    let path = format!("/configurations/{}/instances", id(group));
    session.api.list("list the instances of the configuration group", &path, "instances").await
}

/// Changes a group, and waits for every instance that has it where that was asked for. One that fails does not keep the
/// others from being waited for.
async fn change(session: &mut Session, group: &Value, method: Method, body: Value, wait: &WaitOptions) -> Result<()> {
    let name = group["name"].as_str().unwrap_or_default().to_owned();
    let what = format!("change the configuration group {name}");
    let with_values = body.get("values").is_some();
    let path = format!("/configurations/{}", id(group));
    session.api.send(&what, method, &path, Some(&json!({"configuration": body}))).await?;
    if !with_values {
        return Ok(());
    }
    let mut failure = None;
    for instance in attached(session, group).await? {
        let instance = id(&instance);
        let end = Instant::now() + Duration::from_secs(1);
        let (list, _) = operations(&mut session.api, Of::Instance(&instance), None, end).await?;
        // The newest first.
        let operation = list.iter().find(|operation| operation["kind"] == "apply_configuration");
        let operation = operation.and_then(|operation| operation["id"].as_str()).map(str::to_owned);
        let what = format!("give the instance {instance} the values of {name}");
        if let Some(operation) = operation
            && let Err(error) = session.settle(wait, &instance, Some(&operation), &what).await
        {
            session.output.remark(&error.to_string());
            failure = Some(error);
        }
    }
    failure.map_or(Ok(()), Err)
}

async fn update_instance(
    session: &mut Session,
    instance: &str,
    what: &str,
    configuration: &Value,
    wait: &WaitOptions,
) -> Result<()> {
    let id = instances::id(session, instance).await?;
    let body = json!({"instance": {"configuration": configuration}});
    let answer = session.api.send(what, Method::PUT, &format!("/instances/{id}"), Some(&body)).await?;
    if answer.operation.is_none() {
        session.output.remark(&format!("The instance {instance} has no configuration group."));
        return Ok(());
    }
    session.settle(wait, &id, answer.operation.as_deref(), what).await?;
    if wait.wait {
        let view = session.api.get(what, &format!("/instances/{id}")).await?;
        if view["instance"]["status"] == "RESTART_REQUIRED" {
            session.output.remark(&format!(
                "Some values wait for a restart: `trovectl config diff {instance}` shows them, `trovectl instance restart \
                 {instance}` gives them to the engine."
            ));
        }
    }
    Ok(())
}

fn show(session: &Session, mut group: Value) -> Result<()> {
    if session.output.format == Format::Table
        && let Some(values) = group["values"].as_object()
    {
        let lines: Vec<String> = values.iter().map(|(name, value)| format!("{name}={}", cell(value))).collect();
        group["values"] = json!(lines.join("\n"));
    }
    session.output.one(&group, SHOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_sent_in_the_types_of_their_parameters() {
        let rules = [("fast", "boolean"), ("limit", "integer"), ("cost", "float"), ("path", "string")];
        let rules = rules.map(|(name, kind)| json!({"name": name, "type": kind}));
        let sent = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
            typed(&rules, &given).map(Value::from).unwrap()
        };
        assert_eq!(
            sent(&["FAST=off", "limit=7", "cost=0.5", "path=1"]),
            json!({"FAST": false, "limit": 7, "cost": 0.5, "path": "1"})
        );
        assert_eq!(
            sent(&["limit=64MB", "path=a=b", "fast=maybe"]),
            json!({"limit": "64MB", "path": "a=b", "fast": "maybe"})
        );
        assert_eq!(
            sent(&["other=7", "more=true", "text=x", "path="]),
            json!({"other": 7, "more": true, "text": "x", "path": ""})
        );
        for wrong in ["limit", "=7"] {
            assert!(typed(&rules, &[wrong.to_owned()]).is_err(), "{wrong}");
        }
        assert!(typed(&rules, &["a=1".to_owned(), "a=2".to_owned()]).is_err());
    }
}
