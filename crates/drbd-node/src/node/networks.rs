//! Connections in other network namespaces than the daemon's.
//!
//! A connection is in the namespace of the caller of its first `new-path`; only from there can its paths and its state
//! be changed, except by `down`. When nobody else uses the namespace any more, the connection loses its paths and is
//! StandAlone, until it is configured anew.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use drbd_engine::{Command, Path, RetCode};
use drbd_proto::NodeId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Node, Refusal, Resource, lock, no};
use crate::netns::{Id, Netns};
use crate::reactor::Message;

/// How often users of other namespaces are looked for.
const LOOK: Duration = Duration::from_secs(2);

/// The namespace of a client; `None`: the daemon's, or it cannot be entered.
pub(super) fn of_client(client: Option<&UnixStream>) -> Option<Arc<Netns>> {
    let netns = match Netns::of_client(client?) {
        Ok(netns) => netns?,
        Err(e) => {
            tracing::debug!("the network namespace of a client is not known: {e}");
            return None;
        }
    };
    match netns.inside(|| Ok(())) {
        Ok(()) => Some(Arc::new(netns)),
        Err(e) => {
            tracing::warn!(
                "cannot enter the network namespace of a client, using the daemon's: {e}"
            );
            None
        }
    }
}

fn id(netns: &Option<Arc<Netns>>) -> Option<Id> {
    netns.as_ref().map(|netns| netns.id())
}

impl Node {
    /// Refuses a command about a connection that is in another namespace than the caller. Without paths it is in none.
    pub(super) fn check_network(
        &self,
        resource: &Resource,
        peer: NodeId,
        caller: &Option<Arc<Netns>>,
        text: &str,
    ) -> Result<(), Refusal> {
        let config = lock(&resource.config);
        match config.peers.get(&peer.get()) {
            Some(config) if !config.paths.is_empty() && id(&config.netns) != id(caller) => {
                Err(no(RetCode::ERR_INVALID_REQUEST, text))
            }
            _ => Ok(()),
        }
    }

    /// A connection is to live in a namespace from now on.
    pub(super) fn set_network(&self, resource: &Resource, peer: NodeId, netns: Option<Arc<Netns>>) {
        if let Some(config) = lock(&resource.config).peers.get_mut(&peer.get()) {
            config.netns.clone_from(&netns);
        }
        let foreign = netns.is_some();
        let message = Message::Network { peer, netns };
        resource.handle.sender.send(message);
        if foreign {
            *lock(&self.foreign) = true;
            self.foreign_came.notify_one();
        }
    }

    /// Looks after connections in other namespaces; never returns.
    pub fn follow_networks(&self) {
        loop {
            let mut foreign = lock(&self.foreign);
            while !*foreign {
                foreign = match self.foreign_came.wait(foreign) {
                    Ok(foreign) => foreign,
                    Err(poisoned) => poisoned.into_inner(),
                };
            }
            *foreign = false;
            drop(foreign);
            if self.look_after_networks() {
                *lock(&self.foreign) = true;
                pause();
            }
        }
    }

    /// Gives up the connections whose namespaces nobody uses; whether others are left.
    fn look_after_networks(&self) -> bool {
        let mut known = BTreeMap::new();
        for resource in self.resources(None) {
            let connections: Vec<(u8, Arc<Netns>)> = lock(&resource.config)
                .peers
                .iter()
                .filter_map(|(peer, config)| Some((*peer, config.netns.clone()?)))
                .collect();
            for (peer, netns) in connections {
                let used = known.entry(netns.id()).or_insert_with(|| netns.is_used());
                let peer = NodeId::new(peer.into());
                if let (false, Some(peer)) = (&*used, peer) {
                    self.network_gone(&resource, peer, netns.id());
                }
            }
        }
        known.into_values().any(|used| used)
    }

    fn network_gone(&self, resource: &Resource, peer: NodeId, gone: Id) {
        let _changes = lock(&resource.changes);
        let paths = match lock(&resource.config).peers.get(&peer.get()) {
            Some(config) if id(&config.netns) == Some(gone) => config.paths.clone(),
            _ => return,
        };
        let (name, nr) = (resource.name(), peer.get());
        tracing::info!("drbd {name} peer {nr}: Disconnect because network namespace is exiting");
        let force = true;
        let mut replies = vec![resource.give(Command::Disconnect { peer, force })];
        replies.extend(paths.into_iter().map(|(local, remote)| {
            let path = Path { local, remote };
            resource.give(Command::DelPath { peer, path })
        }));
        for reply in replies.iter().filter(|reply| !reply.is_ok()) {
            let info = reply.info.join("; ");
            tracing::error!("drbd {name} peer {nr}: ({}) {info}", reply.code.0);
        }
        if let Some(config) = lock(&resource.config).peers.get_mut(&nr) {
            config.paths.clear();
        }
        self.set_network(resource, peer, None);
    }
}

/// Until it is time to look again, or a file system was mounted or unmounted: `ip netns delete` does that.
fn pause() {
    let timeout = Timespec::try_from(LOOK).ok();
    if let Ok(mounts) = File::open("/proc/self/mounts") {
        let mut watched = [PollFd::new(&mounts, PollFlags::PRI)];
        let _ = poll(&mut watched, timeout.as_ref());
        // Not for each of many mounts.
        std::thread::sleep(Duration::from_millis(100));
    } else {
        std::thread::sleep(LOOK);
    }
}
