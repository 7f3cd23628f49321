//! Two-phase commit (wire protocol, chapter 12).

use crate::ctx::Ctx;
use crate::flags::{DdsFlags, Features, TwopcFlags};
use crate::state::StateChange;
use crate::units::{NodeId, NodeMask, Sectors};
use crate::wire::{Body, Fault, Put, Wire, exactly, get, set};

const REQUEST_LEN: usize = 36;

/// What a diskless node answers to a resize: no limit from here (2^41 sectors).
pub const UNLIMITED_SIZE: Sectors = Sectors(1 << 41);

/// The part all requests have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwopcHead {
    /// Transaction id: random, not zero.
    pub tid: u32,
    /// Flags; only on the wire with FF_2PC_V2, where HAS_FLAGS is set when sending.
    pub flags: TwopcFlags,
    /// Who started the transaction.
    pub initiator: NodeId,
    /// Whom it concerns; `None` = the whole resource.
    pub target: Option<NodeId>,
    /// The nodes that still have to hear of it.
    pub nodes_to_reach: NodeMask,
}

impl TwopcHead {
    fn load(ctx: &Ctx, bytes: &[u8]) -> Result<Self, Fault> {
        let (flags, initiator, target) = if ctx.has(Features::TWOPC_V2) {
            // Signed bytes; what is out of range is reported as the number it would be.
            let target: u8 = get(bytes, 11, "target node id")?;
            let target = if target == u8::MAX {
                u32::MAX
            } else {
                target.into()
            };
            let initiator: u8 = get(bytes, 10, "initiator node id")?;
            (get(bytes, 4, "flags")?, u32::from(initiator), target)
        } else {
            let initiator = get(bytes, 4, "initiator node id")?;
            (
                TwopcFlags::NONE,
                initiator,
                get(bytes, 8, "target node id")?,
            )
        };
        let node = |id: u32, field| {
            NodeId::new(id).ok_or(Fault::Field {
                field,
                value: id.into(),
            })
        };
        Ok(TwopcHead {
            tid: get(bytes, 0, "tid")?,
            flags,
            initiator: node(initiator, "initiator node id")?,
            target: if target == u32::MAX {
                None
            } else {
                Some(node(target, "target node id")?)
            },
            nodes_to_reach: get(bytes, 12, "nodes to reach")?,
        })
    }
    fn store(&self, ctx: &Ctx, buf: &mut [u8; REQUEST_LEN]) {
        set(buf, 0, &self.tid);
        if ctx.has(Features::TWOPC_V2) {
            set(buf, 4, &self.flags.union(TwopcFlags::HAS_FLAGS));
            set(buf, 10, &self.initiator.get());
            set(buf, 11, &self.target.map_or(u8::MAX, NodeId::get));
        } else {
            set(buf, 4, &self.initiator);
            set(
                buf,
                8,
                &self.target.map_or(u32::MAX, |node| node.get().into()),
            );
        }
        set(buf, 12, &self.nodes_to_reach);
    }
}

macro_rules! request {
    ($name:ident, $($field:ident: $what:literal = $off:literal),*) => {
        impl Body for $name {
            fn fixed_len(_: &Ctx, length: u32) -> Result<u32, Fault> {
                exactly(length, REQUEST_LEN as u32)
            }
            fn load(ctx: &Ctx, bytes: &[u8], _: u32) -> Result<Self, Fault> {
                Ok($name {
                    head: TwopcHead::load(ctx, bytes)?,
                    $($field: get(bytes, $off, $what)?,)*
                })
            }
            fn store(&self, ctx: &Ctx, out: &mut impl Put) {
                let mut buf = [0; REQUEST_LEN];
                self.head.store(ctx, &mut buf);
                $(set(&mut buf, $off, &self.$field);)*
                out.put(&buf);
            }
            fn stored_len(&self, _: &Ctx) -> usize {
                REQUEST_LEN
            }
        }
    };
}

/// P_TWOPC_PREPARE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwopcPrepare {
    /// The transaction.
    pub head: TwopcHead,
    /// The change, as the initiator sees it.
    pub change: StateChange,
}
request!(TwopcPrepare, change: "change" = 28);

/// P_TWOPC_PREP_RSZ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwopcPrepResize {
    /// The transaction.
    pub head: TwopcHead,
    /// The size asked for; 0 = as large as possible.
    pub user_size: Sectors,
    /// How to resize.
    pub dds_flags: DdsFlags,
}
request!(TwopcPrepResize, user_size: "user size" = 20, dds_flags: "dds flags" = 28);

/// P_TWOPC_COMMIT and P_TWOPC_ABORT. What the last eight bytes say depends on the transaction they
/// belong to, which the packet alone does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwopcPhase2 {
    /// The transaction.
    pub head: TwopcHead,
    /// The Primaries; of a resize: those with disk.
    pub primary_nodes: NodeMask,
    /// Read it with [`TwopcPhase2::reachable_nodes`], [`TwopcPhase2::change`] or
    /// [`TwopcPhase2::size`].
    pub tail: u64,
}
request!(TwopcPhase2, primary_nodes: "primary nodes" = 20, tail: "tail" = 28);

impl TwopcPhase2 {
    /// Phase 2 of a state change, in the form the receiver understands: the reachable nodes with
    /// FF_2PC_V2, else the change.
    pub const fn for_state_change(
        ctx: &Ctx,
        head: TwopcHead,
        primary: NodeMask,
        reachable: NodeMask,
        change: StateChange,
    ) -> Self {
        if ctx.has(Features::TWOPC_V2) {
            Self::with_reachable(head, primary, reachable)
        } else {
            Self::with_change(head, primary, change)
        }
    }
    /// Phase 2 of a state change: sets HAS_REACHABLE. Without FF_2PC_V2 the change itself has to be
    /// sent instead, see [`TwopcPhase2::with_change`].
    pub const fn with_reachable(head: TwopcHead, primary: NodeMask, reachable: NodeMask) -> Self {
        let head = TwopcHead {
            flags: head.flags.union(TwopcFlags::HAS_REACHABLE),
            ..head
        };
        TwopcPhase2 {
            head,
            primary_nodes: primary,
            tail: reachable.0,
        }
    }
    /// Phase 2 of a state change without the reachable nodes.
    pub const fn with_change(head: TwopcHead, primary: NodeMask, change: StateChange) -> Self {
        let head = TwopcHead {
            flags: head.flags.minus(TwopcFlags::HAS_REACHABLE),
            ..head
        };
        let tail = (change.mask.0 as u64) << 32 | change.val.0 as u64;
        TwopcPhase2 {
            head,
            primary_nodes: primary,
            tail,
        }
    }
    /// Phase 2 of a resize to `size`.
    pub const fn with_size(head: TwopcHead, diskful_primaries: NodeMask, size: Sectors) -> Self {
        TwopcPhase2 {
            head,
            primary_nodes: diskful_primaries,
            tail: size.0,
        }
    }
    /// Of a state change: the nodes reachable in the target's partition, if the initiator says.
    pub const fn reachable_nodes(&self) -> Option<NodeMask> {
        if self.head.flags.contains(TwopcFlags::HAS_REACHABLE) {
            Some(NodeMask(self.tail))
        } else {
            None
        }
    }
    /// Of a state change without [`TwopcPhase2::reachable_nodes`]: the change.
    pub fn change(&self) -> Option<StateChange> {
        match self.reachable_nodes() {
            Some(_) => None,
            None => StateChange::load(&self.tail.to_be_bytes()).ok(),
        }
    }
    /// Of a resize: the new size.
    pub const fn size(&self) -> Sectors {
        Sectors(self.tail)
    }
}

wire_struct! {
    body
    /// P_TWOPC_YES, P_TWOPC_NO and P_TWOPC_RETRY. Only YES contents are evaluated.
    pub struct TwopcReply [32] {
        /// The transaction.
        pub tid: u32 = 0,
        /// Who started it.
        pub initiator: NodeId = 4,
        /// Nodes connected to the sender, and itself.
        pub reachable_nodes: NodeMask = 8,
        /// The Primaries among them; for a resize: those with disk.
        pub primary_nodes: NodeMask = 16,
        /// Read it with [`TwopcReply::weak_nodes`] or [`TwopcReply::max_possible_size`].
        pub tail: u64 = 24,
    }
}

impl TwopcReply {
    /// An answer without content, for NO and RETRY.
    pub const fn empty(tid: u32, initiator: NodeId) -> TwopcReply {
        TwopcReply {
            tid,
            initiator,
            reachable_nodes: NodeMask::EMPTY,
            primary_nodes: NodeMask::EMPTY,
            tail: 0,
        }
    }
    /// To a state change: nodes without the current data.
    pub const fn weak_nodes(&self) -> NodeMask {
        NodeMask(self.tail)
    }
    /// To a resize: the largest size possible here and behind.
    pub const fn max_possible_size(&self) -> Sectors {
        Sectors(self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{ConnState, Role};
    use std::vec::Vec;

    fn head(flags: TwopcFlags) -> TwopcHead {
        TwopcHead {
            tid: 0x1A2B_3C4D,
            flags,
            initiator: NodeId::new(3).unwrap(),
            target: None,
            nodes_to_reach: NodeMask(!3),
        }
    }

    /// Wire protocol, section 12.1, the column "Without V2".
    #[test]
    fn first_layout() {
        let ctx = Ctx::new(121, Features(0xf));
        let change = StateChange::EMPTY
            .role(Role::Primary)
            .conn(ConnState::Connected);
        let commit = TwopcPhase2::for_state_change(
            &ctx,
            head(TwopcFlags::NONE),
            NodeMask(8),
            NodeMask(9),
            change,
        );
        let mut out = Vec::new();
        commit.store(&ctx, &mut out);
        let mut expected = Vec::from(0x1A2B_3C4Du32.to_be_bytes());
        expected.extend([0, 0, 0, 3, 0xff, 0xff, 0xff, 0xff]);
        expected.extend((!3u64).to_be_bytes());
        expected.extend(8u64.to_be_bytes());
        expected.extend([0, 0, 1, 0xf3, 0, 0, 0, 0x91]);
        assert_eq!(out, expected);
        let got = TwopcPhase2::load(&ctx, &out, 36).unwrap();
        assert_eq!(got, commit);
        assert_eq!(got.change(), Some(change));
        assert_eq!(got.reachable_nodes(), None);
    }

    #[test]
    fn second_layout_has_the_reachable_nodes() {
        let ctx = Ctx::new(124, Features::ALL);
        let head = head(TwopcFlags::HAS_FLAGS | TwopcFlags::PRI_INCAPABLE);
        let change = StateChange::EMPTY;
        let commit = TwopcPhase2::for_state_change(&ctx, head, NodeMask(8), NodeMask(9), change);
        assert_eq!(commit.reachable_nodes(), Some(NodeMask(9)));
        assert_eq!(commit.change(), None);
        assert_eq!(commit.head.flags.0, 0xe000_0000);
    }
}
