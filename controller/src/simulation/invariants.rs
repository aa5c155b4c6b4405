//! What must be true when everything has stopped going wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::controller::Ground;
use super::engine::{Engine, Fact};
use super::expected::Expected;
use super::guest::Guest;
use super::workload::{Ledger, Renamed};
use crate::agents::hub::service;
use crate::ids::InstanceId;
use crate::model::configurations::{ParameterResult, ParameterState};

/// Whoever looks.
pub(super) struct Invariants {
    pub(super) ground: Arc<Ground>,
    pub(super) ledger: Arc<Ledger>,
}

/// What is wrong.
type Found = Result<(), String>;

/// What an instance that is not deleted says of itself.
#[derive(Debug)]
struct Present {
    flavor: String,
    ram_mib: i64,
    volume_gib: i64,
    task: String,
    host: String,
    name: String,
    root: bool,
    fault: bool,
    /// What is stored of its agent: service and generation.
    agent: Option<(String, i64)>,
    links: i64,
    /// What is assigned: generation, specification, certificate.
    assignment: Option<(i64, String, String)>,
    /// The values of its configuration group, and what became of them, each as JSON.
    wanted: Option<String>,
    results: Option<String>,
}

fn unless(wrong: bool, what: impl FnOnce() -> String) -> Found {
    if wrong { Err(what()) } else { Ok(()) }
}

impl Invariants {
    fn texts(&self, sql: &str) -> Vec<String> {
        self.ground.server.ask(sql).iter().map(|row| row.get(0)).collect()
    }

    fn nothing(&self, what: &str, sql: &str) -> Found {
        let found = self.texts(sql);
        unless(!found.is_empty(), || format!("{what}: {found:?}"))
    }

    /// What reconcilers keep true of assignments: they name the controllers that there are, and none expires soon.
    fn check_assignments(&self) -> Found {
        let controllers = self.texts("select agents_address from controller order by agents_address");
        let names = serde_json::to_string(&controllers).unwrap();
        let soon = self.ground.server.now() + 1_000_000;
        self.nothing(
            &format!("assignments that do not name {names}, or expire"),
            &format!(
                "select s.instance_id || ' ' || s.specification || ' ' || s.not_after from assignment s \
                 join agent a on a.instance_id = s.instance_id where a.assignment_generation > 0 \
                 and (instr(s.specification, '{names}') = 0 or s.not_after < {soon})"
            ),
        )
    }

    /// When nothing is under way and reconcilers have looked.
    pub(super) fn check(&self) -> Found {
        self.check_writes()?;
        self.check_ends()?;
        self.check_counts()?;
        self.check_requests()?;
        self.check_resets()?;
        self.check_assignments()?;
        let expected = self.replay()?;
        let present = self.present();
        let mut hosts: BTreeMap<InstanceId, Guest> = self.ground.guests.lock().unwrap().clone();
        for (id, row) in &present {
            let guest = hosts.remove(id);
            let what = expected.get(id).ok_or_else(|| format!("{id} was never ordered"))?;
            self.check_instance(*id, row, what, guest.as_ref())
                .map_err(|wrong| format!("{id}: {wrong}; {row:?}; {what:?}"))?;
        }
        unless(!hosts.is_empty(), || format!("hosts of no instance: {:?}", hosts.keys()))
    }

    /// When everything was deleted.
    pub(super) fn check_nothing_left(&self) -> Found {
        self.check_writes()?;
        self.check_ends()?;
        for table in ["agent", "agent_link", "enrolment_token", "assignment"] {
            self.nothing(&format!("left in {table}"), &format!("select instance_id from {table}"))?;
        }
        self.nothing("instances that are left", "select id || ' ' || task from instance where deleted is null")?;
        self.nothing("use of nothing", "select resource || ' ' || in_use from usage where in_use <> 0")?;
        let hosts: Vec<_> = self.ground.guests.lock().unwrap().keys().copied().collect();
        unless(!hosts.is_empty(), || format!("hosts that are left: {hosts:?}"))
    }

    /// What was written by whom, and done by agents.
    fn check_writes(&self) -> Found {
        self.nothing("never to be written", "select what from violation")?;
        let wrong = self.ground.world.wrong.lock().unwrap().clone();
        unless(!wrong.is_empty(), || format!("{wrong:?}"))?;
        for guest in self.ground.guests.lock().unwrap().values() {
            let engine = guest.engine.lock().unwrap();
            if let Some((key, count)) = engine.effects.iter().find(|(_, count)| **count > 1) {
                return Err(format!("{key} was done {count} times"));
            }
        }
        Ok(())
    }

    fn check_ends(&self) -> Found {
        self.nothing("under way", "select kind || ' ' || id || ' ' || status from operation where finished is null")?;
        self.nothing(
            "operations that ended otherwise than they say",
            "select kind || ' ' || id || ' ' || status from operation o where status not in ('done', 'failed', 'cancelled') \
             or state <> '{}' or owner is not null or (status = 'failed') <> (error is not null) and status <> 'cancelled' \
             or exists (select 1 from operation_step s where s.operation_id = o.id and (s.status = 'running' \
             or o.status = 'done' and s.status <> 'done' or o.status = 'failed' and s.status = 'done'))",
        )?;
        self.nothing(
            "targets that are held for nothing",
            "select resource from operation_target where active or exclusive or state <> 'null'",
        )?;
        self.nothing(
            "tasks that nobody does",
            "select id || ' ' || task from instance where deleted is null and task not in \
             ('none', 'building_error', 'error', 'restart_required')",
        )?;
        self.nothing(
            "left of deleted instances",
            "select i.id from instance i where i.deleted is not null and (exists \
             (select 1 from assignment a where a.instance_id = i.id) or exists (select 1 from agent g where g.instance_id = i.id) \
             or exists (select 1 from agent_link l where l.instance_id = i.id) or exists \
             (select 1 from enrolment_token t where t.instance_id = i.id))",
        )
    }

    /// What was under way when a status was reset ends soon, unless it ends anyway. Whoever holds it may sleep on its lease.
    fn check_resets(&self) -> Found {
        for (instance, last, answered) in &*self.ledger.resets.lock().unwrap() {
            self.nothing(
                "done long after the status was reset",
                &format!(
                    "select kind || ' ' || id from operation o where exists (select 1 from operation_target t \
                     where t.operation_id = o.id and t.resource = '{instance}' and t.lane = 'lifecycle') \
                     and seq <= {last} and finished > {answered} + 60000000 and status = 'done'"
                ),
            )?;
        }
        Ok(())
    }

    fn check_counts(&self) -> Found {
        for (resource, sum) in [("instances", "count(*)"), ("ram", "sum(ram_mib)"), ("volumes", "sum(volume_gib)")] {
            self.nothing(
                "use that is counted wrong",
                &format!(
                    "select u.resource || ' ' || u.in_use || ' of ' || i.there from usage u, \
                     (select coalesce({sum}, 0) as there from instance where deleted is null) i \
                     where u.resource = '{resource}' and u.in_use <> i.there"
                ),
            )?;
        }
        Ok(())
    }

    /// A request is one operation at most, and one that was accepted is there.
    fn check_requests(&self) -> Found {
        self.nothing(
            "asked once, queued twice",
            "select request_id from operation group by request_id having count(*) > 1",
        )?;
        let queued: BTreeSet<String> = self.texts("select id from operation").into_iter().collect();
        for (request, asked) in &*self.ledger.asked.lock().unwrap() {
            if let Some(operation) = asked.accepted
                && !queued.contains(&operation.to_string())
            {
                return Err(format!("{request} was accepted, and there is no {operation}: {:?}", asked.wish));
            }
        }
        Ok(())
    }

    fn replay(&self) -> Result<BTreeMap<InstanceId, Expected>, String> {
        let asked = self.ledger.asked.lock().unwrap();
        let mut all: BTreeMap<InstanceId, Expected> = BTreeMap::new();
        for row in self.ground.server.ask(
            "select t.resource, o.request_id, o.status, o.kind from operation o \
             join operation_target t on t.operation_id = o.id order by o.seq",
        ) {
            let (id, request): (String, String) = (row.get(0), row.get(1));
            let (status, kind): (String, String) = (row.get(2), row.get(3));
            let wish = &asked.get(&request).ok_or_else(|| format!("nobody asked {request} for {kind}"))?.wish;
            all.entry(id.parse().unwrap()).or_default().follow(wish, &status);
        }
        Ok(all)
    }

    fn present(&self) -> BTreeMap<InstanceId, Present> {
        let sql = "select i.id, i.flavor_id, i.ram_mib, i.volume_gib, i.task, i.host, i.name, i.root_enabled_at is not null, \
                   i.fault_message is not null, a.service, a.assignment_generation, s.generation, s.specification, \
                   s.certificate_pem, (select count(*) from agent_link l where l.instance_id = i.id and l.lost_at is null), \
                   (select c.parameters from configuration c where c.id = i.configuration_id), i.parameter_results \
                   from instance i left join agent a on a.instance_id = i.id left join assignment s on s.instance_id = i.id \
                   where i.deleted is null";
        let present = |row: &SqliteRow| {
            let service: Option<String> = row.get(9);
            let generation: Option<i64> = row.get(11);
            let present = Present {
                flavor: row.get(1),
                ram_mib: row.get(2),
                volume_gib: row.get(3),
                task: row.get(4),
                host: row.get(5),
                name: row.get(6),
                root: row.get(7),
                fault: row.get(8),
                agent: service.map(|service| (service, row.get(10))),
                assignment: generation.map(|generation| (generation, row.get(12), row.get(13))),
                links: row.get(14),
                wanted: row.get(15),
                results: row.get(16),
            };
            (row.get::<String, _>(0).parse().unwrap(), present)
        };
        self.ground.server.ask(sql).iter().map(present).collect()
    }

    fn check_instance(&self, id: InstanceId, row: &Present, what: &Expected, guest: Option<&Guest>) -> Found {
        unless(what.deleted, || "its deletion is done, and it is there".to_owned())?;
        unless(what.flavor.as_ref().is_some_and(|flavor| *flavor != row.flavor), || {
            "it has another flavor".to_owned()
        })?;
        let volume_gib = row.volume_gib.unsigned_abs();
        unless(what.volume_gib.is_some_and(|gib| gib != volume_gib), || "it has another volume".to_owned())?;
        unless(what.root != row.root, || "root is not as it was last asked".to_owned())?;
        unless(row.task.ends_with("error") && !row.fault, || "an error that nobody explains".to_owned())?;
        self.check_name(id, &row.name)?;
        let host = guest.map_or("absent", |guest| guest.state().tag());
        unless(row.host != host, || format!("the host is {host}"))?;
        let Some(guest) = guest else {
            // A delete that failed after the host was gone left an error, which another delete ends.
            let failed = row.task.ends_with("error") && row.fault;
            let may_lack = failed || self.ledger.reset.lock().unwrap().contains(&id);
            return unless(!may_lack, || "it has no host".to_owned());
        };
        unless(row.task == "building_error", || "what was not built has a host".to_owned())?;
        // A reboot that failed leaves it to a person.
        unless(host == "dead" && row.task != "error", || "its host was left stopped".to_owned())?;
        check_host(row, what, guest)
    }

    /// Some name that was given stands: not one after which another was given.
    fn check_name(&self, id: InstanceId, name: &str) -> Found {
        let renamed = self.ledger.renamed.lock().unwrap();
        let of_it: Vec<&Renamed> = renamed.iter().filter(|one| one.instance == id).collect();
        let replaced = |one: &Renamed| {
            of_it
                .iter()
                .any(|later| later.answered.is_some() && one.answered.is_some_and(|answered| later.asked > answered))
        };
        let given = of_it.iter().any(|one| one.name == name && !replaced(one));
        let first = name == "test" && of_it.iter().all(|one| one.answered.is_none());
        unless(!given && !first, || format!("its name is {name}, after {of_it:?}"))
    }
}

/// What runs is what the row says.
fn check_host(row: &Present, what: &Expected, guest: &Guest) -> Found {
    let sizes = *guest.sizes.lock().unwrap();
    // A volume does not shrink: where a resize failed after its effect, the host has more than the row counts.
    let as_row = [sizes.ram_mib, sizes.ram_mib_in_force].iter().all(|ram| *ram == row.ram_mib.unsigned_abs())
        && sizes.volume_gib >= row.volume_gib.unsigned_abs();
    unless(what.sized && !as_row, || format!("the host is of {sizes:?}"))?;
    if guest.life().is_none() {
        return Ok(());
    }
    let service = service(guest.status().borrow().service).tag();
    unless(row.agent.as_ref().is_none_or(|(said, _)| said != service), || format!("the service is {service}"))?;
    unless(row.links != 2, || format!("{} controllers hear it", row.links))?;
    let engine = guest.engine.lock().unwrap().clone();
    unless(what.running.is_some_and(|running| running != engine.running), || format!("running is {}", engine.running))?;
    for (fact, is) in &what.facts {
        let has = engine.facts.contains(fact);
        unless(is.is_some_and(|is| is != has), || format!("{fact:?} is {has}"))?;
    }
    let unasked: Vec<&Fact> = engine.facts.iter().filter(|fact| !what.facts.contains_key(fact)).collect();
    unless(!unasked.is_empty(), || format!("it has what nobody asked for: {unasked:?}"))?;
    let Some((generation, specification, certificate)) = &row.assignment else {
        return unless(what.created, || "nothing is assigned".to_owned());
    };
    let in_force = guest.life().map(|life| life.assignments.assigned().borrow().clone()).unwrap_or_default();
    if in_force.generation == 0 {
        return unless(what.created, || "no assignment is in force".to_owned());
    }
    unless(row.agent.as_ref().is_none_or(|(_, said)| said != generation), || {
        "another generation is stored".to_owned()
    })?;
    unless(i64::try_from(in_force.generation) != Ok(*generation), || format!("{} is in force", in_force.generation))?;
    let controllers = serde_json::to_string(&in_force.specification.controllers).unwrap();
    unless(!specification.contains(&controllers), || format!("it knows the controllers {controllers}"))?;
    if !what.unapplied {
        check_parameters(row, &in_force.specification.parameters, &engine)?;
    }
    let in_use = in_force.specification.certificate.map(|certificate| certificate.certificate_pem);
    unless(in_use.as_ref() != Some(certificate), || "it has another certificate".to_owned())
}

/// The values of the group are assigned, and of each it is said what is true in the running engine.
fn check_parameters(row: &Present, assigned: &BTreeMap<String, String>, engine: &Engine) -> Found {
    let wanted: BTreeMap<String, Value> = row.wanted.as_deref().map_or_else(BTreeMap::new, read);
    let wanted = wanted.into_iter().map(|(name, value)| (name, value.to_string())).collect::<BTreeMap<_, _>>();
    unless(wanted != *assigned, || format!("{assigned:?} are assigned"))?;
    if !engine.running {
        return Ok(());
    }
    let results: BTreeMap<String, ParameterResult> = row.results.as_deref().map_or_else(BTreeMap::new, read);
    let names: BTreeSet<&String> = assigned.keys().chain(engine.parameters.keys()).chain(results.keys()).collect();
    for name in names {
        let is_so = engine.parameters.get(name) == assigned.get(name);
        let said = results.get(name).map(|result| result.state);
        let expected = if is_so { ParameterState::Live } else { ParameterState::NeedsRestart };
        unless(said != Some(expected), || {
            format!("{name} is said to be {said:?}, and the engine has {:?}", engine.parameters)
        })?;
    }
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}
