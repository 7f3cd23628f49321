//! Which frontends a daemon has: what was asked for, or the best this system can do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::fuse::FuseFrontend;
use super::links::{Linked, Links};
use super::loopdev::LoopFrontend;
use super::nbd::NbdFrontend;
use super::nbd::address::Address;
use super::ublk::UblkFrontend;
use super::{Attached, Frontend, VolumeHandle};

/// What `--frontend` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Choice {
    /// The best that works: ublk, else loop, else fuse, else nbd.
    #[default]
    Auto,
    /// A block device through the kernel's ublk driver.
    Ublk,
    /// A block device through the kernel's loop driver, on a FUSE file.
    Loop,
    /// A file.
    Fuse,
    /// The NBD server alone.
    Nbd,
    /// None: the node only keeps a copy.
    None,
}

/// Not a frontend.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no frontend `{0}`: choose auto, ublk, loop, fuse, nbd or none")]
pub struct UnknownFrontend(String);

impl FromStr for Choice {
    type Err = UnknownFrontend;

    fn from_str(s: &str) -> Result<Choice, UnknownFrontend> {
        Ok(match s {
            "auto" => Choice::Auto,
            "ublk" => Choice::Ublk,
            "loop" => Choice::Loop,
            "fuse" => Choice::Fuse,
            "nbd" => Choice::Nbd,
            "none" => Choice::None,
            _ => return Err(UnknownFrontend(s.into())),
        })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Choice::Auto => "auto",
            Choice::Ublk => "ublk",
            Choice::Loop => "loop",
            Choice::Fuse => "fuse",
            Choice::Nbd => "nbd",
            Choice::None => "none",
        })
    }
}

/// What the daemon's options say about frontends.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--frontend`.
    pub choice: Choice,
    /// `--nbd`, any number of times: an NBD server besides the chosen frontend. Where nbd is the chosen frontend and no
    /// address is given, it is a Unix socket, `<run_dir>/nbd.sock`.
    pub nbd: Vec<Address>,
    /// The daemon's run directory; belongs to this daemon alone.
    pub run_dir: PathBuf,
    /// This is the daemon of the whole system: make links below `/dev`, too.
    pub system: bool,
}

/// All frontends of a daemon as one, with the links by which volumes are found.
pub struct Frontends {
    device: Option<Box<dyn Frontend>>,
    nbd: Option<NbdFrontend>,
    links: Links,
    reason: String,
}

impl Frontends {
    /// Sets up what the settings ask for. Remains of a daemon that was killed are removed first. Which frontend it
    /// became, and why not a better one, is logged and kept ([`Frontends::reason`]).
    ///
    /// # Errors
    /// When what was asked for by name is not possible, or an NBD address cannot be used.
    pub fn new(settings: &Settings) -> io::Result<Frontends> {
        let run_dir = &settings.run_dir;
        std::fs::create_dir_all(run_dir)?;
        if rustix::process::geteuid().is_root()
            && let Err(e) = super::loopdev::remove_stale(run_dir)
        {
            tracing::warn!("cannot look for remains of an earlier daemon: {e}");
        }
        let mut addresses = settings.nbd.clone();
        let (device, reason): (Option<Box<dyn Frontend>>, _) = match settings.choice {
            Choice::Ublk => (Some(Box::new(UblkFrontend::new()?)), asked("ublk")),
            Choice::Loop => (Some(Box::new(LoopFrontend::new(run_dir)?)), asked("loop")),
            Choice::Fuse => (Some(Box::new(FuseFrontend::new(run_dir)?)), asked("fuse")),
            Choice::Nbd | Choice::None => (None, asked(&settings.choice.to_string())),
            Choice::Auto => best(run_dir),
        };
        if device.as_ref().is_some_and(|d| d.name() != "fuse")
            && let Err(e) = super::loopdev::set_io_flusher()
        {
            tracing::warn!("memory reclaim may wait for this daemon's own devices: {e}");
        }
        if device.is_none() && addresses.is_empty() && settings.choice != Choice::None {
            addresses.push(Address::Unix(run_dir.join("nbd.sock")));
        }
        let nbd = if addresses.is_empty() {
            None
        } else {
            Some(NbdFrontend::start(&addresses)?)
        };
        tracing::info!("frontend {reason}");
        let dev = settings.system.then_some(Path::new("/dev"));
        Ok(Frontends {
            device,
            nbd,
            links: Links::new(run_dir, dev),
            reason,
        })
    }

    /// Which frontend it is and why, in one line.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

fn asked(name: &str) -> String {
    format!("{name}: as asked for")
}

/// The best frontend that makes a device or file, and why not a better one.
fn best(run_dir: &Path) -> (Option<Box<dyn Frontend>>, String) {
    let mut not = Vec::new();
    match UblkFrontend::new() {
        Ok(f) => {
            return (
                Some(Box::new(f)),
                "ublk: a block device, the fastest way".into(),
            );
        }
        Err(e) => not.push(format!("not ublk ({e})")),
    }
    match LoopFrontend::new(run_dir) {
        Ok(f) if rustix::process::geteuid().is_root() => {
            let reason = format!("loop: a block device over FUSE; {}", not.join(", "));
            return (Some(Box::new(f)), reason);
        }
        Ok(_) => not.push("not loop (needs root)".into()),
        Err(e) => not.push(format!("not loop ({e})")),
    }
    match FuseFrontend::new(run_dir) {
        Ok(f) => {
            return (
                Some(Box::new(f)),
                format!("fuse: a file for each volume; {}", not.join(", ")),
            );
        }
        Err(e) => not.push(format!("not fuse ({e})")),
    }
    (
        None,
        format!("nbd: a server for QEMU and libnbd; {}", not.join(", ")),
    )
}

impl Frontend for Frontends {
    fn name(&self) -> &'static str {
        match (&self.device, &self.nbd) {
            (Some(device), _) => device.name(),
            (None, Some(nbd)) => nbd.name(),
            (None, None) => "none",
        }
    }

    fn attach(&self, volume: VolumeHandle) -> io::Result<Box<dyn Attached>> {
        let v = volume.volume().clone();
        let mut all = All {
            linked: None,
            attached: Vec::new(),
        };
        let nbd = self.nbd.as_ref().map(|nbd| nbd as &dyn Frontend);
        for frontend in self.device.as_deref().into_iter().chain(nbd) {
            match frontend.attach(volume.clone()) {
                Ok(attached) => all.attached.push(attached),
                Err(e) => {
                    Box::new(all).detach();
                    return Err(io::Error::new(
                        e.kind(),
                        format!("{}: {e}", frontend.name()),
                    ));
                }
            }
        }
        all.linked = all.path().map(|target| self.links.make(&v, &target));
        Ok(Box::new(all))
    }

    fn serves(&self, path: &Path) -> bool {
        self.device.as_ref().is_some_and(|d| d.serves(path))
    }
}

/// One volume in all frontends, the device first.
struct All {
    linked: Option<Linked>,
    attached: Vec<Box<dyn Attached>>,
}

impl Attached for All {
    fn place(&self) -> String {
        let places: Vec<_> = self.attached.iter().map(|a| a.place()).collect();
        places.join(", ")
    }

    fn device(&self) -> Option<PathBuf> {
        self.attached.iter().find_map(|a| a.device())
    }

    fn path(&self) -> Option<PathBuf> {
        self.attached.iter().find_map(|a| a.path())
    }

    fn release_unused(&self) {
        self.attached.iter().for_each(|a| a.release_unused());
    }

    fn detach(self: Box<Self>) {
        drop(self.linked);
        for attached in self.attached.into_iter().rev() {
            attached.detach();
        }
    }
}
