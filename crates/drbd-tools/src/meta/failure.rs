//! Why a command ends: the text for standard error and the exit code (metadata, section 11.3).

use std::io;

/// Success.
pub(super) const OK: u8 = 0;
/// Any failure without a code of its own; a prompt that was declined.
pub(super) const FAILED: u8 = 1;
/// `outdate` on inconsistent data.
pub(super) const INCONSISTENT: u8 = 5;
/// I/O error, bad option value or combination, device too small.
pub(super) const BAD: u8 = 10;
/// Usage; cannot open; in use.
pub(super) const USAGE: u8 = 20;
/// Not implemented.
pub(super) const UNSUPPORTED: u8 = 30;
/// Existing data would be destroyed.
pub(super) const REFUSED: u8 = 40;

/// A command that ends without success.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Bad arguments or a device that cannot be used: the message and the exit code.
    #[error("{message}")]
    Message {
        /// For standard error.
        message: String,
        /// Exit code.
        code: u8,
    },
    /// Arguments that only the usage text helps with.
    #[error("{0}")]
    Usage(String),
    /// Nothing more to say than what was already printed.
    #[error("")]
    Silent(u8),
    /// A failed access to a device or file.
    #[error("{what} {path} failed: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
}

impl Failure {
    pub(super) fn new(code: u8, message: impl Into<String>) -> Self {
        Self::Message {
            message: message.into(),
            code,
        }
    }

    pub(super) fn io(what: &'static str, path: impl Into<String>, error: io::Error) -> Self {
        Self::Io {
            what,
            path: path.into(),
            error,
        }
    }

    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Message { code, .. } | Self::Silent(code) => *code,
            Self::Usage(_) => USAGE,
            Self::Io { .. } => BAD,
        }
    }
}
