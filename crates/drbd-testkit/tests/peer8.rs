//! A peer that speaks protocol 101, as DRBD 8.4 does: it says what it is told, and asks as such a node asks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};

use common::{PATIENCE, small, told};
use drbd_proto::packet::{ConnectionFeatures, StateChgReq};
use drbd_proto::{
    ConnState, Ctx, Features, Packet, Role, StateChange, Stream, VolumeNr, first_packet,
};
use drbd_testkit::wait::until;
use drbd_testkit::{Cluster, Error, Result};

/// One stream of the fake peer.
struct Wire {
    socket: TcpStream,
    stream: Stream,
    ctx: Ctx,
    got: Vec<u8>,
}

impl Wire {
    fn open(c: &Cluster, stream: Stream) -> Result<Wire> {
        let mut socket = until("node 1 listens", PATIENCE, || Ok(c.dial(1, 0).ok()))?;
        socket.write_all(&first_packet::encode(stream))?;
        Ok(Wire {
            socket,
            stream,
            ctx: Ctx::INITIAL,
            got: Vec::new(),
        })
    }

    fn send(&mut self, volume: VolumeNr, packet: &Packet) -> Result<()> {
        let mut wire = Vec::new();
        packet.encode(&self.ctx, volume, &mut wire).unwrap();
        Ok(self.socket.write_all(&wire)?)
    }

    fn next(&mut self) -> Result<(VolumeNr, Packet)> {
        loop {
            let found = Packet::parse(&self.ctx, self.stream, &self.got)
                .expect("the node sends what protocol 101 has");
            if let Some(found) = found {
                self.got.drain(..found.len);
                return Ok((found.header.volume, found.packet));
            }
            let mut b = [0; 4096];
            let n = self.socket.read(&mut b)?;
            if n == 0 {
                return Err(Error::new("the node closed the connection"));
            }
            self.got.extend_from_slice(&b[..n]);
        }
    }

    /// Answers pings; hands everything else over.
    fn answer_pings(mut self) -> Receiver<Packet> {
        let (send, replies) = channel();
        std::thread::spawn(move || {
            while let Ok((volume, packet)) = self.next() {
                let done = match packet {
                    Packet::Ping => self.send(volume, &Packet::PingAck).is_err(),
                    other => send.send(other).is_err(),
                };
                if done {
                    break;
                }
            }
        });
        replies
    }
}

#[test]
fn handshake_and_state_changes_by_request() -> Result<()> {
    told(Cluster::new("peer8", small())?, |c| {
        c.create_md()?;
        c.node_mut(0).start()?;
        c.node(0).adm("up")?;
        let mut data = Wire::open(c, Stream::Data)?;
        let mut control = Wire::open(c, Stream::Control)?;
        let offered = Features(0xf);
        data.send(
            VolumeNr::CONNECTION,
            &Packet::ConnectionFeatures(ConnectionFeatures {
                protocol_min: 86,
                features: offered,
                protocol_max: 101,
                sender_node_id: 0,
                receiver_node_id: 0,
            }),
        )?;
        let (_, first) = data.next()?;
        assert!(matches!(first, Packet::ConnectionFeatures(_)));
        data.ctx = Ctx::new(101, offered);
        control.ctx = data.ctx;
        // Its options, disk and generation are those of the node itself: two fresh disks.
        let mut order = Vec::new();
        loop {
            let (volume, packet) = data.next()?;
            order.push(packet.cmd().to_string());
            data.send(volume, &packet)?;
            if matches!(packet, Packet::State(_)) {
                break;
            }
        }
        let expected = [
            "P_PROTOCOL",
            "P_SYNC_PARAM89",
            "P_SIZES",
            "P_UUIDS",
            "P_STATE",
        ];
        assert_eq!(order, expected);
        c.node(0)
            .wait("connected", PATIENCE, |s| s.connection(1) == "Connected")?;

        let replies = control.answer_pings();
        let reply = || replies.recv_timeout(PATIENCE).expect("a reply");

        // It becomes Primary, which it asks for; from then on this node cannot.
        let volume = VolumeNr::new(0).unwrap();
        let change = StateChange::EMPTY.role(Role::Primary);
        data.send(volume, &Packet::StateChgReq(StateChgReq { change }))?;
        match reply() {
            Packet::StateChgReply(r) => assert!(r.is_success(), "{r}"),
            other => panic!("{other:?} instead of a reply"),
        }
        c.node(0).wait("the peer is Primary", PATIENCE, |s| {
            s.peer_role(1) == "Primary"
        })?;
        let refused = c.node(0).drbdadm(&["primary", "peer8"])?.refused()?;
        assert!(!refused.is_empty());

        // It leaves, and says so.
        let change = StateChange::EMPTY.conn(ConnState::Disconnecting);
        data.send(
            VolumeNr::CONNECTION,
            &Packet::ConnStChgReq(StateChgReq { change }),
        )?;
        match reply() {
            Packet::ConnStChgReply(r) => assert!(r.is_success(), "{r}"),
            other => panic!("{other:?} instead of a reply"),
        }
        drop(data);
        c.node(0)
            .wait("waits for it", PATIENCE, |s| {
                s.connection(1) == "Connecting"
            })
            .map(drop)
    })
}
