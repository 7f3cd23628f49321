//! Which keys does an object have, and which of them are printed? (CLI, section 16.1)

use drbd_control::protocol::PeerDeviceState;

use super::super::color::{Side, paint};
use super::super::status::{done, speed, yes_no};
use super::Wanted;

/// Keys and values that are printed together.
pub(super) type Group = Vec<(&'static str, String)>;

pub(super) fn peer_device_groups(state: &PeerDeviceState, statistics: bool) -> Vec<Group> {
    let mut groups = vec![
        vec![("replication", state.replication.clone())],
        vec![
            ("peer-disk", state.peer_disk.clone()),
            ("peer-client", yes_no(state.peer_client).into()),
        ],
        vec![("resync-suspended", state.resync_suspended.clone())],
    ];
    let percent = state.sync.as_ref().and_then(done);
    groups.push(
        percent
            .map(|percent| ("done", format!("{percent:.2}")))
            .into_iter()
            .collect(),
    );
    if statistics {
        let mut group = vec![
            ("received", (state.received / 2).to_string()),
            ("sent", (state.sent / 2).to_string()),
            ("out-of-sync", (state.out_of_sync / 2).to_string()),
            ("pending", state.pending.to_string()),
            ("unacked", state.unacked.to_string()),
        ];
        if let Some(sync) = &state.sync {
            let (speed, eta) = speed(sync);
            group.push(("dbdt1", format!("{speed:.2}")));
            group.push((
                "eta",
                eta.map_or_else(|| "nan".into(), |eta| eta.to_string()),
            ));
        }
        groups.push(group);
    }
    groups
}

/// The fields to print, each with a blank before it; empty if nothing changed.
pub(super) fn fields(old: Option<&[Group]>, new: &[Group], wanted: Wanted, side: Side) -> String {
    let mut out = String::new();
    let changed = old.is_none_or(|old| old != new);
    for (n, group) in new.iter().enumerate() {
        let before = old.and_then(|old| old.get(n));
        if !changed || (before == Some(group) && !wanted.full) {
            continue;
        }
        for (key, value) in group {
            let previous = before
                .and_then(|b| b.iter().find(|(k, _)| k == key))
                .map(|(_, v)| v.as_str());
            // What nobody ever changes is said once.
            if *key == "blocked" && previous == Some(value) {
                continue;
            }
            if !wanted.diff {
                let is_client = |(k, v): &(&str, String)| k.ends_with("client") && v == "yes";
                let client = group.iter().any(is_client);
                let value = paint(wanted.color, side, key, value, client);
                out.push_str(&format!(" {key}:{value}"));
                continue;
            }
            match (*key, previous) {
                // The reference leaves it out there.
                ("quorum", None) => {}
                ("done", _) => out.push_str(&format!(" {key}:{value}")),
                ("client" | "open" | "quorum" | "backing_dev" | "peer-client", Some(same))
                    if same == value =>
                {
                    out.push_str(&format!(" {key}:{value}"));
                }
                ("promotion_score", None) => out.push_str(&format!(" {key}:0->{value}")),
                (_, previous) => {
                    let previous = previous.unwrap_or("UNKNOWN");
                    out.push_str(&format!(" {key}:{previous}->{value}"));
                }
            }
        }
    }
    out
}
