//! Points in time: to which an instance can be restored, and another instance made as it was then.

use std::time::Duration;

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::schedules::whole_seconds;
use super::{Session, WaitOptions, instances};
use crate::error::{Failure, Result};
use crate::output::Column;

/// What is shown or changed.
#[derive(Args)]
#[command(
    group = clap::ArgGroup::new("change").args(["keep", "off"]),
    after_help = "Examples:\n  trovectl instance recovery-window shop --keep 7d\n  trovectl backup create before --instance shop --wait\n  \
        trovectl instance recovery-window shop"
)]
pub(crate) struct Window {
    /// By name or id; by id once it is deleted.
    instance: String,
    /// Store all writes from now on, and keep them for this long: 7d, 36h. Times can be restored once a full backup that is begun
    /// afterwards is complete.
    #[arg(long, value_name = "TIME", value_parser = whole_seconds)]
    keep: Option<Duration>,
    /// Store nothing any more. What is stored stays until it is too old.
    #[arg(long)]
    off: bool,
}

/// An instance as another one was.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  trovectl instance restore shop --to 2026-05-01T10:00:00Z --as shop-before --wait\n  trovectl instance \
    restore shop --as shop-copy --size 5"
)]
pub(crate) struct Restore {
    /// The instance whose data it gets, by name or id; by id once that is deleted.
    instance: String,
    /// The time, with its zone; the last one that is stored when absent. `trovectl instance recovery-window` shows which there are.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// The name of the new instance.
    #[arg(long = "as", value_name = "NAME")]
    new: String,
    /// Its size, by id; that of the other instance when absent.
    #[arg(long)]
    flavor: Option<String>,
    /// Size of its volume, GiB; that of the other instance when absent.
    #[arg(long, value_name = "GIB")]
    size: Option<u64>,
    #[command(flatten)]
    wait: WaitOptions,
}

const RANGES: &[Column] = &[("FROM", "from"), ("UNTIL", "until")];

/// Shows the window, after a change if one is wanted.
pub(crate) async fn window(session: &mut Session, window: Window) -> Result<()> {
    let id = instances::id(session, &window.instance).await?;
    let path = format!("/instances/{id}/recovery-window");
    let change = window.keep.map(|keep| json!(keep.as_secs())).or_else(|| window.off.then_some(Value::Null));
    let body = match change {
        Some(keep) => {
            let what = format!("change what is kept of the log of {}", window.instance);
            let body = json!({"recovery_window": {"keep_seconds": keep}});
            session.api.send(&what, Method::PUT, &path, Some(&body)).await?.body
        }
        None => session.api.get(&format!("show the recovery window of {}", window.instance), &path).await?,
    };
    let shown = &body["recovery_window"];
    let ranges = shown["ranges"].as_array().cloned().unwrap_or_default();
    match (shown["keep_seconds"].as_u64(), ranges.is_empty()) {
        (None, true) => session.output.remark(&format!(
            "No writes of {0} are stored: trovectl instance recovery-window {0} --keep 7d begins that.",
            window.instance
        )),
        (None, false) => session.output.remark("No more writes are stored."),
        (Some(keep), _) => {
            let keep = humantime::format_duration(Duration::from_secs(keep));
            session.output.remark(&format!("All writes are stored, and kept for {keep}."));
        }
    }
    if shown["keep_seconds"].is_u64() && ranges.is_empty() {
        session.output.remark(&format!(
            "No time can be restored yet: trovectl backup create NAME --instance {} --wait begins the range.",
            window.instance
        ));
    }
    session.output.list(&ranges, RANGES)
}

/// Orders the new instance.
pub(crate) async fn restore(session: &mut Session, order: Restore) -> Result<()> {
    let id = instances::id(session, &order.instance).await?;
    let (flavor, size) = match (&order.flavor, order.size) {
        (Some(flavor), Some(size)) => (json!(flavor), json!(size)),
        (flavor, size) => {
            let what = format!("look at the size of {}", order.instance);
            let source = session.api.get(&what, &format!("/instances/{id}")).await?;
            let source = &source["instance"];
            let flavor = flavor.as_ref().map_or_else(|| source["flavor"]["id"].clone(), |flavor| json!(flavor));
            (flavor, size.map_or_else(|| source["volume"]["size"].clone(), |size| json!(size)))
        }
    };
    let mut point = json!({"instance": id});
    if let Some(time) = &order.to {
        point["time"] = json!(time);
    }
    let body = json!({"instance": {
        "name": order.new, "flavorRef": flavor, "volume": {"size": size}, "restorePoint": point}});
    let to = order.to.as_deref().unwrap_or("the last time that is stored");
    let what = format!("restore {} as it was at {to} as {}", order.instance, order.new);
    let answer = session.api.send(&what, Method::POST, "/instances", Some(&body)).await?;
    let new = answer.body["instance"]["id"].as_str().unwrap_or_default().to_owned();
    session.settle(&order.wait, &new, answer.operation.as_deref(), &what).await?;
    let view = session.api.get(&what, &format!("/instances/{new}")).await?;
    if order.wait.wait && view["instance"]["status"] == "ERROR" {
        let fault = view["instance"]["fault"]["message"].as_str().unwrap_or("no reason was given");
        return Err(Failure::failed(format!("Could not {what}: {fault}")));
    }
    session.output.one(&view["instance"], instances::SHOW)
}
