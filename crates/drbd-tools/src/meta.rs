//! `drbdmeta`: creates, shows, repairs and removes metadata while no node uses it (metadata,
//! sections 8 to 11).
//!
//! | Module | Its question |
//! |---|---|
//! | `args` | What was asked for? |
//! | `lock` | Is the minor in use? |
//! | `device` | How is the device read and written? |
//! | `mounts` | Is it mounted? |
//! | `store` | Which metadata is on it? |
//! | `lkbd` | Where was it before the device was resized? |
//! | `record` | What does a superblock of any version say? |
//! | `create`, `initial`, `existing` | What will `create-md` write, and over what? |
//! | `state` | Is the data good? |
//! | `apply` | What does the activity log say? |
//! | `resize` | Where does metadata go when the device has grown? |
//! | `slots` | What becomes of a peer's bitmap slot? |
//! | `dump`, `dump_superblock`, `gi` | How does metadata look as text? |
//! | `dump_text`, `restore` | Which metadata does a dump describe? |
//! | `attached` | What does the metadata say that a node is using? |
//! | `v06` | What did DRBD 0.6 know? |

mod apply;
mod args;
pub(crate) mod attached;
mod console;
mod create;
mod device;
mod dump;
mod dump_superblock;
mod dump_text;
mod existing;
mod failure;
mod gi;
mod initial;
mod lkbd;
mod lock;
mod mounts;
mod record;
mod resize;
mod restore;
mod slots;
mod state;
mod store;
mod v06;

use args::Args;
pub(crate) use args::{described_commands, described_options};
use console::{Console, Outputs};
use device::Page;
use failure::{BAD, FAILED, Failure, OK, USAGE};
use record::{Record, Version};
use std::io::{self, Write};
use std::process::ExitCode;
use store::Store;

/// Runs `drbdmeta` with the arguments after the program's name.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    ExitCode::from(run_with(arguments, io::stdout, io::stderr))
}

/// Runs `drbdmeta` with the arguments after the program's name. Results go to what `out` makes, messages
/// to what `err` makes. Returns the exit code (metadata, section 11.3).
pub fn run_with<O: Write + 'static, E: Write + 'static>(
    arguments: impl IntoIterator<Item = String>,
    out: impl Fn() -> O,
    err: impl Fn() -> E,
) -> u8 {
    let arguments: Vec<String> = arguments.into_iter().collect();
    let outputs = Outputs {
        out: Box::new(out()),
        err: Box::new(err()),
    };
    execute(&arguments, outputs).unwrap_or_else(|failure| {
        // Whoever reads no more does not want it.
        let text = failure.to_string();
        if !text.is_empty() {
            let _ = writeln!(err(), "{text}");
        }
        if matches!(failure, Failure::Usage(_)) {
            let _ = out().write_all(args::usage().as_bytes());
        }
        failure.code()
    })
}

fn execute(arguments: &[String], outputs: Outputs) -> Result<u8, Failure> {
    let args = args::parse(arguments)?;
    let mut console = Console::new(outputs, args.force, args.quiet, args.verbose);
    if args.format != Version::V09 && args.node_id.is_some_and(|id| id != 0) {
        console.err("Not v09, implicitly set --node-id = 0");
    }
    let takes = usize::from(args.command.argument && !needs_no_argument(&args));
    if args.rest.len() > takes {
        console.err("Ignoring additional arguments");
    }
    if let Some(of) = args.v06 {
        lock::minor(&args.device)?;
        return v06::run(&args, of, &console);
    }
    if args.command.name == "create-md" {
        args::max_peers(&args)?;
    }
    if args.command.name == "verify-dump" {
        restore::verify(&args, &restore::read_dump(&args)?)?;
        console.out("input file parsed ok");
        return Ok(OK);
    }
    let dump = match args.command.name {
        "restore-md" => {
            let dump = restore::read_dump(&args)?;
            restore::verify(&args, &dump)?;
            Some(dump)
        }
        _ => None,
    };
    if takes == 1 && args.rest.is_empty() && dump.is_none() {
        return Err(Failure::new(BAD, "Required Argument missing"));
    }
    let minor = lock::minor(&args.device)?;
    let locks = minor.map(crate::minor_lock::take).transpose();
    let _locks = locks.map_err(|error| Failure::new(USAGE, error.to_string()))?;
    let attached = minor.is_some_and(lock::is_attached);
    if attached && args.command.modifies {
        return Err(Failure::new(
            USAGE,
            format!("Device '{}' is configured!", args.device),
        ));
    }
    let store = Store::open(&args, minor, &mut console)?;
    let result = match dump {
        Some(dump) => restore::restore(&args, &dump, store, &mut console),
        None => dispatch(&args, store, &mut console),
    };
    if let (true, Some(minor)) = (attached, minor) {
        console.err(&format!(
            "# Output might be stale, since minor {minor} is attached"
        ));
    }
    result
}

/// v07 and v08 metadata have one peer; `create-md` needs no number of them.
fn needs_no_argument(args: &Args) -> bool {
    args.command.name == "create-md" && args.format != Version::V09
}

fn dispatch(args: &Args, mut store: Store, console: &mut Console) -> Result<u8, Failure> {
    match args.command.name {
        "get-gi" => gi::get(args, store, console),
        "show-gi" => gi::show(args, store, console),
        "set-gi" => gi::set(args, store, console),
        "dump-md" => dump::dump(args, store, console),
        "apply-al" => apply::apply(args, store, console),
        "create-md" => create::create(args, store, console),
        "check-resize" => resize::check(args, store, console),
        "forget-peer" => slots::forget_peer(args, store, console),
        "repair-md" => slots::repair(args, store, console),
        "wipe-md" => wipe(store, console),
        "outdate" => state::outdate(store, console),
        "invalidate" => state::invalidate(store, console),
        "dstate" => state::show(store, console),
        "read-dev-uuid" => {
            let (record, _) = store.take()?;
            console.out(&format!("{:016X}", record.device_uuid()));
            Ok(OK)
        }
        "write-dev-uuid" => {
            let (mut record, geometry) = store.take()?;
            let text = args.rest.first().map(String::as_str).unwrap_or_default();
            if let Record::Uuids(superblock) = &mut record {
                superblock.device_uuid = leading_hex(text)?;
            }
            store.save(&record, &geometry, console)?;
            Ok(OK)
        }
        "dump-superblock" | "hexdump-superblock" => dump_superblock::dump(args, store, console),
        other => Err(Failure::new(USAGE, format!("Unknown command '{other}'."))),
    }
}

fn wipe(mut store: Store, console: &mut Console) -> Result<u8, Failure> {
    if store.found.is_none() {
        console.err("There appears to be no drbd meta data to wipe out?");
        return Ok(OK);
    }
    if !console.confirmed("Do you really want to wipe out the DRBD meta data?") {
        console.out("Operation cancelled.");
        return Err(Failure::Silent(FAILED));
    }
    console.out("Wiping meta data...");
    let offset = store.md_offset;
    store.device.write("superblock", offset, &[Page::ZERO])?;
    store.device.sync()?;
    console.out("DRBD meta data block successfully wiped out.");
    store.forget(console);
    Ok(OK)
}

/// The hexadecimal number that a text begins with; what follows does not count.
fn leading_hex(text: &str) -> Result<u64, Failure> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let end = digits
        .find(|c: char| !c.is_ascii_hexdigit())
        .unwrap_or(digits.len());
    let digits = digits.get(..end).unwrap_or_default();
    if digits.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(digits, 16)
        .map_err(|_| Failure::new(BAD, format!("'{text}' has more than 16 hexadecimal digits")))
}

#[cfg(test)]
mod crash_tests;
