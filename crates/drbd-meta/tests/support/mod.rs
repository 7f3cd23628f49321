//! Shared by the tests: a device in memory, hexadecimal, SHA-256.
#![allow(dead_code)] // each test binary uses its part

use drbd_meta::Block;
use drbd_meta::geometry::{AlStriping, BitmapBlockSize, Geometry, MdIndex, Placement};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut s, b| {
        write!(s, "{b:02x}").unwrap();
        s
    })
}

/// Bytes of hexadecimal text; blanks are skipped.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
        .collect()
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A block that is zero but for the given pieces: (offset, hexadecimal).
pub(crate) fn block(pieces: &[(usize, &str)]) -> Block {
    let mut block = [0; 4096];
    for (offset, text) in pieces {
        let bytes = unhex(text);
        block[*offset..offset + bytes.len()].copy_from_slice(&bytes);
    }
    block
}

/// The block that begins at byte `at`.
pub(crate) fn block_at(bytes: &[u8], at: usize) -> &Block {
    bytes[at..at + 4096].try_into().unwrap()
}

/// A geometry with 4 KiB bitmap blocks.
pub(crate) fn geometry(
    index: MdIndex,
    device_size: u64,
    slots: u8,
    striping: AlStriping,
) -> Geometry {
    Geometry::new(
        Placement { index, device_size },
        slots,
        BitmapBlockSize::DEFAULT,
        striping,
    )
    .unwrap()
}
