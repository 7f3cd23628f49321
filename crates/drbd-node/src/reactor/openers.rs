//! Who has a volume open, and what they asked for.

use std::collections::HashMap;

use drbd_engine::{Event, IoError, IoId, IoRequest, OpenError, OpenId};
use drbd_proto::VolumeNr;

use super::Reactor;
use super::requests::Entry;
use crate::frontend::{Notice, Request, ToVolume};
use crate::mailbox::Sender;
use crate::pool::Buf;

/// To whom an opener belongs.
pub(super) enum Owner {
    /// A session of another thread.
    Session {
        session: u64,
        notices: Sender<Notice>,
    },
    /// A guest, and its name for the opener.
    Guest { guest: u64, opener: u64 },
}

pub(super) struct Opener {
    pub(super) owner: Owner,
    pub(super) volume: VolumeNr,
    /// Requests under way.
    outstanding: u64,
    /// The engine has let it in.
    open: bool,
    /// Its owner has no more use for it.
    closing: bool,
}

/// All openers of a resource's volumes.
#[derive(Default)]
pub(super) struct Openers {
    table: HashMap<OpenId, Opener>,
    sessions: HashMap<u64, OpenId>,
    next: u64,
}

impl Reactor {
    pub(super) fn hear_frontend(&mut self, message: ToVolume) {
        match message {
            ToVolume::Open {
                session,
                volume,
                write,
                nonblock,
                notices,
            } => {
                let open = self.open(Owner::Session { session, notices }, volume, write, nonblock);
                if let Some(open) = open {
                    self.openers.sessions.insert(session, open);
                }
            }
            ToVolume::Submit {
                session,
                tag,
                request,
            } => {
                if let Some(open) = self.openers.sessions.get(&session).copied() {
                    self.submit(open, tag, request);
                }
            }
            ToVolume::Close { session } => {
                if let Some(open) = self.openers.sessions.remove(&session) {
                    self.close_opener(open);
                }
            }
            ToVolume::Install { volume, guest } => self.install(volume, guest),
        }
    }

    /// A new opener; `None` if there is no such volume, which the owner has been told.
    pub(super) fn open(
        &mut self,
        owner: Owner,
        volume: VolumeNr,
        write: bool,
        nonblock: bool,
    ) -> Option<OpenId> {
        self.openers.next += 1;
        let open = OpenId(self.openers.next);
        let opener = Opener {
            owner,
            volume,
            outstanding: 0,
            open: false,
            closing: false,
        };
        if !self.volumes.contains_key(&volume) {
            self.tell(&opener.owner, Notice::Opened(Err(OpenError::NoVolume)));
            return None;
        }
        self.openers.table.insert(open, opener);
        self.events.push_back(Event::Open {
            open,
            volume,
            write,
            nonblock,
        });
        Some(open)
    }

    pub(super) fn open_done(&mut self, open: OpenId, result: Result<(), OpenError>) {
        let Some(opener) = self.openers.table.get_mut(&open) else {
            return;
        };
        opener.open = result.is_ok();
        if opener.closing {
            self.openers.table.remove(&open);
            if result.is_ok() {
                self.events.push_back(Event::Close { open });
            }
            return;
        }
        if result.is_ok() {
            if let Some(opener) = self.openers.table.get(&open) {
                let notice = Notice::Opened(Ok(()));
                send_notice(&mut self.guests, &opener.owner, notice);
            }
        } else if let Some(opener) = self.openers.table.remove(&open) {
            if let Owner::Session { session, .. } = &opener.owner {
                self.openers.sessions.remove(session);
            }
            self.tell(&opener.owner, Notice::Opened(result));
        }
    }

    pub(super) fn submit(&mut self, open: OpenId, tag: u64, request: Request) {
        let Some(opener) = self.openers.table.get_mut(&open) else {
            return;
        };
        if !opener.open || opener.closing || !self.volumes.contains_key(&opener.volume) {
            let notice = Notice::Done {
                tag,
                result: Err(IoError::Invalid),
                data: None,
            };
            send_notice(&mut self.guests, &opener.owner, notice);
            return;
        }
        opener.outstanding += 1;
        let volume = opener.volume;
        let io = self.requests.insert(Entry { open, tag });
        let request = match request {
            Request::Read { sector, len } => IoRequest::Read { sector, len },
            Request::Write { sector, data, fua } => {
                let len = data.len() as u32;
                IoRequest::Write {
                    sector,
                    len,
                    buf: data.into_id(),
                    fua,
                }
            }
            Request::Flush => IoRequest::Flush,
            Request::Discard { sector, len } => IoRequest::Discard { sector, len },
            Request::WriteZeroes { sector, len, unmap } => {
                IoRequest::WriteZeroes { sector, len, unmap }
            }
        };
        self.events.push_back(Event::Io {
            io,
            volume,
            request,
        });
    }

    pub(super) fn complete_io(&mut self, io: IoId, result: Result<(), IoError>, data: Option<Buf>) {
        let Some(Entry { open, tag }) = self.requests.remove(io) else {
            tracing::error!(
                "{}: request {:#x} completed twice",
                self.head(None, None),
                io.0
            );
            return;
        };
        let Some(opener) = self.openers.table.get_mut(&open) else {
            return;
        };
        opener.outstanding -= 1;
        if opener.closing && opener.outstanding == 0 {
            self.openers.table.remove(&open);
            self.events.push_back(Event::Close { open });
        } else if !opener.closing {
            send_notice(
                &mut self.guests,
                &opener.owner,
                Notice::Done { tag, result, data },
            );
        }
    }

    /// The owner has no more use for an opener.
    pub(super) fn close_opener(&mut self, open: OpenId) {
        let Some(opener) = self.openers.table.get_mut(&open) else {
            return;
        };
        opener.closing = true;
        if opener.open && opener.outstanding == 0 {
            self.openers.table.remove(&open);
            self.events.push_back(Event::Close { open });
        }
    }

    /// Tells everybody who has the volume open.
    pub(super) fn notify_volume(&mut self, volume: VolumeNr, notice: impl Fn() -> Notice) {
        for opener in self.openers.table.values() {
            if let (Owner::Session { notices, .. }, true) = (&opener.owner, opener.volume == volume)
            {
                notices.send(notice());
            }
        }
        self.guests.notify_volume(volume, notice);
    }

    /// The volume does not exist any more.
    pub(super) fn volume_gone(&mut self, volume: VolumeNr) {
        self.notify_volume(volume, || Notice::Gone);
    }

    fn tell(&mut self, owner: &Owner, notice: Notice) {
        send_notice(&mut self.guests, owner, notice);
    }
}

fn send_notice(guests: &mut super::Guests, owner: &Owner, notice: Notice) {
    match owner {
        Owner::Session { notices, .. } => notices.send(notice),
        Owner::Guest { guest, opener } => guests.notify(*guest, *opener, notice),
    }
}
