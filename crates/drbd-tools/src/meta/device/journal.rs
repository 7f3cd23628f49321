//! For tests: what a command writes, in its order.

use std::cell::RefCell;

/// One access that changes the device or makes changes durable.
#[derive(Clone, Debug)]
pub(in crate::meta) enum Step {
    Write { offset: u64, bytes: Vec<u8> },
    Sync,
}

thread_local! {
    static STEPS: RefCell<Vec<Step>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn wrote(offset: u64, bytes: &[u8]) {
    let bytes = bytes.to_vec();
    STEPS.with_borrow_mut(|steps| steps.push(Step::Write { offset, bytes }));
}

pub(super) fn zeroed(offset: u64, length: u64) {
    wrote(offset, &vec![0; usize::try_from(length).unwrap_or(0)]);
}

pub(super) fn synced() {
    STEPS.with_borrow_mut(|steps| steps.push(Step::Sync));
}

/// Takes all steps since the last call.
pub(in crate::meta) fn take() -> Vec<Step> {
    STEPS.take()
}
