//! Guests in QEMU: the distribution's own kernel, which has what the kernel as a process lacks: ublk.
//!
//! Its root is the host's file tree as well, here over 9p; a small first file system has the modules that
//! are needed to get there.

use std::path::{Path, PathBuf};
use std::process::Command;

use drbd_testkit::{Context, Error, Result};

use super::guest::{Boot, Image};
use super::packages;

/// The emulator.
pub(super) const QEMU: &str = "qemu-system-x86_64";

/// Packages that stand for the kernel, the newest first.
const KERNELS: [&str; 2] = ["linux-image-6.12-amd64", "linux-image-amd64"];

/// Modules in the order in which they are loaded. Not every kernel has all of them as modules.
const MODULES: [&str; 17] = [
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_blk",
    "netfs",
    "9pnet",
    "9pnet_virtio",
    "9p",
    "crc32c_generic",
    "libcrc32c",
    "lru_cache",
    "drbd",
    "ublk_drv",
    "crc16",
    "mbcache",
    "jbd2",
    "ext4",
];

/// The package of the kernel itself.
fn kernel_package() -> Result<String> {
    for meta in KERNELS {
        let depends = Command::new("apt-cache").args(["depends", meta]).output();
        let text = depends.context("apt-cache")?.stdout;
        let text = String::from_utf8_lossy(&text);
        let name = text
            .lines()
            .filter_map(|l| l.trim().strip_prefix("Depends: "))
            .find(|p| p.starts_with("linux-image-"));
        if let Some(name) = name {
            return Ok(name.to_owned());
        }
    }
    Err(Error::new("apt knows no package with a Linux kernel"))
}

/// Appends a file to an archive in the form that the kernel unpacks.
fn append(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let pad = |archive: &mut Vec<u8>| archive.resize(archive.len().next_multiple_of(4), 0);
    let fields = [
        0,
        mode,
        0,
        0,
        1,
        0,
        u32::try_from(content.len()).unwrap_or(u32::MAX),
        0,
        0,
        0,
        0,
        u32::try_from(name.len() + 1).unwrap_or(0),
        0,
    ];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

fn module(root: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    if let Some(path) = packages::find(root, &format!("{name}.ko")) {
        return std::fs::read(&path).context(path.display()).map(Some);
    }
    let Some(path) = packages::find(root, &format!("{name}.ko.xz")) else {
        return Ok(None);
    };
    let output = Command::new("xz").arg("-dc").arg(&path).output();
    let output = output.context("xz")?;
    if !output.status.success() {
        return Err(Error::new(format!("cannot unpack {}", path.display())));
    }
    Ok(Some(output.stdout))
}

/// The first file system: loads modules, mounts the host's file tree, and goes on there.
fn first_file_system(root: &Path, busybox: &Path) -> Result<Vec<u8>> {
    const DIRECTORY: u32 = 0o040_755;
    const PROGRAM: u32 = 0o100_755;
    let mut archive = Vec::new();
    let dirs = [
        "bin",
        "lib",
        "lib64",
        "lib/x86_64-linux-gnu",
        "mods",
        "proc",
        "sys",
        "dev",
        "root",
    ];
    for dir in dirs {
        append(&mut archive, dir, DIRECTORY, &[]);
    }
    let libraries = [
        "lib64/ld-linux-x86-64.so.2",
        "lib/x86_64-linux-gnu/libc.so.6",
        "lib/x86_64-linux-gnu/libresolv.so.2",
    ];
    for library in libraries {
        let path = Path::new("/").join(library);
        let content = std::fs::read(&path).context(path.display())?;
        append(&mut archive, library, PROGRAM, &content);
    }
    let content = std::fs::read(busybox).context(busybox.display())?;
    append(&mut archive, "bin/busybox", PROGRAM, &content);
    let mut load = String::new();
    for name in MODULES {
        if let Some(content) = module(root, name)? {
            append(&mut archive, &format!("mods/{name}.ko"), PROGRAM, &content);
            load.push_str(&format!("$b insmod /mods/{name}.ko\n"));
        }
    }
    let script = format!(
        "#!/bin/busybox sh\n\
         b=/bin/busybox\n\
         $b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev\n\
         {load}\
         $b mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=262144 root /root\n\
         for w in $($b cat /proc/cmdline); do case $w in next=*) next=${{w#next=}};; esac; done\n\
         for d in proc sys dev; do $b mount --move /$d /root/$d; done\n\
         exec $b switch_root /root $next\n"
    );
    append(&mut archive, "init", PROGRAM, script.as_bytes());
    append(&mut archive, "TRAILER!!!", 0, &[]);
    Ok(archive)
}

/// What such guests are made of; packages are fetched through apt once.
pub(super) fn image(target: &Path) -> Result<Image> {
    if Command::new(QEMU).arg("--version").output().is_err() {
        return Err(Error::new(format!(
            "this needs {QEMU}: apt-get install qemu-system-x86"
        )));
    }
    let tools = packages::root(target)?;
    let kernel_dir = target.join("emulated");
    let kernel_root = if kernel_dir.join("packages-done").exists() {
        kernel_dir.join("root")
    } else {
        packages::fetch(&kernel_dir, &[&kernel_package()?])?
    };
    let boot = kernel_root.join("boot");
    let entries = std::fs::read_dir(&boot).context(boot.display())?;
    let kernel = entries
        .flatten()
        .map(|e| e.path())
        .find(|p| {
            p.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz"))
        })
        .context("no kernel in its package")?;
    let busybox = tools.join("bin/busybox");
    let initrd: PathBuf = kernel_dir.join("initrd");
    let content = first_file_system(&kernel_root, &busybox)?;
    std::fs::write(&initrd, content).context(initrd.display())?;
    let path = ["usr/sbin", "sbin", "lib/drbd", "usr/lib/drbd"].map(|d| tools.join(d));
    Ok(Image {
        kernel,
        modules: Vec::new(),
        busybox,
        path: path.into_iter().filter(|p| p.is_dir()).collect(),
        boot: Boot::Emulated { initrd },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_members_are_aligned() {
        let mut archive = Vec::new();
        append(&mut archive, "a", 0o100_644, b"xyz");
        // 110 bytes of header, the name with its end, padding; the content, padding.
        assert_eq!(archive.len(), 112 + 4);
        assert!(archive.starts_with(b"070701000000000000"));
        assert_eq!(&archive[112..115], b"xyz");
    }
}
