//! That every row of the tables that decide is met by engines that run: not only asked for in a test of the table.
//!
//! The scenarios below are enough for that; each is a test of its own, too. A new row needs a scenario that goes through
//! it, or a reason why there can be none.

use std::collections::BTreeSet;

use drbd_engine::rows::{Row, Row::*, Rows};

use crate::lab::MET;
use crate::{
    day0, diskless, disks, failover, fencing, generations, lost_primary, missed_ends, quorum,
    refusals, resync_ends, returns, stuck_disks, tables, twopc,
};

const SCENARIOS: &[fn()] = &[
    day0::day0_uuid_three_node,
    diskless::diskless,
    disks::attach_concurrent,
    disks::invalidate,
    failover::a_suspended_client_is_forced_secondary,
    failover::a_suspended_primary_stays_and_is_disconnected,
    fencing::suspend_io,
    generations::storage_migration_uuid,
    lost_primary::lost_primary_forgotten_by_one,
    lost_primary::lost_primary_marks_on_one_side,
    lost_primary::lost_primary_one_is_ahead,
    lost_primary::lost_primary_same_position,
    lost_primary::primary_lost_by_one,
    lost_primary::primary_lost_by_the_one_that_has_more,
    missed_ends::attempted_resync_is_undone,
    missed_ends::missed_end_below_protocol_124,
    missed_ends::missed_end_of_an_outdated_source,
    missed_ends::older_line_of_writes_comes_back,
    missed_ends::unrelated_peer_beside_a_resync,
    quorum::quorum_check_quorumless,
    quorum::quorum_multi_volume,
    refusals::connection_is_lost_during_an_attach,
    refusals::disk_of_a_client_is_refused,
    refusals::diskless_primaries_at_one_disk,
    refusals::diskless_primary_refuses_unrelated_data,
    refusals::opened_during_a_demotion,
    refusals::outdate_is_refused,
    refusals::prepares_through_a_ring,
    refusals::primaries_that_do_not_see_each_other,
    refusals::promotion_after_a_forced_demotion,
    refusals::readers_are_not_disturbed,
    refusals::resize_during_an_attach,
    refusals::second_primary_is_refused_by_the_first,
    refusals::second_resync_is_refused,
    refusals::state_changes_with_drbd8,
    refusals::target_is_lost_while_others_are_asked,
    refusals::unrelated_disk_is_not_attached,
    refusals::verify_is_refused,
    resync_ends::resync_reconciliation,
    returns::client_distrusts_older_data,
    returns::diskless_primary_shows_the_own_generation,
    returns::forced_promotion_beside_a_consistent_disk,
    returns::generation_that_nobody_has_heard_of,
    returns::generation_that_nobody_needs,
    returns::new_disk_meets_a_second_source,
    returns::reconnect_with_older_versions,
    returns::restart_of_the_last_node_with_quorum,
    stuck_disks::a_forced_detach_gives_a_stuck_disk_up,
    stuck_disks::disk_timeout,
    tables::a_primary_would_be_target,
    tables::comparison_of_generations,
    tables::comparison_of_generations_with_drbd8,
    tables::connect_in_special_ways,
    tables::corrections_with_drbd8,
    tables::crashed_primary,
    tables::disk_states_of_the_same_generation,
    tables::split_brain_and_quorum,
    tables::split_brain_with_one_primary,
    tables::split_brain_with_two_primaries,
    tables::split_brain_without_primary,
    twopc::stress_connect_and_2pc,
    twopc::twopc_conflict_one_initiator,
    twopc::twopc_timeout,
];

/// Rows that none of them goes through, and why.
const UNMET: &[(&[Row], &str)] = &[
    (
        &[H1, T4a, T4b, T4c, H4],
        "disconnect and connect look at the connection first, and do nothing or answer themselves",
    ),
    (
        &[H2],
        "a change agreed on by the cluster for a connection that was given up meanwhile; random clusters meet it",
    ),
    (
        &[H3],
        "a lost connection is cleaned up to Unconnected in the same event",
    ),
    (
        &[B1, H5, T53, E6],
        "a volume without disk is asked about before, and a peer tells that its disk goes before it is gone",
    ),
    (
        &[B2],
        "a participant leaves the wish out that a worse disk becomes Outdated before it derives anything",
    ),
    (
        &[P4],
        "what a volume waits for is forgotten when its disk goes, before the connection does",
    ),
    (
        &[T4d],
        "participants, and the answer to a DRBD 8, refuse a second Primary before",
    ),
    (
        &[T58c, T58d],
        "disks that are not there end the resync (C 5), others are raised to Inconsistent by its limits (E 5)",
    ),
    (
        &[T58i],
        "without a connection the state is Off again (C 1), and commands answer themselves",
    ),
    (
        &[R2],
        "no PREPARE is passed on to its initiator: the mask of the nodes to reach has no place for it",
    ),
    (
        &[V2],
        "a connect is asked for by who sees the connection waiting, and both ends see the same",
    ),
    (
        &[V3],
        "a moment between two attempts at a promotion; random clusters meet it",
    ),
    (
        &[M7],
        "our nodes give a disk a generation before it is UpToDate",
    ),
    (
        &[D6, L6, M6, E7c, E13b],
        "coincidences of three failures at least; some random clusters meet them",
    ),
];

#[test]
fn every_row_of_the_tables_is_met() {
    let mut met = Rows::default();
    for scenario in SCENARIOS {
        MET.take();
        scenario();
        met.add(&MET.take());
    }
    let unmet: BTreeSet<Row> = UNMET.iter().flat_map(|(rows, _)| *rows).copied().collect();
    let name = |row: &Row| format!("{row:?}: {}, {}", row.table(), row.name());
    let missing: Vec<String> = (Row::ALL.iter())
        .filter(|row| !met.contains(**row) && !unmet.contains(row))
        .map(name)
        .collect();
    assert!(
        missing.is_empty(),
        "no scenario goes through these rows:\n{}",
        missing.join("\n")
    );
    let listed: Vec<String> = (unmet.iter().filter(|row| met.contains(**row)))
        .map(name)
        .collect();
    assert!(
        listed.is_empty(),
        "these rows are met, and need no reason any more:\n{}",
        listed.join("\n")
    );
}
