use alloc::collections::BTreeMap;
use alloc::collections::BTreeSet;
use alloc::vec;

use proptest::prelude::*;

use super::*;

fn log(slots: u16) -> ActivityLog {
    ActivityLog::new(slots, 0).unwrap()
}

/// Runs the pending transaction; returns its updates as (slot, extent).
fn write(al: &mut ActivityLog) -> Vec<(u16, u32)> {
    assert!(al.begin());
    let updates = al
        .transaction()
        .unwrap()
        .updates()
        .map(|(s, e)| (s, e.0))
        .collect();
    al.commit(true);
    updates
}

#[test]
fn extents_of_a_range() {
    let of = |s, l| {
        ExtentNr::covering(Sector(s), l)
            .map(|e| e.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(of(0, 4096), [0]);
    assert_eq!(of(8192, 4096), [1]);
    assert_eq!(of(16376, 8192), [1, 2]);
    assert_eq!(of(16376, 4096), [1]);
    assert_eq!(of(5, 0), []);
    assert_eq!(of(8191, 128 << 20).len(), 33);
    assert_eq!(of(u64::MAX, 4096), [FREE - 1]);
}

#[test]
fn worked_example() {
    // Data path, section 13.7: the blocks byte for byte.
    let mut al = log(67);
    let mut block = [0xaa; 4096];
    let mut expect =
        |al: &ActivityLog, crc: u32, slots: &[u16], extents: &[u32], context: &[(usize, u32)]| {
            let t = al.transaction().unwrap();
            t.encode(&mut block);
            let mut want = vec![0xff; 4096];
            want[..36].fill(0);
            let mut put =
                |at: usize, bytes: &[u8]| want[at..at + bytes.len()].copy_from_slice(bytes);
            put(0, &0x69cb_65a2u32.to_be_bytes());
            put(4, &t.tr_number().to_be_bytes());
            put(8, &crc.to_be_bytes());
            put(14, &(slots.len() as u16).to_be_bytes());
            put(16, &[0, 0x43]);
            slots
                .iter()
                .enumerate()
                .for_each(|(i, s)| put(36 + 2 * i, &s.to_be_bytes()));
            extents
                .iter()
                .enumerate()
                .for_each(|(i, e)| put(164 + 4 * i, &e.to_be_bytes()));
            context
                .iter()
                .for_each(|(i, e)| put(420 + 4 * i, &e.to_be_bytes()));
            assert_eq!(&block[..], &want[..]);
        };

    assert!(!al.get_active(ExtentNr(0)));
    assert_eq!(al.get(ExtentNr(0)), Ok(Got::Pending));
    assert!(al.begin());
    assert_eq!(al.get(ExtentNr(1)), Err(Busy::Running));
    expect(&al, 0x9891_bbd7, &[66], &[0], &[]);
    al.commit(true);

    for extent in [1, 1, 2] {
        assert_eq!(al.get(ExtentNr(extent)), Ok(Got::Pending));
    }
    assert!(al.begin());
    expect(&al, 0x167e_4197, &[64, 65], &[2, 1], &[(66, 0)]);
    al.commit(true);

    assert!(al.put(ExtentNr(0)));
    assert!(al.get_active(ExtentNr(0)));

    assert_eq!(al.get(ExtentNr(100)), Ok(Got::Pending));
    assert!(al.begin());
    expect(
        &al,
        0x4b35_72a5,
        &[63],
        &[100],
        &[(64, 2), (65, 1), (66, 0)],
    );
    al.commit(true);
    assert_eq!(al.tr_number(), 3);
}

#[test]
fn context_window_moves_and_wraps() {
    let mut al = log(1237);
    let mut starts = vec![];
    for extent in 0..4 {
        al.get(ExtentNr(extent)).unwrap();
        al.begin();
        let t = al.transaction().unwrap();
        starts.push((t.context_start(), t.context().count()));
        al.commit(true);
    }
    assert_eq!(starts, [(0, 919), (919, 318), (0, 919), (919, 318)]);
    // A full window exactly: no empty second one.
    let mut al = log(919);
    al.get(ExtentNr(0)).unwrap();
    write(&mut al);
    al.get(ExtentNr(1)).unwrap();
    al.begin();
    assert_eq!(al.transaction().unwrap().context_start(), 0);
}

#[test]
fn no_block_no_number() {
    let mut al = ActivityLog::new(67, u32::MAX).unwrap();
    al.get(ExtentNr(7)).unwrap();
    al.begin();
    al.commit(false);
    assert!(al.get_active(ExtentNr(7)));
    assert_eq!(al.tr_number(), u32::MAX);
    al.get(ExtentNr(8)).unwrap();
    al.begin();
    al.commit(true);
    assert_eq!(al.tr_number(), 0, "wraps");
}

#[test]
fn seventy_cold_extents_take_two_transactions() {
    let mut al = log(1237);
    let mut waiting: Vec<u32> = (0..70).rev().collect();
    let mut sizes = vec![];
    while !waiting.is_empty() {
        while let Some(&extent) = waiting.last() {
            match al.get(ExtentNr(extent)) {
                Ok(_) => waiting.pop(),
                Err(busy) => {
                    assert_eq!(busy, Busy::Full);
                    break;
                }
            };
        }
        sizes.push(write(&mut al).len());
    }
    assert_eq!(sizes, [64, 6]);
}

#[test]
fn least_recently_released_goes_first() {
    let mut al = log(67);
    for extent in 0..67 {
        al.get(ExtentNr(extent))
            .or_else(|_| {
                write(&mut al);
                al.get(ExtentNr(extent))
            })
            .unwrap();
    }
    write(&mut al);
    for extent in [5, 3, 9] {
        assert!(al.put(ExtentNr(extent)));
    }
    // 5 is used again and released last.
    assert!(al.get_active(ExtentNr(5)));
    al.put(ExtentNr(5));
    for extent in 100..103 {
        assert_eq!(al.get(ExtentNr(extent)), Ok(Got::Pending));
    }
    al.begin();
    let evicted: Vec<_> = al.transaction().unwrap().evicted().map(|e| e.0).collect();
    assert_eq!(evicted, [3, 9, 5]);
    assert!(!al.get_active(ExtentNr(5)), "on its way out");
    al.commit(true);
    assert_eq!(al.get(ExtentNr(5)), Err(Busy::Starving));
}

#[test]
fn starving_blocks_hits_until_a_release() {
    let mut al = log(67);
    for extent in 0..67 {
        if al.get(ExtentNr(extent)).is_err() {
            write(&mut al);
            al.get(ExtentNr(extent)).unwrap();
        }
    }
    write(&mut al);
    assert!(al.get_active(ExtentNr(0)));
    assert_eq!(al.get(ExtentNr(99)), Err(Busy::Starving));
    assert!(!al.get_active(ExtentNr(0)));
    assert_eq!(al.get(ExtentNr(0)), Err(Busy::Starving));
    assert!(!al.put(ExtentNr(0)), "one reference left");
    assert!(!al.get_active(ExtentNr(1)));
    assert!(al.put(ExtentNr(0)));
    assert!(al.get_active(ExtentNr(1)));
    assert_eq!(al.get(ExtentNr(99)), Ok(Got::Pending));
}

#[test]
fn shrink_empties_what_is_unreferenced() {
    let mut al = log(67);
    al.get(ExtentNr(1)).unwrap();
    al.get(ExtentNr(2)).unwrap();
    write(&mut al);
    al.put(ExtentNr(1));
    assert!(!al.shrink());
    assert!(!al.get_active(ExtentNr(1)));
    assert!(al.get_active(ExtentNr(2)));
    al.put(ExtentNr(2));
    al.put(ExtentNr(2));
    assert!(al.shrink());
    assert!(al.is_empty());
}

#[test]
fn number_of_slots_is_checked() {
    assert_eq!(ActivityLog::new(66, 0).err(), Some(AlError::Slots(66)));
    assert_eq!(
        ActivityLog::new(65535, 0).err(),
        Some(AlError::Slots(65535))
    );
    assert_eq!(log(65534).len(), 65534);
}

#[test]
#[should_panic(expected = "without a reference")]
fn put_without_reference() {
    log(67).put(ExtentNr(3));
}

/// What a reader of the ring would find: the slot table after the blocks written so far.
#[derive(Default)]
struct Disk(BTreeMap<u16, u32>);

impl Disk {
    fn apply(&mut self, t: Transaction<'_>) {
        for (slot, extent) in (t.context_start()..).zip(t.context()) {
            match extent {
                // The context repeats what earlier blocks said.
                Some(e) => assert_eq!(self.0.get(&slot), Some(&e.0)),
                None => assert!(!self.0.contains_key(&slot)),
            }
        }
        for (slot, extent) in t.updates() {
            self.0.insert(slot, extent.0);
        }
    }

    fn extents(&self) -> BTreeSet<u32> {
        self.0.values().copied().collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    GetActive(u32),
    Get(u32),
    Put(usize),
    Begin,
    Commit,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let extent = 0u32..120;
    let step = prop_oneof![
        3 => extent.clone().prop_map(Step::GetActive),
        8 => extent.prop_map(Step::Get),
        6 => any::<usize>().prop_map(Step::Put),
        2 => Just(Step::Begin),
        2 => Just(Step::Commit),
    ];
    prop::collection::vec(step, 0..2000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against a model that only knows the references and the blocks written: no referenced extent is
    /// ever missing from the durable log, none is evicted, and refusals are justified.
    #[test]
    fn behaves(steps in steps()) {
        const SLOTS: usize = 67;
        let mut al = log(67);
        let mut disk = Disk::default();
        // References on extents that may be written to, and on those that wait for the commit.
        let mut active: Vec<u32> = vec![];
        let mut pending: Vec<u32> = vec![];
        let mut starving = false;
        for step in steps {
            let distinct: BTreeSet<u32> = active.iter().chain(&pending).copied().collect();
            match step {
                Step::GetActive(e) => {
                    let got = al.get_active(ExtentNr(e));
                    if got {
                        prop_assert!(!starving && disk.extents().contains(&e));
                        active.push(e);
                    } else if active.contains(&e) {
                        prop_assert!(starving, "a hot extent is refused");
                    }
                }
                Step::Get(e) => match al.get(ExtentNr(e)) {
                    Ok(Got::Active) => {
                        prop_assert!(!starving && disk.extents().contains(&e));
                        active.push(e);
                    }
                    Ok(Got::Pending) => {
                        prop_assert!(!starving);
                        pending.push(e);
                    }
                    Err(Busy::Starving) => {
                        prop_assert!(starving || distinct.len() == SLOTS);
                        starving = true;
                    }
                    Err(Busy::Running) => {
                        prop_assert!(al.is_running() && !distinct.contains(&e));
                    }
                    Err(Busy::Full) => {
                        prop_assert_eq!(al.pending_changes(), 64);
                        prop_assert!(!distinct.contains(&e));
                    }
                },
                Step::Put(i) if !active.is_empty() => {
                    let e = active.swap_remove(i % active.len());
                    let last = !active.contains(&e) && !pending.contains(&e);
                    prop_assert_eq!(al.put(ExtentNr(e)), last);
                    starving &= !last;
                }
                Step::Put(_) => {}
                Step::Begin => {
                    if al.begin() {
                        let t = al.transaction().unwrap();
                        prop_assert!((1..=64).contains(&t.updates().count()));
                        for evicted in t.evicted() {
                            // It may be on its way back in, though, under another slot.
                            prop_assert!(!active.contains(&evicted.0));
                        }
                    }
                }
                Step::Commit => {
                    if let Some(t) = al.transaction() {
                        disk.apply(t);
                        al.commit(true);
                        active.append(&mut pending);
                    }
                }
            }
            prop_assert_eq!(starving, al.is_starving());
            let extents = disk.extents();
            prop_assert!(active.iter().all(|e| extents.contains(e)));
            let distinct: BTreeSet<u32> = active.iter().chain(&pending).copied().collect();
            prop_assert_eq!(usize::from(al.referenced()), distinct.len());
        }
    }
}
