use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::*;
use crate::pool::{Pool, Purpose};

fn run(ring: &mut Ring<u32>) -> Completion<u32> {
    let mut out = Vec::new();
    for _ in 0..1000 {
        ring.wait(Some(Duration::from_secs(5))).unwrap();
        ring.completions(&mut out);
        if let Some(done) = out.pop() {
            assert!(out.is_empty());
            return done;
        }
    }
    panic!("no completion");
}

#[test]
fn vectored_send_and_receive() {
    let mut ring = Ring::new(8).unwrap();
    let pool = Pool::new(0);
    let (a, mut b) = UnixStream::pair().unwrap();
    let a: Fd = Arc::new(a.into());
    let mut payload = pool.alloc(4096, Purpose::Internal).unwrap();
    payload.fill(9);
    let parts = vec![
        Part::all(Memory::Bytes(b"head".to_vec())),
        Part {
            memory: Memory::Shared(payload.freeze()),
            at: 4000,
            len: 1000,
        },
    ];
    ring.push(
        1,
        Op::Send {
            fd: a.clone(),
            parts,
            more: false,
        },
    );
    let done = run(&mut ring);
    assert_eq!((done.token, done.result.unwrap()), (1, 100));
    let mut got = [0; 100];
    b.read_exact(&mut got).unwrap();
    assert_eq!(&got[..4], b"head");
    assert_eq!(got[4..], [9; 96]);

    b.write_all(&[5; 30]).unwrap();
    let parts = vec![
        Part {
            memory: Memory::Bytes(vec![0; 16]),
            at: 6,
            len: 10,
        },
        Part::all(Memory::Fill(pool.alloc(4096, Purpose::Internal).unwrap())),
    ];
    ring.push(2, Op::Receive { fd: a, parts });
    let done = run(&mut ring);
    assert_eq!((done.token, done.result.unwrap()), (2, 30));
    let Op::Receive { parts, .. } = done.op else {
        panic!()
    };
    assert_eq!(
        parts[0].memory.bytes(),
        [0, 0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5]
    );
    assert_eq!(
        parts[1].memory.bytes()[..21],
        [
            5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 0
        ]
    );
}

#[test]
fn files_and_cancel() {
    let mut ring = Ring::new(8).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    let fd: Fd = Arc::new(file.try_clone().unwrap().into());
    let part = Part::all(Memory::Bytes(vec![7; 512]));
    ring.push(
        1,
        Op::Write {
            fd: fd.clone(),
            offset: 1024,
            part,
            durable: true,
        },
    );
    assert_eq!(run(&mut ring).result.unwrap(), 512);
    ring.push(2, Op::Flush { fd: fd.clone() });
    assert!(run(&mut ring).result.is_ok());
    let mut got = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut got).unwrap();
    assert_eq!((got.len(), got[1023], got[1024]), (1536, 0, 7));
    let part = Part::all(Memory::Bytes(vec![1; 1024]));
    ring.push(
        3,
        Op::Read {
            fd,
            offset: 1024,
            part,
        },
    );
    assert_eq!(
        run(&mut ring).result.unwrap(),
        512,
        "a read at the end is short"
    );

    let (a, _b) = UnixStream::pair().unwrap();
    let key = ring.push(
        4,
        Op::Poll {
            fd: Arc::new(a.into()),
            events: libc::POLLIN as u32,
        },
    );
    ring.wait(Some(Duration::ZERO)).unwrap();
    ring.cancel(key);
    let done = run(&mut ring);
    assert_eq!(done.key, key);
    assert_eq!(
        done.result.unwrap_err().raw_os_error(),
        Some(libc::ECANCELED)
    );
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn more_operations_than_entries() {
    let mut ring = Ring::new(4).unwrap();
    let file = tempfile::tempfile().unwrap();
    let fd: Fd = Arc::new(file.into());
    for n in 0..500u32 {
        let part = Part::all(Memory::Bytes(n.to_le_bytes().to_vec()));
        ring.push(
            n,
            Op::Write {
                fd: fd.clone(),
                offset: u64::from(n) * 4,
                part,
                durable: false,
            },
        );
    }
    let mut out = Vec::new();
    while out.len() < 500 {
        ring.wait(Some(Duration::from_secs(5))).unwrap();
        ring.completions(&mut out);
    }
    let mut tokens: Vec<_> = out.iter().map(|c| c.token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (0..500).collect::<Vec<_>>());
}

#[test]
fn patience_ends() {
    let mut ring = Ring::new(8).unwrap();
    let (a, mut b) = UnixStream::pair().unwrap();
    let (c, _d) = UnixStream::pair().unwrap();
    for (token, fd) in [(1, a), (2, c)] {
        let events = libc::POLLIN as u32;
        let fd = Arc::new(fd.into());
        ring.push(token, Op::Poll { fd, events });
    }
    b.write_all(&[0]).unwrap();
    let start = std::time::Instant::now();
    // Ten are announced and one comes.
    ring.wait_for(10, Some(Duration::from_secs(20))).unwrap();
    let mut out = Vec::new();
    ring.completions(&mut out);
    assert_eq!(out.iter().map(|c| c.token).collect::<Vec<_>>(), [1]);
    assert!(start.elapsed() < Duration::from_secs(10));
    let start = std::time::Instant::now();
    ring.wait_for(10, Some(Duration::from_millis(30))).unwrap();
    assert!(
        start.elapsed() >= Duration::from_millis(25),
        "the timeout counts"
    );
    ring.completions(&mut out);
    assert_eq!(out.len(), 1);
}

#[test]
fn dropping_a_busy_ring_ends_its_operations() {
    let mut ring = Ring::new(4).unwrap();
    let (a, b) = UnixStream::pair().unwrap();
    let a: Fd = Arc::new(a.into());
    let parts = vec![Part::all(Memory::Bytes(vec![0; 64]))];
    ring.push(
        0,
        Op::Receive {
            fd: a.clone(),
            parts,
        },
    );
    ring.wait(Some(Duration::ZERO)).unwrap();
    drop(ring);
    assert_eq!(
        Arc::strong_count(&a),
        1,
        "the operation and its descriptor are gone"
    );
    drop(b);
}
