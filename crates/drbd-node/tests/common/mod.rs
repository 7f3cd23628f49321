//! What the frontends' tests share: a volume made of a temporary file.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic
)]

use std::os::unix::fs::FileExt;

use drbd_node::doorway::{Limits, VolumeNr};
use drbd_node::frontend::Volume;
use drbd_node::frontend::file_volume::FileVolume;

pub const SIZE: u64 = 64 << 20;

pub fn limits() -> Limits {
    Limits {
        sectors: SIZE / 512,
        logical_block: 512,
        physical_block: 4096,
        max_io: 256 << 10,
        max_discard: 4 << 20,
        discard_granularity: 4096,
        max_write_zeroes: 4 << 20,
        volatile_cache: true,
        writable: true,
    }
}

/// A volume of [`SIZE`] bytes called `NAME/0`, and its file for a look behind the scene.
pub fn volume(name: &str) -> (FileVolume, std::fs::File) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    let back = file.try_clone().unwrap();
    let volume = Volume {
        resource: name.into(),
        volume: VolumeNr::ZERO,
        minor: 1000,
    };
    (FileVolume::start(volume, file, limits()).unwrap(), back)
}

pub fn content(file: &std::fs::File, offset: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    file.read_exact_at(&mut data, offset).unwrap();
    data
}

/// Numbers that look random and are the same every time.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Waits until something becomes true.
pub fn eventually(what: &str, mut f: impl FnMut() -> bool) {
    for _ in 0..500 {
        if f() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("never happened: {what}");
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self")
        .map(|m| std::os::unix::fs::MetadataExt::uid(&m))
        .unwrap()
        == 0
}

/// Whether a program is installed; says so if not.
pub fn have(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|p| std::env::split_paths(&p).collect::<Vec<_>>())
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).exists());
    if !found {
        eprintln!("NOT TESTED: {program} is not installed");
    }
    found
}
