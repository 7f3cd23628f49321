//! The reactor with a core that does as little as possible: a volume on one disk, and peers that get a ping.

use std::collections::HashMap;

use drbd_engine::command::Backing as EngineBacking;
use drbd_engine::options::{DeviceOptions, DiskOptions};
use drbd_engine::{
    ConnectOptions, DiscardKind, IoError, IoId, IoRequest, MetaBlock, MetaPlace, OpOutput,
    OpenError, OpenId, RetCode,
};
use drbd_proto::{Packet, Role, Sector, Stream};

use super::super::*;
use crate::frontend::{Notice, Request, Session, Volume as Which};
use crate::pool::Purpose;

#[derive(Default)]
pub(super) struct Script {
    pub(super) next: u64,
    pub(super) ops: HashMap<OpId, IoId>,
    /// The metadata write of a flush must end before the flush itself starts.
    pub(super) barriers: HashMap<OpId, (IoId, VolumeNr)>,
    pub(super) openers: Vec<OpenId>,
    pub(super) attached: bool,
    pub(super) pings: u32,
}

impl Script {
    pub(super) fn op(&mut self) -> OpId {
        self.next += 1;
        OpId(self.next)
    }
}

impl Core for Script {
    fn handle(&mut self, _now: Instant, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Command { cmd, command } => {
                let mut code = RetCode::NO_ERROR;
                match command {
                    Command::Attach { volume, .. } if !self.attached => {
                        self.attached = true;
                        let limits = Limits {
                            sectors: 2048,
                            writable: true,
                            max_io: 1 << 20,
                            ..Limits::default()
                        };
                        out.push(Effect::Limits { volume, limits });
                    }
                    Command::Attach { .. } => code = RetCode::ERR_DISK_CONFIGURED,
                    Command::Detach { volume, .. } => out.push(Effect::Detach { volume }),
                    Command::NewPath { peer, path } => {
                        let options = ConnectOptions {
                            connect_int: Duration::from_secs(3),
                            ping_timeout: Duration::from_millis(500),
                            sock_check: Duration::from_millis(20),
                            timeout: Duration::from_secs(6),
                            ko_count: 7,
                            sndbuf: 0,
                            rcvbuf: 0,
                            delay: Duration::ZERO,
                        };
                        out.push(Effect::Connect {
                            peer,
                            paths: vec![path],
                            options,
                        });
                    }
                    _ => {}
                }
                out.push(Effect::Reply {
                    cmd,
                    reply: Reply::new(code),
                });
            }
            Event::Established { peer, .. } => {
                let (stream, volume) = (Stream::Control, VolumeNr::CONNECTION);
                out.push(Effect::Send {
                    peer,
                    stream,
                    volume,
                    packet: Packet::Ping,
                    payload: None,
                    notify: None,
                });
            }
            Event::Packet {
                packet: Packet::Ping,
                ..
            } => self.pings += 1,
            Event::Open { open, write, .. } => {
                let result = if write && !self.attached {
                    Err(OpenError::NoData)
                } else {
                    Ok(())
                };
                if result.is_ok() {
                    self.openers.push(open);
                }
                out.push(Effect::OpenDone { open, result });
            }
            Event::Close { open } => self.openers.retain(|o| *o != open),
            Event::Io {
                io,
                volume,
                request,
            } => {
                let op = self.op();
                self.ops.insert(op, io);
                match request {
                    IoRequest::Read { sector, len } => out.push(Effect::DiskRead {
                        op,
                        volume,
                        sector,
                        len,
                    }),
                    IoRequest::Write {
                        sector,
                        len,
                        buf,
                        fua,
                    } => {
                        out.push(Effect::DiskWrite {
                            op,
                            volume,
                            sector,
                            len,
                            buf,
                            preflush: false,
                            fua,
                        });
                        // Released while the write is under way: the driver keeps it.
                        out.push(Effect::Release { buf });
                    }
                    IoRequest::Flush => {
                        self.ops.remove(&op);
                        self.barriers.insert(op, (io, volume));
                        let blocks = vec![MetaBlock {
                            offset: 4096 * 300,
                            data: Box::new([0x77; 4096]),
                        }];
                        out.push(Effect::MetaWrite {
                            op,
                            volume,
                            blocks,
                            barrier: true,
                        });
                    }
                    IoRequest::Discard { sector, len } => {
                        let kind = DiscardKind {
                            trim: true,
                            zero: false,
                        };
                        out.push(Effect::DiskDiscard {
                            op,
                            volume,
                            sector,
                            len,
                            kind,
                        });
                    }
                    IoRequest::WriteZeroes { sector, len, unmap } => {
                        let kind = DiscardKind {
                            trim: unmap,
                            zero: true,
                        };
                        out.push(Effect::DiskDiscard {
                            op,
                            volume,
                            sector,
                            len,
                            kind,
                        });
                    }
                }
            }
            Event::Done { op, result } => {
                if let Some((io, volume)) = self.barriers.remove(&op) {
                    let op = self.op();
                    self.ops.insert(op, io);
                    out.push(Effect::DiskFlush { op, volume });
                    return;
                }
                let io = self.ops.remove(&op).expect("an operation ends once");
                match result {
                    Ok(OpOutput::Buf(buf)) => {
                        out.push(Effect::CompleteIo {
                            io,
                            result: Ok(()),
                            data: Some(buf),
                        });
                        out.push(Effect::Release { buf });
                    }
                    Ok(_) => out.push(Effect::CompleteIo {
                        io,
                        result: Ok(()),
                        data: None,
                    }),
                    Err(_) => out.push(Effect::CompleteIo {
                        io,
                        result: Err(IoError::Io),
                        data: None,
                    }),
                }
            }
            _ => {}
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn status(&self) -> ResourceStatus {
        ResourceStatus {
            name: "test".into(),
            node_id: NodeId::new(self.pings).unwrap(),
            info: status::ResourceInfo {
                role: if self.openers.is_empty() {
                    Role::Secondary
                } else {
                    Role::Primary
                },
                susp_user: false,
                susp_nod: false,
                susp_fen: false,
                susp_quorum: false,
                susp_uuid: false,
                fail_io: false,
                write_ordering: status::WriteOrdering::Flush,
            },
            devices: Vec::new(),
            connections: Vec::new(),
        }
    }
}

pub(super) struct Rig {
    pub(super) handle: Handle,
    pub(super) volume: VolumeHandle,
    pub(super) file: tempfile::NamedTempFile,
}

pub(super) const VOLUME: VolumeNr = VolumeNr::ZERO;

impl Rig {
    pub(super) fn new(pool: usize) -> Rig {
        let core = Box::new(Script::default());
        let resyncs = crate::resyncs::Resyncs::new(0);
        let handle = Handle::start("test".into(), core, pool, Helper::default(), &resyncs).unwrap();
        let which = Which {
            resource: "test".into(),
            volume: VOLUME,
            minor: 7,
        };
        let volume = VolumeHandle::new(which, handle.pool.clone(), handle.sender.clone());
        handle.sender.send(Message::AddVolume(volume.clone()));
        let options = DeviceOptions::default();
        assert!(
            handle
                .command(Command::NewMinor {
                    volume: VOLUME,
                    minor: 7,
                    options
                })
                .unwrap()
                .is_ok()
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(2 << 20).unwrap();
        Rig {
            handle,
            volume,
            file,
        }
    }

    pub(super) fn attach(&self) -> Reply {
        let backing = Backing::open(self.file.path(), self.file.path()).unwrap();
        let engine = EngineBacking {
            disk: "d".into(),
            meta_disk: "d".into(),
            meta: MetaPlace::Internal,
            disk_bytes: backing.data.bytes,
            meta_bytes: backing.data.bytes,
            logical_block: 512,
            physical_block: 4096,
            discard_granularity: 4096,
            max_discard: 1 << 20,
            volatile_cache: true,
        };
        let command = Command::Attach {
            volume: VOLUME,
            backing: engine,
            options: DiskOptions::default(),
        };
        let (reply, answer) = mpsc::channel();
        self.handle.sender.send(Message::Attach {
            volume: VOLUME,
            backing,
            command,
            reply,
        });
        answer.recv().unwrap()
    }

    pub(super) fn role(&self) -> Role {
        self.handle.status().unwrap().info.role
    }
}

pub(super) struct Client {
    pub(super) session: Session,
    pub(super) mailbox: Mailbox<Notice>,
    pub(super) heard: VecDeque<Notice>,
}

impl Client {
    pub(super) fn open(rig: &Rig, write: bool) -> (Client, Result<(), OpenError>) {
        let mailbox = Mailbox::new().unwrap();
        let session = rig.volume.open(write, false, mailbox.sender());
        let mut client = Client {
            session,
            mailbox,
            heard: VecDeque::new(),
        };
        let Notice::Opened(result) = client.next() else {
            panic!("the first notice")
        };
        (client, result)
    }

    pub(super) fn next(&mut self) -> Notice {
        let mut out = Vec::new();
        for _ in 0..10 {
            if let Some(notice) = self.heard.pop_front() {
                return notice;
            }
            self.mailbox
                .wait(&mut out, Some(Duration::from_secs(2)))
                .unwrap();
            self.heard.extend(out.drain(..));
        }
        panic!("nothing heard");
    }

    pub(super) fn done(&mut self, tag: u64) -> (Result<(), IoError>, Vec<u8>) {
        loop {
            match self.next() {
                Notice::Done {
                    tag: t,
                    result,
                    data,
                } => {
                    assert_eq!(t, tag);
                    return (result, data.map(|d| d.to_vec()).unwrap_or_default());
                }
                Notice::Limits(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

pub(super) fn write(rig: &Rig, sector: u64, fill: u8, len: usize) -> Request {
    let mut data = rig.volume.pool().alloc(len, Purpose::Application).unwrap();
    data.fill(fill);
    Request::Write {
        sector: Sector(sector),
        data: data.freeze(),
        fua: fill.is_multiple_of(2),
    }
}

impl Rig {
    pub(super) fn attach_other(&self, file: &tempfile::NamedTempFile) -> RetCode {
        let backing = Backing::open(file.path(), file.path()).unwrap();
        let (reply, answer) = mpsc::channel();
        let engine = EngineBacking {
            disk: String::new(),
            meta_disk: String::new(),
            meta: MetaPlace::Internal,
            disk_bytes: 0,
            meta_bytes: 0,
            logical_block: 512,
            physical_block: 512,
            discard_granularity: 0,
            max_discard: 0,
            volatile_cache: false,
        };
        let command = Command::Attach {
            volume: VOLUME,
            backing: engine,
            options: DiskOptions::default(),
        };
        self.handle.sender.send(Message::Attach {
            volume: VOLUME,
            backing,
            command,
            reply,
        });
        answer.recv().unwrap().code
    }
}
