//! The loop of the thread that serves a file: completions, messages of frontends, calls of guests.

use std::sync::atomic::Ordering;

use crate::frontend::{Guest, GuestContext, Notice, ToVolume};
use crate::mailbox::Mailbox;
use crate::reactor::Message;
use crate::ring::{Completion, Op, Ring};

use super::{Call, Host, Opener, Owner, Running, Seat, Token, lock};

impl Host {
    pub(super) fn run(mut self, mailbox: &Mailbox<Message>) {
        let event = mailbox.descriptor();
        let poll = |ring: &mut Ring<Token>| {
            let (fd, events) = (event.clone(), libc::POLLIN as u32);
            ring.push(Token::Mailbox, Op::Poll { fd, events })
        };
        poll(&mut self.core.ring);
        let (mut messages, mut done) = (Vec::new(), Vec::new());
        while !self.core.control.stop.load(Ordering::SeqCst) {
            let timeout = (!mailbox.prepare_sleep()).then_some(std::time::Duration::ZERO);
            let waited = self.core.ring.wait(timeout);
            mailbox.awake();
            if let Err(e) = waited {
                tracing::error!("file volume: io_uring_enter: {e}");
                return;
            }
            self.core.ring.completions(&mut done);
            for completion in done.drain(..) {
                if let Token::Mailbox = completion.token {
                    mailbox.quiet();
                    poll(&mut self.core.ring);
                } else {
                    self.completed(completion);
                }
            }
            mailbox.drain(&mut messages);
            for message in messages.drain(..) {
                let Message::Volume(message) = message else {
                    continue;
                };
                self.message(message);
            }
            if self.core.control.changed.swap(false, Ordering::SeqCst) {
                self.announce();
            }
            for guest in std::mem::take(&mut self.core.starved) {
                self.core.calls.push_back((guest, Call::Retry));
            }
            self.settle();
        }
        // The volume goes away: guests hear of it, their operations end with the ring.
        for guest in self.guests.keys().copied().collect::<Vec<_>>() {
            self.core
                .calls
                .push_back((guest, Call::Notice(Notice::Gone)));
        }
        self.settle();
        for (_, notices) in self.core.openers.values() {
            if let Some(notices) = notices {
                notices.send(Notice::Gone);
            }
        }
    }

    pub(super) fn announce(&mut self) {
        let limits = *lock(&self.core.control.limits);
        for guest in self.guests.keys() {
            self.core
                .calls
                .push_back((*guest, Call::Notice(Notice::Limits(limits))));
        }
        for (_, notices) in self.core.openers.values() {
            if let Some(notices) = notices {
                notices.send(Notice::Limits(limits));
            }
        }
    }

    pub(super) fn completed(&mut self, completion: Completion<Token>) {
        let Completion {
            token,
            key,
            result,
            op,
        } = completion;
        match token {
            Token::Mailbox => {}
            Token::Io {
                owner,
                tag,
                durable,
            } => {
                self.core.io_done(owner, tag, durable, result, op);
            }
            Token::Guest(guest, token) => {
                if let Some(running) = self.guests.get_mut(&guest) {
                    running.keys.retain(|k| *k != key);
                }
                let completion = Completion {
                    token,
                    key,
                    result,
                    op,
                };
                self.call(guest, |g, cx| g.complete(cx, completion));
            }
        }
    }

    pub(super) fn message(&mut self, message: ToVolume) {
        match message {
            ToVolume::Open {
                session,
                write,
                notices,
                ..
            } => {
                let kept = Some(notices.clone());
                let result = self.core.open(Opener::Session(session), write, kept);
                notices.send(Notice::Opened(result));
            }
            ToVolume::Submit {
                session,
                tag,
                request,
            } => {
                let opener = Opener::Session(session);
                let known = self.core.openers.get(&opener).and_then(|(_, n)| n.clone());
                if let Some(notices) = known {
                    self.core
                        .submit(opener, Owner::Session(notices), tag, request);
                }
            }
            ToVolume::Close { session } => self.core.close(Opener::Session(session)),
            ToVolume::Install { guest, .. } => {
                let number = self.next_guest;
                self.next_guest += 1;
                self.guests.insert(
                    number,
                    Running {
                        guest,
                        keys: Vec::new(),
                        ending: false,
                    },
                );
                self.call(number, |g, cx| g.start(cx));
            }
        }
    }

    pub(super) fn call(
        &mut self,
        guest: u64,
        f: impl FnOnce(&mut dyn Guest, &mut GuestContext<'_>),
    ) {
        let Some(running) = self.guests.get_mut(&guest) else {
            return;
        };
        if running.ending {
            return;
        }
        let mut seat = Seat {
            core: &mut self.core,
            keys: &mut running.keys,
            guest,
        };
        f(&mut *running.guest, &mut GuestContext { host: &mut seat });
        if !self.touched.contains(&guest) {
            self.touched.push(guest);
        }
    }

    pub(super) fn settle(&mut self) {
        loop {
            while let Some((guest, call)) = self.core.calls.pop_front() {
                self.call(guest, |g, cx| match call {
                    Call::Opened(opener, result) => g.opened(cx, opener, result),
                    Call::Notice(notice) => g.notice(cx, notice),
                    Call::Retry => g.retry(cx),
                });
            }
            for guest in std::mem::take(&mut self.core.ended) {
                self.finish(guest);
            }
            let touched = std::mem::take(&mut self.touched);
            if touched.is_empty() {
                break;
            }
            for guest in touched {
                self.call(guest, |g, cx| g.settle(cx));
            }
            self.touched.clear();
            if self.core.calls.is_empty() && self.core.ended.is_empty() {
                break;
            }
        }
        let core = &mut self.core;
        self.guests.retain(|number, running| {
            let gone = running.ending && running.keys.is_empty();
            if gone {
                let own = |o: &Opener| matches!(o, Opener::Guest(g, _) if g == number);
                let openers: Vec<_> = core.openers.keys().filter(|o| own(o)).copied().collect();
                openers.into_iter().for_each(|o| core.close(o));
            }
            !gone
        });
    }

    pub(super) fn finish(&mut self, guest: u64) {
        if let Some(running) = self.guests.get_mut(&guest) {
            running.ending = true;
            for key in &running.keys {
                self.core.ring.cancel(*key);
            }
        }
    }
}
