//! `cargo xtask decode FILE.pcap`: what two nodes said to each other, packet by packet.
//!
//! The file is put together to TCP streams, the streams to DRBD connections: a data and a control stream
//! between the same two addresses that began together. What a packet looks like depends on what was agreed
//! on the data stream, so a recording has to contain the beginning of a connection.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use drbd_proto::{Ctx, DigestAlg, Features, Packet, Stream, first_packet};

/// Prints a recorded connection.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A recording in the classic pcap format, of Ethernet or raw IP.
    file: PathBuf,
    /// Leaves out pings and data with its acknowledgements.
    #[arg(long)]
    brief: bool,
}

/// One direction of a TCP connection.
#[derive(Debug, Default)]
struct Direction {
    /// First sequence number of the data.
    first: Option<u32>,
    /// Segments that are ahead of a gap.
    early: BTreeMap<u64, Vec<u8>>,
    bytes: Vec<u8>,
    /// From which byte on data came at which time, seconds.
    times: Vec<(usize, f64)>,
}

impl Direction {
    fn segment(&mut self, sequence: u32, data: &[u8], time: f64) {
        let Some(first) = self.first else { return };
        // Less than 2 GiB in one recording.
        let at = u64::from(sequence.wrapping_sub(first));
        if at < 1 << 31 && !data.is_empty() {
            self.early.insert(at, data.to_vec());
        }
        let before = self.bytes.len();
        while let Some(entry) = self.early.first_entry() {
            let (at, have) = (*entry.key(), self.bytes.len() as u64);
            if at > have {
                break;
            }
            let data = entry.remove();
            let known = usize::try_from(have - at).unwrap_or(usize::MAX);
            self.bytes
                .extend_from_slice(data.get(known..).unwrap_or(&[]));
        }
        if self.bytes.len() > before {
            self.times.push((before, time));
        }
    }

    fn time_of(&self, byte: usize) -> f64 {
        let behind = self.times.partition_point(|(at, _)| *at <= byte);
        self.times
            .get(behind.saturating_sub(1))
            .map_or(0.0, |(_, time)| *time)
    }
}

/// A TCP connection; direction 0 is that of its opener.
#[derive(Debug)]
struct Flow {
    opener: SocketAddr,
    other: SocketAddr,
    start: f64,
    directions: [Direction; 2],
}

impl Flow {
    /// Which stream of DRBD it is.
    fn stream(&self) -> Option<Stream> {
        let first = self.directions[0].bytes.first_chunk::<8>()?;
        first_packet::decode(first).ok()
    }

    fn pair(&self) -> (IpAddr, IpAddr) {
        let (a, b) = (self.opener.ip(), self.other.ip());
        (a.min(b), a.max(b))
    }
}

fn word16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The TCP segment in a frame: addresses, sequence number, flags, data.
fn segment(frame: &[u8], ethernet: bool) -> Option<(SocketAddr, SocketAddr, u32, u8, &[u8])> {
    let ip = if ethernet { frame.get(14..)? } else { frame };
    let (from, to, tcp) = match ip.first()? >> 4 {
        4 => {
            let header = usize::from(ip.first()? & 15) * 4;
            let total = usize::from(word16(ip, 2)?);
            if *ip.get(9)? != 6 {
                return None;
            }
            let address = |at| Some(IpAddr::V4(Ipv4Addr::from(word32(ip, at)?)));
            (address(12)?, address(16)?, ip.get(header..total)?)
        }
        6 => {
            if *ip.get(6)? != 6 {
                return None;
            }
            let total = 40 + usize::from(word16(ip, 4)?);
            let address = |at: usize| {
                let bytes: [u8; 16] = *ip.get(at..)?.first_chunk()?;
                Some(IpAddr::V6(Ipv6Addr::from(bytes)))
            };
            (address(8)?, address(24)?, ip.get(40..total)?)
        }
        _ => return None,
    };
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    Some((
        SocketAddr::new(from, word16(tcp, 0)?),
        SocketAddr::new(to, word16(tcp, 2)?),
        word32(tcp, 4)?,
        *tcp.get(13)?,
        tcp.get(header..)?,
    ))
}

/// The TCP connections of a recording whose beginning it has.
fn flows(file: &[u8]) -> Result<Vec<Flow>, String> {
    let magic = file.get(..4).ok_or("the file is empty")?;
    let (big, unit) = match magic {
        [0xd4, 0xc3, 0xb2, 0xa1] => (false, 1e-6),
        [0xa1, 0xb2, 0xc3, 0xd4] => (true, 1e-6),
        [0x4d, 0x3c, 0xb2, 0xa1] => (false, 1e-9),
        [0xa1, 0xb2, 0x3c, 0x4d] => (true, 1e-9),
        _ => return Err("this is no pcap file (pcapng is not read; convert it)".to_owned()),
    };
    let word = |at: usize| -> Option<u32> {
        let bytes: [u8; 4] = *file.get(at..)?.first_chunk()?;
        Some(if big {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    };
    let ethernet = match word(20).map(|w| w & 0xffff) {
        Some(1) => true,
        Some(101 | 12) => false,
        other => {
            return Err(format!(
                "link type {other:?} is not read; use Ethernet or IP"
            ));
        }
    };
    let mut flows: Vec<Flow> = Vec::new();
    let mut at = 24;
    while let (Some(seconds), Some(part), Some(len)) = (word(at), word(at + 4), word(at + 8)) {
        let time = f64::from(seconds) + f64::from(part) * unit;
        let end = at + 16 + usize::try_from(len).unwrap_or(usize::MAX / 2);
        let Some(frame) = file.get(at + 16..end) else {
            break;
        };
        at = end;
        let Some((from, to, sequence, flags, data)) = segment(frame, ethernet) else {
            continue;
        };
        let (syn, ack) = (flags & 2 != 0, flags & 16 != 0);
        let known = flows.iter().rposition(|f| {
            (f.opener == from && f.other == to) || (f.opener == to && f.other == from)
        });
        let same = |f: &Flow| f.directions[0].first == Some(sequence.wrapping_add(1));
        if syn && !ack && !known.and_then(|i| flows.get(i)).is_some_and(same) {
            let mut flow = Flow {
                opener: from,
                other: to,
                start: time,
                directions: Default::default(),
            };
            flow.directions[0].first = Some(sequence.wrapping_add(1));
            flows.push(flow);
            continue;
        }
        let Some(flow) = known.and_then(|i| flows.get_mut(i)) else {
            continue;
        };
        let direction = usize::from(flow.opener != from);
        let Some(direction) = flow.directions.get_mut(direction) else {
            continue;
        };
        if syn {
            direction.first.get_or_insert(sequence.wrapping_add(1));
        } else {
            direction.segment(sequence, data, time);
        }
    }
    Ok(flows)
}

/// A packet that was found.
struct Line {
    time: f64,
    from: IpAddr,
    to: IpAddr,
    stream: Stream,
    text: String,
    bulk: bool,
}

/// What one direction of a stream says. The first packets tell what is agreed: `agreed` is asked for
/// the context after them.
fn decode(flow: &Flow, stream: Stream, direction: usize, agreed: Option<Ctx>) -> Vec<Line> {
    let Some(data) = flow.directions.get(direction) else {
        return Vec::new();
    };
    let (from, to) = if direction == 0 {
        (flow.opener.ip(), flow.other.ip())
    } else {
        (flow.other.ip(), flow.opener.ip())
    };
    let mut lines = Vec::new();
    let mut at = if direction == 0 { first_packet::LEN } else { 0 };
    let mut ctx = match (stream, agreed) {
        (Stream::Control, Some(ctx)) => ctx,
        _ => Ctx::INITIAL,
    };
    loop {
        let rest = data.bytes.get(at..).unwrap_or(&[]);
        if rest.is_empty() {
            break;
        }
        let mut line = |text: String, bulk| {
            let time = data.time_of(at);
            lines.push(Line {
                time,
                from,
                to,
                stream,
                text,
                bulk,
            });
        };
        match Packet::parse(&ctx, stream, rest) {
            Ok(Some(found)) => {
                let payload = usize::try_from(found.packet.payload_len()).unwrap_or(0);
                let bulk = payload > 0
                    || matches!(
                        found.packet,
                        Packet::Ping
                            | Packet::PingAck
                            | Packet::WriteAck(_)
                            | Packet::RecvAck(_)
                            | Packet::Barrier(_)
                            | Packet::BarrierAck(_)
                            | Packet::RsWriteAck(_)
                            | Packet::UnplugRemote
                    );
                let mut text = format!("{} v{}", found.packet.cmd(), found.header.volume);
                let _ = write!(text, " {:?}", found.packet);
                if payload > 0 {
                    let _ = write!(text, " + {payload} bytes");
                }
                line(text, bulk);
                match &found.packet {
                    Packet::ConnectionFeatures(_) => ctx = agreed.unwrap_or(ctx),
                    Packet::Protocol(p) | Packet::ProtocolUpdate(p) => {
                        let alg = p.integrity_alg.as_str().and_then(DigestAlg::from_name);
                        let len = alg.map_or(0, |a| u8::try_from(a.digest_len()).unwrap_or(0));
                        ctx = ctx.with_integrity_len(len);
                    }
                    _ => {}
                }
                at += found.len + payload;
            }
            Ok(None) => {
                line(format!("... cut off after {} bytes", rest.len()), false);
                break;
            }
            Err(error) => {
                line(format!("not understood: {error}"), false);
                break;
            }
        }
    }
    lines
}

/// What the two features packets of a data stream lead to.
fn agreed(flow: &Flow) -> Option<Ctx> {
    let mut found = Vec::new();
    for (direction, skip) in [(0, first_packet::LEN), (1, 0)] {
        let bytes = flow.directions.get(direction)?.bytes.get(skip..)?;
        let packet = Packet::parse(&Ctx::INITIAL, Stream::Data, bytes).ok()??;
        if let Packet::ConnectionFeatures(f) = packet.packet {
            found.push(f);
        }
    }
    let [a, b] = found.as_slice() else {
        return None;
    };
    let version = u16::try_from(a.protocol_max.min(b.protocol_max)).ok()?;
    Some(Ctx::new(version, Features(a.features.0 & b.features.0)))
}

/// Prints a recording.
pub(crate) fn run(args: &Args) -> Result<(), String> {
    let file = std::fs::read(&args.file).map_err(|e| format!("{}: {e}", args.file.display()))?;
    let flows = flows(&file)?;
    let mut lines = Vec::new();
    for flow in &flows {
        let Some(stream) = flow.stream() else {
            continue;
        };
        // The data stream that began next to this one.
        let data = flows
            .iter()
            .filter(|f| f.pair() == flow.pair() && f.stream() == Some(Stream::Data))
            .min_by(|a, b| {
                let distance = |f: &Flow| (f.start - flow.start).abs();
                distance(a).total_cmp(&distance(b))
            });
        let ctx = data.and_then(agreed);
        for direction in [0, 1] {
            lines.extend(decode(flow, stream, direction, ctx));
        }
    }
    if lines.is_empty() {
        return Err("no connection of DRBD begins in this recording".to_owned());
    }
    lines.sort_by(|a, b| a.time.total_cmp(&b.time));
    let start = lines.first().map_or(0.0, |l| l.time);
    for l in lines.iter().filter(|l| !(args.brief && l.bulk)) {
        println!(
            "{:10.6} {} > {} {:<7} {}",
            l.time - start,
            l.from,
            l.to,
            l.stream.to_string(),
            l.text
        );
    }
    Ok(())
}
