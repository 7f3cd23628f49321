//! A strategy for every packet.

use drbd_proto::packet::*;
use drbd_proto::*;
use proptest::prelude::*;
use proptest::sample::select;

use super::fields::*;

pub(crate) fn data(ctx: Ctx) -> impl Strategy<Value = Data> {
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
pub(crate) fn packet(cmd: Cmd, ctx: Ctx) -> BoxedStrategy<Packet> {
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
