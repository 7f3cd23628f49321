//! A connection comes and goes: trying, pings, losing it, leaving (state machine, sections 6.1, 6.6).

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::time::Duration;

use drbd_proto::packet::PeerDagtag;
use drbd_proto::{ConnState, Ctx, DiskState, NodeId, Packet, Role, Stream, VolumeNr};

use crate::connection::{LostConnection, PingWaiter, ResyncCall};
use crate::effect::{ConnectOptions, Effect, LogLevel};
use crate::engine::Engine;
use crate::handshake::Handshake;
use crate::state::change::ChangeFlags;
use crate::status::Object;
use crate::timer::Timer;
use crate::upcall::Handler;

/// Pause after a failed handshake (wire protocol, section 3.5).
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl Engine {
    /// Starts to connect: Unconnected, then Connecting.
    pub(crate) fn start_connecting(&mut self, peer: NodeId, delay: Duration) {
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(c) = s.conns.get_mut(&peer) {
                c.cstate = ConnState::Unconnected;
            }
        });
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(c) = s.conns.get_mut(&peer) {
                c.cstate = ConnState::Connecting;
            }
        });
        let Some(conn) = self.conns.get(&peer) else {
            return;
        };
        let o = &conn.options;
        let options = ConnectOptions {
            connect_int: o.connect_int,
            ping_timeout: o.ping_timeout,
            sock_check: if o.sock_check.is_zero() {
                o.ping_timeout
            } else {
                o.sock_check
            },
            timeout: o.timeout,
            ko_count: o.ko_count,
            sndbuf: o.sndbuf_size,
            rcvbuf: o.rcvbuf_size,
            delay,
        };
        let paths = conn.paths.iter().map(|(p, _)| *p).collect();
        self.push(Effect::Connect {
            peer,
            paths,
            options,
        });
    }

    /// Something went wrong on this side: close the streams and start over.
    pub(crate) fn fail_connection(&mut self, peer: NodeId, reason: ConnState, text: &str) {
        let live = self
            .conns
            .get(&peer)
            .is_some_and(|c| c.handshake != Handshake::NoStreams);
        if !live {
            return;
        }
        self.push(Effect::Close { peer });
        self.connection_down(peer, reason, text);
    }

    /// The streams are gone, for whatever reason; cleans up and tries again.
    pub(crate) fn connection_down(&mut self, peer: NodeId, reason: ConnState, text: &str) {
        let cstate = self.state.cstate(peer);
        if cstate < ConnState::Connecting
            && !matches!(cstate, ConnState::TearDown | ConnState::Disconnecting)
        {
            return;
        }
        let was_connected = cstate == ConnState::Connected;
        let level = if reason == ConnState::TearDown {
            LogLevel::Info
        } else {
            LogLevel::Warn
        };
        self.log_at(level, Some(peer), None, format!("connection lost: {text}"));
        self.out.forget_peer(peer);
        self.twopc_peer_lost(peer);
        if cstate >= ConnState::Connecting {
            let _ = self.change(ChangeFlags::HARD, |s| {
                if let Some(c) = s.conns.get_mut(&peer) {
                    c.cstate = reason;
                }
            });
        }
        let lost = LostConnection {
            reason,
            was_connected,
            leaving: cstate == ConnState::Disconnecting,
        };
        self.streams_gone(peer);
        if self.new_uuid_before_cleanup() {
            // Whether the others are still there decides whether a generation is made: two peers that are lost
            // together take quorum away, and nothing may have begun before (section 7.7).
            if let Some(conn) = self.conns.get_mut(&peer) {
                conn.lost = Some(lost);
            }
            return;
        }
        self.connection_lost(peer, lost);
    }

    /// Goes on with connections whose loss waited for the answers of others.
    pub(crate) fn lost_connections_go_on(&mut self) {
        let waiting: Vec<(NodeId, LostConnection)> = self
            .conns
            .iter_mut()
            .filter_map(|(peer, conn)| Some((*peer, conn.lost.take()?)))
            .collect();
        for (peer, lost) in waiting {
            self.connection_lost(peer, lost);
        }
    }

    /// The second half of a loss: cleans up and tries again.
    fn connection_lost(&mut self, peer: NodeId, lost: LostConnection) {
        self.cleanup_connection(peer);
        let member = self.members.contains(peer);
        if lost.was_connected && lost.reason != ConnState::TearDown && member {
            self.want_empty_twopc();
        }
        self.notify_lost_primary(peer);
        if lost.leaving {
            self.set_cstate(peer, ConnState::StandAlone);
        } else {
            let delay = if lost.was_connected {
                Duration::ZERO
            } else {
                RETRY_DELAY
            };
            self.start_connecting(peer, delay);
        }
    }

    fn set_cstate(&mut self, peer: NodeId, cstate: ConnState) {
        let _ = self.change(ChangeFlags::HARD, |s| {
            if let Some(c) = s.conns.get_mut(&peer) {
                c.cstate = cstate;
            }
        });
    }

    /// Nothing can be said or heard any more. A generation does not wait for an answer now.
    fn streams_gone(&mut self, peer: NodeId) {
        for timer in [
            Timer::Ping(peer),
            Timer::PingTimeout(peer),
            Timer::Handshake(peer),
            Timer::BitmapExchange(peer),
            Timer::ConnectRetry(peer),
            Timer::Ahead(peer),
        ] {
            self.timers.cancel(timer);
        }
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        conn.handshake = Handshake::NoStreams;
        conn.ping_pending = false;
        conn.ping_waiters.retain(|w| *w != PingWaiter::NewUuid);
        self.new_uuid_ping(peer);
    }

    /// What a lost connection leaves behind (state machine, section 6.6).
    fn cleanup_connection(&mut self, peer: NodeId) {
        // A new generation comes before the writes complete that the lost peer does not have
        // (data path, section 4.3, 2).
        if !self.data_tl_empty() && !self.state.suspended() {
            let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
            for v in volumes {
                self.new_uuid_now_if_due(v);
            }
        }
        self.data_connection_lost(peer);
        self.legacy_sizes_gone(peer);
        let mut waiters = Vec::new();
        if let Some(conn) = self.conns.get_mut(&peer) {
            waiters = core::mem::take(&mut conn.ping_waiters);
            conn.lost = None;
            conn.ctx = Ctx::INITIAL;
            conn.dagtag_received = false;
            conn.flags.disconnect_expected = false;
            for (_, established) in &mut conn.paths {
                *established = false;
            }
            for known in conn.peers.values_mut() {
                known.flags.uuids_received = false;
                known.flags.initial_state = false;
                known.flags.quorate = false;
                known.flags.grew = false;
                known.flags.peer_grew = false;
                known.flags.first_size = 0;
                known.sizes.known = false;
                known.handshake_result = None;
                known.resync_call = ResyncCall::No;
            }
        }
        self.publish_paths(peer);
        for waiter in waiters {
            self.ping_answered(peer, waiter, false);
        }
        self.fence_lost_peer(peer);
        self.call(Handler::Disconnected, Some(peer), None);
    }

    /// Leaves for good: the administrator said so, or the peer cannot be talked to.
    pub(crate) fn go_standalone(&mut self, peer: NodeId) {
        let cstate = self.state.cstate(peer);
        if cstate == ConnState::StandAlone {
            return;
        }
        self.push(Effect::Close { peer });
        self.twopc_peer_lost(peer);
        if cstate != ConnState::Disconnecting {
            self.set_cstate(peer, ConnState::Disconnecting);
        }
        self.streams_gone(peer);
        self.cleanup_connection(peer);
        if cstate == ConnState::Connected && self.members.contains(peer) {
            self.want_empty_twopc();
        }
        self.notify_lost_primary(peer);
        self.set_cstate(peer, ConnState::StandAlone);
    }

    /// Survivors tell each other how far they got in a lost Primary's writes (state machine, section 9.8).
    fn notify_lost_primary(&mut self, lost: NodeId) {
        let Some(conn) = self.conns.get_mut(&lost) else {
            return;
        };
        if !core::mem::take(&mut conn.flags.notify_lost_primary) {
            return;
        }
        let dagtag = conn.last_dagtag;
        let others: Vec<NodeId> = self
            .connected_nodes()
            .iter()
            .filter(|n| *n != lost)
            .collect();
        let volumes: Vec<VolumeNr> = self.volumes.keys().copied().collect();
        for peer in others {
            let mut told = false;
            for &v in &volumes {
                let diskful =
                    |d: DiskState| d >= DiskState::Inconsistent && d != DiskState::Unknown;
                if !diskful(self.state.disk(v)) || !diskful(self.state.pdisk(peer, v)) {
                    continue;
                }
                told = true;
                if let Some(known) = self.peer_device_mut(peer, v) {
                    known.flags.reconcile_pending = true;
                    known.flags.reconcile_about = Some(lost);
                }
                self.send_current_uuid(peer, v, self.current_uuid(v));
            }
            if told {
                let packet = Packet::PeerDagtag(PeerDagtag {
                    dagtag,
                    node_id: lost,
                });
                self.send(peer, Stream::Data, VolumeNr::CONNECTION, packet);
            }
        }
        // A reconciliation that waited for our own cleanup may go on now.
        self.reconcile_waiting(lost);
    }

    // ----- pings --------------------------------------------------------------------------------------

    /// Asks a peer whether it is alive.
    pub(crate) fn ping(&mut self, peer: NodeId) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        if !conn.handshake.done() {
            return;
        }
        conn.ping_pending = true;
        let timeout = conn.options.ping_timeout;
        self.timers
            .set_if_idle(Timer::PingTimeout(peer), now + timeout);
        self.send(peer, Stream::Control, VolumeNr::CONNECTION, Packet::Ping);
    }

    /// Asks a peer whether it is alive, and tells `waiter` when that is known.
    pub(crate) fn ping_for(&mut self, peer: NodeId, waiter: PingWaiter) {
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        if conn.handshake.done() {
            conn.ping_waiters.push(waiter);
            self.ping(peer);
        } else {
            self.ping_answered(peer, waiter, false);
        }
    }

    /// The control stream was quiet for ping-int.
    pub(crate) fn ping_timer(&mut self, peer: NodeId) {
        self.ping(peer);
    }

    /// Arms the next ping; whatever comes over the control stream shows that the peer lives.
    pub(crate) fn arm_ping(&mut self, peer: NodeId) {
        if let Some(conn) = self.conns.get(&peer) {
            let at = self.now + conn.options.ping_int;
            self.timers.set(Timer::Ping(peer), at);
        }
    }

    /// No answer in time.
    pub(crate) fn ping_timeout(&mut self, peer: NodeId) {
        self.fail_connection(
            peer,
            ConnState::NetworkFailure,
            "P_PING_ACK did not arrive in time",
        );
    }

    /// A P_PING_ACK arrived.
    pub(crate) fn ping_ack(&mut self, peer: NodeId) {
        self.timers.cancel(Timer::PingTimeout(peer));
        let Some(conn) = self.conns.get_mut(&peer) else {
            return;
        };
        conn.ping_pending = false;
        for waiter in core::mem::take(&mut conn.ping_waiters) {
            self.ping_answered(peer, waiter, true);
        }
    }

    fn ping_answered(&mut self, peer: NodeId, waiter: PingWaiter, alive: bool) {
        match waiter {
            PingWaiter::RoleChange => self.role_change_ping(peer),
            PingWaiter::NewUuid => self.new_uuid_ping(peer),
            PingWaiter::ResyncStart { with } => {
                if alive && let Some(conn) = self.conns.get_mut(&peer) {
                    conn.heard_in_resync.insert(with);
                }
            }
            PingWaiter::Reader => self.reader_ping(peer),
            PingWaiter::ResyncFinish { volume, failed } => {
                if alive {
                    self.resync_finish_confirmed(peer, volume, failed);
                }
            }
        }
    }

    /// Tells observers which path is in use.
    pub(crate) fn publish_paths(&mut self, peer: NodeId) {
        let Some(conn) = self.conns.get(&peer) else {
            return;
        };
        let objects = conn
            .paths
            .iter()
            .map(|(path, up)| Object::Path {
                peer,
                path: *path,
                established: Some(*up),
            })
            .collect();
        self.publish_objects(objects, false);
    }

    /// Name of a connection for log lines.
    pub(crate) fn conn_name(&self, peer: NodeId) -> alloc::string::String {
        self.conns
            .get(&peer)
            .map_or_else(|| peer.to_string(), |c| c.name.clone())
    }

    /// Whether a connected peer is Primary.
    pub(crate) fn peer_is_primary(&self, peer: NodeId) -> bool {
        self.state
            .conns
            .get(&peer)
            .is_some_and(|c| c.peer_role == Role::Primary)
    }
}
