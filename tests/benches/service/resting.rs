//! Measures an idle controller with a thousand instances: start time, CPU and memory.

use std::time::Instant;

use anyhow::Result;

use crate::requests::STORED;
use crate::service::Service;
use crate::table::{Row, Table, median, number};

const STARTS: usize = 10;
const TARGET_MIB: f64 = 60.0;

/// Starts the controller several times, and measures the last one while idle.
pub(crate) async fn measure(table: &mut Table, service: &mut Service) -> Result<()> {
    let mut seconds = Vec::new();
    for _ in 0..STARTS {
        // Registration of datastores runs after the start.
        service.settle().await?;
        service.stack.stop()?;
        let begun = Instant::now();
        service.stack.run(&trove_tests::Failpoints::default())?;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    let slowest = seconds.iter().copied().fold(0.0, f64::max);
    let how = format!("median of {STARTS}: from fork and exec to the line that it serves, {STORED} stored instances");
    let mut row = Row::new(format!("start, {}", service.kind), median(seconds), "s", how).at_most(0.3);
    row.aside = format!("the slowest {} s", number(slowest));
    table.add(row);
    service.login().await?;
    service.settle().await?;
    let how = format!("PSS (smaps_rollup), {STORED} stored instances, started and logged in to, at rest for a second");
    table.add(Row::new(format!("memory, {}", service.kind), service.memory_mib()?, "MiB", how).at_most(TARGET_MIB));
    Ok(())
}

/// Measures the memory after a load.
pub(crate) async fn measure_after(table: &mut Table, service: &Service) -> Result<()> {
    service.settle().await?;
    let how = "the same after all requests above";
    let figure = format!("memory after the load, {}", service.kind);
    table.add(Row::new(figure, service.memory_mib()?, "MiB", how));
    Ok(())
}
