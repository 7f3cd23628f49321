//! What two nodes said to each other, as it was recorded.

use drbd_proto::packet::ConnectionFeatures;
use drbd_proto::{Ctx, Packet, Stream, VolumeNr};
use serde_json::Value;

/// A packet of the recording.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// Nanoseconds since the beginning.
    pub(crate) at: u64,
    /// Number of the connection: a reconnect has another one.
    pub(crate) round: u32,
    /// Who sent it.
    pub(crate) from: u64,
    pub(crate) stream: Stream,
    pub(crate) volume: VolumeNr,
    pub(crate) packet: Packet,
}

/// A line of the recording.
#[derive(Clone, Debug)]
pub(crate) enum Line {
    Packet(Box<Said>),
    /// The connection broke within a packet of this node.
    Torn(u64),
    /// A step of the story has ended.
    Mark(u64, String),
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect()
}

/// Reads a recording of two nodes; the lines that were left out in it are bulk.
pub(crate) fn read(name: &str) -> Vec<Line> {
    let dir = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../drbd-proto/tests/data/traffic"
    );
    let path = format!("{dir}/{name}.jsonl");
    let text = std::fs::read_to_string(&path).expect(&path);
    let mut offers: [Option<ConnectionFeatures>; 2] = [None, None];
    let mut lines = Vec::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let at = (line["t"].as_f64().unwrap_or(0.0) * 1e9) as u64;
        if let Some(mark) = line.get("mark") {
            lines.push(Line::Mark(at, mark.as_str().unwrap().to_owned()));
            continue;
        }
        let Some(name) = line.get("name").and_then(Value::as_str) else {
            continue;
        };
        if matches!(name, "P_INITIAL_DATA" | "P_INITIAL_META") {
            continue;
        }
        let from = line["from"].as_u64().unwrap();
        if line.get("truncated").is_some() {
            lines.push(Line::Torn(at));
            continue;
        }
        let ctx = match (&line["hdr"], &offers) {
            (hdr, [Some(a), Some(b)]) if hdr != "v80" => {
                let version = a.protocol_max.min(b.protocol_max) as u16;
                Ctx::new(version, a.features & b.features)
            }
            _ => Ctx::INITIAL,
        };
        let stream = match line["stream"].as_str().unwrap() {
            "data" => Stream::Data,
            _ => Stream::Control,
        };
        let bytes = unhex(line["hex"].as_str().unwrap());
        let received = Packet::parse(&ctx, stream, &bytes).unwrap().unwrap();
        if let Packet::ConnectionFeatures(f) = &received.packet {
            offers[from as usize] = Some(*f);
        }
        let conn = line["conn"].as_str().unwrap();
        let round = conn.split_once('#').unwrap().1.parse().unwrap();
        lines.push(Line::Packet(Box::new(Said {
            at,
            round,
            from,
            stream,
            volume: received.header.volume,
            packet: received.packet,
        })));
    }
    lines
}
