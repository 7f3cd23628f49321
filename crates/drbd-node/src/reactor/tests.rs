//! The reactor around a core that does as little as possible: a volume on one disk, and peers that get a ping.

use std::collections::HashMap;

use drbd_engine::command::Backing as EngineBacking;
use drbd_engine::options::{DeviceOptions, DiskOptions};
use drbd_engine::{
    ConnectOptions, DiscardKind, IoError, IoId, IoRequest, MetaBlock, MetaPlace, OpOutput,
    OpenError, OpenId, RetCode,
};
use drbd_proto::{Packet, Role, Sector, Stream};

use super::*;
use crate::frontend::{Guest, GuestContext, Notice, Request, Session, Volume as Which};
use crate::pool::Purpose;

#[derive(Default)]
struct Script {
    next: u64,
    ops: HashMap<OpId, IoId>,
    /// The metadata write of a flush must end before the flush itself starts.
    barriers: HashMap<OpId, (IoId, VolumeNr)>,
    openers: Vec<OpenId>,
    attached: bool,
    pings: u32,
}

impl Script {
    fn op(&mut self) -> OpId {
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

struct Rig {
    handle: Handle,
    volume: VolumeHandle,
    file: tempfile::NamedTempFile,
}

const VOLUME: VolumeNr = VolumeNr::ZERO;

impl Rig {
    fn new(pool: usize) -> Rig {
        let core = Box::new(Script::default());
        let handle = Handle::start("test".into(), core, pool, Helper::default()).unwrap();
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

    fn attach(&self) -> Reply {
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

    fn role(&self) -> Role {
        self.handle.status().unwrap().info.role
    }
}

struct Client {
    session: Session,
    mailbox: Mailbox<Notice>,
    heard: VecDeque<Notice>,
}

impl Client {
    fn open(rig: &Rig, write: bool) -> (Client, Result<(), OpenError>) {
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

    fn next(&mut self) -> Notice {
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

    fn done(&mut self, tag: u64) -> (Result<(), IoError>, Vec<u8>) {
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

fn write(rig: &Rig, sector: u64, fill: u8, len: usize) -> Request {
    let mut data = rig.volume.pool().alloc(len, Purpose::Application).unwrap();
    data.fill(fill);
    Request::Write {
        sector: Sector(sector),
        data: data.freeze(),
        fua: fill.is_multiple_of(2),
    }
}

#[test]
fn sessions_read_and_write() {
    let rig = Rig::new(8 << 20);
    assert_eq!(Client::open(&rig, true).1, Err(OpenError::NoData));
    assert!(rig.attach().is_ok());
    let file = rig.file.path();
    assert!(
        Backing::open(file, file).is_err(),
        "the reactor has claimed it"
    );
    let second = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(rig.volume.limits().sectors, 2048);
    let (mut client, result) = Client::open(&rig, true);
    result.unwrap();
    assert_eq!(rig.role(), Role::Primary);
    for n in 0..64u64 {
        client.session.submit(n, write(&rig, n * 8, n as u8, 4096));
    }
    let mut tags: Vec<u64> = (0..64)
        .map(|_| match client.next() {
            Notice::Done { tag, result, .. } => {
                result.unwrap();
                tag
            }
            other => panic!("{other:?}"),
        })
        .collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..64).collect::<Vec<_>>());
    client.session.submit(100, Request::Flush);
    client.done(100).0.unwrap();
    client.session.submit(
        101,
        Request::Discard {
            sector: Sector(8),
            len: 8192,
        },
    );
    client.done(101).0.unwrap();
    client.session.submit(
        102,
        Request::Read {
            sector: Sector(0),
            len: 64 << 12,
        },
    );
    let (result, data) = client.done(102);
    result.unwrap();
    for n in 0..64usize {
        let expected = if n == 1 || n == 2 { 0 } else { n as u8 };
        assert!(
            data[n << 12..(n + 1) << 12].iter().all(|b| *b == expected),
            "block {n}"
        );
    }
    client.session.submit(
        103,
        Request::Read {
            sector: Sector(4090),
            len: 8192,
        },
    );
    assert_eq!(
        client.done(103).0,
        Err(IoError::Io),
        "beyond the end of the device"
    );
    assert_eq!(rig.attach_other(&second), RetCode::ERR_DISK_CONFIGURED);
    client.session.submit(
        104,
        Request::Read {
            sector: Sector(24),
            len: 4096,
        },
    );
    assert_eq!(
        client.done(104).1[0],
        3,
        "the first devices are still in use"
    );
    // The reactor lets go of its own handle after it has answered.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while rig.handle.pool.in_use() != 0 {
        assert!(std::time::Instant::now() < deadline, "a buffer leaks");
        std::thread::yield_now();
    }
    drop(client);
    while rig.role() == Role::Primary {
        std::thread::yield_now();
    }
    let metadata = std::fs::read(rig.file.path()).unwrap();
    assert_eq!(metadata[4096 * 300], 0x77);
    let command = Command::Detach {
        volume: VOLUME,
        force: false,
        diskless: false,
    };
    assert!(rig.handle.command(command).unwrap().is_ok());
    assert!(
        Backing::open(file, file).is_ok(),
        "detach lets go of the device"
    );
    rig.handle.stop();
}

impl Rig {
    fn attach_other(&self, file: &tempfile::NamedTempFile) -> RetCode {
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

/// Reads that hold more than the pool wait for each other.
#[test]
fn reads_wait_for_buffers() {
    let rig = Rig::new(4 << 20);
    rig.attach();
    let (mut client, result) = Client::open(&rig, false);
    result.unwrap();
    for tag in 0..40 {
        client.session.submit(
            tag,
            Request::Read {
                sector: Sector(0),
                len: 1 << 20,
            },
        );
    }
    let mut held = Vec::new();
    for _ in 0..40 {
        let Notice::Done { result, data, .. } = client.next() else {
            panic!()
        };
        result.unwrap();
        held.push(data);
        if held.len() == 4 {
            held.clear();
        }
    }
    rig.handle.stop();
}

#[test]
fn a_volume_that_goes_away_is_announced() {
    let rig = Rig::new(4 << 20);
    let (mut client, result) = Client::open(&rig, false);
    result.unwrap();
    rig.handle.sender.send(Message::RemoveVolume(VOLUME));
    assert!(matches!(client.next(), Notice::Gone));
    client.session.submit(1, Request::Flush);
    assert_eq!(client.done(1).0, Err(IoError::Invalid));
    rig.handle.stop();
}

/// A guest that writes what it gets over a socket pair and sends back what it has read.
struct Echo {
    fd: Fd,
    answer: mpsc::Sender<&'static str>,
    dropped: mpsc::Sender<&'static str>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.dropped.send("dropped");
    }
}

impl Guest for Echo {
    fn start(&mut self, cx: &mut GuestContext<'_>) {
        cx.open(5, true, false);
    }

    fn complete(&mut self, cx: &mut GuestContext<'_>, completion: Completion<u64>) {
        let Op::Receive { parts, .. } = completion.op else {
            return;
        };
        match completion.result {
            Ok(0) | Err(_) => cx.end(),
            Ok(_) => {
                let mut buf = cx.alloc(4096).unwrap();
                buf.fill(parts[0].bytes()[0]);
                cx.submit(
                    5,
                    1,
                    Request::Write {
                        sector: Sector(16),
                        data: buf.freeze(),
                        fua: false,
                    },
                );
            }
        }
    }

    fn opened(&mut self, cx: &mut GuestContext<'_>, opener: u64, result: Result<(), OpenError>) {
        assert_eq!((opener, result), (5, Ok(())));
        self.receive(cx);
    }

    fn notice(&mut self, cx: &mut GuestContext<'_>, notice: Notice) {
        match notice {
            Notice::Done { tag: 1, result, .. } => {
                result.unwrap();
                cx.submit(
                    5,
                    2,
                    Request::Read {
                        sector: Sector(16),
                        len: 512,
                    },
                );
            }
            Notice::Done { tag: 2, data, .. } => {
                let part = crate::ring::Part::all(crate::ring::Memory::Shared(data.unwrap()));
                cx.push(
                    9,
                    Op::Send {
                        fd: self.fd.clone(),
                        parts: vec![part],
                        more: false,
                    },
                );
                self.receive(cx);
            }
            _ => {}
        }
    }

    fn retry(&mut self, _: &mut GuestContext<'_>) {}

    fn settle(&mut self, _: &mut GuestContext<'_>) {
        let _ = self.answer.send("settled");
    }
}

impl Echo {
    fn receive(&self, cx: &mut GuestContext<'_>) {
        let part = crate::ring::Part::all(crate::ring::Memory::Bytes(vec![0; 1]));
        cx.push(
            8,
            Op::Receive {
                fd: self.fd.clone(),
                parts: vec![part],
            },
        );
    }
}

#[test]
fn guests_live_in_the_reactor() {
    use std::io::{Read as _, Write as _};
    let rig = Rig::new(4 << 20);
    rig.attach();
    let (mut mine, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let (answer, settled) = mpsc::channel();
    let (dropped, is_dropped) = mpsc::channel();
    rig.volume.install(Box::new(Echo {
        fd: Arc::new(theirs.into()),
        answer,
        dropped,
    }));
    for byte in [3, 4, 250] {
        mine.write_all(&[byte]).unwrap();
        let mut got = [0; 512];
        mine.read_exact(&mut got).unwrap();
        assert_eq!(got, [byte; 512]);
    }
    assert!(settled.try_iter().count() >= 4);
    assert_eq!(rig.role(), Role::Primary);
    drop(mine);
    assert_eq!(
        is_dropped.recv_timeout(Duration::from_secs(5)),
        Ok("dropped")
    );
    while rig.role() == Role::Primary {
        std::thread::yield_now();
    }
    rig.handle.stop();
}

#[test]
fn peers_meet_and_observers_see() {
    let (a, b) = (Rig::new(4 << 20), Rig::new(4 << 20));
    let port = || {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let (here, there) = (port(), port());
    let (observer, observed) = mpsc::sync_channel(8);
    a.handle.sender.send(Message::Observe(observer));
    assert!(matches!(observed.recv(), Ok(Observed::Snapshot(s)) if s.name == "test"));
    for (rig, local, remote, peer) in [(&a, here, there, 1), (&b, there, here, 0)] {
        let command = Command::NewPath {
            peer: NodeId::new(peer).unwrap(),
            path: Path { local, remote },
        };
        assert!(rig.handle.command(command).unwrap().is_ok());
    }
    for rig in [&a, &b] {
        let start = clock::now();
        // The script shows its pings as the node id.
        while rig.handle.status().unwrap().node_id.get() == 0 {
            assert!(clock::now().since(start) < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    a.handle.stop();
    assert!(matches!(observed.recv(), Ok(Observed::Gone(_))));
    assert!(observed.recv().is_err());
    b.handle.stop();
}
