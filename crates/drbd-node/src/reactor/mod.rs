//! The reactor: one thread that owns one resource.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::frontend::ToVolume;

/// What other threads say to a reactor.
pub(crate) enum Message {
    /// From a frontend.
    Volume(ToVolume),
}

/// A name for a session, unique in the process.
pub(crate) fn next_session() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
