//! Strategies for the fields of packets.

use drbd_proto::packet::*;
use drbd_proto::*;
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) const VERSIONS: &[u16] = &[
    86, 87, 88, 89, 90, 93, 94, 95, 96, 99, 100, 101, 110, 112, 114, 118, 121, 122, 123, 124,
];

pub(crate) const MAGICS: &[&[u8]] = &[
    &[0x86, 0x20, 0xec, 0x20],
    &[0x83, 0x74, 2, 0x67],
    &[0x83, 0x5a],
    &[],
];

pub(crate) fn ctx() -> impl Strategy<Value = Ctx> {
    (
        select(VERSIONS),
        prop_oneof![Just(Features::ALL), (0..=0x3ffu32).prop_map(Features)],
        0..=64u8,
    )
        .prop_map(|(version, features, len)| Ctx::new(version, features).with_integrity_len(len))
}

pub(crate) fn node() -> impl Strategy<Value = NodeId> {
    (0..32u32).prop_map(|id| NodeId::new(id).unwrap())
}
pub(crate) fn mask() -> impl Strategy<Value = NodeMask> {
    any::<u64>().prop_map(NodeMask)
}
pub(crate) fn sector() -> impl Strategy<Value = Sector> {
    prop_oneof![0..1u64 << 41, any::<u64>().prop_map(|s| s >> 1)].prop_map(Sector)
}
pub(crate) fn size(max: u32) -> impl Strategy<Value = Bytes> {
    (1..=max / 512).prop_map(|n| Bytes(n * 512))
}
pub(crate) fn block_id() -> impl Strategy<Value = BlockId> {
    any::<u64>().prop_map(BlockId)
}
pub(crate) fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u64>().prop_map(Uuid)
}
pub(crate) fn digest(len: impl Strategy<Value = usize>) -> impl Strategy<Value = DigestValue> {
    len.prop_flat_map(|len| prop::collection::vec(any::<u8>(), len))
        .prop_map(|bytes| DigestValue::new(&bytes).unwrap())
}
pub(crate) fn alg() -> impl Strategy<Value = AlgName> {
    "[a-z0-9()-]{0,63}".prop_map(|name| AlgName::new(&name).unwrap())
}
pub(crate) fn after_sb() -> impl Strategy<Value = AfterSb> {
    select(&[
        AfterSb::Disconnect,
        AfterSb::DiscardLocal,
        AfterSb::Consensus,
        AfterSb::AutoDiscard,
    ])
}

pub(crate) fn state(ctx: Ctx) -> impl Strategy<Value = State> {
    let disk = || {
        select(DiskState::ALL)
            // 8.x has no Detaching: it arrives as Failed.
            .prop_filter("in 8.x", move |d| {
                ctx.is_modern() || *d != DiskState::Detaching
            })
    };
    let conn = prop_oneof![
        select(ConnState::ALL).prop_map(|conn| (conn, ReplState::Off)),
        select(ReplState::ALL).prop_map(|repl| (ConnState::Connected, repl)),
    ];
    (
        select(Role::ALL),
        select(Role::ALL),
        conn,
        disk(),
        disk(),
        any::<[bool; 7]>(),
    )
        .prop_map(move |(role, peer, (conn, repl), disk, peer_disk, flags)| {
            let [
                susp,
                aftr_isp,
                peer_isp,
                user_isp,
                susp_nod,
                susp_fen,
                quorum,
            ] = flags;
            State {
                role,
                peer,
                conn,
                repl,
                disk,
                peer_disk,
                susp,
                aftr_isp,
                peer_isp,
                user_isp,
                susp_nod,
                susp_fen,
                quorum: quorum && ctx.is_modern(),
            }
        })
}

pub(crate) fn change() -> impl Strategy<Value = StateChange> {
    any::<(u32, u32)>().prop_map(|(mask, val)| StateChange {
        mask: StateWord(mask),
        val: StateWord(val),
    })
}

pub(crate) fn head(ctx: Ctx) -> impl Strategy<Value = TwopcHead> {
    (
        any::<u32>(),
        any::<u32>(),
        node(),
        prop::option::of(node()),
        mask(),
    )
        .prop_map(move |(tid, flags, initiator, target, nodes_to_reach)| {
            let flags = if ctx.has(Features::TWOPC_V2) {
                TwopcFlags(flags) | TwopcFlags::HAS_FLAGS
            } else {
                TwopcFlags::NONE
            };
            TwopcHead {
                tid,
                flags,
                initiator,
                target,
                nodes_to_reach,
            }
        })
}

pub(crate) fn request(ctx: &Ctx) -> impl Strategy<Value = BlockRequest> + use<> {
    (sector(), block_id(), size(max_request_size(ctx.version))).prop_map(
        |(sector, block_id, size)| BlockRequest {
            sector,
            block_id,
            size,
        },
    )
}

pub(crate) fn dagtag_request() -> impl Strategy<Value = DagtagRequest> {
    (sector(), block_id(), size(1 << 20), node(), any::<u64>()).prop_map(
        |(sector, block_id, size, dagtag_node_id, dagtag)| DagtagRequest {
            sector,
            block_id,
            size,
            dagtag_node_id,
            dagtag: Dagtag(dagtag),
        },
    )
}

pub(crate) fn outcome() -> impl Strategy<Value = OvOutcome> {
    select(&[OvOutcome::Skipped, OvOutcome::InSync, OvOutcome::OutOfSync])
}

/// Payload sizes that fit the header of the version.
pub(crate) fn payload(ctx: &Ctx) -> impl Strategy<Value = Bytes> + use<> {
    size(max_request_size(ctx.version))
}
