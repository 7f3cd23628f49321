//! Errors are texts: whoever reads them is a person in front of a failed run.

use std::fmt;

/// What failed, with what it was about in front.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(String);

/// Result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Error {
        Error(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// Tests that return an error print it with `Debug`.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        Error(error.to_string())
    }
}

impl From<drbd_node::frontend::nbd::client::ClientError> for Error {
    fn from(error: drbd_node::frontend::nbd::client::ClientError) -> Error {
        Error(error.to_string())
    }
}

/// Says what an error was about.
pub trait Context<T> {
    /// Puts a text in front of the error.
    ///
    /// # Errors
    /// The one there was.
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error(format!("{what}: {error}")))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Error(what.to_string()))
    }
}
