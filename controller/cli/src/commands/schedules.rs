//! Schedules of backups.

use std::time::Duration;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{Session, instances};
use crate::error::Result;
use crate::output::Column;

/// What can be done with schedules of backups.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Have backups of an instance taken by themselves.
    Create(Order),
    /// List schedules.
    List {
        /// Those of one instance, by name or id.
        #[arg(long)]
        instance: Option<String>,
        /// Those of all projects; for administrators.
        #[arg(long)]
        all_projects: bool,
    },
    /// Show a schedule: when it is due next, and what became of the last backup and of the last verification.
    Show {
        /// By id, or by the name or id of its instance if that has no other.
        schedule: String,
    },
    /// Change when a schedule is due, what it keeps or how often it is verified, or let it rest.
    Update(Change),
    /// Delete a schedule. Its backups stay.
    Delete {
        /// By id, or by the name or id of its instance if that has no other.
        schedule: String,
    },
}

/// What is kept. The newest complete backup is kept in any case.
#[derive(Args)]
pub(crate) struct Kept {
    /// Keep backups for this long: 7d, 36h.
    #[arg(long, value_name = "TIME", value_parser = whole_seconds)]
    keep: Option<Duration>,
    /// Keep at most so many.
    #[arg(long, value_name = "NUMBER")]
    keep_count: Option<u32>,
}

/// A schedule to be made.
#[derive(Args)]
#[command(
    group = clap::ArgGroup::new("rhythm").args(["cron", "every"]).required(true),
    group = clap::ArgGroup::new("bounds").args(["keep", "keep_count"]).required(true).multiple(true),
    after_help = "Examples:\n  trovectl backup schedule create db1 --cron '0 3 * * *' --keep 7d\n  trovectl backup schedule create \
        db1 --every 6h --keep-count 10 --keep 30d\n  trovectl backup schedule create db1 --every 1h --full-every 1d --keep 7d"
)]
pub(crate) struct Order {
    /// The instance, by name or id.
    instance: String,
    /// When, by five fields (minute, hour, day, month, day of the week), UTC.
    #[arg(long, value_name = "EXPRESSION")]
    cron: Option<String>,
    /// How often: 6h, 1d.
    #[arg(long, value_name = "TIME", value_parser = whole_seconds)]
    every: Option<Duration>,
    /// Take a full backup once in this time, and increments on it between, where the datastore has them: 7d, or off (the default).
    #[arg(long, value_name = "TIME", value_parser = whole_seconds_or_off)]
    full_every: Option<Duration>,
    #[command(flatten)]
    kept: Kept,
    /// How often one of the backups is verified: 7d (the default), or off.
    #[arg(long, value_name = "TIME", value_parser = whole_seconds_or_off)]
    verify: Option<Duration>,
}

/// A change of a schedule. What it says of keeping takes the place of both bounds.
#[derive(Args)]
#[command(
    group = clap::ArgGroup::new("rhythm").args(["cron", "every"]),
    group = clap::ArgGroup::new("rest").args(["pause", "resume"]),
    group = clap::ArgGroup::new("change").args(["cron", "every", "full_every", "keep", "keep_count", "verify", "pause", "resume"]).required(true).multiple(true),
    after_help = "Examples:\n  trovectl backup schedule update db1 --keep 14d --keep-count 20\n  trovectl backup schedule update db1 \
        --pause\n  trovectl backup schedule update db1 --verify 1d"
)]
pub(crate) struct Change {
    /// By id, or by the name or id of its instance if that has no other.
    schedule: String,
    /// When, by five fields, UTC.
    #[arg(long, value_name = "EXPRESSION")]
    cron: Option<String>,
    /// How often: 6h, 1d.
    #[arg(long, value_name = "TIME", value_parser = whole_seconds)]
    every: Option<Duration>,
    /// Take a full backup once in this time, and increments on it between: 7d, or off.
    #[arg(long, value_name = "TIME", value_parser = whole_seconds_or_off)]
    full_every: Option<Duration>,
    #[command(flatten)]
    kept: Kept,
    /// How often one of the backups is verified: 7d, or off.
    #[arg(long, value_name = "TIME", value_parser = whole_seconds_or_off)]
    verify: Option<Duration>,
    /// Take, remove and verify nothing until it is resumed.
    #[arg(long)]
    pause: bool,
    /// Go on, with the next time that is still to come.
    #[arg(long)]
    resume: bool,
}

const LIST: &[Column] = &[
    ("ID", "id"),
    ("INSTANCE", "instance_id"),
    ("CRON", "cron"),
    ("EVERY S", "interval_seconds"),
    ("KEEP", "keep.count"),
    ("KEEP S", "keep.seconds"),
    ("PAUSED", "paused"),
    ("NEXT DUE", "next_due"),
    ("VERIFIED", "last_verification.state"),
    ("FAULT", "fault"),
];

const SHOW: &[Column] = &[
    ("ID", "id"),
    ("INSTANCE", "instance_id"),
    ("CRON", "cron"),
    ("EVERY S", "interval_seconds"),
    ("FULL EVERY S", "full_every_seconds"),
    ("KEEP", "keep.count"),
    ("KEEP S", "keep.seconds"),
    ("PAUSED", "paused"),
    ("NEXT DUE", "next_due"),
    ("LAST RUN", "last_run"),
    ("LAST BACKUP", "last_backup_id"),
    ("FAULT", "fault"),
    ("VERIFY S", "verify_seconds"),
    ("VERIFIED", "last_verification.state"),
    ("VERIFIED AT", "last_verification.at"),
    ("VERIFIED BACKUP", "last_verification.backup_id"),
    ("VERIFICATION FAULT", "last_verification.fault"),
    ("CREATED", "created"),
    ("UPDATED", "updated"),
];

/// A time such as `7d`.
pub(super) fn whole_seconds(text: &str) -> std::result::Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write 7d, 6h or 90min"))?;
    if time.is_zero() || time.subsec_nanos() > 0 {
        return Err("must be whole seconds, from 1".to_owned());
    }
    Ok(time)
}

/// The same, or `off`, which is zero.
fn whole_seconds_or_off(text: &str) -> std::result::Result<Duration, String> {
    if text == "off" { Ok(Duration::ZERO) } else { whole_seconds(text).map_err(|error| format!("{error}, or off")) }
}

/// Does it.
pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<()> {
    match verb {
        Verb::Create(order) => create(session, &order).await,
        Verb::List { instance, all_projects } => {
            let mut query = vec![format!("all_projects={all_projects}")];
            if let Some(instance) = instance {
                query.push(format!("instance_id={}", instances::id(session, &instance).await?));
            }
            let path = format!("/backup_schedules?{}", query.join("&"));
            let list = session.api.list("list the backup schedules", &path, "backup_schedules").await?;
            session.output.list(&list, LIST)
        }
        Verb::Show { schedule } => {
            let found = session.api.find_schedule(&schedule).await?;
            session.output.one(&found, SHOW)
        }
        Verb::Update(change) => update(session, &change).await,
        Verb::Delete { schedule } => {
            let found = session.api.find_schedule(&schedule).await?;
            let what = format!("delete the backup schedule {schedule}");
            session.api.send(&what, Method::DELETE, &path(&found), None).await?;
            session.output.remark("Deleted. Its backups stay until they are deleted.");
            Ok(())
        }
    }
}

fn path(schedule: &Value) -> String {
    format!("/backup_schedules/{}", schedule["id"].as_str().unwrap_or_default())
}

/// The parts of a body that say when a schedule is due, what it keeps and how often.
fn parts(cron: Option<&str>, kept: &Kept, times: [(&str, Option<Duration>); 3]) -> Map<String, Value> {
    let mut parts = Map::new();
    if let Some(cron) = cron {
        parts.insert("cron".to_owned(), cron.into());
    }
    if kept.keep.is_some() || kept.keep_count.is_some() {
        let seconds = kept.keep.map(|keep| keep.as_secs());
        parts.insert("keep".to_owned(), json!({"count": kept.keep_count, "seconds": seconds}));
    }
    for (name, time) in times {
        if let Some(time) = time {
            parts.insert(name.to_owned(), time.as_secs().into());
        }
    }
    parts
}

/// The intervals by their names in a body.
fn times(
    every: Option<Duration>,
    full: Option<Duration>,
    verify: Option<Duration>,
) -> [(&'static str, Option<Duration>); 3] {
    [("interval_seconds", every), ("full_every_seconds", full), ("verify_seconds", verify)]
}

async fn create(session: &mut Session, order: &Order) -> Result<()> {
    let instance = instances::id(session, &order.instance).await?;
    let mut body = parts(order.cron.as_deref(), &order.kept, times(order.every, order.full_every, order.verify));
    body.insert("instance".to_owned(), instance.into());
    let what = format!("schedule backups of {}", order.instance);
    let body = json!({"backup_schedule": body});
    let answer = session.api.send(&what, Method::POST, "/backup_schedules", Some(&body)).await?;
    session.output.one(&answer.body["backup_schedule"], SHOW)
}

async fn update(session: &mut Session, change: &Change) -> Result<()> {
    let found = session.api.find_schedule(&change.schedule).await?;
    let mut body = parts(change.cron.as_deref(), &change.kept, times(change.every, change.full_every, change.verify));
    if change.pause || change.resume {
        body.insert("paused".to_owned(), change.pause.into());
    }
    let what = format!("change the backup schedule {}", change.schedule);
    let body = json!({"backup_schedule": body});
    let answer = session.api.send(&what, Method::PATCH, &path(&found), Some(&body)).await?;
    session.output.one(&answer.body["backup_schedule"], SHOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_seconds() {
        let hour = 3600;
        for (text, seconds) in [("7d", 7 * 24 * hour), ("6h", 6 * hour), ("90min", 90 * 60), ("1d 12h", 36 * hour)] {
            assert_eq!(whole_seconds(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "7", "x", "-1h", "0s", "1500ms"] {
            assert!(whole_seconds(text).is_err(), "{text}");
        }
        assert_eq!(whole_seconds_or_off("off"), Ok(Duration::ZERO));
        assert_eq!(whole_seconds_or_off("1d"), whole_seconds("1d"));
        assert!(whole_seconds_or_off("never").unwrap_err().contains("or off"));
    }
}
