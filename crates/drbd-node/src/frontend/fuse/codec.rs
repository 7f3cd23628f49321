//! The bytes of the FUSE protocol (kernel interface 7.31 and later), as far as one file needs them. No I/O.
//!
//! All integers have the byte order of the machine. The kernel is trusted more than a network peer, but its bytes are
//! read with the same care: what is too short is a [`Malformed`], not a panic.

/// Version of the protocol we speak.
pub const MAJOR: u32 = 7;
/// Minor version we speak; the kernel takes the smaller of its own and this.
pub const MINOR: u32 = 38;
/// Oldest minor version of a kernel that has everything we use (Linux 5.4).
pub const MIN_MINOR: u32 = 31;

/// Length of the header of every request in bytes.
pub const IN_HEADER: usize = 40;
/// Length of the header of every reply in bytes.
pub const OUT_HEADER: usize = 16;
/// Length of what comes before the data of a write in bytes; the data starts right behind.
pub const WRITE_HEAD: usize = IN_HEADER + 40;
/// The smallest buffer the kernel accepts for a request without data, in bytes.
pub const MIN_BUFFER: usize = 8192;

/// Node number of the root, which is our only file.
pub const ROOT: u64 = 1;

/// Flags of `INIT`.
mod init {
    pub(super) const ASYNC_READ: u64 = 1;
    pub(super) const BIG_WRITES: u64 = 1 << 5;
    pub(super) const ASYNC_DIO: u64 = 1 << 15;
    pub(super) const MAX_PAGES: u64 = 1 << 22;
    pub(super) const INIT_EXT: u64 = 1 << 30;
}

/// Flags of the answer to `OPEN`.
pub mod fopen {
    /// Bypass the page cache.
    pub const DIRECT_IO: u32 = 1;
    /// Several writes at the same time.
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

/// Which attributes a `SETATTR` sets.
pub mod fattr {
    /// The mode.
    pub const MODE: u32 = 1;
    /// The owner.
    pub const UID: u32 = 1 << 1;
    /// The group.
    pub const GID: u32 = 1 << 2;
    /// The size.
    pub const SIZE: u32 = 1 << 3;
}

/// A request that is too short for what it claims to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("FUSE request {opcode} of {len} bytes is too short")]
pub struct Malformed {
    /// The operation, 0 if not even that is known.
    pub opcode: u32,
    /// Its length.
    pub len: usize,
}

/// A request of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Name of the request, repeated in the reply.
    pub unique: u64,
    /// The file.
    pub node: u64,
    /// Thread that asks, 0 if it is not in our PID name space.
    pub pid: u32,
    /// What is asked.
    pub op: Op,
}

/// What is asked of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// First request: agree on versions and features.
    Init {
        /// Major version of the kernel.
        major: u32,
        /// Minor version of the kernel.
        minor: u32,
        /// Largest read-ahead.
        readahead: u32,
        /// What the kernel can do.
        flags: u64,
    },
    /// Attributes.
    Getattr,
    /// Change attributes.
    Setattr {
        /// Which ([`fattr`]).
        valid: u32,
        /// New size.
        size: u64,
        /// New mode.
        mode: u32,
        /// New owner.
        uid: u32,
        /// New group.
        gid: u32,
    },
    /// Open.
    Open {
        /// `O_*`.
        flags: u32,
    },
    /// Read.
    Read {
        /// What `Open` was answered with.
        fh: u64,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        size: u32,
    },
    /// Write; `size` bytes follow at [`WRITE_HEAD`].
    Write {
        /// What `Open` was answered with.
        fh: u64,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        size: u32,
        /// `O_DSYNC`: on stable storage before the reply.
        dsync: bool,
    },
    /// Make everything written durable.
    Fsync {
        /// What `Open` was answered with.
        fh: u64,
    },
    /// A descriptor of the file was closed.
    Flush,
    /// The last descriptor of an open was closed.
    Release {
        /// What `Open` was answered with.
        fh: u64,
    },
    /// Allocate, punch, zero.
    Fallocate {
        /// What `Open` was answered with.
        fh: u64,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// `FALLOC_FL_*`.
        mode: u32,
    },
    /// Find data or a hole.
    Lseek {
        /// From where.
        offset: u64,
        /// `SEEK_*`.
        whence: u32,
    },
    /// Statistics of the file system.
    Statfs,
    /// No reply.
    Forget,
    /// An earlier request should end early. No reply.
    Interrupt {
        /// That request.
        unique: u64,
    },
    /// The file system is being unmounted.
    Destroy,
    /// Something a block device in a file does not need: `ENOSYS`, which most times means that the kernel
    /// does not ask again.
    Other(u32),
}

/// Reads integers off the front.
struct Fields<'a> {
    rest: &'a [u8],
    bad: Malformed,
}

impl Fields<'_> {
    fn u32(&mut self) -> Result<u32, Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(self.bad)?;
        self.rest = rest;
        Ok(u32::from_ne_bytes(*head))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(self.bad)?;
        self.rest = rest;
        Ok(u64::from_ne_bytes(*head))
    }
}

impl Request {
    /// Parses the head of a request: its first [`WRITE_HEAD`] bytes or more. `len` is the length of the whole.
    ///
    /// # Errors
    /// When it is too short, or not as long as it says.
    pub fn parse(head: &[u8], len: usize) -> Result<Request, Malformed> {
        let mut f = Fields {
            rest: head,
            bad: Malformed { opcode: 0, len },
        };
        let total = f.u32()?;
        let opcode = f.u32()?;
        f.bad.opcode = opcode;
        if total as usize != len {
            return Err(f.bad);
        }
        let unique = f.u64()?;
        let node = f.u64()?;
        let (_uid, _gid, pid, _extensions) = (f.u32()?, f.u32()?, f.u32()?, f.u32()?);
        let op = match opcode {
            2 | 42 => Op::Forget,
            3 => Op::Getattr,
            4 => {
                let (valid, _, _fh, size) = (f.u32()?, f.u32()?, f.u64()?, f.u64()?);
                // lock_owner, atime, mtime, ctime and their nanoseconds.
                for _ in 0..4 {
                    f.u64()?;
                }
                for _ in 0..3 {
                    f.u32()?;
                }
                let (mode, _, uid, gid) = (f.u32()?, f.u32()?, f.u32()?, f.u32()?);
                Op::Setattr {
                    valid,
                    size,
                    mode,
                    uid,
                    gid,
                }
            }
            14 => Op::Open { flags: f.u32()? },
            15 => Op::Read {
                fh: f.u64()?,
                offset: f.u64()?,
                size: f.u32()?,
            },
            16 => {
                let (fh, offset, size) = (f.u64()?, f.u64()?, f.u32()?);
                let (_write_flags, _lock_owner, flags) = (f.u32()?, f.u64()?, f.u32()?);
                if WRITE_HEAD.checked_add(size as usize) != Some(len) {
                    return Err(f.bad);
                }
                let dsync = flags & libc::O_DSYNC as u32 != 0;
                Op::Write {
                    fh,
                    offset,
                    size,
                    dsync,
                }
            }
            17 => Op::Statfs,
            18 => Op::Release { fh: f.u64()? },
            20 => Op::Fsync { fh: f.u64()? },
            25 => Op::Flush,
            26 => {
                let (major, minor, readahead) = (f.u32()?, f.u32()?, f.u32()?);
                let mut flags = u64::from(f.u32()?);
                if flags & init::INIT_EXT != 0 {
                    flags |= u64::from(f.u32()?) << 32;
                }
                Op::Init {
                    major,
                    minor,
                    readahead,
                    flags,
                }
            }
            36 => Op::Interrupt { unique: f.u64()? },
            38 => Op::Destroy,
            43 => {
                let (fh, offset, len, mode) = (f.u64()?, f.u64()?, f.u64()?, f.u32()?);
                Op::Fallocate {
                    fh,
                    offset,
                    len,
                    mode,
                }
            }
            46 => {
                let (_fh, offset, whence) = (f.u64()?, f.u64()?, f.u32()?);
                Op::Lseek { offset, whence }
            }
            other => Op::Other(other),
        };
        Ok(Request {
            unique,
            node,
            pid,
            op,
        })
    }
}

/// What `stat` shows of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Size in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Preferred block size in bytes.
    pub block: u32,
}

/// Header of a reply with `len` bytes behind it; `errno` 0 is success.
pub fn out_header(unique: u64, errno: i32, len: usize) -> [u8; OUT_HEADER] {
    let total = u32::try_from(OUT_HEADER.saturating_add(len)).unwrap_or(u32::MAX);
    let mut b = [0; OUT_HEADER];
    b[0..4].copy_from_slice(&total.to_ne_bytes());
    b[4..8].copy_from_slice(&errno.saturating_neg().to_ne_bytes());
    b[8..16].copy_from_slice(&unique.to_ne_bytes());
    b
}

/// A reply being put together.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u32(mut self, v: u32) -> Bytes {
        self.0.extend_from_slice(&v.to_ne_bytes());
        self
    }

    fn u64(mut self, v: u64) -> Bytes {
        self.0.extend_from_slice(&v.to_ne_bytes());
        self
    }
}

/// Body of the answer to `INIT`: what we can do of what the kernel can.
pub fn init_reply(readahead: u32, flags: u64, max_write: u32) -> Vec<u8> {
    let wanted =
        init::ASYNC_READ | init::BIG_WRITES | init::ASYNC_DIO | init::MAX_PAGES | init::INIT_EXT;
    let flags = flags & wanted;
    let pages = u16::try_from(max_write / 4096).unwrap_or(u16::MAX);
    // Background requests (asynchronous direct I/O, as of the loop device) under way at most; congestion at 3/4.
    let ([b0, b1], [c0, c1]) = (64u16.to_ne_bytes(), 48u16.to_ne_bytes());
    let background = u32::from_ne_bytes([b0, b1, c0, c1]);
    let [p0, p1] = pages.to_ne_bytes();
    let mut b = Bytes::default()
        .u32(MAJOR)
        .u32(MINOR)
        .u32(readahead)
        .u32(flags as u32)
        .u32(background)
        .u32(max_write)
        .u32(1)
        .u32(u32::from_ne_bytes([p0, p1, 0, 0]))
        .u32((flags >> 32) as u32)
        .0;
    b.resize(64, 0);
    b
}

/// Body of the answer to `GETATTR` and `SETATTR`. Nothing is cached: the size may change.
pub fn attr_reply(a: &Attributes) -> Vec<u8> {
    let b = Bytes::default().u64(0).u32(0).u32(0);
    b.u64(ROOT)
        .u64(a.size)
        .u64(a.size / 512)
        .u64(0)
        .u64(0)
        .u64(0)
        .u32(0)
        .u32(0)
        .u32(0)
        .u32(libc::S_IFREG | a.mode & 0o7777)
        .u32(1)
        .u32(a.uid)
        .u32(a.gid)
        .u32(0)
        .u32(a.block)
        .u32(0)
        .0
}

/// Body of the answer to `OPEN`.
pub fn open_reply(fh: u64) -> Vec<u8> {
    let flags = fopen::DIRECT_IO | fopen::PARALLEL_DIRECT_WRITES;
    Bytes::default().u64(fh).u32(flags).u32(0).0
}

/// Body of the answer to `WRITE`.
pub fn write_reply(size: u32) -> [u8; 8] {
    let mut b = [0; 8];
    b[..4].copy_from_slice(&size.to_ne_bytes());
    b
}

/// Body of the answer to `LSEEK`.
pub fn lseek_reply(offset: u64) -> Vec<u8> {
    Bytes::default().u64(offset).0
}

/// Body of the answer to `STATFS`: a full file system of the file's size. `block` is what the loop device takes for the
/// granularity of discards.
pub fn statfs_reply(size: u64, block: u32) -> Vec<u8> {
    let block = block.max(512);
    let blocks = size / u64::from(block);
    let mut b = Bytes::default().u64(blocks).u64(0).u64(0).u64(1).u64(0);
    b = b.u32(block).u32(255).u32(block).u32(0);
    b.0.resize(80, 0);
    b.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let mut b = u32::try_from(IN_HEADER + body.len())
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        b.extend(opcode.to_ne_bytes());
        b.extend(77u64.to_ne_bytes());
        b.extend(ROOT.to_ne_bytes());
        b.extend([0; 8]);
        b.extend(4711u32.to_ne_bytes());
        b.extend([0; 4]);
        b.extend(body);
        b
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    fn parse(opcode: u32, body: &[u8]) -> Result<Op, Malformed> {
        let b = request(opcode, body);
        let r = Request::parse(&b, b.len())?;
        assert_eq!((r.unique, r.node, r.pid), (77, ROOT, 4711));
        Ok(r.op)
    }

    #[test]
    fn operations() {
        let pair = |a: u32, b: u32| {
            u64::from_ne_bytes(
                [a.to_ne_bytes(), b.to_ne_bytes()]
                    .concat()
                    .try_into()
                    .unwrap(),
            )
        };
        let read = words(&[1, 4096, pair(512, 0), 0, 0]);
        assert_eq!(
            parse(15, &read),
            Ok(Op::Read {
                fh: 1,
                offset: 4096,
                size: 512
            })
        );
        let mut write = words(&[1, 4096, pair(16, 0), 0, pair(libc::O_DSYNC as u32, 0)]);
        assert!(parse(16, &write).is_err(), "16 bytes are missing");
        write.extend([5; 16]);
        assert_eq!(
            parse(16, &write),
            Ok(Op::Write {
                fh: 1,
                offset: 4096,
                size: 16,
                dsync: true
            })
        );
        let fallocate = words(&[9, 512, 1024, pair(3, 0)]);
        let op = Op::Fallocate {
            fh: 9,
            offset: 512,
            len: 1024,
            mode: 3,
        };
        assert_eq!(parse(43, &fallocate), Ok(op));
        let mut setattr = words(&[pair(fattr::MODE | fattr::GID, 0), 0, 33, 0, 0, 0, 0]);
        setattr.extend(
            [0, 0, 0, 0o640, 0, 8, 6, 0u32]
                .iter()
                .flat_map(|w| w.to_ne_bytes()),
        );
        let op = Op::Setattr {
            valid: 5,
            size: 33,
            mode: 0o640,
            uid: 8,
            gid: 6,
        };
        assert_eq!(parse(4, &setattr), Ok(op));
        assert_eq!(parse(38, &[]), Ok(Op::Destroy));
        assert_eq!(parse(36, &words(&[5])), Ok(Op::Interrupt { unique: 5 }));
        assert_eq!(parse(22, &[1, 2]), Ok(Op::Other(22)));
        let mut init = words(&[pair(7, 45), pair(65536, 1 << 30 | 1 << 15), pair(3, 0)]);
        init.resize(64, 0);
        let flags = 3 << 32 | 1 << 30 | 1 << 15;
        assert_eq!(
            parse(26, &init),
            Ok(Op::Init {
                major: 7,
                minor: 45,
                readahead: 65536,
                flags
            })
        );
    }

    #[test]
    fn replies_have_the_kernels_sizes() {
        assert_eq!(
            out_header(77, libc::EIO, 8),
            *[24i32, -5, 77, 0].map(i32::to_ne_bytes).as_flattened()
        );
        assert_eq!(init_reply(0, u64::MAX, 1 << 20).len(), 64);
        let a = Attributes {
            size: 1 << 30,
            mode: 0o600,
            uid: 0,
            gid: 6,
            block: 4096,
        };
        assert_eq!(attr_reply(&a).len(), 104);
        assert_eq!(open_reply(1).len(), 16);
        assert_eq!(statfs_reply(1 << 30, 512).len(), 80);
        let init = init_reply(0, u64::MAX, 1 << 20);
        assert_eq!(init[16..20], [64u16, 48].map(u16::to_ne_bytes).concat());
        assert_eq!(init[28..30], 256u16.to_ne_bytes(), "max_pages");
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(opcode in 0u32..60, body in proptest::collection::vec(any::<u8>(), 0..120)) {
            let b = request(opcode, &body);
            let _ = Request::parse(&b, b.len());
            let _ = Request::parse(&body, body.len());
        }
    }
}
