//! The simulator itself, driven with cores that are known to be right, and known to be wrong.

#![allow(clippy::panic, clippy::unwrap_used)]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use drbd_engine::EngineConfig;
use drbd_engine::command::{Reply, RetCode};
use drbd_engine::effect::{Effect, Limits};
use drbd_engine::event::{Event, IoRequest, OpOutput};
use drbd_engine::id::{BufId, IoId, OpId};
use drbd_engine::status::{ResourceInfo, ResourceStatus, WriteOrdering};
use drbd_engine::time::Instant;
use drbd_proto::{NodeId, Packet, Role, Stream, VolumeNr};
use drbd_sim::clock::SEC;
use drbd_sim::cluster::{Cluster, catch_panics};
use drbd_sim::config::{Config, Initial};
use drbd_sim::core::Core;

/// A node that only ever looks at its own disk, and pings its peers. It takes part in nothing.
struct Hermit {
    id: NodeId,
    next_op: u64,
    requests: Vec<(OpId, IoId, Option<BufId>)>,
    flaw: Flaw,
}

#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    None,
    LeaksBuffers,
    ReleasesTwice,
    CompletesTwice,
    Panics,
    LosesWrites,
}

impl Core for Hermit {
    fn handle(&mut self, _: Instant, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Command { cmd, .. } => {
                let limits = Limits {
                    sectors: 4096,
                    max_io: 1 << 20,
                    ..Limits::default()
                };
                out.push(Effect::Limits {
                    volume: VolumeNr::ZERO,
                    limits,
                });
                for peer in NodeId::all().take(2).filter(|p| *p != self.id) {
                    out.push(connect(peer));
                }
                out.push(Effect::Reply {
                    cmd,
                    reply: Reply::new(RetCode::NO_ERROR),
                });
            }
            Event::Io {
                io,
                volume,
                request,
            } => {
                self.next_op += 1;
                let op = OpId(self.next_op);
                match request {
                    IoRequest::Write {
                        sector,
                        len,
                        buf,
                        fua,
                    } => {
                        self.requests.push((op, io, Some(buf)));
                        if self.flaw == Flaw::LosesWrites {
                            out.push(Effect::DiskFlush { op, volume });
                        } else {
                            out.push(Effect::DiskWrite {
                                op,
                                volume,
                                sector,
                                len,
                                buf,
                                preflush: false,
                                fua,
                            });
                        }
                    }
                    IoRequest::Read { sector, len } => {
                        self.requests.push((op, io, None));
                        out.push(Effect::DiskRead {
                            op,
                            volume,
                            sector,
                            len,
                        });
                    }
                    _ => panic!("not for a hermit"),
                }
                if self.flaw == Flaw::Panics {
                    panic!("a hermit's nerves");
                }
            }
            Event::Done { op, result } => {
                let Some(i) = self.requests.iter().position(|r| r.0 == op) else {
                    return;
                };
                let (_, io, buf) = self.requests.remove(i);
                let read = match result {
                    Ok(OpOutput::Buf(b)) => Some(b),
                    _ => None,
                };
                out.push(Effect::CompleteIo {
                    io,
                    result: Ok(()),
                    data: read,
                });
                if self.flaw == Flaw::CompletesTwice {
                    out.push(Effect::CompleteIo {
                        io,
                        result: Ok(()),
                        data: read,
                    });
                }
                for buf in buf.into_iter().chain(read) {
                    if self.flaw != Flaw::LeaksBuffers {
                        out.push(Effect::Release { buf });
                    }
                    if self.flaw == Flaw::ReleasesTwice {
                        out.push(Effect::Release { buf });
                    }
                }
            }
            Event::Established { peer, .. } => out.push(ping(peer, Packet::Ping)),
            Event::Packet {
                peer,
                packet: Packet::Ping,
                ..
            } => out.push(ping(peer, Packet::PingAck)),
            Event::Lost { peer, .. } => out.push(connect(peer)),
            _ => {}
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn status(&self) -> Box<ResourceStatus> {
        let info = ResourceInfo {
            role: Role::Secondary,
            susp_user: false,
            susp_nod: false,
            susp_fen: false,
            susp_quorum: false,
            susp_uuid: false,
            fail_io: false,
            write_ordering: WriteOrdering::Flush,
        };
        Box::new(ResourceStatus {
            name: "hermit".into(),
            node_id: self.id,
            info,
            devices: Vec::new(),
            connections: Vec::new(),
        })
    }
}

fn connect(peer: NodeId) -> Effect {
    let options = drbd_engine::effect::ConnectOptions {
        connect_int: Duration::from_secs(1),
        ping_timeout: Duration::from_millis(500),
        sock_check: Duration::from_millis(500),
        timeout: Duration::from_secs(6),
        ko_count: 7,
        sndbuf: 0,
        rcvbuf: 0,
        delay: Duration::ZERO,
    };
    Effect::Connect {
        peer,
        paths: Vec::new(),
        options,
    }
}

fn ping(peer: NodeId, packet: Packet) -> Effect {
    Effect::Send {
        peer,
        stream: Stream::Control,
        volume: VolumeNr::CONNECTION,
        packet,
        payload: None,
        notify: None,
    }
}

thread_local! {
    static FLAW: RefCell<Flaw> = const { RefCell::new(Flaw::None) };
}

fn hermit(config: EngineConfig) -> Box<dyn Core> {
    Box::new(Hermit {
        id: config.node_id,
        next_op: 0,
        requests: Vec::new(),
        flaw: FLAW.with(|f| *f.borrow()),
    })
}

/// Writes and reads a few blocks, crashes the other node meanwhile; the failure, if any, and the trace.
fn run(flaw: Flaw, seed: u64) -> (Option<String>, Vec<String>) {
    catch_panics();
    FLAW.with(|f| *f.borrow_mut() = flaw);
    let mut config = Config::new(seed, 2);
    config.initial = Initial::Provisioned;
    config.disk.al_updates = false; // A hermit keeps no metadata.
    let mut c = Cluster::new(config, hermit).unwrap();
    let lines = Rc::new(RefCell::new(Vec::new()));
    let sink = Rc::clone(&lines);
    c.trace_to(Box::new(move |l| sink.borrow_mut().push(l.to_string())));
    c.start(0);
    c.start(1);
    c.run_for(2 * SEC);
    for block in 0..50 {
        c.write(0, 0, block % 7);
        c.run_for(SEC / 100);
        c.read(0, 0, block % 7);
        c.run_for(SEC / 100);
        if block == 20 {
            c.crash(1, false);
        }
        if block == 30 {
            c.start(1);
        }
    }
    c.run_for(2 * SEC);
    c.cut(0, 1);
    c.run_for(2 * SEC);
    if c.failure().is_none() {
        c.check_quiet();
    }
    let failure = c.failure().map(|f| f.to_string());
    drop(c);
    let lines = lines.borrow().clone();
    (failure, lines)
}

#[test]
fn a_core_that_is_right_passes_and_talks() {
    let (failure, lines) = run(Flaw::None, 1);
    assert_eq!(failure, None);
    let heard = |what: &str| lines.iter().filter(|l| l.contains(what)).count();
    assert!(heard("> from 1 control") >= 4, "pings and answers arrive");
    assert!(
        heard("> Lost") >= 3,
        "both the crash and the cut are noticed"
    );
    assert!(heard("< CompleteIo") == 100);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let (_, a) = run(Flaw::None, 5);
    let (_, b) = run(Flaw::None, 5);
    let (_, other) = run(Flaw::None, 6);
    assert!(a.len() > 500);
    assert_eq!(a, b);
    assert_ne!(a, other);
}

#[test]
fn wrong_cores_are_caught() {
    for (flaw, rule) in [
        (Flaw::LeaksBuffers, "buffers: not released at rest"),
        (Flaw::ReleasesTwice, "used after its release"),
        (Flaw::CompletesTwice, "C1"),
        (Flaw::Panics, "a hermit's nerves"),
        (Flaw::LosesWrites, "R1"),
    ] {
        let (failure, _) = run(flaw, 3);
        let failure = failure.unwrap_or_default();
        assert!(failure.contains(rule), "{rule}: {failure}");
    }
}
