//! What fate and administrators do.

use drbd_engine::command::{Command, Resize};
use drbd_proto::{ConnState, DiskState, ReplState, Role, Sector, VolumeNr};

use super::{Deed, Run};
use crate::clock::{MS, SEC};
use crate::cluster::node_id;

fn volume_nr(v: usize) -> VolumeNr {
    VolumeNr::from_wire(v as u16)
}

impl Run {
    pub(super) fn do_it(&mut self, deed: Deed) {
        match deed {
            Deed::Start(n) => self.cluster.start(n),
            Deed::Unstick(n) => self.unstick(n),
            Deed::Promote => self.promote_someone(),
            Deed::Connect(n, peer) => {
                if self.cluster.nodes[n].up() {
                    let command = self.cluster.connect_command(peer);
                    self.cluster.script(n, vec![command]);
                }
            }
            Deed::Attach(n, v) => {
                if self.cluster.nodes[n].up()
                    && self.cluster.nodes[n].disks[v].is_some()
                    && self.cluster.disk_state(n, v) == DiskState::Diskless
                {
                    let command = self.cluster.attach_command(n, v);
                    self.cluster.script(n, vec![command]);
                }
            }
            Deed::Repair(n, v) => {
                if let Some(disk) = self.cluster.nodes[n].disks[v].as_mut() {
                    disk.broken = false;
                }
                self.do_it(Deed::Attach(n, v));
            }
            Deed::ResumeIo(n) if self.resume_would_fail(n) => self.later(SEC, Deed::ResumeIo(n)),
            Deed::ResumeIo(n) => self.give(n, Command::ResumeIo),
            Deed::ResumeSync(n, peer) => {
                for v in 0..self.cluster.config.volumes.len() {
                    self.give(
                        n,
                        Command::ResumeSync {
                            peer: node_id(peer),
                            volume: volume_nr(v),
                        },
                    );
                }
            }
            Deed::Demoted(n) => {
                if self.cluster.app_idle() && self.cluster.role(n) == Role::Primary {
                    let id = self.cluster.command(n, Command::Secondary { force: false });
                    self.demoting = Some((n, id));
                }
                let delay = self.rng.range(50 * MS, SEC);
                self.later(delay, Deed::Promote);
            }
        }
    }

    /// A command whose reply nobody waits for.
    fn give(&mut self, n: usize, command: Command) {
        if self.cluster.nodes[n].up() {
            self.cluster.script(n, vec![command]);
        }
    }

    /// The most careful administrator: without quorum only complete data becomes Primary, and only if no
    /// other Primary is running anywhere.
    fn may_promote(&self, n: usize) -> bool {
        let c = &self.cluster;
        if !c.nodes[n].up() || !c.script_done(n) {
            return false;
        }
        if self.plan.quorum {
            return true;
        }
        if self.primary().is_some() {
            return false;
        }
        (0..c.config.volumes.len()).all(|v| {
            (0..c.config.nodes).all(|m| {
                // A promotion without own disk waits for data: an old copy may come up meanwhile.
                let counts = m == n || c.config.diskless[n];
                !counts || c.config.diskless[m] || c.is_current(m, v) || c.lenient
            })
        })
    }

    fn promote_someone(&mut self) {
        let retry = self.rng.range(500 * MS, 3 * SEC);
        if self.promoting.is_some() || self.demoting.is_some() || self.cluster.app_opening() {
            return self.later(retry, Deed::Promote);
        }
        if let Some(p) = self.primary() {
            self.cluster.app_start(p);
            return;
        }
        let able: Vec<usize> = (0..self.cluster.config.nodes)
            .filter(|n| self.may_promote(*n))
            .collect();
        if able.is_empty() {
            return self.later(retry, Deed::Promote);
        }
        let n = self.rng.pick(&able);
        if self.cluster.config.resource.auto_promote && self.rng.percent(30) {
            // The first opener does it; if it fails, try again.
            self.cluster.app_start(n);
            return self.later(4 * SEC, Deed::Promote);
        }
        let id = self.cluster.command(n, Command::Primary { force: false });
        self.promoting = Some((n, id));
    }

    fn any_node(&mut self) -> usize {
        self.rng.below(self.cluster.config.nodes as u64) as usize
    }

    fn any_pair(&mut self) -> Option<(usize, usize)> {
        let n = self.cluster.config.nodes as u64;
        if n < 2 {
            return None;
        }
        let a = self.rng.below(n);
        let b = (a + 1 + self.rng.below(n - 1)) % n;
        Some((a as usize, b as usize))
    }

    /// Something happens.
    pub(super) fn misfortune(&mut self) {
        let dice = self.rng.below(100);
        match dice {
            0..35 if self.plan.network => self.network_trouble(),
            35..60 if self.plan.crashes => self.machine_trouble(),
            60..85 if self.plan.admin || self.plan.grow => self.admin_action(),
            85..95 => self.migrate(),
            _ => {}
        }
    }

    fn network_trouble(&mut self) {
        let Some((a, b)) = self.any_pair() else {
            return;
        };
        match self.rng.below(10) {
            0..5 => self.cluster.cut(a, b),
            5..7 => {
                let duration = self.rng.latency(20 * MS, 10 * SEC);
                self.cluster.stall(a, b, duration);
            }
            7 => {
                let duration = self.rng.latency(20 * MS, 10 * SEC);
                self.cluster.stall(a, b, duration);
                self.cluster.stall(b, a, duration);
            }
            8 => {
                let duration = self.rng.latency(500 * MS, 20 * SEC);
                let mask = self.rng.below(1 << self.cluster.config.nodes);
                self.cluster.note(|| format!("partition {mask:b}"));
                self.cluster.partition(mask, duration);
            }
            _ => {
                // Everything at once.
                for x in 0..self.cluster.config.nodes {
                    for y in 0..x {
                        self.cluster.cut(x, y);
                    }
                }
            }
        }
    }

    /// A disk fails, and is repaired (with what it held) and attached again later.
    fn disk_trouble(&mut self) {
        let n = self.any_node();
        let v = self.rng.below(self.cluster.config.volumes.len() as u64) as usize;
        if !self.may_fail(n, v) {
            return;
        }
        let Some(disk) = self.cluster.nodes[n].disks[v].as_mut() else {
            return;
        };
        disk.broken = true;
        disk.was_broken = true;
        self.cluster.forced_down = true;
        self.cluster
            .note(|| format!("disk of volume {v} on node {n} fails"));
        let delay = self.rng.latency(500 * MS, 10 * SEC);
        self.later(delay, Deed::Repair(n, v));
    }

    fn machine_trouble(&mut self) {
        if self.plan.disk_errors && self.rng.percent(40) {
            return self.disk_trouble();
        }
        let power = self.plan.power && self.rng.percent(50);
        let n = match self.primary() {
            Some(p) if self.rng.percent(50) => p,
            _ => self.any_node(),
        };
        let victims: Vec<usize> = match self.rng.below(12) {
            0 => (0..self.cluster.config.nodes).collect(),
            1 => vec![n, self.any_node()],
            _ => vec![n],
        };
        for v in victims {
            self.take_down(v, power);
        }
        let delay = self.rng.range(100 * MS, 6 * SEC);
        self.later(delay, Deed::Promote);
    }

    fn take_down(&mut self, n: usize, mut power: bool) {
        if !self.cluster.nodes[n].up() {
            return;
        }
        if self.still_fragile() {
            if !self.plan.blackouts {
                return;
            }
            // A second failure before the first is mended: the generation rules may choose the copy that lost its
            // cache, and what was not flushed is gone (D1 promises it for crashes of processes only).
            self.cluster.lenient = true;
        }
        // With protocols A and B the Primary's copy is the one that counts, without what was in its cache: until all
        // have followed, reads show the one or the other. To the 8 series the copy of a crashed Primary always does.
        let eight = (0..self.cluster.config.nodes)
            .any(|m| m != n && self.cluster.config.dialect(n, m).0 < 110);
        if (self.plan.asynchronous || eight) && self.cluster.role(n) == Role::Primary {
            power = false;
        }
        // A disk that is given up later would be the second failure.
        if self.cluster.now() < self.late_disks {
            power = false;
        }
        if power && self.cluster.config.volatile_cache && !self.others_complete(n) {
            // It may hold the only copy of something: a single failure spares it.
            if self.plan.blackouts {
                self.cluster.lenient = true;
                self.cluster.divergence_tolerated = true;
            } else {
                power = false;
            }
        }
        if power && self.cluster.config.volatile_cache {
            self.fragile = Some(n);
        }
        self.cluster.crash(n, power);
        let delay = self.rng.latency(100 * MS, 15 * SEC);
        self.later(delay, Deed::Start(n));
    }

    /// `resume-io` also ends a suspension for want of data or quorum, or because of fencing: what waits fails then, or goes on
    /// although the peer may be in use, as the administrator wants it. This one does not.
    pub(super) fn resume_would_fail(&self, n: usize) -> bool {
        self.cluster
            .status(n)
            .is_some_and(|s| s.info.susp_nod || s.info.susp_quorum || s.info.susp_fen)
    }

    /// Whether a node that lost its cache has not got back yet what was in it, or not met all others since: the
    /// next failure would be the second at a time, and a comparison of two such copies may choose either.
    pub(super) fn still_fragile(&mut self) -> bool {
        let Some(n) = self.fragile else { return false };
        let c = &self.cluster;
        let volumes = 0..c.config.volumes.len();
        let mut others = (0..c.config.nodes).filter(|m| *m != n && c.nodes[*m].up());
        let well = c.config.diskless[n]
            || c.nodes[n].up()
                && others.all(|m| c.connection(n, m) == ConnState::Connected)
                && volumes
                    .into_iter()
                    .all(|v| c.disk_state(n, v) == DiskState::UpToDate && c.is_current(n, v));
        if well {
            self.fragile = None;
        }
        !well
    }

    /// Whether every other disk is there, has everything that was acknowledged, and is known to.
    fn others_complete(&self, n: usize) -> bool {
        let c = &self.cluster;
        let complete = |m: usize| {
            let volumes = 0..c.config.volumes.len();
            c.config.diskless[m]
                || c.nodes[m].up()
                    && volumes
                        .into_iter()
                        .all(|v| c.is_current(m, v) && c.disk_state(m, v) == DiskState::UpToDate)
        };
        (0..c.config.nodes).filter(|m| *m != n).all(complete)
    }

    /// Another node becomes Primary in good order.
    fn migrate(&mut self) {
        let Some(p) = self.primary() else {
            return self.later(0, Deed::Promote);
        };
        self.cluster.app_stop();
        let delay = self.rng.range(100 * MS, 2 * SEC);
        self.later(delay, Deed::Demoted(p));
    }

    /// All backing devices of a volume are made larger, and the volume with them, perhaps.
    fn grow(&mut self, v: usize) {
        let bytes = 512 * self.rng.range(1, 4000);
        if self.cluster.least_size(v) < 400 << 11 {
            self.cluster.grow_devices(v, bytes);
        }
        let n = self.any_node();
        let resize = Resize::default();
        let volume = volume_nr(v);
        self.give(n, Command::Resize { volume, resize });
    }

    fn admin_action(&mut self) {
        let Some((n, peer)) = self.any_pair() else {
            return;
        };
        let v = self.rng.below(self.cluster.config.volumes.len() as u64) as usize;
        let delay = self.rng.latency(50 * MS, 8 * SEC);
        if self.plan.grow && self.rng.percent(40) {
            return self.grow(v);
        }
        match self.rng.below(7) {
            0 | 1 => {
                self.give(
                    n,
                    Command::Disconnect {
                        peer: node_id(peer),
                        force: self.rng.clone().percent(30),
                    },
                );
                self.later(delay, Deed::Connect(n, peer));
            }
            2 => {
                let force = self.rng.percent(30);
                // A disk that is given up is a failure, too.
                if force && self.still_fragile() {
                    return;
                }
                self.give(
                    n,
                    Command::Detach {
                        volume: volume_nr(v),
                        force,
                        diskless: false,
                    },
                );
                self.later(delay, Deed::Attach(n, v));
            }
            3 => {
                self.give(n, Command::SuspendIo);
                self.later(delay, Deed::ResumeIo(n));
            }
            4 => {
                for v in 0..self.cluster.config.volumes.len() {
                    self.give(
                        n,
                        Command::PauseSync {
                            peer: node_id(peer),
                            volume: volume_nr(v),
                        },
                    );
                }
                self.later(delay, Deed::ResumeSync(n, peer));
            }
            5 => {
                // Only what others have may be thrown away, and never that of two nodes.
                let good = |m: usize| {
                    let (repl, disk, _) = self.cluster.peer_device(n, m, v);
                    m != n && repl == ReplState::Established && disk == DiskState::UpToDate
                };
                let safe = self.cluster.role(n) == Role::Secondary
                    && *self.expendable.get_or_insert(n) == n
                    && (0..self.cluster.config.nodes).any(good);
                if safe {
                    self.give(
                        n,
                        Command::Invalidate {
                            volume: volume_nr(v),
                            from: None,
                            reset_bitmap: true,
                        },
                    );
                }
            }
            _ => {
                // Some MiB are enough: it is one request per 4 KiB.
                let size = self.cluster.size(n, v).max(8);
                let start = self.rng.below(size) / 8 * 8;
                let verify = Command::Verify {
                    peer: node_id(peer),
                    volume: volume_nr(v),
                    start: Some(Sector(start)),
                    stop: Some(Sector((start + 8192).min(size))),
                };
                self.give(n, verify);
            }
        }
    }
}
