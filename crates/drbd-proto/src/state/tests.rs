use super::*;
use std::string::ToString;

/// Wire protocol, chapter 27, "State words".
#[test]
fn state_word_examples() {
    let connecting = State::from_word(StateWord(0x0080_F282)).unwrap();
    assert_eq!(
        connecting,
        State {
            role: Role::Secondary,
            conn: ConnState::Connecting,
            disk: DiskState::UpToDate,
            peer_disk: DiskState::Unknown,
            quorum: true,
            ..State::INITIAL
        }
    );
    let established = State::from_word(StateWord(0x0081_32AA)).unwrap();
    assert_eq!(established.repl, ReplState::Established);
    assert_eq!(established.peer_disk, DiskState::UpToDate);
    for (modern, legacy) in [(0x0001_32A9, 0x0001_10A9), (0x0001_2B16, 0x0001_0916)] {
        let state = State::from_word(StateWord(modern)).unwrap();
        assert_eq!(state.to_wire(101), StateWord(legacy));
        assert_eq!(State::from_wire(StateWord(legacy), 101), Ok(state));
        assert_eq!(state.to_wire(124), StateWord(modern));
    }
    assert_eq!(State::DEMOTED.to_word(), StateWord(2));
}

#[test]
fn quorum_bit_does_not_exist_below_110() {
    let state = State {
        quorum: true,
        ..State::INITIAL
    };
    assert_eq!(state.to_wire(101), StateWord(0));
}

#[test]
fn detaching_is_sent_as_failed() {
    let state = State {
        disk: DiskState::Detaching,
        ..State::INITIAL
    };
    let received = State::from_wire(state.to_wire(101), 101).unwrap();
    assert_eq!(received.disk, DiskState::Failed);
}

#[test]
fn every_word_is_a_state_or_an_error_that_names_the_field() {
    assert_eq!(State::from_word(StateWord(3)), Err(("role", 3)));
    assert_eq!(
        State::from_word(StateWord(24 << 4)),
        Err(("connection state", 24))
    );
    assert_eq!(
        State::from_word(StateWord(10 << 9)),
        Err(("disk state", 10))
    );
    assert_eq!(
        State::from_word(StateWord(15 << 13)),
        Err(("peer disk state", 15))
    );
    for low in 0..1u32 << 17 {
        if let Ok(state) = State::from_word(StateWord(low)) {
            assert_eq!(state.to_word(), StateWord(low));
        }
    }
}

#[test]
fn changes_have_the_documented_words() {
    let connect = StateChange::EMPTY
        .conn(ConnState::Connected)
        .role(Role::Secondary);
    assert_eq!((connect.mask.0, connect.val.0), (0x1F3, 0x92));
    let force = StateChange::EMPTY
        .role(Role::Primary)
        .disk(DiskState::UpToDate);
    assert_eq!((force.mask.0, force.val.0), (0x1E03, 0x1201));
    // Towards an 8.4 node UpToDate is 8; conn and role are the same numbers everywhere.
    assert_eq!(force.translate_sent(101).val.0, 0x1001);
    assert_eq!(force.translate_sent(101).translate_received(101), force);
    assert_eq!(connect.translate_sent(101), connect);
    let leave = StateChange::EMPTY
        .conn(ConnState::Disconnecting)
        .disk(DiskState::Outdated);
    assert_eq!((leave.mask.0, leave.val.0), (0x1FF0, 0xC10));
    let verify = StateChange::EMPTY.repl(ReplState::VerifyS);
    assert_eq!((verify.mask.0, verify.val.0), (0x1F0, 0x120));
    assert_eq!(verify.get_repl(), Some(ReplState::VerifyS));
    assert_eq!(verify.get_role(), None);
}

#[test]
fn the_peer_reads_a_change_mirrored() {
    let leave = StateChange::EMPTY
        .conn(ConnState::Disconnecting)
        .disk(DiskState::Outdated);
    let seen = leave.peer_view();
    assert_eq!(seen.get_conn(), Some(ConnState::TearDown));
    assert_eq!(seen.get_peer_disk(), Some(DiskState::Outdated));
    assert_eq!(seen.get_disk(), None);
    let invalidate = StateChange::EMPTY
        .repl(ReplState::StartingSyncT)
        .peer_view();
    assert_eq!(invalidate.get_repl(), Some(ReplState::StartingSyncS));
    assert_eq!(invalidate.mask.conn(), 31);
    let paused = StateWord(0).with(StateWord::USER_ISP, true).peer_view();
    assert!(paused.has(StateWord::PEER_ISP) && paused.has(StateWord::USER_ISP));
    let verify = StateChange::EMPTY.repl(ReplState::VerifyT).peer_view();
    assert_eq!(verify.val.conn(), 0);
}

#[test]
fn names_are_unique_and_reversible() {
    for d in DiskState::ALL {
        assert_eq!(DiskState::from_name(d.name()), Some(*d));
        assert_eq!(DiskState::from_u8(d.as_u8()), Some(*d));
    }
    assert_eq!(ReplState::ALL.len(), 15);
    assert_eq!(DiskState::Unknown.to_string(), "DUnknown");
    assert!(DiskState::Outdated < DiskState::Unknown);
}

#[test]
fn translation_of_disk_numbers_settles() {
    for number in 0..16 {
        let mask = StateWord(0).with_disk(15).with_pdsk(15);
        let change = StateChange {
            mask,
            val: StateWord(0).with_disk(number).with_pdsk(number),
        };
        let received = change.translate_received(101);
        assert_eq!(
            received.translate_sent(101).translate_received(101),
            received
        );
        // Only what DRBD 8 has becomes a state: 0..=8, and the 9 that DRBD 9 sends by mistake.
        assert_eq!(received.get_disk().is_some(), number <= 9, "{number}");
    }
}
