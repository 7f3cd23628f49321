//! Messages across threads: what crosses threads crosses as a message (design rule 2).
//!
//! A [`Mailbox`] belongs to one thread, which sleeps in its ring or in `poll`. Senders put a message into the queue and
//! write to an eventfd only if the owner sleeps, so a busy owner costs its senders no system call.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Something that can be woken from any thread.
pub trait Wake: Send + Sync {
    /// Makes the owner look at what it waits for. Cheap if it is awake already.
    fn wake(&self);
}

struct Shared<T> {
    queue: Mutex<Vec<T>>,
    sleeping: AtomicBool,
    woken: AtomicBool,
    event: Arc<OwnedFd>,
}

impl<T: Send> Wake for Shared<T> {
    fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        self.ring();
    }
}

impl<T> Shared<T> {
    fn ring(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // A full counter (EAGAIN) means that the owner is woken anyway.
            let _ = rustix::io::write(&*self.event, &1u64.to_ne_bytes());
        }
    }
}

/// The receiving end.
pub struct Mailbox<T> {
    shared: Arc<Shared<T>>,
}

/// A sending end.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender {
            shared: self.shared.clone(),
        }
    }
}

impl<T> Sender<T> {
    /// Puts a message into the queue. Messages for an owner that is gone are dropped with the last sender.
    pub fn send(&self, message: T) {
        self.shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(message);
        self.shared.ring();
    }
}

impl<T: Send + 'static> Sender<T> {
    /// This mailbox as something to be woken without a message.
    pub fn waker(&self) -> Arc<dyn Wake> {
        self.shared.clone()
    }
}

impl<T> Mailbox<T> {
    /// An empty mailbox.
    ///
    /// # Errors
    /// When the system has no file descriptor left for the eventfd.
    pub fn new() -> io::Result<Mailbox<T>> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Shared {
            queue: Mutex::new(Vec::new()),
            sleeping: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            event: Arc::new(event),
        };
        Ok(Mailbox {
            shared: Arc::new(shared),
        })
    }

    /// A new sending end.
    pub fn sender(&self) -> Sender<T> {
        Sender {
            shared: self.shared.clone(),
        }
    }

    /// Moves all messages to the end of `out`, in the order they were sent.
    pub fn drain(&self, out: &mut Vec<T>) {
        self.shared.woken.store(false, Ordering::SeqCst);
        let mut queue = self
            .shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        out.append(&mut queue);
    }

    /// Announces that the owner is about to sleep until the descriptor becomes readable. `false` if there is something
    /// to do already: then it must not sleep.
    pub fn prepare_sleep(&self) -> bool {
        self.shared.sleeping.store(true, Ordering::SeqCst);
        let idle = !self.shared.woken.load(Ordering::SeqCst)
            && self
                .shared
                .queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_empty();
        if !idle {
            self.shared.sleeping.store(false, Ordering::SeqCst);
        }
        idle
    }

    /// The owner is awake: senders need not ring.
    pub fn awake(&self) {
        self.shared.sleeping.store(false, Ordering::SeqCst);
    }

    /// The descriptor that becomes readable when a sender rings; read eight bytes to quiet it.
    pub fn descriptor(&self) -> Arc<OwnedFd> {
        self.shared.event.clone()
    }

    /// Quiets the descriptor.
    pub fn quiet(&self) {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&*self.shared.event, &mut count);
    }

    /// Waits until there is a message or a wake-up, or the time is over, then does as [`drain`](Self::drain).
    ///
    /// # Errors
    /// Those of `poll`; an interruption by a signal is none.
    pub fn wait(&self, out: &mut Vec<T>, timeout: Option<Duration>) -> io::Result<()> {
        if self.prepare_sleep() {
            let timeout = timeout.map(|t| Timespec {
                tv_sec: i64::try_from(t.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(t.subsec_nanos()),
            });
            let mut fds = [PollFd::new(&*self.shared.event, PollFlags::IN)];
            let result = poll(&mut fds, timeout.as_ref());
            self.awake();
            match result {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => self.quiet(),
                Err(e) => return Err(e.into()),
            }
        }
        self.drain(out);
        Ok(())
    }
}

impl<T> AsFd for Mailbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_order_and_wake_the_sleeper() {
        let mailbox = Mailbox::new().unwrap();
        let sender = mailbox.sender();
        let thread = std::thread::spawn(move || {
            for n in 0..1000u32 {
                sender.send(n);
                if n % 100 == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        let mut got = Vec::new();
        while got.len() < 1000 {
            let before = got.len();
            mailbox
                .wait(&mut got, Some(Duration::from_secs(10)))
                .unwrap();
            assert!(
                got.len() > before || got.len() == 1000,
                "woken without a message"
            );
        }
        thread.join().unwrap();
        assert_eq!(got, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_wake_without_message_is_not_lost() {
        let mailbox = Mailbox::<()>::new().unwrap();
        mailbox.sender().waker().wake();
        assert!(
            !mailbox.prepare_sleep(),
            "the wake came before the sleep and must prevent it"
        );
        let mut out = Vec::new();
        mailbox.drain(&mut out);
        assert!(mailbox.prepare_sleep());
        mailbox.sender().waker().wake();
        let mut fds = [PollFd::new(&mailbox, PollFlags::IN)];
        assert_eq!(
            poll(
                &mut fds,
                Some(&Timespec {
                    tv_sec: 5,
                    tv_nsec: 0
                })
            )
            .unwrap(),
            1
        );
    }
}
