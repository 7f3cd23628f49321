//! Observers of a node: each hears everything in order, or learns that it fell behind.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::Observed;

/// Messages that an observer may leave unread before it is given up.
pub(crate) const OBSERVER_BACKLOG: usize = 1 << 16;

#[derive(Debug, Default)]
struct Shared {
    unread: AtomicUsize,
    behind: AtomicBool,
    gone: AtomicBool,
}

/// Where observations go. Nobody who tells something ever waits for who hears it.
#[derive(Clone, Debug)]
pub struct Observer {
    sender: mpsc::Sender<Observed>,
    backlog: usize,
    shared: Arc<Shared>,
}

/// Where observations arrive.
#[derive(Debug)]
pub struct Observations {
    receiver: mpsc::Receiver<Observed>,
    shared: Arc<Shared>,
}

/// Why there is no observation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nothing {
    /// Not yet.
    Timeout,
    /// More were unread than are kept; the rest is lost.
    Behind,
    /// Nobody tells anything any more.
    Ended,
}

/// An observer and what it hears; it may leave `backlog` observations unread.
pub fn observer(backlog: usize) -> (Observer, Observations) {
    let (sender, receiver) = mpsc::channel();
    let shared = Arc::new(Shared::default());
    let observer = Observer {
        sender,
        backlog,
        shared: shared.clone(),
    };
    (observer, Observations { receiver, shared })
}

impl Observer {
    /// Tells something. False: the observer is gone, or has fallen behind.
    pub(crate) fn tell(&self, what: Observed) -> bool {
        let shared = &self.shared;
        if self.is_gone() {
            return false;
        }
        if shared.unread.fetch_add(1, Ordering::Relaxed) >= self.backlog {
            shared.behind.store(true, Ordering::Release);
            return false;
        }
        self.sender.send(what).is_ok()
    }

    /// Whether nothing need be told any more.
    pub(crate) fn is_gone(&self) -> bool {
        let shared = &self.shared;
        shared.gone.load(Ordering::Acquire) || shared.behind.load(Ordering::Acquire)
    }
}

impl Observations {
    /// The next observation.
    ///
    /// # Errors
    /// There is none within `limit`, or no more at all.
    pub fn next(&self, limit: Duration) -> Result<Observed, Nothing> {
        // What is left to read of somebody who missed something has a gap behind it, which may be anywhere: there are
        // several who tell.
        if self.shared.behind.load(Ordering::Acquire) {
            return Err(Nothing::Behind);
        }
        match self.receiver.recv_timeout(limit) {
            Ok(observed) => {
                self.shared.unread.fetch_sub(1, Ordering::Relaxed);
                Ok(observed)
            }
            Err(mpsc::RecvTimeoutError::Timeout) => Err(Nothing::Timeout),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(Nothing::Ended),
        }
    }
}

impl Drop for Observations {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(n: usize) -> Observed {
        Observed::Gone(n.to_string().into())
    }

    #[test]
    fn in_order_or_told() {
        let (observer, observations) = observer(100);
        for n in 0..100 {
            assert!(observer.tell(what(n)));
        }
        // Reading makes room.
        for n in 0..10 {
            let Ok(Observed::Gone(name)) = observations.next(Duration::ZERO) else {
                panic!("{n} is missing");
            };
            assert_eq!(*name, n.to_string());
        }
        for n in 0..10 {
            assert!(observer.tell(what(n)));
        }
        assert!(!observer.tell(what(0)), "the one too many");
        assert!(!observer.tell(what(0)) && observer.is_gone());
        let heard = observations.next(Duration::ZERO);
        assert_eq!(heard.unwrap_err(), Nothing::Behind);
    }

    #[test]
    fn nobody_listens_or_tells() {
        let (observer, observations) = super::observer(1);
        let heard = observations.next(Duration::from_millis(1));
        assert_eq!(heard.unwrap_err(), Nothing::Timeout);
        drop(observations);
        assert!(!observer.tell(what(0)) && observer.is_gone());
        let (observer, observations) = super::observer(1);
        drop(observer);
        let heard = observations.next(Duration::ZERO);
        assert_eq!(heard.unwrap_err(), Nothing::Ended);
    }
}
