//! Whole commands over metadata of any content: they end with an exit code of the list, and what they
//! leave is found again.
#![no_main]

use drbd_tools::meta::run_with;
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

const SIZE: usize = 1 << 20;

struct Place {
    directory: String,
    disk: String,
    /// Fresh metadata: version, layout, content of the device.
    fresh: Vec<(&'static str, &'static str, Vec<u8>)>,
}

fn run(directory: &str, version: &str, disk: &str, index: &str, command: &str) -> u8 {
    let head = ["--force", "--var-lib-drbd", directory, "-", version, disk, index];
    let line = head.into_iter().chain(command.split(' ')).map(str::to_owned);
    run_with(line, std::io::sink, std::io::sink)
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let name = format!("drbd-fuzz-meta-{}", std::process::id());
    let path: PathBuf = std::env::temp_dir().join(name);
    fs::create_dir_all(&path).unwrap();
    let directory = path.display().to_string();
    let disk = path.join("disk").display().to_string();
    let mut fresh = Vec::new();
    for (version, index, create) in [
        ("v09", "internal", "create-md 3"),
        ("v09", "flex-external", "create-md 2 -s 2"),
        ("v08", "internal", "create-md"),
        ("v07", "flex-internal", "create-md"),
    ] {
        fs::write(&disk, vec![0; SIZE]).unwrap();
        assert_eq!(run(&directory, version, &disk, index, create), 0);
        fresh.push((version, index, fs::read(&disk).unwrap()));
    }
    Place { directory, disk, fresh }
});

fuzz_target!(|data: (u8, Vec<(u16, Vec<u8>)>, [u8; 3])| {
    let (base, patches, commands) = data;
    let place = &*PLACE;
    let (version, index, mut bytes) = place.fresh[usize::from(base) % place.fresh.len()].clone();
    for (at, patch) in patches {
        // The last 64 KiB and the first: there the metadata is.
        let at = usize::from(at);
        let at = if index == "flex-external" { at } else { SIZE - 65536 + at };
        let end = (at + patch.len()).min(SIZE);
        bytes[at..end].copy_from_slice(&patch[..end - at]);
    }
    fs::write(&place.disk, &bytes).unwrap();
    for command in commands {
        let command = match command % 12 {
            0 => "dump-md",
            1 => "apply-al",
            2 => "show-gi --node-id 1",
            3 => "set-gi --node-id 1 1:2:3",
            4 => "forget-peer --node-id 2",
            5 => "outdate",
            6 => "invalidate",
            7 => "dstate",
            8 => "check-resize",
            9 => "dump-superblock --output-format json",
            10 => "hexdump-superblock",
            _ => "repair-md",
        };
        let code = run(&place.directory, version, &place.disk, index, command);
        assert!(matches!(code, 0..=5 | 10), "{command}: exit code {code}");
        if command == "apply-al" && code == 0 {
            let again = run(&place.directory, version, &place.disk, index, command);
            assert_eq!(again, 0, "apply-al twice");
        }
    }
});
