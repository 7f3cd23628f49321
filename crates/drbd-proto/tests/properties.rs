//! Every packet, in every version and with every set of features that has it, survives the wire; and no
//! bytes whatever make the decoder panic or read without bounds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Helpers of tests fail loudly.

mod support;

use drbd_proto::header::{Format, Header};
use drbd_proto::packet::*;
use drbd_proto::{
    AlgName, BarrierNr, BlockId, Bytes, ConnFlags, ConnState, Ctx, Dagtag, DdsFlags, DecodeError,
    DigestValue, DiskState, DpFlags, EncodeError, Features, MAX_DISCARD_SIZE, NodeId, NodeMask,
    ReplState, Role, Sector, Sectors, State, StateChange, StateWord, Stream, TwopcFlags, Uuid,
    UuidFlags, VolumeNr, max_request_size,
};
use proptest::prelude::*;
use proptest::sample::select;
use support::take;

const VERSIONS: &[u16] = &[
    86, 87, 88, 89, 90, 93, 94, 95, 96, 99, 100, 101, 110, 112, 114, 118, 121, 122, 123, 124,
];

const MAGICS: &[&[u8]] = &[
    &[0x86, 0x20, 0xec, 0x20],
    &[0x83, 0x74, 2, 0x67],
    &[0x83, 0x5a],
    &[],
];

fn ctx() -> impl Strategy<Value = Ctx> {
    (
        select(VERSIONS),
        prop_oneof![Just(Features::ALL), (0..=0x3ffu32).prop_map(Features)],
        0..=64u8,
    )
        .prop_map(|(version, features, len)| Ctx::new(version, features).with_integrity_len(len))
}

fn node() -> impl Strategy<Value = NodeId> {
    (0..32u32).prop_map(|id| NodeId::new(id).unwrap())
}
fn mask() -> impl Strategy<Value = NodeMask> {
    any::<u64>().prop_map(NodeMask)
}
fn sector() -> impl Strategy<Value = Sector> {
    prop_oneof![0..1u64 << 41, any::<u64>().prop_map(|s| s >> 1)].prop_map(Sector)
}
fn size(max: u32) -> impl Strategy<Value = Bytes> {
    (1..=max / 512).prop_map(|n| Bytes(n * 512))
}
fn block_id() -> impl Strategy<Value = BlockId> {
    any::<u64>().prop_map(BlockId)
}
fn uuid() -> impl Strategy<Value = Uuid> {
    any::<u64>().prop_map(Uuid)
}
fn digest(len: impl Strategy<Value = usize>) -> impl Strategy<Value = DigestValue> {
    len.prop_flat_map(|len| prop::collection::vec(any::<u8>(), len))
        .prop_map(|bytes| DigestValue::new(&bytes).unwrap())
}
fn alg() -> impl Strategy<Value = AlgName> {
    "[a-z0-9()-]{0,63}".prop_map(|name| AlgName::new(&name).unwrap())
}
fn after_sb() -> impl Strategy<Value = AfterSb> {
    select(&[
        AfterSb::Disconnect,
        AfterSb::DiscardLocal,
        AfterSb::Consensus,
        AfterSb::AutoDiscard,
    ])
}

fn state(ctx: Ctx) -> impl Strategy<Value = State> {
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

fn change() -> impl Strategy<Value = StateChange> {
    any::<(u32, u32)>().prop_map(|(mask, val)| StateChange {
        mask: StateWord(mask),
        val: StateWord(val),
    })
}

fn head(ctx: Ctx) -> impl Strategy<Value = TwopcHead> {
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

fn request(ctx: &Ctx) -> impl Strategy<Value = BlockRequest> + use<> {
    (sector(), block_id(), size(max_request_size(ctx.version))).prop_map(
        |(sector, block_id, size)| BlockRequest {
            sector,
            block_id,
            size,
        },
    )
}

fn dagtag_request() -> impl Strategy<Value = DagtagRequest> {
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

fn outcome() -> impl Strategy<Value = OvOutcome> {
    select(&[OvOutcome::Skipped, OvOutcome::InSync, OvOutcome::OutOfSync])
}

/// Payload sizes that fit the header of the version.
fn payload(ctx: &Ctx) -> impl Strategy<Value = Bytes> + use<> {
    size(max_request_size(ctx.version))
}

fn data(ctx: Ctx) -> impl Strategy<Value = Data> {
    let digest = digest(Just(usize::from(ctx.integrity_len)));
    (
        sector(),
        block_id(),
        any::<u32>(),
        any::<u32>(),
        payload(&ctx),
        digest,
    )
        .prop_map(move |(sector, block_id, seq_num, flags, size, digest)| {
            let dp_flags = match ctx.version {
                0..=94 => DpFlags(flags) & DpFlags::RW_SYNC,
                95..=99 => DpFlags(flags & !0x180),
                _ => DpFlags(flags),
            };
            Data {
                sector,
                block_id,
                seq_num,
                dp_flags,
                size,
                digest,
            }
        })
}

/// A canonical packet of this command: one that loses nothing in this version.
fn packet(cmd: Cmd, ctx: Ctx) -> BoxedStrategy<Packet> {
    macro_rules! of {
        ($variant:ident, $strategy:expr) => {
            $strategy.prop_map(Packet::$variant).boxed()
        };
    }
    let reply = || {
        let digest = digest(Just(usize::from(ctx.integrity_len)));
        (sector(), block_id(), payload(&ctx), digest).prop_map(
            |(sector, block_id, size, digest)| DataReply {
                sector,
                block_id,
                size,
                digest,
            },
        )
    };
    let ack = || {
        (sector(), block_id(), any::<u32>(), any::<u32>()).prop_map(
            |(sector, block_id, size, seq_num)| BlockAck {
                sector,
                block_id,
                size: Bytes(size),
                seq_num,
            },
        )
    };
    let discard = || {
        (
            sector(),
            block_id(),
            any::<u32>(),
            any::<u32>(),
            size(MAX_DISCARD_SIZE),
        )
            .prop_map(|(sector, block_id, seq_num, flags, size)| Discard {
                sector,
                block_id,
                seq_num,
                dp_flags: DpFlags(flags),
                size,
            })
    };
    let protocol = || {
        let protocols = select(&[WireProtocol::A, WireProtocol::B, WireProtocol::C]);
        let sb = (after_sb(), after_sb(), after_sb());
        (protocols, sb, any::<u32>(), any::<bool>(), alg()).prop_map(
            move |(wire_protocol, sb, flags, two_primaries, alg)| {
                Box::new(Protocol {
                    wire_protocol,
                    after_sb_0p: sb.0,
                    after_sb_1p: sb.1,
                    after_sb_2p: sb.2,
                    conn_flags: ConnFlags(flags),
                    two_primaries,
                    integrity_alg: if ctx.version >= 87 {
                        alg
                    } else {
                        AlgName::NONE
                    },
                })
            },
        )
    };
    let sync_param = || {
        (any::<[u32; 5]>(), alg(), alg()).prop_map(move |(n, verify_alg, csums_alg)| {
            let mut p = SyncParam {
                rate: n[0],
                ..SyncParam::default()
            };
            if ctx.version >= 88 {
                p.verify_alg = verify_alg;
            }
            if ctx.version >= 89 {
                p.csums_alg = csums_alg;
            }
            if ctx.version >= 95 {
                p.c_plan_ahead = n[1];
                p.c_delay_target = n[2];
                p.c_fill_target = n[3];
                p.c_max_rate = n[4];
            }
            Box::new(p)
        })
    };
    let legacy_change = || {
        state(ctx).prop_map(|s| StateChgReq {
            change: StateChange::EMPTY
                .role(s.role)
                .disk(s.disk)
                .peer_disk(s.peer_disk)
                .repl(s.repl),
        })
    };
    let phase2 = || {
        (head(ctx), mask(), any::<u64>()).prop_map(|(head, primary_nodes, tail)| TwopcPhase2 {
            head,
            primary_nodes,
            tail,
        })
    };
    let twopc_reply = || {
        (any::<u32>(), node(), mask(), mask(), any::<u64>()).prop_map(
            |(tid, initiator, reachable_nodes, primary_nodes, tail)| TwopcReply {
                tid,
                initiator,
                reachable_nodes,
                primary_nodes,
                tail,
            },
        )
    };
    let enable = || any::<bool>().prop_map(|enable| EnableReplication { enable });
    let extent = || (sector(), any::<u32>().prop_map(Bytes));
    match cmd {
        Cmd::UnplugRemote => Just(Packet::UnplugRemote).boxed(),
        Cmd::Ping => Just(Packet::Ping).boxed(),
        Cmd::PingAck => Just(Packet::PingAck).boxed(),
        Cmd::Disconnect => Just(Packet::Disconnect).boxed(),
        Cmd::InitialMeta => Just(Packet::InitialMeta).boxed(),
        Cmd::InitialData => Just(Packet::InitialData).boxed(),
        Cmd::Data => of!(Data, data(ctx)),
        Cmd::DataReply => of!(DataReply, reply()),
        Cmd::RsDataReply => of!(RsDataReply, reply()),
        Cmd::Barrier => of!(
            Barrier,
            any::<u32>().prop_map(|n| Barrier {
                barrier: BarrierNr(n)
            })
        ),
        Cmd::Bitmap => of!(
            Bitmap,
            (0..=ctx.max_bitmap_payload() as usize / 8)
                .prop_flat_map(|words| prop::collection::vec(any::<u8>(), words * 8))
                .prop_map(|bytes| BitmapWords { bytes })
        ),
        Cmd::DataRequest => of!(DataRequest, request(&ctx)),
        Cmd::RsDataRequest => of!(RsDataRequest, request(&ctx)),
        Cmd::SyncParam => of!(SyncParam, sync_param()),
        Cmd::Protocol => of!(Protocol, protocol()),
        Cmd::Uuids => of!(
            Uuids,
            (uuid(), uuid(), [uuid(), uuid()], any::<u64>(), any::<u64>()).prop_map(
                |(current, bitmap, history, dirty_bits, flags)| Uuids {
                    current,
                    bitmap,
                    history,
                    dirty_bits,
                    flags: UuidFlags(flags),
                }
            )
        ),
        Cmd::Sizes => of!(
            Sizes,
            (
                any::<[u64; 3]>(),
                any::<[u32; 6]>(),
                any::<[u16; 2]>(),
                any::<[u8; 4]>()
            )
                .prop_map(move |(sizes, n, h, b)| Sizes {
                    d_size: Sectors(sizes[0]),
                    u_size: Sectors(sizes[1]),
                    c_size: Sectors(sizes[2]),
                    max_bio_size: Bytes(n[0]),
                    queue_order_type: h[0],
                    dds_flags: DdsFlags(h[1]),
                    limits: ctx.has(Features::WSAME).then_some(QueueLimits {
                        physical_block_size: n[1],
                        logical_block_size: n[2],
                        alignment_offset: n[3],
                        io_min: n[4],
                        io_opt: n[5],
                        discard_enabled: b[0],
                        discard_zeroes_data: b[1],
                        write_same_capable: b[2],
                        bm_block_shift: b[3],
                    }),
                })
        ),
        Cmd::State => of!(State, state(ctx)),
        Cmd::SyncUuid => of!(SyncUuid, uuid().prop_map(|uuid| SyncUuid { uuid })),
        Cmd::AuthChallenge => of!(
            AuthChallenge,
            any::<([u8; 32], [u8; 32])>().prop_map(|(a, b)| {
                let mut bytes = [0; CHALLENGE_LEN];
                bytes[..32].copy_from_slice(&a);
                bytes[32..].copy_from_slice(&b);
                AuthChallenge(bytes)
            })
        ),
        Cmd::AuthResponse => of!(AuthResponse, digest(1..=64usize).prop_map(AuthResponse)),
        Cmd::StateChgReq => of!(StateChgReq, legacy_change()),
        Cmd::RecvAck => of!(RecvAck, ack()),
        Cmd::WriteAck => of!(WriteAck, ack()),
        Cmd::RsWriteAck => of!(RsWriteAck, ack()),
        Cmd::Superseded => of!(Superseded, ack()),
        Cmd::NegAck => of!(NegAck, ack()),
        Cmd::NegDreply => of!(NegDreply, ack()),
        Cmd::NegRsDreply => of!(NegRsDreply, ack()),
        Cmd::BarrierAck => of!(
            BarrierAck,
            any::<(u32, u32)>().prop_map(|(n, set_size)| BarrierAck {
                barrier: BarrierNr(n),
                set_size
            })
        ),
        Cmd::StateChgReply => {
            of!(
                StateChgReply,
                any::<i32>().prop_map(|code| StateChgReply { code })
            )
        }
        Cmd::OvRequest => of!(OvRequest, request(&ctx)),
        Cmd::OvReply => of!(
            OvReply,
            (request(&ctx), digest(1..=64usize))
                .prop_map(|(request, digest)| OvReply { request, digest })
        ),
        Cmd::OvResult => of!(
            OvResult,
            (extent(), any::<u32>(), outcome()).prop_map(|((sector, size), seq_num, result)| {
                OvResult {
                    sector,
                    result,
                    size,
                    seq_num,
                }
            })
        ),
        Cmd::CsumRsRequest => of!(
            CsumRsRequest,
            (request(&ctx), digest(1..=64usize))
                .prop_map(|(request, digest)| CsumRequest { request, digest })
        ),
        Cmd::RsIsInSync => of!(RsIsInSync, ack()),
        Cmd::SyncParam89 => of!(SyncParam89, sync_param()),
        Cmd::CompressedBitmap => of!(
            CompressedBitmap,
            (
                any::<bool>(),
                0..8u8,
                prop::collection::vec(any::<u8>(), 1..ctx.max_bitmap_payload() as usize)
            )
                .prop_map(|(first_set, pad_bits, code)| CompressedBitmap {
                    first_set,
                    pad_bits,
                    code
                })
        ),
        Cmd::DelayProbe => of!(
            DelayProbe,
            any::<(u32, u32)>().prop_map(|(seq_num, offset)| DelayProbe { seq_num, offset })
        ),
        Cmd::OutOfSync => {
            of!(
                OutOfSync,
                extent().prop_map(|(sector, size)| OutOfSync { sector, size })
            )
        }
        Cmd::RsCancel => of!(RsCancel, ack()),
        Cmd::ConnStChgReq => of!(ConnStChgReq, legacy_change()),
        Cmd::ConnStChgReply => {
            of!(
                ConnStChgReply,
                any::<i32>().prop_map(|code| StateChgReply { code })
            )
        }
        Cmd::RetryWrite => of!(RetryWrite, ack()),
        Cmd::ProtocolUpdate => of!(ProtocolUpdate, protocol()),
        Cmd::TwopcPrepare => of!(
            TwopcPrepare,
            (head(ctx), change()).prop_map(|(head, change)| TwopcPrepare { head, change })
        ),
        Cmd::TwopcAbort => of!(TwopcAbort, phase2()),
        Cmd::Dagtag => {
            of!(
                Dagtag,
                any::<u64>().prop_map(|d| DagtagPosition { dagtag: Dagtag(d) })
            )
        }
        Cmd::Trim => of!(Trim, discard()),
        Cmd::RsThinReq => of!(RsThinReq, request(&ctx)),
        Cmd::RsDeallocated => {
            of!(
                RsDeallocated,
                extent().prop_map(|(sector, size)| Deallocated { sector, size })
            )
        }
        Cmd::Wsame => of!(
            Wsame,
            (data(ctx), size(MAX_DISCARD_SIZE)).prop_map(|(data, size)| WriteSame { data, size })
        ),
        Cmd::TwopcPrepRsz => of!(
            TwopcPrepRsz,
            (head(ctx), any::<u64>(), any::<u16>()).prop_map(|(head, size, flags)| {
                TwopcPrepResize {
                    head,
                    user_size: Sectors(size),
                    dds_flags: DdsFlags(flags),
                }
            })
        ),
        Cmd::Zeroes => of!(Zeroes, discard()),
        Cmd::PeerAck => of!(
            PeerAck,
            (mask(), any::<u64>()).prop_map(|(nodes, dagtag)| PeerAck {
                nodes,
                dagtag: Dagtag(dagtag)
            })
        ),
        Cmd::PeersInSync => of!(
            PeersInSync,
            (extent(), mask()).prop_map(|((sector, size), nodes)| PeersInSync {
                sector,
                nodes,
                size
            })
        ),
        Cmd::Uuids110 => of!(
            Uuids110,
            (
                [uuid(), uuid()],
                any::<u64>(),
                any::<u64>(),
                mask(),
                prop::collection::btree_map(node(), uuid(), 0..=32)
            )
                .prop_map(
                    |([current, older], dirty_bits, flags, node_mask, bitmap)| {
                        let mut uuids = Uuids110 {
                            current,
                            dirty_bits,
                            flags: UuidFlags(flags),
                            node_mask,
                            ..Uuids110::default()
                        };
                        uuids.history[31] = older;
                        for (node, uuid) in bitmap {
                            uuids.set_bitmap_uuid(node, uuid);
                        }
                        Box::new(uuids)
                    }
                )
        ),
        Cmd::PeerDagtag => of!(
            PeerDagtag,
            (any::<u64>(), node()).prop_map(|(d, node_id)| PeerDagtag {
                dagtag: Dagtag(d),
                node_id
            })
        ),
        Cmd::CurrentUuid => of!(
            CurrentUuid,
            (uuid(), mask()).prop_map(|(uuid, weak_nodes)| CurrentUuid { uuid, weak_nodes })
        ),
        Cmd::TwopcYes => of!(TwopcYes, twopc_reply()),
        Cmd::TwopcNo => of!(TwopcNo, twopc_reply()),
        Cmd::TwopcCommit => of!(TwopcCommit, phase2()),
        Cmd::TwopcRetry => of!(TwopcRetry, twopc_reply()),
        Cmd::ConfirmStable => of!(
            ConfirmStable,
            (block_id(), block_id(), any::<u32>()).prop_map(|(oldest, youngest, set_size)| {
                ConfirmStable {
                    oldest,
                    youngest,
                    set_size,
                }
            })
        ),
        Cmd::RsCancelAhead => of!(RsCancelAhead, ack()),
        Cmd::RsDagtagReq => of!(RsDagtagReq, dagtag_request()),
        Cmd::RsCsumDagtagReq => of!(
            RsCsumDagtagReq,
            (dagtag_request(), digest(1..=64usize))
                .prop_map(|(request, digest)| CsumDagtagRequest { request, digest })
        ),
        Cmd::RsThinDagtagReq => of!(RsThinDagtagReq, dagtag_request()),
        Cmd::OvDagtagReq => of!(OvDagtagReq, dagtag_request()),
        Cmd::OvDagtagReply => of!(
            OvDagtagReply,
            (dagtag_request(), digest(1..=64usize))
                .prop_map(|(request, digest)| OvDagtagReply { request, digest })
        ),
        Cmd::WriteAckInSync => of!(WriteAckInSync, ack()),
        Cmd::RsNegAck => of!(RsNegAck, ack()),
        Cmd::OvResultId => of!(
            OvResultId,
            (extent(), block_id(), any::<u32>(), outcome()).prop_map(
                |((sector, size), block_id, seq_num, result)| OvResultId {
                    sector,
                    block_id,
                    size,
                    seq_num,
                    result
                }
            )
        ),
        Cmd::RsDeallocatedId => of!(RsDeallocatedId, ack()),
        Cmd::FlushRequests => {
            of!(
                FlushRequests,
                any::<u64>().prop_map(|sequence| FlushRequests { sequence })
            )
        }
        Cmd::FlushForward => of!(
            FlushForward,
            (any::<u64>(), node()).prop_map(|(sequence, initiator)| FlushForward {
                sequence,
                initiator
            })
        ),
        Cmd::FlushRequestsAck => of!(
            FlushRequestsAck,
            (any::<u64>(), node())
                .prop_map(|(sequence, primary)| FlushRequestsAck { sequence, primary })
        ),
        Cmd::EnableReplicationNext => of!(EnableReplicationNext, enable()),
        Cmd::EnableReplication => of!(EnableReplication, enable()),
        Cmd::ConnectionFeatures => of!(
            ConnectionFeatures,
            any::<[u32; 5]>().prop_map(|n| ConnectionFeatures {
                protocol_min: n[0],
                features: Features(n[1]),
                protocol_max: n[2],
                sender_node_id: n[3],
                receiver_node_id: n[4],
            })
        ),
    }
}

fn volume() -> impl Strategy<Value = VolumeNr> {
    any::<u16>().prop_map(VolumeNr::from_wire)
}

/// The context packets before the agreement are decoded with.
fn receiving(cmd: Cmd, ctx: Ctx) -> Ctx {
    if cmd.is_always_v80() {
        Ctx::INITIAL
    } else {
        ctx
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One packet of every command per case, in a random version with random features.
    #[test]
    fn every_packet_round_trips(
        (ctx, packets) in ctx().prop_flat_map(|ctx| {
            let packets: Vec<_> = Cmd::ALL.iter().map(|cmd| packet(*cmd, ctx)).collect();
            (Just(ctx), packets)
        }),
        volume in volume(),
    ) {
        let mut stream = vec![];
        let mut sent = vec![];
        for packet in packets {
            let cmd = packet.cmd();
            let mut out = vec![];
            let result = packet.encode(&ctx, volume, &mut out);
            if !cmd.is_agreed(&ctx) {
                let version = ctx.version;
                prop_assert_eq!(result, Err(EncodeError::NotAgreed { cmd, version }));
                prop_assert!(out.is_empty());
                continue;
            }
            prop_assert_eq!(result, Ok(()));
            let ctx = receiving(cmd, ctx);
            let got = take(&ctx, cmd.stream(), &out).unwrap().unwrap();
            prop_assert_eq!(&got.packet, &packet);
            prop_assert_eq!(got.len, out.len());
            prop_assert_eq!(got.header.code, cmd.code());
            if out.starts_with(&[0x86]) {
                prop_assert_eq!(got.header.volume, volume);
            }
            // Every shorter prefix asks for more, or says what is wrong, but never makes a packet.
            for cut in [0, 1, 7, 8, 15, out.len() / 2, out.len() - 1] {
                let part = &out[..cut.min(out.len() - 1)];
                prop_assert!(take(&ctx, cmd.stream(), part).unwrap().is_none());
            }
            let other = if cmd.stream() == Stream::Data { Stream::Control } else { Stream::Data };
            if !cmd.allowed_on(other) {
                let header = got.header;
                let error = DecodeError::WrongStream { cmd, stream: other };
                prop_assert_eq!(Packet::fixed_len(&ctx, other, &header), Err(error));
            }
            if !cmd.is_always_v80() && cmd.stream() == Stream::Data && packet.payload_len() == 0 {
                stream.extend(out);
                sent.push(packet);
            }
        }
        // One after the other they make a stream that comes apart again.
        let mut rest = &stream[..];
        for packet in sent {
            let got = take(&ctx, Stream::Data, rest).unwrap().unwrap();
            prop_assert_eq!(got.packet, packet);
            rest = &rest[got.len..];
        }
        prop_assert!(rest.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// A good header in front of arbitrary bytes: an error or a packet, and a packet means the same after
    /// being sent on.
    #[test]
    fn arbitrary_bodies(
        ctx in ctx(),
        cmd in select(Cmd::ALL),
        volume in volume(),
        length in prop_oneof![
            select(&[0u32, 4, 8, 12, 16, 24, 25, 28, 32, 36, 40, 44, 48, 56, 64, 72, 132, 148, 304]),
            0..700u32, 0..5000u32, any::<u32>()],
        body in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 4088),
    ) {
        let ctx = receiving(cmd, ctx);
        let header = Header { volume, code: cmd.code(), length };
        for stream in [Stream::Data, Stream::Control] {
            let Ok(fixed) = Packet::fixed_len(&ctx, stream, &header) else { continue };
            prop_assert!(fixed <= drbd_proto::MAX_FIXED_LEN && fixed as u32 <= length);
            let Ok(packet) = Packet::decode(&ctx, &header, &body[..fixed]) else { continue };
            prop_assert_eq!(packet.payload_len(), length - fixed as u32);
            prop_assert!(packet.payload_len() <= 1 << 20);
            let mut out = vec![];
            match packet.encode(&ctx, volume, &mut out) {
                Ok(()) => {
                    let again = take(&ctx, stream, &out).unwrap().unwrap();
                    // What is not sent on (padding, flags unknown to the version) is gone after the
                    // first time; then nothing changes any more.
                    let mut twice = vec![];
                    again.packet.encode(&ctx, again.header.volume, &mut twice).unwrap();
                    prop_assert_eq!(&again.packet.cmd(), &cmd);
                    let third = take(&ctx, stream, &twice).unwrap().unwrap();
                    prop_assert_eq!(third.packet, again.packet);
                }
                Err(EncodeError::NotAgreed { .. }) => prop_assert!(!cmd.is_agreed(&ctx)),
                Err(EncodeError::TooLong { .. }) => prop_assert!(ctx.version < 95),
            }
        }
    }

    /// Arbitrary bytes as a stream.
    #[test]
    fn arbitrary_streams(
        ctx in ctx(),
        control: bool,
        magic in select(MAGICS),
        tail in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let stream = if control { Stream::Control } else { Stream::Data };
        let bytes = [magic, &tail].concat();
        let _ = take(&ctx, stream, &bytes);
        let _ = Header::missing(&bytes);
    }

    /// Headers of every format.
    #[test]
    fn headers_round_trip(
        volume in volume(), code: u16, length: u32,
        format in select(&[Format::V80, Format::V95, Format::V100]),
    ) {
        let header = match format {
            Format::V80 => Header { volume: VolumeNr::ZERO, code, length: length & 0xffff },
            Format::V95 => Header { volume: VolumeNr::ZERO, code, length },
            Format::V100 => Header { volume, code, length },
        };
        let mut out = vec![];
        header.encode(format, &mut out).unwrap();
        prop_assert_eq!(out.len(), format.header_len());
        for version in VERSIONS {
            let control = Header::parse(*version, Stream::Control, &out);
            prop_assert_eq!(control, Ok(Some((header, out.len()))));
            let data = Header::parse(*version, Stream::Data, &out);
            if format.allowed_on_data(*version) {
                prop_assert_eq!(data, Ok(Some((header, out.len()))));
            } else {
                let error = DecodeError::HeaderNotAllowed { format, version: *version };
                prop_assert_eq!(data, Err(error));
            }
        }
    }
}

#[test]
fn unknown_commands_are_named() {
    let ctx = Ctx::new(124, Features::ALL);
    let known = |code| Cmd::from_code(code).is_some();
    for code in 0..=u16::MAX {
        let header = Header {
            volume: VolumeNr::ZERO,
            code,
            length: 0,
        };
        if !known(code) {
            let error = Packet::fixed_len(&ctx, Stream::Data, &header).unwrap_err();
            assert_eq!(error, DecodeError::UnknownCommand(code));
            assert_eq!(error.is_may_ignore(), code > 0x100 && code < 0xfff0);
        }
    }
    assert_eq!(Cmd::ALL.len(), (0..=u16::MAX).filter(|c| known(*c)).count());
    for never_sent in [0x05, 0x06, 0x25, 0x26, 0x100] {
        assert!(!known(never_sent));
    }
}

#[test]
fn illegal_lengths_and_fields() {
    let ctx = Ctx::new(124, Features::ALL);
    let check = |cmd: Cmd, length| {
        let header = Header {
            volume: VolumeNr::ZERO,
            code: cmd.code(),
            length,
        };
        Packet::fixed_len(&ctx, cmd.stream(), &header).is_ok()
    };
    for (cmd, good, bad) in [
        (Cmd::Ping, &[0][..], &[1, 16][..]),
        (
            Cmd::Data,
            &[24 + 512, 24 + (1 << 20)],
            &[24, 24 + 513, 24 + 512 + (1 << 20), 0],
        ),
        (Cmd::Sizes, &[56], &[32, 57]),
        (Cmd::Uuids110, &[40, 48, 41, 552, 4080], &[39, 4081]),
        (Cmd::Bitmap, &[0, 8, 4080], &[4, 4088]),
        (Cmd::CompressedBitmap, &[2, 4080], &[0, 1, 4081]),
        (Cmd::Protocol, &[24, 25, 88], &[23, 89]),
        (Cmd::AuthChallenge, &[64], &[63, 65]),
        (Cmd::AuthResponse, &[16, 64], &[0, 65]),
        (Cmd::RsCsumDagtagReq, &[33, 96], &[32, 97]),
        (Cmd::SyncParam89, &[148], &[132, 149]),
    ] {
        assert!(good.iter().all(|length| check(cmd, *length)), "{cmd}");
        assert!(bad.iter().all(|length| !check(cmd, *length)), "{cmd}");
    }

    let decode = |cmd: Cmd, body: &[u8]| {
        let header = Header {
            volume: VolumeNr::ZERO,
            code: cmd.code(),
            length: body.len() as u32,
        };
        Packet::decode(&ctx, &header, body).map_err(|error| match error {
            DecodeError::Field { field, value, .. } => (field, value),
            other => panic!("{other}"),
        })
    };
    let mut trim = [0; 28];
    assert_eq!(decode(Cmd::Trim, &trim), Err(("size", 0)));
    trim[24..].copy_from_slice(&(MAX_DISCARD_SIZE + 512).to_be_bytes());
    assert_eq!(
        decode(Cmd::Trim, &trim),
        Err(("size", u64::from(MAX_DISCARD_SIZE) + 512))
    );
    trim[24..].copy_from_slice(&1024u32.to_be_bytes());
    assert!(decode(Cmd::Trim, &trim).is_ok());
    trim[..8].fill(0xff);
    assert_eq!(decode(Cmd::Trim, &trim), Err(("sector", u64::MAX)));
    let mut uuids = [0; 40];
    uuids[39] = 1;
    assert_eq!(decode(Cmd::Uuids110, &uuids), Err(("bitmap UUID mask", 1)));
    uuids[35] = 1;
    assert_eq!(
        decode(Cmd::Uuids110, &uuids),
        Err(("bitmap UUID mask", 0x1_0000_0001))
    );
    assert_eq!(
        decode(Cmd::CompressedBitmap, &[0x03, 0]),
        Err(("bitmap encoding", 3))
    );
    assert_eq!(decode(Cmd::State, &[0, 0, 0, 3]), Err(("role", 3)));
    let mut prepare = [0; 36];
    prepare[10] = 32;
    assert_eq!(
        decode(Cmd::TwopcPrepare, &prepare),
        Err(("initiator node id", 32))
    );
    let mut protocol = [0; 25];
    assert_eq!(decode(Cmd::Protocol, &protocol), Err(("wire protocol", 0)));
    protocol[3] = 1;
    protocol[7] = 13;
    assert_eq!(decode(Cmd::Protocol, &protocol), Err(("after-sb-0pri", 13)));
}

#[test]
fn packets_are_small() {
    assert!(size_of::<Packet>() <= 128, "{}", size_of::<Packet>());
}
