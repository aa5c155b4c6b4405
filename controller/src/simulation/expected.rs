//! What there must be of an instance: the operations on it, in their order, each as it ended.

use std::collections::BTreeMap;

use super::engine::Fact;
use super::workload::Request;

/// What is known of an instance. `None` is what the operations leave open: one that failed or was ended half-way may
/// have had its effect, or may not.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// Whether it was made, to its end.
    pub(super) created: bool,
    pub(super) deleted: bool,
    pub(super) flavor: Option<String>,
    pub(super) volume_gib: Option<u64>,
    /// Whether its host has the sizes of the row.
    pub(super) sized: bool,
    pub(super) running: Option<bool>,
    /// Whether the row says that root is enabled.
    pub(super) root: bool,
    pub(super) facts: BTreeMap<Fact, Option<bool>>,
    /// Whether its configuration group may not be applied: the last time that failed, or was ended.
    pub(super) unapplied: bool,
}

impl Expected {
    /// The next operation ended so.
    pub(super) fn follow(&mut self, wish: &Request, status: &str) {
        let done = status == "done";
        for (fact, is) in wish.facts() {
            self.facts.insert(fact, is.filter(|_| done));
        }
        match wish {
            Request::Create { flavor, volume_gib, .. } => {
                (self.created, self.sized) = (done, done);
                (self.flavor, self.volume_gib) = (Some((*flavor).to_owned()), Some(*volume_gib));
                self.running = done.then_some(true);
            }
            Request::Restart => self.running = done.then_some(true),
            Request::Stop => self.running = if done { Some(false) } else { None },
            // What was stopped before stays so.
            Request::Reboot if done => self.sized = true,
            Request::ResizeFlavor(flavor) if done => {
                self.sized = true;
                self.flavor = Some((*flavor).to_owned());
            }
            // It is undone.
            Request::ResizeFlavor(_) if status == "failed" => {}
            Request::ResizeFlavor(_) => (self.flavor, self.sized, self.running) = (None, false, None),
            Request::Reboot => self.running = None,
            Request::GrowVolume(gib) if done => self.volume_gib = Some(*gib),
            // The row goes back; the volume may have grown.
            Request::GrowVolume(_) if status == "failed" => self.sized = false,
            Request::GrowVolume(_) => (self.volume_gib, self.sized) = (None, false),
            Request::Delete | Request::ForceDelete => {
                self.deleted |= done;
                // Where it was ended half-way the host may be gone, with all that was in it.
                (self.created, self.sized, self.running) = (false, false, None);
                self.facts.values_mut().for_each(|is| *is = None);
            }
            Request::Configure(_) => self.unapplied = !done,
            Request::EnableRoot if done => self.root = true,
            Request::DisableRoot if done => self.root = false,
            _ => {}
        }
    }
}
