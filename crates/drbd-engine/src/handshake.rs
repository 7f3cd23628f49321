//! The first packets over new streams: features, authentication, P_PROTOCOL (wire protocol, section 6).

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::time::Duration;

use drbd_proto::auth::{self, HmacAlg};
use drbd_proto::packet::{AuthChallenge, AuthResponse, ConnectionFeatures, Protocol};
use drbd_proto::{
    AGREEABLE_LEGACY, AGREEABLE_MODERN, AlgName, ConnFlags, ConnState, Ctx, DigestAlg, Features,
    NodeId, NodeMask, Packet, Stream, VERSION_MAX, VERSION_MIN, VolumeNr, max_request_size,
};

use crate::command::RetCode;
use crate::effect::{Effect, LogLevel};
use crate::engine::{Engine, PacketError};
use crate::event::LostReason;
use crate::timer::Timer;

/// How far the handshake over the present streams has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Handshake {
    /// There are no streams.
    #[default]
    NoStreams,
    /// The peer's features are due.
    Features,
    /// The peer's challenge is due.
    Challenge,
    /// The peer's response is due.
    Response,
    /// The peer's P_PROTOCOL is due.
    Protocol,
    /// Ordinary packets; the connect transaction has not begun, or its exchange was given up.
    Ready,
    /// Within the volume exchange of a connect transaction, or Connected.
    Exchange,
}

impl Handshake {
    /// Whether ordinary packets flow.
    pub(crate) fn done(self) -> bool {
        matches!(self, Handshake::Ready | Handshake::Exchange)
    }

    /// Whether the volume exchange has been started.
    pub(crate) fn in_exchange(self) -> bool {
        self == Handshake::Exchange
    }
}

/// Features this node offers.
///
/// With an integrity digest FF_WZEROES is not offered: the reference cannot decode a P_ZEROES then (data
/// path, section 28, hazard 2).
fn offered_features(integrity: bool) -> Features {
    let all = Features::ALL.union(Features::COMPARE_LEFTOVER);
    if integrity {
        all.minus(Features::WZEROES)
    } else {
        all
    }
}

impl Engine {
    /// Both streams exist.
    pub(crate) fn streams_established(
        &mut self,
        peer: NodeId,
        path: usize,
        resolve_conflicts: bool,
        challenge: Box<[u8; 64]>,
    ) {
        if self.state.cstate(peer) != ConnState::Connecting {
            self.push(Effect::Close { peer });
            return;
        }
        let me = self.node_id;
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        conn.handshake = Handshake::Features;
        conn.ctx = Ctx::INITIAL;
        conn.resolve_conflicts = resolve_conflicts;
        conn.challenge = challenge;
        conn.flags.disconnect_expected = false;
        conn.flags.dry_run = false;
        conn.dagtag_received = false;
        conn.ping_pending = false;
        conn.heard_in_resync = NodeMask::ALL;
        conn.ping_waiters.clear();
        for (i, (_, established)) in conn.paths.iter_mut().enumerate() {
            *established = i == path;
        }
        let features = ConnectionFeatures {
            protocol_min: u32::from(VERSION_MIN),
            features: offered_features(!conn.options.integrity_alg.is_empty()),
            protocol_max: u32::from(VERSION_MAX),
            sender_node_id: u32::from(me.get()),
            receiver_node_id: u32::from(peer.get()),
        };
        self.push(Effect::Framing {
            peer,
            context: Ctx::INITIAL,
            integrity: None,
        });
        self.data_connection_reset(peer);
        self.publish_paths(peer);
        self.send(
            peer,
            Stream::Data,
            VolumeNr::CONNECTION,
            Packet::ConnectionFeatures(features),
        );
        self.arm_handshake(peer, 4);
    }

    /// The next packet of the handshake has to come within `n` times ping-timeout.
    fn arm_handshake(&mut self, peer: NodeId, n: u32) {
        let timeout = self
            .conns
            .get(&peer)
            .map_or(Duration::from_millis(500), |c| c.options.ping_timeout);
        self.timers
            .set(Timer::Handshake(peer), self.now + timeout * n);
    }

    /// The peer speaks: its silence in the handshake counts from now on again.
    pub(crate) fn heard_in_handshake(&mut self, peer: NodeId) {
        let done = self.conns.get(&peer).is_some_and(|c| c.handshake.done());
        if done && self.timers.is_set(Timer::Handshake(peer)) {
            self.arm_handshake(peer, 10);
        }
    }

    /// The peer kept silent in the handshake.
    pub(crate) fn handshake_timeout(&mut self, peer: NodeId) {
        if self.state.cstate(peer) == ConnState::Connecting {
            self.fail_connection(peer, ConnState::NetworkFailure, "timeout in the handshake");
        }
    }

    /// A packet that belongs to the handshake. `Ok(false)`: it does not.
    pub(crate) fn handshake_packet(
        &mut self,
        peer: NodeId,
        packet: &Packet,
    ) -> Result<bool, PacketError> {
        let step = self
            .conns
            .get(&peer)
            .map_or(Handshake::NoStreams, |c| c.handshake);
        match (step, packet) {
            (Handshake::Features, Packet::ConnectionFeatures(f)) => self.features(peer, f),
            (Handshake::Challenge, Packet::AuthChallenge(c)) => self.challenge(peer, c),
            (Handshake::Response, Packet::AuthResponse(r)) => self.response(peer, r),
            (Handshake::Protocol, Packet::Protocol(p)) => self.protocol(peer, p),
            (Handshake::Ready | Handshake::Exchange, Packet::ProtocolUpdate(p)) => {
                self.protocol_update(peer, p);
            }
            (Handshake::Features, _) => {
                self.refuse_peer(peer, "expected P_CONNECTION_FEATURES as first packet");
            }
            (Handshake::Challenge, _) => {
                self.refuse_peer(
                    peer,
                    "expected P_AUTH_CHALLENGE: the peer does not authenticate",
                );
            }
            (Handshake::Response | Handshake::Protocol, other) => {
                return Err(PacketError::new(format!(
                    "unexpected {} in the handshake",
                    other.cmd()
                )));
            }
            (Handshake::NoStreams, _) => {}
            (Handshake::Ready | Handshake::Exchange, _) => return Ok(false),
        }
        Ok(true)
    }

    /// The peer can never be talked to as it is configured: StandAlone (wire protocol, section 1).
    pub(crate) fn refuse_peer(&mut self, peer: NodeId, why: &str) {
        self.log_at(
            LogLevel::Error,
            Some(peer),
            None,
            format!("{why}; going StandAlone"),
        );
        self.go_standalone(peer);
    }

    fn features(&mut self, peer: NodeId, f: &ConnectionFeatures) {
        let max = if f.protocol_max == 0 {
            f.protocol_min
        } else {
            f.protocol_max
        };
        let own_max = u32::from(VERSION_MAX);
        let version = max.min(own_max);
        let agreed = u16::try_from(version).unwrap_or(0);
        let legacy = AGREEABLE_LEGACY.contains(&agreed);
        let agreeable = (legacy || AGREEABLE_MODERN.contains(&agreed)) && f.protocol_min <= own_max;
        if !agreeable {
            let text = format!(
                "incompatible DRBD dialects: I speak protocol {}-{} and {}-{}, the peer {}-{}",
                AGREEABLE_LEGACY.start(),
                AGREEABLE_LEGACY.end(),
                AGREEABLE_MODERN.start(),
                VERSION_MAX,
                f.protocol_min,
                max
            );
            return self.refuse_peer(peer, &text);
        }
        let integrity = self
            .conns
            .get(&peer)
            .is_some_and(|c| !c.options.integrity_alg.is_empty());
        let features = Features(f.features.0 & offered_features(integrity).0);
        let version = u16::try_from(version).unwrap_or(VERSION_MAX);
        if version == 121 && features.contains(Features::RESYNC_DAGTAG) {
            return self.refuse_peer(
                peer,
                "the peer is an early DRBD 9.2 (protocol 121) with incompatible discard acks",
            );
        }
        if legacy && self.conns.len() > 1 {
            return self.refuse_peer(
                peer,
                "the peer is a DRBD 8: such a resource can have one connection only",
            );
        }
        // The peer could not receive what applications may ask for here.
        let most = max_request_size(version);
        if let Some(volume) = (self.volumes.values()).find(|v| v.options.max_bio_size > most) {
            let text = format!(
                "the peer speaks protocol {version}, which has requests of {most} bytes at most: \
                 set max-bio-size of volume {} to that",
                volume.nr
            );
            return self.refuse_peer(peer, &text);
        }
        let ids = (f.sender_node_id, f.receiver_node_id);
        if !legacy && ids != (u32::from(peer.get()), u32::from(self.node_id.get())) {
            let text = format!(
                "the peer is node {} and expects node {}, configured are {} and {}",
                ids.0, ids.1, peer, self.node_id
            );
            return self.fail_connection(peer, ConnState::NetworkFailure, &text);
        }
        let ctx = Ctx::new(version, features);
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        conn.ctx = ctx;
        let authenticate = !conn.options.cram_hmac_alg.is_empty();
        let challenge = AuthChallenge(*conn.challenge);
        self.push(Effect::Framing {
            peer,
            context: ctx,
            integrity: None,
        });
        self.log_at(
            LogLevel::Info,
            Some(peer),
            None,
            format!(
                "Agreed network protocol version {version}, features {:#x}",
                features.0
            ),
        );
        if authenticate {
            self.send(
                peer,
                Stream::Data,
                VolumeNr::CONNECTION,
                Packet::AuthChallenge(challenge),
            );
            self.set_handshake(peer, Handshake::Challenge);
            self.arm_handshake(peer, 4);
        } else {
            self.send_protocol(peer);
        }
    }

    fn set_handshake(&mut self, peer: NodeId, step: Handshake) {
        if let Some(conn) = self.conns.get_mut(&peer) {
            conn.handshake = step;
        }
    }

    /// The node id in the digest of an authentication; a DRBD 8 has none.
    fn auth_id(&self, peer: NodeId, id: NodeId) -> Option<NodeId> {
        (!self.is_legacy(peer)).then_some(id)
    }

    fn auth_parameters(&self, peer: NodeId) -> Option<(HmacAlg, String, AuthChallenge)> {
        let conn = self.conns.get(&peer)?;
        let alg = HmacAlg::from_name(&conn.options.cram_hmac_alg)?;
        Some((
            alg,
            conn.options.shared_secret.clone(),
            AuthChallenge(*conn.challenge),
        ))
    }

    fn challenge(&mut self, peer: NodeId, theirs: &AuthChallenge) {
        let Some((alg, secret, mine)) = self.auth_parameters(peer) else {
            return self.refuse_peer(peer, "cram-hmac-alg is not known here");
        };
        if let Err(error) = auth::check_challenge(&mine, theirs) {
            return self.refuse_peer(peer, &format!("{error}"));
        }
        let response = auth::response(
            alg,
            secret.as_bytes(),
            theirs,
            self.auth_id(peer, self.node_id),
        );
        self.send(
            peer,
            Stream::Data,
            VolumeNr::CONNECTION,
            Packet::AuthResponse(response),
        );
        self.set_handshake(peer, Handshake::Response);
        self.arm_handshake(peer, 4);
    }

    fn response(&mut self, peer: NodeId, theirs: &AuthResponse) {
        let Some((alg, secret, mine)) = self.auth_parameters(peer) else {
            return self.refuse_peer(peer, "cram-hmac-alg is not known here");
        };
        if let Err(error) = auth::verify(
            alg,
            secret.as_bytes(),
            &mine,
            self.auth_id(peer, peer),
            theirs,
        ) {
            return self.refuse_peer(peer, &format!("authentication of the peer failed: {error}"));
        }
        self.log_at(
            LogLevel::Info,
            Some(peer),
            None,
            format!("Peer authenticated using {} bytes HMAC", alg.digest_len()),
        );
        self.send_protocol(peer);
    }

    fn own_protocol(&self, peer: NodeId) -> Option<Protocol> {
        let conn = self.conns.get(&peer)?;
        let o = &conn.options;
        let mut conn_flags = ConnFlags::NONE;
        if conn.flags.discard_my_data {
            conn_flags = conn_flags.union(ConnFlags::DISCARD_MY_DATA);
        }
        if conn.flags.tentative {
            conn_flags = conn_flags.union(ConnFlags::DRY_RUN);
        }
        Some(Protocol {
            wire_protocol: o.protocol,
            after_sb_0p: o.after_sb_0pri,
            after_sb_1p: o.after_sb_1pri,
            after_sb_2p: o.after_sb_2pri,
            conn_flags,
            two_primaries: o.two_primaries,
            integrity_alg: AlgName::new(&o.integrity_alg)?,
        })
    }

    fn send_protocol(&mut self, peer: NodeId) {
        let Some(protocol) = self.own_protocol(peer) else {
            return self.refuse_peer(peer, "data-integrity-alg has an impossible name");
        };
        self.send(
            peer,
            Stream::Data,
            VolumeNr::CONNECTION,
            Packet::Protocol(Box::new(protocol)),
        );
        self.set_handshake(peer, Handshake::Protocol);
        self.arm_handshake(peer, 4);
    }

    /// The peer's parameters have to be ours (section 6.3).
    fn protocol(&mut self, peer: NodeId, theirs: &Protocol) {
        let Some(own) = self.own_protocol(peer) else {
            return;
        };
        let different = [
            ("protocol", own.wire_protocol == theirs.wire_protocol),
            (
                "after-sb-0pri",
                own.after_sb_0p == theirs.after_sb_0p.peer_view(),
            ),
            (
                "after-sb-1pri",
                own.after_sb_1p == theirs.after_sb_1p.peer_view(),
            ),
            (
                "after-sb-2pri",
                own.after_sb_2p == theirs.after_sb_2p.peer_view(),
            ),
            (
                "allow-two-primaries",
                own.two_primaries == theirs.two_primaries,
            ),
            (
                "data-integrity-alg",
                own.integrity_alg == theirs.integrity_alg,
            ),
        ]
        .into_iter()
        .find(|(_, same)| !same);
        if let Some((option, _)) = different {
            return self.refuse_peer(peer, &format!("incompatible {option} settings"));
        }
        let discard = ConnFlags::DISCARD_MY_DATA;
        if own.conn_flags.contains(discard) && theirs.conn_flags.contains(discard) {
            return self.refuse_peer(
                peer,
                "incompatible discard-my-data settings: set on both sides",
            );
        }
        let integrity = match own.integrity_alg.as_str() {
            Some("") | None => None,
            Some(name) => match DigestAlg::from_name(name) {
                Some(alg) => Some(alg),
                None => {
                    return self
                        .refuse_peer(peer, &format!("data-integrity-alg {name} is not known"));
                }
            },
        };
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        conn.flags.dry_run = conn.flags.tentative || theirs.conn_flags.contains(ConnFlags::DRY_RUN);
        conn.flags.peer_discards = theirs.conn_flags.contains(discard);
        if let Some(alg) = integrity {
            conn.ctx = conn
                .ctx
                .with_integrity_len(u8::try_from(alg.digest_len()).unwrap_or(0));
        }
        let context = conn.ctx;
        self.push(Effect::Framing {
            peer,
            context,
            integrity,
        });
        self.set_handshake(peer, Handshake::Ready);
        self.arm_handshake(peer, 10);
        self.arm_ping(peer);
        if self.is_legacy(peer) {
            self.legacy_exchange(peer);
        } else if self.node_id < peer {
            self.propose_connect(peer);
        }
    }

    /// The peer changed its options while connected: its values count (section 6.3).
    fn protocol_update(&mut self, peer: NodeId, theirs: &Protocol) {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        conn.options.protocol = theirs.wire_protocol;
        conn.options.after_sb_0pri = theirs.after_sb_0p.peer_view();
        conn.options.after_sb_1pri = theirs.after_sb_1p.peer_view();
        conn.options.after_sb_2pri = theirs.after_sb_2p.peer_view();
        conn.options.two_primaries = theirs.two_primaries;
    }

    /// The transport gave a connection up.
    pub(crate) fn streams_lost(&mut self, peer: NodeId, reason: LostReason) {
        let Some(conn) = self.conns.get(&peer) else {
            return;
        };
        if conn.handshake == Handshake::NoStreams {
            // This side gave the streams up already; the transport had not heard of it yet.
            return;
        }
        let expected =
            conn.flags.disconnect_expected || self.state.cstate(peer) == ConnState::TearDown;
        let (state, text) = match reason {
            _ if expected => (ConnState::TearDown, "closed by the peer as agreed"),
            LostReason::Closed => (ConnState::NetworkFailure, "closed by the peer"),
            LostReason::Network => (ConnState::NetworkFailure, "network failure"),
            LostReason::SendTimeout => (ConnState::Timeout, "send made no progress"),
            LostReason::Protocol => (ConnState::ProtocolError, "the peer sent something wrong"),
        };
        self.connection_down(peer, state, text);
    }

    /// Outcome of a connect transaction of this node (state machine, section 6.5).
    pub(crate) fn connect_decided(&mut self, peer: NodeId, result: Result<RetCode, RetCode>) {
        let Err(code) = result else { return };
        if self.state.cstate(peer) != ConnState::Connecting
            || !self.conns.get(&peer).is_some_and(|c| c.handshake.done())
        {
            return;
        }
        let retry_connect = self
            .conns
            .get(&peer)
            .is_some_and(|c| c.options.rr_conflict == crate::options::SbPolicy::RetryConnect)
            || (self.state.role == drbd_proto::Role::Primary
                && self.options.force_secondary_when_outdated
                && self.state.suspended());
        match code {
            RetCode::TIMEOUT | RetCode::CONCURRENT_ST_CHG | RetCode::IN_TRANSIENT_STATE => {
                self.retry_connect_in(peer, Duration::from_millis(50));
            }
            RetCode::PRIMARY_READER => {
                self.retry_connect_in(peer, Duration::from_millis(100));
            }
            RetCode::HANDSHAKE_RETRY => {
                self.handshake_outdate(peer);
                self.retry_connect_in(peer, Duration::from_secs(1));
            }
            RetCode::CW_FAILED_BY_PEER | RetCode::TWO_PRIMARIES if retry_connect => {
                self.handshake_outdate(peer);
                self.retry_connect_in(peer, Duration::from_secs(1));
            }
            RetCode::HANDSHAKE_DISCONNECT | RetCode::CW_FAILED_BY_PEER | RetCode::TWO_PRIMARIES => {
                self.handshake_outdate(peer);
                self.send(peer, Stream::Data, VolumeNr::CONNECTION, Packet::Disconnect);
                self.refuse_peer(peer, &format!("connect refused (code {})", code.0));
            }
            other => {
                let text = format!("connect failed (code {})", other.0);
                self.fail_connection(peer, ConnState::NetworkFailure, &text);
            }
        }
    }

    fn retry_connect_in(&mut self, peer: NodeId, delay: Duration) {
        self.timers.set(Timer::ConnectRetry(peer), self.now + delay);
        // The other side waits for us: its patience is ours to keep up with pings.
        self.timers.cancel(Timer::Handshake(peer));
    }

    /// Time to prepare the connect transaction (again).
    pub(crate) fn connect_retry(&mut self, peer: NodeId) {
        let ready = self.conns.get(&peer).is_some_and(|c| c.handshake.done());
        if ready && self.state.cstate(peer) == ConnState::Connecting {
            self.propose_connect(peer);
        }
    }

    fn propose_connect(&mut self, peer: NodeId) {
        if !self.twopc_connecting(peer) {
            self.twopc_request(
                crate::twopc::ChangeKind::Connect { peer },
                crate::twopc::Requester::Connect,
            );
        }
    }
}
