//! The FUSE file before a volume made of a file, used as programs use it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;

use common::{Numbers, SIZE, content, eventually, have, is_root, limits, volume};
use drbd_node::doorway::{IoError, Limits, OpenError};
use drbd_node::frontend::file_volume::{FileVolume, Policy};
use drbd_node::frontend::fuse::FuseFrontend;
use drbd_node::frontend::{Attached, Frontend};

struct Served {
    // Unmounted before the volume goes.
    attached: Option<Box<dyn Attached>>,
    volume: FileVolume,
    back: File,
    path: PathBuf,
    dir: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(attached) = self.attached.take() {
            attached.detach();
        }
    }
}

/// Nothing where FUSE cannot be used, which is said.
fn serve(name: &str) -> Option<Served> {
    let dir = tempfile::tempdir().unwrap();
    // As an ordinary user the program fusermount3 does it.
    let fuse = match FuseFrontend::new(dir.path()) {
        Ok(fuse) => fuse,
        Err(e) => {
            eprintln!("NOT TESTED: {e}");
            return None;
        }
    };
    let (volume, back) = volume(name);
    let attached = fuse.attach(volume.handle().clone()).unwrap();
    let path = PathBuf::from(attached.place());
    assert_eq!(path, dir.path().join("fuse").join(name).join("0"));
    Some(Served {
        attached: Some(attached),
        volume,
        back,
        path,
        dir,
    })
}

fn rw(s: &Served) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(&s.path)
        .unwrap()
}

fn errno<T: std::fmt::Debug>(r: std::io::Result<T>) -> i32 {
    r.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn read_write_sync_zero() {
    let Some(s) = serve("rws") else { return };
    let meta = std::fs::metadata(&s.path).unwrap();
    assert!(meta.is_file());
    assert_eq!((meta.size(), meta.blocks()), (SIZE, SIZE / 512));
    let f = rw(&s);
    let mut numbers = Numbers(5);
    for (offset, len) in [
        (0u64, 512usize),
        (4096, 4096),
        (1 << 20, 64 << 10),
        (2 << 20, 256 << 10),
        (8 << 20, 3 << 20),
    ] {
        let data = numbers.bytes(len);
        f.write_all_at(&data, offset).unwrap();
        assert!(content(&s.back, offset, len) == data);
        let mut got = vec![0; len];
        f.read_exact_at(&mut got, offset).unwrap();
        assert!(got == data);
        // Any piece of it.
        let (from, until) = (len / 3, len / 3 + len / 2 + 1);
        f.read_exact_at(&mut got[from..until], offset + from as u64)
            .unwrap();
        assert!(got == data);
    }
    let counters = s.volume.counters();
    f.sync_all().unwrap();
    assert_eq!(counters.flushes.load(Ordering::SeqCst), 1);
    let d = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DSYNC)
        .open(&s.path)
        .unwrap();
    d.write_all_at(&[1; 4096], 0).unwrap();
    assert!(counters.fua.load(Ordering::SeqCst) + counters.flushes.load(Ordering::SeqCst) >= 2);
    drop(d);

    let hole = |mode: i32, offset: i64, len: i64| {
        let mode = rustix::fs::FallocateFlags::from_bits_retain(mode as u32);
        rustix::fs::fallocate(&f, mode, offset as u64, len as u64)
    };
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    hole(libc::FALLOC_FL_PUNCH_HOLE | keep, 8 << 20, 3 << 20).unwrap();
    assert!(content(&s.back, 8 << 20, 3 << 20) == vec![0; 3 << 20]);
    hole(libc::FALLOC_FL_ZERO_RANGE | keep, 0, 4096).unwrap();
    assert_eq!(content(&s.back, 0, 4096), [0; 4096]);
    hole(libc::FALLOC_FL_PUNCH_HOLE | keep, 0, SIZE as i64).unwrap();
    assert!(content(&s.back, 0, SIZE as usize) == vec![0; SIZE as usize]);
    assert!(hole(libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096).is_err());
}

#[test]
fn it_behaves_like_a_device() {
    let Some(s) = serve("dev") else { return };
    let f = rw(&s);
    // The end.
    assert_eq!(f.read_at(&mut [0; 4096], SIZE).unwrap(), 0);
    assert_eq!(f.read_at(&mut [0; 4096], SIZE - 512).unwrap(), 512);
    assert_eq!(errno(f.write_at(&[1; 512], SIZE)), libc::ENOSPC);
    assert_eq!(f.write_at(&[1; 4096], SIZE - 512).unwrap(), 512);
    // The size is not for programs to change; `O_TRUNC`, as dd uses it, is harmless.
    assert_eq!(errno(f.set_len(4096)), libc::EINVAL);
    f.write_all_at(&[7; 512], 0).unwrap();
    drop(
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&s.path)
            .unwrap(),
    );
    assert_eq!(std::fs::metadata(&s.path).unwrap().len(), SIZE);
    assert_eq!(content(&s.back, 0, 512), [7; 512]);
    // It grows.
    s.back.set_len(SIZE * 2).unwrap();
    s.volume.set_limits(Limits {
        sectors: SIZE * 2 / 512,
        ..limits()
    });
    eventually("the file grew", || {
        std::fs::metadata(&s.path).unwrap().len() == SIZE * 2
    });
    f.write_all_at(&[9; 512], SIZE).unwrap();
    assert_eq!(content(&s.back, SIZE, 512), [9; 512]);
    // Its mode and owner can be set, as udev does with devices.
    std::fs::set_permissions(&s.path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let meta = std::fs::metadata(&s.path).unwrap();
    assert_eq!(meta.mode() & 0o777, 0o640);
    if is_root() {
        std::os::unix::fs::chown(&s.path, Some(65534), Some(65534)).unwrap();
        let meta = std::fs::metadata(&s.path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (65534, 65534));
    }
    let statvfs = rustix::fs::statvfs(&s.path).unwrap();
    assert_eq!((statvfs.f_bsize, statvfs.f_bavail), (512, 0));
}

#[test]
fn writes_of_any_offset_and_length() {
    let Some(s) = serve("any") else { return };
    let f = rw(&s);
    let mut numbers = Numbers(11);
    let mut model = numbers.bytes(3 << 20);
    f.write_all_at(&model, 0).unwrap();
    for round in 0..400 {
        let len = match round % 4 {
            0 => 1 + numbers.next() as usize % 100,
            1 => 1 + numbers.next() as usize % 2000,
            2 => 512 * (1 + numbers.next() as usize % 8),
            _ => 1 + numbers.next() as usize % (1 << 20),
        };
        let at = numbers.next() as usize % (model.len() - len);
        let data = numbers.bytes(len);
        f.write_all_at(&data, at as u64).unwrap();
        model[at..at + len].copy_from_slice(&data);
    }
    assert!(content(&s.back, 0, model.len()) == model);
    // Many at a time: each owns every eighth byte, all share the blocks.
    std::thread::scope(|scope| {
        for worker in 0..8u8 {
            let f = &f;
            scope.spawn(move || {
                for n in 0..200u64 {
                    f.write_all_at(&[worker + 1], n * 8 + u64::from(worker))
                        .unwrap();
                }
            });
        }
    });
    let expect: Vec<u8> = (0..1600).map(|n| (n % 8) as u8 + 1).collect();
    assert_eq!(content(&s.back, 0, 1600), expect);
    // The edges cannot be read.
    s.volume.set_policy(Policy {
        fail: Some(IoError::Io),
        ..Policy::default()
    });
    assert_eq!(errno(f.write_at(&[1; 100], 700)), libc::EIO);
    s.volume.set_policy(Policy::default());
    f.write_all_at(&[1; 100], 700).unwrap();
}

#[test]
fn openers_come_and_go_as_programs_do() {
    let Some(s) = serve("open") else { return };
    let counters = s.volume.counters();
    let now = || {
        (
            counters.readers.load(Ordering::SeqCst),
            counters.writers.load(Ordering::SeqCst),
        )
    };
    assert_eq!(now(), (0, 0));
    let reader = File::open(&s.path).unwrap();
    assert_eq!(now(), (1, 0));
    let writer = rw(&s);
    let copy = writer.try_clone().unwrap();
    assert_eq!(now(), (1, 1));
    drop(writer);
    assert_eq!(now(), (1, 1));
    drop((reader, copy));
    eventually("both are closed", || now() == (0, 0));

    let cases = [
        (OpenError::ReadOnly, libc::EROFS),
        (OpenError::ForeignPrimary, libc::EMEDIUMTYPE),
        (OpenError::NoData, libc::ENODATA),
        (OpenError::FailIo, libc::ENOTRECOVERABLE),
        (OpenError::NoVolume, libc::ENXIO),
    ];
    for (refusal, expect) in cases {
        let policy = Policy {
            refuse_write: Some(refusal),
            ..Policy::default()
        };
        s.volume.set_policy(policy);
        assert_eq!(errno(OpenOptions::new().write(true).open(&s.path)), expect);
        File::open(&s.path).unwrap();
        s.volume.set_policy(Policy {
            refuse_read: Some(refusal),
            ..policy
        });
        assert_eq!(errno(File::open(&s.path)), expect);
    }
    s.volume.set_policy(Policy::default());
    let f = rw(&s);
    for (failure, expect) in [
        (IoError::Io, libc::EIO),
        (IoError::NoSpace, libc::ENOSPC),
        (IoError::NotPrimary, libc::EROFS),
    ] {
        s.volume.set_policy(Policy {
            fail: Some(failure),
            ..Policy::default()
        });
        assert_eq!(errno(f.write_at(&[1; 4096], 0)), expect);
        assert_eq!(errno(f.read_at(&mut [1; 4096], 0)), expect);
        assert_eq!(errno(f.sync_all()), expect);
    }
}

#[test]
fn many_threads_with_direct_io() {
    let Some(s) = serve("many") else { return };
    std::thread::scope(|scope| {
        for worker in 0..8u64 {
            let path = &s.path;
            scope.spawn(move || {
                let f = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(path)
                    .unwrap();
                let mut numbers = Numbers(worker + 1);
                let base = worker * (SIZE / 8);
                let mut model = vec![0u8; 2 << 20];
                f.write_all_at(&model, base).unwrap();
                for _ in 0..300 {
                    let len = 512 * (1 + numbers.next() as usize % 200);
                    let at = 512 * (numbers.next() as usize % ((model.len() - len) / 512));
                    if numbers.next().is_multiple_of(2) {
                        let data = numbers.bytes(len);
                        f.write_all_at(&data, base + at as u64).unwrap();
                        model[at..at + len].copy_from_slice(&data);
                    } else {
                        let mut data = vec![0; len];
                        f.read_exact_at(&mut data, base + at as u64).unwrap();
                        assert!(data == model[at..at + len]);
                    }
                }
                let mut data = vec![0; model.len()];
                f.read_exact_at(&mut data, base).unwrap();
                assert!(data == model);
            });
        }
    });
}

#[test]
fn unmounting_and_what_a_killed_daemon_leaves() {
    let Some(mut s) = serve("gone") else { return };
    let mut f = rw(&s);
    s.attached.take().unwrap().detach();
    assert!(!s.path.exists());
    assert!(!s.dir.path().join("fuse/gone").exists());
    // A program that still has it open goes on until it closes.
    let mut start = [0; 512];
    f.read_exact(&mut start).unwrap();
    drop(f);

    // A mount without anybody behind it.
    let fuse = FuseFrontend::new(s.dir.path()).unwrap();
    let attached = fuse.attach(s.volume.handle().clone()).unwrap();
    std::mem::forget(attached);
    let (other, _back) = volume("gone");
    s.volume = other;
    eventually(
        "the mount is dead",
        || matches!(File::open(&s.path), Err(e) if e.raw_os_error() == Some(libc::ENOTCONN)),
    );
    let attached = fuse.attach(s.volume.handle().clone()).unwrap();
    rw(&s).write_all_at(&[1; 512], 0).unwrap();
    s.attached = Some(attached);

    // Something else there is not removed.
    let (third, _back) = volume("other");
    std::fs::create_dir_all(s.dir.path().join("fuse/other/0")).unwrap();
    let error = fuse.attach(third.handle().clone()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(f_is_mounted(&s.path));
}

fn f_is_mounted(path: &std::path::Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.contains(path.to_str().unwrap())
}

#[test]
fn qemu_opens_it_directly() {
    let Some(s) = serve("qemu") else { return };
    if !have("qemu-io") {
        return;
    }
    for cache in ["none", "writeback"] {
        let out = Command::new("qemu-io")
            .args(["-f", "raw", "-t", cache])
            .args([
                "-c",
                "write -P 21 0 1M",
                "-c",
                "aio_write -P 22 4M 3M",
                "-c",
                "aio_flush",
            ])
            .args([
                "-c",
                "discard 512k 512k",
                "-c",
                "read -P 21 0 512k",
                "-c",
                "read -P 22 4M 3M",
            ])
            .arg(&s.path)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned()
            + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && !text.contains("failed"), "{text}");
        assert!(content(&s.back, 4 << 20, 3 << 20) == vec![22; 3 << 20]);
    }
    let f = rw(&s);
    assert!(f.as_raw_fd() > 0);
}
