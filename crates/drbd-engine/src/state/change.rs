//! The transaction through which every change of state goes (state machine, section 3.1).

use crate::command::RetCode;
use crate::engine::Engine;
use crate::state::State;
use crate::state::sanitize::Derived;

/// Modifiers of a change (state machine, section 3.2).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct ChangeFlags {
    /// A fact: skips the soft checks.
    pub hard: bool,
    /// Run even if nothing differs: something the derivation depends on has changed.
    pub recalc: bool,
    /// Turning a disk below Outdated into Outdated is silently dropped.
    pub ignore_outdate_failure: bool,
    /// Forced demotion ignores openers.
    pub ignore_openers: bool,
}

impl ChangeFlags {
    /// An ordinary change.
    pub(crate) const SOFT: ChangeFlags = ChangeFlags {
        hard: false,
        recalc: false,
        ignore_outdate_failure: false,
        ignore_openers: false,
    };
    /// A fact that nobody can refuse.
    pub(crate) const HARD: ChangeFlags = ChangeFlags {
        hard: true,
        ..ChangeFlags::SOFT
    };
    /// Derive anew.
    pub(crate) const RECALC: ChangeFlags = ChangeFlags {
        hard: true,
        recalc: true,
        ..ChangeFlags::SOFT
    };
}

impl Engine {
    /// Changes the state of the resource: `modify` says what shall be different; what follows from it is
    /// derived, checked and committed with it. Nothing changes on an error.
    pub(crate) fn change(
        &mut self,
        flags: ChangeFlags,
        modify: impl FnOnce(&mut State),
    ) -> Result<RetCode, RetCode> {
        let mut new = self.state.clone();
        modify(&mut new);
        if new == self.state && !flags.recalc {
            return Ok(RetCode::NOTHING_TO_DO);
        }
        let derived = self.derive_and_check(flags, &mut new)?;
        if new == self.state {
            return Ok(RetCode::NOTHING_TO_DO);
        }
        self.commit(new, derived);
        Ok(RetCode::SUCCESS)
    }

    /// What `change` would answer, without changing anything.
    pub(crate) fn would_change(
        &self,
        flags: ChangeFlags,
        modify: impl FnOnce(&mut State),
    ) -> Result<RetCode, RetCode> {
        let mut new = self.state.clone();
        modify(&mut new);
        if new == self.state {
            return Ok(RetCode::NOTHING_TO_DO);
        }
        self.derive_and_check(flags, &mut new)?;
        Ok(RetCode::SUCCESS)
    }

    fn derive_and_check(&self, flags: ChangeFlags, new: &mut State) -> Result<Derived, RetCode> {
        let derived = self.sanitize(flags, new);
        self.hard_check(new)?;
        if !flags.hard {
            self.soft_check(flags, new)?;
        }
        Ok(derived)
    }
}
