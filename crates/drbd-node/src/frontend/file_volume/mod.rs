//! A volume with nothing behind it but a file: no resource, no peers, no engine.
//!
//! It serves frontends as a reactor does, guests included, so that they can be tested and measured alone. What a role
//! or a peer would decide - whether opening is allowed, whether requests fail - is set by hand.

mod host;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::doorway::{IoError, Limits, OpenError, Sector};
use crate::mailbox::{Mailbox, Sender};
use crate::pool::{Buf, BufMut, Pool, Purpose};
use crate::reactor::Message;
use crate::ring::{Fd, Memory, Op, OpKey, Part, Ring};

use super::{Guest, GuestHost, Notice, Request, Volume, VolumeHandle};

/// What is decided by hand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// Why opening for writing is refused.
    pub refuse_write: Option<OpenError>,
    /// Why opening for reading is refused.
    pub refuse_read: Option<OpenError>,
    /// What requests fail with.
    pub fail: Option<IoError>,
}

/// What was asked of the volume.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reads.
    pub reads: AtomicU64,
    /// Writes.
    pub writes: AtomicU64,
    /// Writes with FUA.
    pub fua: AtomicU64,
    /// Flushes.
    pub flushes: AtomicU64,
    /// Discards.
    pub discards: AtomicU64,
    /// Write-zeroes.
    pub zeroes: AtomicU64,
    /// Openers for writing, now.
    pub writers: AtomicU64,
    /// Openers for reading, now.
    pub readers: AtomicU64,
}

struct Control {
    policy: Mutex<Policy>,
    limits: Mutex<Limits>,
    changed: AtomicBool,
    stop: AtomicBool,
    counters: Counters,
}

/// A volume made of a file, and the thread that serves it. Dropping it ends both.
pub struct FileVolume {
    handle: VolumeHandle,
    control: Arc<Control>,
    mailbox: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl FileVolume {
    /// Serves `file` as a volume with these limits.
    ///
    /// # Errors
    /// When there is no io_uring or no thread.
    pub fn start(volume: Volume, file: File, limits: Limits) -> io::Result<FileVolume> {
        let mailbox = Mailbox::new()?;
        let pool = Pool::new(64 << 20);
        let handle = VolumeHandle::new(volume, pool.clone(), mailbox.sender());
        handle.set_limits(limits);
        let control = Arc::new(Control {
            policy: Mutex::default(),
            limits: Mutex::new(limits),
            changed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            counters: Counters::default(),
        });
        let sender = mailbox.sender();
        let (ready, outcome) = std::sync::mpsc::channel();
        let thread = {
            let (control, handle) = (control.clone(), handle.clone());
            std::thread::Builder::new()
                .name("file-volume".into())
                .spawn(move || {
                    let ring = match Ring::new(256) {
                        Ok(ring) => ring,
                        Err(e) => {
                            let _ = ready.send(Err(io::Error::other(e)));
                            return;
                        }
                    };
                    let _ = ready.send(Ok(()));
                    let core = Core {
                        ring,
                        file: Arc::new(OwnedFd::from(file)),
                        pool,
                        handle,
                        control,
                        calls: VecDeque::new(),
                        ended: Vec::new(),
                        openers: HashMap::new(),
                        starved: Vec::new(),
                    };
                    Host {
                        core,
                        guests: BTreeMap::new(),
                        touched: Vec::new(),
                        next_guest: 1,
                    }
                    .run(&mailbox);
                })?
        };
        outcome.recv().map_err(io::Error::other)??;
        Ok(FileVolume {
            handle,
            control,
            mailbox: sender,
            thread: Some(thread),
        })
    }

    /// The volume as frontends see it.
    pub fn handle(&self) -> &VolumeHandle {
        &self.handle
    }

    /// What was asked of it so far.
    pub fn counters(&self) -> &Counters {
        &self.control.counters
    }

    /// Changes what is decided by hand.
    pub fn set_policy(&self, policy: Policy) {
        *lock(&self.control.policy) = policy;
    }

    /// Changes the limits, which all openers hear.
    pub fn set_limits(&self, limits: Limits) {
        *lock(&self.control.limits) = limits;
        self.handle.set_limits(limits);
        self.control.changed.store(true, Ordering::SeqCst);
        self.mailbox.waker().wake();
    }
}

impl Drop for FileVolume {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::SeqCst);
        self.mailbox.waker().wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who asked, and who hears of it.
#[derive(Clone)]
enum Owner {
    Guest(u64),
    Session(Sender<Notice>),
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Opener {
    Guest(u64, u64),
    Session(u64),
}

enum Token {
    Mailbox,
    Guest(u64, u64),
    Io {
        owner: Owner,
        tag: u64,
        durable: bool,
    },
}

enum Call {
    Opened(u64, Result<(), OpenError>),
    Notice(Notice),
    Retry,
}

struct Core {
    ring: Ring<Token>,
    file: Fd,
    pool: Pool,
    handle: VolumeHandle,
    control: Arc<Control>,
    /// What guests have to hear, once nobody is inside of one.
    calls: VecDeque<(u64, Call)>,
    ended: Vec<u64>,
    openers: HashMap<Opener, (bool, Option<Sender<Notice>>)>,
    starved: Vec<u64>,
}

struct Running {
    guest: Box<dyn Guest>,
    keys: Vec<OpKey>,
    ending: bool,
}

struct Host {
    core: Core,
    guests: BTreeMap<u64, Running>,
    touched: Vec<u64>,
    next_guest: u64,
}

/// The host as one guest sees it.
struct Seat<'a> {
    core: &'a mut Core,
    keys: &'a mut Vec<OpKey>,
    guest: u64,
}

impl GuestHost for Seat<'_> {
    fn push(&mut self, token: u64, op: Op) -> OpKey {
        let key = self.core.ring.push(Token::Guest(self.guest, token), op);
        self.keys.push(key);
        key
    }

    fn cancel(&mut self, key: OpKey) {
        self.core.ring.cancel(key);
    }

    fn alloc(&mut self, len: usize, purpose: Purpose) -> Option<BufMut> {
        let buf = self.core.pool.alloc(len, purpose);
        if buf.is_none() {
            self.core.starved.push(self.guest);
        }
        buf
    }

    fn open(&mut self, opener: u64, write: bool, _nonblock: bool) {
        let result = self
            .core
            .open(Opener::Guest(self.guest, opener), write, None);
        self.core
            .calls
            .push_back((self.guest, Call::Opened(opener, result)));
    }

    fn close(&mut self, opener: u64) {
        self.core.close(Opener::Guest(self.guest, opener));
    }

    fn submit(&mut self, opener: u64, tag: u64, request: Request) {
        let opener = Opener::Guest(self.guest, opener);
        self.core
            .submit(opener, Owner::Guest(self.guest), tag, request);
    }

    fn handle(&self) -> &VolumeHandle {
        &self.core.handle
    }

    fn end(&mut self) {
        self.core.ended.push(self.guest);
    }
}

impl Core {
    fn gauge(&self, write: bool) -> &AtomicU64 {
        let counters = &self.control.counters;
        if write {
            &counters.writers
        } else {
            &counters.readers
        }
    }

    fn open(
        &mut self,
        opener: Opener,
        write: bool,
        notices: Option<Sender<Notice>>,
    ) -> Result<(), OpenError> {
        let policy = *lock(&self.control.policy);
        let refusal = if write {
            policy.refuse_write
        } else {
            policy.refuse_read
        };
        if let Some(e) = refusal {
            return Err(e);
        }
        self.openers.insert(opener, (write, notices));
        self.gauge(write).fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn close(&mut self, opener: Opener) {
        if let Some((write, _)) = self.openers.remove(&opener) {
            self.gauge(write).fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn submit(&mut self, opener: Opener, owner: Owner, tag: u64, request: Request) {
        let limits = *lock(&self.control.limits);
        let writes = !matches!(request, Request::Read { .. } | Request::Flush);
        let fits = |sector: Sector, len: u32, most: u32| {
            let block = u64::from(limits.logical_block.max(512));
            let (start, len) = (sector.0.saturating_mul(512), u64::from(len));
            let end = start.saturating_add(len);
            len > 0
                && len <= u64::from(most)
                && start % block == 0
                && len % block == 0
                && end <= limits.sectors.saturating_mul(512)
        };
        let valid = match &request {
            Request::Read { sector, len } => fits(*sector, *len, limits.max_io),
            Request::Write { sector, data, .. } => fits(
                *sector,
                u32::try_from(data.len()).unwrap_or(u32::MAX),
                limits.max_io,
            ),
            Request::Flush => true,
            Request::Discard { sector, len } => fits(*sector, *len, limits.max_discard),
            Request::WriteZeroes { sector, len, .. } => {
                fits(*sector, *len, limits.max_write_zeroes)
            }
        };
        let refusal = match self.openers.get(&opener) {
            None => Some(IoError::Io),
            Some((false, _)) if writes => Some(IoError::NotPrimary),
            Some(_) if !valid => Some(IoError::Invalid),
            Some(_) => lock(&self.control.policy).fail,
        };
        if let Some(e) = refusal {
            return self.tell(
                owner,
                Notice::Done {
                    tag,
                    result: Err(e),
                    data: None,
                },
            );
        }
        let counters = &self.control.counters;
        let count = |c: &AtomicU64| c.fetch_add(1, Ordering::SeqCst);
        let fd = self.file.clone();
        let mut durable = false;
        let op = match request {
            Request::Read { sector, len } => {
                count(&counters.reads);
                let Some(buf) = self.pool.alloc(len as usize, Purpose::Internal) else {
                    let result = Err(IoError::Io);
                    return self.tell(
                        owner,
                        Notice::Done {
                            tag,
                            result,
                            data: None,
                        },
                    );
                };
                let part = Part::all(Memory::Fill(buf));
                Op::Read {
                    fd,
                    offset: sector.0 * 512,
                    part,
                }
            }
            Request::Write { sector, data, fua } => {
                count(&counters.writes);
                if fua {
                    count(&counters.fua);
                }
                durable = fua;
                let part = Part::all(Memory::Shared(data));
                Op::Write {
                    fd,
                    offset: sector.0 * 512,
                    part,
                    durable: fua,
                }
            }
            Request::Flush => {
                count(&counters.flushes);
                Op::Flush { fd }
            }
            Request::Discard { sector, len } => {
                count(&counters.discards);
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                Op::Fallocate {
                    fd,
                    mode,
                    offset: sector.0 * 512,
                    len: u64::from(len),
                }
            }
            Request::WriteZeroes { sector, len, .. } => {
                count(&counters.zeroes);
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                Op::Fallocate {
                    fd,
                    mode,
                    offset: sector.0 * 512,
                    len: u64::from(len),
                }
            }
        };
        self.ring.push(
            Token::Io {
                owner,
                tag,
                durable,
            },
            op,
        );
    }

    fn tell(&mut self, owner: Owner, notice: Notice) {
        match owner {
            Owner::Guest(guest) => self.calls.push_back((guest, Call::Notice(notice))),
            Owner::Session(notices) => notices.send(notice),
        }
    }

    /// The outcome of a request: what the file could not move completely is an error.
    fn io_done(&mut self, owner: Owner, tag: u64, durable: bool, result: io::Result<u32>, op: Op) {
        let (result, data): (_, Option<Buf>) = match (result, op) {
            (Ok(n), Op::Read { part, .. }) if n as usize == part.len => match part.memory {
                Memory::Fill(buf) => (Ok(()), Some(buf.freeze())),
                _ => (Err(IoError::Io), None),
            },
            (Ok(n), Op::Write { part, .. }) if n as usize == part.len => (Ok(()), None),
            (Ok(_), Op::Flush { .. } | Op::Fallocate { .. }) => (Ok(()), None),
            (Err(e), _) => {
                tracing::debug!(durable, "file volume: {e}");
                let full = e.raw_os_error() == Some(libc::ENOSPC);
                (Err(if full { IoError::NoSpace } else { IoError::Io }), None)
            }
            _ => (Err(IoError::Io), None),
        };
        self.tell(owner, Notice::Done { tag, result, data });
    }
}
