//! What a frontend costs by itself: requests per second onto a volume that is only a file in memory.
//!
//!     cargo run --release -p drbd-node --example frontend_cost [nbd|fuse|loop|ADDRESS/EXPORT]
//!
//! With an NBD address (`unix:PATH#EXPORT`), any server is measured the same way.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use drbd_node::doorway::{Limits, VolumeNr};
use drbd_node::frontend::Frontend;
use drbd_node::frontend::Volume;
use drbd_node::frontend::file_volume::FileVolume;
use drbd_node::frontend::fuse::FuseFrontend;
use drbd_node::frontend::loopdev::LoopFrontend;
use drbd_node::frontend::nbd::NbdFrontend;
use drbd_node::frontend::nbd::address::Address;
use drbd_node::frontend::nbd::client::Client;
use drbd_node::frontend::nbd::codec::Command;

const SIZE: u64 = 512 << 20;
const TIME: Duration = Duration::from_secs(3);

fn main() {
    let what = std::env::args().nth(1).unwrap_or_else(|| "nbd".into());
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open("/dev/shm/drbd-frontend-cost")
        .unwrap();
    let _ = std::fs::remove_file("/dev/shm/drbd-frontend-cost");
    file.set_len(SIZE).unwrap();
    for at in 0..SIZE >> 20 {
        file.write_all_at(&vec![1; 1 << 20], at << 20).unwrap();
    }
    let limits = Limits {
        sectors: SIZE / 512,
        logical_block: 512,
        physical_block: 4096,
        max_io: 1 << 20,
        max_discard: 1 << 20,
        discard_granularity: 4096,
        max_write_zeroes: 1 << 20,
        volatile_cache: true,
        writable: true,
    };
    let volume = Volume {
        resource: "cost".into(),
        volume: VolumeNr::ZERO,
        minor: 0,
    };
    let volume = FileVolume::start(volume, file, limits).unwrap();
    let dir = tempfile::tempdir().unwrap();
    match what.as_str() {
        "nbd" => {
            let address = Address::Unix(dir.path().join("s"));
            let server = NbdFrontend::start(std::slice::from_ref(&address)).unwrap();
            let attached = server.attach(volume.handle().clone()).unwrap();
            nbd(&address, "");
            attached.detach();
        }
        "fuse" => {
            let frontend = FuseFrontend::new(dir.path()).unwrap();
            let attached = frontend.attach(volume.handle().clone()).unwrap();
            path(Path::new(&attached.place()));
            attached.detach();
        }
        "loop" => {
            let frontend = LoopFrontend::new(dir.path()).unwrap();
            let attached = frontend.attach(volume.handle().clone()).unwrap();
            path(&attached.device().unwrap());
            attached.detach();
        }
        other => {
            let (address, export) = other.split_once('#').unwrap_or((other, ""));
            nbd(&address.parse().unwrap(), export);
        }
    }
}

fn report(what: &str, requests: u64, bytes: u64, time: Duration) {
    let seconds = time.as_secs_f64();
    println!(
        "{what:<28} {:>9.0} IOPS {:>8.0} MiB/s {:>7.1} µs each",
        requests as f64 / seconds,
        bytes as f64 / seconds / f64::from(1 << 20),
        seconds * 1e6 / requests as f64
    );
}

fn nbd(address: &Address, export: &str) {
    for (what, len, depth, write, random) in [
        ("4 KiB random writes, qd 1", 4096u32, 1usize, true, true),
        ("4 KiB random writes, qd 16", 4096, 16, true, true),
        ("4 KiB random reads, qd 16", 4096, 16, false, true),
        ("1 MiB writes, qd 4", 1 << 20, 4, true, false),
        ("1 MiB reads, qd 4", 1 << 20, 4, false, false),
    ] {
        let mut client = Client::connect(address, export).unwrap();
        let data = vec![7; len as usize];
        let (start, mut n, mut at) = (Instant::now(), 0u64, 88172645463325252u64);
        let blocks = SIZE / u64::from(len);
        while start.elapsed() < TIME {
            while client.under_way() < depth {
                at ^= at << 13;
                at ^= at >> 7;
                at ^= at << 17;
                let block = if random { at % blocks } else { n % blocks };
                let offset = block * u64::from(len);
                if write {
                    client.submit(Command::Write { fua: false }, offset, 0, &data);
                } else {
                    client.submit(Command::Read, offset, len, &[]);
                }
                n += 1;
            }
            client.complete().unwrap().result.unwrap();
        }
        report(what, n, n * u64::from(len), start.elapsed());
    }
}

fn path(path: &Path) {
    let mut space = vec![0u8; (1 << 20) + 4096];
    let from = space.as_ptr().align_offset(4096);
    let space = &mut space[from..from + (1 << 20)];
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .unwrap();
    for (what, len, write) in [
        ("4 KiB writes, one by one", 4096usize, true),
        ("4 KiB reads, one by one", 4096, false),
        ("1 MiB writes, one by one", 1 << 20, true),
        ("1 MiB reads, one by one", 1 << 20, false),
    ] {
        let (start, mut n) = (Instant::now(), 0u64);
        let blocks = SIZE / len as u64;
        while start.elapsed() < TIME {
            let offset = (n * 7919 % blocks) * len as u64;
            if write {
                file.write_all_at(&space[..len], offset).unwrap();
            } else {
                file.read_exact_at(&mut space[..len], offset).unwrap();
            }
            n += 1;
        }
        report(what, n, n * len as u64, start.elapsed());
    }
}
