//! Stores for tests: each in a directory of its own, with one datastore.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use time::OffsetDateTime;
use trove_strategy::{Capability, Client, INTERFACE, Identity, Installation, Manifest, NameRules};

use crate::config::Config;
use crate::ids::{BackupId, DatastoreId, InstanceId, OperationId, ProjectId, ScheduleId, VersionId};
use crate::model::backup_schedules::{BackupSchedule, Keep, Rhythm};
use crate::model::backups::{Backup, BackupSource};
use crate::model::{Flavor, Requirements};
use crate::objects::Objects;
use crate::seal::Seal;
use crate::store::backups::NewRow as NewBackup;
use crate::store::controllers::Controller;
use crate::store::datastores::Registration;
use crate::store::instances::NewRow;
use crate::store::sql::query;
use crate::store::sql::simulated::{Link, Server};
use crate::store::{Clock, Store, micros};

/// A store with one version of one datastore.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) version: VersionId,
    directory: TempDir,
}

/// Opens the store of a directory. It is SQLite, unless `TROVE_TEST_STORE_URL` is set: to the URL of a PostgreSQL
/// server for tests, in which the store gets a database named after the directory; or to `simulated`, the simulator's
/// database.
pub(crate) async fn open(directory: &Path, key: u8) -> Store {
    let seal = Seal::new(&[key; 32]);
    let Ok(server) = std::env::var("TROVE_TEST_STORE_URL") else { return Store::open(directory, seal).await.unwrap() };
    if server == "simulated" {
        return simulated(directory, seal);
    }
    let name = format!("t{}", hex::encode(&Sha256::digest(directory.as_os_str().as_encoded_bytes())[..12]));
    let mut connection = PgConnection::connect(&server).await.unwrap();
    // Fails if the directory is opened a second time.
    let _there = sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&mut connection).await;
    let mut url = url::Url::parse(&server).unwrap();
    url.set_path(&name);
    Store::connect(url.as_str(), None, seal).await.unwrap()
}

/// The simulator's database for a directory, without faults.
fn simulated(directory: &Path, seal: Seal) -> Store {
    static SERVERS: Mutex<BTreeMap<PathBuf, Server>> = Mutex::new(BTreeMap::new());
    let new = || Store::simulated_server(micros(OffsetDateTime::now_utc()), "");
    let server = SERVERS.lock().unwrap().entry(directory.to_owned()).or_insert_with(new).clone();
    let clock = Clock::simulated(server.now());
    Store::simulated(Link::new(server, Arc::new(|_| Box::pin(async { Ok(()) })), 1), clock, seal)
}

impl Store {
    /// Runs a statement.
    pub(crate) async fn change(&self, sql: &'static str) {
        query(sql).execute(&self.write).await.unwrap();
    }

    /// The number that a query returns.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        query(AssertSqlSafe(sql)).fetch_one(&self.read).await.unwrap().get(0)
    }
}

/// A new store.
pub(crate) async fn fixture() -> Fixture {
    let directory = TempDir::new().unwrap();
    let store = open(directory.path(), 7).await;
    for id in ["one", "two", "here", "there", "c"] {
        let controller = Controller { id: id.to_owned(), agents_address: "127.0.0.1:8778".to_owned(), place: None };
        store.put_controller(&controller, Duration::from_secs(3600)).await.unwrap();
    }
    let version = register(&store, &manifest()).await;
    Fixture { store, version, directory }
}

/// Registers an active version with this manifest.
pub(crate) async fn register(store: &Store, manifest: &Manifest) -> VersionId {
    let mut tx = store.begin().await.unwrap();
    let registration = Registration {
        manifest,
        name: &manifest.installation.major,
        image: None,
        agent_program: None,
        agent_print: "agent",
        active: true,
        default: false,
    };
    let version = store.upsert_version(&mut tx, registration).await.unwrap();
    tx.commit().await.unwrap();
    version
}

/// Manifest of an engine with databases, users and root.
pub(crate) fn manifest() -> Manifest {
    let rules = |reserved: &[&str]| {
        let mut rules = NameRules::new(63, reserved);
        rules.reserved_prefixes = vec!["sys_".to_owned()];
        rules
    };
    let mut identity = Identity::new("enginedb", 5432);
    identity.databases = rules(&["os_admin", "system"]);
    identity.users.names = rules(&["os_admin", "root"]);
    identity.users.rename = true;
    identity.users.passwords.saslprep = true;
    identity.client = Some(Client::new("engine", &[], &[]));
    Manifest {
        identity,
        installation: Installation::new("15.18", "15", "/opt/engine/15/bin"),
        interface: INTERFACE,
        capabilities: vec![Capability::Databases, Capability::Users, Capability::Root],
        parameters: Vec::new(),
        character_sets: Vec::new(),
    }
}

/// A schedule of project `p` that was made at this time, is due each night, keeps two backups, all full ones, and has none verified.
pub(crate) fn schedule(instance: InstanceId, made: OffsetDateTime) -> BackupSchedule {
    BackupSchedule {
        id: ScheduleId::random(),
        project: ProjectId("p".to_owned()),
        instance,
        user_id: "user".to_owned(),
        rhythm: Rhythm::Cron("0 3 * * *".to_owned()),
        full_every: None,
        anchor: made,
        keep: Keep { count: Some(2), age: None },
        verify: None,
        verify_due: made,
        last_verification: None,
        paused: false,
        next_due: made,
        tries: 0,
        last_run: None,
        last_backup: None,
        fault: None,
        created: made,
        updated: made,
    }
}

impl Fixture {
    pub(crate) fn objects_directory(&self) -> PathBuf {
        self.directory.path().join("objects")
    }

    /// Objects in a directory beside the store, with its key.
    pub(crate) fn objects(&self) -> Objects {
        Objects::open_directory(self.objects_directory(), None, self.store.seal.clone(), &Config::default()).unwrap()
    }

    /// Inserts an instance as a create request does, without quota.
    pub(crate) async fn insert(&self, project: &str) -> InstanceId {
        let row = self.new_row(project);
        let mut tx = self.store.begin().await.unwrap();
        self.store.insert_instance(&mut tx, &row).await.unwrap();
        tx.commit().await.unwrap();
        row.id
    }

    /// The row of a new backup of an instance.
    pub(crate) fn new_backup(&self, project: &str, instance: InstanceId, operation: OperationId) -> NewBackup {
        let key = Objects::new_key();
        NewBackup {
            id: BackupId::random(),
            project: ProjectId(project.to_owned()),
            name: "nightly".to_owned(),
            description: None,
            instance,
            source: BackupSource {
                datastore_id: DatastoreId::random(),
                datastore: "enginedb".to_owned(),
                version_id: self.version,
                version: "15".to_owned(),
                version_number: "15.18".to_owned(),
                major: "15".to_owned(),
                volume_gib: 2,
                root_by: None,
            },
            parent: None,
            operation,
            schedule: None,
            recipient: key.recipient,
            identity: self.store.seal.seal(Backup::SEALED, &key.identity).unwrap(),
        }
    }

    /// The row of a create request.
    pub(crate) fn new_row(&self, project: &str) -> NewRow {
        NewRow {
            id: InstanceId::random(),
            project: ProjectId(project.to_owned()),
            name: "first".to_owned(),
            purpose: None,
            flavor: Flavor { id: "1".to_owned(), name: "m512".to_owned(), ram_mib: 512, vcpus: 1 },
            volume_gib: 2,
            version: self.version,
            region: "RegionOne".to_owned(),
            port: 5432,
            requirements: Requirements::default(),
            configuration: None,
            deletion_protection: false,
        }
    }
}
