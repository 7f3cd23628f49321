//! The nodes of a run, the network between them, and what their device has to contain.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use drbd_testkit::cleanup::Directory;
use drbd_testkit::rng::Rng;
use drbd_testkit::wait::until;
use drbd_testkit::{Context, Error, Node, Place, Result, Spaces, Status};

use super::capture::Capture;
use super::guest::{Image, Machine};
use super::side::{Kind, RESOURCE, Side};

/// How long something may take that should happen soon, on a slow machine.
pub(super) const SOON: Duration = Duration::from_secs(30);

const BLOCK: u64 = 4096;

/// What the nodes of a run are like.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// Size of each disk in bytes.
    pub(super) size: u64,
    /// Lines of the `net` section.
    pub(super) net: Vec<String>,
    /// Lines of the `disk` section.
    pub(super) disk: Vec<String>,
    /// Lines of the `options` section.
    pub(super) options: Vec<String>,
    /// Nodes without a disk.
    pub(super) diskless: Vec<u8>,
    /// Two Secondaries of three nodes may keep marks for each other: a node that is cut off from a Primary
    /// marks what it has without a peer-ack towards everybody (data path, section 12.4), and nothing takes
    /// these marks away before the two compare again. Three kernels do the same.
    pub(super) marks_may_stay: bool,
    /// Metadata as a DRBD of the 8 series has it, on all nodes.
    pub(super) old_metadata: bool,
}

impl Default for Options {
    fn default() -> Options {
        let lines = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
        Options {
            size: 32 << 20,
            net: lines(&[
                "protocol C",
                "ping-int 2",
                "connect-int 2",
                "timeout 18",
                "ping-timeout 15",
                "max-buffers 8000",
            ]),
            disk: lines(&["c-plan-ahead 0", "resync-rate 200M"]),
            options: lines(&["auto-promote no"]),
            diskless: Vec::new(),
            marks_may_stay: false,
            old_metadata: false,
        }
    }
}

impl Options {
    /// Adds a line to the `net` section; one with the same first word goes.
    pub(super) fn net(mut self, line: &str) -> Options {
        set(&mut self.net, line);
        self
    }

    /// Adds a line to the `disk` section.
    pub(super) fn disk(mut self, line: &str) -> Options {
        set(&mut self.disk, line);
        self
    }

    /// Adds a line to the `options` section.
    pub(super) fn option(mut self, line: &str) -> Options {
        set(&mut self.options, line);
        self
    }
}

fn set(lines: &mut Vec<String>, line: &str) {
    let first = |l: &str| l.split_whitespace().next().map(str::to_owned);
    lines.retain(|l| first(l) != first(line));
    lines.push(line.to_owned());
}

/// What a run is made from.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) image: Image,
    /// Whether the module in it is of the 8 series.
    pub(super) legacy: bool,
    /// Where traffic is recorded, if it is.
    pub(super) capture: Option<PathBuf>,
}

/// Writes under way.
pub(super) struct Writing {
    id: u8,
    name: String,
    places: Vec<(u64, u64)>,
    data: Vec<Vec<u8>>,
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
    writes: u32,
    dir: Directory,
    disks: Directory,
}

fn address(id: u8) -> String {
    format!("10.77.0.{}", id + 1)
}

fn hardware_address(id: u8) -> String {
    format!("02:00:00:00:00:{:02x}", id + 1)
}

/// Runs a shell script in a place.
fn sh(place: &Place, script: &str) -> Result<()> {
    let mut command = Command::new("sh");
    command.arg("-ec").arg(script).stdin(Stdio::null());
    let output = place.run(move || command.output())?.context(script)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!("`{script}`: {}", said.trim())))
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
            writes: 0,
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

    fn make_side(&self, id: u8, kind: Kind, disk: Option<PathBuf>) -> Result<Side> {
        let name = match kind {
            Kind::Ours => format!("ours{id}"),
            Kind::Kernel => format!("kern{id}"),
        };
        let dir = self.dir.path().join(&name);
        std::fs::create_dir_all(&dir).context(dir.display())?;
        let disk = match disk {
            Some(disk) => disk,
            None => {
                let disk = self.disks.path().join(format!("{name}.img"));
                let file = File::create(&disk).context(disk.display())?;
                file.set_len(self.options.size).context(disk.display())?;
                disk
            }
        };
        match kind {
            Kind::Ours => {
                let place = Place::new(&name, Spaces::Own)?;
                let pid = std::process::id();
                let thread = place.run(|| rustix::thread::gettid().as_raw_nonzero())?;
                sh(
                    &self.hub,
                    &format!(
                        "ip link add port{id} type veth peer name eth0 netns /proc/{pid}/task/{thread}/ns/net\n\
                         ip link set port{id} master br0 up"
                    ),
                )?;
                let (mac, ip) = (hardware_address(id), address(id));
                sh(
                    &place,
                    &format!(
                        "ip link set eth0 address {mac} && ip addr add {ip}/24 dev eth0 && ip link set eth0 gso_max_segs 1 gso_max_size 2000 up"
                    ),
                )?;
                let minor = 100 + u32::from(id);
                Ok(Side::ours(Node::alone(
                    &name, id, place, dir, RESOURCE, disk, minor,
                )?))
            }
            Kind::Kernel => {
                let tap = format!("tap{id}");
                sh(
                    &self.hub,
                    &format!("ip tuntap add {tap} mode tap && ip link set {tap} master br0 up"),
                )?;
                let machine = Machine {
                    name,
                    address: format!("{}/24", address(id)),
                    tap,
                    number: id + 1,
                    disks: vec![disk],
                    dir,
                };
                Side::kernel(id, &self.setup.image, machine, &self.hub, self.setup.legacy)
            }
        }
    }

    /// The configuration, in the form for one kind of node.
    fn config(&self) -> impl Fn(Kind) -> String + use<> {
        let options = self.options.clone();
        let legacy = self.setup.legacy;
        let nodes: Vec<_> = self
            .sides
            .iter()
            .map(|s| (s.name.clone(), s.id, s.minor(), s.backing()))
            .collect();
        move |kind| {
            let old = legacy && kind == Kind::Kernel;
            let mut out = format!(
                "global {{ usage-count no; disable-ip-verification; }}\nresource {RESOURCE} {{\n"
            );
            for (name, lines) in [
                ("net", &options.net),
                ("disk", &options.disk),
                ("options", &options.options),
            ] {
                if old && name == "options" {
                    continue;
                }
                let _ = writeln!(out, "    {name} {{");
                for line in lines {
                    let _ = writeln!(out, "        {line};");
                }
                out.push_str("    }\n");
            }
            for (name, id, minor, disk) in &nodes {
                let ip = address(*id);
                let _ = writeln!(out, "    on {name} {{");
                if !old {
                    let _ = writeln!(out, "        node-id {id};");
                }
                let disk = if options.diskless.contains(id) {
                    "none".to_owned()
                } else {
                    format!("\"{disk}\"")
                };
                let _ = writeln!(
                    out,
                    "        device minor {minor}; disk {disk}; meta-disk internal; address {ip}:7788;\n    }}"
                );
            }
            if nodes.len() > 2 {
                let names: Vec<&str> = nodes.iter().map(|n| n.0.as_str()).collect();
                let _ = writeln!(out, "    connection-mesh {{ hosts {}; }}", names.join(" "));
            }
            out.push_str("}\n");
            out
        }
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
        if self.options.old_metadata && side.kind() == Kind::Ours {
            let (minor, disk) = (side.minor(), side.backing());
            let create = format!("drbdmeta --force {minor} v08 {disk} internal create-md");
            return side.sh(&create).map(drop);
        }
        let peers = if side.legacy() { "" } else { " --max-peers=7" };
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

    /// The model becomes what a node's disk holds.
    pub(super) fn learn(&mut self, id: u8) -> Result<()> {
        let side = self.side(id)?;
        // A Secondary's device cannot be opened.
        let size = if self.model.is_empty() {
            let size = side.sh(&format!("blockdev --getsize64 {}", side.device()))?;
            size.trim().parse().context("size")?
        } else {
            self.model.len()
        };
        let mut bytes = std::fs::read(side.disk()).context(side.disk().display())?;
        bytes.truncate(size);
        self.model = bytes;
        Ok(())
    }

    /// Puts random bytes at some places of a disk that is not in use.
    fn fill_disk(&mut self, id: u8) -> Result<()> {
        let path = self.side(id)?.disk().to_owned();
        let file = File::options()
            .write(true)
            .open(&path)
            .context(path.display())?;
        let mut bytes = vec![0; 256 << 10];
        for i in 0..16 {
            self.rng.fill(&mut bytes);
            let at = i * (self.options.size / 16);
            file.write_all_at(&bytes, at).context(path.display())?;
        }
        Ok(())
    }

    fn in_sync(&self, side: &Side, s: &Status) -> bool {
        let third = self.options.marks_may_stay && s.role() == "Secondary";
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
                            && (p.out_of_sync == 0 || third && s.peer_role(*peer) == "Secondary")
                    })
            })
    }

    /// Waits until all nodes are connected and up to date.
    pub(super) fn wait_in_sync(&self) -> Result<()> {
        for side in self.sides.iter().filter(|s| s.running()) {
            side.wait("in sync", Duration::from_secs(60), |s| {
                self.in_sync(side, s)
            })?;
        }
        Ok(())
    }

    /// Random places of the device, in bytes, on block boundaries.
    pub(super) fn places(&mut self, count: usize, blocks: u64) -> Vec<(u64, u64)> {
        let all = (self.model.len() as u64 / BLOCK)
            .saturating_sub(blocks)
            .max(1);
        let mut chosen = BTreeSet::new();
        while chosen.len() < count {
            chosen.insert(self.rng.below(all / blocks) * blocks);
        }
        chosen
            .into_iter()
            .map(|b| (b * BLOCK, blocks * BLOCK))
            .collect()
    }

    /// A script that writes random data at these places past the cache, and the data.
    pub(super) fn write_script(
        &mut self,
        id: u8,
        places: &[(u64, u64)],
    ) -> Result<(String, Vec<Vec<u8>>)> {
        self.writes += 1;
        let name = format!("data{}", self.writes);
        let side = self.side(id)?;
        let (device, shared) = (side.device(), side.shared(&name));
        let file = side.dir().join(&name);
        let mut data = Vec::new();
        let mut script = String::from("set -e\n");
        let mut at = 0;
        for (offset, len) in places {
            let mut bytes = vec![0; usize::try_from(*len).unwrap_or(0)];
            self.rng.fill(&mut bytes);
            let unit = if offset.is_multiple_of(BLOCK) && len.is_multiple_of(BLOCK) {
                BLOCK
            } else {
                512
            };
            // One request if the place is not too long for one.
            let (bs, count, skip, seek) =
                if offset.is_multiple_of(*len) && at % len == 0 && *len <= 1 << 20 {
                    (*len, 1, at / len, offset / len)
                } else {
                    (unit, len / unit, at / unit, offset / unit)
                };
            let _ = writeln!(
                script,
                "dd if={shared} of={device} bs={bs} count={count} skip={skip} seek={seek} oflag=direct conv=notrunc status=none"
            );
            at += len;
            data.push(bytes);
        }
        let _ = writeln!(script, "rm {shared}");
        std::fs::write(&file, data.concat()).context(file.display())?;
        Ok((script, data))
    }

    /// Writes random data at these places on a node, one request after the other.
    pub(super) fn write(&mut self, id: u8, places: &[(u64, u64)]) -> Result<()> {
        let (script, data) = self.write_script(id, places)?;
        self.side(id)?.sh(&script)?;
        self.expect(places, &data);
        Ok(())
    }

    /// Writes random data at these places in the background.
    pub(super) fn start_writing(&mut self, id: u8, places: &[(u64, u64)]) -> Result<Writing> {
        let (script, data) = self.write_script(id, places)?;
        let name = format!("writer{}", self.writes);
        let side = self.side(id)?;
        let (log, code) = (
            side.shared(&format!("{name}.log")),
            side.shared(&format!("{name}.code")),
        );
        side.sh(&format!("{{ ({script}) >{log} 2>&1; echo $? >{code}.new; mv {code}.new {code}; }} >/dev/null 2>&1 &"))?;
        Ok(Writing {
            id,
            name,
            places: places.to_vec(),
            data,
        })
    }

    /// Waits for the end of what is written in the background, and whether all of it was written.
    pub(super) fn end_of(&self, writing: &Writing) -> Result<bool> {
        let side = self.side(writing.id)?;
        let file = side.dir().join(format!("{}.code", writing.name));
        let code = until("the writes end", Duration::from_secs(60), || {
            Ok(std::fs::read_to_string(&file)
                .ok()
                .filter(|t| t.ends_with('\n')))
        })?;
        Ok(code.trim() == "0")
    }

    /// What was written in the background has to have succeeded, and to be there from now on.
    pub(super) fn finish(&mut self, writing: &Writing) -> Result<()> {
        if !self.end_of(writing)? {
            let side = self.side(writing.id)?;
            let log = side.dir().join(format!("{}.log", writing.name));
            let said = std::fs::read_to_string(log).unwrap_or_default();
            return Err(Error::new(format!(
                "{}: writes failed: {}",
                side.name,
                said.trim()
            )));
        }
        self.expect(&writing.places, &writing.data);
        Ok(())
    }

    /// The device has to contain this from now on.
    pub(super) fn expect(&mut self, places: &[(u64, u64)], data: &[Vec<u8>]) {
        for ((offset, _), bytes) in places.iter().zip(data) {
            let at = usize::try_from(*offset).unwrap_or(usize::MAX);
            if let Some(place) = self.model.get_mut(at..at.saturating_add(bytes.len())) {
                place.copy_from_slice(bytes);
            }
        }
    }

    /// The device has to contain zeroes there.
    pub(super) fn expect_zeroes(&mut self, offset: u64, len: u64) {
        let zeroes = vec![0; usize::try_from(len).unwrap_or(0)];
        self.expect(&[(offset, len)], &[zeroes]);
    }

    /// Reads the whole device through a node and compares.
    pub(super) fn check_device(&self, id: u8) -> Result<()> {
        let side = self.side(id)?;
        let (device, out) = (side.device(), side.shared("whole"));
        side.sh(&format!(
            "dd if={device} of={out} bs=1M iflag=direct status=none"
        ))?;
        let file = side.dir().join("whole");
        let result = self.same(&format!("the device of {}", side.name), &file);
        let _ = std::fs::remove_file(file);
        result
    }

    /// Compares the disks of nodes with what has to be there. Nobody may write meanwhile.
    pub(super) fn check_disks(&self, ids: &[u8]) -> Result<()> {
        for id in ids {
            let side = self.side(*id)?;
            if !self.options.diskless.contains(id) {
                self.same(&format!("the disk of {}", side.name), side.disk())?;
            }
        }
        Ok(())
    }

    fn same(&self, what: &str, file: &Path) -> Result<()> {
        let bytes = std::fs::read(file).context(file.display())?;
        let len = self.model.len();
        if len == 0 {
            return Err(Error::new("nothing was written yet"));
        }
        let there = bytes.get(..len).context(format!("{what} is too small"))?;
        let step = usize::try_from(BLOCK).unwrap_or(4096);
        let different: Vec<usize> = there
            .chunks(step)
            .zip(self.model.chunks(step))
            .enumerate()
            .filter(|(_, (a, b))| a != b)
            .map(|(i, _)| i)
            .collect();
        if different.is_empty() {
            return Ok(());
        }
        let first = different.iter().take(8).collect::<Vec<_>>();
        Err(Error::new(format!(
            "{what} differs from what was written in {} blocks of 4 KiB: {first:?}",
            different.len()
        )))
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

    fn neighbour(&self, of: u8, peer: u8, reachable: bool) -> Result<()> {
        let side = self.side(of)?;
        let device = if side.kind() == Kind::Ours {
            "eth0"
        } else {
            "vec0"
        };
        let ip = address(peer);
        side.sh(&if reachable {
            format!("ip neigh del {ip} dev {device}")
        } else {
            // Packets go to a station that does not exist.
            format!("ip neigh replace {ip} lladdr 02:00:00:00:00:99 dev {device} nud permanent")
        })
        .map(drop)
    }

    /// Nothing gets through between two nodes any more, and nobody is told.
    pub(super) fn cut(&self, a: u8, b: u8) -> Result<()> {
        self.neighbour(a, b, false)?;
        self.neighbour(b, a, false)
    }

    /// The link is back.
    pub(super) fn restore(&self, a: u8, b: u8) -> Result<()> {
        self.neighbour(a, b, true)?;
        self.neighbour(b, a, true)
    }

    /// All links are back, as far as nodes can be told.
    pub(super) fn restore_all(&self) {
        for a in 0..self.sides.len() {
            for b in 0..self.sides.len() {
                let (Ok(a), Ok(b)) = (u8::try_from(a), u8::try_from(b)) else {
                    continue;
                };
                let _ = self.neighbour(a, b, true);
            }
        }
    }

    /// A number below a bound, at most 256.
    pub(super) fn random(&mut self, bound: u64) -> u8 {
        u8::try_from(self.rng.below(bound)).unwrap_or(0)
    }

    /// What all nodes have to say.
    pub(super) fn report(&self) -> String {
        self.sides.iter().map(|s| s.report(40)).collect()
    }

    /// Ends the recording of traffic.
    pub(super) fn stop_capture(&mut self) {
        self.capture = None;
    }
}
