//! What the configuration is read for: the local host ("Configuration language", section 7).

use std::net::{IpAddr, UdpSocket};

use crate::model::{Address, Family};

/// The local host as far as the configuration is concerned.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Node name.
    pub node_name: String,
    /// Addresses of this host; `None` asks the system.
    pub addresses: Option<Vec<IpAddr>>,
    /// Version of the running node: major, minor, patch.
    pub driver_version: Option<[u32; 3]>,
    /// Standard input and output are terminals: somebody is there to be told.
    pub terminal: bool,
}

impl Environment {
    /// An environment for tests and tools that look from outside.
    pub fn named(node_name: &str) -> Environment {
        Environment {
            node_name: node_name.to_owned(),
            addresses: None,
            driver_version: None,
            terminal: false,
        }
    }

    /// True if a name from the configuration means this host.
    pub fn is_my_name(&self, name: &str) -> bool {
        same_host(&self.node_name, name)
    }

    /// True if an address is configured on this host. Families without an IP address count as
    /// configured.
    pub fn is_my_address(&self, address: &Address) -> bool {
        if address.family == Family::Sdp {
            return true;
        }
        let Some(ip) = address.ip() else {
            // Leading zeroes and the like: not for us to judge.
            return true;
        };
        match &self.addresses {
            Some(list) => list.contains(&ip),
            None => is_local(ip, &address.host),
        }
    }
}

/// Only a local address can be bound.
fn is_local(ip: IpAddr, text: &str) -> bool {
    let socket = match ip {
        IpAddr::V4(ip) => UdpSocket::bind((ip, 0)),
        IpAddr::V6(ip) => {
            let scope = text.split_once('%').map_or(0, |(_, name)| {
                std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))
                    .ok()
                    .and_then(|s| s.trim().parse().ok())
                    .or_else(|| name.parse().ok())
                    .unwrap_or(0)
            });
            UdpSocket::bind(std::net::SocketAddrV6::new(ip, 0, 0, scope))
        }
    };
    match socket {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::AddrNotAvailable,
    }
}

/// Compares host names: in full if both have a domain, else only the parts before the first dot;
/// without regard to case.
pub fn same_host(a: &str, b: &str) -> bool {
    let short = |name: &str| name.split_once('.').map(|(host, _)| host.len());
    match (short(a), short(b)) {
        (Some(_), Some(_)) => a.eq_ignore_ascii_case(b),
        (a_len, b_len) => {
            let a = a.get(..a_len.unwrap_or(a.len())).unwrap_or(a);
            let b = b.get(..b_len.unwrap_or(b.len())).unwrap_or(b);
            a.eq_ignore_ascii_case(b)
        }
    }
}
