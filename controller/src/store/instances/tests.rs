use super::*;
use std::net::IpAddr;

use trove_strategy::Size;

use crate::model::{Access, Artifact, Locality, Nic, Resource};
use crate::store::quota::Amounts;
use crate::store::sql::query;
use crate::testing::store::{Fixture, fixture};

fn unlimited(_: Resource) -> i64 {
    -1
}

fn project(name: &str) -> ProjectId {
    ProjectId(name.to_owned())
}

async fn shown(fixture: &Fixture, id: InstanceId) -> Instance {
    fixture.store.get_instance(id).await.unwrap().unwrap()
}

/// Runs one write in a transaction of its own.
macro_rules! write {
    ($fixture:expr, $method:ident($($argument:expr),*)) => {{
        let mut tx = $fixture.store.begin().await.unwrap();
        let result = $fixture.store.$method(&mut tx, $($argument),*).await.unwrap();
        tx.commit().await.unwrap();
        result
    }};
}

#[tokio::test]
async fn a_new_instance_is_read_back_whole() {
    let fixture = fixture().await;
    let mut row = fixture.new_row("demo");
    row.requirements.access = Some(Access { is_public: true, allowed_cidrs: Some(vec!["10.0.0.0/8".to_owned()]) });
    row.requirements.nics = vec![Nic { network_id: Some("net".to_owned()), subnet_id: None, ip_address: None }];
    row.requirements.availability_zone = Some("nova".to_owned());
    row.requirements.volume_type = Some("ssd".to_owned());
    row.requirements.locality = Some(Locality::SoftAntiAffinity);
    write!(fixture, insert_instance(&row));

    let (instance, manifest) = fixture.store.get_instance_with_manifest(row.id).await.unwrap().unwrap();
    assert_eq!(instance.name, "first");
    assert_eq!(instance.project, project("demo"));
    assert_eq!(instance.flavor, row.flavor);
    assert_eq!(instance.access, row.requirements.access);
    assert_eq!(instance.nics, row.requirements.nics);
    assert_eq!((instance.task, instance.host), (Task::Building, HostState::Building));
    assert_eq!((instance.service, instance.heard), (Service::New, LastSeen::Never));
    assert_eq!((instance.datastore.as_str(), instance.version.as_str()), ("enginedb", "15"));
    assert_eq!(instance.version_number, "15.18");
    assert_eq!((instance.address, instance.port, instance.volume_gib), (None, 5432, 2));
    assert_eq!(instance.created, instance.updated);
    assert!(instance.fault.is_none() && instance.deleted.is_none() && instance.root_enabled.is_none());
    assert_eq!(manifest.identity.name, "enginedb");

    let facts = fixture.store.host_facts(row.id, None).await.unwrap().unwrap();
    assert_eq!((facts.generation, facts.port, facts.address), (1, 5432, None));
    assert_eq!(facts.requirements, row.requirements);
    assert_eq!(instance.locality, row.requirements.locality);
    assert_eq!(facts.size, Size { memory_mib: 512, vcpus: 1, volume_gib: 2 });
    let Artifact::Local { installation, .. } = facts.artifact else { panic!("{:?}", facts.artifact) };
    assert_eq!(installation, manifest.installation);
    assert!(fixture.store.get_instance(InstanceId::random()).await.unwrap().is_none());
}

#[tokio::test]
async fn every_write_may_be_repeated_and_sets_updated() {
    let fixture = fixture().await;
    let id = fixture.insert("demo").await;
    let address = IpAddr::from([127, 64, 0, 1]);
    let mut last = shown(&fixture, id).await.updated;
    for _ in 0..2 {
        write!(fixture, set_task(id, Task::None));
        write!(fixture, set_host(id, HostState::Active));
        assert!(write!(fixture, set_address(id, address)));
        write!(fixture, set_fault(id, Some(("it broke", "badly"))));
        write!(fixture, set_root(id, Some("user")));
        let instance = shown(&fixture, id).await;
        assert_eq!((instance.task, instance.host), (Task::None, HostState::Active));
        assert_eq!(instance.address, Some(address));
        assert_eq!(instance.fault.as_ref().map(|fault| fault.message.as_str()), Some("it broke"));
        assert_eq!(instance.root_enabled.as_ref().map(|(_, user)| user.as_str()), Some("user"));
        assert!(instance.updated > last);
        last = instance.updated;
    }
    write!(fixture, set_fault(id, None));
    write!(fixture, set_root(id, None));
    let instance = shown(&fixture, id).await;
    assert!(instance.fault.is_none() && instance.root_enabled.is_none());
}

#[tokio::test]
async fn an_address_belongs_to_one_instance_until_that_is_deleted() {
    let fixture = fixture().await;
    let (first, second) = (fixture.insert("demo").await, fixture.insert("demo").await);
    let address = IpAddr::from([127, 64, 0, 1]);
    assert!(write!(fixture, set_address(first, address)));
    assert!(!write!(fixture, set_address(second, address)));
    assert_eq!(shown(&fixture, second).await.address, None);
    write!(fixture, mark_deleted(first));
    assert!(write!(fixture, set_address(second, address)));
    assert!(!write!(fixture, set_address(first, address)), "a deleted instance takes none");
}

#[tokio::test]
async fn deleting_gives_the_quota_back_once() {
    let fixture = fixture().await;
    let amounts = Amounts::instance(512, 2);
    for _ in 0..2 {
        write!(fixture, take_quota(&project("demo"), amounts, unlimited));
    }
    let id = fixture.insert("demo").await;
    write!(fixture, mark_deleted(id));
    write!(fixture, mark_deleted(id));
    let left = [("backups", 0), ("configurations", 0), ("instances", 1), ("ram", 512), ("volumes", 2)];
    assert_eq!(usage(&fixture, "demo").await, left.map(owned));
    assert!(shown(&fixture, id).await.deleted.is_some());
    assert!(fixture.store.host_facts(id, None).await.unwrap().is_none());
    assert!(fixture.store.get_instance_with_manifest(id).await.unwrap().is_none());
}

fn owned((resource, in_use): (&str, i64)) -> (String, i64) {
    (resource.to_owned(), in_use)
}

async fn usage(fixture: &Fixture, project: &str) -> Vec<(String, i64)> {
    let rows = query("select resource, in_use from usage where project_id = $1 order by resource")
        .bind(project)
        .fetch_all(&fixture.store.read)
        .await
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn a_refused_quota_names_every_resource_and_counts_nothing_when_rolled_back() {
    let fixture = fixture().await;
    let limits = |resource| match resource {
        Resource::Instances => 0,
        Resource::Ram => 4096,
        Resource::Volumes => 1,
        Resource::Backups | Resource::Configurations => -1,
    };
    let amounts = Amounts::instance(512, 2);
    let mut tx = fixture.store.begin().await.unwrap();
    let error = fixture.store.take_quota(&mut tx, &project("demo"), amounts, limits).await.unwrap_err();
    drop(tx);
    assert_eq!(error.to_string(), "Quota exceeded for resources: ['instances', 'volumes'].");
    assert_eq!(usage(&fixture, "demo").await, []);
}

#[tokio::test]
async fn lists_are_paged_from_the_newest_on_and_show_one_project() {
    let fixture = fixture().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(fixture.insert("demo").await.to_string());
    }
    fixture.insert("other").await;
    let gone = fixture.insert("demo").await;
    write!(fixture, mark_deleted(gone));
    ids.reverse();
    let demo = project("demo");
    let first = fixture.store.list_instances(&demo, None, 2).await.unwrap();
    assert_eq!(first.iter().map(|instance| instance.id.to_string()).collect::<Vec<_>>(), ids[..2]);
    let rest = fixture.store.list_instances(&demo, Some(&ids[1]), 2).await.unwrap();
    assert_eq!(rest.iter().map(|instance| instance.id.to_string()).collect::<Vec<_>>(), ids[2..]);
    let gone = gone.to_string();
    assert_eq!(fixture.store.list_instances(&demo, Some(&gone), 9).await.unwrap().len(), 3, "it was the newest");
    assert!(fixture.store.list_instances(&project("other"), Some(&gone), 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_management_list_filters_and_starts_at_an_offset() {
    let fixture = fixture().await;
    let (old, new, other) = (fixture.insert("demo").await, fixture.insert("demo").await, fixture.insert("other").await);
    write!(fixture, mark_deleted(old));
    let list = async |project: Option<&ProjectId>, deleted, offset| {
        let found = fixture.store.list_all_instances(Filter { project, deleted }, offset, 10).await.unwrap();
        found.iter().map(|instance| instance.id).collect::<Vec<_>>()
    };
    assert_eq!(list(None, Deleted::Included, 0).await, [old, other, new], "last change first");
    assert_eq!(list(None, Deleted::Included, 1).await, [other, new]);
    assert_eq!(list(None, Deleted::Excluded, 0).await, [other, new]);
    assert_eq!(list(None, Deleted::Only, 0).await, [old]);
    assert_eq!(list(Some(&project("demo")), Deleted::Excluded, 0).await, [new]);
}

#[tokio::test]
async fn what_the_agent_said_is_joined() {
    let fixture = fixture().await;
    let id = fixture.insert("demo").await;
    let run = async |sql: &'static str| {
        query(sql).bind(id.to_string()).execute(&fixture.store.write).await.unwrap();
    };
    run("insert into agent (instance_id, service, service_detail, service_updated, engine_version, \
         volume_used_bytes, assignment_generation) values ($1, 'healthy', '', 5000000, '15.18', 77, 1)")
    .await;
    run("insert into agent_link (instance_id, controller_id, connected_at, lost_at) values ($1, 'one', 1, 7000000)")
        .await;
    let instance = shown(&fixture, id).await;
    assert_eq!((instance.service, instance.volume_used_bytes), (Service::Healthy, Some(77)));
    assert_eq!(instance.service_updated.unix_timestamp(), 5);
    assert_eq!(instance.heard, LastSeen::Last(from_micros(7_000_000)));
    run("insert into agent_link (instance_id, controller_id, connected_at, lost_at) values ($1, 'two', 1, null)").await;
    assert_eq!(shown(&fixture, id).await.heard, LastSeen::Now);
    assert_eq!(fixture.store.list_instances(&project("demo"), None, 9).await.unwrap().len(), 1, "a link adds no row");
}

#[tokio::test]
async fn a_rename_finds_only_what_the_caller_may_change() {
    let fixture = fixture().await;
    let id = fixture.insert("demo").await;
    assert!(
        !fixture
            .store
            .edit_instance(id, Some(&project("other")), &Edit { name: Some("x"), ..Edit::default() })
            .await
            .unwrap()
    );
    assert!(
        fixture
            .store
            .edit_instance(id, Some(&project("demo")), &Edit { name: Some("mine"), ..Edit::default() })
            .await
            .unwrap()
    );
    assert_eq!(shown(&fixture, id).await.name, "mine");
    assert!(fixture.store.edit_instance(id, None, &Edit { name: Some("any"), ..Edit::default() }).await.unwrap());
    write!(fixture, mark_deleted(id));
    assert!(!fixture.store.edit_instance(id, None, &Edit { name: Some("late"), ..Edit::default() }).await.unwrap());
}

#[tokio::test]
async fn no_token_is_left_of_an_instance_that_is_gone() {
    let fixture = fixture().await;
    let id = fixture.insert("demo").await;
    let hour = std::time::Duration::from_secs(3600);
    fixture.store.issue_token(id, 1, hour).await.unwrap();
    assert_eq!(fixture.store.number("select count(*) from enrolment_token").await, 1);
    write!(fixture, delete_agent(id));
    write!(fixture, mark_deleted(id));
    // A controller that had stalled comes back to making the host.
    fixture.store.issue_token(id, 1, hour).await.unwrap();
    assert_eq!(fixture.store.number("select count(*) from enrolment_token").await, 0);
}

#[tokio::test]
async fn a_server_has_a_number_that_no_other_has_had() {
    let fixture = fixture().await;
    let (first, second) = (fixture.new_row("demo"), fixture.new_row("other"));
    write!(fixture, insert_instance(&first));
    write!(fixture, insert_instance(&second));
    assert_eq!(write!(fixture, ensure_server_id(second.id)), 1);
    assert_eq!(write!(fixture, ensure_server_id(first.id)), 2);
    assert_eq!(write!(fixture, ensure_server_id(second.id)), 1, "it stays");
    write!(fixture, mark_deleted(first.id));
    let third = fixture.new_row("demo");
    write!(fixture, insert_instance(&third));
    assert_eq!(write!(fixture, ensure_server_id(third.id)), 3, "that of a deleted one is not given again");
}
