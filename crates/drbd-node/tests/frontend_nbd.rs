//! The NBD server before a volume made of a file, with our own client and with QEMU's.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command as Process;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Numbers, SIZE, content, eventually, have, limits, volume};
use drbd_node::doorway::{IoError, Limits, OpenError};
use drbd_node::frontend::file_volume::{FileVolume, Policy};
use drbd_node::frontend::nbd::NbdFrontend;
use drbd_node::frontend::nbd::address::{Address, Stream};
use drbd_node::frontend::nbd::client::{Client, ClientError, list};
use drbd_node::frontend::nbd::codec::{Command, Errno, rep, tx};
use drbd_node::frontend::{Attached, Frontend};

struct Served {
    volume: FileVolume,
    file: std::fs::File,
    nbd: NbdFrontend,
    attached: Box<dyn Attached>,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

fn serve() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nbd.sock");
    let tcp = "tcp:127.0.0.1:0".parse().unwrap();
    let nbd = NbdFrontend::start(&[Address::Unix(socket.clone()), tcp]).unwrap();
    let (volume, file) = volume("r0");
    let attached = nbd.attach(volume.handle().clone()).unwrap();
    Served {
        volume,
        file,
        nbd,
        attached,
        socket,
        _dir: dir,
    }
}

impl Served {
    fn client(&self, export: &str) -> Client {
        let client = Client::connect(&self.nbd.addresses()[0], export).unwrap();
        client.set_timeout(Some(Duration::from_secs(20))).unwrap();
        client
    }
}

#[test]
fn every_command_over_unix_and_tcp() {
    let s = serve();
    assert_eq!(
        s.attached.place(),
        format!("nbd+unix:///r0/0?socket={}", s.socket.display())
    );
    for address in s.nbd.addresses() {
        assert_eq!(list(address).unwrap(), ["r0/0"]);
        let mut c = Client::connect(address, "r0").unwrap();
        c.set_timeout(Some(Duration::from_secs(20))).unwrap();
        let e = c.export().clone();
        assert_eq!((e.name.as_str(), e.size, e.min_block), ("r0/0", SIZE, 512));
        let expect = tx::SEND_FLUSH | tx::SEND_FUA | tx::SEND_TRIM | tx::SEND_WRITE_ZEROES;
        assert_eq!(e.flags & (expect | tx::READ_ONLY), expect);
        let mut numbers = Numbers(7);
        for (offset, len) in [
            (0u64, 512usize),
            (4096, 4096),
            (1 << 20, 100 << 10),
            (8 << 20, 1 << 20),
        ] {
            let data = numbers.bytes(len);
            c.write(offset, &data, false).unwrap();
            assert_eq!(content(&s.file, offset, len), data);
            assert_eq!(c.read(offset, len as u32).unwrap(), data);
        }
        c.write(0, &[1; 4096], true).unwrap();
        c.flush().unwrap();
        c.trim(1 << 20, 64 << 10).unwrap();
        assert_eq!(content(&s.file, 1 << 20, 64 << 10), vec![0; 64 << 10]);
        c.write_zeroes(8 << 20, 1 << 20, true).unwrap();
        assert_eq!(content(&s.file, 8 << 20, 1 << 20), vec![0; 1 << 20]);
        c.disconnect().unwrap();
    }
    let counters = s.volume.counters();
    assert_eq!(counters.fua.load(Ordering::SeqCst), 2);
    assert_eq!(counters.flushes.load(Ordering::SeqCst), 2);
    eventually("the openers are gone", || {
        counters.writers.load(Ordering::SeqCst) == 0
    });
}

#[test]
fn requests_longer_than_the_volume_takes_are_split() {
    let s = serve();
    let mut c = s.client("");
    let data = Numbers(3).bytes(5 << 20);
    c.write(512, &data, true).unwrap();
    assert_eq!(content(&s.file, 512, data.len()), data);
    assert_eq!(s.volume.counters().writes.load(Ordering::SeqCst), 20);
    assert!(c.read(512, 5 << 20).unwrap() == data);
    c.trim(0, 33 << 20).unwrap();
    assert_eq!(s.volume.counters().discards.load(Ordering::SeqCst), 9);
    assert_eq!(content(&s.file, 512, 4096), vec![0; 4096]);
    c.write(0, &[5; 512], false).unwrap();
    // Zero with FUA: pieces, then a flush.
    let before = s.volume.counters().flushes.load(Ordering::SeqCst);
    c.submit(
        Command::WriteZeroes {
            fua: true,
            unmap: false,
        },
        0,
        9 << 20,
        &[],
    );
    assert_eq!(c.complete().unwrap().result, Ok(()));
    assert_eq!(
        s.volume.counters().flushes.load(Ordering::SeqCst),
        before + 1
    );
    assert_eq!(content(&s.file, 0, 512), vec![0; 512]);
}

#[test]
fn many_requests_at_once_on_many_connections() {
    let s = serve();
    std::thread::scope(|scope| {
        for worker in 0..4u64 {
            let mut c = s.client("r0/0");
            scope.spawn(move || {
                let mut numbers = Numbers(worker + 1);
                let base = worker * (SIZE / 4);
                let mut model = vec![0u8; (SIZE / 4) as usize];
                for _round in 0..12 {
                    // Blocks of one round do not overlap: requests under way have no order.
                    let mut at = 0usize;
                    let mut reads = std::collections::HashMap::new();
                    while at + (300 << 10) < model.len() && reads.len() < 400 {
                        let len = 512 * (1 + numbers.next() as usize % 40);
                        let len = if numbers.next().is_multiple_of(30) {
                            256 << 10
                        } else {
                            len
                        };
                        if numbers.next().is_multiple_of(3) {
                            let cookie = c.submit(Command::Read, base + at as u64, len as u32, &[]);
                            reads.insert(cookie, at..at + len);
                        } else {
                            let data = numbers.bytes(len);
                            c.submit(Command::Write { fua: false }, base + at as u64, 0, &data);
                            model[at..at + len].copy_from_slice(&data);
                        }
                        at += len;
                        while c.under_way() > 40 {
                            check(&mut c, &mut reads, &model);
                        }
                    }
                    while c.under_way() > 0 {
                        check(&mut c, &mut reads, &model);
                    }
                }
                assert!(c.read(base, 4 << 20).unwrap() == model[..4 << 20]);
            });
        }
    });
    let check = Client::connect(&s.nbd.addresses()[1], "").unwrap();
    drop(check);
}

fn check(
    c: &mut Client,
    reads: &mut std::collections::HashMap<u64, std::ops::Range<usize>>,
    model: &[u8],
) {
    let done = c.complete().unwrap();
    assert_eq!(done.result, Ok(()));
    if let Some(range) = reads.remove(&done.cookie) {
        assert!(done.data == model[range], "a read returned something else");
    }
}

#[test]
fn a_client_that_does_not_read_its_replies_is_held_back() {
    let s = serve();
    let mut c = s.client("");
    // 256 MiB of replies that nobody takes: the server must neither buffer them nor die.
    for n in 0..256u64 {
        c.submit(Command::Read, (n % 64) << 20, 1 << 20, &[]);
    }
    c.send().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(s.volume.handle().pool().in_use() <= 8 << 20);
    let mut other = s.client("");
    other.write(0, &[1; 512], false).unwrap();
    while c.under_way() > 0 {
        assert_eq!(c.complete().unwrap().data.len(), 1 << 20);
    }
}

#[test]
fn a_secondary_is_read_only_or_refuses() {
    let s = serve();
    s.volume.set_policy(Policy {
        refuse_write: Some(OpenError::ReadOnly),
        ..Policy::default()
    });
    let mut c = s.client("r0/0");
    assert_ne!(c.export().flags & tx::READ_ONLY, 0);
    assert_eq!(c.read(0, 512).unwrap(), [0; 512]);
    let refused = c.write(0, &[1; 4096], false);
    assert!(
        matches!(refused, Err(ClientError::Request(Errno::Perm))),
        "{refused:?}"
    );
    assert_eq!(
        c.read(0, 512).unwrap(),
        [0; 512],
        "the stream is still in step"
    );

    let foreign = Some(OpenError::ForeignPrimary);
    let policy = Policy {
        refuse_write: foreign,
        refuse_read: foreign,
        fail: None,
    };
    s.volume.set_policy(policy);
    match Client::connect(&s.nbd.addresses()[0], "r0/0") {
        Err(ClientError::Refused {
            code: rep::ERR_POLICY,
            text,
        }) => {
            assert!(text.starts_with("r0/0: "), "{text}");
        }
        other => panic!("{other:?}"),
    }
    match Client::connect(&s.nbd.addresses()[0], "r1/0") {
        Err(ClientError::Refused {
            code: rep::ERR_UNKNOWN,
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn errors_of_the_volume_reach_the_client() {
    let s = serve();
    let mut c = s.client("");
    for (error, expect) in [
        (IoError::Io, Errno::Io),
        (IoError::NoSpace, Errno::NoSpace),
        (IoError::NotPrimary, Errno::Perm),
    ] {
        s.volume.set_policy(Policy {
            fail: Some(error),
            ..Policy::default()
        });
        for _ in 0..2 {
            let r = c.write(0, &[1; 1 << 20], false);
            assert!(
                matches!(r, Err(ClientError::Request(e)) if e == expect),
                "{r:?}"
            );
            let r = c.read(0, 1 << 20);
            assert!(
                matches!(r, Err(ClientError::Request(e)) if e == expect),
                "{r:?}"
            );
            let r = c.trim(0, 8 << 20);
            assert!(
                matches!(r, Err(ClientError::Request(e)) if e == expect),
                "{r:?}"
            );
        }
    }
    s.volume.set_policy(Policy::default());
    for (offset, len) in [
        (SIZE, 512u32),
        (u64::MAX - 511, 512),
        (1, 512),
        (0, 511),
        (0, 0),
        (0, 64 << 20),
    ] {
        let r = c.read(offset, len);
        assert!(
            matches!(r, Err(ClientError::Request(Errno::Invalid))),
            "{r:?}"
        );
    }
    let r = c.write(SIZE, &[1; 4096], false);
    assert!(
        matches!(r, Err(ClientError::Request(Errno::NoSpace))),
        "{r:?}"
    );
    // Growing is seen by those who are connected already.
    s.file.set_len(SIZE * 2).unwrap();
    s.volume.set_limits(Limits {
        sectors: SIZE * 2 / 512,
        ..limits()
    });
    eventually("the volume grew", || {
        c.write(SIZE, &[1; 4096], false).is_ok()
    });
    assert_eq!(s.client("").export().size, SIZE * 2);
}

#[test]
fn nonsense_ends_one_connection_and_no_other() {
    let s = serve();
    let mut good = s.client("");
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xff; 4096], b""] {
        let mut stream = Stream::connect(&s.nbd.addresses()[1]).unwrap();
        stream.set_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        stream.write_all(nonsense).unwrap();
        if !nonsense.is_empty() {
            // Closed, one way or the other.
            assert!(matches!(stream.read(&mut greeting), Ok(0) | Err(_)));
        }
    }
    // In the transmission phase, too.
    let mut bad = s.client("");
    bad.submit(Command::Write { fua: false }, 0, 0, &vec![0; 33 << 20]);
    assert!(bad.complete().is_err());
    good.write(0, &[1; 512], false).unwrap();
    eventually("the bad one is gone", || {
        s.volume.counters().writers.load(Ordering::SeqCst) == 1
    });
}

#[test]
fn a_volume_that_goes_away_closes_its_connections() {
    let Served {
        volume,
        attached,
        nbd,
        socket,
        _dir,
        ..
    } = serve();
    let mut c = Client::connect(&nbd.addresses()[0], "").unwrap();
    c.set_timeout(Some(Duration::from_secs(20))).unwrap();
    c.write(0, &[1; 512], false).unwrap();
    attached.detach();
    assert!(list(&nbd.addresses()[0]).unwrap().is_empty());
    drop(volume);
    assert!(c.read(0, 512).is_err());
    drop(nbd);
    assert!(!socket.exists());
}

#[test]
fn a_stale_socket_is_replaced_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let address = Address::Unix(path.clone());
    let first = NbdFrontend::start(std::slice::from_ref(&address)).unwrap();
    let second = NbdFrontend::start(std::slice::from_ref(&address))
        .err()
        .expect("in use");
    assert!(
        second.to_string().contains(path.to_str().unwrap()),
        "{second}"
    );
    drop(first);
    std::fs::write(&path, "a file").unwrap();
    assert!(NbdFrontend::start(&[address]).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"a file");
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Process::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {text}{errors}");
    text
}

#[test]
fn qemu_agrees() {
    if !have("qemu-img") || !have("qemu-io") || !have("qemu-nbd") {
        return;
    }
    let s = serve();
    let uri = s.attached.place();
    let socket = s.socket.to_str().unwrap();
    let listing = run("qemu-nbd", &["--list", "-k", socket]);
    assert!(
        listing.contains("r0/0") && listing.contains(&SIZE.to_string()),
        "{listing}"
    );
    let info = run("qemu-img", &["info", "-f", "raw", &uri]);
    assert!(info.contains(&format!("{SIZE} bytes")), "{info}");
    let io = run(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-t",
            "writeback",
            "-c",
            "write -P 17 0 64k",
            "-c",
            "write -f -P 18 64k 64k",
            "-c",
            "write -z -u 128k 1M",
            "-c",
            "discard 2M 1M",
            "-c",
            "flush",
            "-c",
            "read -P 17 0 64k",
            "-c",
            "read -P 18 64k 64k",
            "-c",
            "read -P 0 128k 1M",
            "-c",
            "aio_write -P 19 8M 7M",
            "-c",
            "aio_flush",
            "-c",
            "read -P 19 8M 7M",
            &uri,
        ],
    );
    assert!(!io.contains("failed") && !io.contains("error"), "{io}");
    assert_eq!(content(&s.file, 64 << 10, 4096), vec![18; 4096]);
    assert!(s.volume.counters().fua.load(Ordering::SeqCst) > 0);
    // A whole image through the server and back.
    let dir = tempfile::tempdir().unwrap();
    let (image, back) = (dir.path().join("image"), dir.path().join("back"));
    let data = Numbers(9).bytes(SIZE as usize);
    std::fs::write(&image, &data).unwrap();
    let (image, back_name) = (image.to_str().unwrap(), back.to_str().unwrap());
    run(
        "qemu-img",
        &["convert", "-n", "-f", "raw", "-O", "raw", "-W", image, &uri],
    );
    assert!(
        content(&s.file, 0, SIZE as usize) == data,
        "what QEMU wrote is not what is there"
    );
    run(
        "qemu-img",
        &["convert", "-f", "raw", "-O", "raw", &uri, back_name],
    );
    assert!(
        std::fs::read(&back).unwrap() == data,
        "QEMU read something else"
    );
}
