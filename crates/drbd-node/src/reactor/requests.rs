//! Requests of applications under way: who gets the answer.

use drbd_engine::{IoId, OpenId};

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The opener that submitted it.
    pub(super) open: OpenId,
    /// The opener's name for it.
    pub(super) tag: u64,
}

/// A table that allocates only while it grows. The engine's names carry a generation, so that a name is not used
/// twice soon.
#[derive(Default)]
pub(super) struct Requests {
    slots: Vec<(u32, Option<Entry>)>,
    free: Vec<u32>,
}

impl Requests {
    pub(super) fn insert(&mut self, entry: Entry) -> IoId {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push((0, None));
                (self.slots.len() - 1) as u32
            }
        };
        let generation = match self.slots.get_mut(index as usize) {
            Some((generation, slot)) => {
                *generation = generation.wrapping_add(1);
                *slot = Some(entry);
                *generation
            }
            None => 0,
        };
        IoId(u64::from(generation) << 32 | u64::from(index))
    }

    pub(super) fn remove(&mut self, io: IoId) -> Option<Entry> {
        let index = io.0 as u32;
        let (generation, slot) = self.slots.get_mut(index as usize)?;
        if u64::from(*generation) != io.0 >> 32 {
            return None;
        }
        let entry = slot.take()?;
        self.free.push(index);
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_end_once() {
        let mut requests = Requests::default();
        let entry = |tag| Entry {
            open: OpenId(1),
            tag,
        };
        let a = requests.insert(entry(10));
        let b = requests.insert(entry(11));
        assert_ne!(a, b);
        assert_eq!(requests.remove(a).map(|e| e.tag), Some(10));
        assert!(requests.remove(a).is_none());
        let c = requests.insert(entry(12));
        assert_ne!(a, c, "the place is reused, the name is not");
        assert!(requests.remove(a).is_none());
        assert_eq!(requests.remove(c).map(|e| e.tag), Some(12));
        assert_eq!(requests.remove(b).map(|e| e.tag), Some(11));
    }
}
