//! The activity log as comments, for those who look into a crash.

use crate::meta::device::Device;
use crate::meta::failure::Failure;
use drbd_meta::activity_log::{AlBlock, AlLayout, AlTransaction};
use drbd_meta::geometry::Geometry;
use std::fmt::Write;

/// Block after block in the order of the disk. The sectors that DRBD up to 8.3 wrote are none.
pub(super) fn blocks(device: &Device, geometry: &Geometry) -> Result<String, Failure> {
    let layout = AlLayout::from(geometry);
    let mut text = String::from("# al {\n");
    for number in 0..layout.blocks() {
        let offset = layout.block_sector(number).saturating_mul(512);
        let block = device.read_block("activity log", offset)?;
        // Writing to a string cannot fail.
        let _ = match AlBlock::decode(&block) {
            Ok(AlBlock::Initialised) => writeln!(text, "#     block {number:2} {{ INITIALIZED }}"),
            Err(_) => writeln!(text, "#     block {number:2} {{ INVALID }}"),
            Ok(AlBlock::Transaction(transaction)) => {
                let _ = writeln!(text, "#     block {number:2} {{");
                entries(&mut text, &transaction);
                writeln!(text, "#     }}")
            }
        };
    }
    text.push_str("# }\n");
    Ok(text)
}

fn entries(text: &mut String, transaction: &AlTransaction<'_>) {
    let header = transaction.header();
    let context = transaction.context();
    let updates: Vec<_> = transaction.updates().collect();
    let mut line = |words: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "# \t{words}");
    };
    line(format_args!("magic: 0x69cb65a2"));
    line(format_args!(
        "type: 0x{:04x}",
        transaction.transaction_type()
    ));
    line(format_args!("tr: {:10}", header.tr_number));
    line(format_args!("active set size: {}", header.context_size));
    for (n, (slot, extent)) in context.enumerate() {
        line(format_args!("{n:2}: {slot:10} {extent:10}"));
    }
    line(format_args!("updates: {}", updates.len()));
    for (n, update) in updates.into_iter().enumerate() {
        line(format_args!(
            "{n:2}: {:10} {:10}",
            update.slot, update.extent
        ));
    }
    line(format_args!("crc32c: 0x{:08x}", transaction.crc32c()));
}
