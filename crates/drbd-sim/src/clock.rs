//! Virtual time and the queue of what is going to happen.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Nanoseconds of virtual time since the start of the run.
pub type Time = u64;

/// One microsecond.
pub const US: Time = 1_000;
/// One millisecond.
pub const MS: Time = 1_000_000;
/// One second.
pub const SEC: Time = 1_000_000_000;

struct Entry<T> {
    at: Time,
    seq: u64,
    what: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<T> Eq for Entry<T> {}
impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Entry<T> {
    // Reversed: the heap hands out the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

/// The queue of future occurrences. What is due at the same time happens in the order it was put in.
pub struct Queue<T> {
    now: Time,
    seq: u64,
    heap: BinaryHeap<Entry<T>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue {
            now: 0,
            seq: 0,
            heap: BinaryHeap::new(),
        }
    }
}

impl<T> Queue<T> {
    /// The present.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Something happens `delay` nanoseconds from now.
    pub fn after(&mut self, delay: Time, what: T) {
        self.at(self.now.saturating_add(delay), what);
    }

    /// Something happens at a point in time, but not in the past.
    pub fn at(&mut self, at: Time, what: T) {
        self.seq += 1;
        self.heap.push(Entry {
            at: at.max(self.now),
            seq: self.seq,
            what,
        });
    }

    /// When the next thing happens.
    pub fn next_at(&self) -> Option<Time> {
        self.heap.peek().map(|e| e.at)
    }

    /// Goes on to the next occurrence.
    pub fn pop(&mut self) -> Option<T> {
        let entry = self.heap.pop()?;
        self.now = entry.at;
        Some(entry.what)
    }

    /// Goes on to a point in time before which nothing happens.
    pub fn advance(&mut self, to: Time) {
        debug_assert!(self.next_at().is_none_or(|t| t >= to));
        self.now = self.now.max(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_time_then_insertion() {
        let mut q = Queue::default();
        q.at(5, 'c');
        q.at(3, 'a');
        q.at(5, 'd');
        q.at(4, 'b');
        let order: String = std::iter::from_fn(|| q.pop()).collect();
        assert_eq!(order, "abcd");
        assert_eq!(q.now(), 5);
        q.at(1, 'x');
        assert_eq!(q.next_at(), Some(5));
    }
}
