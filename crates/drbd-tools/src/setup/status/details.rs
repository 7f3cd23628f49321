//! `status --verbose --verbose --statistics`: what is known of a resync or verify (CLI, section 13).

use drbd_control::protocol::{Sync, Verify};

use super::{Wrapped, in_window, speed};

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

/// The speed that a target aims at in MiB/s.
pub(super) fn wanted(sync: &Sync) -> f64 {
    sync.want as f64 / 1024.0
}

/// Where a verify ends; the largest number stands for the end of the device.
pub(super) fn stop(verify: &Verify) -> i64 {
    verify
        .stop
        .and_then(|sector| sector.try_into().ok())
        .unwrap_or(-1)
}

/// The fields of a resync or verify; `all` of them with `--verbose` given twice.
pub(super) fn progress(out: &mut Wrapped, sync: &Sync, all: bool) {
    let (newest, eta) = speed(sync);
    if all {
        out.field("rs-total", sync.total);
        out.field("rs-dt-start-ms", sync.elapsed_ms);
        out.field("rs-paused-ms", sync.paused_ms);
        let [(long_ms, long), (short_ms, short)] = sync.windows;
        out.field("rs-dt0-ms", long_ms);
        out.field("rs-db0-sectors", long);
        out.field("rs-dt1-ms", short_ms);
        out.field("rs-db1-sectors", short);
        if let Some(verify) = sync.verify {
            out.field("ov-start-sector", verify.start);
            out.field("ov-stop-sector", stop(&verify));
            out.field("ov-position", verify.position);
            out.field("ov-left", sync.left);
            out.field("ov-skipped", verify.skipped);
        } else {
            out.field("rs-failed", sync.failed);
            out.field("rs-same-csum", sync.same_csum);
        }
        if sync.want > 0 {
            out.field("want", format_args!("{:.2}", wanted(sync)));
        }
        out.field("dbdt", format_args!("{:.2}", average(sync)));
        out.field("dbdt0", format_args!("{:.2}", in_window(sync.windows[0])));
    }
    out.field("dbdt1", format_args!("{newest:.2}"));
    match eta {
        Some(eta) => out.field("eta", eta),
        None => out.field("eta", "nan"),
    }
}
