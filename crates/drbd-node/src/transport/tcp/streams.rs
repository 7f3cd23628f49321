//! The two streams of an established connection.

use std::io;

use drbd_engine::{ConnectOptions, Event, Instant, LostReason, OpId};
use drbd_proto::{Ctx, DigestAlg, NodeId, Packet, Stream, VolumeNr};
use std::time::Duration;

use super::receiver::{Receiver, Step};
use super::sender::{SendError, Sender};
use super::{Context, Kind, Token, low_water, memory, socket};
use crate::pool::Buf;
use crate::ring::{Fd, Op, OpKey, Part};

/// When one stream has ended in order, how long the other may take to deliver what is on its way: a P_DISCONNECT must
/// not be lost because the other stream's end was seen first.
const GRACE: Duration = Duration::from_millis(200);

/// One stream.
struct One {
    stream: Stream,
    fd: Fd,
    receiver: Receiver,
    sender: Sender,
    receive: Option<OpKey>,
    send: Option<OpKey>,
    /// When the operation under way has to have made progress.
    send_deadline: Option<Instant>,
    send_limit: Option<Duration>,
    /// What makes the socket ready for receiving, in bytes.
    low_water: usize,
    ended: bool,
    shut: bool,
}

/// The streams to one peer.
pub(super) struct Streams {
    id: u64,
    pub(super) peer: NodeId,
    pub(super) context: Ctx,
    pub(super) integrity: Option<DigestAlg>,
    data: One,
    control: One,
    /// One stream has ended; the other one may go on until then.
    grace: Option<Instant>,
    /// The engine has closed the connection; it goes away at the latest then.
    closing: Option<Instant>,
    starved: bool,
}

/// What [`Streams::next`] found.
#[allow(clippy::large_enum_variant)] // It lives for a moment.
pub(super) enum Found {
    Event(Event),
    Lost(LostReason, Option<String>),
    /// A closing connection has nothing more to do.
    Finished,
}

impl One {
    fn new(stream: Stream, fd: Fd, send_limit: Option<Duration>) -> One {
        One {
            stream,
            fd,
            receiver: Receiver::new(stream),
            sender: Sender::default(),
            receive: None,
            send: None,
            send_deadline: None,
            send_limit,
            low_water: 1,
            ended: false,
            shut: false,
        }
    }
}

impl Streams {
    pub(super) fn new(
        id: u64,
        peer: NodeId,
        options: &ConnectOptions,
        data: Fd,
        control: Fd,
    ) -> Streams {
        let timeout = Some(options.timeout).filter(|t| !t.is_zero());
        let patience = timeout
            .filter(|_| options.ko_count > 0)
            .map(|t| t * options.ko_count);
        Streams {
            id,
            peer,
            context: Ctx::INITIAL,
            integrity: None,
            data: One::new(Stream::Data, data, patience),
            control: One::new(Stream::Control, control, timeout),
            grace: None,
            closing: None,
            starved: false,
        }
    }

    fn one(&mut self, stream: Stream) -> &mut One {
        match stream {
            Stream::Data => &mut self.data,
            Stream::Control => &mut self.control,
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// The data stream has more to send than goes into its socket.
    pub(super) fn is_congested(&self) -> bool {
        !self.data.sender.is_idle()
            && memory::of(&self.data.fd).is_some_and(|m| m.queued > m.limit / 5 * 4)
    }

    /// Something is queued and could be sent now.
    pub(super) fn has_to_send(&self) -> bool {
        [&self.data, &self.control]
            .iter()
            .any(|one| one.sender.is_ready())
    }

    /// Closing, and everything is sent and seen by the peer.
    pub(super) fn is_finished(&self) -> bool {
        self.is_closing()
            && [&self.data, &self.control]
                .iter()
                .all(|one| one.ended && one.sender.is_idle())
    }

    pub(super) fn send(
        &mut self,
        stream: Stream,
        volume: VolumeNr,
        packet: Packet,
        payload: Option<Buf>,
        notify: Option<OpId>,
    ) -> Result<(), SendError> {
        let (context, integrity) = (self.context, self.integrity);
        self.one(stream)
            .sender
            .push(&context, integrity, volume, packet, payload, notify)
    }

    /// From now on only what is queued is sent, and what comes in is thrown away.
    pub(super) fn close(
        &mut self,
        cx: &mut Context<'_>,
        until: Instant,
        spare: &mut Vec<Vec<Part>>,
    ) {
        self.closing = Some(until);
        self.grace = None;
        self.flush(cx, spare);
    }

    pub(super) fn flush(&mut self, cx: &mut Context<'_>, spare: &mut Vec<Vec<Part>>) {
        let (id, closing) = (self.id, self.is_closing());
        for one in [&mut self.control, &mut self.data] {
            let stream = one.stream;
            if let Some(parts) = one.sender.parts(spare.pop().unwrap_or_default()) {
                let op = Op::Send {
                    fd: one.fd.clone(),
                    parts,
                    more: false,
                };
                one.send = Some(cx.ring.push(
                    Token {
                        id,
                        kind: Kind::Send(stream),
                    },
                    op,
                ));
                one.send_deadline = one.send_limit.map(|limit| cx.now + limit);
            }
            if closing && !one.shut && one.sender.is_idle() {
                one.shut = true;
                socket::finish(&one.fd);
            }
            let low_water = one.receiver.low_water();
            if !one.ended
                && let Some(parts) = one.receiver.parts(spare.pop().unwrap_or_default())
            {
                if low_water != one.low_water && low_water::set(&one.fd, low_water) {
                    one.low_water = low_water;
                }
                let op = Op::Receive {
                    fd: one.fd.clone(),
                    parts,
                };
                one.receive = Some(cx.ring.push(
                    Token {
                        id,
                        kind: Kind::Receive(stream),
                    },
                    op,
                ));
            }
        }
    }

    pub(super) fn received(
        &mut self,
        now: Instant,
        stream: Stream,
        result: io::Result<u32>,
        op: Op,
        spare: &mut Vec<Vec<Part>>,
    ) -> io::Result<()> {
        let one = self.one(stream);
        one.receive = None;
        let Op::Receive { mut parts, .. } = op else {
            return Ok(());
        };
        let count = match &result {
            Ok(count) => *count as usize,
            Err(_) => 0,
        };
        one.receiver.received(&mut parts, count);
        spare.push(parts);
        match result {
            Ok(0) => {
                one.ended = true;
                if self.closing.is_none() && self.grace.is_none() {
                    self.grace = Some(now + GRACE);
                }
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(e),
        }
    }

    pub(super) fn sent(
        &mut self,
        now: Instant,
        stream: Stream,
        result: io::Result<u32>,
        op: Op,
        spare: &mut Vec<Vec<Part>>,
    ) -> io::Result<()> {
        let one = self.one(stream);
        one.send = None;
        one.send_deadline = None;
        let Op::Send { mut parts, .. } = op else {
            return Ok(());
        };
        let count = match &result {
            Ok(count) => *count as usize,
            Err(_) => 0,
        };
        one.sender.sent(&mut parts, count);
        spare.push(parts);
        let _ = now;
        match result {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(e),
            Ok(_) => Ok(()),
        }
    }

    /// The next packet or end. Control first: acknowledgements make room.
    pub(super) fn next(&mut self, cx: &mut Context<'_>) -> Option<Found> {
        if self.is_finished() {
            return Some(Found::Finished);
        }
        let peer = self.peer;
        let closing = self.is_closing();
        self.starved = false;
        for one in [&mut self.control, &mut self.data] {
            let stream = one.stream;
            if !closing && let Some(op) = one.sender.next_sent() {
                return Some(Found::Event(Event::Sent { op }));
            }
            loop {
                match one.receiver.next(&self.context, self.integrity, cx.pool) {
                    Ok(Step::Packet { .. }) if closing => {}
                    Ok(Step::Packet {
                        volume,
                        packet,
                        payload,
                    }) => {
                        let payload = payload.map(Buf::into_id);
                        return Some(Found::Event(Event::Packet {
                            peer,
                            stream,
                            volume,
                            packet,
                            payload,
                        }));
                    }
                    Ok(Step::NeedBytes) => break,
                    Ok(Step::NeedBuffer) => {
                        if !self.starved {
                            self.starved = true;
                            // A buffer released between the attempt and this call is found by another attempt.
                            cx.pool.wake_on_release(cx.wake.clone());
                            continue;
                        }
                        break;
                    }
                    // What comes after the end does not matter.
                    Err(_) if closing => {
                        one.ended = true;
                        break;
                    }
                    Err(e) => {
                        return Some(Found::Lost(
                            LostReason::Protocol,
                            Some(format!("{stream} stream: {e}")),
                        ));
                    }
                }
            }
        }
        let done = |one: &One| one.ended && !self.starved;
        if !closing && done(&self.data) && done(&self.control) {
            return Some(Found::Lost(
                LostReason::Closed,
                Some("closed by the peer".into()),
            ));
        }
        None
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [
            self.data.send_deadline,
            self.control.send_deadline,
            self.grace,
            self.closing,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Why a deadline that has passed ends the connection; `None` if it was closing anyway.
    pub(super) fn timed_out(&self, now: Instant) -> Option<LostReason> {
        if self.is_closing() {
            None
        } else if self.grace.is_some_and(|at| at <= now) {
            Some(if self.control.ended {
                LostReason::Closed
            } else {
                LostReason::Network
            })
        } else {
            Some(LostReason::SendTimeout)
        }
    }

    /// Ends the operations under way; they own their sockets until then.
    pub(super) fn cancel(self, cx: &mut Context<'_>) {
        for one in [self.data, self.control] {
            // The peer must see the end now, not when the last operation lets go of the socket.
            let _ = socket2::SockRef::from(&*one.fd).shutdown(std::net::Shutdown::Both);
            for key in [one.receive, one.send].into_iter().flatten() {
                cx.ring.cancel(key);
            }
        }
    }
}
