//! What the administrator asked for: resources, hosts, volumes, connections.
//!
//! The parser fills the model with what was written; [`crate::expand`] completes it in place.
//! Fields called `given` remember what was written, so that a dump can leave out the rest.

use std::fmt;
use std::sync::Arc;

use crate::options::OptionSet;
use crate::source::{FileId, Sources, Span};

/// A text that many objects share.
pub type Text = Arc<str>;

/// Everything that was read.
#[derive(Debug, Default)]
pub struct Config {
    /// The files.
    pub sources: Sources,
    /// The main file, if one was read.
    pub main: Option<FileId>,
    /// `global { }`
    pub global: Global,
    /// `common { }`
    pub common: Option<Common>,
    /// Resources in file order.
    pub resources: Vec<Resource>,
}

impl Config {
    /// The resource of this exact name.
    pub fn resource(&self, name: &str) -> Option<&Resource> {
        self.resources.iter().find(|r| &*r.name == name)
    }
}

/// `global { }` ("Configuration language", section 4.1).
#[derive(Debug, Default)]
pub struct Global {
    /// Where it was written.
    pub span: Option<Span>,
    /// `usage-count`
    pub usage_count: UsageCount,
    /// `minor-count`
    pub minor_count: Option<u16>,
    /// `dialog-refresh` in seconds.
    pub dialog_refresh: Option<u16>,
    /// `cmd-timeout-short` in seconds, 0 for no limit.
    pub cmd_timeout_short: Option<u16>,
    /// `cmd-timeout-medium` in seconds, 0 for no limit.
    pub cmd_timeout_medium: Option<u16>,
    /// `cmd-timeout-long` in seconds, 0 for no limit.
    pub cmd_timeout_long: Option<u16>,
    /// `disable-ip-verification`
    pub disable_ip_verification: bool,
    /// `udev-always-use-vnr`
    pub udev_always_use_vnr: bool,
}

/// Whether installations may be counted. Parsed, not acted on.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum UsageCount {
    /// Yes.
    Yes,
    /// No.
    No,
    /// Ask.
    #[default]
    Ask,
}

/// The option sections that `common` and `resource` have.
#[derive(Debug, Default, Clone)]
pub struct Sections {
    /// `options { }`
    pub resource: OptionSet,
    /// `net { }`
    pub net: OptionSet,
    /// `disk { }`: device options.
    pub device: OptionSet,
    /// `disk { }`: disk options.
    pub disk: OptionSet,
    /// `disk { }`: peer device options.
    pub peer_device: OptionSet,
    /// `startup { }`
    pub startup: OptionSet,
    /// `startup { stacked-timeouts; }`
    pub stacked_timeouts: bool,
    /// `proxy { }`
    pub proxy: ProxyOptions,
    /// `handlers { }`
    pub handlers: OptionSet,
}

/// `common { }`
#[derive(Debug, Default, Clone)]
pub struct Common {
    /// Where it was written.
    pub span: Span,
    /// Its sections.
    pub sections: Sections,
}

/// `resource NAME { }`
#[derive(Debug, Clone)]
pub struct Resource {
    /// Name.
    pub name: Text,
    /// The opening brace.
    pub span: Span,
    /// The closing brace.
    pub end: Span,
    /// Volumes outside of host sections. Copied into the hosts by expansion.
    pub volumes: Vec<Volume>,
    /// Host sections.
    pub hosts: Vec<Host>,
    /// Connections: explicit ones, then (after expansion) those of meshes, or the implicit one.
    pub connections: Vec<Connection>,
    /// `connection-mesh { }`
    pub meshes: Vec<Mesh>,
    /// Option sections.
    pub sections: Sections,
    /// `template-file`: absolute name and content.
    pub template: Option<(String, Common)>,
    /// Position of this host's section. Set by expansion.
    pub me: Option<usize>,
    /// No section for this host. Set by expansion.
    pub ignored: bool,
    /// This host's section is stacked, or, if this host has none, any section is.
    pub stacked: bool,
}

impl Resource {
    /// This host's section.
    pub fn my_host(&self) -> Option<&Host> {
        self.hosts.get(self.me?)
    }

    /// The connections that involve this host.
    pub fn my_connections(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(|c| !c.ignored)
    }

    /// The host section at the other end of a connection.
    pub fn peer_of(&self, connection: &Connection) -> Option<&Host> {
        self.hosts.get(connection.peer?)
    }
}

/// What a host section starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostKind {
    /// `on NAME...`
    On,
    /// `floating ADDRESS`
    Floating,
    /// `stacked-on-top-of LOWER`
    Stacked(Text),
    /// `_this_host` of a running configuration.
    ThisHost,
}

/// A host section.
#[derive(Debug, Clone)]
pub struct Host {
    /// Kind.
    pub kind: HostKind,
    /// Names it applies to; made up for floating hosts, taken from the lower resource for stacked
    /// ones.
    pub names: Vec<Text>,
    /// Where it was written.
    pub span: Span,
    /// The address.
    pub address: Option<Address>,
    /// Where the address was written.
    pub address_span: Span,
    /// The node id.
    pub node_id: Option<u8>,
    /// Where the node id was written.
    pub node_id_span: Span,
    /// Volumes, ascending.
    pub volumes: Vec<Volume>,
    /// `options { }`; parsed and dumped, without effect as in the reference.
    pub options: OptionSet,
    /// 8.x style proxy.
    pub proxy: Option<Box<Proxy>>,
}

impl Host {
    /// The first name, for display.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", |n| n)
    }

    /// All names joined with `_`: the name of connections to this host.
    pub fn joined_name(&self) -> String {
        self.names.join("_")
    }

    /// The volume of a number.
    pub fn volume(&self, number: u32) -> Option<&Volume> {
        find_volume(&self.volumes, number)
    }

    /// True for `stacked-on-top-of`.
    pub fn is_stacked(&self) -> bool {
        matches!(self.kind, HostKind::Stacked(_))
    }
}

/// Where the meta data of a volume lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetaDisk {
    /// At the end of the backing disk.
    Internal,
    /// All of another disk.
    Flexible(Text),
    /// A slot of 128 MiB of another disk.
    Indexed(Text, u32),
}

impl MetaDisk {
    /// The word `attach` takes: `internal`, `flexible` or the number of the slot.
    pub fn index_word(&self) -> String {
        match self {
            MetaDisk::Internal => "internal".to_owned(),
            MetaDisk::Flexible(_) => "flexible".to_owned(),
            MetaDisk::Indexed(_, n) => n.to_string(),
        }
    }

    /// The word `drbdmeta` takes: `internal`, `flex-external` or the number of the slot.
    pub fn type_word(&self) -> String {
        match self {
            MetaDisk::Flexible(_) => "flex-external".to_owned(),
            other => other.index_word(),
        }
    }

    /// The disk with the meta data if it is not the backing disk.
    pub fn path(&self) -> Option<&str> {
        match self {
            MetaDisk::Internal => None,
            MetaDisk::Flexible(path) | MetaDisk::Indexed(path, _) => Some(path),
        }
    }
}

/// The volume of a number in a sorted list.
pub(crate) fn find_volume(volumes: &[Volume], number: u32) -> Option<&Volume> {
    let at = volumes.partition_point(|v| v.number < number);
    volumes.get(at).filter(|v| v.number == number)
}

/// What was written in a volume, as opposed to taken over from elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Given {
    /// `device`
    pub device: bool,
    /// `disk`, as statement or section
    pub disk: bool,
    /// `meta-disk`
    pub meta_disk: bool,
    /// `tiebreaker`
    pub tiebreaker: bool,
}

impl Given {
    /// Anything at all.
    pub fn any(self) -> bool {
        self.device || self.disk || self.meta_disk || self.tiebreaker
    }
}

/// A volume on one host, or at resource level.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Number.
    pub number: u32,
    /// Made of statements outside of a `volume` block.
    pub implicit: bool,
    /// Where it was written.
    pub span: Span,
    /// Minor number of the device.
    pub minor: Option<u32>,
    /// Device name, starting with `/dev/`.
    pub device: Option<Text>,
    /// The device name was written, here or at resource level; else it follows from the minor.
    pub device_named: bool,
    /// Where the device was written.
    pub device_span: Span,
    /// Backing disk; `none` for intentionally diskless.
    pub disk: Option<Disk>,
    /// Where the disk was written.
    pub disk_span: Span,
    /// Meta data as written; see [`Volume::meta`].
    pub meta_disk: Option<MetaDisk>,
    /// Where the meta disk was written.
    pub meta_disk_span: Span,
    /// `tiebreaker`
    pub tiebreaker: Option<bool>,
    /// Disk options.
    pub disk_options: OptionSet,
    /// Peer device options.
    pub peer_device_options: OptionSet,
    /// Device options.
    pub device_options: OptionSet,
    /// What was written here.
    pub given: Given,
}

impl Volume {
    /// A volume without properties.
    pub fn new(number: u32, implicit: bool, span: Span) -> Volume {
        Volume {
            number,
            implicit,
            span,
            minor: None,
            device: None,
            device_named: false,
            device_span: span,
            disk: None,
            disk_span: span,
            meta_disk: None,
            meta_disk_span: span,
            tiebreaker: None,
            disk_options: OptionSet::default(),
            peer_device_options: OptionSet::default(),
            device_options: OptionSet::default(),
            given: Given::default(),
        }
    }

    /// Path of the backing disk, if the volume has one.
    pub fn disk_path(&self) -> Option<&str> {
        match &self.disk {
            Some(Disk::Path(path)) => Some(path),
            _ => None,
        }
    }

    /// Where the meta data lies, if the volume has a disk.
    pub fn meta(&self) -> Option<&MetaDisk> {
        self.disk_path().and(self.meta_disk.as_ref())
    }

    /// The disk that holds the meta data.
    pub fn meta_path(&self) -> Option<&str> {
        self.meta()?.path().or_else(|| self.disk_path())
    }
}

/// `disk PATH;` or `disk none;`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disk {
    /// A backing disk.
    Path(Text),
    /// Intentionally none.
    None,
}

/// Family of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// TCP/IPv4.
    Ipv4,
    /// TCP/IPv6.
    Ipv6,
    /// Sockets Direct Protocol.
    Sdp,
    /// Dolphin super sockets.
    Ssocks,
}

impl Family {
    /// The keyword.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
            Family::Sdp => "sdp",
            Family::Ssocks => "ssocks",
        }
    }
}

/// An endpoint address as written; the text of IPv4 addresses is not normalised.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Family.
    pub family: Family,
    /// The address without brackets.
    pub host: Text,
    /// The port.
    pub port: u16,
}

impl Address {
    /// The IP address, where the text is one.
    pub fn ip(&self) -> Option<std::net::IpAddr> {
        match self.family {
            Family::Ipv6 => {
                let host = self.host.split('%').next().unwrap_or("");
                host.parse::<std::net::Ipv6Addr>().ok().map(Into::into)
            }
            _ => self.host.parse::<std::net::Ipv4Addr>().ok().map(Into::into),
        }
    }

    /// As a word of a command: `ipv4:10.1.1.31:7000`.
    pub fn word(&self) -> String {
        match self.family {
            Family::Ipv6 => format!("ipv6:[{}]:{}", self.host, self.port),
            family => format!("{}:{}:{}", family.name(), self.host, self.port),
        }
    }
}

/// As in a file: `ipv4 10.1.1.31:7000`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.family {
            Family::Ipv6 => write!(f, "ipv6 [{}]:{}", self.host, self.port),
            family => write!(f, "{} {}:{}", family.name(), self.host, self.port),
        }
    }
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `connection { }`
    Explicit,
    /// Two host sections and nothing else.
    Implicit,
    /// `connection-mesh { }`
    Mesh,
}

/// A link between two hosts.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Where it comes from.
    pub origin: Origin,
    /// Where it was written.
    pub span: Span,
    /// Endpoint pairs.
    pub paths: Vec<Path>,
    /// `net { }`
    pub net: OptionSet,
    /// `disk { }`: options for the peer devices of all volumes.
    pub peer_device_options: OptionSet,
    /// `volume N { }` blocks; complete after expansion.
    pub peer_devices: Vec<PeerDevice>,
    /// Does not involve this host, or could not be resolved. Set by expansion.
    pub ignored: bool,
    /// The two host sections it joins. Set by expansion.
    pub hosts: Option<[usize; 2]>,
    /// Host section at the other end, seen from this host. Set by expansion.
    pub peer: Option<usize>,
    /// `_peer_node_id` of a running configuration.
    pub peer_node_id: Option<u8>,
    /// `_cstate` of a running configuration.
    pub cstate: Option<String>,
}

impl Connection {
    /// A connection without properties.
    pub fn new(origin: Origin, span: Span) -> Connection {
        Connection {
            origin,
            span,
            paths: Vec::new(),
            net: OptionSet::default(),
            peer_device_options: OptionSet::default(),
            peer_devices: Vec::new(),
            ignored: false,
            hosts: None,
            peer: None,
            peer_node_id: None,
            cstate: None,
        }
    }
}

/// Options for one volume of a connection.
#[derive(Debug, Clone)]
pub struct PeerDevice {
    /// Number of the volume.
    pub volume: u32,
    /// Where it was written.
    pub span: Span,
    /// Made by expansion.
    pub implicit: bool,
    /// Options.
    pub options: OptionSet,
}

/// One pair of endpoints.
#[derive(Debug, Clone)]
pub struct Path {
    /// Endpoints stand directly in the connection.
    pub implicit: bool,
    /// Where it was written.
    pub span: Span,
    /// The endpoints; two after a successful check.
    pub endpoints: Vec<Endpoint>,
}

impl Path {
    /// The endpoint of a host section.
    pub fn endpoint_of(&self, host: usize) -> Option<&Endpoint> {
        self.endpoints.iter().find(|e| e.host == Some(host))
    }

    /// The endpoint that is not that of a host section.
    pub fn endpoint_not_of(&self, host: usize) -> Option<&Endpoint> {
        self.endpoints.iter().find(|e| e.host != Some(host))
    }
}

/// How an endpoint names its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointKind {
    /// `host NAME`
    Host(Text),
    /// `address ADDRESS`
    Address,
    /// `_this_host ADDRESS`
    ThisHost,
    /// `_remote_host ADDRESS`
    RemoteHost,
}

/// One end of a path.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// How it names the host.
    pub kind: EndpointKind,
    /// Where it was written.
    pub span: Span,
    /// Address given here.
    pub address: Option<Address>,
    /// Port given here.
    pub port: Option<u16>,
    /// Proxy.
    pub proxy: Option<Box<Proxy>>,
    /// Address under which the peers see this end.
    pub outside_address: Option<Box<Address>>,
    /// The host section. Set by expansion.
    pub host: Option<usize>,
    /// The address in force. Set by expansion.
    pub resolved: Option<Address>,
}

/// `proxy on HOSTS { }`
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Hosts the proxy runs on.
    pub hosts: Vec<Text>,
    /// Where it was written.
    pub span: Span,
    /// Address towards the node.
    pub inside: Option<Address>,
    /// Address towards the other proxy.
    pub outside: Option<Address>,
    /// Options.
    pub options: ProxyOptions,
}

/// Options of a proxy.
#[derive(Debug, Clone, Default)]
pub struct ProxyOptions {
    /// Plain options.
    pub options: OptionSet,
    /// Lines of `plugin { }`.
    pub plugins: Vec<String>,
}

impl ProxyOptions {
    /// True if nothing was given.
    pub fn is_empty(&self) -> bool {
        self.options.is_empty() && self.plugins.is_empty()
    }
}

/// `connection-mesh { }`
#[derive(Debug, Clone)]
pub struct Mesh {
    /// Where it was written.
    pub span: Span,
    /// Members with their positions.
    pub hosts: Vec<(Text, Span)>,
    /// `net { }`
    pub net: OptionSet,
}
