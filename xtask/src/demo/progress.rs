//! What is seen on the terminal while something takes its time.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of bytes.
pub(crate) fn bytes(total: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(total.max(1));
    let style = ProgressStyle::with_template(
        "  {prefix:<22} [{bar:30}] {binary_bytes:>10}/{binary_total_bytes:<10} {msg}",
    );
    bar.set_style(
        style
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> "),
    );
    bar.set_prefix(what.to_owned());
    bar
}

/// MiB with one decimal.
pub(crate) fn mib(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // For reading.
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 10.0 {
        format!("{mib:.1} MiB")
    } else {
        format!("{mib:.0} MiB")
    }
}

/// Bytes per second, in MiB/s.
pub(crate) fn rate(bytes: u64, time: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss)] // For reading.
    let mib = bytes as f64 / f64::from(1 << 20);
    mib / time.as_secs_f64().max(0.001)
}

/// Median and greatest of some times, in milliseconds.
pub(crate) fn latency(times: &[Duration]) -> (f64, f64) {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let ms = |d: Option<&Duration>| d.map_or(0.0, |d| d.as_secs_f64() * 1000.0);
    (ms(sorted.get(sorted.len() / 2)), ms(sorted.last()))
}

/// Bytes done over time: how fast it is just now.
#[derive(Debug)]
pub(crate) struct Speed {
    since: Instant,
    bytes: u64,
    /// The last complete interval, in MiB/s.
    pub(crate) now: f64,
}

impl Speed {
    /// Starts counting.
    pub(crate) fn new() -> Speed {
        Speed {
            since: Instant::now(),
            bytes: 0,
            now: 0.0,
        }
    }

    /// Takes note of a total; true when an interval has passed.
    pub(crate) fn update(&mut self, total: u64) -> bool {
        let passed = self.since.elapsed();
        if passed < Duration::from_millis(250) {
            return false;
        }
        self.now = rate(total.saturating_sub(self.bytes), passed);
        (self.since, self.bytes) = (Instant::now(), total);
        true
    }
}
