//! Payload and the buffers that hold it: what a block device would call pages.
//!
//! Payload never enters the engine, so the simulator is free to store it compactly: for each sector the
//! number of the write that produced it. [`Buffers`] is the accounting: every buffer given to an engine
//! comes back with exactly one `Release`, and is not used afterwards.

use std::collections::BTreeMap;
use std::rc::Rc;

/// What a sector contains: the number of the write that produced it.
pub type Version = u64;

/// Content of a sector that was discarded, zeroed or never written by anyone.
pub const ZEROES: Version = 0;

/// Content of a range of sectors: (number of sectors, version) in order, neighbours differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    runs: Vec<(u64, Version)>,
}

impl Payload {
    /// No sectors.
    pub fn new() -> Payload {
        Payload::default()
    }

    /// `sectors` sectors with one content.
    pub fn uniform(sectors: u64, version: Version) -> Payload {
        let mut payload = Payload::new();
        payload.push(sectors, version);
        payload
    }

    /// Adds sectors at the end.
    pub fn push(&mut self, sectors: u64, version: Version) {
        match self.runs.last_mut() {
            _ if sectors == 0 => {}
            Some((n, v)) if *v == version => *n += sectors,
            _ => self.runs.push((sectors, version)),
        }
    }

    /// The runs.
    pub fn runs(&self) -> &[(u64, Version)] {
        &self.runs
    }

    /// Number of sectors.
    pub fn sectors(&self) -> u64 {
        self.runs.iter().map(|r| r.0).sum()
    }

    /// A digest of `len` bytes: equal for equal content, otherwise almost surely different.
    pub fn digest(&self, algorithm: &str, len: usize) -> Vec<u8> {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut eat = |v: u64| {
            hash = (hash ^ v).wrapping_mul(0x9fb2_1c65_1e98_df25);
            hash ^= hash >> 29;
        };
        algorithm.bytes().for_each(|b| eat(b.into()));
        for (n, v) in &self.runs {
            eat(*n);
            eat(*v);
        }
        let mut rng = crate::rng::Rng::new(hash);
        (0..len).map(|_| (rng.next() >> 32) as u8).collect()
    }
}

/// Where the content of a buffer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An application's write.
    App,
    /// A replicated write.
    Replicated,
    /// A block of a resync.
    Resync,
    /// Any other packet.
    Other,
    /// Read from the local disk.
    Disk,
}

/// A buffer some engine holds a reference to.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// The node whose engine holds it.
    pub node: usize,
    /// Its content.
    pub payload: Rc<Payload>,
    /// Where the content came from.
    pub origin: Origin,
    /// The application request, for an application's write.
    pub io: Option<u64>,
}

/// All buffers that engines hold references to.
#[derive(Default)]
pub struct Buffers {
    next: u64,
    held: BTreeMap<u64, Buffer>,
}

impl Buffers {
    /// Gives a buffer to an engine.
    pub fn give(
        &mut self,
        node: usize,
        payload: Rc<Payload>,
        origin: Origin,
        io: Option<u64>,
    ) -> u64 {
        self.next += 1;
        self.held.insert(
            self.next,
            Buffer {
                node,
                payload,
                origin,
                io,
            },
        );
        self.next
    }

    /// A buffer that this node's engine names.
    pub fn get(&self, node: usize, buf: u64) -> Result<&Buffer, String> {
        match self.held.get(&buf) {
            Some(b) if b.node == node => Ok(b),
            Some(b) => Err(format!("buffer {buf} belongs to node {}", b.node)),
            None if buf >= 1 && buf <= self.next => {
                Err(format!("buffer {buf} used after its release"))
            }
            None => Err(format!("buffer {buf} never existed")),
        }
    }

    /// The engine gives a buffer back.
    pub fn release(&mut self, node: usize, buf: u64) -> Result<(), String> {
        self.get(node, buf)?;
        self.held.remove(&buf);
        Ok(())
    }

    /// A node is gone with everything it held.
    pub fn forget_node(&mut self, node: usize) {
        self.held.retain(|_, b| b.node != node);
    }

    /// The buffers a node's engine holds.
    pub fn held_by(&self, node: usize) -> impl Iterator<Item = (u64, &Buffer)> {
        self.held
            .iter()
            .filter(move |(_, b)| b.node == node)
            .map(|(id, b)| (*id, b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_is_exactly_once() {
        let mut b = Buffers::default();
        let id = b.give(0, Rc::new(Payload::uniform(8, 1)), Origin::App, None);
        assert!(b.get(1, id).is_err());
        assert!(b.release(0, id).is_ok());
        assert!(b.release(0, id).unwrap_err().contains("after its release"));
        assert!(b.get(0, 99).unwrap_err().contains("never existed"));
    }

    #[test]
    fn digests_tell_contents_apart() {
        let a = Payload::uniform(8, 1);
        let mut b = Payload::uniform(4, 1);
        assert_ne!(a.digest("sha1", 20), b.digest("sha1", 20));
        b.push(4, 1);
        assert_eq!(a.digest("sha1", 20), b.digest("sha1", 20));
        assert_ne!(a.digest("sha1", 20), a.digest("md5", 20));
    }
}
