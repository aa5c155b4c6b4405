//! What was acknowledged is there after SIGKILL.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};
use trove_strategy::StartMode;

use crate::{bench, make_database, make_user};

const WRITERS: usize = 4;

#[tokio::test]
async fn each_document_that_was_acknowledged_survives_a_kill_under_writes() -> Result<()> {
    let Some(bench) = bench().await? else { return Ok(()) };
    let mut running = bench.start().await?;
    make_database(&bench.site, "one").await?;
    let app = make_user(&bench.site, "one.app", &["one"]).await?;
    let collection = app.database("one").collection::<Document>("texts");
    let written: &'static AtomicUsize = Box::leak(Box::default());
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let collection = collection.clone();
        writers.push(tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0_u32.. {
                let id = format!("{writer}-{number}");
                if collection.insert_one(doc! {"_id": &id}).await.is_err() {
                    break;
                }
                written.fetch_add(1, Ordering::Relaxed);
                acknowledged.push(id);
            }
            acknowledged
        }));
    }
    while written.load(Ordering::Relaxed) < 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.kill()?;
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await?);
    }
    running = bench.spawn(StartMode::Normal)?;
    bench.await_answer(&mut running).await?;
    let kept: Vec<Document> = collection.find(doc! {}).await?.try_collect().await?;
    let kept: std::collections::BTreeSet<&str> = kept.iter().filter_map(|text| text.get_str("_id").ok()).collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|id| !kept.contains(id.as_str())).collect();
    ensure!(acknowledged.len() >= 200 && lost.is_empty(), "lost {lost:?} of {}", acknowledged.len());
    running.stop(&bench).await
}
