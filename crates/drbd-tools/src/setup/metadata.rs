//! What the metadata of an attached device says: `get-gi`, `show-gi`, `check-resize` (CLI, section 17).

use drbd_control::protocol::{BackingConfig, Config};

use super::args::Parsed;
use super::{NO_DISK, NOT_THERE, configs};
use crate::meta::attached::{self, NotRead};

fn failed(error: &NotRead) -> u8 {
    eprintln!("{error}");
    NO_DISK
}

/// The metadata that tells about a peer, or text and exit code of the refusal.
fn backing(
    config: Option<&Config>,
    object: &str,
    peer: &str,
    volume: &str,
) -> Result<(BackingConfig, u8), (String, u8)> {
    let absent = || (format!("{object}: No such peer device"), NOT_THERE);
    let config = config.ok_or_else(absent)?;
    let connection = config
        .connections
        .iter()
        .find(|c| peer.parse() == Ok(c.peer))
        .ok_or_else(absent)?;
    let volume = config
        .volumes
        .iter()
        .find(|v| volume.parse() == Ok(v.volume))
        .ok_or_else(absent)?;
    match &volume.backing {
        Some(backing) => Ok((backing.clone(), connection.peer)),
        None => Err(("Device has no disk".to_owned(), NO_DISK)),
    }
}

/// `get-gi`, `show-gi`.
pub(super) fn gi(name: &str, parsed: &Parsed) -> Result<u8, String> {
    let argument = |n: usize| parsed.arguments.get(n).map_or("", String::as_str);
    let list = configs(argument(0))?;
    let found = backing(list.first(), argument(0), argument(1), argument(2));
    let (backing, peer) = match found {
        Ok(found) => found,
        Err((text, code)) => {
            eprintln!("{text}");
            return Ok(code);
        }
    };
    let shown = attached::gi(&backing.meta_disk, &backing.index, peer, name == "show-gi");
    Ok(shown.map_or_else(|e| failed(&e), |()| 0))
}

/// `check-resize`.
pub(super) fn check_resize(parsed: &Parsed) -> Result<u8, String> {
    let object = parsed.arguments.first().map_or("", String::as_str);
    let minor: u32 = object.parse().unwrap_or(u32::MAX);
    let list = configs("all")?;
    let mut volumes = list.iter().flat_map(|c| &c.volumes);
    let Some(volume) = volumes.find(|v| v.minor == minor) else {
        eprintln!("{object}: No such device");
        return Ok(NOT_THERE);
    };
    let Some(backing) = &volume.backing else {
        eprintln!("Device has no disk");
        return Ok(NO_DISK);
    };
    let done = attached::remember(minor, &backing.disk, &backing.index);
    Ok(done.map_or_else(|e| failed(&e), |()| 0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use drbd_control::protocol::{ConnectionConfig, VolumeConfig};

    use super::*;

    #[test]
    fn refusals_as_recorded() {
        let volume = |nr, disk: Option<&str>| VolumeConfig {
            volume: nr,
            minor: nr.into(),
            diskless: false,
            backing: disk.map(|disk| BackingConfig {
                disk: disk.into(),
                meta_disk: disk.into(),
                index: "internal".into(),
            }),
            disk: BTreeMap::new(),
            device: BTreeMap::new(),
            places: Vec::new(),
        };
        let config = Config {
            resource: "r0".into(),
            options: BTreeMap::new(),
            node_id: 0,
            volumes: vec![volume(0, Some("/dev/vg/r0")), volume(1, None)],
            connections: vec![ConnectionConfig {
                peer: 1,
                paths: Vec::new(),
                cstate: "Connected".into(),
                net: BTreeMap::new(),
                volumes: Vec::new(),
            }],
        };
        let ask = |peer: &str, volume: &str| backing(Some(&config), "r0", peer, volume);
        assert_eq!(ask("1", "0").unwrap().0.meta_disk, "/dev/vg/r0");
        let absent = ("r0: No such peer device".to_owned(), 10);
        assert_eq!(ask("1", "7").unwrap_err(), absent);
        assert_eq!(ask("9", "0").unwrap_err(), absent);
        assert_eq!(backing(None, "r0", "1", "0").unwrap_err(), absent);
        assert_eq!(
            ask("1", "1").unwrap_err(),
            ("Device has no disk".to_owned(), 1)
        );
    }
}
