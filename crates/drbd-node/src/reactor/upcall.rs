//! Helper programs (state machine, section 18).

use std::path::PathBuf;
use std::process::{Command, Stdio};

use drbd_engine::{CallFacts, Event, OpId, OpOutput};

use super::{About, Message, Observed, Reactor};

/// Which program is called, and what it needs to know to find this daemon.
#[derive(Clone, Debug, Default)]
pub struct Helper {
    /// The program; `None`: nothing is called, and every call counts as a success.
    pub program: Option<PathBuf>,
    /// Where the daemon listens, for the commands the program runs.
    pub control: Option<PathBuf>,
}

/// Shown as exit code of a program that could not be run, or was killed. It decides nothing: for the engine there is
/// no exit code then.
const NOT_RUN: i32 = -1;

impl Reactor {
    pub(super) fn call(&mut self, op: OpId, handler: &'static str, about: About, facts: CallFacts) {
        let Some(program) = self.helper.program.clone() else {
            self.events.push_back(Event::Done {
                op,
                result: Ok(OpOutput::Exit(0)),
            });
            return;
        };
        let resource = self.names.resource().clone();
        self.observe(&Observed::Call {
            resource,
            handler,
            about,
            response: None,
        });
        let mut command = Command::new(program);
        command.arg(handler).arg(&**self.names.resource());
        command.env_clear().env("HOME", "/").env("TERM", "linux");
        command.env("PATH", "/sbin:/usr/sbin:/bin:/usr/bin");
        if let Some(control) = &self.helper.control {
            command.env("DRBD_CONTROL", control);
        }
        let volume = about.1.and_then(|nr| self.volumes.get(&nr));
        if let Some(volume) = volume {
            let which = volume.handle.volume();
            command.env("DRBD_MINOR", which.minor.to_string());
            command.env("DRBD_VOLUME", which.volume.to_string());
            if let Some(backing) = &volume.backing {
                command.env("DRBD_BACKING_DEV", &backing.data.path);
            }
        }
        if let Some(cstate) = facts.cstate {
            command.env("DRBD_CSTATE", cstate.name());
        }
        if let Some(nodes) = facts.up_to_date_nodes {
            command.env("UP_TO_DATE_NODES", format!("0x{nodes:08X}"));
        }
        if let Some(peer) = about.0 {
            command.env("DRBD_PEER_NODE_ID", peer.get().to_string());
            if let Some(path) = self.paths.get(&peer) {
                let family = |a: &std::net::SocketAddr| if a.is_ipv4() { "ipv4" } else { "ipv6" };
                command.env("DRBD_MY_ADDRESS", path.local.ip().to_string());
                command.env("DRBD_MY_AF", family(&path.local));
                command.env("DRBD_PEER_ADDRESS", path.remote.ip().to_string());
                command.env("DRBD_PEER_AF", family(&path.remote));
            }
            if volume.is_none() {
                for volume in self.volumes.values() {
                    let which = volume.handle.volume();
                    let minor = which.minor.to_string();
                    command.env(format!("DRBD_MINOR_{}", which.volume), minor);
                    if let Some(backing) = &volume.backing {
                        let name = format!("DRBD_BACKING_DEV_{}", which.volume);
                        command.env(name, &backing.data.path);
                    }
                }
            }
        }
        command.stdin(Stdio::null());
        let sender = self.mailbox.sender();
        let head = self.head(about.1, about.0);
        self.calls.insert(op, (handler, about));
        let thread = std::thread::Builder::new()
            .name("drbd-helper".into())
            .spawn(move || {
                let exit = match command.status() {
                    Ok(status) => status.code().unwrap_or(NOT_RUN),
                    Err(e) => {
                        tracing::error!("{head}: cannot run {:?}: {e}", command.get_program());
                        NOT_RUN
                    }
                };
                sender.send(Message::Called { op, exit });
            });
        if let Err(e) = thread {
            tracing::error!(
                "{}: no thread for the helper {handler}: {e}",
                self.head(None, None)
            );
            self.called(op, NOT_RUN);
        }
    }

    pub(super) fn called(&mut self, op: OpId, exit: i32) {
        if let Some((handler, about)) = self.calls.remove(&op) {
            let resource = self.names.resource().clone();
            self.observe(&Observed::Call {
                resource,
                handler,
                about,
                response: Some(exit),
            });
        }
        let result = match exit {
            NOT_RUN => OpOutput::Nothing,
            exit => OpOutput::Exit(exit),
        };
        self.events.push_back(Event::Done {
            op,
            result: Ok(result),
        });
    }
}
