//! What users ask, and what must come of it once it is done.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::engine::Fact;
use super::rng::Rng;
use crate::app::App;
use crate::app::accounts::{UserChange, UserRef};
use crate::app::instances::Edit;
use crate::error::{Error, Result};
use crate::ids::{InstanceId, OperationId, ProjectId};
use crate::operations::{Origin, apply_configuration};
use crate::state::Task;
use crate::testing::app::{admin, caller, database, order, user};

const USERS: [&str; 3] = ["anna", "bert", "cleo"];
const DATABASES: [&str; 2] = ["red", "blue"];
const FLAVORS: [&str; 3] = ["1", "2", "3"];

/// What a user asks.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// An instance of this flavor and volume, with these users and databases.
    Create {
        flavor: &'static str,
        volume_gib: u64,
        databases: Vec<&'static str>,
        users: Vec<&'static str>,
    },
    Restart,
    ResizeFlavor(&'static str),
    /// To so many GiB.
    GrowVolume(u64),
    Rename(String),
    Delete,
    /// Ends what is under way, and deletes it.
    ForceDelete,
    ResetStatus,
    /// The following three are an administrator's.
    ResetTask,
    Stop,
    Reboot,
    CreateDatabase(&'static str),
    DeleteDatabase(&'static str),
    /// An account that may enter these.
    CreateUser(&'static str, Vec<&'static str>),
    DeleteUser(&'static str),
    RenameUser(&'static str, &'static str),
    ChangePassword(&'static str),
    Grant(&'static str, &'static str),
    Revoke(&'static str, &'static str),
    EnableRoot,
    DisableRoot,
    /// Attaches the configuration group of this name, or detaches the one that there is.
    Configure(Option<&'static str>),
}

/// The configuration groups, each with its values.
pub(super) const GROUPS: [(&str, &str); 2] =
    [("small", r#"{"warm": 1, "cold": 1}"#), ("great", r#"{"warm": 2, "cold": 2, "cold_too": true, "extra": "x"}"#)];

impl Request {
    /// Of whom has so many instances.
    pub(super) fn draw(rng: &Rng, instances: usize) -> Self {
        let (name, base) = (rng.pick(&USERS), rng.pick(&DATABASES));
        let all = if instances < 3 { 0 } else { 5 };
        match if instances == 0 { 0 } else { rng.between(all, 45) } {
            0..6 => {
                let databases = if rng.one_in(2) { vec![base] } else { Vec::new() };
                let users = if rng.one_in(2) { vec![name] } else { Vec::new() };
                let (flavor, volume_gib) = (rng.pick(&FLAVORS), rng.between(1, 4));
                Self::Create { flavor, volume_gib, databases, users }
            }
            6..9 => Self::Restart,
            9..12 => Self::ResizeFlavor(rng.pick(&FLAVORS)),
            12..15 => Self::GrowVolume(rng.between(2, 8)),
            15 => Self::Rename(format!("name{}", rng.between(0, 1000))),
            16..18 => Self::Delete,
            18 => Self::ForceDelete,
            19 => {
                if rng.one_in(2) {
                    Self::ResetStatus
                } else {
                    Self::ResetTask
                }
            }
            20..22 => Self::Stop,
            22..24 => Self::Reboot,
            24..26 => Self::CreateDatabase(base),
            26 => Self::DeleteDatabase(base),
            27..31 => Self::CreateUser(name, if rng.one_in(2) { vec![base] } else { Vec::new() }),
            31..33 => Self::DeleteUser(name),
            33 => Self::RenameUser(name, rng.pick(&USERS)),
            34 => Self::ChangePassword(name),
            35 => Self::Grant(name, base),
            36 => Self::Revoke(name, base),
            37..39 => Self::EnableRoot,
            39 => Self::DisableRoot,
            40..42 => Self::Configure(Some("small")),
            42..44 => Self::Configure(Some("great")),
            _ => Self::Configure(None),
        }
    }

    /// Asks it of a controller, under the number `request`: the operation that carries it out, if there is one.
    pub(super) async fn ask(&self, app: &App, request: &str, id: InstanceId) -> Result<Option<OperationId>> {
        let (tenant, admin) = (caller("p"), admin());
        let accepted = match self {
            Self::Create { flavor, volume_gib, databases, users } => {
                let mut order = order();
                (*flavor).clone_into(&mut order.flavor);
                order.volume_gib = Some(*volume_gib);
                order.databases = databases.iter().map(|name| database(name)).collect();
                order.users = users.iter().map(|name| user(name, databases)).collect();
                app.create_instance(&tenant, request, order).await?.2
            }
            Self::Restart => app.restart_instance(&tenant, request, id).await?,
            Self::ResizeFlavor(flavor) => app.resize_flavor(&tenant, request, id, flavor).await?,
            Self::GrowVolume(gib) => app.resize_volume(&tenant, request, id, *gib).await?,
            Self::Rename(name) => {
                return app
                    .edit_instance(&tenant, id, Edit { name: Some(name), ..Edit::default() })
                    .await
                    .map(|()| None);
            }
            Self::Delete => app.delete_instance(&tenant, request, id).await?,
            Self::ForceDelete => {
                app.reset_status(&tenant, id).await?;
                app.delete_instance(&tenant, request, id).await?
            }
            Self::ResetStatus => return app.reset_status(&tenant, id).await.map(|()| None),
            Self::ResetTask => return app.reset_task_status(id).await.map(|()| None),
            Self::Stop => app.stop_instance(&admin, request, id).await?,
            Self::Reboot => app.reboot_instance(&admin, request, id).await?,
            Self::CreateDatabase(name) => app.create_databases(&tenant, request, id, vec![database(name)]).await?,
            Self::DeleteDatabase(name) => app.delete_database(&tenant, request, id, name).await?,
            Self::CreateUser(name, databases) => {
                app.create_users(&tenant, request, id, vec![user(name, databases)]).await?
            }
            Self::DeleteUser(name) => app.delete_user(&tenant, request, id, name).await?,
            Self::RenameUser(name, new) => {
                let change = UserChange { name: Some((*new).to_owned()), ..UserChange::default() };
                app.change_user(&tenant, request, id, name, change).await?
            }
            Self::ChangePassword(name) => {
                let whom = UserRef { name: (*name).to_owned(), host: "%".to_owned() };
                let passwords = vec![(whom, "another secret".into())];
                app.change_passwords(&tenant, request, id, passwords).await?
            }
            Self::Grant(name, database) => app.grant(&tenant, request, id, name, vec![(*database).to_owned()]).await?,
            Self::Revoke(name, database) => app.revoke(&tenant, request, id, name, database).await?,
            Self::EnableRoot => {
                return app.enable_root(&tenant, request, id, None).await.map(|root| Some(root.operation));
            }
            Self::DisableRoot => app.disable_root(&tenant, request, id).await?,
            Self::Configure(group) => return configure(app, request, id, *group).await.map(Some),
        };
        Ok(Some(accepted.operation))
    }

    /// What the engine has when it is done, or has not; `None` is what it does not decide.
    pub(super) fn facts(&self) -> Vec<(Fact, Option<bool>)> {
        let database = |name: &str| Fact::Database(name.to_owned());
        let user = |name: &str| Fact::User(name.to_owned());
        let grant = |name: &str, base: &str| Fact::Grant(name.to_owned(), base.to_owned());
        let grants = |name: &str, is: Option<bool>| DATABASES.map(|base| (grant(name, base), is)).to_vec();
        let may =
            |name: &str, bases: &[&str]| bases.iter().map(|base| (grant(name, base), Some(true))).collect::<Vec<_>>();
        let (here, gone) = (Some(true), Some(false));
        match self {
            Self::Create { databases, users, .. } => {
                let bases = databases.iter().map(|name| (database(name), here));
                let accounts = users.iter().map(|name| (user(name), here));
                bases.chain(accounts).chain(users.iter().flat_map(|name| may(name, databases))).collect()
            }
            Self::CreateDatabase(name) => vec![(database(name), here)],
            Self::DeleteDatabase(name) => {
                USERS.iter().map(|user| (grant(user, name), gone)).chain([(database(name), gone)]).collect()
            }
            Self::CreateUser(name, bases) => [vec![(user(name), here)], may(name, bases)].concat(),
            Self::DeleteUser(name) => [vec![(user(name), gone)], grants(name, gone)].concat(),
            Self::RenameUser(name, new) if name == new => Vec::new(),
            Self::RenameUser(name, new) => {
                [vec![(user(name), gone), (user(new), here)], grants(name, gone), grants(new, None)].concat()
            }
            Self::Grant(name, base) => vec![(grant(name, base), here)],
            Self::Revoke(name, base) => vec![(grant(name, base), gone)],
            Self::EnableRoot => vec![(Fact::Root, here)],
            Self::DisableRoot => vec![(Fact::Root, gone)],
            _ => Vec::new(),
        }
    }
}

/// Changes the group of an instance with the operation that applies it.
async fn configure(app: &App, request: &str, id: InstanceId, group: Option<&str>) -> Result<OperationId> {
    let store = &app.store;
    let groups = store.list_configurations(None, None, 10).await?;
    let group = group.and_then(|name| groups.into_iter().find(|one| one.name == name)).map(|group| group.id);
    let user_id = caller("p").user_id;
    let origin =
        Origin { targets: vec![id], project: ProjectId("p".to_owned()), request_id: request.to_owned(), user_id };
    let mut tx = store.begin().await?;
    if matches!(store.task(&mut tx, id).await?, None | Some(Task::Deleting)) {
        return Err(Error::BadRequest("there is no such instance".to_owned()));
    }
    store.set_configuration(&mut tx, id, group).await?;
    let operation = store.enqueue(&mut tx, apply_configuration::new(origin)?).await?;
    tx.commit().await.map_err(|error| Error::internal("commit the group", error))?;
    app.changes.bump();
    app.runner.now();
    Ok(operation)
}

/// What was asked, and what was answered.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) wish: Request,
    /// The operation that the answer named.
    pub(super) accepted: Option<OperationId>,
}

/// A name that was given: it stood at some moment between the two, if it was answered, and perhaps if it was not.
#[derive(Clone, Debug)]
pub(super) struct Renamed {
    pub(super) instance: InstanceId,
    pub(super) name: String,
    pub(super) asked: tokio::time::Instant,
    /// `None`: there was no answer, or an error that leaves it open.
    pub(super) answered: Option<tokio::time::Instant>,
}

/// Everything that was asked, by the number of the request, which operations are stored with.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) asked: Mutex<BTreeMap<String, Asked>>,
    pub(super) renamed: Mutex<Vec<Renamed>>,
    /// Instances whose status was reset: what was under way on them has ended anywhere.
    pub(super) reset: Mutex<std::collections::BTreeSet<InstanceId>>,
    /// Of each reset the last operation that was asked for before it, and when it was answered, microseconds since 1970.
    pub(super) resets: Mutex<Vec<(InstanceId, i64, i64)>>,
}

impl Ledger {
    /// Writes down that it is asked; the number of the request.
    pub(super) fn ask(&self, wish: Request) -> String {
        let mut asked = self.asked.lock().unwrap();
        let request = format!("r{}", asked.len());
        asked.insert(request.clone(), Asked { wish, accepted: None });
        request
    }

    /// Writes down that it was accepted.
    pub(super) fn accept(&self, request: &str, operation: OperationId) {
        if let Some(asked) = self.asked.lock().unwrap().get_mut(request) {
            asked.accepted = Some(operation);
        }
    }
}
