//! The nodes of a run, the network between them, and what their device has to contain.

mod data;
mod network;
mod options;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use drbd_testkit::cleanup::Directory;
use drbd_testkit::rng::Rng;
use drbd_testkit::{Context, Place, Result, Spaces, Status};

use super::capture::Capture;
use super::guest::Image;
use super::side::{Kind, Side};
use network::sh;

pub(super) use options::{Marks, Options};

/// How many there have been.
static LABS: AtomicU32 = AtomicU32::new(0);

/// How long something may take that should happen soon, on a slow machine.
pub(super) const SOON: Duration = Duration::from_secs(30);

/// What a run is made from.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) image: Image,
    /// Whether the module in it is of the 8 series.
    pub(super) legacy: bool,
    /// Where traffic is recorded, if it is.
    pub(super) capture: Option<PathBuf>,
}

/// A run. Everything goes away with it.
pub(super) struct Lab {
    // Dropped in this order: processes before the network they are in.
    pub(super) sides: Vec<Side>,
    capture: Option<Capture>,
    hub: Arc<Place>,
    options: Options,
    setup: Setup,
    /// What the device has to contain.
    model: Vec<u8>,
    rng: Rng,
    /// The minor of node 0; runs at the same time have different ones.
    first_minor: u32,
    writes: u32,
    /// Bytes that a node had marked for another one when both were Secondary and these marks could stay.
    stayed: RefCell<HashMap<(u8, u8), u64>>,
    dir: Directory,
    disks: Directory,
}

impl Lab {
    /// Makes nodes of these kinds and starts them. The resource is not up yet.
    pub(super) fn new(setup: &Setup, kinds: &[Kind], options: Options) -> Result<Lab> {
        let (dir, disks) = (Directory::short()?, Directory::for_disks()?);
        let hub = Arc::new(Place::new("hub", Spaces::Own)?);
        sh(&hub, "ip link add br0 type bridge && ip link set br0 up")?;
        let capture = match &setup.capture {
            Some(path) => Some(Capture::start(&hub, path)?),
            None => None,
        };
        let mut lab = Lab {
            sides: Vec::new(),
            capture,
            hub,
            setup: setup.clone(),
            model: Vec::new(),
            rng: Rng::new(7),
            first_minor: 100 + 10 * (LABS.fetch_add(1, Ordering::SeqCst) % 1000),
            writes: 0,
            stayed: RefCell::default(),
            options,
            dir,
            disks,
        };
        for (id, kind) in (0..).zip(kinds) {
            let side = lab.make_side(id, *kind, None)?;
            lab.sides.push(side);
        }
        lab.configure(|o| o)?;
        for side in &mut lab.sides {
            side.power_on()?;
        }
        Ok(lab)
    }

    /// Changes the options; the nodes' configuration files are written again.
    pub(super) fn configure(&mut self, change: impl FnOnce(Options) -> Options) -> Result<()> {
        self.options = change(self.options.clone());
        let config = self.config();
        for side in &self.sides {
            let path = side.dir().join("drbd.conf");
            std::fs::write(&path, config(side.kind())).context(path.display())?;
        }
        Ok(())
    }

    /// Nodes go, and come back with the same disks as nodes of the other kind. Nothing runs on them yet.
    pub(super) fn swap_kinds(&mut self) -> Result<()> {
        let old: Vec<(u8, Kind, PathBuf)> = self
            .sides
            .drain(..)
            .map(|mut s| {
                s.power_off();
                (s.id, s.kind(), s.disk().to_owned())
            })
            .collect();
        for (id, kind, disk) in old {
            let _ = sh(
                &self.hub,
                &format!("ip link del port{id} 2>/dev/null || ip link del tap{id}"),
            );
            let kind = if kind == Kind::Ours {
                Kind::Kernel
            } else {
                Kind::Ours
            };
            let side = self.make_side(id, kind, Some(disk))?;
            self.sides.push(side);
        }
        self.configure(|o| o)?;
        self.sides.iter_mut().try_for_each(Side::power_on)
    }

    /// A node.
    pub(super) fn side(&self, id: u8) -> Result<&Side> {
        self.sides.get(usize::from(id)).context("no such node")
    }

    /// A node.
    pub(super) fn side_mut(&mut self, id: u8) -> Result<&mut Side> {
        self.sides.get_mut(usize::from(id)).context("no such node")
    }

    /// Creates metadata on a node.
    pub(super) fn create_md(&self, id: u8) -> Result<()> {
        if self.options.diskless.contains(&id) {
            return Ok(());
        }
        let side = self.side(id)?;
        if self.options.old_metadata && side.kind() != Kind::Kernel {
            let (minor, disk) = (side.minor(), side.backing());
            let create = format!("drbdmeta --force {minor} v08 {disk} internal create-md");
            return side.sh(&create).map(drop);
        }
        let peers = if side.legacy() {
            String::new()
        } else {
            format!(" --max-peers={}", self.options.max_peers)
        };
        side.adm(&format!("create-md --force{peers}")).map(drop)
    }

    /// Metadata and `up` everywhere; waits for the connections.
    pub(super) fn up(&self) -> Result<()> {
        for side in &self.sides {
            self.create_md(side.id)?;
        }
        for side in &self.sides {
            side.adm("up")?;
        }
        self.wait_connected()
    }

    /// Waits until all nodes are connected.
    pub(super) fn wait_connected(&self) -> Result<()> {
        for side in self.sides.iter().filter(|s| s.running()) {
            side.wait("connected", SOON, |s| {
                self.peers_of(side.id)
                    .iter()
                    .all(|p| s.connection(*p) == "Connected")
            })?;
        }
        Ok(())
    }

    fn peers_of(&self, id: u8) -> Vec<u8> {
        self.sides
            .iter()
            .filter(|s| s.running() && s.id != id)
            .map(|s| s.id)
            .collect()
    }

    /// Makes the disks of two fresh nodes equal from the first one, which stays Primary. The disk of the
    /// first one contains something before.
    pub(super) fn up_in_sync(&mut self, primary: u8) -> Result<()> {
        self.fill_disk(primary)?;
        self.up()?;
        self.side(primary)?.adm("primary --force")?;
        self.wait_in_sync()?;
        self.learn(primary)
    }

    /// Declares two fresh disks, which are all zeroes, equal, and makes a node Primary.
    pub(super) fn up_without_sync(&mut self, primary: u8) -> Result<()> {
        self.up()?;
        let side = self.side(primary)?;
        side.adm("new-current-uuid --clear-bitmap")?;
        self.wait_in_sync()?;
        side.adm("primary")?;
        self.learn(primary)
    }

    fn in_sync(&self, side: &Side, s: &Status) -> bool {
        let disk = |id: u8| {
            if self.options.diskless.contains(&id) {
                "Diskless"
            } else {
                "UpToDate"
            }
        };
        s.disk(0) == disk(side.id)
            && self.peers_of(side.id).iter().all(|peer| {
                s.connection(*peer) == "Connected"
                    && s.peer(*peer, 0).is_some_and(|p| {
                        p.replication == "Established"
                            && p.disk == disk(*peer)
                            && p.out_of_sync <= self.excused(side.id, *peer, s)
                    })
            })
    }

    /// How many bytes a node may have marked for a peer.
    fn excused(&self, id: u8, peer: u8, s: &Status) -> u64 {
        let marks = self.options.marks;
        if marks == Marks::Gone || self.sides.len() < 3 {
            return 0;
        }
        let kernel = |id| self.side(id).is_ok_and(|side| side.kind() != Kind::Ours);
        if kernel(id) && kernel(peer) {
            return u64::MAX;
        }
        if marks == Marks::OfKernels {
            return 0;
        }
        if s.role() == "Secondary" && s.peer_role(peer) == "Secondary" {
            return u64::MAX;
        }
        // Promotion does not take them away.
        self.stayed.borrow().get(&(id, peer)).copied().unwrap_or(0)
    }

    /// Waits until all nodes are connected and up to date.
    pub(super) fn wait_in_sync(&self) -> Result<()> {
        for side in self.sides.iter().filter(|s| s.running()) {
            let status = side.wait("in sync", Duration::from_secs(60), |s| {
                self.in_sync(side, s)
            })?;
            let marked = |peer| status.peer(peer, 0).map_or(0, |p| p.out_of_sync);
            let mut stayed = self.stayed.borrow_mut();
            for peer in self.peers_of(side.id) {
                stayed.insert((side.id, peer), marked(peer));
            }
        }
        Ok(())
    }

    /// All nodes in sync, and everything as it was written.
    pub(super) fn settle(&self) -> Result<()> {
        self.wait_in_sync()?;
        let all: Vec<u8> = self
            .sides
            .iter()
            .filter(|s| s.running())
            .map(|s| s.id)
            .collect();
        // The last acknowledged writes of a Primary may still be on their way to a peer's disk with A and B.
        let mut result = Ok(());
        for _ in 0..20 {
            result = self.check_disks(&all);
            if result.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        result
    }

    /// A number below a bound, at most 256.
    pub(super) fn random(&mut self, bound: u64) -> u8 {
        u8::try_from(self.rng.below(bound)).unwrap_or(0)
    }

    /// What all nodes have to say.
    pub(super) fn report(&self) -> String {
        self.sides.iter().map(|s| s.report(80)).collect()
    }

    /// Ends the recording of traffic.
    pub(super) fn stop_capture(&mut self) {
        self.capture = None;
    }
}
