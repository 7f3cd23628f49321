//! The daemon's side of the control socket: a thread for each client, so that nobody waits for a slow one.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drbd_engine::status::Object;
use rustix::fs::{FlockOperation, flock};

use super::protocol::{Answer, Event, MAX_REQUEST, Request, VERSION};
use crate::node::Node;
use crate::reactor::Observed;
use crate::reactor::observer::{Nothing, OBSERVER_BACKLOG, observer};

/// Clients that are served at a time.
const MAX_CLIENTS: usize = 512;
/// Result code for a request that cannot be understood.
const INVALID_REQUEST: i32 = 162;
/// Result code at the end of the events of an observer that did not keep up: interrupted.
const FELL_BEHIND: i32 = 129;
/// Result code for a client too many: no memory for it.
const TOO_MANY: i32 = 122;
/// Result code of success.
const NO_ERROR: i32 = 101;

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another daemon does.
    #[error("another daemon listens on {}; give this one another socket with --control", .0.display())]
    Busy(PathBuf),
    /// The system refuses.
    #[error("cannot listen on {}: {error}", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// A control socket. It is removed when this is dropped.
pub struct Server {
    path: PathBuf,
    listener: UnixListener,
    backlog: usize,
    _lock: File,
}

impl Server {
    /// Listens on a socket, whose directory is made if needed. What a dead daemon has left there is replaced.
    ///
    /// # Errors
    /// When another daemon listens there, or the system refuses.
    pub fn bind(path: &Path) -> Result<Server, ListenError> {
        let failed = |error| ListenError::System {
            path: path.to_owned(),
            error,
        };
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)
                .map_err(failed)?;
        }
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = File::create(&lock_path).map_err(failed)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(ListenError::Busy(path.to_owned()));
        }
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Server {
            path: path.to_owned(),
            listener,
            backlog: OBSERVER_BACKLOG,
            _lock: lock,
        })
    }

    /// How many events an observer may leave unread before it is given up, and told so.
    #[must_use]
    pub fn with_backlog(self, backlog: usize) -> Server {
        let mut server = self;
        server.backlog = backlog;
        server
    }

    /// Lets a group use the socket as well, by name or number. Its members can do with DRBD what root can.
    ///
    /// # Errors
    /// There is no such group, or the system refuses.
    pub fn admit_group(&self, group: &str) -> io::Result<()> {
        let id = group_id(group, &fs::read_to_string("/etc/group").unwrap_or_default())
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("no group '{group}'"))
            })?;
        std::os::unix::fs::chown(&self.path, None, Some(id))?;
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o660))
    }

    /// Serves clients for ever, each in a thread of its own.
    pub fn run(&self, node: &Arc<Node>) {
        let clients = Arc::new(());
        for stream in self.listener.incoming() {
            let mut stream = match stream {
                Ok(stream) => stream,
                Err(e) => {
                    tracing::warn!("control socket: {e}");
                    std::thread::sleep(std::time::Duration::from_millis(100));
                    continue;
                }
            };
            let client = clients.clone();
            if Arc::strong_count(&clients) > MAX_CLIENTS + 1 {
                // It may not read it.
                let _ = stream.set_nonblocking(true);
                let text = "too many clients: end some, for example of events2".to_owned();
                let _ = reply(&mut stream, TOO_MANY, vec![text]);
                continue;
            }
            let (node, backlog) = (node.clone(), self.backlog);
            let thread = std::thread::Builder::new().name("drbd-control".into());
            let serve = move || {
                serve(&node, stream, backlog);
                drop(client);
            };
            if let Err(e) = thread.spawn(serve) {
                tracing::warn!("control socket: no thread for a client: {e}");
            }
        }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The number of a group; `groups` is the content of `/etc/group`.
fn group_id(group: &str, groups: &str) -> Option<u32> {
    let listed = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    });
    listed.or_else(|| group.parse().ok())
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn serve(node: &Node, stream: UnixStream, backlog: usize) {
    // The end of a client is no event.
    let _ = try_serve(node, stream, backlog);
}

fn try_serve(node: &Node, mut stream: UnixStream, backlog: usize) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = Vec::new();
        let limit = MAX_REQUEST as u64 + 1;
        if reader.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.len() > MAX_REQUEST {
            return reply(
                &mut stream,
                INVALID_REQUEST,
                vec!["the request is too long".into()],
            );
        }
        let request: Request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(e) => {
                reply(
                    &mut stream,
                    INVALID_REQUEST,
                    vec![format!("the request cannot be read: {e}")],
                )?;
                continue;
            }
        };
        if request.version != VERSION {
            let text = format!(
                "the daemon speaks version {VERSION} of the control protocol, not {}",
                request.version
            );
            reply(&mut stream, INVALID_REQUEST, vec![text])?;
            continue;
        }
        let which = request
            .arguments
            .first()
            .map(String::as_str)
            .filter(|name| *name != "all");
        match request.command.as_str() {
            "status" => {
                answer(&mut stream, &Answer::Status(node.status(which)))?;
                reply(&mut stream, NO_ERROR, Vec::new())?;
            }
            "show" => {
                answer(&mut stream, &Answer::Show(node.show(which)))?;
                reply(&mut stream, NO_ERROR, Vec::new())?;
            }
            "events2" => return observe(node, which, &mut stream, backlog),
            _ => {
                let outcome = node.command(&request, Some(&stream));
                reply(&mut stream, outcome.code.0, outcome.info)?;
            }
        }
    }
}

fn answer(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn reply(stream: &mut UnixStream, code: i32, info: Vec<String>) -> io::Result<()> {
    answer(stream, &Answer::Reply { code, info })
}

/// How often an observer without events is asked whether it is still there.
const HANG_UP_CHECK: Duration = Duration::from_millis(250);

/// The shortest time between two deliveries to one observer. What happens after a quiet time is told at once; of a stream
/// of events many share a delivery. Each delivery wakes this thread, the observer and whoever reads its output, and wakes
/// are what observers would take from the data path.
const PACE: Duration = Duration::from_millis(5);
/// A delivery is not collected beyond this size, in bytes.
const DELIVERY: usize = 256 << 10;

/// Events on their way to an observer.
struct Deliveries<'a> {
    stream: &'a mut UnixStream,
    lines: Vec<u8>,
    last: Option<Instant>,
}

impl Deliveries<'_> {
    fn add(&mut self, event: Event) -> io::Result<()> {
        serde_json::to_writer(&mut self.lines, &Answer::Event(event))?;
        self.lines.push(b'\n');
        if self.lines.len() < DELIVERY {
            return Ok(());
        }
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        if !self.lines.is_empty() {
            self.stream.write_all(&self.lines)?;
            self.lines.clear();
            self.last = Some(Instant::now());
        }
        Ok(())
    }

    /// Lets more come together, if something was delivered a moment ago.
    fn pace(&self) {
        if let Some(last) = self.last {
            std::thread::sleep(PACE.saturating_sub(last.elapsed()));
        }
    }
}

fn observe(
    node: &Node,
    which: Option<&str>,
    stream: &mut UnixStream,
    backlog: usize,
) -> io::Result<()> {
    let (observer, observed) = observer(backlog);
    let mut snapshots = node.observe(which, &observer);
    drop(observer);
    let mut out = Deliveries {
        stream,
        lines: Vec::new(),
        last: None,
    };
    if snapshots == 0 {
        out.add(Event::SnapshotsEnd)?;
    }
    // Changes of resources that are shown already may come between the snapshots of others.
    let mut early = Vec::new();
    let mut which = which.map(str::to_owned);
    loop {
        let observation = match observed.next(Duration::ZERO) {
            Err(Nothing::Timeout) => {
                out.send()?;
                out.pace();
                observed.next(HANG_UP_CHECK)
            }
            there => there,
        };
        let observation = match observation {
            Ok(observation) => observation,
            Err(Nothing::Timeout) if is_open(out.stream) => continue,
            Err(Nothing::Behind) => {
                out.send()?;
                let text = "this observer fell behind, events are lost: start anew".to_owned();
                return reply(out.stream, FELL_BEHIND, vec![text]);
            }
            // Nobody listens any more, or the daemon ends.
            Err(Nothing::Timeout | Nothing::Ended) => return out.send(),
        };
        let Some(event) = event(observation, which.as_deref()) else {
            continue;
        };
        if let (Event::Renamed { new, .. }, Some(which)) = (&event, &mut which) {
            which.clone_from(new);
        }
        if snapshots > 0 {
            match event {
                Event::Snapshot(_) | Event::Gone { .. } => {
                    snapshots -= 1;
                    out.add(event)?;
                }
                other => early.push(other),
            }
            if snapshots == 0 {
                out.add(Event::SnapshotsEnd)?;
                for event in early.drain(..) {
                    out.add(event)?;
                }
            }
        } else {
            out.add(event)?;
        }
    }
}

/// Whether the client is still there. It has nothing to say.
pub(crate) fn is_open(stream: &UnixStream) -> bool {
    let mut byte = [0];
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    match rustix::net::recv(stream, &mut byte, flags) {
        Ok((0, _)) => false,
        Ok(_) => true,
        Err(error) => error == rustix::io::Errno::AGAIN || error == rustix::io::Errno::INTR,
    }
}

fn event(observed: Observed, which: Option<&str>) -> Option<Event> {
    let name = match &observed {
        Observed::Snapshot(status) => status.name.clone(),
        Observed::Change { resource, .. }
        | Observed::Call { resource, .. }
        | Observed::Renamed { old: resource, .. }
        | Observed::Gone(resource) => resource.to_string(),
    };
    if which.is_some_and(|which| which != name) {
        return None;
    }
    Some(match observed {
        Observed::Snapshot(status) => Event::Snapshot(Box::new((&status).into())),
        Observed::Gone(_) => Event::Gone { resource: name },
        Observed::Renamed { new, .. } => Event::Renamed {
            resource: name,
            new: new.to_string(),
        },
        Observed::Call {
            handler,
            about: (peer, volume),
            response,
            ..
        } => Event::Helper {
            resource: name,
            helper: handler.to_owned(),
            peer: peer.map(|p| p.get()),
            volume: volume.and_then(|v| v.get()),
            status: response,
        },
        Observed::Change { change, .. } => {
            let (resource, continues) = (name, change.continues);
            match change.object {
                Object::Resource(info) => Event::Resource {
                    resource,
                    state: info.as_ref().map(Into::into),
                    continues,
                },
                Object::Connection { peer, info } => {
                    let (peer, state) = (peer.get(), info.as_ref().map(Into::into));
                    Event::Connection {
                        resource,
                        peer,
                        state,
                        continues,
                    }
                }
                Object::Device { volume, info } => {
                    let (volume, state) = (volume.to_wire(), info.as_ref().map(Into::into));
                    Event::Device {
                        resource,
                        volume,
                        state,
                        continues,
                    }
                }
                Object::PeerDevice { peer, volume, info } => {
                    let (peer, volume) = (peer.get(), volume.to_wire());
                    let state = info.as_ref().map(Into::into);
                    Event::PeerDevice {
                        resource,
                        peer,
                        volume,
                        state,
                        continues,
                    }
                }
                Object::Path {
                    peer,
                    path,
                    established,
                } => {
                    let (local, remote) = (path.local, path.remote);
                    Event::Path {
                        resource,
                        peer: peer.get(),
                        local,
                        remote,
                        established,
                        continues,
                    }
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::group_id;

    #[test]
    fn groups_by_name_and_number() {
        let groups = "root:x:0:\nhaclient:x:189:hacluster\nbroken:x:many:\n";
        assert_eq!(group_id("haclient", groups), Some(189));
        assert_eq!(group_id("root", groups), Some(0));
        assert_eq!(group_id("190", groups), Some(190));
        for unknown in ["hacluster", "broken", "ha", ""] {
            assert_eq!(group_id(unknown, groups), None, "{unknown}");
        }
    }
}
