//! A device in a file, and what is on it.

use drbd_meta::bitmap::BitmapLayout;
use drbd_meta::flags::{LocalFlags, PeerFlags};
use drbd_meta::geometry::{MdIndex, Placement};
use drbd_meta::superblock::{PeerEntry, Superblock};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

pub(crate) struct Disk {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) index: &'static str,
    pub(crate) format: &'static str,
}

impl Disk {
    pub(crate) fn new(size: u64) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        File::create(directory.path().join("disk"))
            .unwrap()
            .set_len(size)
            .unwrap();
        Self {
            directory,
            index: "internal",
            format: "v09",
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    pub(crate) fn file(&self) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path())
            .unwrap()
    }

    pub(crate) fn run(&self, command: &str) -> Output {
        self.command(command).output().unwrap()
    }

    /// The tool, ready to run a command on this device.
    pub(crate) fn command(&self, command: &str) -> Command {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_drbdmeta"));
        tool.args([
            "--force",
            "-",
            self.format,
            "disk",
            self.index,
            "--var-lib-drbd",
            ".",
        ])
        .args(command.split_whitespace())
        .current_dir(self.directory.path())
        .stdin(Stdio::null());
        tool
    }

    pub(crate) fn ok(&self, command: &str) -> String {
        let output = self.run(command);
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn placement(&self) -> Placement {
        Placement {
            index: MdIndex::Internal,
            device_size: self.file().metadata().unwrap().len(),
        }
    }

    pub(crate) fn superblock(&self) -> Superblock {
        let mut block = [0; 4096];
        let offset = self.placement().superblock_offset().unwrap();
        self.file().read_exact_at(&mut block, offset).unwrap();
        Superblock::parse(&block, self.placement()).unwrap()
    }

    pub(crate) fn save(&self, superblock: &Superblock) {
        let offset = self.placement().superblock_offset().unwrap();
        self.file()
            .write_all_at(&superblock.encode(), offset)
            .unwrap();
    }

    pub(crate) fn bitmap_offset(&self) -> u64 {
        self.superblock()
            .geometry(self.placement())
            .unwrap()
            .bitmap_sector()
            * 512
    }

    /// The words of a slot.
    pub(crate) fn words(&self, slot: u8) -> Vec<u32> {
        let superblock = self.superblock();
        let layout = superblock.bitmap_layout().unwrap();
        let mut page = [0; 4096];
        let mut words = Vec::new();
        for number in 0..layout.pages() {
            self.file()
                .read_exact_at(&mut page, self.bitmap_offset() + number * 4096)
                .unwrap();
            words.extend(layout.slot_words(number, slot).unwrap().words(&page));
        }
        words.truncate(usize::try_from(layout.words()).unwrap());
        words
    }

    pub(crate) fn set_bits(
        &self,
        layout: &BitmapLayout,
        slot: u8,
        bits: impl IntoIterator<Item = u64>,
    ) {
        let file = self.file();
        let start = self.bitmap_offset();
        for bit in bits {
            let at = layout.locate(slot, bit).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, start + at.byte).unwrap();
            byte[0] |= 1 << at.bit;
            file.write_all_at(&byte, start + at.byte).unwrap();
        }
    }
}

/// Metadata with a history on a device of `size` bytes, and a bitmap that differs in each slot.
pub(crate) fn used(size: u64, slots: u8) -> Disk {
    let disk = Disk::new(size);
    disk.ok(&format!("create-md {slots}"));
    disk.ok("write-dev-uuid 1122334455667788");
    let mut superblock = disk.superblock();
    let geometry = superblock.geometry(disk.placement()).unwrap();
    superblock.effective_size = geometry.usable_sectors();
    superblock.flags = LocalFlags::from_bits(0x493);
    superblock.node_id = Some(0);
    for slot in 0..slots.min(3) {
        superblock.peers[usize::from(slot) + 1] = PeerEntry {
            bitmap_uuid: 0x1000 + u64::from(slot),
            bitmap_dagtag: 5,
            flags: PeerFlags::CONNECTED | PeerFlags::DEVICE_SEEN,
            bitmap_index: Some(slot),
        };
    }
    superblock.peers[31].bitmap_uuid = 0xdead;
    superblock.peers[31].bitmap_dagtag = 77;
    disk.save(&superblock);
    let layout = superblock.bitmap_layout().unwrap();
    for slot in 0..slots {
        let step = usize::from(slot) * 61 + 97;
        disk.set_bits(&layout, slot, (0..layout.bits()).step_by(step));
    }
    disk
}
