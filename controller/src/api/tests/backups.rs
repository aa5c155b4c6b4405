//! Backups, their strategies and their schedules over HTTP.

use trove_strategy::Capability;

use super::*;
use crate::ids::{BackupId, InstanceId};
use crate::model::backups::StoredBackup;

const BACKUPS: &str = "/v1.0/p/backups";
const STRATEGIES: &str = "/v1.0/p/backup_strategies";
const SCHEDULES: &str = "/v1.0/p/backup_schedules";

async fn ready() -> (Bench, InstanceId) {
    let bench = bench().await;
    let mut able = manifest();
    able.capabilities.push(Capability::Backup);
    register(&bench.world.app.store, &able).await;
    let id = bench.world.healthy("p").await;
    (bench, id)
}

impl Bench {
    async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(&self.member, "POST", path, Some(body)).await
    }

    /// Takes a backup to its end, as its operation does; its id.
    async fn backed_up(&self, instance: InstanceId) -> BackupId {
        let order = json!({"backup": {"name": "b1", "instance": instance.to_string()}});
        let made = self.post(BACKUPS, order).await;
        assert_eq!(made.status, StatusCode::ACCEPTED, "{}", made.body);
        let id: BackupId = made.body["backup"]["id"].as_str().unwrap().parse().unwrap();
        let (run, manifest_sum) = ("00".to_owned(), "00".to_owned());
        let stored = StoredBackup {
            run,
            manifest_sum,
            data_bytes: 118_111_601,
            stored_bytes: 1,
            position: None,
            checkpoint: None,
            memory_bytes: None,
        };
        let mut tx = self.world.app.store.begin().await.unwrap();
        assert!(self.world.app.store.complete_backup(&mut tx, id, &stored).await.unwrap());
        tx.commit().await.unwrap();
        let operation = made.headers["x-trove-operation-id"].to_str().unwrap().parse().unwrap();
        self.world.end(operation, "done", None).await;
        id
    }
}

fn message(answer: &Answer) -> String {
    let fault = answer.body.as_object().and_then(|body| body.values().next());
    fault.and_then(|fault| fault["message"].as_str()).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_backup_has_the_shape_that_clients_read() {
    let (bench, instance) = ready().await;
    let order = json!({"backup": {
        "name": "b1", "instance": format!("http://h/v1.0/p/instances/{instance}"), "description": "before the sale",
        "incremental": 0, "swift_container": "c", "storage_driver": "swift"}});
    let made = bench.post(BACKUPS, order).await;
    assert_eq!(made.status, StatusCode::ACCEPTED, "{}", made.body);
    assert!(made.headers.contains_key("x-trove-operation-id"));
    let backup = &made.body["backup"];
    let id = backup["id"].as_str().unwrap();
    let version = bench.world.fixture.version.to_string();
    let expected = json!({
        "id": id, "name": "b1", "description": "before the sale", "locationRef": null, "instance_id": instance.to_string(),
        "created": backup["created"], "updated": backup["updated"], "size": null, "status": "NEW", "parent_id": null,
        "project_id": "p", "datastore": {"type": "enginedb", "version": "15", "version_id": version},
        "verification": {"state": "none", "at": null, "fault": null}});
    assert_eq!(*backup, expected);
    assert_eq!(backup["created"].as_str().unwrap().len(), 19);
    let path = format!("{BACKUPS}/{id}");
    assert_eq!(bench.get(&path).await.body, made.body);
    let shown = bench.get(&format!("/v1.0/p/instances/{instance}")).await.body;
    assert_eq!(
        (&shown["instance"]["status"], &shown["instance"]["operating_status"]),
        (&json!("BACKUP"), &json!("HEALTHY"))
    );
    assert_eq!(bench.ask(&bench.member, "DELETE", &path, None).await.status, 422);
    let quotas = bench.get("/v1.0/p/mgmt/quotas/p").await.body;
    assert_eq!((&quotas["quotas"][3]["resource"], &quotas["quotas"][3]["in_use"]), (&json!("backups"), &json!(1)));
}

#[tokio::test]
async fn a_complete_backup_is_listed_restored_and_deleted() {
    let (bench, instance) = ready().await;
    let (first, second) = (bench.backed_up(instance).await, bench.backed_up(instance).await);
    let shown = bench.get(&format!("{BACKUPS}/{first}")).await.body["backup"].clone();
    assert_eq!((&shown["status"], &shown["size"]), (&json!("COMPLETED"), &json!(0.12)));
    assert_eq!(shown["locationRef"], format!("trove-backup://{first}/00/manifest.json"));
    let ids = |answer: &Answer| -> Vec<String> {
        let backups = answer.body["backups"].as_array().unwrap();
        backups.iter().map(|backup| backup["id"].as_str().unwrap().to_owned()).collect()
    };
    let (first, second) = (first.to_string(), second.to_string());
    for (path, expected) in [
        (format!("{BACKUPS}?all_projects=False"), vec![&second, &first]),
        (format!("/v1.0/p/instances/{instance}/backups"), vec![&second, &first]),
        (format!("{BACKUPS}?instance_id={instance}&datastore=enginedb"), vec![&second, &first]),
        (format!("{BACKUPS}?instance_id={}", InstanceId::random()), vec![]),
        (format!("{BACKUPS}?limit=1"), vec![&second]),
        (format!("{BACKUPS}?limit=1&marker=1"), vec![&first]),
        (format!("{BACKUPS}?marker=2"), vec![]),
    ] {
        let listed = bench.get(&path).await;
        assert_eq!(ids(&listed).iter().collect::<Vec<_>>(), expected, "{path}");
        assert_eq!(listed.body.get("links").is_some(), path.contains("limit=1"), "{path}");
    }
    assert_eq!(bench.get(&format!("{BACKUPS}?marker={first}")).await.status, 400);
    assert_eq!(bench.get(&format!("{BACKUPS}?all_projects=True")).await.status, 403);
    assert_eq!(bench.get(&format!("{BACKUPS}?project_id=q")).await.status, 403);
    let all = bench.ask(&bench.admin, "GET", "/v1.0/a/backups?all_projects=True", None).await;
    assert_eq!(ids(&all).len(), 2);
    assert!(ids(&bench.ask(&bench.admin, "GET", "/v1.0/a/backups", None).await).is_empty());

    let order =
        json!({"instance": {"name": "n", "flavorRef": 1, "volume": {"size": 1}, "restorePoint": {"backupRef": first}}});
    let restored = bench.post("/v1.0/p/instances", order).await;
    assert_eq!(restored.status, StatusCode::OK, "{}", restored.body);
    assert_eq!(restored.body["instance"]["status"], "BUILD");
    assert_eq!(bench.ask(&bench.member, "DELETE", &format!("{BACKUPS}/{first}"), None).await.status, 422);

    let path = format!("{BACKUPS}/{second}");
    assert_eq!(bench.ask(&bench.reader, "DELETE", &path, None).await.status, StatusCode::FORBIDDEN);
    let deleted = bench.ask(&bench.member, "DELETE", &path, None).await;
    assert_eq!((deleted.status, &deleted.body), (StatusCode::ACCEPTED, &Value::Null));
    assert_eq!(bench.get(&path).await.body["backup"]["status"], "DELETING");
    assert_eq!(bench.get(&format!("{BACKUPS}/no-id")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_changes_nothing() {
    let (bench, instance) = ready().await;
    let before = bench.world.rows().await;
    let (name, instance) = (json!("b"), json!(instance.to_string()));
    for (backup, status, sentence) in [
        (json!(null), 400, "backup is required"),
        (json!({"instance": instance}), 400, "backup['name'] is required"),
        (json!({"name": "", "instance": instance}), 400, "backup['name'] must have 1 to 255 characters"),
        (json!({"name": name}), 400, "backup['instance'] is required"),
        (json!({"name": name, "instance": "x"}), 404, "Instance \"x\""),
        (json!({"name": name, "instance": instance, "description": 5}), 400, "backup['description'] must be a string"),
        (json!({"name": name, "instance": instance, "incremental": 2}), 400, "backup['incremental'] must be 0 or 1"),
        (json!({"name": name, "instance": instance, "incremental": 1}), 422, "no incremental backups"),
        (json!({"name": name, "instance": instance, "parent_id": BackupId::random()}), 422, "no incremental backups"),
        (json!({"name": name, "instance": instance, "storage_driver": "cinder"}), 501, "\"cinder\""),
        (json!({"name": name, "restore_from": {"remote_location": "http://h"}}), 501, "restore_from"),
        (json!({"name": name, "instance": instance, "colour": 1}), 400, "backup['colour'] is not known here"),
    ] {
        let body = json!({"backup": backup});
        let refused = bench.post(BACKUPS, body.clone()).await;
        let said = message(&refused);
        assert_eq!(refused.status.as_u16(), status, "{body}: {said}");
        assert!(said.contains(sentence), "{body}: {said}");
    }
    register(&bench.world.app.store, &manifest()).await;
    let refused = bench.post(BACKUPS, json!({"backup": {"name": name, "instance": instance}})).await;
    assert_eq!(refused.status, StatusCode::NOT_IMPLEMENTED, "{}", refused.body);
    assert_eq!(bench.world.rows().await, before);
}

#[tokio::test]
async fn strategies_are_kept_for_clients_that_set_them() {
    let (bench, instance) = ready().await;
    let all = json!({"backup_strategy": {"swift_container": "all", "instance_id": ""}});
    let made = bench.post(STRATEGIES, all).await;
    assert_eq!(made.status, StatusCode::ACCEPTED);
    let view = json!({"project_id": "p", "instance_id": "", "backend": "swift", "swift_container": "all"});
    assert_eq!(made.body, json!({"backup_strategy": view}));
    let one = json!({"backup_strategy": {"swift_container": "one", "instance_id": instance.to_string()}});
    assert_eq!(bench.post(STRATEGIES, one).await.status, StatusCode::ACCEPTED);
    let listed = bench.get(STRATEGIES).await.body;
    assert_eq!(listed["backup_strategies"].as_array().unwrap().len(), 2);
    assert_eq!(listed["backup_strategies"][0], view);
    let listed = bench.get(&format!("{STRATEGIES}?instance_id={instance}")).await.body;
    assert_eq!(listed["backup_strategies"][0]["swift_container"], "one");
    assert_eq!(bench.get(&format!("{STRATEGIES}?project_id=q")).await.status, StatusCode::FORBIDDEN);
    for (strategy, status) in [
        (json!({}), 400),
        (json!({"swift_container": "c", "colour": 1}), 400),
        (json!({"swift_container": "c", "instance_id": "x"}), 404),
        (json!({"swift_container": "c", "instance_id": InstanceId::random()}), 404),
    ] {
        let refused = bench.post(STRATEGIES, json!({"backup_strategy": strategy})).await;
        assert_eq!(refused.status.as_u16(), status, "{}", refused.body);
    }
    for _ in 0..2 {
        assert_eq!(bench.ask(&bench.member, "DELETE", STRATEGIES, None).await.status, StatusCode::ACCEPTED);
        assert_eq!(bench.get(STRATEGIES).await.body["backup_strategies"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_schedule_is_made_listed_changed_and_deleted() {
    let (bench, instance) = ready().await;
    let order = |field: &str, when: Value| {
        let keep = json!({"count": 10, "seconds": 604_800});
        json!({"backup_schedule": {"instance": format!("http://h/v1.0/p/instances/{instance}"), "keep": keep, field: when}})
    };
    let made = bench.post(SCHEDULES, order("cron", json!("0 3 * * *"))).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.body);
    let view = made.body["backup_schedule"].clone();
    let id = view["id"].as_str().unwrap().to_owned();
    let expected = json!({
        "id": id, "project_id": "p", "instance_id": instance.to_string(), "cron": "0 3 * * *", "interval_seconds": null,
        "keep": {"count": 10, "seconds": 604_800}, "paused": false, "next_due": view["next_due"], "last_run": null,
        "last_backup_id": null, "fault": null, "verify_seconds": 604_800, "last_verification": null, "full_every_seconds": 0, "created": view["created"], "updated": view["updated"]});
    assert_eq!(view, expected);
    assert!(view["next_due"].as_str().unwrap().contains("T03:0"), "{view}");
    let path = format!("{SCHEDULES}/{id}");
    assert_eq!(bench.get(&path).await.body, made.body);
    assert_eq!(bench.post(SCHEDULES, order("interval_seconds", json!(3600))).await.status, StatusCode::OK);

    let listed = |answer: &Answer| answer.body["backup_schedules"].as_array().map(Vec::len);
    for (query, count) in [
        ("", 2),
        ("?limit=1", 1),
        (&*format!("?instance_id={instance}"), 2),
        (&*format!("?instance_id={}", InstanceId::random()), 0),
    ] {
        let found = bench.get(&format!("{SCHEDULES}{query}")).await;
        assert_eq!(
            (listed(&found), found.body.get("links").is_some()),
            (Some(count), query.contains("limit")),
            "{query}"
        );
    }
    for query in ["?all_projects=True", "?project_id=q"] {
        assert_eq!(bench.get(&format!("{SCHEDULES}{query}")).await.status, StatusCode::FORBIDDEN);
    }
    let all = bench.ask(&bench.admin, "GET", "/v1.0/a/backup_schedules?all_projects=True", None).await;
    assert_eq!(listed(&all), Some(2));
    assert_eq!(listed(&bench.ask(&bench.admin, "GET", "/v1.0/a/backup_schedules", None).await), Some(0));

    let change =
        async |change: Value| bench.ask(&bench.member, "PATCH", &path, Some(json!({"backup_schedule": change}))).await;
    let paused = change(json!({"paused": true, "keep": {"count": 1}})).await.body["backup_schedule"].clone();
    assert_eq!((&paused["paused"], &paused["next_due"]), (&json!(true), &Value::Null), "{paused}");
    assert_eq!(paused["keep"], json!({"count": 1, "seconds": null}));
    let resumed = change(json!({"paused": false, "interval_seconds": 7200})).await.body["backup_schedule"].clone();
    assert_eq!((&resumed["cron"], &resumed["interval_seconds"]), (&Value::Null, &json!(7200)));
    assert!(resumed["next_due"].is_string(), "{resumed}");
    let off = change(json!({"verify_seconds": 0})).await.body["backup_schedule"].clone();
    assert_eq!((&off["verify_seconds"], &off["keep"]), (&json!(0), &resumed["keep"]));
    let failed = "update backup_schedule set verification = 'failed', verification_backup_id = id, verification_at = 1, \
         verification_fault = 'open /var/lib/x/segment: no space' where id = $1";
    bench.world.run(failed, &id).await;
    let last = bench.get(&path).await.body["backup_schedule"]["last_verification"].clone();
    let expected = json!({"backup_id": id, "state": "failed", "at": last["at"], "fault": "open segment: no space"});
    assert_eq!(last, expected);

    for verb in ["PATCH", "DELETE"] {
        let body = (verb == "PATCH").then(|| json!({"backup_schedule": {"paused": true}}));
        assert_eq!(bench.ask(&bench.reader, verb, &path, body).await.status, StatusCode::FORBIDDEN, "{verb}");
    }
    assert_eq!(bench.ask(&bench.reader, "GET", &path, None).await.status, StatusCode::OK);
    let deleted = bench.ask(&bench.member, "DELETE", &path, None).await;
    assert_eq!((deleted.status, &deleted.body), (StatusCode::NO_CONTENT, &Value::Null));
    for path in [&path, &format!("{SCHEDULES}/no-id")] {
        assert_eq!(bench.get(path).await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_schedule_is_named_and_changes_nothing() {
    let (bench, instance) = ready().await;
    let (cron, keep, instance) = (json!("0 3 * * *"), json!({"count": 1}), json!(instance.to_string()));
    let made =
        bench.post(SCHEDULES, json!({"backup_schedule": {"instance": instance, "cron": cron, "keep": keep}})).await;
    let path = format!("{SCHEDULES}/{}", made.body["backup_schedule"]["id"].as_str().unwrap());
    let before = bench.world.rows().await;
    for (schedule, status, sentence) in [
        (json!({"cron": cron, "keep": keep}), 400, "backup_schedule['instance'] is required"),
        (json!({"instance": "x", "cron": cron, "keep": keep}), 404, "Instance \"x\""),
        (json!({"instance": instance, "keep": keep}), 400, "backup_schedule needs cron or interval_seconds"),
        (json!({"instance": instance, "cron": cron}), 400, "backup_schedule['keep'] is required"),
        (
            json!({"instance": instance, "cron": cron, "keep": {}}),
            400,
            "backup_schedule['keep'] needs count or seconds",
        ),
        (
            json!({"instance": instance, "cron": cron, "keep": {"count": 0}}),
            400,
            "backup_schedule['keep']['count'] must",
        ),
        (
            json!({"instance": instance, "cron": cron, "keep": {"days": 1}}),
            400,
            "backup_schedule['keep']['days'] is not known",
        ),
        (
            json!({"instance": instance, "cron": "at three", "keep": keep}),
            400,
            "backup_schedule['cron'] must be a cron",
        ),
        (json!({"instance": instance, "cron": 3, "keep": keep}), 400, "backup_schedule['cron'] must be a string"),
        (
            json!({"instance": instance, "interval_seconds": 60, "keep": keep}),
            400,
            "backup_schedule['interval_seconds'] must be from 900",
        ),
        (
            json!({"instance": instance, "interval_seconds": "6h", "keep": keep}),
            400,
            "backup_schedule['interval_seconds'] must be",
        ),
    ] {
        let body = json!({"backup_schedule": schedule});
        let refused = bench.post(SCHEDULES, body.clone()).await;
        let said = message(&refused);
        assert_eq!(refused.status.as_u16(), status, "{body}: {said}");
        assert!(said.contains(sentence), "{body}: {said}");
    }
    for (change, sentence) in [
        (json!({}), "backup_schedule needs cron, interval_seconds, full_every_seconds, keep, verify_seconds or paused"),
        (json!({"verify_seconds": 60}), "backup_schedule['verify_seconds'] must be 0 (never) or from 900"),
        (json!({"verify_seconds": "7d"}), "backup_schedule['verify_seconds'] must be"),
        (json!({"cron": "0 0 31 2 *"}), "backup_schedule['cron'] must come at some time"),
        (json!({"instance": instance}), "backup_schedule['instance'] is not known here"),
    ] {
        let body = json!({"backup_schedule": change});
        let refused = bench.ask(&bench.member, "PATCH", &path, Some(body)).await;
        assert!(refused.status == 400 && message(&refused).contains(sentence), "{}", refused.body);
    }
    assert_eq!(bench.world.rows().await, before);
    assert_eq!(bench.get(&path).await.body, made.body);
}

#[tokio::test]
async fn a_verification_is_asked_for_watched_and_shown() {
    let (bench, instance) = ready().await;
    let id = bench.backed_up(instance).await;
    let (path, action) = (format!("{BACKUPS}/{id}"), format!("{BACKUPS}/{id}/action"));
    for (body, status, sentence) in [
        (json!({}), 400, "the action must be verify"),
        (json!({"verify": 5}), 400, "verify"),
        (json!({"verify": {}, "colour": 1}), 400, "colour"),
    ] {
        let refused = bench.post(&action, body.clone()).await;
        assert_eq!(refused.status.as_u16(), status, "{body}: {}", refused.body);
        assert!(message(&refused).contains(sentence), "{body}: {}", refused.body);
    }
    let refused = bench.ask(&bench.reader, "POST", &action, Some(json!({"verify": {}}))).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let missing = format!("{BACKUPS}/{}/action", BackupId::random());
    assert_eq!(bench.post(&missing, json!({"verify": {}})).await.status, StatusCode::NOT_FOUND);

    let asked = bench.post(&action, json!({"verify": null})).await;
    assert_eq!((asked.status, &asked.body), (StatusCode::ACCEPTED, &Value::Null));
    let operation = asked.headers["x-trove-operation-id"].to_str().unwrap().to_owned();
    let shown = bench.get(&path).await.body["backup"]["verification"].clone();
    assert_eq!((&shown["state"], &shown["fault"]), (&json!("running"), &Value::Null));
    assert_eq!(shown["at"].as_str().unwrap().len(), 19);
    assert_eq!(bench.post(&action, json!({"verify": {}})).await.status, StatusCode::CONFLICT);
    assert_eq!(bench.ask(&bench.member, "DELETE", &path, None).await.status, 422);
    let listed = bench.get(&format!("{path}/operations")).await.body;
    assert_eq!(
        (&listed["operations"][0]["id"], &listed["operations"][0]["kind"]),
        (&json!(operation), &json!("verify_backup"))
    );
    let instances = bench.get("/v1.0/p/instances").await.body;
    assert_eq!(instances["instances"].as_array().unwrap().len(), 1, "{instances}");
    let all = bench.ask(&bench.admin, "GET", "/v1.0/a/mgmt/instances?deleted=false", None).await.body;
    let purposes: Vec<&Value> = all["instances"].as_array().unwrap().iter().map(|found| &found["purpose"]).collect();
    assert_eq!(purposes, [&json!("verification"), &Value::Null]);

    let store = &bench.world.app.store;
    let mut tx = store.begin().await.unwrap();
    let fault = "The verification failed at check: open /var/lib/secret/file: no";
    store.end_verification(&mut tx, operation.parse().unwrap(), Some(fault)).await.unwrap();
    tx.commit().await.unwrap();
    let shown = bench.get(&path).await.body["backup"]["verification"].clone();
    assert_eq!(shown["state"], "failed");
    assert_eq!(shown["fault"], "The verification failed at check: open file: no");
}
