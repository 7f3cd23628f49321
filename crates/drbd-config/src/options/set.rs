//! The options given for one object.

use std::sync::Arc;

use super::{OptionDef, OptionValue};
use crate::source::Span;

/// One option as it was written.
#[derive(Debug, Clone)]
pub struct OptionItem {
    /// Which option.
    pub def: &'static OptionDef,
    /// The text of the value; `None` for `_unknown NAME;` of a running configuration.
    pub value: Option<Arc<str>>,
    /// Copied from a section further out.
    pub inherited: bool,
    /// Where it was written.
    pub span: Span,
}

/// Options of one object, in the order in which they will be printed.
#[derive(Debug, Clone, Default)]
pub struct OptionSet {
    items: Vec<OptionItem>,
}

/// Two sections further out want different values for the same option.
#[derive(Debug, Clone)]
pub struct Ambiguous {
    /// The option.
    pub name: &'static str,
    /// The value that was there first.
    pub old: String,
    /// The value that should be there as well.
    pub new: String,
    /// Where the two were written.
    pub spans: [Span; 2],
}

impl OptionSet {
    /// True if nothing was given.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Number of options given, repetitions included.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// The options in order.
    pub fn iter(&self) -> std::slice::Iter<'_, OptionItem> {
        self.items.iter()
    }

    /// Appends an option.
    pub fn push(&mut self, item: OptionItem) {
        self.items.push(item);
    }

    /// The option of this name; the last one if it was repeated, since that one is in force.
    pub fn get(&self, name: &str) -> Option<&OptionItem> {
        self.items.iter().rev().find(|i| i.def.name == name)
    }

    /// The text given for an option.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|i| i.value.as_deref())
    }

    /// The checked value of an option, or its default.
    pub fn value(&self, def: &OptionDef) -> OptionValue {
        match self.text(def.name) {
            Some(text) => def.parse(text).unwrap_or_else(|_| def.default_value()),
            None => def.default_value(),
        }
    }

    /// Removes an option in all repetitions; true if there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.items.len();
        self.items.retain(|i| i.def.name != name);
        before != self.items.len()
    }

    /// Gives an option another value, keeping its place.
    pub fn replace(&mut self, name: &str, value: &str) {
        for item in self.items.iter_mut().filter(|i| i.def.name == name) {
            item.value = Some(value.into());
        }
    }

    /// What a section that has nothing yet would inherit from this one.
    pub(crate) fn inherited(&self) -> OptionSet {
        let mut set = OptionSet::default();
        set.inherit(self, |_| {});
        set
    }

    /// Takes over from a section further out what is missing here ("Configuration language",
    /// section 10). Copies go to the front. An own value wins silently; a value inherited before
    /// that differs is reported.
    pub fn inherit(&mut self, outer: &OptionSet, mut ambiguous: impl FnMut(Ambiguous)) {
        let own = self.items.len();
        let mut copies: Vec<OptionItem> = Vec::new();
        for item in &outer.items {
            let present = copies
                .iter()
                .chain(self.items.iter().take(own))
                .find(|i| i.def.name == item.def.name && i.def.group == item.def.group);
            match present {
                None => copies.push(OptionItem {
                    inherited: true,
                    ..item.clone()
                }),
                Some(old) if old.inherited && !same(old, item) => ambiguous(Ambiguous {
                    name: item.def.name,
                    old: old.value.as_deref().unwrap_or("").to_owned(),
                    new: item.value.as_deref().unwrap_or("").to_owned(),
                    spans: [old.span, item.span],
                }),
                Some(_) => {}
            }
        }
        if copies.is_empty() {
            return;
        }
        copies.reverse();
        copies.append(&mut self.items);
        self.items = copies;
    }
}

fn same(a: &OptionItem, b: &OptionItem) -> bool {
    match (&a.value, &b.value) {
        (Some(x), Some(y)) => a.def.same(x, y),
        (None, None) => true,
        _ => false,
    }
}

impl<'a> IntoIterator for &'a OptionSet {
    type Item = &'a OptionItem;
    type IntoIter = std::slice::Iter<'a, OptionItem>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}
