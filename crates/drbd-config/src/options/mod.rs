//! Every option, declared once: name, type, unit, range, default, section and the `drbdsetup`
//! commands that take it ("Configuration language", sections 5 and 6).
//!
//! The parser of the configuration, `drbdsetup`'s command line, the daemon and the documentation
//! all read [`table`]; nobody else spells a default or a range.

mod commands;
mod set;
mod table;
#[cfg(test)]
mod tests;
mod value;

pub use commands::{Argument, COMMANDS, CommandOptions, SetupCommand, command};
pub use set::{OptionItem, OptionSet};
pub use table::{
    CONNECT, DETACH, DEVICE, DISK, FORCE, HANDLERS, INVALIDATE, NET, NEW_CURRENT_UUID, PEER_DEVICE,
    PROXY, RESET_BITMAP, RESIZE, RESOURCE, STARTUP, SUSPEND_IO, VERIFY,
};
pub use value::{NumberParseError, OptionValue, Unit, ValueError, parse_number};

/// The unit that a number without a letter counts, and that a stored number has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scale {
    /// Bytes, or a plain count.
    One,
    /// KiB (1024 bytes).
    Kib,
    /// Sectors of 512 bytes.
    Sector,
}

impl Scale {
    /// Bytes in one scale unit.
    pub const fn factor(self) -> u64 {
        match self {
            Scale::One => 1,
            Scale::Kib => 1024,
            Scale::Sector => 512,
        }
    }

    /// The scale's letter as machine readable help prints it: `1`, `k` or `s`.
    pub const fn letter(self) -> &'static str {
        match self {
            Scale::One => "1",
            Scale::Kib => "k",
            Scale::Sector => "s",
        }
    }
}

/// Range, default and unit of a numeric option, all in units of `scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// Smallest accepted value. Negative only where "none" is written as -1.
    pub min: i64,
    /// Largest accepted value.
    pub max: i64,
    /// Value if not given.
    pub default: i64,
    /// What one unit is.
    pub scale: Scale,
    /// What is counted, for people: `1/10 seconds`, `bytes/second`; empty for plain counts.
    pub unit: &'static str,
    /// A value outside of the range is not an error but moved to the nearest bound by the node.
    pub clamped: bool,
}

/// What values an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `yes` or `no`.
    Boolean {
        /// Value if not given.
        default: bool,
    },
    /// One of a list of words.
    Enum {
        /// Accepted words; the position is the number the node uses.
        words: &'static [&'static str],
        /// Value if not given.
        default: &'static str,
        /// Words compare without regard to case.
        ignore_case: bool,
    },
    /// A number with an optional unit letter.
    Number(Number),
    /// A number or one of a list of words.
    NumberOrWord {
        /// Range of the number. `default` is not used.
        number: Number,
        /// Accepted words.
        words: &'static [&'static str],
        /// Value if not given.
        default: &'static str,
    },
    /// Text.
    Text {
        /// Bytes that the text must stay below; `None` for no limit.
        limit: Option<usize>,
    },
    /// The description of a key in the system's key store.
    Key,
    /// A minor number or -1; in files the name of a resource, `RESOURCE/VOLUME`.
    ResyncAfter(Number),
}

/// The object an option belongs to, and so the section it stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// `options { }`
    Resource,
    /// `net { }`
    Net,
    /// `disk { }`: the backing disk.
    Disk,
    /// `disk { }`: the pair of a volume and a peer.
    PeerDevice,
    /// `disk { }`: the replicated device.
    Device,
    /// `startup { }`
    Startup,
    /// `handlers { }`
    Handlers,
    /// `proxy { }`
    Proxy,
    /// Not in files: arguments of a single command such as `--force`.
    Operation,
}

impl Group {
    /// All options of the group, in the order help texts and error messages list them.
    pub const fn options(self) -> &'static [OptionDef] {
        match self {
            Group::Resource => RESOURCE,
            Group::Net => NET,
            Group::Disk => DISK,
            Group::PeerDevice => PEER_DEVICE,
            Group::Device => DEVICE,
            Group::Startup => STARTUP,
            Group::Handlers => HANDLERS,
            Group::Proxy => PROXY,
            Group::Operation => &[],
        }
    }

    /// The name of the section in a configuration file.
    pub const fn section(self) -> &'static str {
        match self {
            Group::Resource => "options",
            Group::Net => "net",
            Group::Disk | Group::PeerDevice | Group::Device => "disk",
            Group::Startup => "startup",
            Group::Handlers => "handlers",
            Group::Proxy => "proxy",
            Group::Operation => "",
        }
    }

    /// Looks an option up by its exact name.
    pub fn find(self, name: &str) -> Option<&'static OptionDef> {
        self.options().iter().find(|o| o.name == name)
    }
}

/// One option.
#[derive(Debug, PartialEq, Eq)]
pub struct OptionDef {
    /// Name as written in files and after `--`.
    pub name: &'static str,
    /// Object it belongs to.
    pub group: Group,
    /// Accepted values and the default.
    pub kind: Kind,
    /// Can only be given when the object is created: `*-options` commands do not take it.
    pub fixed: bool,
    /// Set by the tools, not written by administrators.
    pub internal: bool,
    /// What it does, one line.
    pub help: &'static str,
}

impl OptionDef {
    /// The default in the spelling of a configuration file; `None` where there is no default.
    pub fn default_text(&self) -> Option<String> {
        match self.kind {
            Kind::Boolean { default } => Some(if default { "yes" } else { "no" }.to_owned()),
            Kind::Enum { default, .. } | Kind::NumberOrWord { default, .. } => {
                Some(default.to_owned())
            }
            Kind::Number(n) | Kind::ResyncAfter(n) => Some(n.default.to_string()),
            Kind::Text { .. } | Kind::Key => None,
        }
    }

    /// The default as a value.
    pub fn default_value(&self) -> OptionValue {
        match self.kind {
            Kind::Boolean { default } => OptionValue::Bool(default),
            Kind::Enum { words, default, .. } => OptionValue::word(words, default),
            Kind::NumberOrWord { words, default, .. } => OptionValue::word(words, default),
            Kind::Number(n) | Kind::ResyncAfter(n) => OptionValue::Number(n.default),
            Kind::Text { .. } | Kind::Key => OptionValue::Text(String::new()),
        }
    }

    /// True if the option needs no value: `NAME;` means yes.
    pub const fn is_boolean(&self) -> bool {
        matches!(self.kind, Kind::Boolean { .. })
    }
}

/// A note on sections: in which order the groups of a section are searched for a name.
///
/// `bitmap` is both a disk and a peer device option; in a `disk { }` section that takes both it is
/// the disk option ("Configuration language", section 4.8).
pub fn find_in(groups: &[Group], name: &str) -> Option<&'static OptionDef> {
    groups.iter().find_map(|g| g.find(name))
}
