//! CRC-32C: by the processor's instruction with the standard library, by tables without.

/// Continue `crc` (0 to begin) over `data`.
#[cfg(feature = "std")]
pub(super) fn append(crc: u32, data: &[u8]) -> u32 {
    ::crc32c::crc32c_append(crc, data)
}

/// Continue `crc` (0 to begin) over `data`.
#[cfg(not(feature = "std"))]
pub(super) fn append(crc: u32, data: &[u8]) -> u32 {
    table::append(crc, data)
}

#[cfg(any(test, not(feature = "std")))]
mod table {
    /// The reversed polynomial.
    const POLY: u32 = 0x82F6_3B78;

    /// `TABLES[k][b]`: the effect of byte `b`, `k` bytes before the end of an 8-byte group.
    static TABLES: [[u32; 256]; 8] = tables();

    #[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)] // Evaluated by the compiler.
    const fn tables() -> [[u32; 256]; 8] {
        let mut t = [[0; 256]; 8];
        let mut b = 0;
        while b < 256 {
            let mut crc = b as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 != 0 {
                    crc >> 1 ^ POLY
                } else {
                    crc >> 1
                };
                bit += 1;
            }
            t[0][b] = crc;
            b += 1;
        }
        let mut k = 1;
        while k < 8 {
            let mut b = 0;
            while b < 256 {
                let crc = t[k - 1][b];
                t[k][b] = crc >> 8 ^ t[0][(crc & 0xff) as usize];
                b += 1;
            }
            k += 1;
        }
        t
    }

    /// A table lookup; an index of one byte is always inside.
    #[allow(clippy::indexing_slicing)]
    #[inline]
    fn at(k: usize, byte: u8) -> u32 {
        TABLES[k & 7][byte as usize]
    }

    pub(super) fn append(crc: u32, data: &[u8]) -> u32 {
        let mut crc = !crc;
        let (groups, rest) = data.as_chunks::<8>();
        for [a, b, c, d, e, f, g, h] in groups {
            let [w, x, y, z] = (crc ^ u32::from_le_bytes([*a, *b, *c, *d])).to_le_bytes();
            crc = at(7, w) ^ at(6, x) ^ at(5, y) ^ at(4, z);
            crc ^= at(3, *e) ^ at(2, *f) ^ at(1, *g) ^ at(0, *h);
        }
        for byte in rest {
            crc = crc >> 8 ^ at(0, crc as u8 ^ byte);
        }
        !crc
    }
}

#[cfg(test)]
mod tests {
    use super::table;
    use proptest::prelude::*;

    fn bitwise(data: &[u8]) -> u32 {
        !data.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 != 0 {
                    crc >> 1 ^ 0x82F6_3B78
                } else {
                    crc >> 1
                }
            })
        })
    }

    proptest! {
        #[test]
        fn all_ways_agree(data in prop::collection::vec(any::<u8>(), 0..100), cut in 0..100usize) {
            let (a, b) = data.split_at(cut.min(data.len()));
            prop_assert_eq!(table::append(table::append(0, a), b), bitwise(&data));
            prop_assert_eq!(super::append(super::append(0, a), b), bitwise(&data));
        }
    }
}
