//! Colours of states in `status` and `events2` (CLI, section 18).

/// Whose state it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Local,
    Peer,
}

enum Class {
    Primary,
    Good,
    Bad,
    Transitional,
}

/// Whether to colour: the value of `--color`, if it was given.
///
/// # Errors
/// A text that says what is wrong.
pub(super) fn wanted(given: bool, value: Option<&str>, terminal: bool) -> Result<bool, String> {
    match (given, value) {
        (true, None | Some("always")) => Ok(true),
        (_, Some("never")) => Ok(false),
        (false, _) | (_, Some("auto")) => Ok(terminal),
        (_, Some(other)) => Err(format!("Option --color: invalid argument '{other}'")),
    }
}

fn class(key: &str, value: &str, client: bool) -> Option<Class> {
    Some(match (key, value) {
        ("role" | "open", "Primary" | "yes") => Class::Primary,
        ("role", "Unknown") => Class::Transitional,
        ("disk" | "peer-disk", "UpToDate") => Class::Good,
        ("disk" | "peer-disk", "Diskless") if client => Class::Good,
        ("disk" | "peer-disk", "Diskless" | "Inconsistent" | "Outdated") => Class::Bad,
        ("disk" | "peer-disk", _) => Class::Transitional,
        ("connection", "Connected") => return None,
        ("connection", "StandAlone" | "Connecting") => Class::Bad,
        ("connection", _) => Class::Transitional,
        ("replication", "SyncSource" | "SyncTarget" | "PausedSyncT") => Class::Bad,
        ("replication", "Off" | "Behind") => Class::Transitional,
        ("replication", state) if state.starts_with("StartingSync") || state.starts_with("WF") => {
            Class::Transitional
        }
        ("quorum", "yes") | ("force-io-failures", "no") => Class::Good,
        ("quorum", "no") | ("force-io-failures", "yes") => Class::Bad,
        _ => return None,
    })
}

/// The value of a key, coloured if it is a state. `client` says that there is no disk on purpose.
pub(super) fn paint(on: bool, side: Side, key: &str, value: &str, client: bool) -> String {
    let side = match (key, value) {
        ("replication", "SyncTarget" | "PausedSyncT" | "Behind") => Side::Local,
        ("replication", _) => Side::Peer,
        ("connection", _) => Side::Local,
        _ => side,
    };
    let sequence = match (on.then(|| class(key, value, client)).flatten(), side) {
        (Some(Class::Primary), Side::Local) => "1;36",
        (Some(Class::Primary), Side::Peer) => "36",
        (Some(Class::Good), Side::Local) => "1;32",
        (Some(Class::Good), Side::Peer) => "32",
        (Some(Class::Bad), Side::Local) => "1;31",
        (Some(Class::Bad), Side::Peer) => "31",
        (Some(Class::Transitional), Side::Local) => "1",
        (Some(Class::Transitional), Side::Peer) | (None, _) => return value.to_owned(),
    };
    format!("\x1b[{sequence}m{value}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when() {
        assert_eq!(wanted(true, None, false), Ok(true));
        assert_eq!(wanted(true, Some("always"), false), Ok(true));
        assert_eq!(wanted(true, Some("never"), true), Ok(false));
        assert_eq!(wanted(true, Some("auto"), true), Ok(true));
        assert_eq!(wanted(false, None, false), Ok(false));
        assert!(wanted(true, Some("red"), true).is_err());
    }

    #[test]
    fn sides() {
        let paint = |side, key, value| paint(true, side, key, value, false);
        assert_eq!(
            paint(Side::Local, "role", "Primary"),
            "\x1b[1;36mPrimary\x1b[0m"
        );
        assert_eq!(
            paint(Side::Peer, "role", "Primary"),
            "\x1b[36mPrimary\x1b[0m"
        );
        assert_eq!(paint(Side::Peer, "role", "Unknown"), "Unknown");
        assert_eq!(
            paint(Side::Peer, "replication", "SyncTarget"),
            "\x1b[1;31mSyncTarget\x1b[0m"
        );
        assert_eq!(
            paint(Side::Local, "replication", "Established"),
            "Established"
        );
        assert_eq!(
            paint(Side::Peer, "connection", "TearDown"),
            "\x1b[1mTearDown\x1b[0m"
        );
        assert_eq!(
            super::paint(false, Side::Local, "disk", "UpToDate", false),
            "UpToDate"
        );
    }
}
