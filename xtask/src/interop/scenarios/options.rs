//! Protocols A and B, checksums, verify, discards, authentication, two Primaries.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use drbd_testkit::{Context, Error, Result};

use super::super::Run;
use super::super::lab::{Lab, Options, SOON};

/// Writes, a disconnect with more writes, roles swapped.
fn exercise(lab: &mut Lab) -> Result<()> {
    lab.up_in_sync(0)?;
    let small = lab.places(40, 1);
    lab.write(0, &small)?;
    let large = lab.places(4, 64);
    lab.write(0, &large)?;
    lab.settle()?;
    lab.side(1)?.adm("disconnect")?;
    let missed = lab.places(20, 2);
    lab.write(0, &missed)?;
    lab.side(1)?.adm("connect")?;
    lab.settle()?;
    lab.side(0)?.demote()?;
    lab.side(1)?.adm("primary")?;
    let small = lab.places(20, 1);
    lab.write(1, &small)?;
    lab.settle()
}

/// Protocol A.
pub(super) fn protocol_a(run: &Run<'_>) -> Result<()> {
    run.tell(Options::default().net("protocol A"), exercise)
}

/// Protocol B.
pub(super) fn protocol_b(run: &Run<'_>) -> Result<()> {
    run.tell(Options::default().net("protocol B"), exercise)
}

/// Checksums everywhere: resync, verify, integrity of each packet, authentication.
pub(super) fn checksums(run: &Run<'_>) -> Result<()> {
    let options = Options::default()
        .net("csums-alg sha1")
        .net("data-integrity-alg crc32c")
        .net("verify-alg sha256")
        .net("cram-hmac-alg sha256")
        .net("shared-secret \"one two\"");
    run.tell(options, |lab| {
        exercise(lab)?;
        // Nothing has to be moved when everything is only compared.
        lab.side(0)?.adm("invalidate")?;
        lab.settle()?;
        let moved = lab
            .side(0)?
            .status()?
            .peer(1, 0)
            .context("no peer")?
            .received;
        if moved > 4 << 20 {
            return Err(Error::new(format!(
                "{} KiB were moved of equal data",
                moved >> 10
            )));
        }
        Ok(())
    })
}

/// Verify finds exactly what was planted on the disk below one node.
pub(super) fn verify(run: &Run<'_>) -> Result<()> {
    run.tell(Options::default().net("verify-alg crc32c"), |lab| {
        lab.up_in_sync(0)?;
        for by in [0, 1] {
            lab.side(by)?.adm("verify")?;
            verified(lab, by, 0)?;
        }
        for by in [0, 1] {
            lab.side(1)?.adm("down")?;
            let disk = lab.side(1)?.disk().to_owned();
            let file = File::options()
                .write(true)
                .open(&disk)
                .context(disk.display())?;
            for block in [5_u64, 6, 300, 4000] {
                file.write_all_at(&[0x5a; 4096], block * 4096)
                    .context(disk.display())?;
            }
            lab.side(1)?.adm("up")?;
            lab.wait_in_sync()?;
            lab.side(by)?.adm("verify")?;
            verified(lab, by, 4 * 4096)?;
            // The mismatches are resynced with the next connection, from the Primary.
            lab.side(1)?.adm("disconnect")?;
            let one = lab.places(1, 1);
            lab.write(0, &one)?;
            lab.side(1)?.adm("connect")?;
            lab.settle()?;
        }
        Ok(())
    })
}

/// Waits for the end of a verify that must have found so many bytes.
fn verified(lab: &Lab, by: u8, bytes: u64) -> Result<()> {
    std::thread::sleep(Duration::from_millis(300));
    for id in [by, 1 - by] {
        lab.side(id)?
            .wait(&format!("verify found {bytes} bytes"), SOON, |s| {
                s.peer(1 - id, 0)
                    .is_some_and(|p| p.replication == "Established" && p.out_of_sync == bytes)
            })?;
    }
    Ok(())
}

/// Discards and zeroes of the Primary reach the peer.
pub(super) fn discard(run: &Run<'_>) -> Result<()> {
    run.tell(Options::default(), |lab| {
        lab.up_in_sync(0)?;
        for by in [0, 1] {
            if by == 1 {
                lab.side(0)?.demote()?;
                lab.side(1)?.adm("primary")?;
            }
            let device = lab.side(by)?.device();
            lab.write(by, &[(4 << 20, 1 << 20), (8 << 20, 1 << 20)])?;
            lab.side(by)?.sh(&format!(
                "blkdiscard -z -o {} -l {} {device}",
                8 << 20,
                1 << 20
            ))?;
            lab.expect_zeroes(8 << 20, 1 << 20);
            let output = lab.side(by)?.script(
                &format!("blkdiscard -o {} -l {} {device}", 4 << 20, 1 << 20),
                SOON,
            )?;
            if output.code == Some(0) {
                lab.expect_zeroes(4 << 20, 1 << 20);
            } else {
                eprintln!(
                    "{} has no discard: {}",
                    lab.side(by)?.name,
                    output.stderr.trim()
                );
            }
            lab.settle()?;
            lab.check_device(by)?;
        }
        Ok(())
    })
}

/// What a node has got of its peer, in bytes.
fn received(lab: &Lab, id: u8) -> Result<u64> {
    let status = lab.side(id)?.status()?;
    Ok(status.peer(1 - id, 0).context("no peer")?.received)
}

/// Thin resyncs: what is zero at the source is not sent, and the target discards it. Each side is the target once.
pub(super) fn thin(run: &Run<'_>) -> Result<()> {
    let options = Options::default().disk("rs-discard-granularity 65536");
    run.tell(options, |lab| {
        lab.up_in_sync(0)?;
        let device = lab.side(0)?.device();
        lab.side(0)?
            .sh(&format!("blkdiscard -z -o 0 -l {} {device}", 16 << 20))?;
        lab.expect_zeroes(0, 16 << 20);
        lab.write(0, &[(3 << 20, 1 << 16), (5 << 20, 4096), (7 << 20, 512)])?;
        lab.settle()?;
        for target in [1, 0] {
            if target == 0 {
                lab.side(0)?.demote()?;
                lab.side(1)?.adm("primary")?;
            }
            let before = received(lab, target)?;
            lab.side(target)?.adm("invalidate")?;
            lab.settle()?;
            lab.check_disks(&[0, 1])?;
            let moved = received(lab, target)? - before;
            if moved > 8 << 20 {
                let name = &lab.side(target)?.name;
                let text = format!(
                    "{} KiB were sent to {name} of a device of zeroes",
                    moved >> 10
                );
                return Err(Error::new(text));
            }
        }
        Ok(())
    })
}

/// A wrong secret, and none, are refused; the right one is not.
pub(super) fn secrets(run: &Run<'_>) -> Result<()> {
    let options = Options::default()
        .net("cram-hmac-alg sha1")
        .net("shared-secret right");
    run.tell(options, |lab| {
        lab.up_in_sync(0)?;
        for (alg, secret) in [("sha1", "wrong"), ("sha256", "right")] {
            lab.side(1)?.adm("disconnect")?;
            lab.side(0)?.drbdadm("disconnect r0")?;
            let path = lab.side(1)?.dir().join("drbd.conf");
            let text = std::fs::read_to_string(&path).context(path.display())?;
            let changed = text
                .replace("shared-secret right", &format!("shared-secret {secret}"))
                .replace("cram-hmac-alg sha1", &format!("cram-hmac-alg {alg}"));
            std::fs::write(&path, changed).context(path.display())?;
            lab.side(0)?.adm("connect")?;
            lab.side(1)?.adm("adjust")?;
            std::thread::sleep(Duration::from_secs(6));
            for (id, peer) in [(0, 1), (1, 0)] {
                if lab.side(id)?.status()?.connection(peer) == "Connected" {
                    return Err(Error::new(format!("connected with {alg} and {secret}")));
                }
            }
            std::fs::write(&path, text).context(path.display())?;
            lab.side(1)?.drbdadm("disconnect r0")?;
            lab.side(1)?.adm("adjust")?;
        }
        for id in [0, 1] {
            lab.side(id)?.drbdadm("disconnect r0")?;
        }
        for id in [0, 1] {
            lab.side(id)?.adm("connect")?;
        }
        lab.settle()
    })
}

/// Both sides Primary, writing at the same time to different places, and to the same ones.
pub(super) fn dual_primary(run: &Run<'_>) -> Result<()> {
    run.tell(Options::default().net("allow-two-primaries yes"), |lab| {
        lab.up_in_sync(0)?;
        lab.side(1)?.adm("primary")?;
        for round in 0..3 {
            let all = lab.places(80, 1);
            let (a, b) = all.split_at(40);
            let first = lab.start_writing(0, a)?;
            let second = lab.start_writing(1, b)?;
            lab.finish(&first)?;
            lab.finish(&second)?;
            lab.settle().context(format!("round {round}"))?;
        }
        // The same places: whoever wins, both have it. A DRBD 9.3 ends the connection when two such writes meet, so
        // there they come one after the other.
        let places = lab.places(30, 1);
        let first = lab.start_writing(0, &places)?;
        if !run.legacy() {
            lab.finish(&first)?;
        }
        let second = lab.start_writing(1, &places)?;
        if run.legacy() {
            lab.finish(&first)?;
        }
        lab.finish(&second)?;
        lab.wait_in_sync()?;
        lab.learn(0)?;
        lab.check_disks(&[0, 1])
    })
}
