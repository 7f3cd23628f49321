//! The reactor around a core that does as little as possible: a volume on one disk, and peers that get a ping.

mod rig;

use drbd_engine::{IoError, OpenError, RetCode};
use drbd_proto::{Role, Sector};

use super::*;
use crate::frontend::{Guest, GuestContext, Notice, Request};
use rig::*;

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
    let (observer, observed) = observer::observer(8);
    a.handle.sender.send(Message::Observe(observer));
    assert!(
        matches!(observed.next(Duration::from_secs(20)), Ok(Observed::Snapshot(s)) if s.name == "test")
    );
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
    assert!(matches!(
        observed.next(Duration::from_secs(20)),
        Ok(Observed::Gone(_))
    ));
    assert_eq!(
        observed.next(Duration::from_secs(20)).unwrap_err(),
        observer::Nothing::Ended
    );
    b.handle.stop();
}
