//! Network devices by netlink: no program is needed for it.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{Context, Error, Result};

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const EXCLUSIVE_CREATE: u16 = 0x600;
const ERROR: u16 = 2;
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const UP: u32 = 1;
// Attributes of a link.
const IF_NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const NESTED: u16 = 0x8000;
// Attributes of an address.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;

/// A netlink socket in the network of the thread that opened it.
pub(crate) struct Netlink {
    socket: Socket,
}

/// A message that is being written.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, fixed: &[u8]) -> Message {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | REQUEST | ACK).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]); // Sequence number and port.
        bytes.extend_from_slice(fixed);
        Message(bytes)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |m| m.0.extend_from_slice(value));
    }

    fn name(&mut self, kind: u16, name: &str) {
        self.nest(kind, |m| {
            m.0.extend_from_slice(name.as_bytes());
            m.0.push(0);
        });
    }

    fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Message)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        inside(self);
        let len = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        if let Some(place) = self.0.get_mut(start..start + 2) {
            place.copy_from_slice(&len.to_ne_bytes());
        }
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
    }
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for word in [index, flags, change] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes
}

impl Netlink {
    pub(crate) fn open() -> Result<Netlink> {
        let route = Some(Protocol::from(libc::NETLINK_ROUTE));
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, route)
            .context("cannot open a netlink socket")?;
        Ok(Netlink { socket })
    }

    /// Sends a request and waits for the kernel's answer.
    fn call(&self, mut message: Message, what: &str) -> Result<()> {
        let len = u32::try_from(message.0.len()).unwrap_or(u32::MAX);
        if let Some(place) = message.0.get_mut(..4) {
            place.copy_from_slice(&len.to_ne_bytes());
        }
        (&self.socket).write_all(&message.0).context(what)?;
        let mut answer = [0; 4096];
        let len = (&self.socket).read(&mut answer).context(what)?;
        let answer = answer.get(..len).unwrap_or(&[]);
        let kind = answer
            .get(4..6)
            .and_then(|b| b.try_into().ok())
            .map(u16::from_ne_bytes);
        let code = answer
            .get(16..20)
            .and_then(|b| b.try_into().ok())
            .map(i32::from_ne_bytes);
        match (kind, code) {
            (Some(ERROR), Some(0)) => Ok(()),
            (Some(ERROR), Some(code)) => {
                Err(std::io::Error::from_raw_os_error(code.saturating_neg())).context(what)
            }
            _ => Err(Error::new(format!(
                "{what}: the kernel's answer is not understood"
            ))),
        }
    }

    /// Makes a pair of devices, one of them in another network.
    pub(crate) fn veth(&self, name: &str, peer: &str, peer_net: BorrowedFd<'_>) -> Result<()> {
        let mut m = Message::new(NEW_LINK, EXCLUSIVE_CREATE, &link_header(0, 0, 0));
        m.name(IF_NAME, name);
        m.nest(LINK_INFO | NESTED, |m| {
            m.attribute(INFO_KIND, b"veth");
            m.nest(INFO_DATA | NESTED, |m| {
                m.nest(VETH_PEER | NESTED, |m| {
                    m.0.extend_from_slice(&link_header(0, 0, 0));
                    m.name(IF_NAME, peer);
                    m.attribute(NET_NS_FD, &peer_net.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.call(m, &format!("cannot make the network device {name}"))
    }

    /// Gives a device an IPv4 address with a prefix of 24 bits.
    pub(crate) fn address(&self, device: &str, address: Ipv4Addr) -> Result<()> {
        let family = u8::try_from(libc::AF_INET).unwrap_or(0);
        let mut fixed = vec![family, 24, 0, 0];
        fixed.extend_from_slice(&index(device)?.to_ne_bytes());
        let mut m = Message::new(NEW_ADDRESS, EXCLUSIVE_CREATE, &fixed);
        m.attribute(LOCAL, &address.octets());
        m.attribute(ADDRESS, &address.octets());
        self.call(m, &format!("cannot give {device} the address {address}"))
    }

    /// Puts a device into operation.
    pub(crate) fn up(&self, device: &str) -> Result<()> {
        let m = Message::new(NEW_LINK, 0, &link_header(index(device)?, UP, UP));
        self.call(
            m,
            &format!("cannot put the network device {device} into operation"),
        )
    }

    /// Takes a device out of operation: nothing gets through any more, and nobody is told.
    pub(crate) fn down(&self, device: &str) -> Result<()> {
        let m = Message::new(NEW_LINK, 0, &link_header(index(device)?, 0, UP));
        self.call(
            m,
            &format!("cannot take the network device {device} out of operation"),
        )
    }
}

fn index(device: &str) -> Result<u32> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )
    .context("cannot open a socket")?;
    rustix::net::netdevice::name_to_index(socket, device)
        .context(format!("network device {device}"))
}
