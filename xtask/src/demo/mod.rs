//! `cargo demo`: a mirrored volume that survives the loss of a node.
//!
//! Three nodes on this machine, real processes with real disks and links. As root each has its own
//! network and the application is an ext4 file system on the block device; otherwise the nodes share
//! the loopback network and the application writes blocks over NBD.

mod progress;
mod store;
mod story;
mod timeline;

use std::path::PathBuf;

use drbd_testkit::{Result, Story, binaries, cleanup, story as possible};

/// Options of the demo.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Size of each node's disk in MiB.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(256..=65536))]
    size: u32,
    /// The story without privileges, also as root: loopback network, NBD.
    #[arg(long)]
    nbd: bool,
    /// Where the picture of the timeline goes.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Runs the demo; says what failed.
pub(crate) fn run(arguments: &Arguments) -> std::result::Result<(), String> {
    let result = tell(arguments);
    while result.is_err() && cleanup::ending() {
        // The thread that noticed the signal takes everything away and ends the program.
        std::thread::park();
    }
    result.map_err(|error| format!("the demo failed: {error}"))
}

fn tell(arguments: &Arguments) -> Result<()> {
    let (story, why_not) = if arguments.nbd {
        (Story::Nbd, Some("--nbd".to_owned()))
    } else {
        possible()?
    };
    let missing = store::missing_for_ext4();
    let story = match (story, &missing) {
        (Story::BlockDevice, Some(missing)) => {
            println!("NOTE: {missing} is missing, so there is no file system to show.");
            Story::Nbd
        }
        (story, _) => story,
    };
    match story {
        Story::BlockDevice => {
            println!("Three nodes in network name spaces, ext4 on a real block device, protocol C.")
        }
        Story::Nbd => println!(
            "Three nodes on the loopback network, blocks over NBD, protocol C ({}).\n\
             As root, with ext4's programs, it is a file system on a real block device.",
            why_not.or(missing).unwrap_or_default()
        ),
    }
    binaries::directory()?;
    let svg = arguments.svg.clone();
    let svg = svg.unwrap_or_else(|| binaries::workspace().join("target/demo/timeline.svg"));
    story::tell(story, u64::from(arguments.size) << 20, &svg)
}
