//! The packets: one table of all of them, and [`Packet`], the sum of what they say.
//!
//! Each family has its file; the table below is the packet catalogue (wire protocol, chapter 8).

use alloc::boxed::Box;
use core::fmt;

use crate::ctx::{Ctx, Stream};
use crate::error::{DecodeError, EncodeError};
use crate::flags::Features;
use crate::header::{Format, Header};
use crate::state::State;
use crate::units::VolumeNr;
use crate::wire::{Body, Fault, Put, exactly};

mod bitmap;
mod data;
mod handshake;
mod legacy;
mod params;
mod peers;
mod resync;
mod twopc;

pub use bitmap::{BitmapWords, CompressedBitmap};
pub use data::{
    Barrier, BarrierAck, BlockAck, BlockRequest, ConfirmStable, Data, DataReply, Discard, WriteSame,
};
pub use handshake::{
    AfterSb, AuthChallenge, AuthResponse, CHALLENGE_LEN, ConnectionFeatures, Incompatible,
    Protocol, WireProtocol,
};
pub use legacy::{StateChgReply, StateChgReq};
pub use params::{
    CurrentUuid, EnableReplication, HISTORY_UUIDS, QueueLimits, Sizes, SyncParam, SyncUuid,
    UuidHistory, Uuids, Uuids110,
};
pub use peers::{
    DagtagPosition, DelayProbe, FlushForward, FlushRequests, FlushRequestsAck, OutOfSync, PeerAck,
    PeerDagtag, PeersInSync,
};
pub use resync::{
    CsumDagtagRequest, CsumRequest, DagtagRequest, Deallocated, OvDagtagReply, OvOutcome, OvReply,
    OvResult, OvResultId,
};
pub use twopc::{
    TwopcHead, TwopcPhase2, TwopcPrepResize, TwopcPrepare, TwopcReply, UNLIMITED_SIZE,
};

/// When a command exists: agreed versions and features.
#[derive(Clone, Copy)]
struct Rule {
    since: u16,
    below: u16,
    features: Features,
}

const ALWAYS: Rule = since(0);

const fn since(version: u16) -> Rule {
    Rule {
        since: version,
        below: u16::MAX,
        features: Features::NONE,
    }
}
const fn below(version: u16) -> Rule {
    Rule {
        since: 0,
        below: version,
        features: Features::NONE,
    }
}
const fn with(features: Features) -> Rule {
    Rule {
        since: 0,
        below: u16::MAX,
        features,
    }
}

impl Rule {
    const fn below(self, version: u16) -> Rule {
        Rule {
            below: version,
            ..self
        }
    }
    const fn with(self, features: Features) -> Rule {
        Rule { features, ..self }
    }
    const fn holds(&self, ctx: &Ctx) -> bool {
        ctx.version >= self.since && ctx.version < self.below && ctx.has(self.features)
    }
}

/// Which stream a command travels on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Data,
    Control,
    Both,
}

/// What the volume field of a command's header holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The volume concerned.
    Volume,
    /// Nothing: do not look at it. DRBD 9 sends -1, 8.4 sends 0.
    Connection,
    /// The volume concerned, or -1 for the connection or resource as a whole.
    Either,
}

macro_rules! packets {
    (
        empty {$(
            $(#[$em:meta])*
            $e:ident = $ecode:literal $ename:literal, $eon:ident, $escope:ident, $erule:expr;
        )*}
        body {$(
            $(#[$bm:meta])*
            $b:ident($ty:ty) = $bcode:literal $bname:literal, $bon:ident, $bscope:ident, $brule:expr;
        )*}
    ) => {
        /// The commands: what a header's command field can say. In code order per group.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Cmd {
            $($(#[$em])* $e = $ecode,)*
            $($(#[$bm])* $b = $bcode,)*
        }

        impl Cmd {
            /// Every command.
            pub const ALL: &'static [Cmd] = &[$(Cmd::$e,)* $(Cmd::$b,)*];

            /// The command with this number.
            pub const fn from_code(code: u16) -> Option<Cmd> {
                match code {
                    $($ecode => Some(Cmd::$e),)*
                    $($bcode => Some(Cmd::$b),)*
                    _ => None,
                }
            }
            /// Its name, such as `P_DATA`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Cmd::$e => $ename,)*
                    $(Cmd::$b => $bname,)*
                }
            }
            const fn on(self) -> On {
                match self {
                    $(Cmd::$e => On::$eon,)*
                    $(Cmd::$b => On::$bon,)*
                }
            }
            /// What its header's volume field holds.
            pub const fn scope(self) -> Scope {
                match self {
                    $(Cmd::$e => Scope::$escope,)*
                    $(Cmd::$b => Scope::$bscope,)*
                }
            }
            const fn rule(self) -> Rule {
                match self {
                    $(Cmd::$e => $erule,)*
                    $(Cmd::$b => $brule,)*
                }
            }
        }

        /// A packet without its header's volume and without bulk payload. Variants are named after
        /// the commands.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Packet {
            $($(#[$em])* $e,)*
            $($(#[$bm])* $b($ty),)*
        }

        impl Packet {
            /// Its command.
            pub const fn cmd(&self) -> Cmd {
                match self {
                    $(Packet::$e => Cmd::$e,)*
                    $(Packet::$b(_) => Cmd::$b,)*
                }
            }

            /// Size of the bulk payload that follows this packet, bytes; 0 for most.
            #[inline]
            pub fn payload_len(&self) -> u32 {
                match self {
                    $(Packet::$e => 0,)*
                    $(Packet::$b(body) => body.bulk_len(),)*
                }
            }

            fn body_len(ctx: &Ctx, cmd: Cmd, length: u32) -> Result<u32, Fault> {
                match cmd {
                    $(Cmd::$e => exactly(length, 0),)*
                    $(Cmd::$b => <$ty as Body>::fixed_len(ctx, length),)*
                }
            }

            fn load_body(ctx: &Ctx, cmd: Cmd, bytes: &[u8], length: u32) -> Result<Packet, Fault> {
                Ok(match cmd {
                    $(Cmd::$e => Packet::$e,)*
                    $(Cmd::$b => Packet::$b(<$ty as Body>::load(ctx, bytes, length)?),)*
                })
            }

            fn stored_len(&self, ctx: &Ctx) -> usize {
                match self {
                    $(Packet::$e => 0,)*
                    $(Packet::$b(body) => body.stored_len(ctx),)*
                }
            }

            fn store_body(&self, ctx: &Ctx, out: &mut impl Put) {
                match self {
                    $(Packet::$e => {})*
                    $(Packet::$b(body) => body.store(ctx, out),)*
                }
            }
        }
    };
}

packets! {
    empty {
        /// Hint: dispatch queued I/O now.
        UnplugRemote = 0x07 "P_UNPLUG_REMOTE", Data, Connection, ALWAYS;
        /// Are you alive? To be answered at once.
        Ping = 0x13 "P_PING", Control, Connection, ALWAYS;
        /// I am.
        PingAck = 0x14 "P_PING_ACK", Control, Connection, ALWAYS;
        /// A fatal verdict in the handshake: go StandAlone.
        Disconnect = 0x4B "P_DISCONNECT", Data, Connection, since(118);
        /// First packet of a socket: this is the control stream.
        InitialMeta = 0xFFF1 "P_INITIAL_META", Control, Connection, ALWAYS;
        /// First packet of a socket: this is the data stream.
        InitialData = 0xFFF2 "P_INITIAL_DATA", Data, Connection, ALWAYS;
    }
    body {
        /// A write; payload: the data.
        Data(Data) = 0x00 "P_DATA", Data, Volume, ALWAYS;
        /// Answer to P_DATA_REQUEST; payload: the data.
        DataReply(DataReply) = 0x01 "P_DATA_REPLY", Data, Volume, ALWAYS;
        /// Answer to a resync request; payload: the data.
        RsDataReply(DataReply) = 0x02 "P_RS_DATA_REPLY", Data, Volume, ALWAYS;
        /// End of an epoch.
        Barrier(Barrier) = 0x03 "P_BARRIER", Data, Connection, ALWAYS;
        /// Plain bitmap words; empty at the end.
        Bitmap(BitmapWords) = 0x04 "P_BITMAP", Data, Volume, ALWAYS;
        /// Read request.
        DataRequest(BlockRequest) = 0x08 "P_DATA_REQUEST", Data, Volume, ALWAYS;
        /// Resync read.
        RsDataRequest(BlockRequest) = 0x09 "P_RS_DATA_REQUEST", Data, Volume, ALWAYS;
        /// Resync parameters, old form.
        SyncParam(Box<SyncParam>) = 0x0A "P_SYNC_PARAM", Data, Volume, below(89);
        /// Connection parameters, to be compared.
        Protocol(Box<Protocol>) = 0x0B "P_PROTOCOL", Data, Connection, ALWAYS;
        /// UUIDs, DRBD 8.
        Uuids(Uuids) = 0x0C "P_UUIDS", Data, Volume, below(110);
        /// Sizes and limits.
        Sizes(Sizes) = 0x0D "P_SIZES", Data, Volume, ALWAYS;
        /// State of a volume, or (connection-wide) a demotion.
        State(State) = 0x0E "P_STATE", Data, Either, ALWAYS;
        /// UUID of a resync that begins, DRBD 8.
        SyncUuid(SyncUuid) = 0x0F "P_SYNC_UUID", Data, Volume, below(110);
        /// Authentication: sign this.
        AuthChallenge(AuthChallenge) = 0x10 "P_AUTH_CHALLENGE", Data, Connection, ALWAYS;
        /// Authentication: the signature.
        AuthResponse(AuthResponse) = 0x11 "P_AUTH_RESPONSE", Data, Connection, ALWAYS;
        /// State change request for a volume, DRBD 8.
        StateChgReq(StateChgReq) = 0x12 "P_STATE_CHG_REQ", Data, Volume, below(110);
        /// Received in memory (protocol B).
        RecvAck(BlockAck) = 0x15 "P_RECV_ACK", Control, Volume, ALWAYS;
        /// Written (protocol C).
        WriteAck(BlockAck) = 0x16 "P_WRITE_ACK", Control, Volume, ALWAYS;
        /// Resync block written.
        RsWriteAck(BlockAck) = 0x17 "P_RS_WRITE_ACK", Control, Volume, ALWAYS;
        /// Conflicting write dropped; from 8.4 only.
        Superseded(BlockAck) = 0x18 "P_SUPERSEDED", Control, Volume, below(110);
        /// Write failed.
        NegAck(BlockAck) = 0x19 "P_NEG_ACK", Control, Volume, ALWAYS;
        /// Read failed.
        NegDreply(BlockAck) = 0x1A "P_NEG_DREPLY", Control, Volume, ALWAYS;
        /// Resync read failed.
        NegRsDreply(BlockAck) = 0x1B "P_NEG_RS_DREPLY", Control, Volume, ALWAYS;
        /// Epoch completed.
        BarrierAck(BarrierAck) = 0x1C "P_BARRIER_ACK", Control, Connection, ALWAYS;
        /// Answer to P_STATE_CHG_REQ.
        StateChgReply(StateChgReply) = 0x1D "P_STATE_CHG_REPLY", Control, Volume, below(110);
        /// Verify: send the digest of this block.
        OvRequest(BlockRequest) = 0x1E "P_OV_REQUEST", Data, Volume, ALWAYS;
        /// Verify: the digest.
        OvReply(OvReply) = 0x1F "P_OV_REPLY", Data, Volume, ALWAYS;
        /// Verify: the result.
        OvResult(OvResult) = 0x20 "P_OV_RESULT", Control, Volume, below(122);
        /// Resync read, unless this digest matches.
        CsumRsRequest(CsumRequest) = 0x21 "P_CSUM_RS_REQUEST", Data, Volume, since(89);
        /// The digest matches.
        RsIsInSync(BlockAck) = 0x22 "P_RS_IS_IN_SYNC", Control, Volume, since(89);
        /// Resync parameters.
        SyncParam89(Box<SyncParam>) = 0x23 "P_SYNC_PARAM89", Data, Volume, since(89);
        /// Run-length coded bitmap.
        CompressedBitmap(CompressedBitmap) = 0x24 "P_COMPRESSED_BITMAP", Data, Volume, since(90);
        /// To be ignored.
        DelayProbe(DelayProbe) = 0x27 "P_DELAY_PROBE", Both, Connection, since(93);
        /// Mark these blocks out of sync.
        OutOfSync(OutOfSync) = 0x28 "P_OUT_OF_SYNC", Data, Volume, since(96);
        /// Resync or verify request not served, try later.
        RsCancel(BlockAck) = 0x29 "P_RS_CANCEL", Control, Volume, ALWAYS;
        /// State change request for the connection, DRBD 8.
        ConnStChgReq(StateChgReq) = 0x2A "P_CONN_ST_CHG_REQ", Data, Connection, since(100).below(110);
        /// Answer to P_CONN_ST_CHG_REQ.
        ConnStChgReply(StateChgReply) =
            0x2B "P_CONN_ST_CHG_REPLY", Control, Connection, since(100).below(110);
        /// Conflicting write, send it again; from 8.4 only.
        RetryWrite(BlockAck) = 0x2C "P_RETRY_WRITE", Control, Volume, since(100).below(110);
        /// Changed connection parameters, to be adopted.
        ProtocolUpdate(Box<Protocol>) = 0x2D "P_PROTOCOL_UPDATE", Data, Connection, since(100);
        /// Two-phase commit: can you do this?
        TwopcPrepare(TwopcPrepare) = 0x2E "P_TWOPC_PREPARE", Data, Either, since(110);
        /// Two-phase commit: forget it.
        TwopcAbort(TwopcPhase2) = 0x2F "P_TWOPC_ABORT", Data, Either, since(110);
        /// Position in the sender's stream of writes.
        Dagtag(DagtagPosition) = 0x30 "P_DAGTAG", Data, Connection, since(110);
        /// Discard.
        Trim(Discard) = 0x31 "P_TRIM", Data, Volume, with(Features::TRIM);
        /// Resync read; zeroes may be reported as deallocated.
        RsThinReq(BlockRequest) = 0x32 "P_RS_THIN_REQ", Data, Volume, with(Features::THIN_RESYNC);
        /// Thin resync: nothing but zeroes here.
        RsDeallocated(Deallocated) =
            0x33 "P_RS_DEALLOCATED", Data, Volume, below(122).with(Features::THIN_RESYNC);
        /// One block written repeatedly; dead, must not be sent. Payload: the block.
        Wsame(WriteSame) = 0x34 "P_WSAME", Data, Volume, with(Features::WSAME);
        /// Two-phase commit: can you be resized?
        TwopcPrepRsz(TwopcPrepResize) = 0x35 "P_TWOPC_PREP_RSZ", Data, Volume, since(112);
        /// Write zeroes.
        Zeroes(Discard) = 0x36 "P_ZEROES", Data, Volume, with(Features::WZEROES);
        /// These nodes have all writes up to here.
        PeerAck(PeerAck) = 0x40 "P_PEER_ACK", Control, Connection, since(110);
        /// These nodes are in sync with me in this range.
        PeersInSync(PeersInSync) = 0x41 "P_PEERS_IN_SYNC", Control, Volume, since(110);
        /// UUIDs.
        Uuids110(Box<Uuids110>) = 0x42 "P_UUIDS110", Data, Volume, since(110);
        /// My position in the stream of a lost node.
        PeerDagtag(PeerDagtag) = 0x43 "P_PEER_DAGTAG", Data, Connection, since(110);
        /// UUID of a node without disk.
        CurrentUuid(CurrentUuid) = 0x44 "P_CURRENT_UUID", Data, Volume, since(110);
        /// Two-phase commit: I can.
        TwopcYes(TwopcReply) = 0x45 "P_TWOPC_YES", Control, Either, since(110);
        /// Two-phase commit: I will not.
        TwopcNo(TwopcReply) = 0x46 "P_TWOPC_NO", Control, Either, since(110);
        /// Two-phase commit: do it.
        TwopcCommit(TwopcPhase2) = 0x47 "P_TWOPC_COMMIT", Data, Either, since(110);
        /// Two-phase commit: not now.
        TwopcRetry(TwopcReply) = 0x48 "P_TWOPC_RETRY", Control, Either, since(110);
        /// Part of an epoch is on stable storage.
        ConfirmStable(ConfirmStable) = 0x49 "P_CONFIRM_STABLE", Control, Connection, since(114);
        /// Resync request refused: I am Ahead.
        RsCancelAhead(BlockAck) = 0x4A "P_RS_CANCEL_AHEAD", Control, Volume, since(115);
        /// Resync read with a dagtag dependency.
        RsDagtagReq(DagtagRequest) =
            0x4C "P_RS_DAGTAG_REQ", Data, Volume, with(Features::RESYNC_DAGTAG);
        /// Checksum resync request with a dagtag dependency.
        RsCsumDagtagReq(CsumDagtagRequest) =
            0x4D "P_RS_CSUM_DAGTAG_REQ", Data, Volume, with(Features::RESYNC_DAGTAG);
        /// Thin resync read with a dagtag dependency.
        RsThinDagtagReq(DagtagRequest) = 0x4E "P_RS_THIN_DAGTAG_REQ", Data, Volume,
            with(Features::RESYNC_DAGTAG.union(Features::THIN_RESYNC));
        /// Verify request with a dagtag dependency.
        OvDagtagReq(DagtagRequest) =
            0x4F "P_OV_DAGTAG_REQ", Data, Volume, with(Features::RESYNC_DAGTAG);
        /// Verify: the digest, with the position it was taken at.
        OvDagtagReply(OvDagtagReply) =
            0x50 "P_OV_DAGTAG_REPLY", Data, Volume, with(Features::RESYNC_DAGTAG);
        /// Written, and the block is in sync now.
        WriteAckInSync(BlockAck) = 0x51 "P_WRITE_ACK_IN_SYNC", Control, Volume, since(122);
        /// Resync write failed.
        RsNegAck(BlockAck) = 0x52 "P_RS_NEG_ACK", Control, Volume, since(122);
        /// Verify: the result.
        OvResultId(OvResultId) = 0x53 "P_OV_RESULT_ID", Control, Volume, since(122);
        /// Thin resync: nothing but zeroes here.
        RsDeallocatedId(BlockAck) =
            0x54 "P_RS_DEALLOCATED_ID", Data, Volume, since(122).with(Features::THIN_RESYNC);
        /// Tell me when everything written so far has reached everyone.
        FlushRequests(FlushRequests) = 0x55 "P_FLUSH_REQUESTS", Data, Connection, since(123);
        /// Pass on that the flush reached this point.
        FlushForward(FlushForward) = 0x56 "P_FLUSH_FORWARD", Control, Connection, since(123);
        /// It has.
        FlushRequestsAck(FlushRequestsAck) =
            0x57 "P_FLUSH_REQUESTS_ACK", Data, Connection, since(123);
        /// Whether the next resync replicates from its start.
        EnableReplicationNext(EnableReplication) = 0x58 "P_ENABLE_REPLICATION_NEXT", Data, Volume,
            with(Features::RESYNC_WITHOUT_REPLICATION);
        /// Whether to replicate to the sender from now on.
        EnableReplication(EnableReplication) = 0x59 "P_ENABLE_REPLICATION", Data, Volume,
            with(Features::RESYNC_WITHOUT_REPLICATION);
        /// Versions, features, node ids.
        ConnectionFeatures(ConnectionFeatures) =
            0xFFFE "P_CONNECTION_FEATURES", Data, Connection, ALWAYS;
    }
}

impl Cmd {
    /// Its number.
    pub const fn code(self) -> u16 {
        self as u16
    }
    /// May it appear on this stream?
    pub const fn allowed_on(self, stream: Stream) -> bool {
        matches!(
            (self.on(), stream),
            (On::Both, _) | (On::Data, Stream::Data) | (On::Control, Stream::Control)
        )
    }
    /// The stream to send it on.
    pub const fn stream(self) -> Stream {
        match self.on() {
            On::Control => Stream::Control,
            On::Data | On::Both => Stream::Data,
        }
    }
    /// Do the agreed version and features have it?
    pub const fn is_agreed(self, ctx: &Ctx) -> bool {
        self.rule().holds(ctx)
    }
    /// Is it accepted from a peer? As [`Cmd::is_agreed`], except that P_ENABLE_REPLICATION is decoded
    /// without the feature: DRBD 9.3 sends it by mistake, and it had better be ignored (wire protocol,
    /// section 20.2).
    pub const fn is_acceptable(self, ctx: &Ctx) -> bool {
        matches!(self, Cmd::EnableReplication) || self.is_agreed(ctx)
    }
    /// Packets before the version is agreed have the 8-byte header, whatever is agreed. They are decoded
    /// at any time: refusing them later is for the receiver.
    pub const fn is_always_v80(self) -> bool {
        matches!(
            self,
            Cmd::InitialMeta | Cmd::InitialData | Cmd::ConnectionFeatures
        )
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Fault {
    fn of(self, cmd: Cmd, length: u32) -> DecodeError {
        match self {
            Fault::Length { min, max } => DecodeError::Length {
                cmd,
                length,
                min,
                max,
            },
            Fault::Field { field, value } => DecodeError::Field { cmd, field, value },
        }
    }
}

/// A packet taken off a stream by [`Packet::parse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its header.
    pub header: Header,
    /// The packet.
    pub packet: Packet,
    /// Bytes used: header and fixed part. [`Packet::payload_len`] bytes of payload follow.
    pub len: usize,
}

impl Packet {
    /// Decode the packet at the start of `buf`; `None` if header and fixed part are not complete yet.
    /// The same as [`Header::parse`], [`Packet::fixed_len`] and [`Packet::decode`] one after the other.
    pub fn parse(ctx: &Ctx, stream: Stream, buf: &[u8]) -> Result<Option<Received>, DecodeError> {
        let Some((header, used)) = Header::parse(ctx.version, stream, buf)? else {
            return Ok(None);
        };
        let fixed = Packet::fixed_len(ctx, stream, &header)?;
        let Some(body) = buf.get(used..).and_then(|rest| rest.get(..fixed)) else {
            return Ok(None);
        };
        let packet = Packet::decode(ctx, &header, body)?;
        Ok(Some(Received {
            header,
            packet,
            len: used.saturating_add(fixed),
        }))
    }

    /// How many bytes after the header make up the packet without its bulk payload: at most
    /// [`crate::MAX_FIXED_LEN`]. Checks that the command is known, belongs to this stream and was
    /// agreed, and that the header's length is legal for it (wire protocol, section 5.2).
    pub fn fixed_len(ctx: &Ctx, stream: Stream, header: &Header) -> Result<usize, DecodeError> {
        let cmd = header.cmd()?;
        if !cmd.allowed_on(stream) {
            return Err(DecodeError::WrongStream { cmd, stream });
        }
        if !cmd.is_acceptable(ctx) {
            return Err(DecodeError::NotAgreed {
                cmd,
                version: ctx.version,
            });
        }
        let len = Packet::body_len(ctx, cmd, header.length);
        len.map(|len| len as usize)
            .map_err(|fault| fault.of(cmd, header.length))
    }

    /// Decode a packet from its header and exactly the bytes [`Packet::fixed_len`] asked for.
    /// The bulk payload, [`Packet::payload_len`] bytes, comes after them.
    pub fn decode(ctx: &Ctx, header: &Header, bytes: &[u8]) -> Result<Packet, DecodeError> {
        let cmd = header.cmd()?;
        let length = header.length;
        let want = Packet::body_len(ctx, cmd, length).map_err(|fault| fault.of(cmd, length))?;
        if bytes.len() != want as usize {
            return Err(DecodeError::FixedPart {
                cmd,
                got: bytes.len(),
                want: want as usize,
            });
        }
        Packet::load_body(ctx, cmd, bytes, length).map_err(|fault| fault.of(cmd, length))
    }

    /// Append header and fixed part to `out`; [`Packet::payload_len`] bytes of payload must follow
    /// on the same stream ([`Cmd::stream`]). On error nothing was appended.
    pub fn encode(
        &self,
        ctx: &Ctx,
        volume: VolumeNr,
        out: &mut impl Put,
    ) -> Result<(), EncodeError> {
        let cmd = self.cmd();
        if !cmd.is_agreed(ctx) {
            return Err(EncodeError::NotAgreed {
                cmd,
                version: ctx.version,
            });
        }
        let fixed = self.stored_len(ctx);
        let max = match self {
            Packet::Bitmap(_) | Packet::CompressedBitmap(_) => ctx.max_bitmap_payload() as usize,
            _ => crate::ctx::MAX_FIXED_LEN,
        };
        if fixed > max {
            return Err(EncodeError::TooLong {
                cmd,
                length: fixed,
                max,
            });
        }
        let length = self.payload_len().saturating_add(fixed as u32);
        let format = Format::for_sending(ctx.version, cmd, length);
        Header {
            volume,
            code: cmd.code(),
            length,
        }
        .encode(format, out)?;
        self.store_body(ctx, out);
        Ok(())
    }
}
