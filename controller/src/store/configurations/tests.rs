use serde_json::json;

use super::*;
use crate::model::configurations::{AttachedConfiguration, ParameterState};
use crate::testing::store::{Fixture, fixture};

fn values(value: serde_json::Value) -> Values {
    serde_json::from_value(value).unwrap()
}

fn row(fixture: &Fixture, project: &str) -> NewRow {
    NewRow {
        id: ConfigurationId::random(),
        project: ProjectId(project.to_owned()),
        name: "tuned".to_owned(),
        description: None,
        version: fixture.version,
        values: values(json!({"max_connections": 100, "search_path": "\"$user\", public", "ratio": 0.5, "on": true})),
    }
}

async fn insert(fixture: &Fixture, project: &str) -> NewRow {
    let row = row(fixture, project);
    let mut tx = fixture.store.begin().await.unwrap();
    fixture.store.insert_configuration(&mut tx, &row).await.unwrap();
    tx.commit().await.unwrap();
    row
}

async fn attach(fixture: &Fixture, instance: InstanceId, configuration: Option<ConfigurationId>) {
    let mut tx = fixture.store.begin().await.unwrap();
    fixture.store.set_configuration(&mut tx, instance, configuration).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_group_is_read_back_whole_and_changed_in_place() {
    let fixture = fixture().await;
    let row = insert(&fixture, "p").await;
    let read = fixture.store.get_configuration(row.id).await.unwrap().unwrap();
    assert_eq!((&read.name, &read.description, &read.values), (&row.name, &None, &row.values));
    assert_eq!((read.project.0.as_str(), read.version_id, read.instances), ("p", fixture.version, 0));
    assert_eq!((read.datastore.as_str(), read.version.as_str()), ("enginedb", "15"));
    assert_eq!((read.version_number.as_str(), read.created), ("15.18", read.updated));

    let changed = Configuration {
        name: "other".to_owned(),
        description: Some("why".to_owned()),
        values: values(json!({"max_connections": 7})),
        ..read.clone()
    };
    let mut tx = fixture.store.begin().await.unwrap();
    fixture.store.change_configuration(&mut tx, &changed).await.unwrap();
    let inside = fixture.store.configuration(&mut tx, row.id).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    let again = fixture.store.get_configuration(row.id).await.unwrap().unwrap();
    assert_eq!(inside, again);
    assert_eq!(again, Configuration { updated: again.updated, ..changed });
    assert!(again.updated > read.updated);

    let mut tx = fixture.store.begin().await.unwrap();
    fixture.store.delete_configuration(&mut tx, row.id).await.unwrap();
    tx.commit().await.unwrap();
    assert!(fixture.store.get_configuration(row.id).await.unwrap().is_none());
}

#[tokio::test]
async fn groups_are_paged_by_id_of_one_project_or_all() {
    let fixture = fixture().await;
    let mut all = Vec::new();
    for project in ["p", "q", "p", "p"] {
        all.push(insert(&fixture, project).await);
    }
    all.sort_by_key(|row| row.id.to_string());
    let p = ProjectId("p".to_owned());
    let list = async |project: Option<&ProjectId>, marker: Option<&str>, limit| {
        let found = fixture.store.list_configurations(project, marker, limit).await.unwrap();
        found.into_iter().map(|found| found.id).collect::<Vec<_>>()
    };
    let of = |project: &str| all.iter().filter(|row| row.project.0 == project).map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(list(None, None, 9).await, all.iter().map(|row| row.id).collect::<Vec<_>>());
    assert_eq!(list(Some(&p), None, 2).await, of("p")[..2]);
    assert_eq!(list(Some(&p), Some(&of("p")[1].to_string()), 2).await, of("p")[2..]);
}

#[tokio::test]
async fn an_instance_wants_the_values_of_its_group_of_now() {
    let fixture = fixture().await;
    let (row, instance) = (insert(&fixture, "p").await, fixture.insert("p").await);
    let wanted = async || fixture.store.wanted_parameters(instance).await.unwrap();
    let shown = async || fixture.store.get_instance(instance).await.unwrap().unwrap();
    assert_eq!((wanted().await, shown().await.configuration), (Values::new(), None));
    attach(&fixture, instance, Some(row.id)).await;
    let attached = AttachedConfiguration { id: row.id, name: row.name.clone() };
    assert_eq!((wanted().await, shown().await.configuration), (row.values.clone(), Some(attached)));
    let listed = fixture.store.list_configuration_instances(row.id, None, 9).await.unwrap();
    assert_eq!((listed.len(), listed[0].instance, listed[0].task), (1, instance, Task::Building));
    let marker = instance.to_string();
    assert!(fixture.store.list_configuration_instances(row.id, Some(&marker), 9).await.unwrap().is_empty());
    assert_eq!(fixture.store.get_configuration(row.id).await.unwrap().unwrap().instances, 1);
    attach(&fixture, instance, None).await;
    assert_eq!((wanted().await, shown().await.configuration), (Values::new(), None));
}

#[tokio::test]
async fn what_became_of_values_is_read_back_and_makes_the_status() {
    let fixture = fixture().await;
    let instance = fixture.insert("p").await;
    let result = |state, reason: &str| ParameterResult { state, reason: reason.to_owned() };
    let results = BTreeMap::from([
        ("a".to_owned(), result(ParameterState::Live, "")),
        ("b".to_owned(), result(ParameterState::NeedsRestart, "")),
        ("c".to_owned(), result(ParameterState::Refused, "too \"large\"")),
    ]);
    for results in [&results, &BTreeMap::new()] {
        let mut tx = fixture.store.begin().await.unwrap();
        fixture.store.set_parameter_results(&mut tx, instance, results).await.unwrap();
        tx.commit().await.unwrap();
        let shown = fixture.store.get_instance(instance).await.unwrap().unwrap();
        assert_eq!(&shown.parameter_results, results);
    }
}

#[tokio::test]
async fn a_deleted_instance_holds_no_group() {
    let fixture = fixture().await;
    let (row, instance) = (insert(&fixture, "p").await, fixture.insert("p").await);
    attach(&fixture, instance, Some(row.id)).await;
    let mut tx = fixture.store.begin().await.unwrap();
    fixture.store.mark_deleted(&mut tx, instance).await.unwrap();
    assert!(fixture.store.attached_instances(&mut tx, row.id).await.unwrap().is_empty());
    assert!(fixture.store.remove_version(&mut tx, fixture.version).await.is_err(), "the group is of it");
    fixture.store.delete_configuration(&mut tx, row.id).await.unwrap();
    assert!(fixture.store.remove_version(&mut tx, fixture.version).await.unwrap());
    tx.commit().await.unwrap();
}
