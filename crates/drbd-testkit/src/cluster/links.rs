//! Addresses, the links between nodes, and how they are cut.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use super::{Cluster, Story};
use crate::{Error, Proxy, Result, netlink, place};

/// Port at which nodes listen.
const PORT: u16 = 7788;

/// One direction of a link in the loopback network.
#[derive(Debug)]
pub(super) struct Direction {
    from: u8,
    to: u8,
    proxy: Proxy,
}

/// Addresses of a cluster.
#[derive(Debug)]
pub(super) struct Net {
    /// The first three bytes.
    pub(super) prefix: [u8; 3],
    /// Keeps the loopback addresses ours.
    _claim: Option<TcpListener>,
}

impl Net {
    pub(super) fn own() -> Net {
        Net {
            prefix: [10, 77, 0],
            _claim: None,
        }
    }

    /// A part of the loopback network that nobody else uses: whoever listens at its last address has it.
    pub(super) fn loopback() -> Result<Net> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let start = u16::try_from(std::process::id() & 0x7fff).unwrap_or(0);
        for _ in 0..u16::MAX {
            let n = NEXT
                .fetch_add(1, Ordering::Relaxed)
                .wrapping_mul(7)
                .wrapping_add(start);
            let [high, low] = n.to_be_bytes();
            let prefix = [127, 1 + high % 250, low];
            let at = address(prefix, 254);
            if let Ok(listener) = TcpListener::bind(at) {
                return Ok(Net {
                    prefix,
                    _claim: Some(listener),
                });
            }
        }
        Err(Error::new("no loopback addresses are free"))
    }
}

fn address([a, b, c]: [u8; 3], d: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), PORT)
}

impl Cluster {
    /// Address at which node `of` is reached by node `by`; its own if they are the same. There is one
    /// for each pair, so that every link can be cut alone.
    pub fn address(&self, of: u8, by: u8) -> SocketAddr {
        match self.options.story {
            // Proxies stand between.
            Story::Nbd if of == by => address(self.net.prefix, of + 1),
            Story::Nbd => address(self.net.prefix, 100 + 10 * by + of),
            Story::BlockDevice => {
                let [a, b, _] = self.net.prefix;
                let (low, high) = (of.min(by), of.max(by));
                address([a, b, 10 * low + high], of + 1)
            }
        }
    }

    pub(super) fn make_links(&mut self) -> Result<()> {
        for (a, b) in self.pairs() {
            match self.options.story {
                Story::BlockDevice => {
                    let (IpAddr::V4(ours), IpAddr::V4(theirs)) =
                        (self.address(a, b).ip(), self.address(b, a).ip())
                    else {
                        continue;
                    };
                    place::connect(
                        (self.node(a).place(), &device(b), ours),
                        (self.node(b).place(), &device(a), theirs),
                    )?;
                }
                Story::Nbd => {
                    for (from, to) in [(a, b), (b, a)] {
                        let proxy = Proxy::new(
                            self.address(to, from),
                            self.address(from, to).ip(),
                            self.address(to, to),
                        )?;
                        self.directions.push(Direction { from, to, proxy });
                    }
                }
            }
        }
        Ok(())
    }

    fn both_ways(&self, a: u8, b: u8) -> impl Iterator<Item = &Proxy> {
        let between =
            move |d: &&Direction| (d.from == a && d.to == b) || (d.from == b && d.to == a);
        self.directions.iter().filter(between).map(|d| &d.proxy)
    }

    fn set_link(&self, a: u8, b: u8, up: bool) -> Result<()> {
        for (id, peer) in [(a, b), (b, a)] {
            let name = device(peer);
            self.node(id).place().run(move || {
                let netlink = netlink::Netlink::open()?;
                if up {
                    netlink.up(&name)
                } else {
                    netlink.down(&name)
                }
            })??;
        }
        Ok(())
    }

    /// Unplugs the cable between two nodes: nothing gets through any more, and nobody is told.
    ///
    /// # Errors
    /// When the network does not obey.
    pub fn cut(&self, a: u8, b: u8) -> Result<()> {
        match self.options.story {
            Story::BlockDevice => self.set_link(a, b, false),
            Story::Nbd => {
                self.both_ways(a, b).for_each(Proxy::stall);
                Ok(())
            }
        }
    }

    /// Plugs the cable in again.
    ///
    /// # Errors
    /// When the network does not obey.
    pub fn restore(&self, a: u8, b: u8) -> Result<()> {
        match self.options.story {
            Story::BlockDevice => self.set_link(a, b, true),
            Story::Nbd => {
                // What was under way when the cable was out is lost.
                self.both_ways(a, b).for_each(Proxy::cut);
                self.both_ways(a, b).for_each(Proxy::restore);
                Ok(())
            }
        }
    }

    /// Breaks the connections between two nodes when so many more bytes have passed in one of them.
    /// Only in the loopback network.
    ///
    /// # Errors
    /// In name spaces.
    pub fn break_after(&self, a: u8, b: u8, bytes: u64) -> Result<()> {
        if self.options.story != Story::Nbd {
            return Err(Error::new(
                "only links of the loopback network can be broken at a byte",
            ));
        }
        self.both_ways(a, b).for_each(|p| p.break_after(bytes));
        Ok(())
    }

    /// Connects to the port of node `to` as if it were node `from`: for tests that speak the protocol
    /// themselves. The daemon of `from` should not run.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn dial(&self, from: u8, to: u8) -> Result<std::net::TcpStream> {
        let own = SocketAddr::new(self.address(from, to).ip(), 0);
        let peer = match self.options.story {
            Story::Nbd => self.address(to, to),
            Story::BlockDevice => self.address(to, from),
        };
        self.node(from).place().run(move || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&own.into())?;
            socket.connect_timeout(&peer.into(), Duration::from_secs(5))?;
            let stream = std::net::TcpStream::from(socket);
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            Ok(stream)
        })?
    }
}

/// Name of the network device that leads to a node.
fn device(peer: u8) -> String {
    format!("to-node{}", peer + 1)
}
