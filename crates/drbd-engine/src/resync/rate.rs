//! How much may a SyncTarget ask for, and when? (data path, sections 15.3 and 15.4)
//!
//! Every turn, nominally 100 ms apart, the controller says how many sectors may be asked for. With
//! `c-plan-ahead` it aims at an amount of data under way and spreads corrections over that many turns;
//! without, it allows a fixed amount.

use alloc::collections::VecDeque;
use core::time::Duration;

use crate::time::Instant;

#[cfg(test)]
mod tests;

/// Nominal time between turns.
pub(crate) const TURN: Duration = Duration::from_millis(100);
/// Longest time between turns that is believed.
const LONGEST: Duration = Duration::from_secs(1);
/// Shortest time between turns that is believed: replies that came in no time say nothing about a rate.
const SHORTEST: Duration = Duration::from_millis(1);
/// Sectors of a 4 KiB block.
const BLOCK: u64 = 8;

/// The options that steer the rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RateOptions {
    /// `resync-rate` in KiB/s.
    pub(crate) resync_rate: u32,
    /// `c-plan-ahead` in units of 0.1 s; 0: fixed rate.
    pub(crate) plan_ahead: u32,
    /// `c-delay-target` in units of 0.1 s.
    pub(crate) delay_target: u32,
    /// `c-fill-target` in sectors.
    pub(crate) fill_target: u32,
    /// `c-max-rate` in KiB/s; 0: no limit.
    pub(crate) max_rate: u32,
    /// `max-buffers` in pages of 4 KiB.
    pub(crate) max_buffers: u32,
}

impl RateOptions {
    /// As configured for a connection and a peer device.
    pub(crate) fn new(
        net: &crate::options::NetOptions,
        peer: &crate::options::PeerDeviceOptions,
    ) -> Self {
        RateOptions {
            resync_rate: peer.resync_rate,
            plan_ahead: peer.c_plan_ahead,
            delay_target: peer.c_delay_target,
            fill_target: peer.c_fill_target,
            max_rate: peer.c_max_rate,
            max_buffers: net.max_buffers,
        }
    }
}

/// The rate controller of one resync.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    /// Corrections for the turns to come, in sectors.
    plan: VecDeque<i64>,
    total: i64,
    in_flight: u64,
    /// Sectors that came back since the last turn.
    back: u64,
    last_turn: Instant,
    /// Sectors allowed in the last turn, and asked for.
    allowed: u64,
    asked: u64,
    unsuccessful: bool,
}

impl Rate {
    /// A resync starts.
    pub(crate) fn new(now: Instant) -> Self {
        Rate {
            plan: VecDeque::new(),
            total: 0,
            in_flight: 0,
            back: 0,
            last_turn: now,
            allowed: 0,
            asked: 0,
            unsuccessful: false,
        }
    }

    /// Sectors asked for that have not come back.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// What the controller aims at, in KiB/s.
    pub(crate) fn wanted(&self) -> u64 {
        self.allowed / 2 * 10
    }

    /// That many sectors were asked for.
    pub(crate) fn asked(&mut self, sectors: u64) {
        self.asked += sectors;
        self.in_flight += sectors;
    }

    /// An answer to a request of that many sectors came, of whatever kind.
    pub(crate) fn came_back(&mut self, sectors: u64) {
        self.back += sectors;
        self.in_flight = self.in_flight.saturating_sub(sectors);
    }

    /// A request of this turn could not be made, or was cancelled.
    pub(crate) fn unsuccessful(&mut self) {
        self.unsuccessful = true;
    }

    /// A turn begins. Returns how many sectors it may ask for, a multiple of `block`, the larger of the
    /// two nodes' bitmap block sizes in sectors; `None` if what is under way has to come back first
    /// (data path, section 15.2, item 5), or if `most`, what others leave for this turn, is nothing.
    pub(crate) fn turn(
        &mut self,
        now: Instant,
        options: &RateOptions,
        block: u64,
        most: u64,
    ) -> Option<u64> {
        let since = now.since(self.last_turn).clamp(SHORTEST, LONGEST);
        let back = core::mem::take(&mut self.back);
        let drain = core::mem::take(&mut self.unsuccessful) && self.in_flight > 0;
        self.last_turn = now;
        (self.allowed, self.asked) = (0, 0);
        let wanted = match options.plan_ahead {
            0 => self.fixed(options),
            _ => self.planned(options, back, since),
        };
        if drain {
            // Still so in the next turn, until all are back.
            self.unsuccessful = true;
            return None;
        }
        let room = (u64::from(options.max_buffers) * BLOCK).saturating_sub(self.in_flight);
        if most == 0 {
            return None;
        }
        let mut sectors = (wanted / BLOCK * BLOCK).min(room).min(most);
        if sectors == 0 && self.in_flight == 0 {
            // However small the options: a resync that asks for nothing would never end.
            sectors = 1;
        }
        self.allowed = sectors.next_multiple_of(block.max(1));
        Some(self.allowed)
    }

    fn fixed(&mut self, options: &RateOptions) -> u64 {
        self.plan.clear();
        self.total = 0;
        per_turn(options.resync_rate)
    }

    /// The numbers of the steps are those of data path, section 15.3.
    fn planned(&mut self, options: &RateOptions, back: u64, since: Duration) -> u64 {
        let steps = usize::try_from(options.plan_ahead)
            .unwrap_or(usize::MAX)
            .min(MAX_PLAN);
        if self.plan.len() != steps {
            self.plan.clear();
            self.plan.resize(steps, 0);
            self.total = 0;
        }
        // 1
        let turn = TURN.as_nanos();
        let since = since.as_nanos();
        let back = if since < turn {
            scale(back, turn, since)
        } else {
            back
        };
        // 2
        let want = if self.in_flight + back == 0 {
            per_turn(options.resync_rate).saturating_mul(steps as u64)
        } else if options.fill_target > 0 {
            u64::from(options.fill_target)
        } else {
            scale(back, u128::from(options.delay_target) * turn, since)
        };
        // 3, 4
        let count = i64::try_from(steps).unwrap_or(1);
        let correction = signed(want) - signed(self.in_flight) - self.total;
        let each = correction / count;
        self.plan.iter_mut().for_each(|entry| *entry += each);
        self.total += each * count;
        // 5
        let current = self.plan.pop_front().unwrap_or(0);
        self.plan.push_back(0);
        self.total -= current;
        // 6
        let sectors = u64::try_from(signed(back) + current).unwrap_or(0);
        if options.max_rate > 0 {
            sectors.min(per_turn(options.max_rate))
        } else {
            sectors
        }
    }

    /// The turn is over: how long until the next one.
    pub(crate) fn pause(&self) -> Duration {
        if self.asked == 0 || self.unsuccessful || self.asked >= self.allowed {
            return TURN;
        }
        let nanos = u64::try_from(TURN.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(scale(nanos, self.asked.into(), self.allowed.into()))
    }

    /// Everything asked for is back: when to have the next turn, if earlier than planned. `max_bio` is
    /// the largest request of the exposed device in bytes. With a fixed rate there are no early turns:
    /// they would make it an amount per round trip.
    pub(crate) fn early_turn(
        &self,
        now: Instant,
        options: &RateOptions,
        max_bio: u32,
    ) -> Option<Instant> {
        let back = self.back / 2; // KiB
        if self.in_flight > 0 || self.unsuccessful || back == 0 || options.plan_ahead == 0 {
            return None;
        }
        let latency = now.since(self.last_turn);
        let max_rate = u64::from(options.max_rate);
        let merged = (u64::from(max_bio) / 1024 / back).max(1);
        let micros = (back * merged)
            .saturating_mul(1_000_000)
            .checked_div(max_rate)
            .unwrap_or(0);
        let interval = Duration::from_micros(micros);
        let small = back < max_rate / 10 / 2 && latency < TURN / 2;
        if small || interval <= latency {
            Some(now)
        } else if interval < TURN {
            Some(self.last_turn + interval)
        } else {
            None
        }
    }
}

/// Most entries of the plan; the option's maximum is 300.
const MAX_PLAN: usize = 1000;

/// Sectors per turn at a rate in KiB/s.
fn per_turn(rate: u32) -> u64 {
    u64::from(rate) * 2 / 10
}

/// `value * by / per`, without overflow.
fn scale(value: u64, by: u128, per: u128) -> u64 {
    let scaled = u128::from(value)
        .saturating_mul(by)
        .checked_div(per)
        .unwrap_or(0);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// As a signed number; amounts are far below the limit.
fn signed(value: u64) -> i64 {
    i64::try_from(value)
        .unwrap_or(i64::MAX / 4)
        .min(i64::MAX / 4)
}
