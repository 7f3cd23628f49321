//! TCP sockets as DRBD wants them (wire protocol, sections 3.1 and 3.4).

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use drbd_engine::ConnectOptions;
use drbd_proto::{Stream, first_packet};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket as Socket2, TcpKeepalive, Type};

use crate::netns::{Netns, within};
use crate::ring::Fd;
use crate::transport::connect::{Failure, Socket};

const BACKLOG: i32 = 64;
const KEEPALIVE: Duration = Duration::from_secs(23);
const KEEPALIVE_PROBES: u32 = 9;

/// A connected socket.
#[derive(Debug)]
pub(super) struct TcpSocket {
    pub(super) fd: Fd,
}

fn new_socket(
    netns: Option<&Netns>,
    local: &SocketAddr,
    options: &ConnectOptions,
) -> io::Result<Socket2> {
    let (domain, protocol) = (Domain::for_address(*local), Some(Protocol::TCP));
    let socket = within(netns, || Socket2::new(domain, Type::STREAM, protocol))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if options.sndbuf > 0 {
        socket.set_send_buffer_size(options.sndbuf as usize)?;
    }
    if options.rcvbuf > 0 {
        socket.set_recv_buffer_size(options.rcvbuf as usize)?;
    }
    Ok(socket)
}

/// A listening socket. Does not block.
pub(super) fn listen(
    netns: Option<&Netns>,
    local: &SocketAddr,
    options: &ConnectOptions,
) -> io::Result<OwnedFd> {
    let socket = new_socket(netns, local, options)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(*local))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Takes a connection from a listening socket; `None` if there is none.
pub(super) fn accept(listener: &Fd) -> Option<(TcpSocket, SocketAddr)> {
    let (socket, remote) = SockRef::from(&**listener).accept().ok()?;
    Some((
        TcpSocket {
            fd: Arc::new(socket.into()),
        },
        remote.as_socket()?,
    ))
}

/// Starts to connect; the socket becomes writable when that has ended.
pub(super) fn dial(
    netns: Option<&Netns>,
    local: &SocketAddr,
    remote: &SocketAddr,
    options: &ConnectOptions,
) -> io::Result<Fd> {
    let socket = new_socket(netns, local, options)?;
    let mut source = *local;
    source.set_port(0);
    socket.bind(&SockAddr::from(source))?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::from(*remote)) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(e) => return Err(e),
    }
    Ok(Arc::new(socket.into()))
}

/// The outcome of connecting.
pub(super) fn connected(fd: Fd) -> io::Result<TcpSocket> {
    let socket = SockRef::from(&*fd);
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    socket.peer_addr()?;
    // The ring waits by itself.
    socket.set_nonblocking(false)?;
    Ok(TcpSocket { fd })
}

/// Whether the next attempt may work (wire protocol, section 3.3, step 2).
pub(super) fn classify(error: &io::Error) -> Failure {
    match error.raw_os_error() {
        Some(
            libc::ECONNREFUSED
            | libc::ECONNRESET
            | libc::ECONNABORTED
            | libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::EHOSTDOWN
            | libc::ENETDOWN
            | libc::ETIMEDOUT
            | libc::ENOTCONN
            | libc::EINTR
            | libc::EAGAIN,
        ) => Failure::Transient,
        _ => Failure::Lasting,
    }
}

/// Options of an established pair. Failures are no reason to give up.
pub(super) fn tune(socket: &TcpSocket, stream: Stream) {
    let socket = SockRef::from(&*socket.fd);
    let _ = socket.set_tcp_nodelay(true);
    if stream == Stream::Data {
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE)
            .with_retries(KEEPALIVE_PROBES);
        let _ = socket.set_tcp_keepalive(&keepalive);
    }
}

/// Nothing more will be sent; what was is still delivered.
pub(super) fn finish(fd: &Fd) {
    let _ = SockRef::from(&**fd).shutdown(std::net::Shutdown::Write);
}

impl Socket for TcpSocket {
    fn send_first(&mut self, stream: Stream) -> bool {
        let packet = first_packet::encode(stream);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        let sent = SockRef::from(&*self.fd).send_with_flags(&packet, flags);
        matches!(sent, Ok(n) if n == packet.len())
    }

    fn is_alive(&self) -> bool {
        let socket = SockRef::from(&*self.fd);
        let mut byte = [MaybeUninit::uninit()];
        match socket.recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT) {
            Ok(count) => count > 0,
            Err(e) => e.kind() == io::ErrorKind::WouldBlock,
        }
    }
}
