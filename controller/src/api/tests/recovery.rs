//! Points in time over HTTP.

use std::time::Duration;

use time::OffsetDateTime;
use trove_strategy::Capability;

use super::*;
use crate::ids::{BackupId, ContainerId, InstanceId, ProjectId};
use crate::model::backups::StoredBackup;
use crate::model::logs::{LogContainer, LogPiece};

async fn ready() -> (Bench, InstanceId) {
    let bench = bench().await;
    let mut able = manifest();
    able.capabilities.extend([Capability::Backup, Capability::PointInTime]);
    register(&bench.world.app.store, &able).await;
    let id = bench.world.healthy("p").await;
    (bench, id)
}

fn path(id: InstanceId) -> String {
    format!("/v1.0/p/instances/{id}/recovery-window")
}

fn keep(seconds: &Value) -> Value {
    json!({"recovery_window": {"keep_seconds": seconds}})
}

fn message(answer: &Answer) -> String {
    let fault = answer.body.as_object().and_then(|body| body.values().next());
    fault.and_then(|fault| fault["message"].as_str()).unwrap_or_default().to_owned()
}

impl Bench {
    async fn put(&self, id: InstanceId, body: Value) -> Answer {
        self.ask(&self.member, "PUT", &path(id), Some(body)).await
    }

    async fn window(&self, id: InstanceId) -> Answer {
        self.ask(&self.member, "GET", &path(id), None).await
    }

    async fn restore(&self, point: Value) -> Answer {
        let order = json!({"instance": {"name": "n", "flavorRef": "1", "volume": {"size": 1}, "restorePoint": point}});
        self.ask(&self.member, "POST", "/v1.0/p/instances", Some(order)).await
    }

    /// A container with a piece, and a complete backup that was begun after it.
    async fn stored(&self, instance: InstanceId) -> BackupId {
        let store = &self.world.app.store;
        let (id, now) = (ContainerId::random(), store.now());
        let container = LogContainer {
            id,
            instance,
            project: ProjectId("p".to_owned()),
            number: 1,
            chain: id,
            recipient: "age1".to_owned(),
            identity: "x".to_owned(),
            begins: "a".to_owned(),
            ends: "a".to_owned(),
            covered: None,
            keep: Duration::from_secs(3600),
            pieces: 0,
            recorded: now,
            created: now,
        };
        let mut tx = store.begin().await.unwrap();
        store.insert_log_container(&mut tx, &container).await.unwrap();
        tx.commit().await.unwrap();
        let order = json!({"backup": {"name": "b1", "instance": instance.to_string()}});
        let made = self.ask(&self.member, "POST", "/v1.0/p/backups", Some(order)).await;
        let backup: BackupId = made.body["backup"]["id"].as_str().unwrap().parse().unwrap();
        let (run, manifest_sum) = ("00".to_owned(), "00".to_owned());
        let stored = StoredBackup {
            run,
            manifest_sum,
            data_bytes: 1,
            stored_bytes: 1,
            position: None,
            checkpoint: None,
            memory_bytes: None,
        };
        let piece = LogPiece {
            run: "0".repeat(32),
            object: 0,
            begins: "a".to_owned(),
            ends: "b".to_owned(),
            bytes: 10,
            sum: "00".repeat(32),
            data_bytes: 10,
        };
        let mut tx = store.begin().await.unwrap();
        assert!(store.complete_backup(&mut tx, backup, &stored).await.unwrap());
        store.insert_log_piece(&mut tx, &container, &piece).await.unwrap();
        let container = LogContainer { pieces: 1, ..container };
        store.cover_log(&mut tx, &container, now + Duration::from_secs(60)).await.unwrap();
        tx.commit().await.unwrap();
        let operation = made.headers["x-trove-operation-id"].to_str().unwrap().parse().unwrap();
        self.world.end(operation, "done", None).await;
        backup
    }
}

fn text(time: OffsetDateTime) -> String {
    time.format(&time::format_description::well_known::Rfc3339).unwrap()
}

#[tokio::test]
async fn what_is_kept_is_set_shown_and_ended() {
    let (bench, id) = ready().await;
    let nothing = json!({"recovery_window": {"keep_seconds": null, "ranges": [], "covered": null}});
    assert_eq!(bench.window(id).await.body, nothing);
    let set = bench.put(id, keep(&json!(7200))).await;
    assert_eq!((set.status, &set.body["recovery_window"]["keep_seconds"]), (StatusCode::OK, &json!(7200)));
    assert_eq!(bench.window(id).await.body, set.body);
    assert_eq!(bench.put(id, keep(&Value::Null)).await.body, nothing);
    for (body, named) in [
        (keep(&json!(3599)), "keep_seconds"),
        (keep(&json!(400_000_000)), "keep_seconds"),
        (keep(&json!("7d")), "keep_seconds"),
        (json!({"recovery_window": {}}), "keep_seconds"),
        (json!({}), "recovery_window"),
        (json!({"recovery_window": {"keep_seconds": 7200, "keep": 1}}), "keep"),
    ] {
        let refused = bench.put(id, body.clone()).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{body}: {}", refused.body);
        assert!(message(&refused).contains(named), "{body}: {}", refused.body);
    }
    assert_eq!(bench.window(id).await.body, nothing);
    let other = bench.world.healthy("other").await;
    assert_eq!(bench.window(other).await.status, StatusCode::NOT_FOUND);
    assert_eq!(bench.put(other, keep(&json!(7200))).await.status, StatusCode::NOT_FOUND);
    let mut unable = manifest();
    unable.capabilities.push(Capability::Backup);
    register(&bench.world.app.store, &unable).await;
    let refused = bench.put(id, keep(&json!(7200))).await;
    assert_eq!(refused.status, StatusCode::NOT_IMPLEMENTED, "{}", refused.body);
}

#[tokio::test]
async fn an_instance_is_ordered_as_another_was_within_its_window_alone() {
    let (bench, id) = ready().await;
    let early = bench.restore(json!({"instance": id})).await;
    assert_eq!(early.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(message(&early).contains("recovery-window"), "{}", early.body);
    bench.put(id, keep(&json!(7200))).await;
    let backup = bench.stored(id).await;
    let shown = bench.window(id).await.body["recovery_window"].clone();
    assert_eq!(shown["ranges"].as_array().map(Vec::len), Some(1), "{shown}");
    let (now, second) = (bench.world.app.store.now(), Duration::from_secs(1));
    for (point, status) in [
        (json!({"instance": id, "time": text(now - second * 60)}), 422),
        (json!({"instance": id, "time": text(now + second * 600)}), 422),
        (json!({"instance": id, "time": "yesterday"}), 400),
        (json!({"instance": id, "backupRef": backup.to_string()}), 400),
        (json!({"backupRef": backup.to_string(), "time": text(now)}), 400),
        (json!({"time": text(now)}), 400),
        (json!({}), 400),
        (json!({"instance": "nobody"}), 404),
        (json!({"instance": bench.world.healthy("other").await}), 404),
    ] {
        let refused = bench.restore(point.clone()).await;
        assert_eq!(refused.status.as_u16(), status, "{point}: {}", refused.body);
    }
    let made = bench.restore(json!({"instance": id, "time": text(now + second * 30)})).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.body);
    let operation = made.headers["x-trove-operation-id"].to_str().unwrap().parse().unwrap();
    let (kind, _, state) = bench.world.operation(operation).await;
    assert_eq!(kind, "restore_instance");
    assert!(state.contains(&backup.to_string()) && state.contains("\"chain\":\""), "{state}");
    // What an order reads is neither removed nor given up.
    assert_eq!(bench.ask(&bench.member, "DELETE", &format!("/v1.0/p/backups/{backup}"), None).await.status, 422);
    let store = &bench.world.app.store;
    store.change("update log_container set recorded = 0, number = 0, covered = null").await;
    store.change("delete from log_shipping").await;
    store.change("update backup set created = 0").await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(store.give_up_old_logs(&mut tx).await.unwrap(), 0);
    drop(tx);
    bench.world.end(operation, "done", None).await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(store.give_up_old_logs(&mut tx).await.unwrap(), 1);
}

#[tokio::test]
async fn root_that_was_enabled_after_the_backup_does_not_come_back_where_it_is_not_allowed() {
    let (bench, id) = ready().await;
    bench.put(id, keep(&json!(7200))).await;
    bench.stored(id).await;
    let store = &bench.world.app.store;
    for user in [Some("ann"), None] {
        let mut tx = store.begin().await.unwrap();
        store.set_root(&mut tx, id, user).await.unwrap();
        tx.commit().await.unwrap();
        let refused = bench.restore(json!({"instance": id})).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{user:?}: {}", refused.body);
        assert!(message(&refused).contains("allow_root"), "{}", refused.body);
    }
}
