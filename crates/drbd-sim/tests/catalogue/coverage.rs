//! That every row of the tables that decide is met by engines that run: not only asked for in a test of the table.
//!
//! The scenarios below are enough for that; each is a test of its own, too. A few rows are backstops: an earlier step leaves
//! no engine that runs anything for them. [`backstops`] asks their tables about states made up for them, and says why.
//! A new row needs a scenario that goes through it, or a place there.

use drbd_engine::backstops;
use drbd_engine::rows::{Row, Rows};

use crate::lab::MET;
use crate::{
    coincidences, day0, diskless, disks, failover, fencing, generations, lost_primary, missed_ends,
    quorum, refusals, resync_ends, returns, stuck_disks, tables, twopc, waiting_turns,
};

const SCENARIOS: &[fn()] = &[
    coincidences::client_follows_the_disk_it_knows,
    coincidences::connect_waits_and_is_given_up,
    coincidences::created_disk_meets_a_client,
    coincidences::peer_follows_a_primary_that_is_none,
    coincidences::primary_goes_on_together_with_its_peer,
    coincidences::source_was_not_stable_and_is,
    coincidences::unconfirmed_generation_meets_unrelated_data,
    day0::day0_uuid_three_node,
    diskless::diskless,
    disks::attach_between_newer_and_older,
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
    missed_ends::crashed_primary_beside_a_resync,
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
    waiting_turns::detach_waits_and_is_not_needed,
    waiting_turns::disconnect_waits_and_is_not_needed,
    waiting_turns::outdating_does_not_lift_a_worse_disk,
    waiting_turns::promotion_waits_and_a_connect_comes,
];

#[test]
fn every_row_of_the_tables_is_met() {
    let mut met = Rows::default();
    for scenario in SCENARIOS {
        MET.take();
        scenario();
        met.add(&MET.take());
    }
    let backstops = backstops::check();
    let name = |row: Row| format!("{row:?}: {}, {}", row.table(), row.name());
    let twice: Vec<String> = (backstops.iter().filter(|row| met.contains(*row)))
        .map(name)
        .collect();
    assert!(
        twice.is_empty(),
        "engines that run get to these rows, they are no backstops:\n{}",
        twice.join("\n")
    );
    met.add(&backstops);
    let missing: Vec<String> = (Row::ALL.iter().filter(|row| !met.contains(**row)))
        .map(|row| name(*row))
        .collect();
    assert!(
        missing.is_empty(),
        "nothing goes through these rows:\n{}",
        missing.join("\n")
    );
}
