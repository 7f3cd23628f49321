//! A file system in guests.

use drbd_testkit::{Error, Result};

use super::super::Run;
use super::super::lab::{Lab, Options};

/// Where it is mounted.
const AT: &str = "/run/fs";

/// Mounts the file system on a Primary.
fn mount(lab: &Lab, id: u8) -> Result<()> {
    let device = lab.side(id)?.device();
    let script = format!("mkdir -p {AT}; mount -t ext4 {device} {AT}");
    lab.side(id)?.sh(&script).map(drop)
}

/// Unmounts it and demotes.
fn give_up(lab: &Lab, id: u8) -> Result<()> {
    lab.side(id)?.sh(&format!("sync; umount {AT}"))?;
    lab.side(id)?.demote()
}

/// Writes files, and tells their checksums.
fn write_files(lab: &Lab, id: u8, name: &str) -> Result<String> {
    let script = format!(
        "cd {AT}; mkdir {name}; for i in 1 2 3 4 5 6 7 8; do head -c $((i * 70000)) /dev/urandom >{name}/$i; done\n\
         sync; md5sum {name}/*"
    );
    lab.side(id)?.sh(&script)
}

fn check_files(lab: &Lab, id: u8, name: &str, sums: &str) -> Result<()> {
    let found = lab.side(id)?.sh(&format!("cd {AT}; md5sum {name}/*"))?;
    if found == sums && found.lines().count() == 8 {
        return Ok(());
    }
    Err(Error::new(format!(
        "{}: the files of {name} are not what was written:\n{found}\n{sums}",
        lab.side(id)?.name
    )))
}

/// ext4 on the device of one side, files, the other side's turn, a disconnect with writes, and back.
pub(super) fn file_system(run: &Run<'_>) -> Result<()> {
    run.tell(Options::default(), |lab| {
        lab.up_in_sync(0)?;
        let device = lab.side(0)?.device();
        lab.side(0)?.sh(&format!("mkfs.ext4 -q -F {device}"))?;
        mount(lab, 0)?;
        let first = write_files(lab, 0, "first")?;
        give_up(lab, 0)?;
        lab.wait_in_sync()?;
        lab.side(1)?.adm("primary")?;
        mount(lab, 1)?;
        check_files(lab, 1, "first", &first)?;
        lab.side(0)?.adm("disconnect")?;
        let second = write_files(lab, 1, "second")?;
        lab.side(0)?.adm("connect")?;
        lab.wait_in_sync()?;
        give_up(lab, 1)?;
        lab.side(0)?.adm("primary")?;
        mount(lab, 0)?;
        check_files(lab, 0, "first", &first)?;
        check_files(lab, 0, "second", &second)?;
        give_up(lab, 0)?;
        lab.wait_in_sync()?;
        lab.learn(0)?;
        lab.check_disks(&[0, 1])
    })
}
