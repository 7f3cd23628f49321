//! A file system in guests.

use drbd_testkit::{Context, Error, Result};

use super::super::Run;
use super::super::lab::{Lab, Options};
use super::super::side::Kind;

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

/// What our device in a guest promises, and what it makes of long writes, zeroes and discards.
fn promises(lab: &mut Lab, id: u8) -> Result<()> {
    let side = lab.side(id)?;
    let device = side.device();
    let number = |script: &str| -> Result<u64> {
        let text = side.sh(script)?;
        text.trim().parse().context(script)
    };
    let queue = |device: &str, name: &str| {
        number(&format!(
            "cat /sys/block/$(basename $(readlink -f {device}))/queue/{name}"
        ))
    };
    let backing = side.backing();
    let discards = queue(&backing, "discard_max_bytes")? > 0;
    if discards != (queue(&device, "discard_max_bytes")? > 0) {
        return Err(Error::new(
            "only one of the device and the disk below it discards",
        ));
    }
    if queue(&device, "write_zeroes_max_bytes")? == 0 {
        return Err(Error::new("the device does not write zeroes"));
    }
    // A long write reaches the disk as it is, and not block by block.
    let writes = format!("set -- $(cat /sys/block/$(basename {backing})/stat); echo $(($5 + $6))");
    let before = number(&writes)?;
    lab.write(id, &[(4 << 20, 1 << 20), (8 << 20, 1 << 20)])?;
    let side = lab.side(id)?;
    let after: u64 = side.sh(&writes)?.trim().parse().context("stat")?;
    if after - before > 64 {
        return Err(Error::new(format!(
            "{} writes of the disk for two of the application",
            after - before
        )));
    }
    let (at, len) = (8 << 20, 1 << 20);
    side.sh(&format!("blkdiscard -z -o {at} -l {len} {device}"))?;
    if discards {
        side.sh(&format!("blkdiscard -o {} -l {len} {device}", 4 << 20))?;
    }
    lab.expect_zeroes(at, len);
    if discards {
        lab.expect_zeroes(4 << 20, len);
    }
    lab.check_device(id)
}

/// ext4 on the device of one side, files, the other side's turn, a disconnect with writes, and back.
pub(super) fn file_system(run: &Run<'_>) -> Result<()> {
    run.tell(Options::default(), |lab| {
        lab.up_in_sync(0)?;
        if lab.side(0)?.kind() == Kind::Guest {
            promises(lab, 0)?;
            lab.settle()?;
        }
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
