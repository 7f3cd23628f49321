//! Node ids of configurations that have none ("Configuration language", section 9.4).

use crate::diagnostic::Diagnostic;
use crate::model::{Endpoint, Origin, Resource};
use crate::parser::conflict;

/// The hash that orders the two hosts: CRC-32C over the text of the address, with a start value
/// of its own and no final inversion, as a signed number.
pub fn address_hash(text: &str) -> i32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc: u32 = 0x1a65_6f21;
    for byte in text.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ POLYNOMIAL
            } else {
                crc >> 1
            };
        }
    }
    crc as i32
}

/// Gives ids to pairs of hosts that have none, then requires one of every host.
pub(super) fn assign(resource: &mut Resource, found: &mut Vec<Diagnostic>) {
    let Resource {
        connections,
        hosts,
        name,
        span,
        ..
    } = resource;
    for connection in connections.iter().filter(|c| c.origin != Origin::Explicit) {
        let Some([a, b]) = connection.hosts else {
            continue;
        };
        let none = |i: usize| hosts.get(i).is_some_and(|h| h.node_id.is_none());
        if !(none(a) && none(b)) {
            continue;
        }
        let Some([first, second]) = connection.paths.first().map(|p| &p.endpoints[..]) else {
            continue;
        };
        let hash = |e: &Endpoint| e.resolved.as_ref().map_or(0, |a| address_hash(&a.host));
        let outside = |e: &Endpoint| {
            let address = e.proxy.as_ref().and_then(|p| p.outside.as_ref());
            address.map_or(0, |a| address_hash(&a.host))
        };
        let (mut x, mut y) = (hash(first), hash(second));
        if x == y {
            (x, y) = (outside(first), outside(second));
        }
        if x == y {
            let message = format!("in resource {name}: BAD LUCK, equal hashes");
            found.push(
                Diagnostic::error(*span, message)
                    .help("give both hosts a 'node-id'")
                    .exit(20),
            );
            return;
        }
        for (at, id) in [(a, u8::from(x < y)), (b, u8::from(x > y))] {
            if let Some(host) = hosts.get_mut(at) {
                host.node_id = Some(id);
            }
        }
    }
    for (i, host) in hosts.iter().enumerate() {
        let Some(id) = host.node_id else {
            found.push(
                Diagnostic::error(
                    host.span,
                    format!(
                        "in resource {name}, on {} {{ ... }}: 'node-id' keyword missing.",
                        host.name()
                    ),
                )
                .full(),
            );
            continue;
        };
        if let Some(first) = hosts.iter().take(i).find(|h| h.node_id == Some(id)) {
            let key = format!("{name}:{id}");
            found.push(conflict(
                "node-id",
                &key,
                host.node_id_span,
                first.node_id_span,
            ));
        }
    }
}
