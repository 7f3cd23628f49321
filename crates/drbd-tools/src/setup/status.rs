//! `drbdsetup status`: text and JSON (CLI, sections 13 and 14).

mod details;

use std::fmt::Write as _;

use drbd_control::address::family;
use drbd_control::protocol::{
    Connection, Device, PeerDevice, PeerDeviceState, Resource, ResourceState, Sync,
};
use std::net::SocketAddr;

use super::color::{Side, paint};

/// How much to show.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Detail {
    /// How often `--verbose` was given.
    pub(super) verbose: usize,
    /// `--statistics`.
    pub(super) statistics: bool,
    /// States have colours.
    pub(super) color: bool,
    /// The output is a terminal.
    pub(super) terminal: bool,
    /// Columns of a line, without its indentation.
    pub(super) width: usize,
}

/// Text that breaks at blanks.
struct Wrapped {
    text: String,
    column: usize,
    width: usize,
    /// Indentation of continuation lines.
    indent: usize,
}

impl Wrapped {
    fn new(width: usize) -> Wrapped {
        Wrapped {
            text: String::new(),
            column: 0,
            width,
            indent: 0,
        }
    }

    /// Begins a line.
    fn line(&mut self, indent: usize, continuation: usize, first: &str) {
        self.end();
        self.text.extend(std::iter::repeat_n(' ', indent));
        self.text.push_str(first);
        self.column = first.len();
        self.indent = continuation;
    }

    fn end(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        self.column = 0;
    }

    fn field(&mut self, key: &str, value: impl std::fmt::Display) {
        let field = format!("{key}:{value}");
        if self.column == 0 {
            self.text.extend(std::iter::repeat_n(' ', self.indent));
        } else if self.column + 1 + field.len() > self.width {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(' ', self.indent));
            self.column = 0;
        } else {
            self.text.push(' ');
            self.column += 1;
        }
        self.text.push_str(&field);
        self.column += field.len();
    }

    /// Goes on in a new line, if there is anything more.
    fn new_line(&mut self) {
        self.end();
    }
}

pub(super) fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// The reasons for suspended I/O as a comma list, or `no`.
pub(super) fn suspended(state: &ResourceState) -> String {
    let reasons = [
        (state.suspended_user, "user"),
        (state.suspended_no_data, "no-data"),
        (state.suspended_fencing, "fencing"),
        (state.suspended_quorum, "quorum"),
    ];
    let list: Vec<&str> = reasons
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, name)| *name)
        .collect();
    if list.is_empty() {
        "no".into()
    } else {
        list.join(",")
    }
}

/// How much of a resync or verify is done, in percent.
pub(super) fn done(sync: &Sync) -> Option<f64> {
    let total = sync.total;
    (total > 0).then(|| 100.0 * (total.saturating_sub(sync.left)) as f64 / total as f64)
}

/// Speed in a measuring window in MiB/s.
fn in_window((ms, sectors): (u64, u64)) -> f64 {
    if ms == 0 {
        return 0.0;
    }
    sectors as f64 / ms as f64 * 1000.0 / 2048.0
}

/// The newest speed in MiB/s, and the seconds left at it.
pub(super) fn speed(sync: &Sync) -> (f64, Option<u64>) {
    let window @ (ms, sectors) = sync.windows[1];
    if ms == 0 || sectors == 0 {
        return (0.0, None);
    }
    let seconds = ms as f64 / 1000.0 * sync.left as f64 / sectors as f64;
    (in_window(window), Some(seconds.round() as u64))
}

/// Resources by name, connections by name with nameless ones last.
pub(super) fn sort(resources: &mut [Resource]) {
    resources.sort_by(|a, b| a.name.cmp(&b.name));
    for resource in resources {
        resource.connections.sort_by(|a, b| {
            let key = |c: &Connection| (c.state.name.is_empty(), c.state.name.clone(), c.peer);
            key(a).cmp(&key(b))
        });
    }
}

/// The text form.
pub(super) fn text(resources: &[Resource], detail: Detail) -> String {
    let mut out = Wrapped::new(detail.width);
    for resource in resources {
        one(&mut out, resource, detail);
        out.end();
        out.text.push('\n');
    }
    out.text
}

fn one(out: &mut Wrapped, resource: &Resource, detail: Detail) {
    let (verbose, statistics) = (detail.verbose > 0, detail.statistics);
    let state = &resource.state;
    out.line(0, 4, &resource.name);
    if verbose {
        out.field("node-id", resource.node_id);
    }
    let local = |key: &str, value: &str| paint(detail.color, Side::Local, key, value, false);
    out.field("role", local("role", &state.role));
    let list = suspended(state);
    if verbose || list != "no" {
        out.field("suspended", list);
    }
    if verbose || state.force_io_failures {
        let fails = yes_no(state.force_io_failures);
        out.field("force-io-failures", local("force-io-failures", fails));
    }
    if verbose && statistics {
        out.new_line();
        out.field("write-ordering", &state.write_ordering);
    }
    let plain = !verbose && matches!(resource.devices.as_slice(), [Device { volume: 0, .. }]);
    for device in &resource.devices {
        self::device(out, device, plain, detail);
    }
    for connection in &resource.connections {
        self::connection(out, connection, plain, detail);
    }
}

fn device(out: &mut Wrapped, device: &Device, plain: bool, detail: Detail) {
    let (verbose, statistics) = (detail.verbose > 0, detail.statistics);
    let state = &device.state;
    let local = |key: &str, value: &str| paint(detail.color, Side::Local, key, value, state.client);
    let disk = local("disk", &state.disk);
    if plain {
        out.line(2, 6, &format!("disk:{disk}"));
    } else {
        out.line(2, 6, &format!("volume:{}", device.volume));
        if verbose {
            out.field("minor", state.minor);
        }
        out.field("disk", disk);
    }
    if state.disk == "Diskless" && (verbose || !detail.terminal) {
        out.field("client", yes_no(state.client));
    }
    if verbose {
        out.field(
            "backing_dev",
            state.backing_dev.as_deref().unwrap_or("none"),
        );
    }
    if verbose || !state.quorum {
        out.field("quorum", local("quorum", yes_no(state.quorum)));
    }
    out.field("open", local("open", yes_no(state.open)));
    if statistics {
        out.new_line();
        if verbose {
            out.field("size", state.size / 2);
        }
        out.field("read", state.read / 2);
        out.field("written", state.written / 2);
        if verbose {
            out.field("al-writes", state.al_writes);
            out.field("bm-writes", state.bm_writes);
            out.field("upper-pending", state.upper_pending);
            out.field("lower-pending", state.lower_pending);
            out.field("al-suspended", yes_no(state.al_suspended));
        }
    }
    if verbose || state.blocked != "no" {
        out.field("blocked", &state.blocked);
    }
}

fn connection(out: &mut Wrapped, connection: &Connection, plain: bool, detail: Detail) {
    let verbose = detail.verbose > 0;
    let state = &connection.state;
    let connected = state.connection == "Connected";
    if state.name.is_empty() {
        out.line(2, 6, &format!("node-id:{}", connection.peer));
    } else {
        out.line(2, 6, &state.name);
        if verbose {
            out.field("node-id", connection.peer);
        }
    }
    if verbose || !connected {
        let connection = paint(
            detail.color,
            Side::Local,
            "connection",
            &state.connection,
            false,
        );
        out.field("connection", connection);
    }
    if verbose || connected {
        let role = paint(detail.color, Side::Peer, "role", &state.role, false);
        out.field("role", role);
        if verbose || state.tls {
            out.field("tls", yes_no(state.tls));
        }
    }
    if verbose || state.congested {
        out.field("congested", yes_no(state.congested));
        out.field("ap-in-flight", state.ap_in_flight);
        out.field("rs-in-flight", state.rs_in_flight);
    }
    if verbose || detail.statistics || connected {
        for peer_device in &connection.peer_devices {
            self::peer_device(out, peer_device, plain, detail);
        }
    }
}

fn peer_device(out: &mut Wrapped, device: &PeerDevice, plain: bool, detail: Detail) {
    let (verbose, statistics) = (detail.verbose > 0, detail.statistics);
    let state = &device.state;
    out.end();
    out.indent = 4;
    if !plain {
        out.line(4, 8, &format!("volume:{}", device.volume));
    }
    let active = !matches!(state.replication.as_str(), "Off" | "Established");
    if verbose || active {
        let replication = &state.replication;
        out.field(
            "replication",
            paint(detail.color, Side::Peer, "replication", replication, false),
        );
    }
    out.indent = if out.column == 0 { 4 } else { 8 };
    let nothing = state.replication == "Off" && state.peer_disk == "DUnknown";
    if verbose || statistics || !nothing {
        let (disk, client) = (&state.peer_disk, state.peer_client);
        out.field(
            "peer-disk",
            paint(detail.color, Side::Peer, "peer-disk", disk, client),
        );
        out.indent = 8;
        if state.peer_disk == "Diskless" && (verbose || !detail.terminal) {
            out.field("peer-client", yes_no(state.peer_client));
        }
        if let Some(percent) = state.sync.as_ref().and_then(done) {
            out.field("done", format_args!("{percent:.2}"));
        }
        if verbose || state.resync_suspended != "no" {
            out.field("resync-suspended", &state.resync_suspended);
        }
        if statistics {
            peer_statistics(out, state, detail.verbose);
        }
    }
    out.indent = 8;
    out.end();
}

fn peer_statistics(out: &mut Wrapped, state: &PeerDeviceState, level: usize) {
    let verbose = level > 0;
    out.indent = 8;
    out.new_line();
    out.field("received", state.received / 2);
    out.field("sent", state.sent / 2);
    if verbose || state.out_of_sync > 0 {
        out.field("out-of-sync", state.out_of_sync / 2);
    }
    if verbose {
        out.field("pending", state.pending);
        out.field("unacked", state.unacked);
        if let Some(sync) = &state.sync {
            details::progress(out, sync, level > 1);
        }
    }
}

/// The JSON form.
pub(super) fn json(resources: &[Resource]) -> String {
    let mut out = String::from("[\n");
    for (n, resource) in resources.iter().enumerate() {
        if n > 0 {
            out.push_str("\n,\n");
        }
        json_resource(&mut out, resource);
    }
    if !resources.is_empty() {
        out.push('\n');
    }
    out.push_str("]\n\n");
    out
}

/// Lines of one object, and the commas between them.
struct Object<'a> {
    out: &'a mut String,
    indent: usize,
    first: bool,
}

impl<'a> Object<'a> {
    fn new(out: &'a mut String, indent: usize) -> Object<'a> {
        let _ = write!(out, "{:indent$}{{", "", indent = indent - 2);
        Object {
            out,
            indent,
            first: true,
        }
    }

    fn key(&mut self, key: &str) -> &mut String {
        if !std::mem::take(&mut self.first) {
            self.out.push(',');
        }
        let _ = write!(
            self.out,
            "\n{:indent$}\"{key}\": ",
            "",
            indent = self.indent
        );
        self.out
    }

    fn raw(&mut self, key: &str, value: impl std::fmt::Display) {
        let _ = write!(self.key(key), "{value}");
    }

    fn text(&mut self, key: &str, value: &str) {
        let quoted = quote(value);
        self.key(key).push_str(&quoted);
    }

    fn end(self) {
        let _ = write!(self.out, "\n{:indent$}}}", "", indent = self.indent - 2);
    }
}

/// A JSON string.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn array<T>(out: &mut String, items: &[T], mut one: impl FnMut(&mut String, &T)) {
    out.push_str("[\n");
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            out.push_str(",\n");
        }
        one(out, item);
    }
    out.push_str(" ]");
}

fn json_resource(out: &mut String, resource: &Resource) {
    let state = &resource.state;
    let mut o = Object::new(out, 2);
    o.text("name", &resource.name);
    o.raw("node-id", resource.node_id);
    o.text("role", &state.role);
    o.raw("suspended", suspended(state) != "no");
    o.raw("suspended-user", state.suspended_user);
    o.raw("suspended-no-data", state.suspended_no_data);
    o.raw("suspended-fencing", state.suspended_fencing);
    o.raw("suspended-quorum", state.suspended_quorum);
    o.raw("force-io-failures", state.force_io_failures);
    o.text("write-ordering", &state.write_ordering);
    array(o.key("devices"), &resource.devices, json_device);
    let size = |volume: u16| {
        resource
            .devices
            .iter()
            .find(|d| d.volume == volume)
            .map_or(0, |d| d.state.size)
    };
    array(o.key("connections"), &resource.connections, |out, c| {
        json_connection(out, c, &size)
    });
    o.end();
}

fn json_device(out: &mut String, device: &Device) {
    let state = &device.state;
    let mut o = Object::new(out, 6);
    o.raw("volume", device.volume);
    o.raw("minor", state.minor);
    o.text("disk-state", &state.disk);
    o.raw("client", state.client);
    o.raw("open", state.open);
    o.raw("quorum", state.quorum);
    o.raw("size", state.size / 2);
    o.raw("read", state.read / 2);
    o.raw("written", state.written / 2);
    o.raw("al-writes", state.al_writes);
    o.raw("bm-writes", state.bm_writes);
    o.raw("upper-pending", state.upper_pending);
    o.raw("lower-pending", state.lower_pending);
    o.end();
}

/// An address as an object of its own, its keys `step` further in.
pub(super) fn json_address(out: &mut String, address: &SocketAddr, indent: usize, step: usize) {
    let host = quote(&address.ip().to_string());
    let (port, family) = (address.port(), quote(family(address)));
    let (pad, keys) = (" ".repeat(indent), " ".repeat(indent + step));
    let _ = write!(
        out,
        "{{\n{keys}\"address\": {host},\n{keys}\"port\": {port},\n{keys}\"family\": {family}\n{pad}}}"
    );
}

fn json_connection(out: &mut String, connection: &Connection, size: &impl Fn(u16) -> u64) {
    let state = &connection.state;
    let mut o = Object::new(out, 6);
    o.raw("peer-node-id", connection.peer);
    o.text("name", &state.name);
    o.text("connection-state", &state.connection);
    // The blank behind the comma is the reference's.
    o.out.push_str(", ");
    o.first = true;
    o.raw("congested", state.congested);
    o.text("peer-role", &state.role);
    o.raw("tls", state.tls);
    o.raw("ap-in-flight", state.ap_in_flight);
    o.raw("rs-in-flight", state.rs_in_flight);
    array(o.key("paths"), &state.paths, |out, path| {
        let mut o = Object::new(out, 10);
        json_address(o.key("this_host"), &path.local, 10, 2);
        json_address(o.key("remote_host"), &path.remote, 10, 2);
        o.raw("established", path.established);
        o.end();
    });
    array(
        o.key("peer_devices"),
        &connection.peer_devices,
        |out, device| {
            json_peer_device(out, device, size(device.volume));
        },
    );
    o.end();
}

fn json_peer_device(out: &mut String, device: &PeerDevice, size: u64) {
    let state = &device.state;
    let verify = state.sync.and_then(|sync| sync.verify);
    let mut o = Object::new(out, 10);
    o.raw("volume", device.volume);
    o.text("replication-state", &state.replication);
    o.text("peer-disk-state", &state.peer_disk);
    o.raw("peer-client", state.peer_client);
    o.text("resync-suspended", &state.resync_suspended);
    o.raw("received", state.received / 2);
    o.raw("sent", state.sent / 2);
    o.raw("out-of-sync", state.out_of_sync / 2);
    o.raw("pending", state.pending);
    o.raw("unacked", state.unacked);
    o.raw("has-sync-details", state.sync.is_some());
    o.raw("has-online-verify-details", verify.is_some());
    let in_sync = match size {
        0 => 0.0,
        size => 100.0 * (1.0 - state.out_of_sync as f64 / size as f64),
    };
    o.raw("percent-in-sync", format_args!("{in_sync:.2}"));
    if let Some(sync) = &state.sync {
        o.raw("rs-total", sync.total);
        o.raw("rs-dt-start-ms", sync.elapsed_ms);
        o.raw("rs-paused-ms", sync.paused_ms);
        let [(long_ms, long), (short_ms, short)] = sync.windows;
        o.raw("rs-dt0-ms", long_ms);
        o.raw("rs-db0-sectors", long);
        o.raw("rs-dt1-ms", short_ms);
        o.raw("rs-db1-sectors", short);
        if let Some(verify) = verify {
            o.raw("ov-start-sector", verify.start);
            o.raw("ov-stop-sector", details::stop(&verify));
            o.raw("ov-position", verify.position);
            o.raw("ov-left", sync.left);
            o.raw("ov-skipped", verify.skipped);
        } else {
            o.raw("rs-failed", sync.failed);
            o.raw("rs-same-csum", sync.same_csum);
        }
        let (newest, eta) = speed(sync);
        o.raw("want", format_args!("{:.2}", details::wanted(sync)));
        o.raw(
            "db0/dt0 [MiB/s]",
            format_args!("{:.2}", in_window(sync.windows[0])),
        );
        o.raw("db1/dt1 [MiB/s]", format_args!("{newest:.2}"));
        o.raw("estimated-seconds-to-finish", eta.unwrap_or(987_654_321));
        let average = details::average(sync);
        o.raw("db/dt [MiB/s]", format_args!("{average:.2}"));
        if let Some(percent) = done(sync) {
            o.raw("percent-resync-done", format_args!("{percent:.2}"));
        }
    }
    o.end();
}
