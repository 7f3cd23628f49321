//! Random numbers that can be repeated, and how many cases to try.

/// Small and reproducible: xorshift.
pub(super) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
    pub(super) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Number of cases; `DIFFERENTIAL_CASES` asks for more.
pub(super) fn cases(usual: usize) -> usize {
    std::env::var("DIFFERENTIAL_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(usual)
}

/// Start of the random numbers; `DIFFERENTIAL_SEED` asks for others.
pub(super) fn seed(usual: u64) -> Random {
    let given = std::env::var("DIFFERENTIAL_SEED")
        .ok()
        .and_then(|n| n.parse::<u64>().ok());
    Random(usual ^ given.unwrap_or(0).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
