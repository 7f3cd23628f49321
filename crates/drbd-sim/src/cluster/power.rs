//! Starting machines, and taking them down.

use drbd_engine::command::Command;
use drbd_engine::effect::Path;
use drbd_engine::options::{DeviceOptions, DiskOptions, PeerDeviceOptions};
use drbd_proto::VolumeNr;

use super::{Cluster, NAMES, node_id};
use crate::disk::Tearing;
use crate::format;

/// The address of a node.
fn address(node: usize) -> std::net::SocketAddr {
    std::net::SocketAddr::from(([10, 0, 0, node as u8 + 1], 7788))
}

/// The path from a node to a peer.
fn path(node: usize, peer: usize) -> Path {
    Path {
        local: address(node),
        remote: address(peer),
    }
}

fn volume_nr(v: usize) -> VolumeNr {
    VolumeNr::from_wire(v as u16)
}

impl Cluster {
    /// Commands that configure a node without connecting or attaching.
    pub fn configure_commands(&self, n: usize) -> Vec<Command> {
        let c = &self.config;
        let mut commands = Vec::new();
        for v in 0..c.volumes.len() {
            let options = DeviceOptions {
                diskless: c.diskless[n],
                ..c.device.clone()
            };
            commands.push(Command::NewMinor {
                volume: volume_nr(v),
                minor: v as u32,
                options,
            });
        }
        for peer in (0..c.nodes).filter(|p| *p != n) {
            let options = c.net_options(n, peer);
            commands.push(Command::NewPeer {
                peer: node_id(peer),
                name: NAMES[peer % NAMES.len()].into(),
                options,
            });
            commands.push(Command::NewPath {
                peer: node_id(peer),
                path: path(n, peer),
            });
            for v in 0..c.volumes.len() {
                let options = PeerDeviceOptions {
                    bitmap: !c.diskless[peer],
                    ..c.peer_device.clone()
                };
                commands.push(Command::PeerDeviceOptions {
                    peer: node_id(peer),
                    volume: volume_nr(v),
                    options,
                });
            }
        }
        commands
    }

    /// The command that attaches a volume.
    pub fn attach_command(&self, n: usize, volume: usize) -> Command {
        let backing = format::backing(&self.config, n, volume);
        Command::Attach {
            volume: volume_nr(volume),
            backing,
            options: DiskOptions {
                resync_after: self.config.resync_after.get(volume).copied().flatten(),
                ..self.config.disk.clone()
            },
        }
    }

    /// The command that connects to a peer.
    pub fn connect_command(&self, peer: usize) -> Command {
        Command::Connect {
            peer: node_id(peer),
            discard_my_data: false,
            tentative: false,
        }
    }

    /// Boots a node and brings the resource up, with all connections.
    pub fn start(&mut self, n: usize) {
        if self.nodes[n].up() {
            return;
        }
        self.boot(n);
        let mut commands = self.configure_commands(n);
        for v in 0..self.config.volumes.len() {
            if self.nodes[n].disks[v].is_some() {
                commands.push(self.attach_command(n, v));
            }
        }
        for peer in (0..self.config.nodes).filter(|p| *p != n) {
            commands.push(self.connect_command(peer));
        }
        self.script(n, commands);
    }

    /// A node goes down at once. With `power` its disks lose their caches, and its peers learn it late.
    pub fn crash(&mut self, n: usize, power: bool) {
        if !self.nodes[n].up() {
            return;
        }
        self.note(|| format!("node {n} {}", if power { "loses power" } else { "crashes" }));
        self.stats.crashes += 1;
        let now = self.now();
        let tearing = self.config.tearing;
        let pending = std::mem::take(&mut self.nodes[n].pending);
        for p in pending.values() {
            if let Some(disk) = self.nodes[n].disks[p.volume].as_mut() {
                disk.interrupt(
                    &p.op,
                    if power { tearing } else { Tearing::Never },
                    &mut self.rng,
                );
            }
        }
        if power {
            for disk in self.nodes[n].disks.iter_mut().flatten() {
                disk.lose_power(tearing, &mut self.rng);
            }
        }
        self.nodes[n].wipe();
        self.buffers.forget_node(n);
        self.ios.forget_node(n);
        self.flow.node_gone(n);
        for h in &mut self.histories {
            h.node_crashed(n, now);
            if power && self.config.volatile_cache {
                h.cache_lost(n);
            }
        }
        self.app_node_gone(n);
        let later = self.net.node_gone(n, power, now);
        self.later(later);
    }

    /// The connection between two nodes is reset; both will try again.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.note(|| format!("connection {a}-{b} is cut"));
        self.stats.cuts += 1;
        let now = self.now();
        let later = self.net.cut(a, b, now);
        self.later(later);
    }

    /// The connection between two nodes is reset, and they find no way to each other until [`Cluster::open_link`].
    pub fn close_link(&mut self, a: usize, b: usize) {
        let now = self.now();
        let later = self.net.close(a, b, true, now);
        self.later(later);
        self.cut(a, b);
    }

    /// Two nodes hear each other again: what held back one direction or both is over.
    pub fn open_link(&mut self, a: usize, b: usize) {
        self.note(|| format!("nodes {a} and {b} can hear each other"));
        let now = self.now();
        let mut later = self.net.end_stall(a, b, now);
        later.extend(self.net.end_stall(b, a, now));
        later.extend(self.net.close(a, b, false, now));
        self.later(later);
    }

    /// Changes the superblock of a disk that is not attached, as the metadata tool does. The error says why not.
    pub fn edit_superblock(
        &mut self,
        n: usize,
        volume: usize,
        edit: impl FnOnce(&mut drbd_meta::superblock::Superblock),
    ) -> Result<(), String> {
        if self.nodes[n].attached[volume] {
            return Err("the disk is attached".into());
        }
        let mut superblock = self.superblock(n, volume).ok_or("no superblock")?;
        edit(&mut superblock);
        let disk = self.nodes[n].disks[volume].as_mut().ok_or("no disk")?;
        let at = disk.superblock;
        disk.write_metadata(at, &superblock.encode())
    }

    /// A node's volume gets another disk with fresh metadata; what its data sectors hold is `content` everywhere.
    pub fn replace_disk(
        &mut self,
        n: usize,
        volume: usize,
        content: crate::buffer::Version,
    ) -> Result<(), String> {
        if self.nodes[n].attached[volume] {
            return Err("the old disk is attached".into());
        }
        let fresh = crate::config::Config {
            initial: crate::config::Initial::Fresh,
            ..self.config.clone()
        };
        self.nodes[n].disks[volume] = Some(format::create(&fresh, n, volume, content)?);
        self.nodes[n].decoded.remove(&volume);
        Ok(())
    }

    /// One direction delivers nothing for some time.
    pub fn stall(&mut self, from: usize, to: usize, duration: crate::clock::Time) {
        self.note(|| {
            format!(
                "nothing gets from {from} to {to} for {} ms",
                duration / 1_000_000
            )
        });
        let now = self.now();
        let later = self.net.stall(from, to, duration, now);
        self.later(later);
    }

    /// The nodes of the mask hear nothing from the others and the other way round, for some time.
    pub fn partition(&mut self, mask: u64, duration: crate::clock::Time) {
        for a in 0..self.config.nodes {
            for b in 0..self.config.nodes {
                if a != b && (mask >> a & 1) != (mask >> b & 1) {
                    self.stall(a, b, duration);
                }
            }
        }
    }

    /// All stalls and partitions are over.
    pub fn heal(&mut self) {
        self.note(|| "the network heals".into());
        let now = self.now();
        let later = self.net.heal(now);
        self.later(later);
    }
}
