//! Limits the connections of a port, in total and per source.
//!
//! When the total is reached, a new connection replaces another one, so that a source with many connections cannot keep
//! others out. Replaced is an idle connection of the source with the most connections, if it has more than the new
//! one's source; else the connection that has been idle longest. If none is idle, the source with the most connections
//! loses the one whose request has taken longest, again only if the new one's source has fewer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::counter;
use tokio_util::sync::CancellationToken;

use super::source::Source;

/// A connection that has been idle for less than this is not replaced by one of the same source, so that it can begin a
/// request.
const UNDISTURBED: Duration = Duration::from_secs(1);
/// Pause between two log lines about refused connections.
const REMINDER: Duration = Duration::from_secs(60);

/// Limits of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in total.
    pub all: usize,
    /// Connections from one source.
    pub source: usize,
}

impl Limits {
    fn quarter(all: usize) -> Self {
        Self { all, source: (all / 4).max(1) }
    }
}

/// How the limit of open files is divided among ports. More than half of it is kept for the store, authenticated
/// agents, processes and files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    pub api: Limits,
    /// The agents' port: connections that are not authenticated yet.
    pub agents: Limits,
    /// The metrics port.
    pub figures: Limits,
}

impl Shares {
    /// Divides a limit of `descriptors` open files.
    pub fn of(descriptors: u64) -> Self {
        let part = |divisor: u64, most: usize| {
            Limits::quarter(usize::try_from(descriptors / divisor).unwrap_or(most).clamp(4, most))
        };
        // All agents of a machine have the same address, so one source may have half of the connections.
        let agents = part(8, 4096);
        Self { api: part(4, 8192), agents: Limits { source: agents.all / 2, ..agents }, figures: part(32, 64) }
    }
}

/// Counts and limits the connections of a port.
pub struct Gate {
    port: &'static str,
    limits: Limits,
    proxies: Vec<Source>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    open: HashMap<u64, Open>,
    sources: HashMap<Source, usize>,
    told: Option<Instant>,
}

struct Open {
    source: Source,
    /// Whether a request is in progress.
    busy: bool,
    /// Since when it has been busy or idle.
    since: Instant,
    given_up: CancellationToken,
}

impl Gate {
    /// `port` is its name in the log. The limit per source does not apply to `proxies`.
    pub fn new(port: &'static str, limits: Limits, proxies: Vec<Source>) -> Arc<Self> {
        Arc::new(Self { port, limits, proxies, state: Mutex::default() })
    }

    pub(super) fn port(&self) -> &'static str {
        self.port
    }

    pub(super) fn is_proxy(&self, source: Source) -> bool {
        self.proxies.contains(&source)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a connection. `None` if it must be closed.
    pub fn admit(self: &Arc<Self>, source: Source) -> Option<Place> {
        let now = Instant::now();
        let mut state = self.state();
        let of_source = state.sources.get(&source).copied().unwrap_or_default();
        let too_many = of_source >= self.limits.source && !self.is_proxy(source);
        let has_room = match (too_many, state.open.len() >= self.limits.all) {
            (true, _) => state.end_one(false, Some(source), UNDISTURBED, now),
            (false, true) => state.make_room(of_source, &self.proxies, now),
            (false, false) => true,
        };
        if !has_room {
            counter!("trove_connections_refused_total", "port" => self.port).increment(1);
            if state.told.is_none_or(|told| now.duration_since(told) > REMINDER) {
                state.told = Some(now);
                let Limits { all, source: most } = self.limits;
                tracing::warn!(
                    "a connection to {} was refused: there are {} of {all}, {of_source} of {most} from its source",
                    self.port,
                    state.open.len()
                );
            }
            return None;
        }
        state.next += 1;
        let id = state.next;
        let given_up = CancellationToken::new();
        state.open.insert(id, Open { source, busy: false, since: now, given_up: given_up.clone() });
        *state.sources.entry(source).or_default() += 1;
        Some(Place { gate: self.clone(), id, source, given_up })
    }
}

impl State {
    /// Ends a connection for a new one, whose source has `of_source` already: an idle one of the source with the most,
    /// if that source has more than the new one's will have; else an idle one of any source; else a busy one. Busy
    /// connections of proxies are spared, since a proxy forwards requests of many clients.
    fn make_room(&mut self, of_source: usize, proxies: &[Source], now: Instant) -> bool {
        let most = self.greatest(of_source, &[]);
        most.is_some_and(|source| self.end_one(false, Some(source), Duration::ZERO, now))
            || self.end_one(false, None, UNDISTURBED, now)
            || self
                .greatest(of_source, proxies)
                .is_some_and(|source| self.end_one(true, Some(source), Duration::ZERO, now))
    }

    /// The source with the most connections, among those with at least `of_source` + 2.
    fn greatest(&self, of_source: usize, spared: &[Source]) -> Option<Source> {
        let others = self.sources.iter().filter(|(source, count)| **count > of_source + 1 && !spared.contains(source));
        others.max_by_key(|(_, count)| **count).map(|(source, _)| *source)
    }

    /// Ends the connection (of `source`, if given) that has been busy or idle longest, if that is at least `least`.
    fn end_one(&mut self, busy: bool, source: Option<Source>, least: Duration, now: Instant) -> bool {
        let all = self.open.iter().filter(|(_, open)| open.busy == busy && source.is_none_or(|s| open.source == s));
        match all.map(|(id, open)| (open.since, *id)).min().filter(|(since, _)| now.duration_since(*since) >= least) {
            Some((_, id)) => {
                self.remove(id);
                true
            }
            None => false,
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(open) = self.open.remove(&id) else { return };
        open.given_up.cancel();
        if let Some(count) = self.sources.get_mut(&open.source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&open.source);
            }
        }
    }
}

/// An admitted connection. It counts until this is dropped.
pub struct Place {
    gate: Arc<Gate>,
    id: u64,
    source: Source,
    given_up: CancellationToken,
}

impl Place {
    pub fn source(&self) -> Source {
        self.source
    }

    /// Cancelled when the connection must end because another one replaces it.
    pub fn given_up(&self) -> CancellationToken {
        self.given_up.clone()
    }

    pub(super) fn gate(&self) -> Arc<Gate> {
        self.gate.clone()
    }

    /// Records whether a request is in progress.
    pub(super) fn set_busy(&self, busy: bool) {
        if let Some(open) = self.gate.state().open.get_mut(&self.id) {
            (open.busy, open.since) = (busy, Instant::now());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.state().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        Source::of([127, 0, 0, last].into())
    }

    fn age(gate: &Gate) {
        let long_ago = Instant::now().checked_sub(UNDISTURBED).unwrap();
        for open in gate.state().open.values_mut() {
            open.since = long_ago;
        }
    }

    #[test]
    fn a_source_has_its_share_and_gives_back_what_it_had() {
        let gate = Gate::new("the API", Limits { all: 5, source: 2 }, vec![source(9)]);
        let first: Vec<_> = (0..2).map(|_| gate.admit(source(1)).unwrap()).collect();
        assert!(gate.admit(source(1)).is_none());
        let proxy: Vec<_> = (0..3).map(|_| gate.admit(source(9)).unwrap()).collect();
        proxy.iter().for_each(|place| place.set_busy(true));
        assert!(gate.admit(source(2)).is_none(), "there are five");
        proxy[2].set_busy(false);
        let other = gate.admit(source(2)).unwrap();
        assert!(proxy[2].given_up().is_cancelled(), "who has most makes room for who has none, at once");
        drop(other);
        drop((first, proxy));
        assert!(gate.state().sources.is_empty() && gate.state().open.is_empty());
    }

    #[test]
    fn the_longest_silent_one_makes_room_and_busy_ones_do_not() {
        let gate = Gate::new("the API", Limits { all: 3, source: 2 }, Vec::new());
        let (one, two) = (gate.admit(source(1)).unwrap(), gate.admit(source(1)).unwrap());
        one.set_busy(true);
        assert!(gate.admit(source(1)).is_none(), "nobody is disturbed at once");
        age(&gate);
        let three = gate.admit(source(1)).unwrap();
        assert!(two.given_up().is_cancelled() && !one.given_up().is_cancelled());
        drop(two);
        assert_eq!(gate.state().sources[&source(1)], 2, "its place was given away already");
        three.set_busy(true);
        age(&gate);
        assert!(gate.admit(source(1)).is_none(), "all are busy");
        let _other = gate.admit(source(2)).unwrap();
        age(&gate);
        assert!(gate.admit(source(3)).is_some(), "the silent one of another source makes room");
    }

    #[test]
    fn requests_under_way_end_for_who_has_fewer_and_for_nobody_else() {
        let gate = Gate::new("the API", Limits { all: 5, source: 3 }, Vec::new());
        let many: Vec<_> = (0..3).map(|_| gate.admit(source(1)).unwrap()).collect();
        let two: Vec<_> = (0..2).map(|_| gate.admit(source(2)).unwrap()).collect();
        let all = || many.iter().chain(&two);
        all().for_each(|place| place.set_busy(true));
        assert!(gate.admit(source(1)).is_none() && gate.admit(source(2)).is_none());
        assert!(all().all(|place| !place.given_up().is_cancelled()));
        let new = gate.admit(source(3)).unwrap();
        assert!(many[0].given_up().is_cancelled(), "the request that has taken longest of who has most");
        new.set_busy(true);
        assert!(gate.admit(source(3)).is_none(), "all would have as many");
        assert_eq!(all().filter(|place| place.given_up().is_cancelled()).count(), 1);
    }

    #[test]
    fn more_than_half_of_the_descriptors_are_kept_for_the_inside() {
        for descriptors in [128, 256, 1024, 20_000, 1_048_576] {
            let Shares { api, agents, figures } = Shares::of(descriptors);
            assert!(((api.all + agents.all + figures.all) as u64) * 2 < descriptors, "{descriptors}");
            assert!(api.source >= 1 && figures.source >= 1 && agents.source >= 2);
        }
        assert_eq!(Shares::of(1_048_576).api, Limits { all: 8192, source: 2048 });
    }
}
