//! The report for people.

use std::fmt::Write as _;

use super::votes::Count;
use super::{Reason, Report};

fn reasons(out: &mut String, indent: usize, list: &[Reason]) {
    for reason in list {
        let _ = writeln!(out, "{:indent$}- {}", "", reason.text);
        if let Some(remedy) = &reason.remedy {
            let _ = writeln!(out, "{:indent$}    => {remedy}", "");
        }
    }
}

fn votes(out: &mut String, count: &Count) {
    let held = if count.held { "held" } else { "not held" };
    let _ = writeln!(
        out,
        "    quorum ({}) is {held}: {} of {} votes here, {} needed",
        count.asked, count.here, count.voters, count.needed
    );
    let width = count.votes.iter().map(|v| v.name.len()).max().unwrap_or(0);
    for vote in &count.votes {
        let _ = writeln!(
            out,
            "      {:>2} {:width$}  {:19}  {}",
            vote.node_id, vote.name, vote.vote, vote.why
        );
    }
    if let Some(note) = &count.note {
        let _ = writeln!(out, "      {note}");
    }
}

/// One resource.
pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{} ({}, node {})",
        report.name, report.role, report.node_id
    );
    if report.suspended.is_empty() {
        out.push_str("  I/O is not suspended\n");
    } else {
        let codes: Vec<&str> = report.suspended.iter().map(|r| r.code).collect();
        let _ = writeln!(out, "  I/O is suspended: {}", codes.join(", "));
        reasons(&mut out, 4, &report.suspended);
    }
    for device in &report.devices {
        let (nr, minor, disk) = (device.volume, device.minor, &device.disk);
        let quiet = if device.waits.is_empty() {
            ": waits for nothing"
        } else {
            ""
        };
        let _ = writeln!(out, "  volume {nr} (minor {minor}, {disk}){quiet}");
        reasons(&mut out, 4, &device.waits);
        if let Some(count) = &device.quorum {
            votes(&mut out, count);
        }
    }
    for connection in &report.connections {
        let (id, state) = (connection.peer_node_id, &connection.connection);
        let idle =
            connection.waits.is_empty() && connection.volumes.iter().all(|v| v.waits.is_empty());
        let quiet = if idle { ": waits for nothing" } else { "" };
        let name = if connection.name.is_empty() {
            "peer"
        } else {
            &connection.name
        };
        let _ = writeln!(out, "  {name} (node {id}, {state}){quiet}");
        reasons(&mut out, 4, &connection.waits);
        for volume in connection.volumes.iter().filter(|v| !v.waits.is_empty()) {
            let _ = writeln!(out, "    volume {} ({})", volume.volume, volume.replication);
            reasons(&mut out, 6, &volume.waits);
        }
    }
    let verdict = if report.promotion.possible {
        "nothing here is against it"
    } else {
        "would be refused"
    };
    let _ = writeln!(out, "  promotion: {verdict}");
    reasons(&mut out, 4, &report.promotion.reasons);
    out.push('\n');
    out
}
