//! Where the processes of a node run: a thread that may have name spaces of its own.
//!
//! A child is in the name spaces of the thread that starts it. So each node has a thread, which
//! leaves the common name spaces first and then starts everything of that node. When our process
//! ends, however that comes about, the thread ends; then its children are killed, and with the
//! last of them its networks and mounts are gone.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use crate::{Context, Error, Result, netlink, spawn};

/// Which name spaces a place has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spaces {
    /// Those of the program.
    Shared,
    /// A network, a host name and mounts of its own; an empty `/run`. Needs root.
    Own,
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread to start processes from.
#[derive(Debug)]
pub struct Place {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    spaces: Spaces,
    net: Option<File>,
}

impl Place {
    /// Makes a place. `host` is the host name it has, if it has its own.
    ///
    /// # Errors
    /// When name spaces cannot be made.
    pub fn new(host: &str, spaces: Spaces) -> Result<Place> {
        let (jobs, work) = channel::<Job>();
        let thread = std::thread::Builder::new()
            .name(format!("place-{host}"))
            .spawn(move || work.into_iter().for_each(|job| job()))
            .context("cannot start a thread")?;
        let mut place = Place {
            jobs: Some(jobs),
            thread: Some(thread),
            spaces,
            net: None,
        };
        if spaces == Spaces::Own {
            let host = host.to_owned();
            place.net = Some(place.run(move || leave(&host))??);
        }
        Ok(place)
    }

    /// Which name spaces it has.
    pub fn spaces(&self) -> Spaces {
        self.spaces
    }

    /// Does something in this place and waits for it.
    ///
    /// # Errors
    /// When it panicked.
    pub fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> Result<R> {
        let (answer, result) = channel();
        let job = Box::new(move || {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            let _ = answer.send(done);
        });
        let gone = || Error::new("the thread of a node has ended");
        self.jobs
            .as_ref()
            .ok_or_else(gone)?
            .send(job)
            .map_err(|_| gone())?;
        match result.recv() {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(Error::new("panicked inside the place of a node")),
            Err(_) => Err(gone()),
        }
    }

    /// Starts a thread in this place. It is not waited for when the place goes away.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn thread<R: Send + 'static>(
        &self,
        job: impl FnOnce() -> R + Send + 'static,
    ) -> Result<JoinHandle<R>> {
        self.run(move || std::thread::Builder::new().spawn(job))?
            .context("cannot start a thread")
    }

    /// Descriptor of its own network.
    pub(crate) fn net(&self) -> Option<&File> {
        self.net.as_ref()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Leaves the common name spaces; a descriptor of the new network.
fn leave(host: &str) -> Result<File> {
    spawn::leave_name_spaces().context("cannot make name spaces")?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .context("cannot keep mounts to ourselves")?;
    mount(
        "tmpfs",
        "/run",
        "tmpfs",
        MountFlags::NOSUID,
        Some(c"mode=0755"),
    )
    .context("cannot mount on /run")?;
    // Debian's /var/lock leads here.
    let _ = std::fs::create_dir_all("/run/lock");
    rustix::system::sethostname(host.as_bytes()).context("cannot set the host name")?;
    netlink::Netlink::open()?.up("lo")?;
    File::open("/proc/thread-self/ns/net").context("cannot open the network")
}

/// Whether name spaces, and network devices in them, can be made here; otherwise why not.
pub(crate) fn permitted() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new("not root"));
    }
    let [a, b] = ["probe-a", "probe-b"].map(|host| Place::new(host, Spaces::Own));
    let (a, b) = (a?, b?);
    link(&a, "t0", &b, "t0")
}

/// Connects two networks with a pair of virtual Ethernet devices, each with an address, in operation.
///
/// # Errors
/// When the places have no networks of their own, or the kernel refuses.
pub fn connect(a: (&Place, &str, Ipv4Addr), b: (&Place, &str, Ipv4Addr)) -> Result<()> {
    link(a.0, a.1, b.0, b.1)?;
    for (place, device, address) in [a, b] {
        let device = device.to_owned();
        place.run(move || {
            let netlink = netlink::Netlink::open()?;
            netlink.address(&device, address)?;
            netlink.up(&device)
        })??;
    }
    Ok(())
}

/// Connects two networks with a pair of virtual Ethernet devices, which are still down.
pub(crate) fn link(a: &Place, a_name: &str, b: &Place, b_name: &str) -> Result<()> {
    let net = b.net().context("the place has no network of its own")?;
    let net = net.as_fd().try_clone_to_owned()?;
    let (a_name, b_name) = (a_name.to_owned(), b_name.to_owned());
    a.run(move || netlink::Netlink::open()?.veth(&a_name, &b_name, net.as_fd()))?
}
