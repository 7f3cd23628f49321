//! The client's side of the control socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{Answer, Event, Request, VERSION};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers on {}: {error} (start drbdd)", path.display())]
    NoDaemon {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The control socket cannot be used, by this user for example.
    #[error("cannot talk to the daemon on {}: {error}", path.display())]
    NoAccess {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The connection broke.
    #[error("connection to the daemon lost: {0}")]
    Lost(#[from] io::Error),
    /// More events came than were read, and some are lost.
    #[error("{0}")]
    Behind(String),
    /// The answer makes no sense.
    #[error("the daemon's answer cannot be read: {0}")]
    Garbled(#[from] serde_json::Error),
}

/// The outcome of a request.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Outcome {
    /// Result code (CLI, section 10).
    pub code: i32,
    /// Further lines of the daemon.
    pub info: Vec<String>,
    /// What came before the result.
    pub answers: Vec<Answer>,
}

/// A connection to a daemon.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon that listens on a socket.
    ///
    /// # Errors
    /// When nobody does, or not for this user.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| {
            let path = path.to_owned();
            match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::NoDaemon { path, error }
                }
                _ => ClientError::NoAccess { path, error },
            }
        })?;
        Ok(Client {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a request and waits for its result.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn request(
        &mut self,
        command: &str,
        arguments: &[&str],
        options: Vec<(String, Option<String>)>,
        set_defaults: bool,
    ) -> Result<Outcome, ClientError> {
        self.send(command, arguments, options, set_defaults)?;
        let mut answers = Vec::new();
        loop {
            match self.receive()? {
                Answer::Reply { code, info } => {
                    return Ok(Outcome {
                        code,
                        info,
                        answers,
                    });
                }
                other => answers.push(other),
            }
        }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn send(
        &mut self,
        command: &str,
        arguments: &[&str],
        options: Vec<(String, Option<String>)>,
        set_defaults: bool,
    ) -> Result<(), ClientError> {
        let request = Request {
            version: VERSION,
            command: command.to_owned(),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            options,
            set_defaults,
        };
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        match self.stream.get_mut().write_all(&line) {
            // What the daemon said before it hung up is still to be read.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// The next line of the daemon.
    ///
    /// # Errors
    /// When the connection breaks, or a timeout set with [`set_timeout`](Self::set_timeout) passes.
    pub fn receive(&mut self) -> Result<Answer, ClientError> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ClientError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Whether a line of the daemon is here already: [`receive`](Self::receive) will not wait.
    pub fn has_line(&self) -> bool {
        self.stream.buffer().contains(&b'\n')
    }

    /// The next event after an `events2` request.
    ///
    /// # Errors
    /// As [`receive`](Self::receive); and when the daemon says that events are lost.
    pub fn next_event(&mut self) -> Result<Event, ClientError> {
        loop {
            match self.receive()? {
                Answer::Event(event) => return Ok(event),
                Answer::Reply { info, .. } => return Err(ClientError::Behind(info.join("; "))),
                Answer::Status(_) | Answer::Show(_) => {}
            }
        }
    }

    /// How long to wait for a line; `None`: for ever.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> Result<(), ClientError> {
        let timeout = timeout.map(|t| t.max(Duration::from_millis(1)));
        Ok(self.stream.get_ref().set_read_timeout(timeout)?)
    }
}
