//! A map from ranges of sectors to values, kept as maximal runs.

use std::collections::BTreeMap;

/// Values of sectors. Neighbouring runs with the same value are one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeMap<V> {
    /// start -> (end, value); runs neither overlap nor touch with equal values.
    runs: BTreeMap<u64, (u64, V)>,
}

/// A run of sectors `start..end` with one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run<V> {
    /// First sector.
    pub start: u64,
    /// One past the last sector.
    pub end: u64,
    /// Their value.
    pub value: V,
}

impl<V: Copy + Eq> RangeMap<V> {
    /// No sector has a value.
    pub fn new() -> Self {
        RangeMap {
            runs: BTreeMap::new(),
        }
    }

    /// All sectors `0..size` have this value.
    pub fn filled(size: u64, value: V) -> Self {
        let mut map = RangeMap::new();
        map.set(0, size, value);
        map
    }

    /// Gives `start..end` a value.
    pub fn set(&mut self, start: u64, end: u64, value: V) {
        if start >= end {
            return;
        }
        let (mut start, mut end) = (start, end);
        self.clear(start, end);
        if let Some((&s, &(e, v))) = self.runs.range(..start).next_back()
            && e == start
            && v == value
        {
            self.runs.remove(&s);
            start = s;
        }
        if let Some(&(e, v)) = self.runs.get(&end)
            && v == value
        {
            self.runs.remove(&end);
            end = e;
        }
        self.runs.insert(start, (end, value));
    }

    /// Takes the values of `start..end` away.
    pub fn clear(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        if let Some((&s, &(e, v))) = self.runs.range(..start).next_back()
            && e > start
        {
            self.runs.insert(s, (start, v));
            if e > end {
                self.runs.insert(end, (e, v));
                return;
            }
        }
        while let Some((&s, &(e, v))) = self.runs.range(start..end).next() {
            self.runs.remove(&s);
            if e > end {
                self.runs.insert(end, (e, v));
                break;
            }
        }
    }

    /// The value of one sector.
    pub fn get(&self, sector: u64) -> Option<V> {
        let (_, &(e, v)) = self.runs.range(..=sector).next_back()?;
        (sector < e).then_some(v)
    }

    /// The runs that overlap `start..end`, clipped to it, in order.
    pub fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = Run<V>> + '_ {
        let first = self
            .runs
            .range(..=start)
            .next_back()
            .map_or(start, |(&s, _)| s);
        self.runs
            .range(first..end.max(first))
            .map(move |(&s, &(e, v))| Run {
                start: s.max(start),
                end: e.min(end),
                value: v,
            })
            .filter(|r| r.start < r.end)
    }

    /// All runs in order.
    pub fn iter(&self) -> impl Iterator<Item = Run<V>> + '_ {
        self.runs
            .iter()
            .map(|(&start, &(end, value))| Run { start, end, value })
    }

    /// Whether no sector has a value.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Number of sectors with a value.
    pub fn sectors(&self) -> u64 {
        self.iter().map(|r| r.end - r.start).sum()
    }
}

/// The runs of `start..end` on which two maps hold different values; no value is a value, too.
pub fn differences<V: Copy + Eq>(
    a: &RangeMap<V>,
    b: &RangeMap<V>,
    start: u64,
    end: u64,
) -> Vec<Run<(Option<V>, Option<V>)>> {
    let mut out = Vec::new();
    let mut at = start;
    let (mut ia, mut ib) = (
        a.overlapping(start, end).peekable(),
        b.overlapping(start, end).peekable(),
    );
    while at < end {
        while ia.peek().is_some_and(|r| r.end <= at) {
            ia.next();
        }
        while ib.peek().is_some_and(|r| r.end <= at) {
            ib.next();
        }
        let look = |r: Option<&Run<V>>| match r {
            Some(r) if r.start <= at => (Some(r.value), r.end),
            Some(r) => (None, r.start),
            None => (None, end),
        };
        let (va, ea) = look(ia.peek());
        let (vb, eb) = look(ib.peek());
        let to = ea.min(eb).min(end);
        if va != vb {
            out.push(Run {
                start: at,
                end: to,
                value: (va, vb),
            });
        }
        at = to;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// Against a plain array.
    #[test]
    fn random_operations_match_an_array() {
        let mut rng = Rng::new(1);
        for _ in 0..200 {
            let mut model = [None; 64];
            let mut map = RangeMap::new();
            let mut old = map.clone();
            let mut old_model = model;
            for step in 0..40 {
                let start = rng.below(64);
                let end = rng.range(start, 64);
                if rng.percent(70) {
                    let v = rng.below(3);
                    map.set(start, end, v);
                    model[start as usize..end as usize].fill(Some(v));
                } else {
                    map.clear(start, end);
                    model[start as usize..end as usize].fill(None);
                }
                for (i, v) in model.iter().enumerate() {
                    assert_eq!(map.get(i as u64), *v);
                }
                let mut prev: Option<Run<u64>> = None;
                for r in map.iter() {
                    assert!(r.start < r.end);
                    assert!(prev.is_none_or(
                        |p| p.end < r.start || (p.end == r.start && p.value != r.value)
                    ));
                    prev = Some(r);
                }
                let mut seen = [None; 64];
                for r in map.overlapping(start, end) {
                    assert!(r.start >= start && r.end <= end);
                    seen[r.start as usize..r.end as usize].fill(Some(r.value));
                }
                assert_eq!(
                    seen[start as usize..end as usize],
                    model[start as usize..end as usize]
                );
                let mut differ = [false; 64];
                for r in differences(&old, &map, 0, 64) {
                    differ[r.start as usize..r.end as usize].fill(true);
                }
                for i in 0..64 {
                    assert_eq!(differ[i], old_model[i] != model[i]);
                }
                if step % 7 == 0 {
                    old = map.clone();
                    old_model = model;
                }
            }
        }
    }
}
