//! `status --verbose --verbose --statistics`: what is known of a resync or verify (CLI, section 13).

use drbd_node::control::protocol::Sync;

use super::{Wrapped, speed};

/// Mean speed since the start, pauses left out, in MiB/s.
pub(super) fn average(sync: &Sync) -> f64 {
    let active = sync.elapsed_ms.saturating_sub(sync.paused_ms);
    let moved = sync.total.saturating_sub(sync.left) as f64;
    if active == 0 {
        0.0
    } else {
        moved / active as f64 * 1000.0 / 2048.0
    }
}

/// The fields of a resync or verify; `all` of them with `--verbose` given twice.
pub(super) fn progress(out: &mut Wrapped, sync: &Sync, verify: bool, all: bool) {
    let (newest, eta) = speed(sync);
    if all {
        out.field("rs-total", sync.total);
        out.field("rs-dt-start-ms", sync.elapsed_ms);
        out.field("rs-paused-ms", sync.paused_ms);
        // One window is measured, which is both the older and the newer.
        out.field("rs-dt0-ms", sync.window_ms);
        out.field("rs-db0-sectors", sync.window_sectors);
        out.field("rs-dt1-ms", sync.window_ms);
        out.field("rs-db1-sectors", sync.window_sectors);
        if verify {
            out.field("ov-start-sector", 0);
            out.field("ov-stop-sector", -1);
            out.field("ov-position", sync.total.saturating_sub(sync.left));
            out.field("ov-left", sync.left);
            out.field("ov-skipped", 0);
        } else {
            out.field("rs-failed", sync.failed);
            out.field("rs-same-csum", sync.same_csum);
        }
        out.field("dbdt", format_args!("{:.2}", average(sync)));
        out.field("dbdt0", format_args!("{newest:.2}"));
    }
    out.field("dbdt1", format_args!("{newest:.2}"));
    match eta {
        Some(eta) => out.field("eta", eta),
        None => out.field("eta", "nan"),
    }
}
