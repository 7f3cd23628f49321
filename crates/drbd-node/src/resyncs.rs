//! Which volumes of this node may be resynced at a time: what the engines of its resources tell each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drbd_engine::resync_after::{Cycle, ResyncFacts, Schedule, Told};
use drbd_proto::VolumeNr;

use crate::mailbox::Sender;
use crate::reactor::Message;

/// The one schedule of a node.
#[derive(Clone)]
pub(crate) struct Resyncs(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    schedule: Schedule<u64>,
    reactors: BTreeMap<u64, Sender<Message>>,
    next: u64,
}

/// A resource's place in the schedule.
pub(crate) struct Member {
    resyncs: Resyncs,
    id: u64,
}

impl Inner {
    fn tell(&self, told: Told<u64>) {
        for (id, volume, hold) in told {
            if let Some(reactor) = self.reactors.get(&id) {
                reactor.send(Message::ResyncHold { volume, hold });
            }
        }
    }
}

impl Resyncs {
    /// A node that resyncs so many volumes at a time; 0: no limit.
    pub(crate) fn new(limit: usize) -> Resyncs {
        Resyncs(Arc::new(Mutex::new(Inner {
            schedule: Schedule::new(limit),
            ..Inner::default()
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A resource that begins to run.
    pub(crate) fn join(&self, reactor: Sender<Message>) -> Member {
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        inner.reactors.insert(id, reactor);
        Member {
            resyncs: self.clone(),
            id,
        }
    }

    /// Whether a minor may wait for another one.
    pub(crate) fn check(&self, minor: u32, after: u32) -> Result<(), Cycle> {
        self.lock().schedule.check(minor, after)
    }
}

impl Member {
    /// A volume of the resource has changed, or is gone.
    pub(crate) fn update(&self, volume: VolumeNr, facts: Option<ResyncFacts>) {
        let mut inner = self.resyncs.lock();
        let told = inner.schedule.update(&self.id, volume, facts);
        inner.tell(told);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut inner = self.resyncs.lock();
        inner.reactors.remove(&self.id);
        let told = inner.schedule.remove(&self.id);
        inner.tell(told);
    }
}
