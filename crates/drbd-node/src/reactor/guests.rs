//! Frontends that live in the reactor.

use std::collections::{BTreeMap, HashMap, VecDeque};

use drbd_engine::OpenId;
use drbd_proto::VolumeNr;

use super::openers::Owner;
use super::{Reactor, Token};
use crate::frontend::{Guest, GuestContext, GuestHost, Notice, Request, VolumeHandle};
use crate::pool::{BufMut, Purpose};
use crate::ring::{Completion, Op, OpKey};

struct Slot {
    /// Taken out while one of its functions runs.
    guest: Option<Box<dyn Guest>>,
    handle: VolumeHandle,
    /// Operations on the ring.
    operations: Vec<OpKey>,
    openers: HashMap<u64, OpenId>,
    /// It has called `end`.
    ended: bool,
    /// Something of it was called since the last `settle`.
    touched: bool,
    /// It was refused a buffer.
    starved: bool,
}

/// What a guest has to be told.
enum Call {
    Start,
    Opened(u64, Result<(), drbd_engine::OpenError>),
    Notice(Notice),
}

/// All guests of a reactor.
#[derive(Default)]
pub(super) struct Guests {
    table: BTreeMap<u64, Slot>,
    calls: VecDeque<(u64, Call)>,
    next: u64,
}

impl Guests {
    pub(super) fn notify(&mut self, guest: u64, opener: u64, notice: Notice) {
        let call = match notice {
            Notice::Opened(result) => Call::Opened(opener, result),
            notice => Call::Notice(notice),
        };
        self.calls.push_back((guest, call));
    }

    pub(super) fn notify_volume(&mut self, volume: VolumeNr, notice: impl Fn() -> Notice) {
        for (guest, slot) in &self.table {
            if slot.handle.volume().volume == volume {
                self.calls.push_back((*guest, Call::Notice(notice())));
            }
        }
    }
}

/// What a guest's context works on.
struct Host<'a> {
    reactor: &'a mut Reactor,
    guest: u64,
    handle: VolumeHandle,
}

impl Host<'_> {
    fn slot(&mut self) -> Option<&mut Slot> {
        self.reactor.guests.table.get_mut(&self.guest)
    }
}

impl GuestHost for Host<'_> {
    fn push(&mut self, token: u64, op: Op) -> OpKey {
        let guest = self.guest;
        let key = self.reactor.ring.push(Token::Guest { guest, token }, op);
        if let Some(slot) = self.slot() {
            slot.operations.push(key);
        }
        key
    }

    fn cancel(&mut self, key: OpKey) {
        self.reactor.ring.cancel(key);
    }

    fn alloc(&mut self, len: usize, purpose: Purpose) -> Option<BufMut> {
        let pool = self.reactor.pool.clone();
        if let Some(buf) = pool.alloc(len, purpose) {
            return Some(buf);
        }
        pool.wake_on_release(self.reactor.wake.clone());
        let buf = pool.alloc(len, purpose);
        if buf.is_none()
            && let Some(slot) = self.slot()
        {
            slot.starved = true;
        }
        buf
    }

    fn open(&mut self, opener: u64, write: bool, nonblock: bool) {
        let (guest, volume) = (self.guest, self.handle.volume().volume);
        let open = self
            .reactor
            .open(Owner::Guest { guest, opener }, volume, write, nonblock);
        if let (Some(open), Some(slot)) = (open, self.slot()) {
            slot.openers.insert(opener, open);
        }
    }

    fn close(&mut self, opener: u64) {
        if let Some(open) = self.slot().and_then(|slot| slot.openers.remove(&opener)) {
            self.reactor.close_opener(open);
        }
    }

    fn submit(&mut self, opener: u64, tag: u64, request: Request) {
        match self
            .slot()
            .and_then(|slot| slot.openers.get(&opener).copied())
        {
            Some(open) => self.reactor.submit(open, tag, request),
            None => {
                let result = Err(drbd_engine::IoError::Invalid);
                let notice = Notice::Done {
                    tag,
                    result,
                    data: None,
                };
                self.reactor.guests.notify(self.guest, opener, notice);
            }
        }
    }

    fn handle(&self) -> &VolumeHandle {
        &self.handle
    }

    fn end(&mut self) {
        let Some(slot) = self.slot() else { return };
        slot.ended = true;
        let operations = slot.operations.clone();
        let openers: Vec<OpenId> = slot.openers.drain().map(|(_, open)| open).collect();
        for key in operations {
            self.reactor.ring.cancel(key);
        }
        for open in openers {
            self.reactor.close_opener(open);
        }
    }
}

impl Reactor {
    pub(super) fn install(&mut self, volume: VolumeNr, guest: Box<dyn Guest>) {
        let Some(handle) = self.volumes.get(&volume).map(|slot| slot.handle.clone()) else {
            return;
        };
        self.guests.next += 1;
        let id = self.guests.next;
        let slot = Slot {
            guest: Some(guest),
            handle,
            operations: Vec::new(),
            openers: HashMap::new(),
            ended: false,
            touched: false,
            starved: false,
        };
        self.guests.table.insert(id, slot);
        self.guests.calls.push_back((id, Call::Start));
    }

    /// An operation of a guest has ended.
    pub(super) fn guest_complete(&mut self, guest: u64, completion: Completion<u64>) {
        if let Some(slot) = self.guests.table.get_mut(&guest) {
            slot.operations.retain(|key| *key != completion.key);
        }
        self.call_guest(guest, |guest, cx| guest.complete(cx, completion));
    }

    /// Tells guests what there is to tell, retries and settles them. `true` if anything was done.
    pub(super) fn run_guests(&mut self) -> bool {
        let mut any = false;
        while let Some((guest, call)) = self.guests.calls.pop_front() {
            any = true;
            self.call_guest(guest, |guest, cx| match call {
                Call::Start => guest.start(cx),
                Call::Opened(opener, result) => guest.opened(cx, opener, result),
                Call::Notice(notice) => guest.notice(cx, notice),
            });
        }
        if any {
            // First everything the engine makes of this, then the answers go out together.
            return true;
        }
        let touched: Vec<(u64, bool)> = self
            .guests
            .table
            .iter()
            .filter(|(_, slot)| slot.touched || slot.starved)
            .map(|(id, slot)| (*id, slot.starved))
            .collect();
        for (id, starved) in touched {
            if starved {
                if let Some(slot) = self.guests.table.get_mut(&id) {
                    slot.starved = false;
                }
                self.call_guest(id, |guest, cx| guest.retry(cx));
            }
            if let Some(slot) = self.guests.table.get_mut(&id)
                && std::mem::take(&mut slot.touched)
            {
                self.call_guest(id, |guest, cx| guest.settle(cx));
                if let Some(slot) = self.guests.table.get_mut(&id) {
                    slot.touched = false;
                }
            }
        }
        self.guests
            .table
            .retain(|_, slot| !slot.ended || !slot.operations.is_empty());
        !self.guests.calls.is_empty()
    }

    fn call_guest(&mut self, id: u64, f: impl FnOnce(&mut dyn Guest, &mut GuestContext<'_>)) {
        let Some(slot) = self.guests.table.get_mut(&id) else {
            return;
        };
        if slot.ended {
            return;
        }
        slot.touched = true;
        let Some(mut guest) = slot.guest.take() else {
            return;
        };
        let handle = slot.handle.clone();
        let mut host = Host {
            reactor: self,
            guest: id,
            handle,
        };
        f(&mut *guest, &mut GuestContext { host: &mut host });
        if let Some(slot) = self.guests.table.get_mut(&id) {
            slot.guest = Some(guest);
        }
    }
}
