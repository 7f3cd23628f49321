//! The examples of the wire protocol, chapters 26 and 27: each dump decodes to the packet its text
//! describes, and that packet encodes to the dump.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // Helpers of tests fail loudly.

mod support;

use drbd_proto::packet::*;
use drbd_proto::{
    AlgName, BarrierNr, BlockId, Bytes, ConnFlags, ConnState, Ctx, Dagtag, DdsFlags, DigestValue,
    DiskState, DpFlags, Features, Header, NodeId, NodeMask, ReplState, Role, Sector, Sectors,
    State, StateChange, Stream, TwopcFlags, Uuid, UuidFlags, VolumeNr,
};
use support::{take, unhex};

/// The dumps by title, in order.
fn dumps() -> Vec<(String, Vec<Vec<u8>>)> {
    let mut all: Vec<(String, Vec<Vec<u8>>)> = vec![];
    let mut repeat = false;
    for line in include_str!("data/examples.txt").lines() {
        if let Some(title) = line.strip_prefix("== ") {
            all.push((title.into(), vec![]));
        } else if line == "*" {
            repeat = true;
        } else if !line.starts_with('#') && !line.is_empty() {
            let (offset, hex) = line.split_once("  ").unwrap();
            let offset = usize::from_str_radix(offset, 16).unwrap();
            let dumps = &mut all.last_mut().unwrap().1;
            if offset == 0 {
                dumps.push(vec![]);
            }
            let dump = dumps.last_mut().unwrap();
            if repeat {
                dump.resize(offset, 0);
                repeat = false;
            }
            assert_eq!(dump.len(), offset, "{line}");
            dump.extend(unhex(&hex.replace(' ', "")));
        }
    }
    all
}

fn node(id: u32) -> NodeId {
    NodeId::new(id).unwrap()
}

const ALL_BUT_0_1: NodeMask = NodeMask(!3);

fn head(tid: u32, target: Option<u32>) -> TwopcHead {
    TwopcHead {
        tid,
        flags: TwopcFlags::HAS_FLAGS | TwopcFlags::HAS_REACHABLE,
        initiator: node(0),
        target: target.map(node),
        nodes_to_reach: ALL_BUT_0_1,
    }
}

fn yes(tid: u32) -> Packet {
    Packet::TwopcYes(TwopcReply {
        reachable_nodes: NodeMask(3),
        ..TwopcReply::empty(tid, node(0))
    })
}

fn features(protocol_max: u32, features: u32, from: u32, to: u32) -> Packet {
    Packet::ConnectionFeatures(ConnectionFeatures {
        protocol_min: 86,
        features: Features(features),
        protocol_max,
        sender_node_id: from,
        receiver_node_id: to,
    })
}

fn protocol(integrity_alg: &str) -> Packet {
    Packet::Protocol(Box::new(Protocol {
        wire_protocol: WireProtocol::C,
        after_sb_0p: AfterSb::Disconnect,
        after_sb_1p: AfterSb::Disconnect,
        after_sb_2p: AfterSb::Disconnect,
        conn_flags: ConnFlags::NONE,
        two_primaries: false,
        integrity_alg: AlgName::new(integrity_alg).unwrap(),
    }))
}

fn response(hex: &str) -> Packet {
    Packet::AuthResponse(AuthResponse(DigestValue::new(&unhex(hex)).unwrap()))
}

fn established(role: Role, peer: Role) -> State {
    State {
        role,
        peer,
        conn: ConnState::Connected,
        repl: ReplState::Established,
        disk: DiskState::UpToDate,
        peer_disk: DiskState::UpToDate,
        quorum: true,
        ..State::INITIAL
    }
}

const WRITER: BlockId = BlockId(0x80f6_3a1c_8a88_ffff);
const RESYNC: BlockId = BlockId(0x0001_0203_0405_060f);

/// The packets the text describes, in the order of the dumps.
fn expected(title: &str) -> Vec<Packet> {
    let connect = StateChange::EMPTY
        .conn(ConnState::Connected)
        .role(Role::Secondary);
    match title.split_whitespace().next().unwrap() {
        "1." => vec![Packet::InitialData, Packet::InitialMeta],
        "2." => vec![features(124, 0x3ff, 0, 1)],
        "2b." => vec![features(124, 0x3ff, 1, 0)],
        "3." => {
            vec![Packet::AuthChallenge(AuthChallenge(std::array::from_fn(
                |i| i as u8,
            )))]
        }
        "4." => {
            vec![response(
                "39c93e126afd18e6da7cce25c2b11d6bd3af6ccdf2a6213970d0999119e0b187",
            )]
        }
        "4b." => {
            vec![response(
                "52b30a8a61c076c36ebf62db043dc58820df0d80091075f98f68fc169a7e7dc5",
            )]
        }
        "5." => vec![protocol("")],
        "6." => vec![Packet::TwopcPrepare(TwopcPrepare {
            head: head(0x1A2B_3C4D, Some(1)),
            change: connect,
        })],
        "7." => vec![Packet::Ping, Packet::PingAck],
        "8." => vec![Packet::SyncParam89(Box::default())],
        "9." => {
            vec![Packet::EnableReplicationNext(EnableReplication {
                enable: false,
            })]
        }
        "10." => vec![Packet::Sizes(Sizes {
            d_size: Sectors(2_097_152),
            u_size: Sectors::ZERO,
            c_size: Sectors(2_097_152),
            max_bio_size: Bytes(1 << 20),
            queue_order_type: 0,
            dds_flags: DdsFlags::NONE,
            limits: Some(QueueLimits {
                physical_block_size: 4096,
                logical_block_size: 512,
                io_min: 4096,
                discard_enabled: 1,
                ..QueueLimits::default()
            }),
        })],
        "11." => {
            let mut uuids = Uuids110 {
                current: Uuid(0xA1B2_C3D4_E5F6_0708),
                flags: UuidFlags::STABLE,
                ..Uuids110::default()
            };
            uuids.set_bitmap_uuid(node(1), Uuid::NONE);
            uuids.history[0] = Uuid(0x1122_3344_5566_7788);
            vec![Packet::Uuids110(Box::new(uuids))]
        }
        "12." => vec![Packet::State(State {
            role: Role::Secondary,
            conn: ConnState::Connecting,
            disk: DiskState::UpToDate,
            peer_disk: DiskState::Unknown,
            quorum: true,
            ..State::INITIAL
        })],
        "13." => vec![yes(0x1A2B_3C4D)],
        "14." => vec![Packet::TwopcCommit(TwopcPhase2::with_reachable(
            head(0x1A2B_3C4D, Some(1)),
            NodeMask::EMPTY,
            NodeMask(3),
        ))],
        "15." => vec![Packet::State(established(Role::Secondary, Role::Secondary))],
        "16." => vec![Packet::TwopcPrepare(TwopcPrepare {
            head: head(0x0BAD_CAFE, None),
            change: StateChange::EMPTY.role(Role::Primary),
        })],
        "17." => vec![yes(0x0BAD_CAFE)],
        "18." => vec![Packet::TwopcCommit(TwopcPhase2::with_reachable(
            head(0x0BAD_CAFE, None),
            NodeMask(1),
            NodeMask(3),
        ))],
        "18b." => vec![Packet::State(established(Role::Primary, Role::Secondary))],
        "19." => vec![Packet::Dagtag(DagtagPosition {
            dagtag: Dagtag(0x10_0000),
        })],
        "20." => vec![Packet::Data(Data {
            sector: Sector(8),
            block_id: WRITER,
            seq_num: 1,
            dp_flags: DpFlags::RW_SYNC | DpFlags::SEND_WRITE_ACK,
            size: Bytes(4096),
            digest: DigestValue::EMPTY,
        })],
        "21." => vec![Packet::WriteAck(BlockAck {
            sector: Sector(8),
            block_id: WRITER,
            size: Bytes(4096),
            seq_num: 1,
        })],
        "22." => vec![Packet::Barrier(Barrier {
            barrier: BarrierNr(7),
        })],
        "23." => vec![Packet::BarrierAck(BarrierAck {
            barrier: BarrierNr(7),
            set_size: 1,
        })],
        "24." => {
            let dagtag = Dagtag(0x10_0000).advance(Bytes(4096));
            vec![Packet::PeerAck(PeerAck {
                nodes: NodeMask(3),
                dagtag,
            })]
        }
        "P_PROTOCOL" => vec![protocol("crc32c")],
        "P_TWOPC_PREPARE" => vec![Packet::TwopcPrepare(TwopcPrepare {
            head: head(0x00C0_FFEE, Some(1)),
            change: StateChange::EMPTY.conn(ConnState::Disconnecting),
        })],
        "P_TWOPC_PREP_RSZ," => {
            let head = TwopcHead {
                flags: TwopcFlags::HAS_FLAGS,
                ..head(0x5152_5354, None)
            };
            let size = Sectors(4_194_304);
            let Packet::TwopcYes(mut reply) = yes(head.tid) else {
                unreachable!()
            };
            reply.tail = size.0;
            assert_eq!(reply.max_possible_size(), size);
            vec![
                Packet::TwopcPrepRsz(TwopcPrepResize {
                    head,
                    user_size: Sectors::ZERO,
                    dds_flags: DdsFlags::NONE,
                }),
                Packet::TwopcYes(reply),
                Packet::TwopcCommit(TwopcPhase2::with_size(head, NodeMask(1), size)),
            ]
        }
        "P_TRIM" => vec![Packet::Trim(Discard {
            sector: Sector(2048),
            block_id: WRITER,
            seq_num: 2,
            dp_flags: DpFlags::DISCARD | DpFlags::SEND_WRITE_ACK,
            size: Bytes(1 << 20),
        })],
        "P_ZEROES" => vec![Packet::Zeroes(Discard {
            sector: Sector(4096),
            block_id: WRITER,
            seq_num: 3,
            dp_flags: DpFlags::DISCARD | DpFlags::ZEROES | DpFlags::SEND_WRITE_ACK,
            size: Bytes(64 << 10),
        })],
        "P_RS_DAGTAG_REQ" => vec![
            Packet::RsDagtagReq(DagtagRequest {
                sector: Sector(1024),
                block_id: RESYNC,
                size: Bytes(32 << 10),
                dagtag_node_id: node(0),
                dagtag: Dagtag::ZERO,
            }),
            Packet::RsDataReply(DataReply {
                sector: Sector(1024),
                block_id: RESYNC,
                size: Bytes(32 << 10),
                digest: DigestValue::EMPTY,
            }),
        ],
        "P_COMPRESSED_BITMAP:" => {
            let (first_set, runs): (bool, &[u64]) = if title.contains("all set") {
                (true, &[262_144])
            } else {
                (false, &[100, 8, 262_036])
            };
            let mut encoder = CompressedBitmap::encoder(&Ctx::new(124, Features::ALL), first_set);
            assert!(runs.iter().all(|run| encoder.push(*run)));
            vec![Packet::CompressedBitmap(encoder.finish().unwrap())]
        }
        "8.4:" => vec![features(101, 7, 0, 0)],
        "8.4" => vec![Packet::Uuids(Uuids {
            current: Uuid(0xA1B2_C3D4_E5F6_0708),
            bitmap: Uuid::NONE,
            history: [Uuid(0x1122_3344_5566_7788), Uuid::NONE],
            dirty_bits: 0,
            flags: UuidFlags::NONE,
        })],
        "apv" if title.contains("101") => vec![
            Packet::StateChgReq(StateChgReq {
                change: StateChange::EMPTY.role(Role::Primary),
            }),
            Packet::StateChgReply(StateChgReply::SUCCESS),
            Packet::StateChgReply(StateChgReply::TWO_PRIMARIES),
        ],
        "apv" => vec![Packet::State(State {
            quorum: false,
            ..established(Role::Primary, Role::Secondary)
        })],
        _ => panic!("no packet described for {title}"),
    }
}

#[test]
fn every_example() {
    let mut count = 0;
    for (title, dumps) in dumps() {
        if title.starts_with("v95 / v80 headers") {
            // Headers without their packets.
            for (dump, length) in dumps.iter().zip([24 + (128 << 10), 24 + 4096]) {
                let header = Header {
                    volume: VolumeNr::ZERO,
                    code: 0,
                    length,
                };
                assert_eq!(
                    Header::parse(97, Stream::Data, dump),
                    Ok(Some((header, 8))),
                    "{title}"
                );
            }
            continue;
        }
        let ctx = match title.as_str() {
            t if t.starts_with("8.4") || t.contains("101") => Ctx::new(101, Features(0xf)),
            t if t.contains("94") => Ctx::new(94, Features::NONE),
            _ => Ctx::new(124, Features::ALL),
        };
        let packets = expected(&title);
        assert_eq!(packets.len(), dumps.len(), "{title}");
        for (packet, dump) in packets.into_iter().zip(dumps) {
            // First packets and features come before anything is agreed.
            let (ctx, volume) = if packet.cmd().is_always_v80() {
                (Ctx::INITIAL, VolumeNr::ZERO)
            } else if ctx.version < 100
                || packet.cmd().scope() == Scope::Volume
                || matches!(packet.cmd(), Cmd::State)
                || title.contains("RSZ")
            {
                (ctx, VolumeNr::ZERO)
            } else {
                (ctx, VolumeNr::CONNECTION)
            };
            let got = take(&ctx, packet.cmd().stream(), &dump)
                .expect(&title)
                .expect(&title);
            assert_eq!(got.packet, packet, "{title}");
            assert_eq!(got.header.volume, volume, "{title}");
            assert_eq!(got.len, dump.len(), "{title}");
            let mut out = vec![];
            packet.encode(&ctx, volume, &mut out).unwrap();
            assert_eq!(out, dump, "{title}");
            count += 1;
        }
    }
    assert_eq!(count, 46);
}
