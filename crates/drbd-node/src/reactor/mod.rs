//! The reactor: one thread that owns one resource - its engine, its sockets, its disks - and one ring.
//!
//! A turn of the loop takes everything that has happened (completions, messages, deadlines), feeds it to the
//! engine one event at a time and carries out the effects of each before the next, and then submits all
//! operations that came of it with one system call, in which it also waits. So the busier it is, the more
//! work one turn does. Only work that would keep the processor busy for long is spread over several turns.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use drbd_engine::resync_after::ResyncHold;
use drbd_engine::{
    CmdId, Command, Effect, Event, Instant, Limits, OpId, Path, Reply, ResourceStatus, status,
};
use drbd_proto::{NodeId, VolumeNr};

use crate::backing::{Backing, Disks};
use crate::clock;
use crate::frontend::{ToVolume, VolumeHandle};
use crate::mailbox::{Mailbox, Wake};
use crate::names::Names;
use crate::netns::Netns;
use crate::pool::Pool;
use crate::resyncs::Member;
use crate::ring::{Completion, Fd, NoRing, Op, OpKey, Ring};
use crate::transport::tcp::{self, Tcp};

mod effects;
mod engine;
mod guests;
mod handle;
pub mod observer;
mod openers;
mod requests;
#[cfg(test)]
mod tests;
mod upcall;

pub use engine::make_engine;
use guests::Guests;
pub(crate) use handle::Handle;
pub use handle::StartError;
pub use observer::Observer;
use openers::Openers;
use requests::Requests;
pub use upcall::Helper;

/// Submissions in one system call.
const RING_ENTRIES: u32 = 512;
/// How many short operations on files in memory are carried out in one turn: what comes of them is on its way to peers
/// and applications while the next are. With all of them in one turn, two nodes take turns instead of working side by
/// side; with one each, system calls take over.
const COPIES: usize = 6;
/// How long the end of a reactor waits for streams to close and requests to end.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// What decides: the engine, or a script in tests.
pub trait Core: Send {
    /// Something happened.
    fn handle(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>);
    /// When `Event::Tick` is due.
    fn next_deadline(&self) -> Option<Instant>;
    /// Everything that can be seen from outside.
    fn status(&self) -> ResourceStatus;
}

/// What an observer of a resource hears: first a snapshot, then every change in order.
#[derive(Clone, Debug)]
pub enum Observed {
    /// Everything as it is now.
    Snapshot(ResourceStatus),
    /// A change.
    Change {
        /// Name of the resource.
        resource: Arc<str>,
        /// What changed.
        change: Box<status::Change>,
    },
    /// A helper program is called.
    Call {
        /// Name of the resource.
        resource: Arc<str>,
        /// What for.
        handler: &'static str,
        /// Peer and volume it is about.
        about: About,
        /// Its exit code, when it has ended.
        response: Option<i32>,
    },
    /// The resource has another name from now on.
    Renamed {
        /// The name it had.
        old: Arc<str>,
        /// Its name.
        new: Arc<str>,
    },
    /// The resource does not exist any more.
    Gone(Arc<str>),
}

/// Peer and volume that a call of a helper program is about.
pub type About = (Option<NodeId>, Option<VolumeNr>);

/// What other threads say to a reactor.
pub(crate) enum Message {
    /// From a frontend.
    Volume(ToVolume),
    /// An administrator's command.
    Command {
        command: Command,
        reply: mpsc::Sender<Reply>,
    },
    /// `attach`, with the devices it needs.
    Attach {
        volume: VolumeNr,
        backing: Backing,
        command: Command,
        reply: mpsc::Sender<Reply>,
    },
    /// Where the sockets of a connection are made from now on; `None`: in the daemon's own network namespace.
    Network {
        peer: NodeId,
        netns: Option<Arc<Netns>>,
    },
    /// A volume is about to be created.
    AddVolume(VolumeHandle),
    /// A volume was deleted.
    RemoveVolume(VolumeNr),
    /// What can be seen now.
    Status(mpsc::Sender<ResourceStatus>),
    /// From now on tell this observer everything.
    Observe(Observer),
    /// A blocking disk operation has ended.
    Discarded { job: u32, result: io::Result<()> },
    /// A helper program has ended.
    Called { op: OpId, exit: i32 },
    /// Whether a volume has to wait with its resyncs.
    ResyncHold { volume: VolumeNr, hold: ResyncHold },
    /// The end.
    Stop,
}

/// What an operation on the ring is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Token {
    Wake,
    Disk(u32),
    Tcp(tcp::Token),
    Guest { guest: u64, token: u64 },
}

/// A name for a session, unique in the process.
pub(crate) fn next_session() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

struct Volume {
    handle: VolumeHandle,
    backing: Option<Backing>,
    limits: Limits,
}

/// A command under way.
struct Pending {
    reply: mpsc::Sender<Reply>,
    /// It is an attach that has put the backing devices of this volume in place.
    attach: Option<VolumeNr>,
}

/// A disk read that waits for a buffer.
struct WaitingRead {
    op: OpId,
    volume: VolumeNr,
    offset: u64,
    len: u32,
}

struct Reactor {
    names: Names,
    core: Box<dyn Core>,
    ring: Ring<Token>,
    mailbox: Mailbox<Message>,
    wake: Arc<dyn Wake>,
    wake_fd: Fd,
    pool: Pool,
    disks: Disks,
    tcp: Tcp,
    volumes: BTreeMap<VolumeNr, Volume>,
    openers: Openers,
    guests: Guests,
    requests: Requests,
    commands: HashMap<CmdId, Pending>,
    next_command: u64,
    observers: Vec<Observer>,
    waiting_reads: VecDeque<WaitingRead>,
    helper: Helper,
    /// What other resources of the node have to know of this one's resyncs.
    resyncs: Member,
    /// Calls of the helper program under way.
    calls: HashMap<OpId, (&'static str, About)>,
    /// The first path of each connection, for the helper program.
    paths: BTreeMap<NodeId, Path>,
    /// What the engine has to hear next.
    events: VecDeque<Event>,
    effects: Vec<Effect>,
    now: Instant,
    stopping: Option<Instant>,
}

/// The ring as the transport sees it.
struct TcpRing<'a>(&'a mut Ring<Token>);

impl tcp::Submit for TcpRing<'_> {
    fn push(&mut self, token: tcp::Token, op: Op) -> OpKey {
        self.0.push(Token::Tcp(token), op)
    }

    fn cancel(&mut self, key: OpKey) {
        self.0.cancel(key);
    }
}

impl Reactor {
    fn new(
        name: Arc<str>,
        core: Box<dyn Core>,
        mailbox: Mailbox<Message>,
        pool: Pool,
        helper: Helper,
        resyncs: Member,
    ) -> Result<Reactor, NoRing> {
        let ring = Ring::new(RING_ENTRIES)?;
        let sender = mailbox.sender();
        let wake = sender.waker();
        let report = Arc::new(move |job, result| sender.send(Message::Discarded { job, result }));
        let mut seed = [0; 8];
        let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
        let mut reactor = Reactor {
            tcp: Tcp::new(u64::from_ne_bytes(seed)),
            names: Names::new(name),
            core,
            ring,
            wake_fd: mailbox.descriptor(),
            mailbox,
            wake,
            pool,
            disks: Disks::new(report),
            volumes: BTreeMap::new(),
            openers: Openers::default(),
            guests: Guests::default(),
            requests: Requests::default(),
            commands: HashMap::new(),
            next_command: 1,
            observers: Vec::new(),
            waiting_reads: VecDeque::new(),
            helper,
            resyncs,
            calls: HashMap::new(),
            paths: BTreeMap::new(),
            events: VecDeque::new(),
            effects: Vec::new(),
            now: clock::now(),
            stopping: None,
        };
        reactor.listen_for_wakes();
        Ok(reactor)
    }

    fn listen_for_wakes(&mut self) {
        let op = Op::Poll {
            fd: self.wake_fd.clone(),
            events: libc::POLLIN as u32,
        };
        self.ring.push(Token::Wake, op);
    }

    fn run(&mut self) {
        let mut completions = Vec::new();
        let mut messages = Vec::new();
        loop {
            self.now = clock::now();
            self.ring.completions(&mut completions);
            for completion in completions.drain(..) {
                self.complete(completion);
            }
            self.mailbox.drain(&mut messages);
            for message in messages.drain(..) {
                self.hear(message);
            }
            self.with_tcp(|tcp, cx| tcp.handle_timeouts(cx));
            if self.core.next_deadline().is_some_and(|at| at <= self.now) {
                self.events.push_back(Event::Tick);
            }
            self.retry_reads();
            let more = self.settle();
            self.with_tcp(|tcp, cx| tcp.flush(cx));
            for job in self.disks.to_start() {
                self.ring.push(Token::Disk(job.job), job.op);
            }
            if self.is_over() {
                return;
            }
            if let Err(e) = self.sleep(more) {
                let head = self.head(None, None);
                tracing::error!("{head}: io_uring: {e}; the resource stops");
                return;
            }
        }
    }

    /// Feeds the engine until nothing is left to tell, guests included. `true`: there are copies for the next turn.
    fn settle(&mut self) -> bool {
        let mut copied = false;
        loop {
            while let Some(event) = self.next_event() {
                self.core.handle(self.now, event, &mut self.effects);
                let mut effects = std::mem::take(&mut self.effects);
                for effect in effects.drain(..) {
                    self.carry_out(effect);
                }
                self.effects = effects;
            }
            if self.run_guests() || !self.events.is_empty() {
                continue;
            }
            if !self.disks.has_copies() {
                return false;
            }
            // The peers can work on what they are sent while this thread copies.
            if copied || self.tcp.has_to_send() {
                return true;
            }
            self.disks.copy(COPIES);
            copied = true;
        }
    }

    fn next_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        if let Some(finished) = self.disks.next_finished() {
            return Some(effects::done(finished));
        }
        self.with_tcp(|tcp, cx| tcp.next_event(cx))
    }

    fn with_tcp<T>(&mut self, f: impl FnOnce(&mut Tcp, &mut tcp::Context<'_>) -> T) -> T {
        let mut ring = TcpRing(&mut self.ring);
        let mut cx = tcp::Context {
            ring: &mut ring,
            now: self.now,
            pool: &self.pool,
            wake: &self.wake,
            names: &self.names,
        };
        f(&mut self.tcp, &mut cx)
    }

    /// Submits everything, and waits unless there is `more` to do.
    fn sleep(&mut self, more: bool) -> io::Result<()> {
        let deadline = [
            self.core.next_deadline(),
            self.tcp.deadline(),
            self.stopping,
        ]
        .into_iter()
        .flatten()
        .min();
        let timeout = if more {
            Some(Duration::ZERO)
        } else if self.mailbox.prepare_sleep() {
            deadline.map(|at| at.since(clock::now()))
        } else {
            Some(Duration::ZERO)
        };
        // Disks answer in short sequence what was submitted together.
        let result = self.ring.wait_for(self.disks.busy(), timeout);
        self.mailbox.awake();
        result
    }

    fn complete(&mut self, completion: Completion<Token>) {
        match completion.token {
            Token::Wake => {
                self.mailbox.quiet();
                self.listen_for_wakes();
            }
            Token::Disk(job) => self.disks.complete(job, completion.result, completion.op),
            Token::Tcp(token) => {
                let (result, op) = (completion.result, completion.op);
                self.with_tcp(|tcp, cx| tcp.complete(cx, token, result, op));
            }
            Token::Guest { guest, token } => {
                let Completion {
                    key, result, op, ..
                } = completion;
                self.guest_complete(
                    guest,
                    Completion {
                        token,
                        key,
                        result,
                        op,
                    },
                );
            }
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Volume(message) => self.hear_frontend(message),
            Message::Command { command, reply } => self.command(
                command,
                Pending {
                    reply,
                    attach: None,
                },
            ),
            Message::Attach {
                volume,
                backing,
                command,
                reply,
            } => {
                let mut attach = None;
                if let Some(slot) = self.volumes.get_mut(&volume)
                    && slot.backing.is_none()
                {
                    slot.backing = Some(backing);
                    attach = Some(volume);
                }
                // Otherwise the engine refuses, and these devices are closed again.
                self.command(command, Pending { reply, attach });
            }
            Message::Network { peer, netns } => self.tcp.set_network(peer, netns),
            Message::AddVolume(handle) => {
                let volume = handle.volume().volume;
                let slot = Volume {
                    handle,
                    backing: None,
                    limits: Limits::default(),
                };
                self.volumes.entry(volume).or_insert(slot);
            }
            Message::RemoveVolume(volume) => {
                self.volumes.remove(&volume);
                self.volume_gone(volume);
            }
            Message::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Message::Observe(observer) => {
                if observer.tell(Observed::Snapshot(self.status())) {
                    self.observers.push(observer);
                }
            }
            Message::Discarded { job, result } => self.disks.helper_done(job, result),
            Message::Called { op, exit } => self.called(op, exit),
            Message::ResyncHold { volume, hold } => {
                self.events.push_back(Event::ResyncHold { volume, hold });
            }
            Message::Stop => {
                if self.stopping.is_none() {
                    self.stopping = Some(self.now + STOP_LIMIT);
                    self.with_tcp(|tcp, cx| tcp.close_all(cx));
                    let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
                    for volume in volumes {
                        self.volume_gone(volume);
                    }
                    self.observe(&Observed::Gone(self.names.resource().clone()));
                }
            }
        }
    }

    fn command(&mut self, command: Command, pending: Pending) {
        let cmd = CmdId(self.next_command);
        self.next_command += 1;
        if let Command::NewPeer { peer, name, .. } = &command {
            self.names.name_peer(*peer, name.clone());
        }
        if let Command::RenameResource { name } = &command {
            let new: Arc<str> = name.as_str().into();
            let old = self.names.rename(new.clone());
            self.observe(&Observed::Renamed { old, new });
        }
        self.commands.insert(cmd, pending);
        self.events.push_back(Event::Command { cmd, command });
    }

    /// Everything that can be seen, with what only the transport knows.
    fn status(&self) -> ResourceStatus {
        let mut status = self.core.status();
        for (peer, connection, ..) in &mut status.connections {
            connection.congested = self.tcp.is_congested(*peer);
        }
        status
    }

    fn observe(&mut self, what: &Observed) {
        self.observers
            .retain(|observer| observer.tell(what.clone()));
    }

    /// A buffer may have become free for a read that waits for one.
    fn retry_reads(&mut self) {
        while let Some(read) = self.waiting_reads.pop_front() {
            if !self.start_read(&read) {
                self.waiting_reads.push_front(read);
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.stopping.is_some_and(|limit| {
            let idle = self.disks.busy() == 0 && !self.tcp.is_closing();
            idle || limit <= self.now
        })
    }
}
