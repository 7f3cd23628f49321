//! The node: all resources of a daemon, and the administrator's commands.
//!
//! All configuration comes through commands; the daemon keeps none on disk. A command finds its resource here, is
//! checked against the option table, and goes to the resource's reactor; what succeeded is noted for `show`.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use drbd_engine::options::ResourceOptions;
use drbd_engine::{Reply, RetCode};
use drbd_proto::NodeId;

use crate::control::protocol::{self as view, Request};
use crate::frontend::{Attached, Frontend};
use crate::reactor::{Core, Handle, Helper, Observer};
use crate::resyncs::Resyncs;

mod commands;
mod config;
mod networks;
pub mod options;
mod volumes;

use config::Config;

/// What an engine is made of.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Name of the resource.
    pub name: String,
    /// Id of this node.
    pub node_id: NodeId,
    /// Options of the resource.
    pub options: ResourceOptions,
    /// Seed of all random numbers of the engine.
    pub seed: u64,
    /// There is a program for handlers.
    pub helper: bool,
}

/// Makes an engine.
pub type MakeCore = Box<dyn Fn(CoreConfig) -> Box<dyn Core> + Send + Sync>;

/// How a daemon is set up.
pub struct Settings {
    /// Payload memory of one resource, in bytes.
    pub pool: usize,
    /// The program called for handlers.
    pub helper: Helper,
    /// How volumes are offered to applications.
    pub frontends: Vec<Box<dyn Frontend>>,
    /// How an engine is made.
    pub make_core: MakeCore,
    /// How many volumes may be resynced at a time; 0: no limit.
    pub max_parallel_resyncs: usize,
    /// Names may have other characters than letters, digits and `+-._` (configuration, section 14).
    pub lax_names: bool,
}

/// All resources of this daemon.
pub struct Node {
    settings: Settings,
    resyncs: Resyncs,
    registry: Mutex<Registry>,
    /// There may be connections in other network namespaces.
    foreign: Mutex<bool>,
    foreign_came: Condvar,
}

#[derive(Default)]
struct Registry {
    resources: BTreeMap<String, Arc<Resource>>,
    /// Observers of resources to come.
    observers: Vec<Observer>,
}

/// A running resource.
struct Resource {
    name: Mutex<Arc<str>>,
    node_id: NodeId,
    handle: Handle,
    /// Held while a command changes the configuration: such commands come one after the other.
    changes: Mutex<()>,
    config: Mutex<Config>,
    attached: Mutex<BTreeMap<u16, Vec<Box<dyn Attached>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer that is an error.
fn refuse(code: RetCode, info: impl Into<String>) -> Reply {
    Reply::with(code, info)
}

/// An error of the configuration interface, as `?` likes it.
type Refusal = Box<Reply>;

fn no(code: RetCode, info: impl Into<String>) -> Refusal {
    Box::new(refuse(code, info))
}

impl Node {
    /// A node without resources.
    pub fn new(settings: Settings) -> Node {
        Node {
            resyncs: Resyncs::new(settings.max_parallel_resyncs),
            settings,
            registry: Mutex::default(),
            foreign: Mutex::default(),
            foreign_came: Condvar::new(),
        }
    }

    /// Carries out a modifying command. `client` is the socket of the process that wants it, which waits for the answer:
    /// paths are made in its network namespace.
    pub fn command(&self, request: &Request, client: Option<&UnixStream>) -> Reply {
        match self.run(request, client) {
            Ok(reply) => reply,
            Err(reply) => *reply,
        }
    }

    /// The state of all resources, or of one; an unknown one is left out.
    pub fn status(&self, which: Option<&str>) -> Vec<view::Resource> {
        let resources = self.resources(which);
        resources
            .iter()
            .filter_map(|r| Some((&r.handle.status()?).into()))
            .collect()
    }

    /// The configuration of all resources, or of one.
    pub fn show(&self, which: Option<&str>) -> Vec<view::Config> {
        let resources = self.resources(which);
        resources.iter().map(|resource| resource.show()).collect()
    }

    /// Observes all resources, or one, from now on. The number of snapshots that come first is returned.
    pub fn observe(&self, which: Option<&str>, observer: &Observer) -> usize {
        let mut registry = lock(&self.registry);
        let mut count = 0;
        for resource in registry
            .resources
            .values()
            .filter(|r| which.is_none_or(|w| *r.name() == *w))
        {
            resource.handle.observe(observer.clone());
            count += 1;
        }
        // A resource of that name may come, or come again.
        registry.observers.retain(|o| !o.is_gone());
        registry.observers.push(observer.clone());
        count
    }

    /// Takes everything down. Resources that are still in use after `limit` are left to the end of the process.
    pub fn shut_down(&self, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            let left: Vec<Arc<Resource>> = self.resources(None);
            if left.is_empty() {
                return;
            }
            for resource in &left {
                let reply = self.down(resource);
                if !reply.is_ok() && Instant::now() >= end {
                    let (code, info) = (reply.code.0, reply.info.join("; "));
                    tracing::error!(
                        "drbd {}: still in use ({code}) {info}; it ends with the process",
                        resource.name()
                    );
                    self.forget(resource);
                }
            }
            if !self.resources(None).is_empty() {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    fn resources(&self, which: Option<&str>) -> Vec<Arc<Resource>> {
        let registry = lock(&self.registry);
        registry
            .resources
            .values()
            .filter(|r| which.is_none_or(|w| *r.name() == *w))
            .cloned()
            .collect()
    }

    fn resource(&self, name: &str) -> Result<Arc<Resource>, Refusal> {
        lock(&self.registry)
            .resources
            .get(name)
            .cloned()
            .ok_or_else(|| no(RetCode::ERR_RES_NOT_KNOWN, "unknown resource"))
    }

    /// The resource and number of the volume with a minor.
    fn minor(&self, minor: u32) -> Result<(Arc<Resource>, u16), Refusal> {
        let registry = lock(&self.registry);
        registry
            .resources
            .values()
            .find_map(|resource| {
                let config = lock(&resource.config);
                let found = config
                    .volumes
                    .iter()
                    .find(|(_, volume)| volume.minor == minor);
                found.map(|(nr, _)| (resource.clone(), *nr))
            })
            .ok_or_else(|| no(RetCode::ERR_MINOR_INVALID, "unknown minor"))
    }

    /// Removes a resource whose engine is empty, and ends its reactor.
    fn forget(&self, resource: &Resource) {
        lock(&self.registry).resources.remove(&*resource.name());
        resource.detach_frontends(None);
        resource.handle.stop();
    }

    /// `down`: the engine lets go of everything first.
    fn down(&self, resource: &Resource) -> Reply {
        let _changes = lock(&resource.changes);
        resource.release_unused();
        let reply = resource.give(drbd_engine::Command::Down);
        if reply.is_ok() {
            self.forget(resource);
        }
        reply
    }
}

impl Resource {
    fn name(&self) -> Arc<str> {
        lock(&self.name).clone()
    }

    fn give(&self, command: drbd_engine::Command) -> Reply {
        self.handle.command(command).unwrap_or_else(|| {
            refuse(
                RetCode::ERR_RES_NOT_KNOWN,
                "the resource has ended unexpectedly, see the log",
            )
        })
    }

    fn show(&self) -> view::Config {
        let status = self.handle.status();
        let cstate = |peer: u8| {
            let connections = status.iter().flat_map(|s| &s.connections);
            let mut state = connections
                .filter(|(id, ..)| id.get() == peer)
                .map(|(_, info, _)| info.cstate.name());
            state.next().unwrap_or("StandAlone").to_owned()
        };
        let disk_size = |nr: u16| {
            let mut devices = status.iter().flat_map(|s| &s.devices);
            devices
                .find(|(id, info)| {
                    id.to_wire() == nr && info.disk > drbd_proto::DiskState::Diskless
                })
                .map(|(_, info)| info.user_size)
        };
        let places = |nr: u16| {
            let attached = lock(&self.attached);
            attached
                .get(&nr)
                .into_iter()
                .flatten()
                .map(|a| a.place())
                .collect()
        };
        lock(&self.config).view(&self.name(), self.node_id.get(), cstate, disk_size, places)
    }

    /// Frontends give up a volume, or all of them.
    fn detach_frontends(&self, which: Option<u16>) {
        let mut gone = Vec::new();
        {
            let mut attached = lock(&self.attached);
            match which {
                Some(nr) => gone.extend(attached.remove(&nr).into_iter().flatten()),
                None => gone.extend(std::mem::take(&mut *attached).into_values().flatten()),
            }
        }
        for attached in gone {
            attached.detach();
        }
    }

    /// Frontends close what they hold open for users that have gone.
    fn release_unused(&self) {
        let attached = lock(&self.attached);
        attached.values().flatten().for_each(|a| a.release_unused());
    }

    /// Block devices that frontends have made for a volume.
    fn devices(&self, nr: u16) -> Vec<PathBuf> {
        lock(&self.attached)
            .get(&nr)
            .into_iter()
            .flatten()
            .filter_map(|a| a.device())
            .collect()
    }
}
