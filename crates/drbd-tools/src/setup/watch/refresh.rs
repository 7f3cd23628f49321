//! `events2 --poll`: events as they come, and what has changed besides whenever stdin has an `n`.
//!
//! A refresh asks for the status beside the subscription. Events handled before it are older than the answer; those that were
//! on their way are handled after it, in their order, so that the last word is always the newest.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::mpsc::{Receiver, Sender, channel};

use drbd_control::client::{Client, ClientError};
use drbd_control::protocol::{Event, Resource};

use super::super::events::Printer;
use super::super::{print, resources};
use super::{UNLOADED, stamp};

/// Something happened.
enum Happened {
    /// An event, or the end of the subscription.
    Event(Box<Result<Event, ClientError>>),
    /// `n` on stdin.
    Refresh,
    /// The end of stdin, or anything else there.
    End,
}

/// The state of a run.
struct Follower {
    printer: Printer,
    /// Resources there are.
    known: BTreeSet<String>,
}

impl Follower {
    fn new(printer: Printer) -> Follower {
        Follower {
            printer,
            known: BTreeSet::new(),
        }
    }

    /// The lines of an event.
    fn lines(&mut self, event: Event) -> Vec<String> {
        match &event {
            Event::Snapshot(resource) => {
                self.known.insert(resource.name.clone());
            }
            Event::Renamed { resource, new } => {
                self.known.remove(resource);
                self.known.insert(new.clone());
            }
            Event::Gone { resource } => {
                self.known.remove(resource);
            }
            _ => {}
        }
        self.printer.lines(event)
    }

    /// The lines for what differs from the state there is.
    fn refresh(&mut self, state: Vec<Resource>) -> Vec<String> {
        let there: BTreeSet<String> = state.iter().map(|r| r.name.clone()).collect();
        let gone: Vec<String> = self.known.difference(&there).cloned().collect();
        let gone = gone.into_iter().map(|resource| Event::Gone { resource });
        let snapshots = state.into_iter().map(|r| Event::Snapshot(Box::new(r)));
        let events: Vec<Event> = snapshots.chain(gone).collect();
        events.into_iter().flat_map(|e| self.lines(e)).collect()
    }
}

fn read_events(mut client: Client, to: Sender<Happened>) {
    std::thread::spawn(move || {
        loop {
            let event = client.next_event();
            let last = event.is_err();
            let sent = to.send(Happened::Event(Box::new(event)));
            if last || sent.is_err() {
                return;
            }
        }
    });
}

fn read_input(to: Sender<Happened>) {
    std::thread::spawn(move || {
        for byte in std::io::stdin().lock().bytes() {
            let happened = match byte {
                Ok(b'n') => Happened::Refresh,
                Ok(b'\n') => continue,
                _ => break,
            };
            if to.send(happened).is_err() {
                return;
            }
        }
        let _ = to.send(Happened::End);
    });
}

/// Follows until stdin ends.
pub(super) fn follow(
    client: Client,
    which: &str,
    printer: Printer,
    timestamps: bool,
) -> Result<u8, String> {
    let (to, happened): (_, Receiver<Happened>) = channel();
    read_events(client, to.clone());
    read_input(to);
    let mut follower = Follower::new(printer);
    for happened in happened {
        let lines = match happened {
            Happened::End => break,
            Happened::Refresh => follower.refresh(resources(which)?),
            Happened::Event(event) => match *event {
                Ok(event) => follower.lines(event),
                Err(ClientError::Lost(_)) => {
                    eprintln!("{which}: module unloaded");
                    return Ok(UNLOADED);
                }
                Err(e) => return Err(format!("{which}: {e}")),
            },
        };
        let text: String = lines.iter().map(|line| stamp(line, timestamps)).collect();
        if !text.is_empty() {
            print(&text);
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use drbd_control::protocol::ResourceState;

    use super::super::Wanted;
    use super::*;

    fn resource(name: &str, role: &str) -> Resource {
        Resource {
            name: name.into(),
            node_id: 0,
            state: ResourceState {
                role: role.into(),
                suspended_user: false,
                suspended_no_data: false,
                suspended_fencing: false,
                suspended_quorum: false,
                force_io_failures: false,
                write_ordering: "flush".into(),
            },
            devices: Vec::new(),
            connections: Vec::new(),
        }
    }

    #[test]
    fn a_refresh_gives_differences() {
        let mut f = Follower::new(Printer::new(Wanted::default()));
        for name in ["r0", "r1"] {
            let snapshot = Event::Snapshot(Box::new(resource(name, "Secondary")));
            assert!(f.lines(snapshot)[0].starts_with("exists resource"));
        }
        assert_eq!(f.lines(Event::SnapshotsEnd), ["exists -"]);
        let lines = f.refresh(vec![resource("r0", "Primary"), resource("r2", "Secondary")]);
        assert_eq!(lines[0], "change resource name:r0 role:Primary");
        assert!(lines[1].starts_with("create resource name:r2"));
        assert_eq!(lines[2..], ["destroy resource name:r1"], "no second end");
        let gone = Event::Gone {
            resource: "r1".into(),
        };
        assert!(f.lines(gone).is_empty(), "it was said already");
        let again = vec![resource("r0", "Primary"), resource("r2", "Secondary")];
        assert!(f.refresh(again).is_empty());
    }
}
