//! Programs that this node runs when something happens (state machine, section 18).
//!
//! The engine says which handler is to be called and what it has to know; the driver runs the program and
//! returns its exit code. Handlers whose exit code decides something are `fence-peer` ([`crate::fencing`]) and
//! those before a resync ([`crate::resync_control`]).

use alloc::format;
use alloc::vec::Vec;

use drbd_meta::flags::PeerFlags;
use drbd_proto::{DiskState, NodeId, NodeMask, Role, VolumeNr};

use crate::control::ControlOp;
use crate::effect::{CallFacts, Effect, LogLevel};
use crate::engine::{Engine, Op};
use crate::event::{OpOutput, OpResult};

/// A handler, by what it is called for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Handler {
    /// A Primary lost access to UpToDate data; once for each peer.
    PriOnInconDegr,
    /// after-sb policy call-pri-lost-after-sb: this Primary would have to give its data up.
    PriLostAfterSb,
    /// rr-conflict call-pri-lost: this Primary would become a sync target.
    PriLost,
    /// on-io-error call-local-io-error.
    LocalIoError,
    /// A split brain was seen.
    InitialSplitBrain,
    /// A split brain that no policy resolves.
    SplitBrain,
    /// A resync towards this node is about to begin; any exit code but 0 ends the connection.
    BeforeResyncTarget,
    /// A resync from this node is about to begin; any exit code but 0 and 3 ends the connection.
    BeforeResyncSource,
    /// A resync towards this node has ended.
    AfterResyncTarget,
    /// A verify found differences.
    OutOfSync,
    /// A peer that cannot be reached has to be kept from using its data (state machine, section 12.1).
    FencePeer,
    /// A peer that may have been fenced has all data again.
    UnfencePeer,
    /// This Primary lost quorum.
    QuorumLost,
    /// The streams to a peer are gone.
    Disconnected,
}

impl Handler {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Handler::PriOnInconDegr => "pri-on-incon-degr",
            Handler::PriLostAfterSb => "pri-lost-after-sb",
            Handler::PriLost => "pri-lost",
            Handler::LocalIoError => "local-io-error",
            Handler::InitialSplitBrain => "initial-split-brain",
            Handler::SplitBrain => "split-brain",
            Handler::BeforeResyncTarget => "before-resync-target",
            Handler::BeforeResyncSource => "before-resync-source",
            Handler::AfterResyncTarget => "after-resync-target",
            Handler::OutOfSync => "out-of-sync",
            Handler::FencePeer => "fence-peer",
            Handler::UnfencePeer => "unfence-peer",
            Handler::QuorumLost => "quorum-lost",
            Handler::Disconnected => "disconnected",
        }
    }
}

/// Who waits for the exit code of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Then {
    /// Nobody.
    Nothing,
    /// The fencing of a peer, begun when that peer had been connected so many times.
    Fence {
        /// The peer.
        peer: NodeId,
        /// Connects until then.
        connects: u64,
    },
    /// The start of a resync, in that time of the connection.
    Resync {
        /// The peer.
        peer: NodeId,
        /// The volume.
        volume: VolumeNr,
        /// The time of the connection.
        generation: u64,
    },
}

impl Engine {
    /// Calls a handler whose exit code means nothing.
    pub(crate) fn call(
        &mut self,
        handler: Handler,
        peer: Option<NodeId>,
        volume: Option<VolumeNr>,
    ) {
        self.call_then(handler, peer, volume, Then::Nothing);
    }

    /// Calls a handler. False: no program is configured, so that nobody will be told an exit code.
    pub(crate) fn call_then(
        &mut self,
        handler: Handler,
        peer: Option<NodeId>,
        volume: Option<VolumeNr>,
        then: Then,
    ) -> bool {
        if !self.helper {
            return false;
        }
        let facts = self.call_facts(handler, peer);
        let op = self.op(Op::Control(ControlOp::Upcall(handler, then)));
        self.push(Effect::Upcall {
            op,
            handler: handler.name(),
            about: (peer, volume),
            facts,
        });
        true
    }

    /// What a program is told beyond what it is about.
    fn call_facts(&self, handler: Handler, peer: Option<NodeId>) -> CallFacts {
        let fencing = matches!(handler, Handler::FencePeer | Handler::UnfencePeer);
        CallFacts {
            cstate: peer.map(|p| self.state.cstate(p)),
            up_to_date_nodes: fencing
                .then(|| self.nodes_with_data(handler == Handler::FencePeer))
                .map(|mask| mask.0 as u32),
        }
    }

    /// Nodes that have all data of every volume, as far as this node knows: UP_TO_DATE_NODES.
    fn nodes_with_data(&self, fence: bool) -> NodeMask {
        let mut all = NodeMask(u64::MAX);
        let attached: Vec<VolumeNr> = self
            .volumes
            .values()
            .filter(|v| v.disk.is_some())
            .map(|v| v.nr)
            .collect();
        for v in attached {
            let mut nodes = self.node_id.mask();
            for (n, _, pd) in self.state.peers_of(v) {
                if pd.pdisk == DiskState::UpToDate {
                    nodes.insert(n);
                }
            }
            if !fence && self.state.role != Role::Primary {
                if self.state.disk(v) != DiskState::UpToDate {
                    // A volume that is good on no node is left out.
                    continue;
                }
                let Some(disk) = self.disk_ref(v) else {
                    continue;
                };
                for n in NodeId::all().filter(|n| *n != self.node_id) {
                    let exists = disk.meta.peer(n).flags.contains(PeerFlags::NODE_EXISTS);
                    if exists && disk.gen_ids.bitmap(n).is_none() {
                        nodes.insert(n);
                    }
                }
            }
            all &= nodes;
        }
        all
    }

    /// A handler has ended.
    pub(crate) fn called(&mut self, handler: Handler, then: Then, result: &OpResult) {
        // What could not be run, or did not end by itself, has no exit code.
        let exit = match result {
            Ok(OpOutput::Exit(code)) => *code,
            _ => 0,
        };
        if exit != 0 {
            let peer = match then {
                Then::Fence { peer, .. } | Then::Resync { peer, .. } => Some(peer),
                Then::Nothing => None,
            };
            let text = format!("handler {} ended with exit code {exit}", handler.name());
            self.log_at(LogLevel::Info, peer, None, text);
        }
        match then {
            Then::Nothing => {}
            Then::Fence { peer, connects } => self.fence_called(peer, connects, exit),
            Then::Resync {
                peer,
                volume,
                generation,
            } => self.resync_called(peer, volume, generation, handler, exit),
        }
    }
}
