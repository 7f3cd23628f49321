//! Events and effects as one readable line each.

use drbd_engine::effect::Effect;
use drbd_engine::event::{Event, OpOutput};
use drbd_engine::status::Object;
use drbd_proto::Packet;

use crate::clock::Time;

/// Where lines go.
pub type Sink = Box<dyn FnMut(&str)>;

/// A trace, or none.
#[derive(Default)]
pub struct Trace {
    sink: Option<Sink>,
}

impl Trace {
    /// Lines go there from now on.
    pub fn to(sink: Sink) -> Trace {
        Trace { sink: Some(sink) }
    }

    /// Whether anybody reads it.
    pub fn on(&self) -> bool {
        self.sink.is_some()
    }

    /// One line, made only if somebody reads it.
    pub fn line(&mut self, now: Time, who: &str, what: impl FnOnce() -> String) {
        if let Some(sink) = &mut self.sink {
            let mut what = what();
            if what.len() > 400 {
                let cut = (0..=400)
                    .rev()
                    .find(|i| what.is_char_boundary(*i))
                    .unwrap_or(0);
                what.truncate(cut);
                what.push('…');
            }
            sink(&format!(
                "{:>4}.{:06} {who:<3} {what}",
                now / 1_000_000_000,
                now / 1000 % 1_000_000
            ));
        }
    }
}

/// A packet. Of the many identifiers only those that say something.
fn packet_text(packet: &Packet) -> String {
    let Packet::Uuids110(u) = packet else {
        return format!("{packet:?}");
    };
    let bitmap: Vec<String> = u
        .bitmap_mask
        .iter()
        .filter_map(|n| Some(format!("{n}:{}", u.bitmap_uuids.get(n.index())?)))
        .collect();
    let history: Vec<String> = u
        .history
        .iter()
        .filter(|x| !x.is_none())
        .map(|x| x.to_string())
        .collect();
    format!(
        "Uuids110 current {} dirty {} flags {:?} nodes {:x} bitmap [{}] history [{}]",
        u.current,
        u.dirty_bits,
        u.flags,
        u.node_mask.0,
        bitmap.join(" "),
        history.join(" ")
    )
}

/// An event in one line.
pub fn event(event: &Event) -> String {
    match event {
        Event::Tick => "> tick".into(),
        Event::Packet {
            peer,
            stream,
            volume,
            packet,
            payload,
        } => {
            format!(
                "> from {peer} {stream} v{volume} {}{}",
                packet_text(packet),
                payload.map_or(String::new(), |b| format!(" buf {}", b.0))
            )
        }
        Event::Done {
            op,
            result: Ok(OpOutput::Bytes(b)),
        } => format!("> done {} {} bytes", op.0, b.len()),
        Event::Done { op, result } => format!("> done {} {result:?}", op.0),
        Event::Established {
            peer,
            resolve_conflicts,
            ..
        } => format!("> established {peer} resolve {resolve_conflicts}"),
        other => format!("> {other:?}"),
    }
}

/// An effect in one line.
pub fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Send {
            peer,
            stream,
            volume,
            packet,
            payload,
            notify,
        } => format!(
            "< to {peer} {stream} v{volume} {}{}{}",
            packet_text(packet),
            payload.map_or(String::new(), |b| format!(" buf {}", b.0)),
            notify.map_or(String::new(), |o| format!(" notify {}", o.0)),
        ),
        Effect::MetaWrite {
            op,
            volume,
            blocks,
            barrier,
        } => {
            let at: Vec<u64> = blocks.iter().map(|b| b.offset).collect();
            format!(
                "< meta write {} v{volume} {at:?}{}",
                op.0,
                if *barrier { " barrier" } else { "" }
            )
        }
        Effect::Changed(change) => match &change.object {
            Object::Resource(i) => format!("< changed resource {i:?}"),
            Object::Connection { peer, info } => {
                let i = info.as_ref().map(|i| (i.cstate, i.peer_role));
                format!("< changed connection {peer} {i:?}")
            }
            Object::Device { volume, info } => {
                let i = info.as_ref().map(|i| (i.disk, i.quorum, i.size));
                format!("< changed device v{volume} {i:?}")
            }
            Object::PeerDevice { peer, volume, info } => {
                let i = info.as_ref().map(|i| (i.repl, i.peer_disk, i.out_of_sync));
                format!("< changed peer-device {peer} v{volume} {i:?}")
            }
            other => format!("< changed {other:?}"),
        },
        Effect::Log(line) => format!(
            "< log {:?}{}{}: {}",
            line.level,
            line.peer.map_or(String::new(), |p| format!(" peer {p}")),
            line.volume.map_or(String::new(), |v| format!(" v{v}")),
            line.text
        ),
        other => format!("< {other:?}"),
    }
}
