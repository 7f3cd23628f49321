//! Nodes, the links between them, and their common resource.

use std::fmt::Write as _;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::cleanup::Directory;
use crate::wait::SOON;
use crate::{Context, Error, Node, Place, Proxy, Result, Spaces, compare, netlink, place};

/// Port at which nodes listen.
const PORT: u16 = 7788;

/// How nodes live, and how applications reach their volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// Each node in name spaces of its own, volumes as real block devices. Needs root.
    BlockDevice,
    /// Nodes share the loopback network, volumes over NBD.
    Nbd,
}

/// The story that is possible here, and if it is not the one with block devices, why. The variable
/// `DRBD_TEST_STORY` decides otherwise: `block` or `nbd`.
///
/// # Errors
/// When the variable has another value.
pub fn story() -> Result<(Story, Option<String>)> {
    static PERMITTED: OnceLock<Result<()>> = OnceLock::new();
    match std::env::var("DRBD_TEST_STORY").as_deref() {
        Ok("block") => return Ok((Story::BlockDevice, None)),
        Ok("nbd") => return Ok((Story::Nbd, Some("DRBD_TEST_STORY=nbd".to_owned()))),
        Ok(other) => {
            return Err(Error::new(format!(
                "DRBD_TEST_STORY={other}: use block or nbd"
            )));
        }
        Err(_) => {}
    }
    let possible = PERMITTED.get_or_init(|| {
        place::permitted()?;
        if Path::new("/dev/ublk-control").exists() {
            return Ok(());
        }
        for device in ["/dev/fuse", "/dev/loop-control"] {
            let opened = File::options().read(true).write(true).open(device);
            opened.context(format!("there is no ublk, and for a loop device {device}"))?;
        }
        Ok(())
    });
    Ok(match possible {
        Ok(()) => (Story::BlockDevice, None),
        Err(error) => (Story::Nbd, Some(error.to_string())),
    })
}

/// What a cluster is like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of nodes, at most 9.
    pub nodes: u8,
    /// Size of each backing file in bytes.
    pub size: u64,
    /// Number of volumes.
    pub volumes: u16,
    /// How nodes live.
    pub story: Story,
    /// Lines of the `net` section.
    pub net: Vec<String>,
    /// Lines of the `disk` section.
    pub disk: Vec<String>,
    /// Lines of the `options` section.
    pub options: Vec<String>,
}

impl Options {
    /// Two nodes with one volume of 32 MiB, that notice failures within seconds.
    ///
    /// # Errors
    /// Those of [`story`].
    pub fn small() -> Result<Options> {
        let net = [
            "protocol C",
            "ping-int 2",
            "connect-int 2",
            "timeout 18",
            "ping-timeout 15",
            "max-buffers 8000",
        ];
        Ok(Options {
            nodes: 2,
            size: 32 << 20,
            volumes: 1,
            story: story()?.0,
            net: net.map(str::to_owned).to_vec(),
            disk: vec![
                "c-max-rate 4000M".to_owned(),
                "c-fill-target 10M".to_owned(),
            ],
            options: vec!["auto-promote no".to_owned()],
        })
    }
}

/// One direction of a link in the loopback network.
#[derive(Debug)]
struct Direction {
    from: u8,
    to: u8,
    proxy: Proxy,
}

/// Nodes with a common resource. Everything goes away with it.
#[derive(Debug)]
pub struct Cluster {
    /// Name of the resource.
    pub resource: String,
    /// Its nodes; their daemons run only after [`Cluster::start`].
    pub nodes: Vec<Node>,
    options: Options,
    directions: Vec<Direction>,
    net: Net,
    // Removed last.
    dir: Directory,
    disks: Directory,
}

/// Addresses of a cluster.
#[derive(Debug)]
struct Net {
    /// The first three bytes.
    prefix: [u8; 3],
    /// Keeps the loopback addresses ours.
    _claim: Option<TcpListener>,
}

impl Net {
    fn own() -> Net {
        Net {
            prefix: [10, 77, 0],
            _claim: None,
        }
    }

    /// A part of the loopback network that nobody else uses: whoever listens at its last address has it.
    fn loopback() -> Result<Net> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let start = u16::try_from(std::process::id() & 0x7fff).unwrap_or(0);
        for _ in 0..u16::MAX {
            let n = NEXT
                .fetch_add(1, Ordering::Relaxed)
                .wrapping_mul(7)
                .wrapping_add(start);
            let [high, low] = n.to_be_bytes();
            let prefix = [127, 1 + high % 250, low];
            let at = address(prefix, 254);
            if let Ok(listener) = TcpListener::bind(at) {
                return Ok(Net {
                    prefix,
                    _claim: Some(listener),
                });
            }
        }
        Err(Error::new("no loopback addresses are free"))
    }
}

fn address([a, b, c]: [u8; 3], d: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), PORT)
}

impl Cluster {
    /// Makes nodes with their places, links, disks and configuration files. Nothing runs yet.
    ///
    /// # Errors
    /// When something cannot be made.
    pub fn new(resource: &str, options: Options) -> Result<Cluster> {
        let (dir, disks) = (Directory::short()?, Directory::for_disks()?);
        let (spaces, net) = match options.story {
            Story::BlockDevice => (Spaces::Own, Net::own()),
            Story::Nbd => (Spaces::Shared, Net::loopback()?),
        };
        let mut nodes = Vec::new();
        for id in 0..options.nodes {
            let name = format!("node{}", id + 1);
            let place = Place::new(&name, spaces)?;
            let own = dir.path().join(&name);
            nodes.push(Node::new(
                name,
                id,
                place,
                own,
                resource.to_owned(),
                options.story,
            )?);
        }
        let mut cluster = Cluster {
            resource: resource.to_owned(),
            nodes,
            options,
            directions: Vec::new(),
            net,
            dir,
            disks,
        };
        cluster.make_links()?;
        cluster.make_disks()?;
        for id in 0..cluster.options.nodes {
            let path = cluster.node(id).config();
            std::fs::write(&path, cluster.config(id)).context(path.display())?;
        }
        Ok(cluster)
    }

    /// How its nodes live.
    pub fn story(&self) -> Story {
        self.options.story
    }

    /// A directory for files that stand for disks.
    pub fn disk_dir(&self) -> &Path {
        self.disks.path()
    }

    /// A directory with a short name.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A node.
    ///
    /// # Panics
    /// When there is no such node.
    #[allow(clippy::indexing_slicing)]
    pub fn node(&self, id: u8) -> &Node {
        &self.nodes[usize::from(id)]
    }

    /// A node.
    ///
    /// # Panics
    /// When there is no such node.
    #[allow(clippy::indexing_slicing)]
    pub fn node_mut(&mut self, id: u8) -> &mut Node {
        &mut self.nodes[usize::from(id)]
    }

    fn pairs(&self) -> Vec<(u8, u8)> {
        let n = self.options.nodes;
        (0..n)
            .flat_map(|a| (a + 1..n).map(move |b| (a, b)))
            .collect()
    }

    /// Address at which node `of` is reached by node `by`; its own if they are the same. There is one
    /// for each pair, so that every link can be cut alone.
    pub fn address(&self, of: u8, by: u8) -> SocketAddr {
        match self.options.story {
            // Proxies stand between.
            Story::Nbd if of == by => address(self.net.prefix, of + 1),
            Story::Nbd => address(self.net.prefix, 100 + 10 * by + of),
            Story::BlockDevice => {
                let [a, b, _] = self.net.prefix;
                let (low, high) = (of.min(by), of.max(by));
                address([a, b, 10 * low + high], of + 1)
            }
        }
    }

    fn make_links(&mut self) -> Result<()> {
        for (a, b) in self.pairs() {
            match self.options.story {
                Story::BlockDevice => {
                    let names = [device(b), device(a)];
                    place::link(
                        self.node(a).place(),
                        &names[0],
                        self.node(b).place(),
                        &names[1],
                    )?;
                    for (id, peer) in [(a, b), (b, a)] {
                        let IpAddr::V4(own) = self.address(id, peer).ip() else {
                            continue;
                        };
                        let name = device(peer);
                        self.node(id).place().run(move || {
                            let netlink = netlink::Netlink::open()?;
                            netlink.address(&name, own)?;
                            netlink.up(&name)
                        })??;
                    }
                }
                Story::Nbd => {
                    for (from, to) in [(a, b), (b, a)] {
                        let proxy = Proxy::new(
                            self.address(to, from),
                            self.address(from, to).ip(),
                            self.address(to, to),
                        )?;
                        self.directions.push(Direction { from, to, proxy });
                    }
                }
            }
        }
        Ok(())
    }

    fn make_disks(&mut self) -> Result<()> {
        let base = u32::from(u16::from_be_bytes([self.net.prefix[1], self.net.prefix[2]])) * 16;
        for id in 0..self.options.nodes {
            for volume in 0..self.options.volumes {
                let path = self
                    .disks
                    .path()
                    .join(format!("node{}-{volume}.img", id + 1));
                let file = File::create(&path).context(path.display())?;
                file.set_len(self.options.size).context(path.display())?;
                let minor =
                    base + u32::from(id) * u32::from(self.options.volumes) + u32::from(volume);
                let node = self.node_mut(id);
                node.disks.push(path);
                node.minors.push(minor);
            }
        }
        Ok(())
    }

    /// Puts a node's volume on another disk.
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub fn use_disk(&mut self, id: u8, volume: u16, path: PathBuf) -> Result<()> {
        if let Some(disk) = self.node_mut(id).disks.get_mut(usize::from(volume)) {
            *disk = path;
        }
        let path = self.node(id).config();
        std::fs::write(&path, self.config(id)).context(path.display())
    }

    /// The configuration as a node has it.
    fn config(&self, id: u8) -> String {
        let mut out = String::from("global {\n    usage-count no;\n");
        if self.options.story == Story::Nbd {
            out.push_str("    disable-ip-verification;\n");
        }
        let _ = writeln!(out, "}}\n\nresource {} {{", self.resource);
        for (name, lines) in [
            ("net", &self.options.net),
            ("disk", &self.options.disk),
            ("options", &self.options.options),
        ] {
            let _ = writeln!(out, "    {name} {{");
            for line in lines {
                let _ = writeln!(out, "        {line};");
            }
            out.push_str("    }\n");
        }
        for node in &self.nodes {
            let _ = writeln!(out, "    on {} {{\n        node-id {};", node.name, node.id);
            for volume in 0..self.options.volumes {
                let (minor, disk) = (node.minor(volume), node.disk(volume).display());
                let _ = writeln!(
                    out,
                    "        volume {volume} {{\n            device minor {minor};\n            disk \"{disk}\";\n            \
                     meta-disk internal;\n        }}"
                );
            }
            out.push_str("    }\n");
        }
        for (a, b) in self.pairs() {
            out.push_str("    connection {\n        path {\n");
            for node in [a, b] {
                // Links between others are of no interest here, but have to be complete.
                let by = if a == id || b == id { id } else { node };
                let by = if by == node && self.options.story == Story::BlockDevice {
                    if node == a { b } else { a }
                } else {
                    by
                };
                let (name, address) = (&self.node(node).name, self.address(node, by));
                let _ = writeln!(out, "            host {name} address {address};");
            }
            out.push_str("        }\n    }\n");
        }
        out.push_str("}\n");
        out
    }

    /// Starts all daemons.
    ///
    /// # Errors
    /// When one does not answer.
    pub fn start(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Node::start)
    }

    /// Creates metadata on all nodes.
    ///
    /// # Errors
    /// When one cannot.
    pub fn create_md(&self) -> Result<()> {
        let options = ["--force", "--max-peers=7"];
        self.nodes
            .iter()
            .try_for_each(|n| n.adm_with("create-md", &options).map(drop))
    }

    /// Brings the resource up on all nodes.
    ///
    /// # Errors
    /// When one cannot.
    pub fn up(&self) -> Result<()> {
        self.nodes.iter().try_for_each(|n| n.adm("up").map(drop))
    }

    /// Starts daemons, creates metadata, brings the resource up and waits until all nodes are
    /// connected with each other.
    ///
    /// # Errors
    /// When something of it fails.
    pub fn bring_up(&mut self) -> Result<()> {
        self.start()?;
        self.create_md()?;
        self.up()?;
        self.wait_connected(SOON)
    }

    /// Waits until all running nodes are connected with each other.
    ///
    /// # Errors
    /// When they are not in time.
    pub fn wait_connected(&self, limit: Duration) -> Result<()> {
        let running: Vec<u8> = self.running();
        for &id in &running {
            let peers = running
                .iter()
                .copied()
                .filter(|p| *p != id)
                .collect::<Vec<_>>();
            self.node(id).wait("connected", limit, |s| {
                peers.iter().all(|p| s.connection(*p) == "Connected")
            })?;
        }
        Ok(())
    }

    fn running(&self) -> Vec<u8> {
        self.nodes
            .iter()
            .filter(|n| n.pid().is_some())
            .map(|n| n.id)
            .collect()
    }

    /// Brings everything up, makes `primary` the source of the initial sync, and waits for its end.
    ///
    /// # Errors
    /// When something of it fails.
    pub fn bring_up_in_sync(&mut self, primary: u8) -> Result<()> {
        self.bring_up()?;
        self.node(primary).adm_with("primary", &["--force"])?;
        self.wait_in_sync(Duration::from_secs(60))
    }

    /// Waits until all running nodes are connected, up to date and nothing is out of sync.
    ///
    /// # Errors
    /// When it is not so in time.
    pub fn wait_in_sync(&self, limit: Duration) -> Result<()> {
        let running = self.running();
        for &id in &running {
            let peers = running
                .iter()
                .copied()
                .filter(|p| *p != id)
                .collect::<Vec<_>>();
            self.node(id).wait("in sync", limit, |s| {
                (0..self.options.volumes).all(|volume| {
                    s.disk(volume) == "UpToDate"
                        && peers.iter().all(|peer| {
                            s.connection(*peer) == "Connected"
                                && s.peer(*peer, volume).is_some_and(|p| {
                                    p.replication == "Established"
                                        && p.disk == "UpToDate"
                                        && p.out_of_sync == 0
                                })
                        })
                })
            })?;
        }
        Ok(())
    }

    /// Compares the data of a volume on the disks of nodes. They must not be written meanwhile.
    ///
    /// # Errors
    /// When they differ.
    pub fn compare(&self, ids: &[u8], volume: u16) -> Result<()> {
        let first = ids.first().copied().context("no nodes")?;
        let size = self.node(first).status()?.size(volume);
        if size == 0 {
            return Err(Error::new("the volume has no size"));
        }
        let disks: Vec<&Path> = ids.iter().map(|id| self.node(*id).disk(volume)).collect();
        compare::identical(&disks, size)
    }

    fn both_ways(&self, a: u8, b: u8) -> impl Iterator<Item = &Proxy> {
        let between =
            move |d: &&Direction| (d.from == a && d.to == b) || (d.from == b && d.to == a);
        self.directions.iter().filter(between).map(|d| &d.proxy)
    }

    fn set_link(&self, a: u8, b: u8, up: bool) -> Result<()> {
        for (id, peer) in [(a, b), (b, a)] {
            let name = device(peer);
            self.node(id).place().run(move || {
                let netlink = netlink::Netlink::open()?;
                if up {
                    netlink.up(&name)
                } else {
                    netlink.down(&name)
                }
            })??;
        }
        Ok(())
    }

    /// Unplugs the cable between two nodes: nothing gets through any more, and nobody is told.
    ///
    /// # Errors
    /// When the network does not obey.
    pub fn cut(&self, a: u8, b: u8) -> Result<()> {
        match self.options.story {
            Story::BlockDevice => self.set_link(a, b, false),
            Story::Nbd => {
                self.both_ways(a, b).for_each(Proxy::stall);
                Ok(())
            }
        }
    }

    /// Plugs the cable in again.
    ///
    /// # Errors
    /// When the network does not obey.
    pub fn restore(&self, a: u8, b: u8) -> Result<()> {
        match self.options.story {
            Story::BlockDevice => self.set_link(a, b, true),
            Story::Nbd => {
                // What was under way when the cable was out is lost.
                self.both_ways(a, b).for_each(Proxy::cut);
                self.both_ways(a, b).for_each(Proxy::restore);
                Ok(())
            }
        }
    }

    /// Breaks the connections between two nodes when so many more bytes have passed in one of them.
    /// Only in the loopback network.
    ///
    /// # Errors
    /// In name spaces.
    pub fn break_after(&self, a: u8, b: u8, bytes: u64) -> Result<()> {
        if self.options.story != Story::Nbd {
            return Err(Error::new(
                "only links of the loopback network can be broken at a byte",
            ));
        }
        self.both_ways(a, b).for_each(|p| p.break_after(bytes));
        Ok(())
    }

    /// Connects to the port of node `to` as if it were node `from`: for tests that speak the protocol
    /// themselves. The daemon of `from` should not run.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn dial(&self, from: u8, to: u8) -> Result<std::net::TcpStream> {
        let own = SocketAddr::new(self.address(from, to).ip(), 0);
        let peer = match self.options.story {
            Story::Nbd => self.address(to, to),
            Story::BlockDevice => self.address(to, from),
        };
        self.node(from).place().run(move || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&own.into())?;
            socket.connect_timeout(&peer.into(), Duration::from_secs(5))?;
            let stream = std::net::TcpStream::from(socket);
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            Ok(stream)
        })?
    }

    /// The ends of all logs.
    pub fn logs(&self, lines: usize) -> String {
        self.nodes.iter().map(|n| n.log_tail(lines)).collect()
    }
}

/// Name of the network device that leads to a node.
fn device(peer: u8) -> String {
    format!("to-node{}", peer + 1)
}
