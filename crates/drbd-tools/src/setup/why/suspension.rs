//! Why I/O of a resource is suspended (state machine, section 2.5).

use super::{Reason, Seen, name};

pub(super) fn reasons(seen: &Seen<'_>) -> Vec<Reason> {
    let resource = seen.resource;
    let (state, res) = (&resource.state, &resource.name);
    let mut reasons = Vec::new();
    let minor = resource.devices.first().map_or(0, |d| d.state.minor);
    if state.suspended_user {
        let reason = Reason::new("user", "an administrator has suspended it with suspend-io");
        reasons.push(reason.remedy(format!("drbdsetup resume-io {minor}")));
    }
    if state.suspended_no_data {
        let volumes = list(seen, |d| !seen.has_data(d));
        let text = format!(
            "no up-to-date copy can be reached{volumes}, and on-no-data-accessible is suspend-io"
        );
        let remedy = match seen.absent() {
            Some(absent) => format!("goes on when a peer with up-to-date data is back: {absent}"),
            None => "attach a disk with up-to-date data".into(),
        };
        let give_up = format!(
            "{remedy}; to fail the requests instead: drbdsetup resource-options {res} --on-no-data-accessible=io-error"
        );
        reasons.push(Reason::new("no-data", text).remedy(give_up));
    }
    if state.suspended_fencing {
        let peers: Vec<String> = resource
            .connections
            .iter()
            .filter(|c| seen.net(c.peer, "fencing") == Some("resource-and-stonith"))
            .filter(|c| c.state.connection != "Connected")
            .map(name)
            .collect();
        let whom = if peers.is_empty() {
            "a peer".to_owned()
        } else {
            peers.join(", ")
        };
        let text = format!(
            "{whom} was lost, and the fence-peer handler has not yet said that it is fenced"
        );
        let remedy = format!(
            "goes on when the handler succeeds or the peer is back; otherwise, once the peer is surely off: drbdsetup resume-io {minor}"
        );
        reasons.push(Reason::new("fencing", text).remedy(remedy));
    }
    if state.suspended_quorum {
        let volumes = list(seen, |d| !d.state.quorum);
        let text = format!("quorum is lost{volumes}, and on-no-quorum is suspend-io");
        let back = match seen.absent() {
            Some(absent) => format!("goes on when enough of these are back: {absent}"),
            None => "goes on when enough disks are there again".into(),
        };
        let remedy = if state.role == "Primary" {
            format!("{back}; to give up what is written here: drbdsetup secondary {res} --force")
        } else {
            back
        };
        reasons.push(Reason::new("quorum", text).remedy(remedy));
    }
    if state.force_io_failures {
        let text = "it was made Secondary by force while in use: all requests fail until the last user has closed it";
        let users = list(seen, |d| d.state.open);
        reasons.push(
            Reason::new("force-io-failures", text)
                .remedy(format!("unmount and close what is still open{users}")),
        );
    }
    reasons
}

/// The volumes for which something holds, as part of a sentence; nothing if it is the only volume.
fn list(seen: &Seen<'_>, holds: impl Fn(&drbd_control::protocol::Device) -> bool) -> String {
    let numbers: Vec<String> = seen
        .resource
        .devices
        .iter()
        .filter(|d| holds(d))
        .map(|d| d.volume.to_string())
        .collect();
    match (seen.resource.devices.len(), numbers.len()) {
        (_, 0) | (0 | 1, _) => String::new(),
        (_, 1) => format!(" (volume {})", numbers.join(", ")),
        _ => format!(" (volumes {})", numbers.join(", ")),
    }
}
