//! What a resource and its peers are called in log lines: `drbd RES/VOL drbdMINOR PEER: text`, as the kernel's driver does.

use std::collections::BTreeMap;
use std::sync::Arc;

use drbd_proto::{NodeId, VolumeNr};

/// Names of a resource and its peers.
#[derive(Debug)]
pub struct Names {
    resource: Arc<str>,
    peers: BTreeMap<NodeId, String>,
}

impl Names {
    /// A resource without peers.
    pub fn new(resource: Arc<str>) -> Names {
        let peers = BTreeMap::new();
        Names { resource, peers }
    }

    /// The resource.
    pub fn resource(&self) -> &Arc<str> {
        &self.resource
    }

    /// Gives the resource another name, and returns the one it had.
    pub fn rename(&mut self, resource: Arc<str>) -> Arc<str> {
        std::mem::replace(&mut self.resource, resource)
    }

    /// Gives a peer its name; with an empty one its node id is shown.
    pub fn name_peer(&mut self, peer: NodeId, name: String) {
        self.peers.insert(peer, name);
    }

    /// What a line begins with. A volume may have a minor number.
    pub fn head(&self, volume: Option<(VolumeNr, Option<u32>)>, peer: Option<NodeId>) -> String {
        let mut head = format!("drbd {}", self.resource);
        if let Some((volume, minor)) = volume {
            head.push_str(&format!("/{volume}"));
            head.extend(minor.map(|minor| format!(" drbd{minor}")));
        }
        if let Some(peer) = peer {
            match self.peers.get(&peer).filter(|name| !name.is_empty()) {
                Some(name) => head.push_str(&format!(" {name}")),
                None => head.push_str(&format!(" peer-{}", peer.get())),
            }
        }
        head
    }

    /// What a line about a peer begins with.
    pub fn peer(&self, peer: NodeId) -> String {
        self.head(None, Some(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let [named, unnamed] = [1, 2].map(|id| NodeId::new(id).unwrap());
        let mut names = Names::new("r0".into());
        names.name_peer(named, "bravo".into());
        names.name_peer(unnamed, String::new());
        let volume = Some((VolumeNr::ZERO, Some(17)));
        assert_eq!(names.head(None, None), "drbd r0");
        assert_eq!(names.head(volume, None), "drbd r0/0 drbd17");
        assert_eq!(names.head(volume, Some(named)), "drbd r0/0 drbd17 bravo");
        assert_eq!(names.peer(unnamed), "drbd r0 peer-2");
        assert_eq!(&*names.rename("r1".into()), "r0");
        // A peer that is made anew may have another name.
        names.name_peer(named, "charlie".into());
        assert_eq!(names.peer(named), "drbd r1 charlie");
    }
}
