//! Frontends: how applications reach a volume - NBD, FUSE with a loop device, ublk.
//!
//! A [`Frontend`] is told about every volume ([`Frontend::attach`]) and serves it, in one of two ways:
//!
//! * **In threads of its own.** It opens a [`Session`] through its [`VolumeHandle`], submits [`Request`]s, and hears
//!   [`Notice`]s in a [`Mailbox`](crate::mailbox::Mailbox) of its own, whose descriptor can be polled. A reactor
//!   that is awake is not woken again, so the cost of a request is one short lock on each way.
//! * **Inside the reactor.** It hands over a [`Guest`] ([`VolumeHandle::install`]), typically one for each connection
//!   of an application after its handshake. The guest does its socket I/O on the reactor's ring and submits
//!   requests without any change of thread; everything that happens in one wake-up goes out with one system call.
//!
//! Data moves in buffers of the resource's [`Pool`]. For a write the frontend allocates a buffer
//! (`Purpose::Application`), fills it and gives it away with the request. For a read it gets the buffer with the
//! completion and drops it when the data is copied out or sent. When the pool is exhausted the frontend stops taking
//! requests until there is room ([`Pool::wake_on_release`], [`Guest::retry`]).
//!
//! A session is an *opener* in the sense of DRBD (state machine, section 10.3): opening for writing is what
//! auto-promote looks at. Open when the application opens, close when it closes. When a session is dropped or a guest
//! ends, its requests are still carried out, and the opener goes away after the last of them.

pub mod choose;
mod device_users;
pub mod file_volume;
pub mod fuse;
pub mod links;
pub mod loopdev;
pub mod nbd;
mod programs;
mod requests;
pub mod ublk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::doorway::{IoError, Limits, OpenError, Sector, VolumeNr};
use crate::mailbox::Sender;
use crate::pool::{Buf, BufMut, Pool, Purpose};
use crate::reactor::Message;
use crate::ring::{Completion, Op, OpKey};

/// A kind of frontend: makes a volume usable for applications.
pub trait Frontend: Send + Sync {
    /// Short name for options and log lines: `nbd`, `fuse`, `ublk`.
    fn name(&self) -> &'static str;

    /// A volume was created (`new-minor`). Called in a thread that may block for a moment, not in the reactor. The
    /// volume may have size 0 for now ([`VolumeHandle::limits`]).
    ///
    /// # Errors
    /// When the volume cannot be offered. This is logged with the frontend's name and the volume; other frontends go on.
    fn attach(&self, volume: VolumeHandle) -> io::Result<Box<dyn Attached>>;

    /// Whether a file or device is served by this very process in a way that it must not use it itself: what it waits
    /// for could then wait for it.
    fn serves(&self, path: &Path) -> bool {
        let _ = path;
        false
    }
}

/// A volume that a frontend offers to applications.
pub trait Attached: Send {
    /// Where applications find it: a device node or an address, for log lines.
    fn place(&self) -> String;

    /// The block device of this volume on this node, if the frontend makes one.
    fn device(&self) -> Option<PathBuf> {
        None
    }

    /// What links to the volume point at: the device, the file, or the socket of a server.
    fn path(&self) -> Option<PathBuf> {
        self.device()
    }

    /// A demotion is wanted. Where the frontend opens the volume on behalf of users it can only watch, it closes it now if they
    /// have gone, and returns when that is done. May block for a moment.
    fn release_unused(&self) {}

    /// The volume is being deleted (`del-minor`, `down`; nobody has it open): give up threads, devices and sockets
    /// before returning.
    fn detach(self: Box<Self>);
}

/// Which volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    /// Name of the resource.
    pub resource: Arc<str>,
    /// Number of the volume in the resource.
    pub volume: VolumeNr,
    /// Minor number, as in `/dev/drbdN`.
    pub minor: u32,
}

/// A request of an application. Ranges are multiples of [`Limits::logical_block`] and at most as long as the limits say;
/// others complete with [`IoError::Invalid`].
#[derive(Debug)]
pub enum Request {
    /// Read `len` bytes.
    Read {
        /// First sector.
        sector: Sector,
        /// Length in bytes.
        len: u32,
    },
    /// Write the whole of `data`.
    Write {
        /// First sector.
        sector: Sector,
        /// The data.
        data: Buf,
        /// On stable storage when complete.
        fua: bool,
    },
    /// Make everything that completed before durable.
    Flush,
    /// Forget the content of the range.
    Discard {
        /// First sector.
        sector: Sector,
        /// Length in bytes.
        len: u32,
    },
    /// Make the range read as zeroes.
    WriteZeroes {
        /// First sector.
        sector: Sector,
        /// Length in bytes.
        len: u32,
        /// Space may be given back.
        unmap: bool,
    },
}

/// What a session hears.
#[derive(Debug)]
pub enum Notice {
    /// The answer to opening; always the first notice. After an error nothing else follows.
    Opened(Result<(), OpenError>),
    /// A request has ended. Requests end in any order.
    Done {
        /// What was given with the request.
        tag: u64,
        /// Outcome.
        result: Result<(), IoError>,
        /// The data of a read that succeeded.
        data: Option<Buf>,
    },
    /// The limits of the volume have changed: a new size, or it may be written now or not any more.
    Limits(Limits),
    /// The volume is going away. Close; requests submitted from now on fail.
    Gone,
}

/// A volume as a frontend sees it.
#[derive(Clone)]
pub struct VolumeHandle {
    shared: Arc<VolumeShared>,
}

/// What handles, sessions and the reactor have in common.
pub(crate) struct VolumeShared {
    pub(crate) volume: Volume,
    pub(crate) pool: Pool,
    pub(crate) reactor: Sender<Message>,
    pub(crate) limits: Mutex<Limits>,
}

/// What frontends say to the reactor.
pub(crate) enum ToVolume {
    Open {
        session: u64,
        volume: VolumeNr,
        write: bool,
        nonblock: bool,
        notices: Sender<Notice>,
    },
    Submit {
        session: u64,
        tag: u64,
        request: Request,
    },
    Close {
        session: u64,
    },
    Install {
        volume: VolumeNr,
        guest: Box<dyn Guest>,
    },
}

impl VolumeHandle {
    pub(crate) fn new(volume: Volume, pool: Pool, reactor: Sender<Message>) -> VolumeHandle {
        let limits = Mutex::new(Limits::default());
        VolumeHandle {
            shared: Arc::new(VolumeShared {
                volume,
                pool,
                reactor,
                limits,
            }),
        }
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        *self
            .shared
            .limits
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Which volume this is.
    pub fn volume(&self) -> &Volume {
        &self.shared.volume
    }

    /// Where buffers come from.
    pub fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    /// The limits now. Sessions and guests hear of changes; a size of 0 means that the volume cannot be used yet.
    pub fn limits(&self) -> Limits {
        *self
            .shared
            .limits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the volume. The answer comes as [`Notice::Opened`]; with `nonblock` it does not wait for
    /// `auto-promote-timeout`.
    pub fn open(&self, write: bool, nonblock: bool, notices: Sender<Notice>) -> Session {
        let session = crate::reactor::next_session();
        let volume = self.shared.volume.volume;
        let open = ToVolume::Open {
            session,
            volume,
            write,
            nonblock,
            notices,
        };
        self.shared.reactor.send(Message::Volume(open));
        Session {
            session,
            reactor: self.shared.reactor.clone(),
        }
    }

    /// Hands a guest over to the reactor, which starts it soon. It is dropped there if the volume is gone.
    pub fn install(&self, guest: Box<dyn Guest>) {
        let volume = self.shared.volume.volume;
        self.shared
            .reactor
            .send(Message::Volume(ToVolume::Install { volume, guest }));
    }
}

/// An opener of a volume. Dropping it closes.
pub struct Session {
    session: u64,
    reactor: Sender<Message>,
}

impl Session {
    /// Submits a request; it ends with one [`Notice::Done`] that carries the tag. Requests before
    /// [`Notice::Opened`] fail.
    pub fn submit(&self, tag: u64, request: Request) {
        let session = self.session;
        self.reactor.send(Message::Volume(ToVolume::Submit {
            session,
            tag,
            request,
        }));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reactor.send(Message::Volume(ToVolume::Close {
            session: self.session,
        }));
    }
}

/// A frontend inside the reactor. All calls come from the reactor's thread and must not block.
///
/// A guest opens the volume as often as the application behind it does ([`GuestContext::open`]): a connection of NBD
/// is one opener, a FUSE file has one for each program that has it open. It lives until it calls
/// [`GuestContext::end`]. After that, and after [`Notice::Gone`] at the latest when its last operation and request
/// have ended, it is dropped.
pub trait Guest: Send {
    /// The first call: start receiving, open the volume.
    fn start(&mut self, cx: &mut GuestContext<'_>);

    /// An operation started with [`GuestContext::push`] has ended.
    fn complete(&mut self, cx: &mut GuestContext<'_>, completion: Completion<u64>);

    /// The answer to [`GuestContext::open`]. After an error the opener does not exist.
    fn opened(&mut self, cx: &mut GuestContext<'_>, opener: u64, result: Result<(), OpenError>);

    /// A notice of the volume, any but [`Notice::Opened`].
    fn notice(&mut self, cx: &mut GuestContext<'_>, notice: Notice);

    /// There may be buffers again after [`GuestContext::alloc`] gave none.
    fn retry(&mut self, cx: &mut GuestContext<'_>);

    /// Called once before the reactor submits and sleeps, if anything else of this guest was called since the last
    /// time: all answers of one wake-up go out with one operation.
    fn settle(&mut self, cx: &mut GuestContext<'_>);
}

/// What a guest can do. Nothing here calls back into the guest at once.
pub struct GuestContext<'a> {
    pub(crate) host: &'a mut dyn GuestHost,
}

/// The reactor as a guest's context sees it.
pub(crate) trait GuestHost {
    fn push(&mut self, token: u64, op: Op) -> OpKey;
    fn cancel(&mut self, key: OpKey);
    fn alloc(&mut self, len: usize, purpose: Purpose) -> Option<BufMut>;
    fn open(&mut self, opener: u64, write: bool, nonblock: bool);
    fn close(&mut self, opener: u64);
    fn submit(&mut self, opener: u64, tag: u64, request: Request);
    fn handle(&self) -> &VolumeHandle;
    fn end(&mut self);
}

impl GuestContext<'_> {
    /// Starts an operation on the reactor's ring.
    pub fn push(&mut self, token: u64, op: Op) -> OpKey {
        self.host.push(token, op)
    }

    /// Asks to end an operation early; its completion still comes.
    pub fn cancel(&mut self, key: OpKey) {
        self.host.cancel(key);
    }

    /// A buffer for the data of a write; if there is none, [`Guest::retry`] is called when it makes sense to ask again.
    pub fn alloc(&mut self, len: usize) -> Option<BufMut> {
        self.host.alloc(len, Purpose::Application)
    }

    /// Opens the volume once more, under a name that the guest chooses and does not use already; [`Guest::opened`]
    /// follows.
    pub fn open(&mut self, opener: u64, write: bool, nonblock: bool) {
        self.host.open(opener, write, nonblock);
    }

    /// An opener goes away, after the last of its requests, of whose ends the guest does not hear any more. The name may be
    /// used again at once.
    pub fn close(&mut self, opener: u64) {
        self.host.close(opener);
    }

    /// Submits a request of an opener that was let in; it ends with one [`Notice::Done`] that carries the tag.
    pub fn submit(&mut self, opener: u64, tag: u64, request: Request) {
        self.host.submit(opener, tag, request);
    }

    /// The volume.
    pub fn volume(&self) -> &VolumeHandle {
        self.host.handle()
    }

    /// The guest has finished: its operations are cancelled, its requests are still carried out, then the opener and
    /// the guest go away.
    pub fn end(&mut self) {
        self.host.end();
    }
}
