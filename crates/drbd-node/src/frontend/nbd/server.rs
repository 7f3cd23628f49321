//! Listening, and the handshake of each client in a short-lived thread.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::doorway::OpenError;
use crate::mailbox::Mailbox;

use super::super::{Attached, Frontend, Notice, Session, Volume, VolumeHandle};
use super::address::{Address, Stream};
use super::codec::rep;
use super::connection::Connection;
use super::export_info;
use super::handshake::{ExportInfo, Exports, Handshake, Refused, Step};

/// How long a handshake may take, without the time that opening the volume takes.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// How long opening may take: auto-promote-timeout is 60 s at most (state machine, section 10.3).
const OPENING: Duration = Duration::from_secs(90);
/// Handshakes at the same time; further clients are turned away.
const HANDSHAKES: usize = 64;
/// Bytes received at once during the handshake.
const PORTION: usize = 4096;

/// The volumes that can be chosen, by resource and number.
#[derive(Default)]
struct Directory {
    volumes: RwLock<BTreeMap<(Arc<str>, u16), VolumeHandle>>,
}

/// Canonical name of a volume's export.
fn export_name(volume: &Volume) -> String {
    format!("{}/{}", volume.resource, number(volume))
}

fn number(volume: &Volume) -> u16 {
    volume.volume.to_wire()
}

impl Directory {
    fn handle(&self, name: &str) -> Option<VolumeHandle> {
        let volumes = self.volumes.read().unwrap_or_else(PoisonError::into_inner);
        let mut fitting = volumes.iter().filter(|((resource, number), _)| {
            name.is_empty()
                || name == &**resource
                || name
                    .strip_prefix(&**resource)
                    .and_then(|rest| rest.strip_prefix('/'))
                    .is_some_and(|rest| rest == number.to_string())
        });
        let (_, only) = fitting.next()?;
        fitting.next().is_none().then(|| only.clone())
    }
}

impl Exports for Directory {
    fn list(&self) -> Vec<String> {
        let volumes = self.volumes.read().unwrap_or_else(PoisonError::into_inner);
        volumes.values().map(|v| export_name(v.volume())).collect()
    }

    fn find(&self, name: &str) -> Option<ExportInfo> {
        let handle = self.handle(name)?;
        Some(export_info(
            &export_name(handle.volume()),
            &handle.limits(),
            false,
        ))
    }
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    fn bind(address: &Address) -> io::Result<Listener> {
        match address {
            Address::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                // Whoever can connect can write to the device.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Unix(listener))
            }
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Tcp(listener))
            }
        }
    }

    fn local(&self, asked: &Address) -> Address {
        match self {
            Listener::Unix(_) => asked.clone(),
            Listener::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| asked.clone(), Address::Tcp),
        }
    }

    fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Ok(Stream::Unix(stream))
            }
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Listener::Unix(listener) => listener.as_fd(),
            Listener::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// Removes a socket that nobody listens on any more, and nothing else.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if is_socket {
        match UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        }
    }
    Ok(())
}

/// An NBD server for all volumes of the daemon. Dropping it ends the listening; clients that chose an export stay.
pub struct NbdFrontend {
    directory: Arc<Directory>,
    addresses: Vec<Address>,
    stop: Arc<OwnedFd>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl NbdFrontend {
    /// Listens at these addresses.
    ///
    /// # Errors
    /// When one of them cannot be used; the error names it.
    pub fn start(addresses: &[Address]) -> io::Result<NbdFrontend> {
        let mut listeners = Vec::new();
        let mut local = Vec::new();
        for address in addresses {
            let listener = Listener::bind(address)
                .map_err(|e| io::Error::new(e.kind(), format!("NBD server at {address}: {e}")))?;
            local.push(listener.local(address));
            listeners.push(listener);
        }
        let directory = Arc::new(Directory::default());
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let thread = {
            let (directory, stop) = (directory.clone(), stop.clone());
            std::thread::Builder::new()
                .name("nbd-listen".into())
                .spawn(move || listen(&listeners, &directory, &stop))?
        };
        Ok(NbdFrontend {
            directory,
            addresses: local,
            stop,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Where the server listens, with the ports the kernel chose.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }
}

impl Drop for NbdFrontend {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        for address in &self.addresses {
            if let Address::Unix(path) = address {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

impl Frontend for NbdFrontend {
    fn name(&self) -> &'static str {
        "nbd"
    }

    fn attach(&self, volume: VolumeHandle) -> io::Result<Box<dyn Attached>> {
        let name = export_name(volume.volume());
        let place = match self.addresses.first() {
            Some(Address::Unix(path)) => format!("nbd+unix:///{name}?socket={}", path.display()),
            Some(Address::Tcp(address)) => format!("nbd://{address}/{name}"),
            None => return Err(io::Error::other("the NBD server has no address")),
        };
        let key = (volume.volume().resource.clone(), number(volume.volume()));
        let mut volumes = self
            .directory
            .volumes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        volumes.insert(key.clone(), volume);
        Ok(Box::new(Export {
            directory: self.directory.clone(),
            key,
            place,
            socket: self.addresses.iter().find_map(|a| match a {
                Address::Unix(path) => Some(path.clone()),
                Address::Tcp(_) => None,
            }),
        }))
    }
}

/// A volume on offer.
struct Export {
    directory: Arc<Directory>,
    key: (Arc<str>, u16),
    place: String,
    socket: Option<PathBuf>,
}

impl Attached for Export {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn path(&self) -> Option<PathBuf> {
        self.socket.clone()
    }

    fn detach(self: Box<Self>) {
        let mut volumes = self
            .directory
            .volumes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        volumes.remove(&self.key);
    }
}

fn listen(listeners: &[Listener], directory: &Arc<Directory>, stop: &OwnedFd) {
    let busy = Arc::new(AtomicUsize::new(0));
    loop {
        let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
        fds.extend(listeners.iter().map(|l| PollFd::new(l, PollFlags::IN)));
        if let Err(e) = poll(&mut fds, None) {
            if e == rustix::io::Errno::INTR {
                continue;
            }
            tracing::error!("NBD server stops listening: poll: {e}");
            return;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.first() == Some(&true) {
            return;
        }
        for (listener, _) in listeners
            .iter()
            .zip(ready.iter().skip(1))
            .filter(|(_, r)| **r)
        {
            match listener.accept() {
                Ok(stream) => greet(stream, directory, &busy),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => {
                    // Most likely out of descriptors: do not spin.
                    tracing::warn!("NBD server cannot accept a client: {e}");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

/// Leads a client through the handshake in a thread of its own.
fn greet(stream: Stream, directory: &Arc<Directory>, busy: &Arc<AtomicUsize>) {
    if busy.fetch_add(1, Ordering::Relaxed) >= HANDSHAKES {
        busy.fetch_sub(1, Ordering::Relaxed);
        tracing::warn!("NBD server turns a client away: {HANDSHAKES} handshakes are under way");
        return;
    }
    let (directory, counter) = (directory.clone(), busy.clone());
    let thread = std::thread::Builder::new()
        .name("nbd-handshake".into())
        .spawn(move || {
            if let Err(e) = shake_hands(stream, &directory) {
                tracing::info!("NBD client left during the handshake: {e}");
            }
            counter.fetch_sub(1, Ordering::Relaxed);
        });
    if let Err(e) = thread {
        busy.fetch_sub(1, Ordering::Relaxed);
        tracing::warn!("NBD server cannot serve a client: {e}");
    }
}

fn shake_hands(mut stream: Stream, directory: &Directory) -> io::Result<()> {
    stream.set_timeout(Some(HANDSHAKE))?;
    let mut deadline = Instant::now() + HANDSHAKE;
    let (mut input, mut out) = (Vec::new(), Vec::new());
    let mut handshake = Handshake::new(&mut out);
    loop {
        stream.write_all(&out)?;
        out.clear();
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let step = handshake.input(&mut input, directory, &mut out);
        match step.map_err(io::Error::other)? {
            Step::Send => {}
            Step::Leave => return stream.write_all(&out),
            Step::More => {
                let mut portion = [0; PORTION];
                let n = stream.read(&mut portion)?;
                if n == 0 {
                    // Looking and leaving without a word is what many clients do.
                    return Ok(());
                }
                input.extend_from_slice(portion.get(..n).unwrap_or_default());
            }
            Step::Open { name } => {
                let opened = match directory.handle(&name) {
                    Some(handle) => open(&handle, &name).map(|(s, write)| (handle, s, write)),
                    None => Err(Refused {
                        code: rep::ERR_UNKNOWN,
                        text: "it is gone".into(),
                    }),
                };
                deadline = Instant::now() + HANDSHAKE;
                let (handle, session, write) = match opened {
                    Ok(opened) => opened,
                    Err(refused) => {
                        handshake
                            .opened(Err(refused), &mut out)
                            .map_err(io::Error::other)?;
                        continue;
                    }
                };
                let export = export_info(&name, &handle.limits(), !write);
                let agreed = handshake
                    .opened(Ok(&export), &mut out)
                    .map_err(io::Error::other)?;
                let Some(agreed) = agreed else { continue };
                stream.write_all(&out)?;
                stream.set_timeout(None)?;
                tracing::debug!(write, "drbd {name}: an NBD client has opened the volume");
                let fd = Arc::new(OwnedFd::from(stream));
                let guest = Connection::new(fd, export, agreed.structured, write, &input, session);
                handle.install(Box::new(guest));
                return Ok(());
            }
        }
    }
}

/// Opens for writing, or else for reading. The flag says which.
fn open(handle: &VolumeHandle, name: &str) -> Result<(Session, bool), Refused> {
    let failed = |e: io::Error| Refused {
        code: rep::ERR_SHUTDOWN,
        text: e.to_string(),
    };
    let reason = match try_open(handle, true).map_err(failed)? {
        Ok(session) => return Ok((session, true)),
        Err(reason) => reason,
    };
    match try_open(handle, false).map_err(failed)? {
        Ok(session) => Ok((session, false)),
        Err(_) => Err(Refused {
            code: rep::ERR_POLICY,
            text: format!("{name}: {reason}"),
        }),
    }
}

fn try_open(handle: &VolumeHandle, write: bool) -> io::Result<Result<Session, OpenError>> {
    let mailbox = Mailbox::new()?;
    let session = handle.open(write, false, mailbox.sender());
    let deadline = Instant::now() + OPENING;
    let mut notices = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        mailbox.wait(&mut notices, Some(left))?;
        for notice in notices.drain(..) {
            match notice {
                Notice::Opened(result) => return Ok(result.map(|()| session)),
                Notice::Gone => return Err(io::Error::other("the volume is being removed")),
                _ => {}
            }
        }
    }
}
