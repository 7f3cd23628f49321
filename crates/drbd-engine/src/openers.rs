//! Who has a volume open: writers promote this node, readers need data and no Primary elsewhere (state machine, section
//! 10.3).

use alloc::vec::Vec;

use drbd_proto::{ConnState, NodeId, NodeMask, Role, VolumeNr};

use crate::connection::PingWaiter;
use crate::effect::{Effect, OpenError};
use crate::engine::Engine;
use crate::id::OpenId;
use crate::state::change::ChangeFlags;
use crate::time::Instant;
use crate::timer::Timer;
use crate::twopc::Active;

/// Somebody who wants to read, and cannot yet.
#[derive(Debug)]
pub(crate) struct Reader {
    open: OpenId,
    volume: VolumeNr,
    /// Peers that were asked whether they live: one that does not is no Primary.
    pinged: NodeMask,
    /// Until when it waits.
    until: Instant,
}

/// Somebody who came during a demotion that a peer of the 8 series has agreed to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    open: OpenId,
    volume: VolumeNr,
    write: bool,
    nonblock: bool,
}

impl Engine {
    /// Somebody opens a volume (section 10.3).
    pub(crate) fn opened(&mut self, open: OpenId, v: VolumeNr, write: bool, nonblock: bool) {
        let legacy = self.legacy_peers();
        let Some(volume) = self.volumes.get_mut(&v) else {
            self.push(Effect::OpenDone {
                open,
                result: Err(OpenError::NoVolume),
            });
            return;
        };
        // A peer of the 8 series cannot be told that a demotion to which it has agreed did not take place.
        let demotion = self.role_change.as_ref().is_some_and(|r| r.demotes());
        if demotion && self.state.role == Role::Primary && !legacy.is_empty() {
            return self.held_openers.push(Held {
                open,
                volume: v,
                write,
                nonblock,
            });
        }
        volume.openers.insert(open, write);
        self.publish_device(v);
        if self.state.fail_io {
            return self.finish_open(open, Err(OpenError::FailIo));
        }
        if self.state.role == Role::Primary {
            return self.finish_open(open, Ok(()));
        }
        if write {
            if !self.options.auto_promote {
                return self.finish_open(open, Err(OpenError::ReadOnly));
            }
            if self.role_change.is_some() && !nonblock {
                self.waiting_openers.push(open);
                return;
            }
            return self.promote_for(open, nonblock);
        }
        match self.may_read(v) {
            Err(_) if self.options.auto_promote && !nonblock => self.reader_waits(open, v),
            answer => self.finish_open(open, answer),
        }
    }

    /// Whether a volume may be opened for reading on a Secondary.
    fn may_read(&self, v: VolumeNr) -> Result<(), OpenError> {
        if self.state.fail_io {
            return Err(OpenError::FailIo);
        }
        if self.state.role == Role::Primary {
            return Ok(());
        }
        let quorum = self.state.devices.get(&v).is_none_or(|d| d.have_quorum);
        let foreign = self
            .state
            .conns
            .iter()
            .any(|(n, c)| c.peer_role == Role::Primary && !self.two_primaries(*n));
        if !self.options.auto_promote || foreign {
            Err(OpenError::ForeignPrimary)
        } else if !quorum || !self.data_accessible(&self.state, v) {
            Err(OpenError::NoData)
        } else if matches!(self.twopc.active, Some(Active::Participant(_))) {
            // A node that is about to become Primary was told that nobody reads here.
            Err(OpenError::Busy)
        } else {
            Ok(())
        }
    }

    /// What is in the way may be a Primary that is gone without anybody having noticed, or pass.
    fn reader_waits(&mut self, open: OpenId, v: VolumeNr) {
        self.forget_opener(open);
        let pinged = self.connected_nodes();
        let until = self.now + self.options.auto_promote_timeout;
        self.readers.push(Reader {
            open,
            volume: v,
            pinged,
            until,
        });
        self.timers.set_if_idle(Timer::Readers, until);
        for peer in pinged.iter() {
            self.ping_for(peer, PingWaiter::Reader);
        }
    }

    /// A peer answered, or is gone.
    pub(crate) fn reader_ping(&mut self, peer: NodeId) {
        for reader in &mut self.readers {
            reader.pinged.remove(peer);
        }
    }

    /// Answers readers for whom it is decided; called after each event.
    pub(crate) fn settle_readers(&mut self) {
        if self.role_change.is_none() {
            for held in core::mem::take(&mut self.held_openers) {
                self.opened(held.open, held.volume, held.write, held.nonblock);
            }
        }
        if self.readers.is_empty() {
            return;
        }
        let coming = self
            .state
            .conns
            .values()
            .any(|c| (ConnState::Unconnected..=ConnState::Connecting).contains(&c.cstate));
        let mut left = Vec::new();
        for reader in core::mem::take(&mut self.readers) {
            let answer = self.may_read(reader.volume);
            let patient = self.now < reader.until
                && (!reader.pinged.is_empty() || coming || answer == Err(OpenError::Busy));
            if answer.is_err() && patient {
                left.push(reader);
                continue;
            }
            if answer.is_ok()
                && let Some(volume) = self.volumes.get_mut(&reader.volume)
            {
                volume.openers.insert(reader.open, false);
                self.publish_device(reader.volume);
            }
            self.push(Effect::OpenDone {
                open: reader.open,
                result: answer,
            });
        }
        match left.iter().map(|r| r.until).min() {
            Some(until) => self.timers.set(Timer::Readers, until),
            None => self.timers.cancel(Timer::Readers),
        }
        self.readers = left;
    }

    pub(crate) fn finish_open(&mut self, open: OpenId, result: Result<(), OpenError>) {
        if result.is_err() {
            self.forget_opener(open);
        }
        self.push(Effect::OpenDone { open, result });
        let waiting = core::mem::take(&mut self.waiting_openers);
        for open in waiting {
            let primary = self.state.role == Role::Primary;
            let known = self.volumes.values().any(|v| v.openers.contains_key(&open));
            if known && primary {
                self.push(Effect::OpenDone {
                    open,
                    result: Ok(()),
                });
            } else if known {
                self.forget_opener(open);
                self.push(Effect::OpenDone {
                    open,
                    result: Err(OpenError::ReadOnly),
                });
            }
        }
    }

    fn forget_opener(&mut self, open: OpenId) -> Option<bool> {
        let volume = self
            .volumes
            .values_mut()
            .find(|v| v.openers.contains_key(&open))?;
        let v = volume.nr;
        let write = volume.openers.remove(&open);
        self.publish_device(v);
        write
    }

    /// An opener is gone.
    pub(crate) fn closed(&mut self, open: OpenId) {
        self.held_openers.retain(|held| held.open != open);
        let Some(write) = self.forget_opener(open) else {
            return;
        };
        let any = self.volumes.values().any(|v| !v.openers.is_empty());
        if self.state.fail_io && !any {
            let _ = self.change(ChangeFlags::HARD, |s| s.fail_io = false);
        }
        let writer = self
            .volumes
            .values()
            .any(|v| v.openers.values().any(|w| *w));
        if write {
            self.data_close_epoch();
            self.data_flush_peer_acks();
        }
        if write
            && !writer
            && self.state.role == Role::Primary
            && self.options.auto_promote
            && !self.promoted_by_command
            && self.role_change.is_none()
        {
            self.demote_after_close();
        }
    }
}
