//! One node of a run, ours or the kernel's: the same questions and orders for both.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use drbd_testkit::wait::until;
use drbd_testkit::{Context, Error, Node, Output, Place, Result, Status, binaries};

use super::guest::{Guest, Image, Machine};
use super::legacy;

/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(60);

/// Name of the resource of every run.
pub(super) const RESOURCE: &str = "r0";

/// Whose implementation a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `drbdd`.
    Ours,
    /// The DRBD module of a kernel.
    Kernel,
    /// `drbdd` in a guest, whose device is one of ublk.
    Guest,
}

/// Starts `drbdd` in a guest.
const START: &str = "mkdir -p $RUN
drbdd --control $DRBD_CONTROL --run-dir $RUN --frontend ublk >>/mnt/drbdd.log 2>&1 </dev/null &
for i in $(seq 200); do drbdsetup status >/dev/null 2>&1 && exit 0; sleep 0.1; done
cat /mnt/drbdd.log >&2; exit 1";

/// A node.
pub(super) struct Side {
    pub(super) name: String,
    pub(super) id: u8,
    disk: PathBuf,
    /// Directory that its scripts see, under the name of [`Side::shared`].
    dir: PathBuf,
    running: bool,
    what: What,
}

enum What {
    Ours(Box<Node>),
    Kernel(Box<Kernel>),
}

struct Kernel {
    image: Image,
    machine: Machine,
    net: Arc<Place>,
    guest: Option<Guest>,
    /// Whether its module is of the 8 series.
    legacy: bool,
    /// Whether it runs `drbdd` instead of the module.
    ours: bool,
}

/// Where `drbdd` in a guest has its sockets and links.
const RUN: &str = "/run/ours";

impl Side {
    /// A node of ours.
    pub(super) fn ours(node: Node) -> Side {
        Side {
            name: node.name.clone(),
            id: node.id,
            disk: node.disk(0).to_owned(),
            dir: node.dir().to_owned(),
            running: false,
            what: What::Ours(Box::new(node)),
        }
    }

    /// A guest.
    pub(super) fn kernel(
        id: u8,
        image: &Image,
        machine: Machine,
        net: &Arc<Place>,
        legacy: bool,
        ours: bool,
    ) -> Result<Side> {
        Ok(Side {
            name: machine.name.clone(),
            id,
            disk: machine.disks.first().context("no disk")?.clone(),
            dir: machine.dir.clone(),
            running: false,
            what: What::Kernel(Box::new(Kernel {
                image: image.clone(),
                machine,
                net: net.clone(),
                guest: None,
                legacy: legacy && !ours,
                ours,
            })),
        })
    }

    /// Starts the daemon, or boots the guest.
    pub(super) fn power_on(&mut self) -> Result<()> {
        self.running = true;
        match &mut self.what {
            What::Ours(node) => node.start(),
            What::Kernel(k) => {
                k.guest = Some(Guest::boot(&k.image, &k.machine, &k.net)?);
                if k.ours {
                    return self.sh(START).map(drop);
                }
                Ok(())
            }
        }
    }

    /// SIGKILL to the daemon, or the plug of the guest pulled.
    pub(super) fn power_off(&mut self) {
        self.running = false;
        match &mut self.what {
            What::Ours(node) => node.kill(),
            What::Kernel(k) => k.guest = None,
        }
    }

    /// Whether it is switched on.
    pub(super) fn running(&self) -> bool {
        self.running
    }

    /// Whose it is.
    pub(super) fn kind(&self) -> Kind {
        match &self.what {
            What::Ours(_) => Kind::Ours,
            What::Kernel(k) if k.ours => Kind::Guest,
            What::Kernel(_) => Kind::Kernel,
        }
    }

    /// Its network device, as its own programs see it.
    pub(super) fn network(&self) -> &'static str {
        match &self.what {
            What::Ours(_) => "eth0",
            What::Kernel(k) => k.image.boot.network(),
        }
    }

    /// The file that is its disk, as the host sees it.
    pub(super) fn disk(&self) -> &Path {
        &self.disk
    }

    /// The directory whose files it can name in scripts, as the host sees it.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file of that directory, as its own programs see it.
    pub(super) fn shared(&self, name: &str) -> String {
        match &self.what {
            What::Ours(_) => self.dir.join(name).display().to_string(),
            What::Kernel(_) => format!("/mnt/{name}"),
        }
    }

    /// Its backing device, as its own programs see it.
    pub(super) fn backing(&self) -> String {
        match &self.what {
            What::Ours(_) => self.disk.display().to_string(),
            What::Kernel(k) => k.image.boot.disk().to_owned(),
        }
    }

    /// Minor number of the volume.
    pub(super) fn minor(&self) -> u32 {
        match &self.what {
            What::Ours(node) => node.minor(0),
            What::Kernel(_) => 0,
        }
    }

    /// The mirrored device, as its own programs see it.
    pub(super) fn device(&self) -> String {
        match &self.what {
            What::Ours(node) => node.device(0).display().to_string(),
            What::Kernel(k) if k.ours => format!("{RUN}/by-res/{RESOURCE}/0"),
            What::Kernel(_) => "/dev/drbd0".to_owned(),
        }
    }

    /// Runs a script on the node.
    pub(super) fn script(&self, script: &str, limit: Duration) -> Result<Output> {
        match &self.what {
            What::Ours(node) => {
                let mut command = Command::new("sh");
                let own = binaries::directory()?.display().to_string();
                let path = std::env::var("PATH").unwrap_or_default();
                command.env("PATH", format!("{own}:{path}:/usr/sbin:/sbin"));
                command.arg("-c").arg(script);
                node.run(command, limit)
            }
            What::Kernel(k) => match &k.guest {
                Some(guest) if k.ours => {
                    let own = binaries::directory()?.display().to_string();
                    let set = format!("export PATH={own}:$PATH RUN={RUN} DRBD_CONTROL={RUN}/ctl");
                    guest.sh(&format!("{set}\n{script}"), limit)
                }
                Some(guest) => guest.sh(script, limit),
                None => Err(Error::new(format!("{} is not running", self.name))),
            },
        }
    }

    /// Runs a script that must succeed; its output.
    pub(super) fn sh(&self, script: &str) -> Result<String> {
        self.script(script, COMMAND)?.ok().context(&self.name)
    }

    /// Runs `drbdadm` with its configuration.
    pub(super) fn drbdadm(&self, args: &str) -> Result<Output> {
        let config = self.shared("drbd.conf");
        self.script(&format!("drbdadm -c {config} {args}"), COMMAND)
    }

    /// `drbdadm ACTION RESOURCE`, which must succeed. Options may follow the action.
    pub(super) fn adm(&self, action: &str) -> Result<String> {
        let output = self.drbdadm(&format!("{action} {RESOURCE}"))?;
        output.ok().context(&self.name)
    }

    /// `drbdadm ACTION RESOURCE`, which must fail; what it said.
    pub(super) fn adm_refused(&self, action: &str) -> Result<String> {
        let output = self.drbdadm(&format!("{action} {RESOURCE}"))?;
        output.refused().context(&self.name)
    }

    /// Demotes; a device that has just been closed may need a moment.
    pub(super) fn demote(&self) -> Result<()> {
        until("the device is closed", Duration::from_secs(10), || {
            let output = self.drbdadm(&format!("secondary {RESOURCE}"))?;
            if output.code != Some(0) && output.stderr.contains("held open") {
                return Ok(None);
            }
            output.ok().context(&self.name).map(|_| Some(()))
        })
    }

    /// Whether it is a DRBD of the 8 series.
    pub(super) fn legacy(&self) -> bool {
        matches!(&self.what, What::Kernel(k) if k.legacy)
    }

    /// State of the resource.
    pub(super) fn status(&self) -> Result<Status> {
        if self.legacy() {
            return legacy::status(&self.sh("cat /proc/drbd")?, 1 - self.id);
        }
        let text = self.sh("drbdsetup status --json --statistics")?;
        Status::parse(&text, RESOURCE).context(&self.name)
    }

    /// Waits for a state of the resource.
    pub(super) fn wait(
        &self,
        what: &str,
        limit: Duration,
        is: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        until(&format!("{}: {what}", self.name), limit, || {
            let status = self.status()?;
            let found = is(&status);
            if !found && self.kind() != Kind::Ours {
                // A guest has one processor.
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(found.then_some(status))
        })
    }

    /// What its end of the story is: state and log.
    pub(super) fn report(&self, lines: usize) -> String {
        let state = if self.legacy() {
            "cat /proc/drbd"
        } else {
            "drbdsetup status --verbose --statistics"
        };
        let state = self
            .script(state, Duration::from_secs(10))
            .map_or_else(|e| e.to_string(), |o| o.stdout + &o.stderr);
        let log = match &self.what {
            What::Ours(node) => node.log_tail(lines),
            What::Kernel(k) if k.ours => self
                .script(&format!("tail -n {lines} /mnt/drbdd.log"), COMMAND)
                .map_or_else(|e| e.to_string(), |o| o.stdout),
            What::Kernel(k) => k
                .guest
                .as_ref()
                .map_or_else(String::new, |g| g.log_tail(lines)),
        };
        format!("== {}\n{state}\n{log}", self.name)
    }
}
