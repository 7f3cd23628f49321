//! Where the daemon's log lines go: stderr, or the journal with a priority for each line.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Where log lines go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum LogTo {
    /// To the journal if that is where stderr leads, as in a service; else to stderr.
    Auto,
    /// To stderr, with time and level.
    Stderr,
    /// To the journal, as `drbdd`.
    Journal,
}

/// Begins to log; `filter` says what, as `info` or `drbd_node=debug`.
///
/// # Errors
/// The journal was asked for and does not listen.
pub fn start(to: LogTo, filter: EnvFilter) -> io::Result<()> {
    let journal = match to {
        LogTo::Stderr => None,
        LogTo::Journal => Some(tracing_journald::layer()?),
        LogTo::Auto if stderr_is_journal() => tracing_journald::layer().ok(),
        LogTo::Auto => None,
    };
    match journal {
        Some(journal) => {
            let journal = journal.with_syslog_identifier("drbdd".to_owned());
            let lines = tracing_subscriber::registry().with(filter).with(journal);
            lines.try_init().map_err(io::Error::other)
        }
        None => tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
            .try_init()
            .map_err(io::Error::other),
    }
}

/// Whether stderr leads to the journal, as systemd says.
fn stderr_is_journal() -> bool {
    let Ok(stat) = rustix::fs::fstat(io::stderr().as_fd()) else {
        return false;
    };
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    is_stream(&named, stat.st_dev, stat.st_ino)
}

/// Whether `DEVICE:INODE` names this file.
fn is_stream(named: &str, device: u64, inode: u64) -> bool {
    let numbers = named.split_once(':');
    numbers.is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::is_stream;

    #[test]
    fn streams() {
        assert!(is_stream("9:12345", 9, 12345));
        for other in ["", "9", "9:", ":12345", "9:12346", "8:12345", "9:12345:1"] {
            assert!(!is_stream(other, 9, 12345), "{other}");
        }
    }
}
