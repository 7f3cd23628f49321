//! The commands, one by one (CLI, section 9).

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use drbd_config::options::{self as table, Argument, SetupCommand};
use drbd_engine::options::DiskOptions;
use drbd_engine::{Command, Path, Reply, RetCode};
use drbd_proto::{NodeId, Sector, VolumeNr};

use super::config::Peer;
use super::options::{self, Values};
use super::{CoreConfig, Node, Refusal, Resource, lock, networks, no};
use crate::control::address;
use crate::control::protocol::Request;
use crate::reactor::Handle;

/// Largest minor number: 20 bits.
const MAX_MINOR: u32 = (1 << 20) - 1;
/// Longest name in bytes.
const MAX_NAME: usize = 127;

/// A request whose arguments and options are checked.
pub(super) struct Call<'a> {
    request: &'a Request,
    client: Option<&'a UnixStream>,
    definition: &'static SetupCommand,
    pub(super) options: Values,
}

impl<'a> Call<'a> {
    fn new(request: &'a Request, client: Option<&'a UnixStream>) -> Result<Call<'a>, Refusal> {
        let invalid = |text: String| no(RetCode::ERR_INVALID_REQUEST, text);
        let definition = table::command(&request.command)
            .ok_or_else(|| invalid(format!("unknown command '{}'", request.command)))?;
        let given = request
            .options
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()));
        let options = Values::parse(|name| definition.option(name), given).map_err(invalid)?;
        let (wanted, have) = (definition.arguments.len(), request.arguments.len());
        if wanted != have {
            return Err(invalid(format!(
                "{} takes {wanted} arguments, not {have}",
                definition.name
            )));
        }
        Ok(Call {
            request,
            client,
            definition,
            options,
        })
    }

    pub(super) fn argument(&self, which: Argument) -> &'a str {
        let at = self.definition.arguments.iter().position(|a| *a == which);
        at.and_then(|at| self.request.arguments.get(at))
            .map_or("", String::as_str)
    }

    fn number(&self, which: Argument) -> Result<u64, Refusal> {
        let text = self.argument(which);
        text.parse().map_err(|_| {
            no(
                RetCode::ERR_INVALID_REQUEST,
                format!("{}: '{text}' is not a valid number", which.name()),
            )
        })
    }

    fn node(&self, which: Argument) -> Result<NodeId, Refusal> {
        let number = u32::try_from(self.number(which)?).unwrap_or(u32::MAX);
        NodeId::new(number)
            .ok_or_else(|| no(RetCode::ERR_INVALID_REQUEST, "peer node id out of range"))
    }

    fn peer(&self) -> Result<NodeId, Refusal> {
        self.node(Argument::PeerNodeId)
    }

    fn volume(&self) -> Result<VolumeNr, Refusal> {
        u16::try_from(self.number(Argument::Volume)?)
            .ok()
            .and_then(VolumeNr::new)
            .ok_or_else(|| {
                no(
                    RetCode::ERR_INVALID_REQUEST,
                    "requested volume id out of range",
                )
            })
    }

    /// `N` or `/dev/drbdN`.
    fn minor(&self) -> Result<u32, Refusal> {
        let text = self.argument(Argument::Minor);
        let digits = text.strip_prefix("/dev/drbd").unwrap_or(text);
        match digits.parse() {
            Ok(minor) if minor <= MAX_MINOR => Ok(minor),
            Ok(_) => Err(no(
                RetCode::ERR_INVALID_REQUEST,
                "requested minor out of range",
            )),
            Err(_) => {
                let text = format!("Cannot determine minor device number of device '{text}'");
                Err(no(RetCode::ERR_MINOR_INVALID, text))
            }
        }
    }

    fn path(&self) -> Result<Path, Refusal> {
        let parse = |which, code| address::parse(self.argument(which)).map_err(|e| no(code, e));
        let local = parse(Argument::LocalAddr, RetCode::ERR_LOCAL_ADDR)?;
        let remote = parse(Argument::RemoteAddr, RetCode::ERR_PEER_ADDR)?;
        if local.is_ipv4() != remote.is_ipv4() {
            return Err(no(
                RetCode::ERR_PEER_ADDR,
                "both addresses must be of one family",
            ));
        }
        Ok(Path { local, remote })
    }

    fn flag(&self, name: &str) -> bool {
        self.options.flag(name)
    }

    /// A flag whose default is yes.
    fn unless_no(&self, name: &str) -> bool {
        self.options
            .get(name)
            .and_then(|v| v.as_bool())
            .unwrap_or(true)
    }

    fn sector(&self, name: &str) -> Option<Sector> {
        self.options
            .number(name)
            .and_then(|n| u64::try_from(n).ok())
            .map(Sector)
    }
}

/// Names of resources and connections (configuration, section 14), by the rules with or without strict names. What
/// would be a directory of its own in a path is refused besides.
fn check_name(name: &str, lax: bool) -> Result<(), Refusal> {
    let strict = |b: u8| b.is_ascii_alphanumeric() || b"+-._".contains(&b);
    if name.is_empty() {
        return Err(no(RetCode::ERR_MANDATORY_TAG, "name missing"));
    }
    let text = if name.len() > MAX_NAME {
        "invalid name (longer than 127 bytes)"
    } else if matches!(name, "all" | "." | "..") {
        "invalid name (reserved)"
    } else if name.bytes().any(|b| b == b'/' || b <= b' ' || b == 0x7f) {
        "invalid name (disallowed: ascii control, space, slash)"
    } else if !lax && !name.bytes().all(strict) {
        "invalid name (strict_names=1 allows only [0-9A-Za-z+._-])"
    } else {
        return Ok(());
    };
    Err(no(RetCode::ERR_INVALID_REQUEST, text))
}

impl Node {
    pub(super) fn run(
        &self,
        request: &Request,
        client: Option<&UnixStream>,
    ) -> Result<Reply, Refusal> {
        let call = Call::new(request, client)?;
        match call.definition.name {
            "new-resource" => self.new_resource(&call),
            "new-minor" => self.new_minor(&call, call.minor()?, call.volume()?),
            "down" => {
                // Not to exist is what is wanted.
                let Ok(resource) = self.resource(call.argument(Argument::ResourceOrAll)) else {
                    return Ok(Reply::new(RetCode::ERR_RES_NOT_KNOWN));
                };
                Ok(self.down(&resource))
            }
            "del-minor" | "attach" | "detach" | "disk-options" | "resize" | "invalidate"
            | "suspend-io" | "resume-io" | "outdate" | "new-current-uuid" => {
                let (resource, volume) = self.minor(call.minor()?)?;
                let volume = VolumeNr::from_wire(volume);
                self.volume_command(&call, &resource, volume)
            }
            "rename-resource" => self.rename_resource(&call),
            "check-resize" => {
                let text = "check-resize is not for the daemon";
                Err(no(RetCode::ERR_INVALID_REQUEST, text))
            }
            _ => {
                let resource = self.resource(call.argument(Argument::Resource))?;
                self.resource_command(&call, &resource)
            }
        }
    }

    fn new_resource(&self, call: &Call<'_>) -> Result<Reply, Refusal> {
        let name = call.argument(Argument::Resource);
        let node_id = call.node(Argument::NodeId)?;
        check_name(name, self.settings.lax_names)?;
        let mut registry = lock(&self.registry);
        if registry.resources.contains_key(name) {
            return Ok(Reply::new(RetCode::NO_ERROR));
        }
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| no(RetCode::ERR_NOMEM, format!("no random numbers: {e}")))?;
        let core = (self.settings.make_core)(CoreConfig {
            name: name.to_owned(),
            node_id,
            options: options::resource(&call.options),
            seed: u64::from_ne_bytes(seed),
            helper: self.settings.helper.program.is_some(),
        });
        let shared: Arc<str> = name.into();
        let helper = self.settings.helper.clone();
        let pool = self.settings.pool;
        let handle = Handle::start(shared.clone(), core, pool, helper, &self.resyncs)
            .map_err(|e| no(RetCode::ERR_NOMEM, e.to_string()))?;
        for observer in &registry.observers {
            handle.observe(observer.clone());
        }
        let config = super::Config {
            options: call.options.clone(),
            ..Default::default()
        };
        let resource = Resource {
            name: Mutex::new(shared),
            node_id,
            handle,
            changes: Default::default(),
            config: config.into(),
            attached: Default::default(),
        };
        registry
            .resources
            .insert(name.to_owned(), Arc::new(resource));
        Ok(Reply::new(RetCode::NO_ERROR))
    }

    /// Its volumes keep the names of their devices until they are made anew.
    fn rename_resource(&self, call: &Call<'_>) -> Result<Reply, Refusal> {
        let old = call.argument(Argument::Resource);
        let new = call.argument(Argument::NewName);
        let resource = self.resource(old)?;
        check_name(new, self.settings.lax_names)?;
        let _changes = lock(&resource.changes);
        let mut registry = lock(&self.registry);
        if registry.resources.contains_key(new) {
            return Err(no(
                RetCode::ERR_ALREADY_EXISTS,
                format!("there is a resource '{new}' already"),
            ));
        }
        let reply = resource.give(Command::RenameResource {
            name: new.to_owned(),
        });
        if reply.is_ok() {
            *lock(&resource.name) = new.into();
            registry.resources.remove(old);
            registry.resources.insert(new.to_owned(), resource.clone());
        }
        Ok(reply)
    }

    fn resource_command(
        &self,
        call: &Call<'_>,
        resource: &Arc<Resource>,
    ) -> Result<Reply, Refusal> {
        let peer = || call.peer();
        let force = call.flag("force");
        if matches!(call.definition.name, "connect" | "disconnect") {
            self.reach(call, resource, peer()?)?;
        }
        // Commands that may wait for peers do not hold up changes of the configuration.
        let command = match call.definition.name {
            "primary" => Command::Primary { force },
            "secondary" => {
                resource.release_unused();
                Command::Secondary { force }
            }
            "connect" => Command::Connect {
                peer: peer()?,
                discard_my_data: call.flag("discard-my-data"),
                tentative: call.flag("tentative"),
            },
            "disconnect" => Command::Disconnect {
                peer: peer()?,
                force,
            },
            "invalidate-remote" => Command::InvalidateRemote {
                peer: peer()?,
                volume: call.volume()?,
                reset_bitmap: call.unless_no("reset-bitmap"),
            },
            "verify" => Command::Verify {
                peer: peer()?,
                volume: call.volume()?,
                start: call.sector("start"),
                stop: call.sector("stop"),
            },
            "pause-sync" => Command::PauseSync {
                peer: peer()?,
                volume: call.volume()?,
            },
            "resume-sync" => Command::ResumeSync {
                peer: peer()?,
                volume: call.volume()?,
            },
            "forget-peer" => Command::ForgetPeer { peer: peer()? },
            _ => return self.change(call, resource),
        };
        Ok(resource.give(command))
    }

    /// Commands that change what is configured.
    fn change(&self, call: &Call<'_>, resource: &Arc<Resource>) -> Result<Reply, Refusal> {
        let _changes = lock(&resource.changes);
        let set_defaults = call.request.set_defaults;
        match call.definition.name {
            "resource-options" => {
                let values = lock(&resource.config)
                    .options
                    .changed(call.options.clone(), set_defaults);
                let options = options::resource(&values);
                let reply = resource.give(Command::ResourceOptions { options });
                if reply.is_ok() {
                    lock(&resource.config).options = values;
                }
                Ok(reply)
            }
            "new-peer" => {
                let peer = call.peer()?;
                let name = call.options.text("_name").unwrap_or("").to_owned();
                let options = options::net(&call.options);
                if lock(&resource.config).peers.contains_key(&peer.get()) {
                    let text = format!("Connection for peer node id {} already exists", peer.get());
                    return Err(no(RetCode::ERR_INVALID_REQUEST, text));
                }
                if call.options.text("_name").is_some() {
                    check_name(&name, self.settings.lax_names)?;
                    let config = lock(&resource.config);
                    let mut names = config.peers.values().map(|p| p.net.text("_name"));
                    if names.any(|other| other == Some(&*name)) {
                        return Err(no(RetCode::ERR_ALREADY_EXISTS, "name already exists"));
                    }
                }
                let transport = call.options.text("transport").unwrap_or("tcp");
                if !matches!(transport, "tcp" | "") {
                    let text = format!("transport '{transport}' is not implemented; use tcp");
                    return Err(no(RetCode::ERR_CREATE_TRANSPORT, text));
                }
                if call.flag("tls") {
                    return Err(no(RetCode::ERR_CREATE_TRANSPORT, "tls is not implemented"));
                }
                let reply = resource.give(Command::NewPeer {
                    peer,
                    name,
                    options,
                });
                if reply.is_ok() {
                    let config = Peer {
                        net: call.options.clone(),
                        ..Peer::default()
                    };
                    lock(&resource.config).peers.insert(peer.get(), config);
                }
                Ok(reply)
            }
            "del-peer" => {
                let peer = call.peer()?;
                self.reach(call, resource, peer)?;
                let reply = resource.give(Command::DelPeer {
                    peer,
                    force: call.flag("force"),
                });
                if reply.is_ok() {
                    lock(&resource.config).peers.remove(&peer.get());
                    self.set_network(resource, peer, None);
                }
                Ok(reply)
            }
            "net-options" => {
                let peer = call.peer()?;
                let values = self.peer_config(resource, peer, |p| {
                    p.net.changed(call.options.clone(), set_defaults)
                })?;
                let options = options::net(&values);
                let reply = resource.give(Command::NetOptions { peer, options });
                if reply.is_ok() {
                    self.peer_config(resource, peer, |p| p.net = values)?;
                }
                Ok(reply)
            }
            "peer-device-options" => {
                let (peer, volume) = (call.peer()?, call.volume()?);
                let nr = volume.to_wire();
                let values = self.peer_config(resource, peer, |p| {
                    p.devices
                        .get(&nr)
                        .cloned()
                        .unwrap_or_default()
                        .changed(call.options.clone(), set_defaults)
                })?;
                let options = options::peer_device(&values);
                let reply = resource.give(Command::PeerDeviceOptions {
                    peer,
                    volume,
                    options,
                });
                if reply.is_ok() {
                    self.peer_config(resource, peer, |p| p.devices.insert(nr, values))?;
                }
                Ok(reply)
            }
            "new-path" => {
                let (peer, path) = (call.peer()?, call.path()?);
                let netns = networks::of_client(call.client);
                let text = "connection already assigned to a different network namespace";
                self.check_network(resource, peer, &netns, text)?;
                let reply = resource.give(Command::NewPath { peer, path });
                if reply.is_ok() {
                    self.set_network(resource, peer, netns);
                    self.peer_config(resource, peer, |p| p.paths.push((path.local, path.remote)))?;
                }
                Ok(reply)
            }
            "del-path" => {
                let (peer, path) = (call.peer()?, call.path()?);
                self.reach(call, resource, peer)?;
                let reply = resource.give(Command::DelPath { peer, path });
                if reply.is_ok() {
                    let last = self.peer_config(resource, peer, |p| {
                        p.paths.retain(|p| *p != (path.local, path.remote));
                        p.paths.is_empty()
                    })?;
                    if last {
                        self.set_network(resource, peer, None);
                    }
                }
                Ok(reply)
            }
            "del-resource" => {
                let in_use = {
                    let config = lock(&resource.config);
                    !config.volumes.is_empty() || !config.peers.is_empty()
                };
                if in_use {
                    return Err(no(RetCode::ERR_RES_IN_USE, "it has volumes or peers"));
                }
                self.forget(resource);
                Ok(Reply::new(RetCode::NO_ERROR))
            }
            other => {
                let text = format!("the daemon does not know the command '{other}'");
                Err(no(RetCode::ERR_INVALID_REQUEST, text))
            }
        }
    }

    /// Only from the network namespace of a connection is it connected, disconnected and changed.
    fn reach(&self, call: &Call<'_>, resource: &Resource, peer: NodeId) -> Result<(), Refusal> {
        let netns = networks::of_client(call.client);
        let text = "connection assigned to a different network namespace";
        self.check_network(resource, peer, &netns, text)
    }

    fn peer_config<T>(
        &self,
        resource: &Resource,
        peer: NodeId,
        f: impl FnOnce(&mut Peer) -> T,
    ) -> Result<T, Refusal> {
        match lock(&resource.config).peers.get_mut(&peer.get()) {
            Some(config) => Ok(f(config)),
            None => Err(no(RetCode::ERR_INVALID_REQUEST, "unknown connection")),
        }
    }

    fn volume_command(
        &self,
        call: &Call<'_>,
        resource: &Arc<Resource>,
        volume: VolumeNr,
    ) -> Result<Reply, Refusal> {
        let command = match call.definition.name {
            "invalidate" => {
                let from = call.options.number("sync-from-peer-node-id").unwrap_or(-1);
                Command::Invalidate {
                    volume,
                    from: u32::try_from(from).ok().and_then(NodeId::new),
                    reset_bitmap: call.unless_no("reset-bitmap"),
                }
            }
            "resize" => Command::Resize {
                volume,
                resize: options::resize(&call.options),
            },
            "suspend-io" => Command::SuspendIo,
            "resume-io" => Command::ResumeIo,
            "outdate" => Command::Outdate { volume },
            "new-current-uuid" => Command::NewCurrentUuid {
                volume,
                clear_bitmap: call.flag("clear-bitmap"),
                force_resync: call.flag("force-resync"),
            },
            "attach" => return self.attach(call, resource, volume),
            "detach" => {
                return Ok(self.detach(
                    resource,
                    volume,
                    call.flag("force"),
                    call.flag("diskless"),
                ));
            }
            "del-minor" => return Ok(self.del_minor(resource, volume)),
            _ => return self.disk_options(call, resource, volume),
        };
        Ok(resource.give(command))
    }

    /// Volumes must not wait for each other with their resyncs.
    pub(super) fn check_resync_after(
        &self,
        resource: &Resource,
        nr: u16,
        options: &DiskOptions,
    ) -> Result<(), Refusal> {
        let minor = lock(&resource.config).volumes.get(&nr).map(|v| v.minor);
        match (minor, options.resync_after) {
            (Some(minor), Some(after)) => {
                let checked = self.resyncs.check(minor, after);
                checked.map_err(|e| no(RetCode::ERR_RESYNC_AFTER_CYCLE, e.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn disk_options(
        &self,
        call: &Call<'_>,
        resource: &Resource,
        volume: VolumeNr,
    ) -> Result<Reply, Refusal> {
        let _changes = lock(&resource.changes);
        let nr = volume.to_wire();
        let set_defaults = call.request.set_defaults;
        let unknown = || no(RetCode::ERR_MINOR_INVALID, "unknown minor");
        let values = match lock(&resource.config).volumes.get(&nr) {
            Some(config) => config.disk.changed(call.options.clone(), set_defaults),
            None => return Err(unknown()),
        };
        let options = options::disk(&values);
        self.check_resync_after(resource, nr, &options)?;
        let reply = resource.give(Command::DiskOptions { volume, options });
        if reply.is_ok()
            && let Some(config) = lock(&resource.config).volumes.get_mut(&nr)
        {
            config.disk = values;
        }
        Ok(reply)
    }
}
