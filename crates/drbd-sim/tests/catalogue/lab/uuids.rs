//! Data generation identifiers.

use super::Lab;

/// Data generation identifiers of a node's volume, without bit 0, as on stable storage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Generations {
    /// The current one.
    pub current: u64,
    /// Bitmap UUID towards each node.
    pub bitmap: Vec<u64>,
    /// The history, newest first.
    pub history: Vec<u64>,
}

/// The identifier of disks that are fresh.
pub const JUST_CREATED: u64 = 4;

impl Lab {
    /// The generations of volume 0.
    #[track_caller]
    pub fn uuids(&self, n: usize) -> Generations {
        self.uuids_of(n, 0)
    }

    #[track_caller]
    pub fn uuids_of(&self, n: usize, v: usize) -> Generations {
        let Some(sb) = self.c.superblock(n, v) else {
            self.panic(&format!("node {n} has no metadata of volume {v}"));
        };
        let plain = |u: u64| u & !1;
        Generations {
            current: plain(sb.current_uuid),
            bitmap: sb.peers.iter().map(|p| plain(p.bitmap_uuid)).collect(),
            history: (sb.history.iter().map(|h| plain(*h)))
                .take_while(|h| *h != 0)
                .collect(),
        }
    }

    /// The current generation of volume 0.
    #[track_caller]
    pub fn current(&self, n: usize) -> u64 {
        self.uuids(n).current
    }

    /// All these nodes have the same current generation; which.
    #[track_caller]
    pub fn one_generation(&self, nodes: impl IntoIterator<Item = usize>) -> u64 {
        let all: Vec<(usize, u64)> = nodes.into_iter().map(|n| (n, self.current(n))).collect();
        if all.iter().any(|(_, u)| *u != all[0].1) {
            self.panic(&format!("generations differ: {all:x?}"));
        }
        all[0].1
    }
}
