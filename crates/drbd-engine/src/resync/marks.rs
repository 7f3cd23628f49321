//! How fast a resync or verify goes: marks of what was left at earlier times, a few seconds apart, and the two windows
//! that status output has (CLI, section 13).

use core::time::Duration;

use crate::time::Instant;

/// Time between marks.
const STEP: Duration = Duration::from_secs(3);
/// Marks that are kept.
const MARKS: usize = 8;

/// Times and what was left then, in bits.
#[derive(Clone, Debug)]
pub(crate) struct Marks {
    at: [(Instant, u64); MARKS],
    newest: usize,
}

impl Marks {
    /// A resync or verify begins with that many bits.
    pub(crate) fn new(now: Instant, left: u64) -> Self {
        Marks {
            at: [(now, left); MARKS],
            newest: 0,
        }
    }

    /// So many bits are left now. True: it is time to tell observers.
    pub(crate) fn note(&mut self, now: Instant, left: u64) -> bool {
        let (at, was) = self.mark(0);
        if now.since(at) < STEP {
            return false;
        }
        // What stands still shows the speed it had.
        if was != left {
            self.newest = (self.newest + 1) % MARKS;
            if let Some(mark) = self.at.get_mut(self.newest) {
                *mark = (now, left);
            }
        }
        was != left
    }

    fn mark(&self, back: usize) -> (Instant, u64) {
        let place = (self.newest + MARKS - back % MARKS) % MARKS;
        self.at.get(place).copied().unwrap_or((Instant::ZERO, 0))
    }

    /// Milliseconds and bits of the long window, some twenty seconds, and of the short one.
    pub(crate) fn windows(&self, now: Instant, left: u64) -> [(u64, u64); 2] {
        [MARKS - 2, 1].map(|back| {
            let (at, was) = self.mark(back);
            let ms = u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
            (ms, was.saturating_sub(left))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_and_a_short_window() {
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let mut marks = Marks::new(at(100), 1000);
        assert_eq!(marks.windows(at(101), 990), [(1000, 10); 2]);
        // Ten a second for a minute, then two.
        for s in 1..=60 {
            marks.note(at(100 + s), 1000 - s * 10);
        }
        for s in 61..=70 {
            marks.note(at(100 + s), 400 - (s - 60) * 2);
        }
        let [(long_ms, long), (short_ms, short)] = marks.windows(at(170), 380);
        assert!((18_000..=24_000).contains(&long_ms), "{long_ms}");
        assert!((3_000..=6_000).contains(&short_ms), "{short_ms}");
        assert_eq!(short * 1000 / short_ms, 2);
        assert!(long * 1000 / long_ms > 2);
    }
}
