//! The only source of chance: xoshiro256**, seeded through splitmix64.
//!
//! Own code, because a seed in a bug report must mean the same run next year, whatever a library does.

/// A deterministic pseudo random number generator.
#[derive(Clone, Debug)]
pub struct Rng {
    s: [u64; 4],
}

/// One step of splitmix64.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// A generator that produces the sequence of this seed.
    pub fn new(seed: u64) -> Rng {
        let mut state = seed;
        Rng {
            s: core::array::from_fn(|_| splitmix(&mut state)),
        }
    }

    /// A generator of its own for one purpose: drawing from it does not disturb this one's later numbers.
    pub fn fork(&mut self) -> Rng {
        Rng::new(self.next())
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        let result = self.s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = self.s[1] << 17;
        self.s[2] ^= self.s[0];
        self.s[3] ^= self.s[1];
        self.s[1] ^= self.s[2];
        self.s[0] ^= self.s[3];
        self.s[2] ^= t;
        self.s[3] = self.s[3].rotate_left(45);
        result
    }

    /// A number in `0..n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            0
        } else {
            ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
        }
    }

    /// A number in `low..=high`.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True with probability `percent` / 100.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of the elements; the slice must not be empty.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A duration in nanoseconds, most often near `low`, now and then near `high`.
    pub fn latency(&mut self, low: u64, high: u64) -> u64 {
        let span = high.saturating_sub(low);
        let x = self.below(1024);
        // Cubing puts seven eighths of the mass into the lower half.
        low + ((u128::from(span) * u128::from(x * x * x)) >> 30) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers_and_bounds_hold() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        for _ in 0..1000 {
            assert_eq!(a.next(), b.next());
        }
        assert_ne!(Rng::new(1).next(), Rng::new(2).next());
        for _ in 0..1000 {
            assert!(a.below(3) < 3);
            assert!((5..=9).contains(&a.range(5, 9)));
            assert!((10..=20).contains(&a.latency(10, 20)));
        }
        assert_eq!(a.below(0), 0);
    }
}
