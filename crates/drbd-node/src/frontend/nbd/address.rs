//! Where an NBD server listens: `unix:PATH` or `tcp:ADDR:PORT`.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The port registered for NBD.
pub const DEFAULT_PORT: u16 = 10809;

/// Where an NBD server listens.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// An IP address and a port; port 0 lets the kernel choose when listening.
    Tcp(SocketAddr),
}

/// Why a text is not an [`Address`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no NBD address: write unix:PATH or tcp:ADDRESS[:PORT] ([...] around IPv6)")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(s: &str) -> Result<Address, AddressError> {
        let bad = || AddressError(s.into());
        if let Some(path) = s.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(bad());
            }
            return Ok(Address::Unix(path.into()));
        }
        let host = s.strip_prefix("tcp:").ok_or_else(bad)?;
        if let Ok(address) = host.parse() {
            return Ok(Address::Tcp(address));
        }
        let bare = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        if let Ok(ip) = bare.parse() {
            return Ok(Address::Tcp(SocketAddr::new(ip, DEFAULT_PORT)));
        }
        // A name, such as localhost.
        let resolved = host.to_socket_addrs().ok().and_then(|mut a| a.next());
        resolved.map(Address::Tcp).ok_or_else(bad)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// A connected stream of either kind.
#[derive(Debug)]
pub enum Stream {
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over TCP; Nagle's algorithm is off.
    Tcp(TcpStream),
}

impl Stream {
    /// Connects.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn connect(address: &Address) -> io::Result<Stream> {
        Ok(match address {
            Address::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        })
    }

    /// Limits every single read and write; `None` waits forever.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn set_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Unix(s) => s
                .set_read_timeout(limit)
                .and_then(|()| s.set_write_timeout(limit)),
            Stream::Tcp(s) => s
                .set_read_timeout(limit)
                .and_then(|()| s.set_write_timeout(limit)),
        }
    }
}

impl io::Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.read(buf),
            Stream::Tcp(s) => s.read(buf),
        }
    }
}

impl io::Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.write(buf),
            Stream::Tcp(s) => s.write(buf),
        }
    }

    fn write_vectored(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.write_vectored(bufs),
            Stream::Tcp(s) => s.write_vectored(bufs),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(s) => s.as_fd(),
            Stream::Tcp(s) => s.as_fd(),
        }
    }
}

impl From<Stream> for OwnedFd {
    fn from(stream: Stream) -> OwnedFd {
        match stream {
            Stream::Unix(s) => s.into(),
            Stream::Tcp(s) => s.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, canonical) in [
            ("unix:/run/x", "unix:/run/x"),
            ("tcp:127.0.0.1:1", "tcp:127.0.0.1:1"),
            ("tcp:127.0.0.1", "tcp:127.0.0.1:10809"),
            ("tcp:[::1]:7", "tcp:[::1]:7"),
            ("tcp:[::1]", "tcp:[::1]:10809"),
            ("tcp:::1", "tcp:[::1]:10809"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), canonical);
        }
        for text in [
            "",
            "unix:",
            "tcp:",
            "/run/x",
            "tcp:nowhere.invalid",
            "tcp:1.2.3.4:99999",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
