//! Small queries (CLI, section 17) and what arguments mean.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use drbd_control::address;

use super::args::Parsed;
use super::{NOT_THERE, print, resources};
use crate::minor_lock::MAJOR;

/// The minor number that an argument means: a number, `/dev/drbdN`, or a device node of DRBD.
pub(super) fn minor(text: &str) -> Option<u32> {
    if let Ok(minor) = text.parse() {
        return Some(minor);
    }
    if let Some(minor) = text
        .strip_prefix("/dev/drbd")
        .and_then(|digits| digits.parse().ok())
    {
        return Some(minor);
    }
    let metadata = std::fs::metadata(text).ok()?;
    let device = metadata.rdev();
    let is_drbd = metadata.file_type().is_block_device() && rustix::fs::major(device) == MAJOR;
    is_drbd.then(|| rustix::fs::minor(device))
}

/// An address with a host name becomes one with a number.
pub(super) fn resolve(text: &str) -> Result<String, String> {
    if address::parse(text).is_ok() {
        return Ok(text.to_owned());
    }
    let rest = text
        .strip_prefix("local:")
        .or_else(|| text.strip_prefix("peer:"))
        .unwrap_or(text);
    let (family, rest) = match rest.split_once(':') {
        Some((family @ ("ipv4" | "ipv6" | "sdp" | "ssocks"), rest)) => (family, rest),
        _ => ("ipv4", rest),
    };
    let (host, port) = rest.rsplit_once(':').unwrap_or((rest, "7788"));
    let port: u16 = port
        .parse()
        .map_err(|_| format!("'{text}' is not an address"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut found = (host, port)
        .to_socket_addrs()
        .map_err(|e| format!("{host}: {e}"))?;
    let wanted = found.find(|a| matches!(a.ip(), IpAddr::V6(_)) == (family == "ipv6"));
    wanted
        .map(|a| format!("{family}:{a}"))
        .ok_or_else(|| format!("'{text}' is not an address"))
}

/// Columns of the output: those of the terminal, or 80.
pub(super) fn width(terminal: bool) -> usize {
    let size = terminal
        .then(|| rustix::termios::tcgetwinsize(std::io::stdout()).ok())
        .flatten();
    size.map(|s| usize::from(s.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(80)
}

/// `role`, `peer-role`, `cstate`, `dstate`, `udev`.
pub(super) fn run(name: &str, parsed: &Parsed) -> Result<u8, String> {
    let argument = |n: usize| parsed.arguments.get(n).map_or("", String::as_str);
    let object = argument(0);
    let absent = |what: &str| {
        eprintln!("{object}: {what}");
        Ok(NOT_THERE)
    };
    match name {
        "role" => match resources(object)?.first() {
            Some(resource) => print(&format!("{}\n", resource.state.role)),
            None => return absent("Unknown resource"),
        },
        "peer-role" | "cstate" => {
            let peer: u32 = argument(1).parse().unwrap_or(u32::MAX);
            let list = resources(object)?;
            let connection = list
                .iter()
                .flat_map(|r| &r.connections)
                .find(|c| u32::from(c.peer) == peer);
            match connection {
                Some(c) if name == "cstate" => print(&format!("{}\n", c.state.connection)),
                Some(c) => print(&format!("{}\n", c.state.role)),
                None => return absent("No such connection"),
            }
        }
        _ => {
            let minor: u32 = object.parse().unwrap_or(u32::MAX);
            let list = resources("all")?;
            let found = list.iter().find_map(|resource| {
                let device = resource.devices.iter().find(|d| d.state.minor == minor)?;
                Some((resource, device))
            });
            let Some((resource, device)) = found else {
                return absent("No such device");
            };
            if name == "dstate" {
                let mut text = device.state.disk.clone();
                let peers = resource.connections.iter().flat_map(|c| &c.peer_devices);
                for peer in peers.filter(|p| p.volume == device.volume) {
                    text.push('/');
                    text.push_str(&peer.state.peer_disk);
                }
                print(&format!("{text}\n"));
            } else {
                let (name, volume) = (&resource.name, device.volume);
                let mut text =
                    format!("DEVICE=drbd{minor}\nSYMLINK_BY_RES=drbd/by-res/{name}/{volume}\n");
                if let Some(disk) = &device.state.backing_dev {
                    let disk = disk.strip_prefix("/dev/").unwrap_or(disk);
                    text.push_str(&format!("SYMLINK_BY_DISK=drbd/by-disk/{disk}\n"));
                }
                print(&text);
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minors_and_addresses() {
        assert_eq!(minor("7"), Some(7));
        assert_eq!(minor("/dev/drbd12"), Some(12));
        assert_eq!(minor("minor-7"), None);
        assert_eq!(minor("drbd7"), None);
        assert_eq!(minor("/dev/null"), None);
        assert_eq!(resolve("ipv4:10.0.0.1:7000").unwrap(), "ipv4:10.0.0.1:7000");
        assert_eq!(resolve("localhost:7000").unwrap(), "ipv4:127.0.0.1:7000");
        assert!(resolve("10.0.0.1:x").is_err());
    }
}
