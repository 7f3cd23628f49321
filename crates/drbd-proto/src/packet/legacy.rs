//! State changes by request, as DRBD 8 makes them (wire protocol, section 12.6).

use core::fmt;

use crate::ctx::Ctx;
use crate::state::StateChange;
use crate::wire::{Body, Fault, Put, Wire, exactly, get};

/// P_STATE_CHG_REQ and P_CONN_ST_CHG_REQ: the change as the sender sees it, with the disk numbers of
/// DRBD 9 (translated on the wire).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateChgReq {
    /// The change.
    pub change: StateChange,
}

impl Body for StateChgReq {
    fn fixed_len(_: &Ctx, length: u32) -> Result<u32, Fault> {
        exactly(length, 8)
    }
    fn load(ctx: &Ctx, bytes: &[u8], _: u32) -> Result<Self, Fault> {
        let change: StateChange = get(bytes, 0, "state change")?;
        Ok(StateChgReq {
            change: change.translate_received(ctx.version),
        })
    }
    fn store(&self, ctx: &Ctx, out: &mut impl Put) {
        let mut buf = [0; 8];
        self.change.translate_sent(ctx.version).store(&mut buf);
        out.put(&buf);
    }
    fn stored_len(&self, _: &Ctx) -> usize {
        8
    }
}

wire_struct! {
    body
    /// P_STATE_CHG_REPLY and P_CONN_ST_CHG_REPLY. 1 and above is success, the rest the number of an
    /// error (state machine, section 3.3).
    pub struct StateChgReply [4] {
        /// The result.
        pub code: i32 = 0,
    }
}

impl StateChgReply {
    /// Done.
    pub const SUCCESS: StateChgReply = StateChgReply { code: 1 };
    /// It was like that already.
    pub const NOTHING_TO_DO: StateChgReply = StateChgReply { code: 2 };
    /// There would be two Primaries.
    pub const TWO_PRIMARIES: StateChgReply = StateChgReply { code: -1 };
    /// Another change is being made.
    pub const CONCURRENT_ST_CHG: StateChgReply = StateChgReply { code: -19 };

    /// Was the change agreed to?
    pub const fn is_success(self) -> bool {
        self.code >= 1
    }
}

impl fmt::Display for StateChgReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)
    }
}
