//! Addresses as commands spell them: `[local:|peer:][AF:]ADDR[:PORT]` (CLI, section 8).

use std::net::{IpAddr, SocketAddr};

/// Port if none is given.
pub const DEFAULT_PORT: u16 = 7788;

/// Reads an address.
///
/// # Errors
/// A text that says what is wrong.
pub fn parse(text: &str) -> Result<SocketAddr, String> {
    let rest = text
        .strip_prefix("local:")
        .or_else(|| text.strip_prefix("peer:"))
        .unwrap_or(text);
    let (family, rest) = match rest.split_once(':') {
        Some((family @ ("ipv4" | "ipv6" | "sdp" | "ssocks"), rest)) => (family, rest),
        _ => ("ipv4", rest),
    };
    let bad = || format!("'{text}' is not an address");
    let address = if family == "ipv6" {
        match (rest.strip_prefix('['), rest.parse::<IpAddr>()) {
            (Some(inner), _) => {
                let (host, port) = inner.split_once(']').ok_or_else(bad)?;
                let port = port.strip_prefix(':').map_or(Ok(DEFAULT_PORT), str::parse);
                let host = host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
                SocketAddr::new(IpAddr::V6(host), port.map_err(|_| bad())?)
            }
            (None, Ok(host)) => SocketAddr::new(host, DEFAULT_PORT),
            (None, Err(_)) => return Err(bad()),
        }
    } else {
        let (host, port) = rest
            .split_once(':')
            .map_or((rest, None), |(host, port)| (host, Some(port)));
        let port = port
            .map_or(Ok(DEFAULT_PORT), str::parse)
            .map_err(|_| bad())?;
        SocketAddr::new(IpAddr::V4(host.parse().map_err(|_| bad())?), port)
    };
    if (family == "ipv6") != address.is_ipv6() {
        return Err(bad());
    }
    Ok(address)
}

/// `ipv4` or `ipv6`.
pub fn family(address: &SocketAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

/// `AF:ADDR:PORT`, as events and commands have it.
pub fn colons(address: &SocketAddr) -> String {
    format!("{}:{address}", family(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("10.1.1.31", "10.1.1.31:7788"),
            ("ipv4:10.1.1.31:7000", "10.1.1.31:7000"),
            ("local:ipv4:10.1.1.31:7000", "10.1.1.31:7000"),
            ("peer:10.1.1.31:7000", "10.1.1.31:7000"),
            ("ipv6:[fd00::31]:7000", "[fd00::31]:7000"),
            ("ipv6:[fd00::31]", "[fd00::31]:7788"),
            ("ipv6:fd00::31", "[fd00::31]:7788"),
            ("ssocks:10.1.1.31:1", "10.1.1.31:1"),
        ] {
            assert_eq!(
                parse(text).map(|a| a.to_string()),
                Ok(expected.to_owned()),
                "{text}"
            );
        }
        for text in [
            "",
            "host:7000",
            "ipv4:[::1]:1",
            "ipv6:10.0.0.1",
            "ipv6:[::1",
            "10.0.0.1:x",
            "10.0.0.1:70000",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(
            colons(&parse("ipv6:[fd00::31]:7000").unwrap()),
            "ipv6:[fd00::31]:7000"
        );
        assert_eq!(colons(&parse("10.0.0.1:7").unwrap()), "ipv4:10.0.0.1:7");
    }
}
