use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

const DEFAULTS: RateOptions = RateOptions {
    resync_rate: 250,
    plan_ahead: 20,
    delay_target: 10,
    fill_target: 100,
    max_rate: 102_400,
    max_buffers: 2048,
};

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

#[test]
fn example_a() {
    // Data path, section 15.5: all replies arrive within the turn.
    let mut rate = Rate::new(at(0));
    let mut blocks = vec![];
    for turn in 1..=20 {
        let sectors = rate.turn(at(turn * 100), &DEFAULTS, 8, u64::MAX).unwrap();
        blocks.push(sectors / 8);
        rate.asked(sectors);
        rate.came_back(sectors);
    }
    let wanted = [(1, 6), (2, 7), (3, 8), (6, 11), (10, 15), (20, 28)];
    assert_eq!(wanted.map(|(turn, _)| (turn, blocks[turn - 1])), wanted);
}

#[test]
fn example_b() {
    // A round trip of 2 ms, early turns.
    let mut rate = Rate::new(at(0));
    let mut now = at(100);
    let mut turns: Vec<(u64, u64)> = vec![];
    for _ in 0..5 {
        let sectors = rate.turn(now, &DEFAULTS, 8, u64::MAX).unwrap();
        turns.push((now.as_nanos() / 1_000_000 - 100, sectors / 8));
        rate.asked(sectors);
        assert_eq!(
            rate.early_turn(now, &DEFAULTS, 1 << 20),
            None,
            "nothing is back"
        );
        now = now + Duration::from_millis(2);
        rate.came_back(sectors);
        now = rate.early_turn(now, &DEFAULTS, 1 << 20).unwrap();
    }
    assert_eq!(
        turns,
        [(0, 6), (2, 301), (4, 2048), (84, 2048), (164, 2048)]
    );
}

#[test]
fn example_c() {
    // No fill target; the link delivers 2000 sectors per turn.
    let options = RateOptions {
        fill_target: 0,
        ..DEFAULTS
    };
    let mut rate = Rate::new(at(0));
    let mut seen = vec![];
    for turn in 1..=40 {
        let before = rate.in_flight();
        let sectors = rate.turn(at(turn * 100), &options, 8, u64::MAX).unwrap();
        seen.push((before, sectors / 8));
        rate.asked(sectors);
        rate.came_back(rate.in_flight().min(2000));
    }
    let blocks: Vec<_> = seen.iter().map(|(_, blocks)| *blocks).collect();
    assert_eq!(blocks[..5], [6, 9, 13, 20, 31]);
    assert_eq!(blocks[9], 272);
    assert_eq!(seen[19], (10_048, 388));
    assert_eq!(seen[29..], vec![(14_384, 250); 11], "the rate of the link");
}

#[test]
fn fixed_rate() {
    let options = RateOptions {
        plan_ahead: 0,
        ..DEFAULTS
    };
    let mut rate = Rate::new(at(0));
    for turn in 1..5 {
        let sectors = rate.turn(at(turn * 100), &options, 8, u64::MAX).unwrap();
        assert_eq!(sectors, 48);
        rate.asked(sectors);
        rate.came_back(sectors);
        assert_eq!(rate.early_turn(at(turn * 100 + 5), &options, 1 << 20), None);
    }
    // Up to whole blocks of the larger granularity.
    assert_eq!(rate.turn(at(600), &options, 128, u64::MAX), Some(128));
    // Something, always.
    let slow = RateOptions {
        resync_rate: 1,
        ..options
    };
    assert_eq!(rate.turn(at(700), &slow, 8, u64::MAX), Some(8));
    rate.asked(8);
    assert_eq!(
        rate.turn(at(800), &slow, 8, u64::MAX),
        Some(0),
        "but not more and more"
    );
}

#[test]
fn buffers_limit() {
    let options = RateOptions {
        plan_ahead: 0,
        resync_rate: 1_000_000,
        ..DEFAULTS
    };
    let mut rate = Rate::new(at(0));
    assert_eq!(rate.turn(at(100), &options, 8, u64::MAX), Some(16_384));
    rate.asked(16_384);
    assert_eq!(rate.turn(at(200), &options, 8, u64::MAX), Some(0));
    rate.came_back(800);
    assert_eq!(rate.turn(at(300), &options, 8, u64::MAX), Some(800));
}

#[test]
fn after_an_unsuccessful_turn() {
    let mut rate = Rate::new(at(0));
    let sectors = rate.turn(at(100), &DEFAULTS, 8, u64::MAX).unwrap();
    rate.asked(sectors);
    rate.unsuccessful();
    assert_eq!(rate.pause(), TURN);
    rate.came_back(8);
    assert_eq!(rate.turn(at(200), &DEFAULTS, 8, u64::MAX), None);
    rate.came_back(sectors - 8);
    assert_eq!(rate.early_turn(at(210), &DEFAULTS, 1 << 20), None);
    assert!(rate.turn(at(300), &DEFAULTS, 8, u64::MAX).is_some());
}

#[test]
fn pause_between_turns() {
    let mut rate = Rate::new(at(0));
    let options = RateOptions {
        plan_ahead: 0,
        resync_rate: 4000,
        ..DEFAULTS
    };
    assert_eq!(rate.turn(at(100), &options, 8, u64::MAX), Some(800));
    assert_eq!(rate.pause(), TURN, "nothing asked for");
    rate.asked(200);
    assert_eq!(rate.pause(), TURN / 4);
    rate.asked(600);
    assert_eq!(rate.pause(), TURN);
    rate.asked(224);
    assert_eq!(rate.pause(), TURN, "one request may exceed it");
}

proptest! {
    /// It never panics, never exceeds the buffers by more than the rounding, and never stalls.
    #[test]
    fn bounded(
        options in (1u32..4_000_000, 0u32..=300, 1u32..=100, 0u32..2_000_000, 0u32..8_000_000,
            32u32..=131_072),
        steps in prop::collection::vec((0u64..3000, 0u64..200_000, any::<bool>()), 1..200),
        block in prop::sample::select(vec![8u64, 128, 2048]),
    ) {
        let options = RateOptions {
            resync_rate: options.0, plan_ahead: options.1, delay_target: options.2,
            fill_target: options.3, max_rate: options.4, max_buffers: options.5,
        };
        let mut rate = Rate::new(at(0));
        let mut now = at(0);
        for (ms, back, unsuccessful) in steps {
            now = now + Duration::from_millis(ms);
            let in_flight = rate.in_flight();
            match rate.turn(now, &options, block, u64::MAX) {
                Some(sectors) => {
                    prop_assert!(sectors % block == 0);
                    let room = (u64::from(options.max_buffers) * 8).saturating_sub(in_flight);
                    prop_assert!(sectors < room + block);
                    prop_assert!(sectors > 0 || in_flight > 0);
                    rate.asked(sectors);
                }
                None => prop_assert!(in_flight > 0),
            }
            if unsuccessful {
                rate.unsuccessful();
            }
            rate.came_back(back.min(rate.in_flight()));
            prop_assert!(rate.pause() <= TURN);
            let early = rate.early_turn(now, &options, 1 << 20);
            prop_assert!(early.is_none_or(|t| t.since(now) < TURN));
        }
    }
}
