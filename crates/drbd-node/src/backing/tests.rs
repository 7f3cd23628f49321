use std::time::Duration;

use drbd_engine::{DiskError, MetaBlock, OpId};

use super::job::Output;
use super::*;
use crate::pool::{Buf, Pool, Purpose};
use crate::ring::Ring;

/// A file of `len` bytes on a file system that has `O_DIRECT`.
fn file(len: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(len).unwrap();
    file
}

struct Bench {
    ring: Ring<u32>,
    disks: Disks,
    pool: Pool,
    next: u64,
}

impl Bench {
    fn new() -> Bench {
        let disks = Disks::new(Arc::new(|_, _| panic!("no helper for files")));
        Bench {
            ring: Ring::new(64).unwrap(),
            disks,
            pool: Pool::new(8 << 20),
            next: 0,
        }
    }

    fn run(&mut self, f: impl FnOnce(&mut Disks, OpId)) -> Result<Output, DiskError> {
        self.next += 1;
        let id = OpId(self.next);
        f(&mut self.disks, id);
        let mut done = Vec::new();
        for _ in 0..10_000 {
            let copied = self.disks.copy(usize::MAX);
            for job in self.disks.to_start() {
                self.ring.push(job.job, job.op);
            }
            if let Some(finished) = self.disks.next_finished() {
                assert_eq!(finished.op, id);
                assert_eq!(self.disks.busy(), 0);
                return finished.result;
            }
            if copied {
                continue;
            }
            self.ring.wait(Some(Duration::from_secs(5))).unwrap();
            self.ring.completions(&mut done);
            for c in done.drain(..) {
                self.disks.complete(c.token, c.result, c.op);
            }
        }
        panic!("operation does not end");
    }

    fn buf(&self, len: usize, fill: u8) -> Buf {
        let mut buf = self.pool.alloc(len, Purpose::Internal).unwrap();
        buf.fill(fill);
        buf.freeze()
    }

    fn read(
        &mut self,
        device: &Arc<Device>,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, DiskError> {
        let buf = self.pool.alloc(len, Purpose::Internal).unwrap();
        match self.run(|d, op| d.read(op, device, offset, buf))? {
            Output::Data(buf) => Ok(buf.to_vec()),
            other => panic!("{other:?}"),
        }
    }
}

fn tag(output: Result<Output, DiskError>) -> Result<(), DiskError> {
    output.map(|o| assert!(matches!(o, Output::Nothing)))
}

/// Short requests to a file in memory end without the ring, as many as asked for and in their order; longer ones take
/// it.
#[test]
fn a_file_in_memory_is_copied_to() {
    let memory = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memory, 1 << 20).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory));
    let device = Arc::new(Device::open(Path::new(&path)).unwrap());
    let mut b = Bench::new();
    let buf = b.buf(8192, 3);
    b.disks
        .write(OpId(1), &device, 4096, buf, 8192, false, true);
    let buf = b.pool.alloc(12288, Purpose::Internal).unwrap();
    b.disks.read(OpId(2), &device, 0, buf);
    b.disks.flush(OpId(3), &device);
    assert!(b.disks.next_finished().is_none());
    assert!(b.disks.has_copies() && b.disks.copy(1));
    assert_eq!(b.disks.next_finished().map(|f| f.op), Some(OpId(1)));
    assert!(b.disks.next_finished().is_none());
    assert!(b.disks.has_copies() && b.disks.copy(5));
    let Some(Finished {
        op: OpId(2),
        result: Ok(Output::Data(got)),
    }) = b.disks.next_finished()
    else {
        panic!("not read");
    };
    assert!(got[..4096].iter().all(|x| *x == 0) && got[4096..].iter().all(|x| *x == 3));
    let flushed = b.disks.next_finished().map(|f| (f.op, f.result.is_ok()));
    assert_eq!(flushed, Some((OpId(3), true)));
    assert!(!b.disks.has_copies() && !b.disks.copy(5));
    let buf = b.pool.alloc(4096, Purpose::Internal).unwrap();
    b.disks.read(OpId(4), &device, 1 << 20, buf);
    b.disks.copy(1);
    let beyond = b.disks.next_finished().map(|f| f.result.is_err());
    assert_eq!(beyond, Some(true), "beyond the end");
    assert!(b.disks.to_start().is_empty());

    let buf = b.buf(256 << 10, 4);
    b.disks
        .write(OpId(5), &device, 0, buf, 256 << 10, false, false);
    assert!(!b.disks.has_copies());
    assert!(b.disks.next_finished().is_none());
    assert_eq!(b.disks.to_start().len(), 1);
}

#[test]
fn data_is_written_flushed_and_read() {
    let file = file(1 << 20);
    let device = Arc::new(Device::open(file.path()).unwrap());
    assert_eq!(device.bytes, 1 << 20);
    assert!(!device.is_block && device.logical_block >= 512);
    let mut b = Bench::new();
    let buf = b.buf(8192, 3);
    tag(b.run(|d, op| d.write(op, &device, 4096, buf, 8192, false, false))).unwrap();
    let buf = b.buf(4096, 4);
    tag(b.run(|d, op| d.write(op, &device, 8192, buf, 4096, true, true))).unwrap();
    tag(b.run(|d, op| d.flush(op, &device))).unwrap();
    let got = b.read(&device, 0, 16384).unwrap();
    for (n, expected) in [
        (0, 0),
        (4095, 0),
        (4096, 3),
        (8191, 3),
        (8192, 4),
        (12287, 4),
        (12288, 0),
    ] {
        assert_eq!(got[n], expected, "byte {n}");
    }
    assert_eq!(
        b.read(&device, (1 << 20) - 4096, 8192),
        Err(DiskError::Io),
        "beyond the end"
    );
    assert_eq!(b.pool.in_use(), 0);
}

#[test]
fn metadata_in_runs_and_pieces() {
    let file = file(4 << 20);
    let device = Arc::new(Device::open(file.path()).unwrap());
    let mut b = Bench::new();
    let block = |n: u64| MetaBlock {
        offset: n * 4096,
        data: Box::new([n as u8; 4096]),
    };
    for barrier in [false, true] {
        let blocks = [9, 3, 4, 5, 700].map(block).to_vec();
        tag(b.run(|d, op| d.meta_write(op, &device, blocks, barrier))).unwrap();
        tag(b.run(|d, op| d.meta_write(op, &device, vec![block(1)], barrier))).unwrap();
        tag(b.run(|d, op| d.meta_write(op, &device, (100..400).map(block).collect(), barrier)))
            .unwrap();
        tag(b.run(|d, op| d.meta_write(op, &device, Vec::new(), barrier))).unwrap();
    }
    let Output::Bytes(bytes) = b.run(|d, op| d.meta_read(op, &device, 0, 1 << 20)).unwrap() else {
        panic!()
    };
    for n in 0..256u64 {
        let expected = if [1, 3, 4, 5, 9].contains(&n) || n >= 100 {
            n as u8
        } else {
            0
        };
        assert!(
            bytes[n as usize * 4096..][..4096]
                .iter()
                .all(|x| *x == expected),
            "block {n}"
        );
    }
    assert_eq!(b.read(&device, 700 * 4096, 512).unwrap()[0], 700u64 as u8);
    assert!(
        b.run(|d, op| d.meta_read(op, &device, 0, 2 << 20)).is_err(),
        "longer than allowed"
    );
}

#[test]
fn discards_and_zeroes() {
    let file = file(1 << 20);
    let device = Arc::new(Device::open(file.path()).unwrap());
    let mut b = Bench::new();
    for (trim, zero) in [(true, false), (true, true), (false, true)] {
        let buf = b.buf(1 << 20, 0xee);
        tag(b.run(|d, op| d.write(op, &device, 0, buf, 1 << 20, false, false))).unwrap();
        let pieces = plan(&device, 512, 512 << 10, trim, zero);
        tag(b.run(|d, op| d.discard(op, &device, pieces))).unwrap();
        let got = b.read(&device, 0, 1 << 20).unwrap();
        assert!(got[..512].iter().all(|x| *x == 0xee));
        assert!(
            got[512..(512 << 10) + 512].iter().all(|x| *x == 0),
            "trim {trim}, zero {zero}"
        );
        assert!(got[(512 << 10) + 512..].iter().all(|x| *x == 0xee));
    }
}

/// The examples of data path, section 10.2.
#[test]
fn discard_plans() {
    let file = file(1 << 20);
    let mut device = Device::open(file.path()).unwrap();
    device.discard_granularity = 64 << 10;
    device.max_discard = 1 << 20;
    let sectors = |device: &Device, from: u64, to: u64| -> Vec<(bool, u64, u64)> {
        plan(device, from * 512, (to - from) * 512, true, false)
            .into_iter()
            .map(|piece| match piece {
                Piece::Discard { offset, len } => (true, offset / 512, (offset + len) / 512),
                Piece::Zero { offset, len, unmap } => {
                    assert!(unmap);
                    (false, offset / 512, (offset + len) / 512)
                }
            })
            .collect()
    };
    assert_eq!(
        sectors(&device, 100, 1100),
        [(false, 100, 128), (true, 128, 1024), (false, 1024, 1100)]
    );
    assert_eq!(sectors(&device, 100, 300), [(false, 100, 300)]);
    device.max_discard = 200 << 10;
    assert_eq!(
        sectors(&device, 128, 1024),
        [(true, 128, 512), (true, 512, 896), (true, 896, 1024)]
    );
    device.discard_alignment = 8 * 512;
    device.max_discard = 1 << 20;
    assert_eq!(
        sectors(&device, 100, 1100),
        [(false, 100, 136), (true, 136, 1032), (false, 1032, 1100)]
    );
    device.discard_granularity = 0;
    assert_eq!(sectors(&device, 128, 1024), [(false, 128, 1024)]);
    assert_eq!(
        plan(&device, 0, 4096, false, true),
        [Piece::Zero {
            offset: 0,
            len: 4096,
            unmap: false
        }]
    );
}

#[test]
fn a_device_is_claimed_once() {
    let file = file(1 << 20);
    let first = Backing::open(file.path(), file.path()).unwrap();
    assert!(Arc::ptr_eq(&first.data, &first.meta), "internal metadata");
    assert!(matches!(
        Device::open(file.path()),
        Err(OpenError::Claimed(_))
    ));
    drop(first);
    assert!(Device::open(file.path()).is_ok());
    assert!(matches!(
        Device::open(Path::new("/dev/null")),
        Err(OpenError::Kind(_))
    ));
    assert!(matches!(
        Device::open(Path::new("/nonexistent")),
        Err(OpenError::Open { .. })
    ));
}
