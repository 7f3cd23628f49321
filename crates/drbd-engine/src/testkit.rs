//! A node in the middle of a cluster, for tests of a few events: this node has the id 0, no disk, and volume 0. What
//! whole clusters do is tested in the simulator.
#![allow(clippy::unwrap_used)]

use alloc::format;
use alloc::vec::Vec;

use drbd_proto::{ConnState, Ctx, DiskState, Features, NodeId, Packet, ReplState, Role, VolumeNr};

use crate::command::Command;
use crate::effect::Effect;
use crate::engine::{Engine, EngineConfig};
use crate::event::Event;
use crate::handshake::Handshake;
use crate::id::CmdId;
use crate::options::{DeviceOptions, NetOptions, ResourceOptions};
use crate::state::change::ChangeFlags;
use crate::time::Instant;

pub(crate) const V: VolumeNr = VolumeNr::ZERO;

pub(crate) fn node(id: u32) -> NodeId {
    NodeId::new(id).unwrap()
}

/// The node, connected to the peers 1 to `peers`, which are UpToDate Secondaries.
pub(crate) fn diskless_node(peers: u32, options: ResourceOptions) -> Engine {
    let mut engine = Engine::new(EngineConfig {
        name: "r".into(),
        node_id: node(0),
        options,
        seed: 1,
        helper: false,
    });
    let new_minor = Command::NewMinor {
        volume: V,
        minor: 0,
        options: DeviceOptions {
            diskless: true,
            ..DeviceOptions::default()
        },
    };
    happens(&mut engine, command(new_minor));
    for peer in (1..=peers).map(node) {
        let new_peer = Command::NewPeer {
            peer,
            name: format!("{peer}"),
            options: NetOptions::default(),
        };
        happens(&mut engine, command(new_peer));
        let conn = engine.conns.get_mut(&peer).unwrap();
        conn.ctx = Ctx::new(124, Features::ALL.union(Features::COMPARE_LEFTOVER));
        conn.handshake = Handshake::Exchange;
        conn.flags.reconnect = true;
        engine.members.insert(peer);
    }
    engine.volumes.get_mut(&V).unwrap().size = 1 << 20;
    // The steps that a connection goes through.
    for cstate in [ConnState::Unconnected, ConnState::Connecting] {
        engine
            .change(ChangeFlags::HARD, |s| {
                for c in s.conns.values_mut() {
                    c.cstate = cstate;
                }
            })
            .unwrap();
    }
    engine
        .change(ChangeFlags::HARD, |s| {
            for c in s.conns.values_mut() {
                c.cstate = ConnState::Connected;
                c.peer_role = Role::Secondary;
                let pd = c.peers.get_mut(&V).unwrap();
                pd.repl = ReplState::Established;
                pd.pdisk = DiskState::UpToDate;
            }
        })
        .unwrap();
    happens(&mut engine, Event::Tick);
    engine
}

fn command(command: Command) -> Event {
    Event::Command {
        cmd: CmdId(1),
        command,
    }
}

/// Lets something happen. What it causes.
pub(crate) fn happens(engine: &mut Engine, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    engine.handle(Instant::ZERO, event, &mut effects);
    effects
}

/// The packets to a peer among the effects.
pub(crate) fn packets_to(effects: &[Effect], to: NodeId) -> Vec<&Packet> {
    effects
        .iter()
        .filter_map(|e| match e {
            Effect::Send { peer, packet, .. } if *peer == to => Some(packet),
            _ => None,
        })
        .collect()
}
