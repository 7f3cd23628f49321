//! The loop device before a volume made of a file: a file system on it, and who counts as its user.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Numbers, SIZE, content, eventually, have, is_root, limits, volume};
use drbd_node::doorway::{Limits, OpenError};
use drbd_node::frontend::file_volume::{FileVolume, Policy};
use drbd_node::frontend::loopdev::{LoopFrontend, remove_stale};
use drbd_node::frontend::{Attached, Frontend};

/// One at a time: the tests look at what the whole machine mounts.
static ALONE: Mutex<()> = Mutex::new(());

struct Served {
    frontend: LoopFrontend,
    attached: Option<Box<dyn Attached>>,
    volume: FileVolume,
    back: File,
    device: PathBuf,
    dir: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(attached) = self.attached.take() {
            attached.detach();
        }
    }
}

fn serve(name: &str) -> Option<Served> {
    if !is_root() {
        eprintln!("NOT TESTED: loop devices need root");
        return None;
    }
    if !Path::new("/dev/loop-control").exists() || !Path::new("/dev/fuse").exists() {
        eprintln!("NOT TESTED: there is no /dev/loop-control or no /dev/fuse");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let (volume, back) = volume(name);
    let frontend = LoopFrontend::new(dir.path()).unwrap();
    let attached = frontend.attach(volume.handle().clone()).unwrap();
    let device = attached.device().unwrap();
    Some(Served {
        frontend,
        attached: Some(attached),
        volume,
        back,
        device,
        dir,
    })
}

fn sys(s: &Served, what: &str) -> String {
    let name = s.device.file_name().unwrap().to_str().unwrap();
    let text = std::fs::read_to_string(format!("/sys/block/{name}/{what}")).unwrap_or_default();
    text.trim().to_owned()
}

fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap();
    let text =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {text}");
}

/// A mount that is taken away also when the test fails.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn openers(s: &Served) -> (u64, u64) {
    let c = s.volume.counters();
    (
        c.readers.load(Ordering::SeqCst),
        c.writers.load(Ordering::SeqCst),
    )
}

#[test]
fn a_file_system_survives() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let Some(s) = serve("ext4") else { return };
    assert_eq!(sys(&s, "size"), (SIZE / 512).to_string());
    assert_eq!(sys(&s, "loop/dio"), "1", "direct I/O");
    assert_eq!(sys(&s, "queue/logical_block_size"), "512");
    assert_eq!(sys(&s, "loop/autoclear"), "0");
    assert!(s.frontend.serves(&s.device) && s.frontend.serves(&s.dir.path().join("fuse/ext4/0")));
    assert!(!s.frontend.serves(s.dir.path()) && !s.frontend.serves(Path::new("/dev/null")));
    if !have("mkfs.ext4") {
        return;
    }
    let device = s.device.to_str().unwrap();
    run("mkfs.ext4", &["-q", device]);
    assert!(
        s.volume.counters().zeroes.load(Ordering::SeqCst) > 0,
        "mkfs discards"
    );
    let at = s.dir.path().join("mnt");
    std::fs::create_dir(&at).unwrap();
    let mut files = Vec::new();
    for round in 0..2u64 {
        run("mount", &["-o", "discard", device, at.to_str().unwrap()]);
        let mounted = Mounted(at.clone());
        for (path, data) in &files {
            assert!(
                std::fs::read(path).unwrap() == *data,
                "{path:?} has changed"
            );
        }
        for n in 0..20u64 {
            let path: PathBuf = at.join(format!("file-{round}-{n}"));
            let data = Numbers(round * 100 + n + 1).bytes(200_000 + 1000 * n as usize);
            std::fs::write(&path, &data).unwrap();
            File::open(&path).unwrap().sync_all().unwrap();
            files.push((path, data));
        }
        std::fs::remove_file(files.swap_remove(3).0).unwrap();
        assert!(s.volume.counters().flushes.load(Ordering::SeqCst) > 0);
        std::thread::sleep(Duration::from_millis(1200));
        assert_eq!(openers(&s).1, 1, "the mount keeps the volume open");
        run("umount", &[at.to_str().unwrap()]);
        drop(mounted);
        run("fsck.ext4", &["-f", "-n", device]);
        // As before a demotion: at once, not some time later.
        s.attached.as_ref().unwrap().release_unused();
        assert_eq!(openers(&s), (0, 0), "nobody has it open");
    }
}

#[test]
fn its_users_open_the_volume() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let Some(s) = serve("users") else { return };
    eventually("udev and its kind have gone", || openers(&s) == (0, 0));
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(&s.device)
            .unwrap()
    };
    // Memory aligned for direct I/O.
    let mut space = vec![0u8; 8192];
    let from = space.as_ptr().align_offset(4096);
    let page = &mut space[from..from + 4096];
    let f = open();
    assert_eq!(
        openers(&s),
        (0, 0),
        "an open alone is not seen by the loop driver"
    );
    f.read_exact_at(page, 0).unwrap();
    eventually("the reader is there", || openers(&s) == (1, 0));
    page.fill(5);
    f.write_all_at(page, 8192).unwrap();
    assert_eq!(content(&s.back, 8192, 4096), [5; 4096]);
    eventually("the writer is there", || openers(&s).1 == 1);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(openers(&s).1, 1, "idle, but open");
    drop(f);
    eventually("they are gone", || openers(&s) == (0, 0));

    // Secondary: reads work, writes do not.
    s.volume.set_policy(Policy {
        refuse_write: Some(OpenError::ReadOnly),
        ..Policy::default()
    });
    let f = open();
    f.read_exact_at(page, 8192).unwrap();
    assert_eq!(page, [5; 4096]);
    assert!(f.write_all_at(page, 0).is_err());
    // Promoted: the same open works.
    s.volume.set_policy(Policy::default());
    f.write_all_at(page, 0).unwrap();
    // Demoted by force, promoted again.
    drop(f);
    eventually("they are gone again", || openers(&s) == (0, 0));

    // What is written without direct I/O is there when the last user has gone.
    let f = OpenOptions::new().write(true).open(&s.device).unwrap();
    f.write_all_at(&[6; 10_000], 1 << 20).unwrap();
    drop(f);
    assert_eq!(content(&s.back, 1 << 20, 10_000), [6; 10_000]);
    eventually("all are gone", || openers(&s) == (0, 0));
}

#[test]
fn it_vanishes_with_its_last_user() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let Some(mut s) = serve("last") else { return };
    let user = File::open(&s.device).unwrap();
    let path = s.device.clone();
    let file = || {
        let name = path.file_name().unwrap().to_str().unwrap();
        std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).unwrap_or_default()
    };
    s.attached.take().unwrap().detach();
    assert_eq!(sys(&s, "loop/autoclear"), "1");
    assert!(!file().is_empty(), "it has a user");
    drop(user);
    eventually("the device is free", || file().is_empty());
}

#[test]
fn it_follows_the_size_and_the_block_size() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let Some(s) = serve("size") else { return };
    s.back.set_len(SIZE * 2).unwrap();
    s.volume.set_limits(Limits {
        sectors: SIZE * 2 / 512,
        ..limits()
    });
    eventually("it grew", || {
        sys(&s, "size") == (SIZE * 2 / 512).to_string()
    });
    s.volume.set_limits(Limits {
        sectors: SIZE / 512,
        logical_block: 4096,
        ..limits()
    });
    eventually("it shrank", || sys(&s, "size") == (SIZE / 512).to_string());
    eventually("larger blocks", || {
        sys(&s, "queue/logical_block_size") == "4096"
    });
    s.volume.set_limits(Limits::default());
    eventually("no disk", || sys(&s, "size") == "0");
    s.volume.set_limits(limits());
    eventually("a disk", || sys(&s, "size") == (SIZE / 512).to_string());
    assert_eq!(sys(&s, "loop/dio"), "1", "still direct I/O");
}

#[test]
fn what_a_killed_daemon_leaves_is_removed() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let Some(mut s) = serve("killed") else { return };
    let file = s.dir.path().join("fuse/killed/0");
    // Nobody detaches, and the thread that served it is gone.
    std::mem::forget(s.attached.take());
    let (other, _back) = volume("other");
    s.volume = other;
    let backing = sys(&s, "loop/backing_file");
    assert_eq!(Path::new(&backing), file);
    assert!(
        File::open(&s.device)
            .unwrap()
            .read_at(&mut [0; 512], 0)
            .is_err()
    );
    remove_stale(s.dir.path()).unwrap();
    eventually("the device is free", || {
        sys(&s, "loop/backing_file").is_empty()
    });
    assert!(!file.exists() && !file.parent().unwrap().exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(file.to_str().unwrap()));
}
