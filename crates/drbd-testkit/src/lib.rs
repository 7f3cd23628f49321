//! Clusters of real nodes on one machine: what `cargo demo` and the end-to-end tests share.
//!
//! A [`Cluster`] is a number of [`Node`]s, each a `drbdd` process with its own configuration,
//! backing files and control socket. As root every node lives in name spaces of its own, one pair
//! of virtual Ethernet devices for each link, and applications use a real block device. Otherwise
//! nodes share the loopback network, every link goes through a [`Proxy`], and applications use NBD
//! ([`Story`]). Whatever is made is recorded and taken away again, also when the program panics or
//! is interrupted ([`cleanup`]); what a killed program left is removed by the next one.

pub mod binaries;
pub mod cleanup;
mod cluster;
pub mod compare;
mod error;
pub mod load;
pub mod loopdev;
mod netlink;
mod node;
mod place;
mod proxy;
pub mod rng;
pub mod spawn;
mod status;
mod volume;
pub mod wait;

pub use cluster::{Cluster, Options, Story, story};
pub use error::{Context, Error, Result};
pub use node::{Node, Output};
pub use place::{Place, Spaces, connect};
pub use proxy::Proxy;
pub use status::{PeerVolume, Status};
pub use volume::Volume;
