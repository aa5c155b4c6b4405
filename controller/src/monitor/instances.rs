//! Metrics that are gathered at each scrape and rendered in Prometheus' text format, so that deleted instances
//! disappear.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::agents::hub::LastSeen;
use crate::model::InstanceLabels;
use crate::store::datastores::Unregistered;

/// A metric family: all samples of one name.
struct Family {
    kind: &'static str,
    help: &'static str,
    samples: Vec<(String, f64)>,
}

/// Unfinished operations: kind, status and number.
pub(super) fn render_operations(text: &mut String, active: &[(String, String, u64)]) {
    let mut families = BTreeMap::new();
    for (kind, status, count) in active {
        let labels = format!("kind=\"{}\",status=\"{}\"", escaped(kind), escaped(status));
        let count = u32::try_from(*count).unwrap_or(u32::MAX);
        add(
            &mut families,
            "trove_operations_active",
            "gauge",
            "Operations that have not ended, of all controllers.",
            &labels,
            count.into(),
        );
    }
    write(text, &families);
}

/// Installed engines that could not be registered, one sample each. `trove-controller datastore list` shows the
/// reasons.
pub(super) fn render_unregistered(text: &mut String, all: &[Unregistered]) {
    let mut families = BTreeMap::new();
    for one in all {
        let labels = format!(
            "datastore=\"{}\",version=\"{}\",bindir=\"{}\"",
            escaped(&one.datastore),
            escaped(&one.version),
            escaped(&one.bindir)
        );
        let help = "An installed engine that could not be registered; `trove-controller datastore list` says why.";
        add(&mut families, "trove_datastore_unregistered", "gauge", help, &labels, 1.0);
    }
    write(text, &families);
}

/// Instances whose agents are connected. The engine's metrics are named `trove_engine_…`.
pub(super) fn render(text: &mut String, agents: &[LastSeen], labels: &[InstanceLabels]) {
    let by_id: BTreeMap<_, _> = labels.iter().map(|labels| (labels.id, labels)).collect();
    let mut families = BTreeMap::new();
    for agent in agents {
        let Some(instance) = by_id.get(&agent.instance) else { continue };
        let labels = format!(
            "instance_id=\"{}\",project_id=\"{}\",datastore=\"{}\"",
            instance.id,
            escaped(&instance.project.0),
            escaped(&instance.datastore)
        );
        let mut gauge = |name: &str, help, value| add(&mut families, name, "gauge", help, &labels, value);
        gauge(
            "trove_instance_healthy",
            "Whether the engine answered the last probe.",
            f64::from(u8::from(agent.healthy)),
        );
        gauge("trove_instance_volume_used_bytes", "Bytes in use on the data volume.", float(agent.volume_used_bytes));
        gauge("trove_instance_volume_size_bytes", "Size of the data volume.", float(instance.volume_gib << 30));
        gauge("trove_instance_memory_used_bytes", "Memory of the guest's processes.", float(agent.memory_used_bytes));
        gauge("trove_instance_memory_size_bytes", "Memory of the flavor.", float(instance.ram_mib << 20));
        gauge("trove_instance_heard_seconds", "Time since the agent's last report.", agent.age.as_secs_f64());
        for (name, value) in &agent.metrics {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            let help = "A number of the engine's own.";
            add(&mut families, &format!("trove_engine_{}", plain(name)), kind, help, &labels, *value);
        }
    }
    write(text, &families);
}

fn add(
    families: &mut BTreeMap<String, Family>,
    name: &str,
    kind: &'static str,
    help: &'static str,
    labels: &str,
    value: f64,
) {
    let family = families.entry(name.to_owned()).or_insert(Family { kind, help, samples: Vec::new() });
    family.samples.push((labels.to_owned(), value));
}

fn write(text: &mut String, families: &BTreeMap<String, Family>) {
    for (name, Family { kind, help, samples }) in families {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{{{labels}}} {value}");
        }
    }
}

/// Escapes the value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Makes a part of a metric name valid, since it comes from an agent.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

#[allow(clippy::cast_precision_loss)]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::{InstanceId, ProjectId};

    #[test]
    fn names_stand_together_and_what_others_say_breaks_nothing() {
        let (one, two) = (InstanceId::random(), InstanceId::random());
        let labels = |id, project: &str| InstanceLabels {
            id,
            project: ProjectId(project.to_owned()),
            datastore: "enginedb".to_owned(),
            ram_mib: 512,
            volume_gib: 2,
        };
        let heard = |instance, name: &str| LastSeen {
            instance,
            healthy: true,
            volume_used_bytes: 7,
            memory_used_bytes: 8,
            age: Duration::from_millis(1500),
            metrics: vec![(name.to_owned(), 2.5)],
        };
        let agents = [heard(one, "commits_total"), heard(two, "a{b}\n"), heard(InstanceId::random(), "gone")];
        let mut text = String::new();
        render(&mut text, &agents, &[labels(one, "p\"\\"), labels(two, "q")]);
        assert!(text.contains("# TYPE trove_engine_commits_total counter\n"), "{text}");
        assert!(text.contains("trove_engine_a_b__{"), "{text}");
        assert!(text.contains("project_id=\"p\\\"\\\\\",datastore=\"enginedb\"} 2.5\n"), "{text}");
        assert!(text.contains("trove_instance_volume_size_bytes{"), "{text}");
        assert!(text.contains(" 2147483648\n") && text.contains("} 1.5\n"), "{text}");
        assert!(!text.contains("gone"), "{text}");
        assert_eq!(text.matches("# TYPE trove_instance_healthy gauge").count(), 1);
    }
}
