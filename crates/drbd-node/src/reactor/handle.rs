//! A reactor as other threads see it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use drbd_engine::{Command, Reply, ResourceStatus};

use super::{Core, Helper, Message, Observer, Reactor};
use crate::mailbox::{Mailbox, Sender};
use crate::pool::Pool;
use crate::resyncs::Resyncs;
use crate::ring::NoRing;

/// A running reactor, as other threads see it.
pub(crate) struct Handle {
    pub(crate) sender: Sender<Message>,
    pub(crate) pool: Pool,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// Why a reactor could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no ring.
    #[error("{0}")]
    Ring(#[from] NoRing),
    /// No thread or no descriptor.
    #[error("cannot start a thread for the resource: {0}")]
    System(#[from] io::Error),
}

impl Handle {
    /// Starts a reactor for a resource. `pool` is the bound of its payload memory in bytes.
    pub(crate) fn start(
        name: Arc<str>,
        core: Box<dyn Core>,
        pool: usize,
        helper: Helper,
        resyncs: &Resyncs,
    ) -> Result<Handle, StartError> {
        let mailbox = Mailbox::new()?;
        let sender = mailbox.sender();
        let pool = Pool::new(pool);
        let (started, is_started) = mpsc::channel();
        let parts = (name.clone(), pool.clone());
        let resyncs = resyncs.join(sender.clone());
        let thread = std::thread::Builder::new()
            .name(format!("drbd-{name}"))
            .spawn(move || {
                let (name, pool) = parts;
                // The ring belongs to the thread that makes it.
                match Reactor::new(name, core, mailbox, pool, helper, resyncs) {
                    Ok(mut reactor) => {
                        let _ = started.send(Ok(()));
                        reactor.run();
                    }
                    Err(e) => {
                        let _ = started.send(Err(e));
                    }
                }
            })?;
        match is_started.recv() {
            Ok(Ok(())) => Ok(Handle {
                sender,
                pool,
                thread: Mutex::new(Some(thread)),
            }),
            Ok(Err(e)) => Err(e.into()),
            Err(_) => Err(io::Error::other("the thread has ended").into()),
        }
    }

    /// Gives the engine a command and waits for its answer; `None` if the reactor is gone.
    pub(crate) fn command(&self, command: Command) -> Option<Reply> {
        let (reply, answer) = mpsc::channel();
        self.sender.send(Message::Command { command, reply });
        answer.recv().ok()
    }

    /// Everything that can be seen of the resource; `None` if the reactor is gone.
    pub(crate) fn status(&self) -> Option<ResourceStatus> {
        let (reply, answer) = mpsc::channel();
        self.sender.send(Message::Status(reply));
        answer.recv().ok()
    }

    /// Tells an observer everything from now on.
    pub(crate) fn observe(&self, observer: Observer) {
        self.sender.send(Message::Observe(observer));
    }

    /// Ends the reactor and waits for that.
    pub(crate) fn stop(&self) {
        self.sender.send(Message::Stop);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("a reactor thread ended with a panic");
        }
    }
}
