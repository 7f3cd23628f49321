//! Network namespaces: a connection lives in that of the process whose command gave it its first path.
//!
//! A [`Netns`] is always another one than the daemon's own. Whoever holds one keeps it alive, and so do sockets in it;
//! that nobody else uses it any more has to be looked up ([`Netns::is_used`]).

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

mod users;

/// Device and inode: names a namespace as long as somebody keeps it alive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Id {
    dev: u64,
    ino: u64,
}

/// A network namespace, not the daemon's own.
#[derive(Debug)]
pub struct Netns {
    file: File,
    id: Id,
    /// Who used it when that was looked up last.
    user: Mutex<Option<users::User>>,
}

fn id_of(file: &File) -> io::Result<Id> {
    let meta = file.metadata()?;
    Ok(Id {
        dev: meta.dev(),
        ino: meta.ino(),
    })
}

impl Netns {
    /// That of a process; `None`: the daemon's own. The process must not end meanwhile.
    ///
    /// # Errors
    /// There is no such process, or this one may not know.
    pub fn of_process(pid: rustix::process::Pid) -> io::Result<Option<Netns>> {
        let file = File::open(format!("/proc/{}/ns/net", pid.as_raw_nonzero()))?;
        let id = id_of(&file)?;
        if id == id_of(&File::open("/proc/self/ns/net")?)? {
            return Ok(None);
        }
        Ok(Some(Netns {
            file,
            id,
            user: Mutex::new(None),
        }))
    }

    /// That of the process at the other end of a socket, which waits for an answer; `None`: the daemon's own.
    ///
    /// # Errors
    /// As [`of_process`](Self::of_process); and the client has gone.
    pub fn of_client(stream: &UnixStream) -> io::Result<Option<Netns>> {
        let pid = rustix::net::sockopt::socket_peercred(stream)?.pid;
        let found = Netns::of_process(pid)?;
        // Whoever still holds the other end has not ended before; so the number was not given to another process.
        if !crate::control::server::is_open(stream) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(found)
    }

    /// Its name.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Does something on a thread inside: sockets that are made there stay there.
    ///
    /// # Errors
    /// The system does not let this process in, which takes CAP_SYS_ADMIN, or there is no thread.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("drbd-netns".into());
            let thread = thread.spawn_scoped(scope, || {
                let fd = self.file.as_fd();
                move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))?;
                work()
            })?;
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread ended with a panic")))
        })
    }

    /// Whether a process is inside, or one other than this holds it open, or it is mounted somewhere. What cannot be
    /// looked at counts as a user.
    pub fn is_used(&self) -> bool {
        let mut user = self.user.lock().unwrap_or_else(PoisonError::into_inner);
        if user.as_ref().is_some_and(|user| user.is_still(self.id)) {
            return true;
        }
        *user = users::find(self.id);
        user.is_some()
    }
}

/// Does something in a namespace, or in the daemon's own.
///
/// # Errors
/// As [`Netns::inside`], and those of the work.
pub fn within<T: Send>(
    netns: Option<&Netns>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    match netns {
        Some(netns) => netns.inside(work),
        None => work(),
    }
}
