//! The recorded run of the reference tool with `--full` tells everything; replayed, it gives the recordings of the same run
//! with other options.

use drbd_control::protocol::{
    Connection, ConnectionState, Device, DeviceState, Path, PeerDevice, PeerDeviceState, Resource,
    ResourceState, Sync, WaitTimeout,
};

use super::*;

const FULL: &str = include_str!("../../../tests/data/runtime/events2-full.txt");
const PLAIN: &str = include_str!("../../../tests/data/runtime/events2.txt");
const STATISTICS: &str = include_str!("../../../tests/data/runtime/events2-statistics.txt");
const DIFF: &str = include_str!("../../../tests/data/runtime/events2-diff.txt");

/// Keys and values of a line.
struct Line<'a> {
    kind: &'a str,
    object: &'a str,
    words: BTreeMap<&'a str, &'a str>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Line<'a> {
        let mut words = line.split(' ');
        let (kind, object) = (words.next().unwrap(), words.next().unwrap());
        let words = words.map(|w| w.split_once(':').unwrap()).collect();
        Line {
            kind,
            object,
            words,
        }
    }

    fn text(&self, key: &str) -> String {
        self.words[key].to_owned()
    }

    fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(&self, key: &str) -> T {
        self.words[key].parse().unwrap()
    }

    fn flag(&self, key: &str) -> bool {
        self.words[key] == "yes"
    }

    fn has(&self, key: &str, reason: &str) -> bool {
        self.words[key].split(',').any(|r| r == reason)
    }

    fn resource(&self) -> ResourceState {
        ResourceState {
            role: self.text("role"),
            suspended_user: self.has("suspended", "user"),
            suspended_no_data: self.has("suspended", "no-data"),
            suspended_fencing: self.has("suspended", "fencing"),
            suspended_quorum: self.has("suspended", "quorum"),
            force_io_failures: self.flag("force-io-failures"),
            write_ordering: self.text("write-ordering"),
        }
    }

    fn connection(&self) -> ConnectionState {
        ConnectionState {
            name: self.text("conn-name"),
            connection: self.text("connection"),
            role: self.text("role"),
            congested: self.flag("congested"),

            tls: false,
            ap_in_flight: self.number("ap-in-flight"),
            rs_in_flight: self.number("rs-in-flight"),
            paths: Vec::new(),
        }
    }

    fn device(&self) -> DeviceState {
        DeviceState {
            minor: self.number("minor"),
            disk: self.text("disk"),
            client: self.flag("client"),
            open: self.flag("open"),
            quorum: self.flag("quorum"),
            backing_dev: Some(self.text("backing_dev")),
            size: 2 * self.number::<u64>("size"),
            read: 2 * self.number::<u64>("read"),
            written: 2 * self.number::<u64>("written"),
            al_writes: self.number("al-writes"),
            bm_writes: self.number("bm-writes"),
            upper_pending: self.number("upper-pending"),
            lower_pending: self.number("lower-pending"),
            al_suspended: self.flag("al-suspended"),
            blocked: "no".into(),
        }
    }

    fn peer_device(&self) -> PeerDeviceState {
        let out_of_sync = 2 * self.number::<u64>("out-of-sync");
        let sync = self.words.get("done").map(|done| Sync {
            total: (out_of_sync as f64 / (1.0 - done.parse::<f64>().unwrap() / 100.0)) as u64,
            left: out_of_sync,
            failed: 0,
            same_csum: 0,
            elapsed_ms: 0,
            paused_ms: 0,
            windows: [(3000, 614_400); 2],
            want: 0,
            verify: None,
        });
        PeerDeviceState {
            replication: self.text("replication"),
            peer_disk: self.text("peer-disk"),
            peer_client: self.flag("peer-client"),
            resync_suspended: self.text("resync-suspended"),
            received: 2 * self.number::<u64>("received"),
            sent: 2 * self.number::<u64>("sent"),
            out_of_sync,
            pending: self.number("pending"),
            unacked: self.number("unacked"),

            stable: true,
            wait: WaitTimeout::Normal,
            sync,
        }
    }

    fn path(&self) -> Path {
        let address = |key: &str| self.words[key].trim_start_matches("ipv4:").parse().unwrap();
        Path {
            local: address("local"),
            remote: address("peer"),
            established: self.flag("established"),
        }
    }

    /// Place in a batch.
    fn rank(&self) -> usize {
        let order = ["resource", "connection", "device", "peer-device", "path"];
        order.iter().position(|o| *o == self.object).unwrap_or(9)
    }

    fn event(&self, paths: &mut Vec<Path>, continues: bool) -> Event {
        let resource = self.text("name");
        match self.object {
            "resource" => Event::Resource {
                resource,
                state: Some(self.resource()),
                continues,
            },
            "connection" => Event::Connection {
                resource,
                peer: self.number("peer-node-id"),
                state: Some(ConnectionState {
                    paths: paths.clone(),
                    ..self.connection()
                }),
                continues,
            },
            "device" => Event::Device {
                resource,
                volume: self.number("volume"),
                state: Some(self.device()),
                continues,
            },
            "peer-device" => Event::PeerDevice {
                resource,
                peer: self.number("peer-node-id"),
                volume: self.number("volume"),
                state: Some(self.peer_device()),
                continues,
            },
            "path" => {
                let path = self.path();
                *paths = vec![path.clone()];
                Event::Path {
                    resource,
                    peer: self.number("peer-node-id"),
                    local: path.local,
                    remote: path.remote,
                    established: Some(path.established),
                    continues,
                }
            }
            "helper" => Event::Helper {
                resource,
                helper: self.text("helper"),
                peer: Some(self.number("peer-node-id")),
                volume: None,
                status: self.words.get("status").map(|s| s.parse().unwrap()),
            },
            other => panic!("{other}"),
        }
    }
}

/// Everything up to the renaming, which nobody can ask for here.
fn recorded(text: &str) -> Vec<&str> {
    text.lines()
        .take_while(|l| !l.starts_with("rename"))
        .collect()
}

fn replay(wanted: Wanted) -> Vec<String> {
    let lines = recorded(FULL);
    let end = lines.iter().position(|l| *l == "exists -").unwrap();
    let first: Vec<Line<'_>> = lines[..end].iter().map(|l| Line::parse(l)).collect();
    let [resource, connection, device, peer_device, path] = first.as_slice() else {
        panic!("{} objects", first.len());
    };
    let mut paths = vec![path.path()];
    let snapshot = Resource {
        name: resource.text("name"),
        node_id: 0,
        state: resource.resource(),
        devices: vec![Device {
            volume: device.number("volume"),
            state: device.device(),
        }],
        connections: vec![Connection {
            peer: connection.number("peer-node-id"),
            state: ConnectionState {
                paths: paths.clone(),
                ..connection.connection()
            },
            peer_devices: vec![PeerDevice {
                volume: peer_device.number("volume"),
                state: peer_device.peer_device(),
            }],
        }],
    };
    let mut printer = Printer::new(wanted);
    let mut out = printer.lines(Event::Snapshot(Box::new(snapshot)));
    out.extend(printer.lines(Event::SnapshotsEnd));
    let changes: Vec<Line<'_>> = lines[end + 1..].iter().map(|l| Line::parse(l)).collect();
    for (n, line) in changes.iter().enumerate() {
        let continues = line.kind == "change"
            && changes
                .get(n + 1)
                .is_some_and(|next| next.kind == "change" && next.rank() > line.rank());
        out.extend(printer.lines(line.event(&mut paths, continues)));
    }
    out
}

#[track_caller]
fn compare(ours: &[String], recording: &str) {
    let theirs = recorded(recording);
    for (n, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(ours, theirs, "line {}", n + 1);
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn plain() {
    compare(&replay(Wanted::default()), PLAIN);
}

#[test]
fn full() {
    let wanted = Wanted {
        full: true,
        ..Wanted::default()
    };
    compare(&replay(wanted), FULL);
}

#[test]
fn statistics() {
    let wanted = Wanted {
        statistics: true,
        ..Wanted::default()
    };
    compare(&replay(wanted), STATISTICS);
}

#[test]
fn diff() {
    let wanted = Wanted {
        diff: true,
        ..Wanted::default()
    };
    compare(&replay(wanted), DIFF);
}
