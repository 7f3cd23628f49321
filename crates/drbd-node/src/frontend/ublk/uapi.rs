//! The kernel's interface to ublk drivers: numbers and layouts, no calls.
//!
//! Structures are put together byte by byte, so that nothing depends on how the compiler lays out ours.

/// Entries of a queue the command buffer has room for, per queue.
pub(super) const MAX_QUEUE_DEPTH: usize = 4096;
/// Length of one entry of the command buffer in bytes.
pub(super) const IO_DESC: usize = 24;
/// Length of the argument of a control command in bytes.
pub(super) const CTRL_CMD: usize = 32;
/// Length of the description of a device in bytes.
pub(super) const DEV_INFO: usize = 64;

const IO_BUF_OFFSET: u64 = 0x8000_0000;
const TAG_SHIFT: u32 = 25;

const WRITE_READ: u32 = 3;
const READ: u32 = 2;

/// An ioctl number of type `u`.
const fn number(direction: u32, size: usize, nr: u32) -> u32 {
    direction << 30 | (size as u32) << 16 | (b'u' as u32) << 8 | nr
}

/// Control commands.
pub(super) mod ctrl {
    use super::{CTRL_CMD, READ, WRITE_READ, number};

    pub(crate) const ADD_DEV: u32 = number(WRITE_READ, CTRL_CMD, 0x04);
    pub(crate) const DEL_DEV: u32 = number(WRITE_READ, CTRL_CMD, 0x05);
    pub(crate) const START_DEV: u32 = number(WRITE_READ, CTRL_CMD, 0x06);
    pub(crate) const STOP_DEV: u32 = number(WRITE_READ, CTRL_CMD, 0x07);
    pub(crate) const SET_PARAMS: u32 = number(WRITE_READ, CTRL_CMD, 0x08);
    pub(crate) const GET_FEATURES: u32 = number(READ, CTRL_CMD, 0x13);
    pub(crate) const UPDATE_SIZE: u32 = number(WRITE_READ, CTRL_CMD, 0x15);
}

/// Commands of a queue.
pub(super) mod queue {
    use super::{WRITE_READ, number};

    pub(crate) const FETCH: u32 = number(WRITE_READ, 16, 0x20);
    pub(crate) const COMMIT_AND_FETCH: u32 = number(WRITE_READ, 16, 0x21);
}

/// Features of the driver.
pub(super) mod feature {
    /// Commands have ioctl numbers.
    pub(crate) const IOCTL_ENCODE: u64 = 1 << 6;
    /// Data is copied with pread and pwrite on the character device (Linux 6.5).
    pub(crate) const USER_COPY: u64 = 1 << 7;
    /// The size can change while the device is in use (Linux 6.16).
    pub(crate) const UPDATE_SIZE: u64 = 1 << 10;
}

/// Argument of a control command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CtrlCmd {
    /// Device, `u32::MAX` for none or any.
    pub(super) device: u32,
    /// Address and length of a buffer.
    pub(super) buffer: (u64, u16),
    /// A number, depends on the command.
    pub(super) data: u64,
}

impl CtrlCmd {
    /// In the space of a large submission entry.
    pub(super) fn encode(&self) -> [u8; 80] {
        let mut b = [0; 80];
        b[0..4].copy_from_slice(&self.device.to_ne_bytes());
        // No particular queue.
        b[4..6].copy_from_slice(&u16::MAX.to_ne_bytes());
        b[6..8].copy_from_slice(&self.buffer.1.to_ne_bytes());
        b[8..16].copy_from_slice(&self.buffer.0.to_ne_bytes());
        b[16..24].copy_from_slice(&self.data.to_ne_bytes());
        b
    }
}

/// Description of a device with one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DevInfo {
    /// Requests under way at most.
    pub(super) depth: u16,
    /// Longest request in bytes.
    pub(super) max_io: u32,
    /// Number of the device, `u32::MAX` lets the kernel choose.
    pub(super) device: u32,
    /// Features in use.
    pub(super) flags: u64,
}

impl DevInfo {
    /// For `ADD_DEV`.
    pub(super) fn encode(&self) -> [u8; DEV_INFO] {
        let mut b = [0; DEV_INFO];
        b[0..2].copy_from_slice(&1u16.to_ne_bytes());
        b[2..4].copy_from_slice(&self.depth.to_ne_bytes());
        b[8..12].copy_from_slice(&self.max_io.to_ne_bytes());
        b[12..16].copy_from_slice(&self.device.to_ne_bytes());
        b[24..32].copy_from_slice(&self.flags.to_ne_bytes());
        b
    }

    /// What the kernel made of it.
    pub(super) fn decode(b: &[u8; DEV_INFO]) -> DevInfo {
        let u16_at = |at: usize| u16::from_ne_bytes([b[at], b[at + 1]]);
        let u32_at = |at: usize| u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let flags = b.last_chunk::<40>().and_then(|b| b.first_chunk::<8>());
        let flags = flags.map_or(0, |f| u64::from_ne_bytes(*f));
        DevInfo {
            depth: u16_at(2),
            max_io: u32_at(8),
            device: u32_at(12),
            flags,
        }
    }
}

/// What the block layer should know of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Params {
    pub(super) sectors: u64,
    pub(super) logical_block: u32,
    pub(super) physical_block: u32,
    pub(super) max_io: u32,
    pub(super) max_discard: u32,
    pub(super) discard_granularity: u32,
    pub(super) max_write_zeroes: u32,
    pub(super) volatile_cache: bool,
}

impl Params {
    /// For `SET_PARAMS`: basic and discard parameters.
    pub(super) fn encode(&self) -> Vec<u8> {
        const BASIC: u32 = 1;
        const DISCARD: u32 = 1 << 1;
        const VOLATILE_CACHE: u32 = 1 << 2;
        const FUA: u32 = 1 << 3;
        let shift = |block: u32, least: u32| {
            // The kernel takes 512 up to a page.
            block.max(least).clamp(512, 4096).ilog2() as u8
        };
        let logical = shift(self.logical_block, 512);
        let physical = shift(self.physical_block, 1 << logical);
        let discards = self.max_discard > 0 || self.max_write_zeroes > 0;
        let types = if discards { BASIC | DISCARD } else { BASIC };
        let attributes = if self.volatile_cache {
            VOLATILE_CACHE | FUA
        } else {
            0
        };
        let mut b = Vec::with_capacity(64);
        b.extend_from_slice(&0u32.to_ne_bytes());
        b.extend_from_slice(&types.to_ne_bytes());
        b.extend_from_slice(&attributes.to_ne_bytes());
        b.extend_from_slice(&[logical, physical, physical, physical]);
        b.extend_from_slice(&(self.max_io >> 9).to_ne_bytes());
        b.extend_from_slice(&0u32.to_ne_bytes());
        b.extend_from_slice(&self.sectors.to_ne_bytes());
        b.extend_from_slice(&0u64.to_ne_bytes());
        let granularity = self.discard_granularity.max(1 << logical);
        for field in [
            0,
            granularity,
            self.max_discard >> 9,
            self.max_write_zeroes >> 9,
        ] {
            b.extend_from_slice(&field.to_ne_bytes());
        }
        b.extend_from_slice(&1u16.to_ne_bytes());
        b.extend_from_slice(&0u16.to_ne_bytes());
        let len = b.len() as u32;
        b[0..4].copy_from_slice(&len.to_ne_bytes());
        b
    }
}

/// Argument of a queue's command: the request that has ended, and its result (bytes, or a negative error number).
pub(super) fn io_cmd(tag: u16, result: i32) -> [u8; 16] {
    let mut b = [0; 16];
    b[2..4].copy_from_slice(&tag.to_ne_bytes());
    b[4..8].copy_from_slice(&result.to_ne_bytes());
    b
}

/// Where the data of a request is on the character device.
pub(super) fn data_offset(tag: u16) -> u64 {
    IO_BUF_OFFSET + (u64::from(tag) << TAG_SHIFT)
}

/// What the block layer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IoOp {
    Read,
    Write { fua: bool },
    Flush,
    Discard,
    WriteZeroes { unmap: bool },
    Unknown(u8),
}

/// A request of the block layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IoDesc {
    pub(super) op: IoOp,
    pub(super) sector: u64,
    pub(super) sectors: u32,
}

impl IoDesc {
    pub(super) fn decode(b: &[u8; IO_DESC]) -> IoDesc {
        const FUA: u32 = 1 << 13;
        const NOUNMAP: u32 = 1 << 15;
        let [
            f0,
            f1,
            f2,
            f3,
            n0,
            n1,
            n2,
            n3,
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            s6,
            s7,
            ..,
        ] = *b;
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        let op = match flags & 0xff {
            0 => IoOp::Read,
            1 => IoOp::Write {
                fua: flags & FUA != 0,
            },
            2 => IoOp::Flush,
            3 => IoOp::Discard,
            5 => IoOp::WriteZeroes {
                unmap: flags & NOUNMAP == 0,
            },
            other => IoOp::Unknown(other as u8),
        };
        IoDesc {
            op,
            sector: u64::from_ne_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            sectors: u32::from_ne_bytes([n0, n1, n2, n3]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_commands() {
        // As the kernel's header computes them.
        assert_eq!(ctrl::ADD_DEV, 0xc020_7504);
        assert_eq!(ctrl::GET_FEATURES, 0x8020_7513);
        assert_eq!(ctrl::UPDATE_SIZE, 0xc020_7515);
        assert_eq!(queue::FETCH, 0xc010_7520);
        assert_eq!(queue::COMMIT_AND_FETCH, 0xc010_7521);
    }

    #[test]
    fn layouts() {
        let c = CtrlCmd {
            device: 3,
            buffer: (0x1122_3344_5566_7788, 64),
            data: 9,
        };
        let b = c.encode();
        assert_eq!(b[..8], [3, 0, 0, 0, 0xff, 0xff, 64, 0]);
        assert_eq!(
            b[8..24],
            [c.buffer.0.to_ne_bytes(), 9u64.to_ne_bytes()].concat()
        );
        let info = DevInfo {
            depth: 128,
            max_io: 1 << 20,
            device: 5,
            flags: 1 << 40 | 1 << 7,
        };
        assert_eq!(DevInfo::decode(&info.encode()), info);
        let p = Params {
            sectors: 1 << 33,
            logical_block: 512,
            physical_block: 4096,
            max_io: 1 << 20,
            max_discard: 1 << 22,
            discard_granularity: 12 << 10,
            max_write_zeroes: 0,
            volatile_cache: true,
        };
        let b = p.encode();
        assert_eq!(b.len(), 60);
        assert_eq!(
            b[..16],
            [60, 0, 0, 0, 3, 0, 0, 0, 12, 0, 0, 0, 9, 12, 12, 12]
        );
        assert_eq!(b[16..20], 2048u32.to_ne_bytes());
        assert_eq!(b[24..32], (1u64 << 33).to_ne_bytes());
        assert_eq!(
            b[40..60],
            [0, 12 << 10, 8192, 0, 1u32].map(u32::to_ne_bytes).concat()
        );
        let plain = Params {
            max_discard: 0,
            volatile_cache: false,
            logical_block: 0,
            ..p
        }
        .encode();
        assert_eq!(plain[4..13], [1, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(io_cmd(0x102, -5)[..8], [0, 0, 2, 1, 0xfb, 0xff, 0xff, 0xff]);
        assert_eq!(data_offset(2), 0x8000_0000 + (2 << 25));
    }

    #[test]
    fn requests() {
        let desc = |flags: u32| {
            let mut b = [0; IO_DESC];
            b[..4].copy_from_slice(&flags.to_ne_bytes());
            b[4..8].copy_from_slice(&8u32.to_ne_bytes());
            b[8..16].copy_from_slice(&77u64.to_ne_bytes());
            let d = IoDesc::decode(&b);
            assert_eq!((d.sector, d.sectors), (77, 8));
            d.op
        };
        assert_eq!(desc(0), IoOp::Read);
        assert_eq!(desc(1 | 1 << 13), IoOp::Write { fua: true });
        assert_eq!(desc(1 | 1 << 10), IoOp::Write { fua: false });
        assert_eq!(desc(2), IoOp::Flush);
        assert_eq!(desc(3), IoOp::Discard);
        assert_eq!(desc(5), IoOp::WriteZeroes { unmap: true });
        assert_eq!(desc(5 | 1 << 15), IoOp::WriteZeroes { unmap: false });
        assert_eq!(desc(9), IoOp::Unknown(9));
    }
}
