//! A server with a writer that notes when each row was begun and acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use trove_conformance::Bench;

use super::{Shipped, as_root, plain, taken, texts};

/// A row: its number, and when it was begun and acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) number: usize,
    pub(crate) begun: SystemTime,
    pub(crate) acknowledged: SystemTime,
}

/// Writes until it is told to stop.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    rows: JoinHandle<Result<Vec<Row>>>,
}

impl Writer {
    /// From this number on.
    pub(crate) fn start(client: Client, from: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let rows = tokio::spawn(async move {
            client.batch_execute("create table if not exists ledger (number int, filler text)").await?;
            let mut rows = Vec::new();
            while !told.load(Ordering::Relaxed) {
                let (number, begun) = (from + rows.len(), SystemTime::now());
                let sql = format!("insert into ledger values ({number}, repeat('x', 500))");
                client.batch_execute(&sql).await?;
                rows.push(Row { number, begun, acknowledged: SystemTime::now() });
            }
            Ok(rows)
        });
        Self { stop, rows }
    }

    pub(crate) async fn stop(self) -> Result<Vec<Row>> {
        self.stop.store(true, Ordering::Relaxed);
        self.rows.await?
    }
}

/// A backup that was taken while rows were written, and the log from before it to the end.
pub(crate) struct Ledger {
    pub(crate) backup: Vec<u8>,
    pub(crate) shipped: Shipped,
    pub(crate) rows: Vec<Row>,
    /// Before the backup was begun; rows had been written.
    pub(crate) before: SystemTime,
    /// Between two closes.
    pub(crate) middle: SystemTime,
    /// Before the last close.
    pub(crate) closing: SystemTime,
}

/// A while in which rows are written.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}

impl Ledger {
    /// Of a server that runs.
    pub(crate) async fn write(bench: &Bench<'_>, from: usize) -> Result<Self> {
        let site = &bench.site;
        let mut shipped = Shipped::begin(site).await?;
        let writer = Writer::start(as_root(site).await?, from);
        pause().await;
        let before = SystemTime::now();
        pause().await;
        let backup = taken(site).await?;
        let mut middle = before;
        for round in 0..4 {
            pause().await;
            shipped.ship(site).await.map_err(plain)?;
            pause().await;
            if round == 1 {
                middle = SystemTime::now();
            }
        }
        let closing = SystemTime::now();
        shipped.ship(site).await.map_err(plain)?;
        let rows = writer.stop().await?;
        ensure!(shipped.pieces.len() >= 5, "{} pieces", shipped.pieces.len());
        Ok(Self { backup, shipped, rows, before, middle, closing })
    }

    /// What came back is every row that was acknowledged by then, and none that was begun later.
    pub(crate) async fn is_as_of(&self, client: &Client, time: SystemTime, later: bool) -> Result<()> {
        let found = texts(client, "select number from ledger order by number").await?;
        let found: Vec<usize> = found.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        let first = self.rows.first().context("nothing was written")?.number;
        let found: Vec<usize> = found.into_iter().filter(|number| *number >= first).collect();
        for row in &self.rows {
            let is_there = found.binary_search(&row.number).is_ok();
            ensure!(is_there || row.acknowledged > time, "{row:?} of {:?} is gone", self.rows.len());
            ensure!(!is_there || later || row.begun <= time, "{row:?} came back, of later than {time:?}");
        }
        ensure!(found.iter().zip(first..).all(|(number, expected)| *number == expected), "rows are missing between");
        Ok(())
    }
}
