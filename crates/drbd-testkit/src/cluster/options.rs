//! What a cluster is like.

use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;

use crate::{Context, Error, Result, place};

/// How nodes live, and how applications reach their volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// Each node in name spaces of its own, volumes as real block devices. Needs root.
    BlockDevice,
    /// Nodes share the loopback network, volumes over NBD.
    Nbd,
}

/// The story that is possible here, and if it is not the one with block devices, why. The variable
/// `DRBD_TEST_STORY` decides otherwise: `block` or `nbd`.
///
/// # Errors
/// When the variable has another value.
pub fn story() -> Result<(Story, Option<String>)> {
    static PERMITTED: OnceLock<Result<()>> = OnceLock::new();
    match std::env::var("DRBD_TEST_STORY").as_deref() {
        Ok("block") => return Ok((Story::BlockDevice, None)),
        Ok("nbd") => return Ok((Story::Nbd, Some("DRBD_TEST_STORY=nbd".to_owned()))),
        Ok(other) => {
            return Err(Error::new(format!(
                "DRBD_TEST_STORY={other}: use block or nbd"
            )));
        }
        Err(_) => {}
    }
    let possible = PERMITTED.get_or_init(|| {
        place::permitted()?;
        if Path::new("/dev/ublk-control").exists() {
            return Ok(());
        }
        for device in ["/dev/fuse", "/dev/loop-control"] {
            let opened = File::options().read(true).write(true).open(device);
            opened.context(format!("there is no ublk, and for a loop device {device}"))?;
        }
        Ok(())
    });
    Ok(match possible {
        Ok(()) => (Story::BlockDevice, None),
        Err(error) => (Story::Nbd, Some(error.to_string())),
    })
}

/// What a cluster is like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of nodes, at most 9.
    pub nodes: u8,
    /// Size of each backing file in bytes.
    pub size: u64,
    /// Number of volumes.
    pub volumes: u16,
    /// How nodes live.
    pub story: Story,
    /// Lines of the `net` section.
    pub net: Vec<String>,
    /// Lines of the `disk` section.
    pub disk: Vec<String>,
    /// Lines of the `options` section.
    pub options: Vec<String>,
    /// Lines of the `handlers` section. If there are any the daemons call `drbdadm` for handlers.
    pub handlers: Vec<String>,
}

impl Options {
    /// Two nodes with one volume of 32 MiB, that notice failures within seconds.
    ///
    /// # Errors
    /// Those of [`story`].
    pub fn small() -> Result<Options> {
        let net = [
            "protocol C",
            "ping-int 2",
            "connect-int 2",
            "timeout 18",
            "ping-timeout 15",
            "max-buffers 8000",
        ];
        Ok(Options {
            nodes: 2,
            size: 32 << 20,
            volumes: 1,
            story: story()?.0,
            net: net.map(str::to_owned).to_vec(),
            disk: vec![
                "c-max-rate 4000M".to_owned(),
                // Nobody waits for a resync that makes way for applications.
                "c-min-rate 0".to_owned(),
                "c-fill-target 10M".to_owned(),
            ],
            options: vec!["auto-promote no".to_owned()],
            handlers: Vec::new(),
        })
    }
}
