//! Generation counters, v07's form of generation identifiers (metadata, section 10.2).

use super::parse_bit;
use crate::meta::args::parse_c_number;
use crate::meta::console::Console;
use crate::meta::failure::{BAD, Failure};
use drbd_meta::superblock::V07Superblock;

/// The flags in the order of the list: first the one before the counters, then those after them.
const CONSISTENT: u32 = V07Superblock::CONSISTENT;
const AFTER: [u32; 3] = [
    V07Superblock::PRIMARY_IND,
    V07Superblock::CONNECTED_IND,
    V07Superblock::FULL_SYNC,
];

const fn counters(superblock: &V07Superblock) -> [u32; 4] {
    [
        superblock.human,
        superblock.timeout,
        superblock.connected,
        superblock.arbitrary,
    ]
}

pub(in crate::meta) fn line(superblock: &V07Superblock) -> String {
    let [human, timeout, connected, arbitrary] = counters(superblock);
    let bit = |flag| u8::from(superblock.flags & flag != 0);
    let [primary, connected_ind, full_sync] = AFTER.map(bit);
    let consistent = bit(CONSISTENT);
    format!(
        "{consistent}:{human}:{timeout}:{connected}:{arbitrary}:{primary}:{connected_ind}:{full_sync}"
    )
}

pub(in crate::meta) fn show(superblock: &V07Superblock, console: &Console) {
    let [human, timeout, connected, arbitrary] = counters(superblock);
    let pick = |flag, yes, no| {
        if superblock.flags & flag != 0 {
            yes
        } else {
            no
        }
    };
    console.out(LEGEND);
    console.out(&format!(
        "       {} | {human:3} | {timeout:3} | {connected:3} | {arbitrary:3} | {} | {} | {}  \n",
        pick(CONSISTENT, "1/c", "0/i"),
        pick(V07Superblock::PRIMARY_IND, "1/p", "0/s"),
        pick(V07Superblock::CONNECTED_IND, "1/c", "0/n"),
        pick(V07Superblock::FULL_SYNC, "1/y", "0/n"),
    ));
}

/// Takes over the fields of a list, as for the later versions.
pub(super) fn apply(superblock: &mut V07Superblock, list: &str) -> Result<(), Failure> {
    let mut flags = superblock.flags;
    for (i, field) in list
        .split(':')
        .enumerate()
        .filter(|(_, field)| !field.is_empty())
    {
        let counter = match i {
            1 => &mut superblock.human,
            2 => &mut superblock.timeout,
            3 => &mut superblock.connected,
            4 => &mut superblock.arbitrary,
            _ => {
                let flag = match i {
                    0 => Some(CONSISTENT),
                    _ => AFTER.get(i.saturating_sub(5)).copied(),
                };
                let Some(flag) = flag else { break };
                if parse_bit(field)? {
                    flags |= flag;
                } else {
                    flags &= !flag;
                }
                continue;
            }
        };
        let number = parse_c_number(field)
            .ok_or_else(|| Failure::new(BAD, format!("'{field}' is not a number.")))?;
        *counter = u32::try_from(number).map_err(|_| {
            Failure::new(BAD, format!("'{field}' is out of range (max 0xFFffFFff)."))
        })?;
    }
    superblock.flags = flags;
    Ok(())
}

const LEGEND: &str = "
                                        WantFullSync |
                                  ConnectedInd |     |
                               lastState |     |     |
                      ArbitraryCnt |     |     |     |
                ConnectedCnt |     |     |     |     |
            TimeoutCnt |     |     |     |     |     |
        HumanCnt |     |     |     |     |     |     |
Consistent |     |     |     |     |     |     |     |
   --------+-----+-----+-----+-----+-----+-----+-----+";
