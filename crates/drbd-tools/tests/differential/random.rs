//! Random numbers that can be repeated, and how many cases to try.

use std::io::Write;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

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

/// Which random numbers: a run with the same name and number tries the same cases.
pub(super) struct Seed {
    number: u64,
    /// How to try them again.
    pub(super) replay: String,
}

impl Seed {
    fn of(number: u64, test: &str) -> Seed {
        let cases = std::env::var("DIFFERENTIAL_CASES");
        let cases = cases.map_or_else(|_| String::new(), |n| format!("DIFFERENTIAL_CASES={n} "));
        Seed {
            number,
            replay: format!(
                "DIFFERENTIAL_SEED={number} {cases}cargo test -p drbd-tools --test {} {test}",
                env!("CARGO_CRATE_NAME")
            ),
        }
    }

    /// The numbers; `part` is another one for every test.
    pub(super) fn random(&self, part: u64) -> Random {
        Random(part ^ self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// The seeds to try: always the same one, and one that nobody has tried before, which is said loudly. `DIFFERENTIAL_SEED` asks
/// for one instead.
pub(super) fn seeds(test: &str) -> Vec<Seed> {
    let given = std::env::var("DIFFERENTIAL_SEED");
    if let Some(number) = given.ok().and_then(|n| n.parse().ok()) {
        return vec![Seed::of(number, test)];
    }
    static NOW: OnceLock<u64> = OnceLock::new();
    let now = NOW.get_or_init(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(1, |n| n.as_secs())
    });
    let fresh = Seed::of(*now, test);
    // Past the harness, which keeps what a test prints until it fails.
    let _ = writeln!(
        std::io::stderr(),
        "fresh cases, again with: {}",
        fresh.replay
    );
    vec![Seed::of(0, test), fresh]
}
