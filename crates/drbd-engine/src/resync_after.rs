//! Which volumes of a node may be resynced at the same time: `resync-after`, and the limit for the whole node (state
//! machine, section 9.4).
//!
//! The resources of a node know nothing of each other. Each engine tells the driver how its volumes are
//! ([`Effect::ResyncFacts`](crate::Effect::ResyncFacts)); the driver hands that to the one [`Schedule`] of the node and
//! gives what comes of it to the engines concerned ([`Event::ResyncHold`](crate::Event::ResyncHold)).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use drbd_proto::{ReplState, VolumeNr};

use crate::effect::Effect;
use crate::engine::Engine;
use crate::state::change::ChangeFlags;

/// What the other volumes of a node have to know about one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResyncFacts {
    /// Minor number of the volume.
    pub minor: u32,
    /// It has a disk.
    pub attached: bool,
    /// `resync-after`: the minor it waits for.
    pub after: Option<u32>,
    /// It is being resynced or verified, or would be if that were not paused: who waits for it goes on waiting.
    pub busy: bool,
    /// It is being resynced or verified now.
    pub running: bool,
    /// It would be resynced if the limit of the node did not hold it.
    pub held: bool,
}

/// Whether a volume has to wait with its resyncs.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ResyncHold {
    /// For the volume named by `resync-after`.
    pub dependency: bool,
    /// Because as many are being resynced as the node allows.
    pub limit: bool,
}

/// Why a volume cannot wait for another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("resync-after minor {0} would make volumes wait for each other")]
pub struct Cycle(pub u32);

/// All volumes of a node. `R` names a resource.
#[derive(Debug)]
pub struct Schedule<R> {
    devices: BTreeMap<(R, VolumeNr), (ResyncFacts, ResyncHold)>,
    /// How many volumes may be resynced at a time; 0: no limit.
    limit: usize,
}

impl<R> Default for Schedule<R> {
    fn default() -> Self {
        Schedule {
            devices: BTreeMap::new(),
            limit: 0,
        }
    }
}

/// What has to be told to an engine: which volume of which resource, and whether it has to wait.
pub type Told<R> = Vec<(R, VolumeNr, ResyncHold)>;

impl<R: Ord + Clone> Schedule<R> {
    /// A node that resyncs so many volumes at a time; 0: no limit.
    pub fn new(limit: usize) -> Self {
        Schedule {
            limit,
            ..Schedule::default()
        }
    }

    /// A volume has changed, or is gone.
    pub fn update(
        &mut self,
        resource: &R,
        volume: VolumeNr,
        facts: Option<ResyncFacts>,
    ) -> Told<R> {
        let key = (resource.clone(), volume);
        match facts {
            Some(facts) => {
                let hold = self.devices.get(&key).map(|(_, h)| *h).unwrap_or_default();
                self.devices.insert(key, (facts, hold));
            }
            None => {
                self.devices.remove(&key);
            }
        }
        self.evaluate()
    }

    /// A resource is gone with all its volumes.
    pub fn remove(&mut self, resource: &R) -> Told<R> {
        self.devices.retain(|(r, _), _| r != resource);
        self.evaluate()
    }

    /// Another limit.
    pub fn set_limit(&mut self, limit: usize) -> Told<R> {
        self.limit = limit;
        self.evaluate()
    }

    fn facts(&self, minor: u32) -> Option<&ResyncFacts> {
        let mut all = self.devices.values().map(|(facts, _)| facts);
        all.find(|f| f.minor == minor)
    }

    /// Whether a minor may wait for another one.
    ///
    /// # Errors
    /// That one waits for the first already, perhaps through others.
    pub fn check(&self, minor: u32, after: u32) -> Result<(), Cycle> {
        let mut at = Some(after);
        // No chain is longer than there are volumes.
        for _ in 0..=self.devices.len() {
            match at {
                Some(m) if m == minor => return Err(Cycle(after)),
                Some(m) => at = self.facts(m).and_then(|f| f.after),
                None => return Ok(()),
            }
        }
        Err(Cycle(after))
    }

    /// Whether nothing along the chain of a volume is busy. It ends at a volume without disk.
    fn may_sync(&self, facts: &ResyncFacts) -> bool {
        let mut at = facts.after;
        for _ in 0..=self.devices.len() {
            match at.and_then(|m| self.facts(m)) {
                Some(f) if !f.attached => return true,
                Some(f) if f.busy => return false,
                Some(f) => at = f.after,
                None => return true,
            }
        }
        true
    }

    /// The volumes that may be resynced within the limit: those that are, then others of their resources, then the
    /// rest.
    fn admitted(&self) -> BTreeSet<(R, VolumeNr)> {
        let mut admitted = BTreeSet::new();
        let all = || self.devices.iter().map(|(key, (facts, _))| (key, facts));
        for (key, _) in all().filter(|(_, f)| f.running) {
            if admitted.len() < self.limit {
                admitted.insert(key.clone());
            }
        }
        let active: BTreeSet<R> = admitted.iter().map(|(r, _)| r.clone()).collect();
        for same in [true, false] {
            for (key, _) in all().filter(|(key, f)| f.held && active.contains(&key.0) == same) {
                if admitted.len() < self.limit {
                    admitted.insert(key.clone());
                }
            }
        }
        admitted
    }

    fn evaluate(&mut self) -> Told<R> {
        let admitted = self.admitted();
        let full = self.limit > 0 && admitted.len() >= self.limit;
        let holds: Vec<((R, VolumeNr), ResyncHold)> = self
            .devices
            .iter()
            .map(|(key, (facts, _))| {
                let hold = ResyncHold {
                    dependency: !self.may_sync(facts),
                    limit: full && !admitted.contains(key),
                };
                (key.clone(), hold)
            })
            .collect();
        let mut told = Vec::new();
        for (key, hold) in holds {
            if let Some((_, old)) = self.devices.get_mut(&key)
                && *old != hold
            {
                *old = hold;
                told.push((key.0, key.1, hold));
            }
        }
        told
    }
}

impl Engine {
    /// How a volume is, for the other volumes of the node.
    fn resync_facts(&self, v: VolumeNr) -> Option<ResyncFacts> {
        let volume = self.volumes.get(&v)?;
        let active = |r: ReplState| r >= ReplState::SyncSource && r <= ReplState::PausedSyncT;
        let mut facts = ResyncFacts {
            minor: volume.minor,
            attached: volume.disk.is_some(),
            after: volume.disk.as_ref().and_then(|d| d.options.resync_after),
            busy: false,
            running: false,
            held: false,
        };
        for (_, _, pd) in self.state.peers_of(v) {
            facts.busy |= active(pd.repl) || pd.susp_dependency || pd.susp_peer || pd.susp_user;
            facts.running |= pd.repl.is_verify()
                || matches!(pd.repl, ReplState::SyncSource | ReplState::SyncTarget);
            let paused = matches!(pd.repl, ReplState::PausedSyncS | ReplState::PausedSyncT);
            facts.held |= paused
                && pd.susp_max_parallel
                && !(pd.susp_user || pd.susp_peer || pd.susp_dependency || pd.susp_other_c);
        }
        facts.held &= !facts.running;
        Some(facts)
    }

    /// Tells the node what has changed.
    pub(crate) fn publish_resync_facts(&mut self) {
        if !core::mem::take(&mut self.facts_changed) {
            return;
        }
        let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for v in volumes {
            let facts = self.resync_facts(v);
            let Some(volume) = self.volumes.get_mut(&v) else {
                continue;
            };
            if volume.told_facts != facts {
                volume.told_facts = facts;
                self.push(Effect::ResyncFacts { volume: v, facts });
            }
        }
    }

    /// The node says whether a volume has to wait.
    pub(crate) fn resync_hold(&mut self, v: VolumeNr, hold: ResyncHold) {
        let Some(volume) = self.volumes.get_mut(&v) else {
            return;
        };
        volume.resync_hold = hold;
        let _ = self.change(ChangeFlags::HARD, |s| {
            for conn in s.conns.values_mut() {
                if let Some(pd) = conn.peers.get_mut(&v) {
                    pd.susp_dependency = hold.dependency;
                    pd.susp_max_parallel = hold.limit;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(minor: u32, after: Option<u32>) -> ResyncFacts {
        ResyncFacts {
            minor,
            attached: true,
            after,
            busy: false,
            running: false,
            held: false,
        }
    }

    fn running(minor: u32, after: Option<u32>) -> ResyncFacts {
        ResyncFacts {
            busy: true,
            running: true,
            ..facts(minor, after)
        }
    }

    const V: VolumeNr = VolumeNr::ZERO;
    const WAIT: ResyncHold = ResyncHold {
        dependency: true,
        limit: false,
    };
    const HELD: ResyncHold = ResyncHold {
        dependency: false,
        limit: true,
    };
    const GO: ResyncHold = ResyncHold {
        dependency: false,
        limit: false,
    };

    #[test]
    fn a_volume_waits_for_all_along_its_chain() {
        let mut s = Schedule::default();
        assert_eq!(s.update(&"a", V, Some(facts(1, None))), []);
        assert_eq!(s.update(&"b", V, Some(facts(2, Some(1)))), []);
        assert_eq!(s.update(&"c", V, Some(facts(3, Some(2)))), []);
        let told = s.update(&"a", V, Some(running(1, None)));
        assert_eq!(told, [("b", V, WAIT), ("c", V, WAIT)]);
        // The middle one has no disk: the chain ends there.
        let gone = ResyncFacts {
            attached: false,
            ..facts(2, Some(1))
        };
        assert_eq!(s.update(&"b", V, Some(gone)), [("c", V, GO)]);
        assert_eq!(s.update(&"b", V, Some(facts(2, Some(1)))), [("c", V, WAIT)]);
        let told = s.remove(&"a");
        assert_eq!(told, [("b", V, GO), ("c", V, GO)]);
    }

    #[test]
    fn nobody_waits_for_itself() {
        let mut s = Schedule::default();
        s.update(&"a", V, Some(facts(1, None)));
        s.update(&"b", V, Some(facts(2, Some(1))));
        s.update(&"c", V, Some(facts(3, Some(2))));
        assert_eq!(s.check(1, 3), Err(Cycle(3)));
        assert_eq!(s.check(1, 1), Err(Cycle(1)));
        assert_eq!(s.check(3, 1), Ok(()));
        assert_eq!(s.check(4, 3), Ok(()));
        assert_eq!(s.check(1, 77), Ok(()), "it may come later");
    }

    #[test]
    fn no_more_than_the_limit_run_at_a_time() {
        let held = |minor| ResyncFacts {
            busy: true,
            held: true,
            ..facts(minor, None)
        };
        let one = VolumeNr::from_wire(1);
        let mut s = Schedule::new(1);
        assert_eq!(s.update(&"a", V, Some(facts(1, None))), []);
        assert_eq!(s.update(&"a", one, Some(facts(2, None))), []);
        assert_eq!(s.update(&"b", V, Some(facts(3, None))), []);
        let told = s.update(&"a", V, Some(running(1, None)));
        assert_eq!(told, [("a", one, HELD), ("b", V, HELD)]);
        assert_eq!(s.update(&"b", V, Some(held(3))), []);
        assert_eq!(s.update(&"a", one, Some(held(2))), []);
        // The first is done: the next of the resources comes.
        let told = s.update(&"a", V, Some(facts(1, None)));
        assert_eq!(told, [("a", V, HELD), ("a", one, GO)]);
        s.update(&"a", one, Some(running(2, None)));
        let told = s.update(&"a", one, Some(facts(2, None)));
        assert_eq!(told, [("a", one, HELD), ("b", V, GO)]);
        // Two at a time, then without limit.
        s.update(&"b", V, Some(running(3, None)));
        assert_eq!(s.set_limit(2), [("a", V, GO), ("a", one, GO)]);
        s.update(&"a", V, Some(running(1, None)));
        assert_eq!(s.set_limit(0), [("a", one, GO)]);
    }
}
