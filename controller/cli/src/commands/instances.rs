//! Database instances.

use clap::{Args, Subcommand};
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{Session, WaitOptions, backups, datastores, recovery};
use crate::error::{Failure, Result};
use crate::output::{Column, print};
use crate::secret::PasswordSource;

/// What can be done with instances.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Create an instance.
    Create(Box<Order>),
    /// List instances.
    List {
        /// Those of all projects; for administrators.
        #[arg(long)]
        all_projects: bool,
    },
    /// Show an instance.
    Show {
        /// By name or id.
        instance: String,
    },
    /// Rename an instance.
    Rename {
        /// By name or id.
        instance: String,
        /// The new name.
        name: String,
    },
    /// Keep an instance from being deleted, or let it be deleted again.
    #[command(after_help = "Examples:\n  trovectl instance protect shop\n  trovectl instance protect shop --off")]
    Protect {
        /// By name or id.
        instance: String,
        /// Let it be deleted again.
        #[arg(long)]
        off: bool,
    },
    /// Show to which times an instance can be restored, or begin or end to store its writes for that.
    RecoveryWindow(recovery::Window),
    /// Create an instance as another one was at some time.
    Restore(recovery::Restore),
    /// Restart the engine.
    Restart {
        /// By name or id.
        instance: String,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Change the flavor of an instance, during which it is away, or a greater volume, during which it runs on.
    #[command(
        after_help = "Examples:\n  trovectl instance resize shop --flavor 3 --wait\n  trovectl instance resize shop --size 10"
    )]
    #[command(group = clap::ArgGroup::new("what").required(true).args(["flavor", "size"]))]
    Resize {
        /// By name or id.
        instance: String,
        /// The new flavor, by id.
        #[arg(long)]
        flavor: Option<String>,
        /// The new size of the volume, GiB.
        #[arg(long, value_name = "GIB")]
        size: Option<u64>,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Give an instance another version of its datastore, of the same major version; it is away meanwhile.
    #[command(after_help = "Example: trovectl instance upgrade shop 15-new --wait")]
    Upgrade {
        /// By name or id.
        instance: String,
        /// The version, by name or id.
        version: String,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Delete an instance with all its data.
    #[command(after_help = "Example: trovectl instance delete shop --final-backup shop-last --timeout 3600 --wait")]
    Delete {
        /// By name or id.
        instance: String,
        /// Take a backup of this name first, and delete the instance only when it is complete.
        #[arg(long, value_name = "NAME")]
        final_backup: Option<String>,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Clear what the service thinks it does with an instance; for administrators.
    ResetStatus {
        /// By name or id.
        instance: String,
    },
    /// Stop the engine until it is restarted; for administrators.
    Stop {
        /// By name or id.
        instance: String,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// Reboot the host, whatever agent and engine do; for administrators.
    Reboot {
        /// By name or id.
        instance: String,
        #[command(flatten)]
        wait: WaitOptions,
    },
    /// End what is under way, and leave the rest as it is; for administrators.
    ResetTask {
        /// By name or id.
        instance: String,
    },
    /// Figures of an instance's agent and machine; for administrators.
    Diagnostics {
        /// By name or id.
        instance: String,
    },
    /// Ask whether an instance's agent hears and answers; for administrators.
    Ping {
        /// By name or id.
        instance: String,
    },
    /// Delete an instance whatever it is doing.
    ForceDelete {
        /// By name or id.
        instance: String,
        #[command(flatten)]
        wait: WaitOptions,
    },
}

/// An order.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  trovectl instance create shop --wait\n  trovectl instance create shop --flavor 2 --size \
    5 --database app --user app:app --generate-password --wait"
)]
pub(crate) struct Order {
    /// The name; need not be unique.
    name: String,
    /// The size, by id; the smallest when absent.
    #[arg(long)]
    flavor: Option<String>,
    /// Size of the volume, GiB.
    #[arg(long, value_name = "GIB", default_value_t = 1)]
    size: u64,
    /// The datastore, by name or id; the service's default when absent.
    #[arg(long)]
    datastore: Option<String>,
    /// Its version, by name or id; the default when absent.
    #[arg(long = "datastore-version", visible_alias = "version-name", value_name = "VERSION")]
    datastore_version: Option<String>,
    /// The configuration group with whose values the engine starts, by name or id.
    #[arg(long, value_name = "GROUP")]
    configuration: Option<String>,
    /// The backup that it is made from, by name or id; datastore and version are then the backup's when absent.
    #[arg(long)]
    backup: Option<String>,
    /// A first database; may be given several times.
    #[arg(long = "database", value_name = "NAME")]
    databases: Vec<String>,
    /// A first account with the databases that it may enter; may be given several times. All get the same password.
    /// `trovectl user create` makes accounts and grants whose names have `:` or `,`.
    #[arg(long = "user", value_name = "NAME[:DB,DB]")]
    users: Vec<String>,
    #[command(flatten)]
    password: PasswordSource,
    /// The network to attach to, by id.
    #[arg(long, value_name = "ID")]
    network: Option<String>,
    /// Ask for a public address.
    #[arg(long)]
    public: bool,
    /// Keep it from being deleted until `trovectl instance protect --off`.
    #[arg(long)]
    deletion_protection: bool,
    /// A network that may connect; may be given several times.
    #[arg(long = "allowed-cidr", value_name = "CIDR")]
    allowed_cidrs: Vec<String>,
    #[command(flatten)]
    wait: WaitOptions,
}

const LIST: &[Column] = &[
    ("ID", "id"),
    ("NAME", "name"),
    ("DATASTORE", "datastore.type"),
    ("VERSION", "datastore.version"),
    ("STATUS", "status"),
    ("SERVICE", "operating_status"),
    ("ADDRESS", "ip.0"),
    ("FLAVOR", "flavor.id"),
    ("GIB", "volume.size"),
];

pub(super) const SHOW: &[Column] = &[
    ("ID", "id"),
    ("NAME", "name"),
    ("STATUS", "status"),
    ("SERVICE", "operating_status"),
    ("DATASTORE", "datastore.type"),
    ("VERSION", "datastore.version_number"),
    ("ADDRESS", "ip"),
    ("FLAVOR", "flavor.id"),
    ("CONFIGURATION", "configuration.name"),
    ("VOLUME GIB", "volume.size"),
    ("USED GIB", "volume.used"),
    ("PROTECTED", "deletion_protection"),
    ("FAULT", "fault.message"),
    ("REGION", "region"),
    ("PROJECT", "tenant_id"),
    ("CREATED", "created"),
    ("UPDATED", "updated"),
];

/// The id of an instance by name or id.
pub(crate) async fn id(session: &mut Session, wanted: &str) -> Result<String> {
    if uuid::Uuid::parse_str(wanted).is_ok() {
        return Ok(wanted.to_owned());
    }
    let found = session.api.find_instance(wanted).await?;
    Ok(found["id"].as_str().unwrap_or_default().to_owned())
}

/// The id of an instance of whichever project; for administrators.
pub(crate) async fn any_id(session: &mut Session, wanted: &str) -> Result<String> {
    if uuid::Uuid::parse_str(wanted).is_ok() {
        return Ok(wanted.to_owned());
    }
    let found = session.api.find_any_instance(wanted).await?;
    Ok(found["id"].as_str().unwrap_or_default().to_owned())
}

async fn act(session: &mut Session, wanted: &str, what: &str, body: &Value) -> Result<(String, Option<String>)> {
    let id = id(session, wanted).await?;
    let answer = session.api.send(what, Method::POST, &format!("/instances/{id}/action"), Some(body)).await?;
    Ok((id, answer.operation))
}

/// An action of the management API.
async fn manage(session: &mut Session, wanted: &str, verb: &str, object: &str, wait: &WaitOptions) -> Result<()> {
    let id = any_id(session, wanted).await?;
    let word = verb.split('-').next().unwrap_or(verb);
    let what = format!("{word} {object} {wanted}");
    let path = format!("/mgmt/instances/{id}/action");
    let answer = session.api.send(&what, Method::POST, &path, Some(&json!({verb: {}}))).await?;
    match answer.operation {
        Some(operation) => session.settle(wait, &id, Some(&operation), &what).await,
        None => Ok(()),
    }
}

async fn diagnose(session: &mut Session, instance: &str) -> Result<()> {
    let id = any_id(session, instance).await?;
    let what = format!("ask for the figures of {instance}");
    let mut figures = session.api.get(&what, &format!("/mgmt/instances/{id}/diagnostics")).await?["diagnostics"].take();
    let hardware = session.api.get(&what, &format!("/mgmt/instances/{id}/hwinfo")).await?["hwinfo"].take();
    figures["hwinfo"] = hardware;
    session.output.one(
        &figures,
        &[
            ("AGENT VERSION", "version"),
            ("THREADS", "threads"),
            ("OPEN FILES", "fdSize"),
            ("VIRTUAL KIB", "vmSize"),
            ("RESIDENT KIB", "vmRss"),
            ("ITS PEAK KIB", "vmHwm"),
            ("MACHINE MIB", "hwinfo.mem_total"),
            ("CORES", "hwinfo.num_cpus"),
        ],
    )
}

async fn delete(session: &mut Session, id: &str, name: &str, wait: &WaitOptions) -> Result<()> {
    let what = format!("delete the instance {name}");
    let answer = session.api.send(&what, Method::DELETE, &format!("/instances/{id}"), None).await?;
    session.settle(wait, id, answer.operation.as_deref(), &what).await
}

/// Changes what can be changed at once.
async fn edit(session: &mut Session, instance: &str, what: &str, change: &Value) -> Result<()> {
    let id = id(session, instance).await?;
    let body = json!({"instance": change});
    session.api.send(what, Method::PUT, &format!("/instances/{id}"), Some(&body)).await.map(drop)
}

async fn resize(
    session: &mut Session,
    instance: &str,
    flavor: Option<&str>,
    size: Option<u64>,
    wait: &WaitOptions,
) -> Result<()> {
    let (what, resize) = match flavor {
        Some(flavor) => {
            (format!("resize the instance {instance} to the flavor {flavor}"), json!({"flavorRef": flavor}))
        }
        None => (format!("resize the volume of the instance {instance}"), json!({"volume": {"size": size}})),
    };
    let (id, operation) = act(session, instance, &what, &json!({"resize": resize})).await?;
    session.settle(wait, &id, operation.as_deref(), &what).await
}

/// Does it.
pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<()> {
    match verb {
        Verb::Create(order) => create(session, &order).await,
        Verb::List { all_projects } => {
            let path = if all_projects { "/mgmt/instances?deleted=false" } else { "/instances" };
            let list = session.api.list("list the instances", path, "instances").await?;
            session.output.list(&list, LIST)
        }
        Verb::Show { instance } => {
            let id = id(session, &instance).await?;
            let body = session.api.get(&format!("show the instance {instance}"), &format!("/instances/{id}")).await?;
            session.output.one(&body["instance"], SHOW)
        }
        Verb::Rename { instance, name } => {
            let what = format!("rename the instance {instance}");
            edit(session, &instance, &what, &json!({"name": name})).await
        }
        Verb::Protect { instance, off } => {
            let what = format!("{} the instance {instance}", if off { "take the protection off" } else { "protect" });
            edit(session, &instance, &what, &json!({"deletion_protection": !off})).await
        }
        Verb::RecoveryWindow(window) => recovery::window(session, window).await,
        Verb::Restore(order) => recovery::restore(session, order).await,
        Verb::Restart { instance, wait } => {
            let what = format!("restart the instance {instance}");
            let (id, operation) = act(session, &instance, &what, &json!({"restart": {}})).await?;
            session.settle(&wait, &id, operation.as_deref(), &what).await
        }
        Verb::Resize { instance, flavor, size, wait } => {
            resize(session, &instance, flavor.as_deref(), size, &wait).await
        }
        Verb::Upgrade { instance, version, wait } => {
            let id = id(session, &instance).await?;
            let body = json!({"instance": {"datastore_version": version}});
            let what = format!("upgrade the instance {instance} to {version}");
            let answer = session.api.send(&what, Method::PATCH, &format!("/instances/{id}"), Some(&body)).await?;
            session.settle(&wait, &id, answer.operation.as_deref(), &what).await
        }
        Verb::Stop { instance, wait } => manage(session, &instance, "stop", "the engine of", &wait).await,
        Verb::Reboot { instance, wait } => manage(session, &instance, "reboot", "the host of", &wait).await,
        Verb::ResetTask { instance } => {
            let wait = WaitOptions::default();
            manage(session, &instance, "reset-task-status", "what is done with", &wait).await
        }
        Verb::Diagnostics { instance } => diagnose(session, &instance).await,
        Verb::Ping { instance } => {
            let id = any_id(session, &instance).await?;
            session
                .api
                .get(&format!("reach the agent of {instance}"), &format!("/mgmt/instances/{id}/rpc_ping"))
                .await?;
            session.output.remark(&format!("The agent of {instance} answers."));
            Ok(())
        }
        Verb::Delete { instance, final_backup, wait } => {
            let id = id(session, &instance).await?;
            if let Some(backup) = final_backup {
                backups::take_last(session, &id, &instance, &backup, &wait).await?;
            }
            delete(session, &id, &instance, &wait).await
        }
        Verb::ResetStatus { instance } => {
            let what = format!("reset the status of {instance}");
            act(session, &instance, &what, &json!({"reset_status": {}})).await?;
            Ok(())
        }
        Verb::ForceDelete { instance, wait } => {
            let what = format!("reset the status of {instance}");
            let (id, _) = act(session, &instance, &what, &json!({"reset_status": {"force_delete": true}})).await?;
            delete(session, &id, &instance, &wait).await
        }
    }
}

fn users(order: &Order, password: &str) -> Vec<Value> {
    let user = |text: &String| {
        let (name, databases) = text.split_once(':').unwrap_or((text, ""));
        let databases = databases.split(',').filter(|name| !name.is_empty());
        let databases: Vec<Value> = databases.map(|name| json!({"name": name})).collect();
        json!({"name": name, "password": password, "databases": databases})
    };
    order.users.iter().map(user).collect()
}

/// Whom and where `connect` is to name: what was ordered, or the account that is still to be made.
fn entrance(order: &Order) -> String {
    let Some(first) = order.users.first() else {
        return format!(" --user NAME, after trovectl user create {} NAME", order.name);
    };
    let (user, databases) = first.split_once(':').unwrap_or((first, ""));
    let database = databases.split(',').find(|name| !name.is_empty());
    let database = database.map_or_else(String::new, |name| option("database", name));
    option("user", user) + &database
}

/// A name as a shell takes it: what is printed is copied.
fn word(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.,:@%+/".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        name.to_owned()
    } else {
        format!("'{}'", name.replace('\'', r"'\''"))
    }
}

fn option(option: &str, name: &str) -> String {
    // What begins with a dash would be taken for another option.
    let separator = if name.starts_with('-') { "=" } else { " " };
    format!(" --{option}{separator}{}", word(name))
}

async fn create(session: &mut Session, order: &Order) -> Result<()> {
    let flavor = match &order.flavor {
        Some(flavor) => flavor.clone(),
        None => {
            let smallest = datastores::smallest_flavor(session).await?;
            session.output.remark(&format!("Flavor {smallest}, the smallest; --flavor chooses another."));
            smallest
        }
    };
    let password = if order.users.is_empty() { None } else { Some(order.password.read("the accounts")?) };
    let secret = password.as_ref().map_or("", |password| password.secret.expose_secret());
    let databases: Vec<Value> = order.databases.iter().map(|name| json!({"name": name})).collect();
    let mut body = json!({
        "name": order.name, "flavorRef": flavor, "volume": {"size": order.size},
        "datastore": {"type": order.datastore, "version": order.datastore_version},
        "databases": databases, "users": users(order, secret)});
    if let Some(group) = &order.configuration {
        body["configuration"] = session.api.find_configuration(group).await?["id"].take();
    }
    if let Some(backup) = &order.backup {
        let found = session.api.find_backup(backup).await?;
        body["restorePoint"] = json!({"backupRef": found["id"]});
    }
    if order.deletion_protection {
        body["deletion_protection"] = json!(true);
    }
    if let Some(network) = &order.network {
        body["nics"] = json!([{"network_id": network}]);
    }
    if order.public || !order.allowed_cidrs.is_empty() {
        body["access"] = json!({"is_public": order.public});
        if !order.allowed_cidrs.is_empty() {
            body["access"]["allowed_cidrs"] = json!(order.allowed_cidrs);
        }
    }
    let what = format!("create the instance {}", order.name);
    let answer = session.api.send(&what, Method::POST, "/instances", Some(&json!({"instance": body}))).await?;
    let id = answer.body["instance"]["id"].as_str().unwrap_or_default().to_owned();
    if let Some(password) = password.as_ref().filter(|password| password.generated) {
        print(&format!("The password of the accounts, shown this once: {}\n", password.secret.expose_secret()))?;
    }
    session.settle(&order.wait, &id, answer.operation.as_deref(), &what).await?;
    let view = session.api.get(&what, &format!("/instances/{id}")).await?;
    if order.wait.wait && view["instance"]["status"] == "ERROR" {
        let fault = view["instance"]["fault"]["message"].as_str().unwrap_or("no reason was given");
        return Err(Failure::failed(format!("Could not {what}: {fault}")));
    }
    session.output.one(&view["instance"], SHOW)?;
    if order.wait.wait {
        session.output.remark(&format!("Connect with: trovectl connect {}{}", word(&order.name), entrance(order)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_to_be_copied_is_quoted() {
        assert_eq!(option("user", "app"), " --user app");
        assert_eq!(option("user", "-x"), " --user=-x");
        assert_eq!(option("database", "a b; $(it's)"), r" --database 'a b; $(it'\''s)'");
    }
}
