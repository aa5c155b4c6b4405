//! A start of the engine, from its process to its first answer. This is the one loop that asks: an engine does not say
//! when it is ready. It asks often at first, and once a second of one that takes long: that is what recovering is, and each
//! question is a line in some engines' logs.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, info, warn};
use trove_proto::v1::ServiceState;
use trove_strategy::{EngineError, Kind, Settings, StartMode};

use super::{FIRST_MEASURE, MARK, Owner, Reply, ended, millis, pass};
use crate::leftovers;
use crate::process::Process;
use crate::volume::Room;

/// How a process ends that was killed, and how often a start of such a one is made again: it may be the memory that is short.
const KILLED: &str = "signal: 9 (SIGKILL)";
const KILLED_STARTS: u32 = 3;
const ASK_AGAIN: Duration = Duration::from_millis(30);
const ASK_SELDOM: Duration = Duration::from_secs(1);
/// An engine that does not answer within this recovers.
const QUICK: Duration = Duration::from_secs(2);

/// Children of an engine that was killed notice that by themselves, unless they are busy for a tenant: then they are
/// killed, since a start waits for them.
const ORPHANS: Duration = Duration::from_secs(1);

/// A start that is under way.
pub(super) struct Starting {
    mode: StartMode,
    begun: Instant,
    limit: Duration,
    next: Instant,
    pause: Duration,
    /// Whether the log says that it takes long.
    is_slow: bool,
    /// How often its process was killed.
    killed: u32,
    /// Who waits for its end; nobody for one that the agent makes by itself.
    replies: Vec<Reply>,
}

impl Starting {
    fn new(mode: StartMode, limit: Duration) -> Self {
        let now = Instant::now();
        Self { mode, begun: now, limit, next: now, pause: ASK_AGAIN, is_slow: false, killed: 0, replies: Vec::new() }
    }

    /// When it is asked again.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Whether a start whose process has ended in this way is made once more: it did not fail by itself.
    pub(super) fn is_made_again(&mut self, how: &str) -> bool {
        self.killed += 1;
        let is_again = how == KILLED && self.killed <= KILLED_STARTS && !self.is_over();
        if is_again {
            self.next = Instant::now() + ASK_SELDOM;
        }
        is_again
    }

    fn is_over(&self) -> bool {
        self.begun.elapsed() >= self.limit
    }

    /// It did not answer, or cannot be started yet: it is asked later.
    fn postpone(&mut self, reason: &EngineError) {
        if self.begun.elapsed() > QUICK {
            if !self.is_slow {
                info!(reason = reason.chain(), "the engine does not answer yet and is looked at once a second");
                self.is_slow = true;
            }
            self.pause = (self.pause * 2).min(ASK_SELDOM);
        }
        self.next = Instant::now() + self.pause;
    }
}

impl Owner {
    /// Starts it on request and keeps it running; whoever asked hears of the end.
    pub(super) async fn start_and_keep(&mut self, reply: Reply) {
        let begun = match self.want(true) {
            Ok(()) => {
                self.restart_at = None;
                self.begin_start(StartMode::Normal).await
            }
            Err(error) => Err(error),
        };
        if begun.is_ok()
            && let Some(starting) = &mut self.starting
        {
            return starting.replies.push(reply);
        }
        if let Err(error) = &begun
            && self.room != Room::Over
        {
            self.say(ServiceState::Failed, &error.chain());
            self.plan_restart();
        }
        // Whoever asked may have gone.
        let _ = reply.send(begun);
    }

    /// Starts one that ended, or that an earlier agent left wanted.
    pub(super) async fn start_again(&mut self) {
        self.restart_at = None;
        if self.process.is_none() {
            // Before the engine's program is asked about its configuration, which takes memory as well.
            self.end_earlier_life(ORPHANS).await;
        }
        let begun = match self.configure().await {
            Ok(()) => self.begin_start(StartMode::Normal).await,
            Err(error) => Err(error),
        };
        if let Err(error) = begun
            && self.room != Room::Over
        {
            error!(error = error.chain(), "the engine cannot be started");
            self.say(ServiceState::Crashed, &error.chain());
            self.plan_restart();
        }
    }

    /// Starts it for the agent alone, and waits until it answers.
    pub(super) async fn start_private(&mut self) -> Result<(), EngineError> {
        self.begin_start(StartMode::Private).await?;
        let (reply, mut answer) = oneshot::channel();
        if let Some(starting) = &mut self.starting {
            starting.replies.push(reply);
        }
        while let Some(next) = self.starting.as_ref().map(Starting::next) {
            tokio::select! {
                biased;
                how = ended(&mut self.process) => self.process_ended(&how).await,
                () = tokio::time::sleep_until(next) => self.ask().await,
            }
        }
        answer.try_recv().unwrap_or_else(|_| Err(EngineError::new(Kind::Transient, "the start was given up")))
    }

    /// Starts the process where it does not run. From then on the engine is asked whether it answers.
    pub(super) async fn begin_start(&mut self, mode: StartMode) -> Result<(), EngineError> {
        if self.starting.is_some() {
            return Ok(());
        }
        self.refuse_without_room().await?;
        self.say(ServiceState::Starting, "");
        let spec = self.start_spec(mode)?;
        if self.process.is_none() {
            self.start_process(mode).await?;
        }
        self.starting = Some(Starting::new(mode, spec.start_deadline));
        Ok(())
    }

    async fn start_process(&mut self, mode: StartMode) -> Result<(), EngineError> {
        let spec = self.start_spec(mode)?;
        // Children of one that was killed live on for a moment and hold its shared memory; what a tenant has started in
        // it might answer in its place.
        self.end_earlier_life(ORPHANS).await;
        self.say_why("");
        self.parts.datastore.engine().forget_earlier_life(&self.parts.site).await?;
        self.parts.log.begin();
        self.started_with = self.configured.clone();
        let started = Process::start(&spec, &self.parts.host, &self.parts.log.path());
        let process = started.map_err(|error| EngineError::new(Kind::Fatal, format!("{error:#}")))?;
        pass("agent.engine.started")?;
        if let Err(error) = self.parts.files.write_json(MARK, &process.mark) {
            // It is found by what it is after a crash.
            warn!(error = format!("{error:#}"), "the engine's process could not be written down");
        }
        info!(pid = process.mark.pid, "the engine was started");
        self.process = Some(process);
        self.room_is_told = true;
        Ok(())
    }

    /// Waits until no process of the engine is left, and removes what they left in memory.
    pub(super) async fn end_earlier_life(&self, deadline: Duration) {
        // What is run, and where, follows from no parameter.
        let spec = self.parts.start_spec(&Settings::default(), StartMode::Normal);
        let none_is_left = self.signs.await_none(&spec, deadline);
        tokio::pin!(none_is_left);
        if tokio::time::timeout(QUICK, &mut none_is_left).await.is_err() {
            self.say_why("processes that the engine left are ended first");
            none_is_left.await;
        }
        let host = self.parts.host.clone();
        // It fails where the thread panicked, which was said then.
        let _ = tokio::task::spawn_blocking(move || leftovers::remove(&host)).await;
    }

    /// An engine whose volume is over-full is not started.
    async fn refuse_without_room(&mut self) -> Result<(), EngineError> {
        let mut used = self.parts.used.clone();
        // One that cannot be measured is started all the same.
        let _ = tokio::time::timeout(FIRST_MEASURE, used.wait_for(Option::is_some)).await;
        let measured = *self.parts.used.borrow();
        let size = self.volume_bytes();
        let before = self.room;
        self.room = measured.map_or(before, |used| before.next(used, size));
        if self.room == Room::Over && self.process.is_none() {
            self.room_is_told = true;
            let words = self.room_words();
            self.say(ServiceState::Shutdown, &words);
            return Err(EngineError::new(Kind::Fatal, words));
        }
        if self.room != before {
            self.configure().await?;
        }
        Ok(())
    }

    /// Asks the engine that starts once.
    pub(super) async fn ask(&mut self) {
        if self.process.is_none() {
            if self.waits_for_address() {
                return;
            }
            let Some(mode) = self.starting.as_ref().map(|starting| starting.mode) else { return };
            self.say(ServiceState::Starting, "");
            if let Err(error) = self.start_process(mode).await {
                return self.start_failed(error).await;
            }
        }
        let engine = self.parts.datastore.engine();
        let answer = tokio::select! {
            biased;
            how = ended(&mut self.process) => return self.process_ended(&how).await,
            answer = engine.probe(&self.parts.site) => answer,
        };
        let may_repair = self.may_repair();
        let Some(starting) = &mut self.starting else { return };
        match answer {
            Ok(health) => {
                let begun = starting.begun;
                info!(elapsed_ms = millis(begun), "the engine answers");
                self.healthy(health);
                self.start_ended(Ok(()));
            }
            // It will never answer.
            Err(error) if error.kind() == Kind::Fatal => {
                let starting = self.starting.take();
                self.stop().await;
                self.starting = starting;
                self.start_failed(error).await;
            }
            Err(error) if error.kind() == Kind::LockedOut && may_repair => self.start_failed(error).await,
            Err(error) if starting.is_over() => {
                let limit = starting.limit.as_secs();
                let text = format!("the engine did not answer within {limit} s: {}", error.chain());
                self.start_ended(Err(EngineError::new(Kind::Transient, text)));
            }
            Err(error) => {
                starting.postpone(&error);
                if starting.is_slow {
                    self.say_why(&format!("the engine does not answer yet: {}", error.chain()));
                }
            }
        }
    }

    /// Ends a start that failed; where the strategy finds something to mend, it is made once more for those who wait.
    pub(super) async fn start_failed(&mut self, error: EngineError) {
        let is_stopped = self.process.is_none() || error.kind() == Kind::LockedOut;
        let listens = self.starting.as_ref().is_some_and(|starting| starting.mode == StartMode::Normal);
        if listens && self.process.is_none() && (self.waits_for_address() || self.had_no_address(&error)) {
            warn!(error = error.chain(), "another process has the engine's address, which is waited for");
            return;
        }
        let Some(starting) = self.starting.take() else { return };
        let mut error = error;
        if self.process.is_none() && starting.mode == StartMode::Normal {
            match self.start_without_the_new(&error).await {
                Ok(true) => {
                    if let Some(again) = &mut self.starting {
                        again.replies = starting.replies;
                    }
                    return;
                }
                Ok(false) => self.retry_parameters(),
                Err(again) => error = again,
            }
        }
        if is_stopped && self.may_repair() && self.repair(&error).await {
            match self.begin_start(starting.mode).await {
                Ok(()) => {
                    if let Some(again) = &mut self.starting {
                        again.replies = starting.replies;
                    }
                    return;
                }
                Err(again) => error = again,
            }
        }
        self.starting = Some(starting);
        self.start_ended(Err(error));
    }

    /// Takes back parameters that are new, and begins the start with those before.
    async fn start_without_the_new(&mut self, refused: &EngineError) -> Result<bool, EngineError> {
        if !self.take_back(refused)? {
            return Ok(false);
        }
        self.configure().await?;
        self.begin_start(StartMode::Normal).await?;
        Ok(true)
    }

    /// Whether the start waits for its address: the compute driver ends what no instance may have there within seconds, and
    /// what else has it may end too. Meanwhile the status says so.
    fn waits_for_address(&mut self) -> bool {
        let Some(starting) = &mut self.starting else { return false };
        let site = &self.parts.site;
        let mut ports = std::iter::once(site.port).chain(self.parts.datastore.identity().tls_port);
        let Some(at) = ports.find_map(|port| Some(SocketAddr::new(site.address, port)).filter(is_taken)) else {
            return false;
        };
        let error = EngineError::new(Kind::Transient, format!("another process has the engine's address {at}"));
        starting.postpone(&error);
        let is_over = starting.is_over();
        self.say(ServiceState::Starting, &error.chain());
        if is_over {
            self.start_ended(Err(error));
        }
        true
    }

    /// Whether the engine found its address taken by a process that has lost it again since: then it is started once more,
    /// for as long as a start may take. The words are the C library's, which every engine repeats; a tenant who can write
    /// them into the engine's output delays with them only a start that has failed.
    fn had_no_address(&mut self, error: &EngineError) -> bool {
        let Some(starting) = &mut self.starting else { return false };
        let is_taken = error.chain().contains(Errno::EADDRINUSE.desc()) && !starting.is_over();
        if is_taken {
            starting.postpone(error);
        }
        is_taken
    }

    /// Tells those who wait; one that failed is tried again after a while.
    pub(super) fn start_ended(&mut self, result: Result<(), EngineError>) {
        self.parts.log.end();
        let Some(starting) = self.starting.take() else { return };
        if let Err(error) = &result {
            error!(error = error.chain(), "the engine cannot be started");
            let asked = !starting.replies.is_empty();
            self.say(if asked { ServiceState::Failed } else { ServiceState::Crashed }, &error.chain());
            if self.wanted {
                self.plan_restart();
            }
        }
        tell(starting.replies, &result);
    }

    /// Nobody waits for the start any more, since something else came.
    pub(super) fn give_up_start(&mut self, reason: &str) {
        self.parts.log.end();
        if let Some(starting) = self.starting.take() {
            tell(starting.replies, &Err(EngineError::new(Kind::Transient, reason)));
        }
    }
}

/// Whether the engine could not listen, since another process has its address. It is bound as engines do it, and nobody
/// is listened to.
fn is_taken(address: &SocketAddr) -> bool {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let bound = socket.and_then(|socket| socket.set_reuseaddr(true).and_then(|()| socket.bind(*address)));
    bound.is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

fn tell(replies: Vec<Reply>, result: &Result<(), EngineError>) {
    for reply in replies {
        let copy = match result {
            Ok(()) => Ok(()),
            Err(error) => Err(EngineError::new(error.kind(), error.chain())),
        };
        // Whoever asked may have gone.
        let _ = reply.send(copy);
    }
}
