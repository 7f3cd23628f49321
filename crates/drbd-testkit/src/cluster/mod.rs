//! Nodes, the links between them, and their common resource.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cleanup::Directory;
use crate::wait::SOON;
use crate::{Context, Error, Node, Place, Result, Spaces, compare};

mod config;
mod links;
mod options;

use links::{Direction, Net};
pub use options::{Options, Story, story};

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
            if !cluster.options.handlers.is_empty() {
                cluster.node(id).make_helper()?;
            }
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

    /// The ends of all logs.
    pub fn logs(&self, lines: usize) -> String {
        self.nodes.iter().map(|n| n.log_tail(lines)).collect()
    }
}
