//! Packet headers: three generations, told apart by their magic (wire protocol, chapter 5).

use core::fmt;

use crate::ctx::Stream;
use crate::error::{DecodeError, EncodeError};
use crate::packet::Cmd;
use crate::units::VolumeNr;
use crate::wire::{self, Put};

/// Magic of the 8-byte header.
pub const MAGIC_80: u32 = 0x8374_0267;
/// Magic of the "big" 8-byte header.
pub const MAGIC_95: u16 = 0x835A;
/// Magic of the 16-byte header.
pub const MAGIC_100: u32 = 0x8620_EC20;

/// The first version that uses the 16-byte header.
const FIRST_V100: u16 = 100;
/// The first version that knows the big 8-byte header.
const FIRST_V95: u16 = 95;
/// Packets longer than this (with header) need the big 8-byte header.
const V80_LIMIT: u32 = 32768;

/// A header generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// 8 bytes: u32 magic, u16 command, u16 length.
    V80,
    /// 8 bytes: u16 magic, u16 command, u32 length.
    V95,
    /// 16 bytes: u32 magic, u16 volume, u16 command, u32 length, u32 zero.
    V100,
}

impl Format {
    /// Size of the header, bytes.
    pub const fn header_len(self) -> usize {
        match self {
            Format::V80 | Format::V95 => 8,
            Format::V100 => 16,
        }
    }
    /// Which format a header starts with. Needs four bytes.
    pub fn classify(magic: [u8; 4]) -> Result<Format, DecodeError> {
        let [high, low, ..] = magic;
        if u32::from_be_bytes(magic) == MAGIC_100 {
            Ok(Format::V100)
        } else if u16::from_be_bytes([high, low]) == MAGIC_95 {
            Ok(Format::V95)
        } else if u32::from_be_bytes(magic) == MAGIC_80 {
            Ok(Format::V80)
        } else {
            Err(DecodeError::BadMagic(magic))
        }
    }
    /// The format a sender uses for `cmd` with `length` bytes after the header.
    pub const fn for_sending(version: u16, cmd: Cmd, length: u32) -> Format {
        if cmd.is_always_v80() {
            Format::V80
        } else if version >= FIRST_V100 {
            Format::V100
        } else if version >= FIRST_V95 && length.saturating_add(8) > V80_LIMIT {
            Format::V95
        } else {
            Format::V80
        }
    }
    /// May this format appear on the data stream at this version? 86..=94 has V80 only, 95..=99 V80
    /// for small and V95 for large packets, 100 and up V100 only.
    pub const fn allowed_on_data(self, version: u16) -> bool {
        match self {
            Format::V80 => version < FIRST_V100,
            Format::V95 => version < FIRST_V100 && version >= FIRST_V95,
            Format::V100 => version >= FIRST_V100,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::V80 => "v80",
            Format::V95 => "v95",
            Format::V100 => "v100",
        })
    }
}

/// Size of a header on the data stream at this version, bytes: 8 or 16.
pub const fn data_header_len(version: u16) -> usize {
    if version >= FIRST_V100 { 16 } else { 8 }
}

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The volume; 0 in the 8-byte formats. Has no meaning in packets that are connection-wide by
    /// their nature: 8.4 nodes put 0 there, DRBD 9 nodes -1.
    pub volume: VolumeNr,
    /// The command's number, known or not.
    pub code: u16,
    /// Bytes after the header: fixed part, digest and bulk data.
    pub length: u32,
}

impl Header {
    /// Decode the header at the start of `buf` and tell its size; `None` if `buf` does not hold all of
    /// it. On the data stream read [`data_header_len`] bytes; on the control stream, where any format
    /// may come at any time, read 8 and ask [`Header::missing`] how many more.
    pub fn parse(
        version: u16,
        stream: Stream,
        buf: &[u8],
    ) -> Result<Option<(Header, usize)>, DecodeError> {
        let Some(magic) = buf.first_chunk::<4>() else {
            return Ok(None);
        };
        let format = Format::classify(*magic)?;
        if stream == Stream::Data && !format.allowed_on_data(version) {
            return Err(DecodeError::HeaderNotAllowed { format, version });
        }
        let Some(bytes) = buf.get(..format.header_len()) else {
            return Ok(None);
        };
        Header::decode(format, bytes).map(|header| Some((header, format.header_len())))
    }

    /// How many bytes beyond those in `buf` complete the header.
    pub fn missing(buf: &[u8]) -> Result<usize, DecodeError> {
        let len = match buf.first_chunk::<4>() {
            Some(magic) => Format::classify(*magic)?.header_len(),
            None => Format::V80.header_len(),
        };
        Ok(len.saturating_sub(buf.len()))
    }

    fn decode(format: Format, bytes: &[u8]) -> Result<Header, DecodeError> {
        // The caller hands in exactly `format.header_len()` bytes, so no field is missing.
        fn at<T: wire::Wire + Default>(bytes: &[u8], off: usize) -> T {
            wire::get(bytes, off, "header").unwrap_or_default()
        }
        let header = match format {
            Format::V80 => Header {
                volume: VolumeNr::ZERO,
                code: at(bytes, 4),
                length: u32::from(at::<u16>(bytes, 6)),
            },
            Format::V95 => Header {
                volume: VolumeNr::ZERO,
                code: at(bytes, 2),
                length: at(bytes, 4),
            },
            Format::V100 => {
                let pad: u32 = at(bytes, 12);
                if pad != 0 {
                    return Err(DecodeError::HeaderPad(pad));
                }
                Header {
                    volume: VolumeNr::from_wire(at(bytes, 4)),
                    code: at(bytes, 6),
                    length: at(bytes, 8),
                }
            }
        };
        Ok(header)
    }

    /// Encode in the given format. The 8-byte formats drop the volume; V80 can only hold lengths up
    /// to 65535.
    pub fn encode(&self, format: Format, out: &mut impl Put) -> Result<(), EncodeError> {
        match format {
            Format::V80 => {
                let Ok(length) = u16::try_from(self.length) else {
                    return Err(EncodeError::TooLong {
                        cmd: Cmd::from_code(self.code).unwrap_or(Cmd::Data),
                        length: self.length as usize,
                        max: usize::from(u16::MAX),
                    });
                };
                let mut h = [0; 8];
                wire::set(&mut h, 0, &MAGIC_80);
                wire::set(&mut h, 4, &self.code);
                wire::set(&mut h, 6, &length);
                out.put(&h);
            }
            Format::V95 => {
                let mut h = [0; 8];
                wire::set(&mut h, 0, &MAGIC_95);
                wire::set(&mut h, 2, &self.code);
                wire::set(&mut h, 4, &self.length);
                out.put(&h);
            }
            Format::V100 => {
                let mut h = [0; 16];
                wire::set(&mut h, 0, &MAGIC_100);
                wire::set(&mut h, 4, &self.volume.to_wire());
                wire::set(&mut h, 6, &self.code);
                wire::set(&mut h, 8, &self.length);
                out.put(&h);
            }
        }
        Ok(())
    }

    /// The command, if it is known.
    pub fn cmd(&self) -> Result<Cmd, DecodeError> {
        Cmd::from_code(self.code).ok_or(DecodeError::UnknownCommand(self.code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// Wire protocol, chapter 27: headers of P_DATA with 128 KiB and 4 KiB at 95..=99.
    #[test]
    fn small_and_big_headers() {
        for (length, bytes) in [
            (24 + (128 << 10), [0x83, 0x5a, 0, 0, 0, 2, 0, 0x18]),
            (24 + 4096, [0x83, 0x74, 2, 0x67, 0, 0, 0x10, 0x18]),
        ] {
            let header = Header {
                volume: VolumeNr::ZERO,
                code: 0,
                length,
            };
            let format = Format::for_sending(97, Cmd::Data, length);
            let mut out = Vec::new();
            header.encode(format, &mut out).unwrap();
            assert_eq!(out, bytes);
            assert_eq!(Header::parse(97, Stream::Data, &out), Ok(Some((header, 8))));
        }
    }

    #[test]
    fn formats_allowed_by_version() {
        let v80 = [0x83, 0x74, 2, 0x67, 0, 0x13, 0, 0];
        for version in [86, 94, 95, 99] {
            assert!(Header::parse(version, Stream::Data, &v80).is_ok());
        }
        assert_eq!(
            Header::parse(100, Stream::Data, &v80),
            Err(DecodeError::HeaderNotAllowed {
                format: Format::V80,
                version: 100
            })
        );
        // A ping may overtake the features exchange, so the control stream takes anything.
        assert!(Header::parse(124, Stream::Control, &v80).is_ok());
    }

    #[test]
    fn broken_headers() {
        let mut v100 = Vec::new();
        Header {
            volume: VolumeNr::CONNECTION,
            code: 0x13,
            length: 0,
        }
        .encode(Format::V100, &mut v100)
        .unwrap();
        assert_eq!(Header::missing(&[]), Ok(8));
        assert_eq!(Header::missing(v100.first_chunk::<8>().unwrap()), Ok(8));
        assert_eq!(
            Header::parse(124, Stream::Data, v100.get(..15).unwrap()),
            Ok(None)
        );
        v100[15] = 1;
        assert_eq!(
            Header::parse(124, Stream::Data, &v100),
            Err(DecodeError::HeaderPad(1))
        );
        v100[0] = 0;
        assert_eq!(
            Header::parse(124, Stream::Data, &v100),
            Err(DecodeError::BadMagic([0, 0x20, 0xec, 0x20]))
        );
        let long = Header {
            volume: VolumeNr::ZERO,
            code: 0,
            length: 65536,
        };
        assert!(long.encode(Format::V80, &mut Vec::new()).is_err());
    }
}
