//! v06, the generation counters that DRBD 0.6 kept in a file (metadata, section 3.1). They can be looked
//! at; no node has used them for twenty years, so nothing writes them.

use super::args::Args;
use super::console::Console;
use super::failure::{BAD, FAILED, Failure, INCONSISTENT, OK};
use super::gi::gc;
use drbd_meta::superblock::V07Superblock;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use zerocopy::byteorder::big_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const MAGIC: u32 = 0x8374_0269;

/// The whole file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Counters {
    flags: U32,
    human: U32,
    timeout: U32,
    connected: U32,
    arbitrary: U32,
    magic: U32,
}

pub(super) fn run(args: &Args, minor: u8, console: &Console) -> Result<u8, Failure> {
    if args.command.name == "apply-al" {
        let text = "apply-al only implemented for DRBD >= 0.7";
        return Err(Failure::new(FAILED, text));
    }
    let path = args.var_lib.join(format!("drbd{minor}"));
    let found = read(&path, console)?;
    match (args.command.name, found) {
        ("check-resize", _) => Err(Failure::new(
            FAILED,
            "Operation only supported for >= v8 internal meta data",
        )),
        ("wipe-md", None) => {
            console.err("There appears to be no drbd meta data to wipe out?");
            Ok(OK)
        }
        ("dump-md" | "dstate", None) => Err(super::args::no_valid_metadata()),
        ("get-gi" | "show-gi" | "outdate" | "invalidate" | "set-gi" | "read-dev-uuid", None) => {
            Err(Failure::Silent(FAILED))
        }
        ("get-gi", Some(counters)) => {
            console.out(&gc::line(&counters));
            Ok(OK)
        }
        ("show-gi", Some(counters)) => {
            gc::show(&counters, console);
            console.out("zero size device -- never seen peer yet?");
            Ok(OK)
        }
        ("dstate", Some(_)) => {
            console.out("Inconsistent");
            Ok(OK)
        }
        ("outdate", Some(_)) => {
            console.err("Can not outdate GC based meta data!");
            Err(Failure::new(INCONSISTENT, "Device is inconsistent."))
        }
        ("read-dev-uuid", Some(_)) => {
            console.out(&format!("{:016X}", 0));
            Ok(OK)
        }
        (name, _) => {
            let text = format!(
                "v06 meta data can only be looked at; {name} is for v07, v08 and v09. \
                 Use create-md with v09 for new meta data."
            );
            Err(Failure::new(BAD, text))
        }
    }
}

fn read(path: &Path, console: &Console) -> Result<Option<V07Superblock>, Failure> {
    let mut counters = Counters::new_zeroed();
    let result = File::open(path).and_then(|mut file| file.read_exact(counters.as_mut_bytes()));
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let text = format!("{} is too short for v06", path.display());
            return Err(Failure::new(BAD, text));
        }
        Err(error) => {
            console.err(&super::device::not_opened(path.display(), &error));
            return Ok(None);
        }
    }
    if counters.magic.get() != MAGIC {
        console.err("v06 Magic number not found");
        return Ok(None);
    }
    Ok(Some(V07Superblock {
        effective_size: 0,
        flags: counters.flags.get(),
        human: counters.human.get(),
        timeout: counters.timeout.get(),
        connected: counters.connected.get(),
        arbitrary: counters.arbitrary.get(),
        md_size_sect: 0,
        al_offset: 0,
        al_nr_extents: 0,
        bm_offset: 0,
    }))
}
