//! The checksum of activity log blocks: the CRC-32C polynomial, reflected, with initial value 0 and
//! without final inversion (metadata, section 5.1). The usual "CRC32C" starts with and inverts by
//! all ones and gives other values.

/// The reflected CRC-32C polynomial.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// `TABLES[k][b]`: the CRC of byte `b` followed by `k` zero bytes.
static TABLES: [[u32; 256]; 8] = tables();

#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)] // evaluated at compile time
const fn tables() -> [[u32; 256]; 8] {
    let mut t = [[0u32; 256]; 8];
    let mut b = 0;
    while b < 256 {
        let mut crc = b as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ POLYNOMIAL
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
            let previous = t[k - 1][b];
            t[k][b] = (previous >> 8) ^ t[0][(previous & 0xFF) as usize];
            b += 1;
        }
        k += 1;
    }
    t
}

/// One table entry; the index is a byte, so it always exists.
#[allow(clippy::indexing_slicing)] // a byte indexes 256 entries
const fn entry(table: &[u32; 256], byte: u8) -> u32 {
    table[byte as usize]
}

/// Continues `crc` (0 to begin) over `data`.
#[must_use]
pub fn update(mut crc: u32, data: &[u8]) -> u32 {
    let [t0, t1, t2, t3, t4, t5, t6, t7] = &TABLES;
    let (chunks, rest) = data.as_chunks::<8>();
    for &[a, b, c, d, e, f, g, h] in chunks {
        let [x0, x1, x2, x3] = crc.to_le_bytes();
        crc = entry(t7, a ^ x0)
            ^ entry(t6, b ^ x1)
            ^ entry(t5, c ^ x2)
            ^ entry(t4, d ^ x3)
            ^ entry(t3, e)
            ^ entry(t2, f)
            ^ entry(t1, g)
            ^ entry(t0, h);
    }
    for &byte in rest {
        let [low, ..] = crc.to_le_bytes();
        crc = (crc >> 8) ^ entry(t0, low ^ byte);
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::update;
    use proptest::prelude::*;

    #[test]
    fn check_values() {
        assert_eq!(update(0, &[0; 4096]), 0);
        assert_eq!(update(0, b"123456789"), 0x58E3_FA20);
        // The usual variant is the same sum between two inversions.
        assert_eq!(!update(!0, b"123456789"), 0xE306_9283);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_sum(data in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..200) {
            let at = at.min(data.len());
            prop_assert_eq!(update(update(0, &data[..at]), &data[at..]), update(0, &data));
        }
    }
}
