//! Texts of a configuration, each stored once.

use std::collections::HashSet;

use crate::model::Text;

/// Texts that appear often are stored once.
#[derive(Debug)]
pub(super) struct Texts {
    pub(super) yes: Text,
    pub(super) no: Text,
    known: HashSet<Text>,
    /// Those used last, by a simple hash: the same few names come again and again.
    recent: [Option<Text>; RECENT],
}

const RECENT: usize = 64;

impl Texts {
    pub(super) fn new() -> Texts {
        Texts {
            yes: "yes".into(),
            no: "no".into(),
            known: HashSet::new(),
            recent: [const { None }; RECENT],
        }
    }

    pub(super) fn share(&mut self, text: &str) -> Text {
        let hash = text.bytes().fold(text.len(), |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(byte.into())
        });
        let slot = self.recent.get_mut(hash % RECENT);
        if let Some(Some(recent)) = &slot
            && **recent == *text
        {
            return recent.clone();
        }
        let shared = match self.known.get(text) {
            Some(known) => known.clone(),
            None => {
                let new: Text = text.into();
                self.known.insert(new.clone());
                new
            }
        };
        if let Some(slot) = slot {
            *slot = Some(shared.clone());
        }
        shared
    }
}
