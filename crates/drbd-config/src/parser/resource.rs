//! Resources, host sections and volumes ("Configuration language", sections 3, 4.2 to 4.5).

use crate::diagnostic::Diagnostic;
use crate::lexer::{Keyword, Kind, Token};
use crate::model::{
    Address, Common, Disk, Host, HostKind, MetaDisk, Resource, Sections, Text, Volume,
};
use crate::options::{Group, OptionSet, Scale, parse_number};
use crate::source::Span;

use super::options::DiskPlace;
use super::tokens::{Range, Step, Stop, Tokens, conflict, unexpected};
use super::{NODE_ID, Parser, VOLUME};

const MINOR: Range = Range {
    name: "minor",
    min: 0,
    max: u32::MAX as u64,
};
const INDEX: Range = Range {
    name: "meta-disk",
    min: 0,
    max: u32::MAX as u64,
};

const RESOURCE_WORDS: &[&str] = &[
    "protocol",
    "on",
    "floating",
    "stacked-on-top-of",
    "volume",
    "device",
    "disk",
    "meta-disk",
    "flexible-meta-disk",
    "net",
    "options",
    "startup",
    "handlers",
    "proxy",
    "syncer",
    "connection",
    "connection-mesh",
    "template-file",
    "skip",
    "tiebreaker",
];
const HOST_WORDS: &[&str] = &[
    "disk",
    "device",
    "address",
    "meta-disk",
    "flexible-meta-disk",
    "node-id",
    "volume",
    "options",
    "proxy",
    "skip",
    "tiebreaker",
];
const VOLUME_WORDS: &[&str] = &[
    "device",
    "disk",
    "meta-disk",
    "flexible-meta-disk",
    "tiebreaker",
    "skip",
];

/// First uses of things that may appear once.
#[derive(Default)]
struct Once(Vec<(&'static str, Span)>);

impl Once {
    /// Notes a use; an error if it is the second one. `key` is only built for the message.
    fn check(&mut self, what: &'static str, span: Span, key: impl Fn() -> String) -> Step<()> {
        if let Some((_, first)) = self.0.iter().find(|(w, _)| *w == what) {
            return Err(conflict(what, &key(), span, *first).into());
        }
        self.0.push((what, span));
        Ok(())
    }
}

/// Whose content is read.
enum Owner<'r> {
    Common,
    Resource(&'r mut Resource),
}

impl Parser {
    /// The content of `common` after its opening brace.
    pub(super) fn common(&mut self, t: &mut Tokens<'_>, open: Span) -> Step<Common> {
        let mut sections = Sections::default();
        self.sections(t, &mut Owner::Common, "common", &mut sections)?;
        Ok(Common {
            span: open,
            sections,
        })
    }

    /// After `resource`.
    pub(super) fn resource(&mut self, t: &mut Tokens<'_>) -> Step<Resource> {
        let name = t.string("TK_STRING")?;
        if name.text.is_empty() {
            return Err(Diagnostic::plain("Resource name is empty.").exit(1).into());
        }
        if name.text.chars().any(char::is_control) {
            let message = "Resource name is invalid - please don't use control characters.";
            return Err(Diagnostic::plain(message).exit(1).into());
        }
        let open = t.expect(Kind::Open)?;
        let name: Text = self.texts.share(&name.text);
        if let Some(first) = self.names.insert(name.clone(), open.span) {
            return Err(conflict("resource section", &name, open.span, first).into());
        }
        let mut resource = Resource {
            name: name.clone(),
            span: open.span,
            end: open.span,
            volumes: Vec::new(),
            hosts: Vec::new(),
            connections: Vec::new(),
            meshes: Vec::new(),
            sections: Sections::default(),
            template: None,
            me: None,
            ignored: false,
            stacked: false,
        };
        let mut sections = Sections::default();
        let end = self.sections(t, &mut Owner::Resource(&mut resource), &name, &mut sections)?;
        resource.sections = sections;
        resource.end = end;
        Ok(resource)
    }

    /// `resource_stmt*` up to the closing brace or the end of the file.
    fn sections(
        &mut self,
        t: &mut Tokens<'_>,
        owner: &mut Owner<'_>,
        name: &str,
        sections: &mut Sections,
    ) -> Step<Span> {
        let mut once = Once::default();
        let section = |what: &str| format!("{name}:{what}");
        // What `common` has besides option sections is read and dropped.
        let mut dropped_volumes = Vec::new();
        loop {
            let token = t.next();
            let keyword = match token.kind {
                Kind::Close => return Ok(token.span),
                // The end of the file closes a resource.
                Kind::Eof => return Ok(token.span),
                Kind::Keyword(keyword) => keyword,
                Kind::Word | Kind::Quoted if &*token.text == "protocol" => {
                    once.check("protocol statement", token.span, || {
                        format!("{name}: protocol")
                    })?;
                    if let Some(def) = Group::Net.find("protocol") {
                        let item = self.value(t, def, false, false, token.span)?;
                        item.into_iter().for_each(|i| sections.take(i));
                    }
                    continue;
                }
                _ => {
                    return Err(unexpected(
                        &token,
                        &RESOURCE_WORDS.join(" | "),
                        RESOURCE_WORDS,
                    ));
                }
            };
            match keyword {
                Keyword::On | Keyword::Floating | Keyword::StackedOnTopOf | Keyword::ThisHost => {
                    let Owner::Resource(resource) = owner else {
                        return Err(Diagnostic::error(
                            token.span,
                            "in the common section, there are no host sections allowed.",
                        )
                        .into());
                    };
                    let host = self.host(t, keyword, token.span, name)?;
                    let clash = resource.hosts.iter().find(|h| {
                        host.kind != HostKind::ThisHost
                            && h.names.iter().any(|n| host.names.contains(n))
                    });
                    if let Some(first) = clash {
                        let shared = host.names.iter().find(|n| first.names.contains(n));
                        let key = format!("{name}: on {}", shared.map_or("", |n| &**n));
                        return Err(conflict("host section", &key, host.span, first.span).into());
                    }
                    resource.hosts.push(host);
                }
                Keyword::Volume
                | Keyword::Device
                | Keyword::MetaDisk
                | Keyword::FlexibleMetaDisk
                | Keyword::Tiebreaker => {
                    if keyword == Keyword::Device {
                        once.check("device statement", token.span, || section("device"))?;
                    }
                    let volumes = match owner {
                        Owner::Resource(resource) => &mut resource.volumes,
                        Owner::Common => &mut dropped_volumes,
                    };
                    self.volume_or_part(t, &token, keyword, volumes)?;
                }
                Keyword::Disk => {
                    if t.accept(Kind::Open).is_some() {
                        once.check("disk section", token.span, || section("disk"))?;
                        self.disk_options(t, DiskPlace::Resource, |item| sections.take(item))?;
                    } else {
                        let volumes = match owner {
                            Owner::Resource(resource) => &mut resource.volumes,
                            Owner::Common => &mut dropped_volumes,
                        };
                        self.volume_or_part(t, &token, keyword, volumes)?;
                    }
                }
                Keyword::Net => {
                    once.check("net section", token.span, || section("net"))?;
                    t.expect(Kind::Open)?;
                    self.net_options(t, |item| sections.take(item))?;
                }
                Keyword::Options => {
                    once.check("resource options section", token.span, || {
                        section("options")
                    })?;
                    t.expect(Kind::Open)?;
                    self.resource_options(t, |item| sections.take(item))?;
                }
                Keyword::Startup => {
                    once.check("startup section", token.span, || section("startup"))?;
                    t.expect(Kind::Open)?;
                    self.startup_options(t, sections)?;
                }
                Keyword::Handlers => {
                    once.check("handlers section", token.span, || section("handlers"))?;
                    t.expect(Kind::Open)?;
                    self.handlers(t, |item| sections.take(item))?;
                }
                Keyword::Proxy => {
                    once.check("proxy section", token.span, || section("proxy"))?;
                    t.expect(Kind::Open)?;
                    self.proxy_options(t, &mut sections.proxy)?;
                }
                Keyword::Syncer => {
                    once.check("syncer section", token.span, || section("syncer"))?;
                    t.expect(Kind::Open)?;
                    self.syncer(t, sections)?;
                }
                Keyword::Connection => {
                    let connection = self.connection(t)?;
                    if let Owner::Resource(resource) = owner {
                        resource.connections.push(connection);
                    }
                }
                Keyword::ConnectionMesh => {
                    let mesh = self.mesh(t)?;
                    if let Owner::Resource(resource) = owner {
                        resource.meshes.push(mesh);
                    }
                }
                Keyword::TemplateFile => {
                    let file = t.string("TK_STRING")?;
                    t.expect(Kind::Semicolon)?;
                    let template = self.template(&file)?;
                    if let Owner::Resource(resource) = owner {
                        resource.template = template;
                    }
                }
                Keyword::Skip => self.skip(t)?,
                _ => {
                    return Err(unexpected(
                        &token,
                        &RESOURCE_WORDS.join(" | "),
                        RESOURCE_WORDS,
                    ));
                }
            }
        }
    }

    /// A `volume` block, or a statement of the implicit volume 0.
    fn volume_or_part(
        &mut self,
        t: &mut Tokens<'_>,
        token: &Token<'_>,
        keyword: Keyword,
        volumes: &mut Vec<Volume>,
    ) -> Step<()> {
        if keyword == Keyword::Volume {
            let (number, span) = t.integer(VOLUME, &mut self.diagnostics)?;
            t.expect(Kind::Open)?;
            let number = number.map_or(0, |n| n as u32);
            let at = volumes
                .iter()
                .position(|v| v.number == number && !v.implicit);
            let mut volume = match at {
                Some(at) => volumes.remove(at),
                None => Volume::new(number, false, span),
            };
            loop {
                let token = t.next();
                match token.kind {
                    Kind::Close => break,
                    Kind::Keyword(keyword) => self.volume_part(t, &token, keyword, &mut volume)?,
                    _ => return Err(unexpected_in_volume(&token)),
                }
            }
            let at = volumes.partition_point(|v| v.number < number);
            volumes.insert(at.min(volumes.len()), volume);
            return Ok(());
        }
        if volumes.iter().any(|v| !v.implicit) {
            self.report(Diagnostic::error(
                token.span,
                "mixing explicit and implicit volumes is not allowed",
            ));
        }
        if !volumes.iter().any(|v| v.implicit) {
            volumes.insert(0, Volume::new(0, true, token.span));
        }
        match volumes.iter_mut().find(|v| v.implicit) {
            Some(volume) => self.volume_part(t, token, keyword, volume),
            None => Ok(()),
        }
    }

    /// One `volume_stmt`.
    fn volume_part(
        &mut self,
        t: &mut Tokens<'_>,
        token: &Token<'_>,
        keyword: Keyword,
        volume: &mut Volume,
    ) -> Step<()> {
        match keyword {
            Keyword::Device => {
                volume.device = None;
                volume.minor = None;
                volume.device_span = token.span;
                volume.given.device = true;
                volume.given.device_name = false;
                if t.keyword() != Some(Keyword::Minor) {
                    let name = t.string("TK_STRING | minor")?;
                    volume.device_span = name.span;
                    volume.given.device_name = true;
                    let name = if name.text.starts_with("drbd") {
                        format!("/dev/{}", name.text)
                    } else {
                        name.text.into_owned()
                    };
                    volume.minor = minor_of(&name);
                    volume.device = Some(self.texts.share(&name));
                }
                let next = t.next();
                match next.kind {
                    Kind::Semicolon => return Ok(()),
                    Kind::Keyword(Keyword::Minor) => {}
                    _ => return Err(unexpected(&next, "minor | ;", &["minor"])),
                }
                let (minor, span) = t.integer(MINOR, &mut self.diagnostics)?;
                let minor = minor.map(|m| m as u32);
                if volume.device.is_none() {
                    volume.device_span = span;
                } else if volume.minor.is_some() && volume.minor != minor {
                    self.device_errors.push((
                        volume.device_span,
                        format!(
                            "explicit minor number must match with device name\n\
                             \tTry \"device /dev/drbd{m} minor {m};\",\n\
                             \tor leave off either device name or explicit minor.",
                            m = minor.unwrap_or(0)
                        ),
                    ));
                } else if let Some(name) = &volume.device
                    && volume.minor.is_none()
                    && !name.starts_with("/dev/drbd_")
                {
                    self.device_errors.push((
                        volume.device_span,
                        "arbitrary device name must start with /dev/drbd_\n\
                         \tmind the '_'! (/dev/ is optional, but drbd_ is required)"
                            .to_owned(),
                    ));
                }
                volume.minor = minor;
                t.expect(Kind::Semicolon)?;
            }
            Keyword::Disk => {
                volume.given.disk = true;
                if t.accept(Kind::Open).is_some() {
                    let Volume {
                        disk_options,
                        peer_device_options,
                        device_options,
                        ..
                    } = volume;
                    self.disk_options(t, DiskPlace::Volume, |item| match item.def.group {
                        Group::PeerDevice => peer_device_options.push(item),
                        Group::Device => device_options.push(item),
                        _ => disk_options.push(item),
                    })?;
                    return Ok(());
                }
                let path = t.string("TK_STRING | {")?;
                t.expect(Kind::Semicolon)?;
                volume.disk_span = path.span;
                volume.disk = Some(match &*path.text {
                    "none" => Disk::None,
                    path => Disk::Path(self.texts.share(path)),
                });
            }
            Keyword::MetaDisk | Keyword::FlexibleMetaDisk => {
                let path = t.string("TK_STRING")?;
                volume.given.meta_disk = true;
                volume.meta_disk_span = path.span;
                let name = self.texts.share(&path.text);
                let mut meta_disk = match &*name {
                    "internal" => MetaDisk::Internal,
                    _ => MetaDisk::Flexible(name.clone()),
                };
                if keyword == Keyword::MetaDisk && t.accept(Kind::OpenBracket).is_some() {
                    let (index, span) = t.integer(INDEX, &mut self.diagnostics)?;
                    t.expect(Kind::CloseBracket)?;
                    if meta_disk == MetaDisk::Internal {
                        let message = "internal meta data has no index";
                        self.report(Diagnostic::error(span, message));
                    } else {
                        meta_disk = MetaDisk::Indexed(name, index.map_or(0, |i| i as u32));
                    }
                }
                t.expect(Kind::Semicolon)?;
                volume.meta_disk = Some(meta_disk);
            }
            Keyword::Tiebreaker => {
                let value = t.next();
                volume.given.tiebreaker = true;
                volume.tiebreaker = match value.kind {
                    Kind::Keyword(Keyword::Yes) => Some(true),
                    Kind::Keyword(Keyword::No) => Some(false),
                    _ => return Err(unexpected(&value, "yes | no", &["yes", "no"])),
                };
                t.expect(Kind::Semicolon)?;
            }
            Keyword::Skip => self.skip(t)?,
            _ => return Err(unexpected_in_volume(token)),
        }
        Ok(())
    }

    /// After the keyword of a host section.
    fn host(
        &mut self,
        t: &mut Tokens<'_>,
        keyword: Keyword,
        span: Span,
        resource: &str,
    ) -> Step<Host> {
        let mut host = Host {
            kind: HostKind::On,
            names: Vec::new(),
            span,
            address: None,
            address_span: span,
            node_id: None,
            node_id_span: span,
            volumes: Vec::new(),
            options: OptionSet::default(),
            proxy: None,
        };
        match keyword {
            Keyword::On => {
                while t.accept(Kind::Open).is_none() {
                    let name = t.string("TK_STRING | '{'")?;
                    host.names.push(self.texts.share(&name.text));
                }
                if host.names.is_empty() {
                    let open = Token {
                        kind: Kind::Open,
                        span,
                        text: "{".into(),
                    };
                    return Err(unexpected(&open, "TK_STRING", &[]));
                }
            }
            Keyword::ThisHost => {
                host.kind = HostKind::ThisHost;
                host.names.push(self.texts.share("_this_host"));
                t.expect(Kind::Open)?;
            }
            Keyword::Floating => {
                host.kind = HostKind::Floating;
                let address = self.address(t)?;
                host.names.push(floating_name(&address).as_str().into());
                host.address = Some(address);
                let next = t.next();
                match next.kind {
                    Kind::Semicolon => return Ok(host),
                    Kind::Open => {}
                    _ => return Err(unexpected(&next, "{ | ;", &[])),
                }
            }
            _ => {
                let lower = t.string("TK_STRING")?;
                host.kind = HostKind::Stacked(self.texts.share(&lower.text));
                t.expect(Kind::Open)?;
            }
        }
        self.host_body(t, &mut host, resource)?;
        Ok(host)
    }

    fn host_body(&mut self, t: &mut Tokens<'_>, host: &mut Host, resource: &str) -> Step<()> {
        let mut once = Once::default();
        let name = host.name().to_owned();
        let key = |what: &str| format!("{resource}:{name}:{what}");
        loop {
            let token = t.next();
            let keyword = match token.kind {
                Kind::Close => return Ok(()),
                Kind::Keyword(keyword) => keyword,
                _ => return Err(unexpected(&token, &HOST_WORDS.join(" | "), HOST_WORDS)),
            };
            match keyword {
                Keyword::Address if host.kind == HostKind::Floating => {
                    return Err(Diagnostic::error(
                        token.span,
                        "address statement not allowed for floating {} host sections",
                    )
                    .into());
                }
                Keyword::Address => {
                    once.check("address statement", token.span, || key("address"))?;
                    host.address_span = token.span;
                    host.address = Some(self.address(t)?);
                    t.expect(Kind::Semicolon)?;
                }
                Keyword::NodeId => {
                    once.check("node-id statement", token.span, || key("node-id"))?;
                    let (id, span) = t.integer(NODE_ID, &mut self.diagnostics)?;
                    host.node_id_span = span;
                    // An id out of range was reported; pretend it is there.
                    host.node_id = Some(id.and_then(|i| u8::try_from(i).ok()).unwrap_or(u8::MAX));
                    t.expect(Kind::Semicolon)?;
                }
                Keyword::Proxy => {
                    host.proxy = Some(Box::new(self.proxy(t)?));
                }
                Keyword::Options => {
                    t.expect(Kind::Open)?;
                    let options = &mut host.options;
                    self.resource_options(t, |item| options.push(item))?;
                }
                Keyword::Skip => self.skip(t)?,
                Keyword::Device => {
                    once.check("device statement", token.span, || key("device"))?;
                    self.host_volume(t, &token, keyword, host)?;
                }
                Keyword::Disk => {
                    if t.peek().kind != Kind::Open {
                        once.check("disk statement", token.span, || key("disk"))?;
                    }
                    self.host_volume(t, &token, keyword, host)?;
                }
                Keyword::MetaDisk | Keyword::FlexibleMetaDisk => {
                    once.check("meta-disk statement", token.span, || key("meta-disk"))?;
                    self.host_volume(t, &token, keyword, host)?;
                }
                Keyword::Volume | Keyword::Tiebreaker => {
                    self.host_volume(t, &token, keyword, host)?;
                }
                _ => return Err(unexpected(&token, &HOST_WORDS.join(" | "), HOST_WORDS)),
            }
        }
    }

    /// A volume statement of a host, keeping the errors about device names apart.
    fn host_volume(
        &mut self,
        t: &mut Tokens<'_>,
        token: &Token<'_>,
        keyword: Keyword,
        host: &mut Host,
    ) -> Step<()> {
        if host.is_stacked()
            && !matches!(keyword, Keyword::Device | Keyword::Volume | Keyword::Disk)
        {
            return Err(unexpected(
                token,
                "device | address | proxy | node-id | volume",
                &["device", "address", "proxy", "node-id", "volume"],
            ));
        }
        let outer = std::mem::take(&mut self.device_errors);
        let result = self.volume_or_part(t, token, keyword, &mut host.volumes);
        let mine = std::mem::replace(&mut self.device_errors, outer);
        // Names in sections of other hosts are theirs to judge.
        if !self.is_other_host(host) {
            self.device_errors.extend(mine);
        }
        result
    }

    /// Opens and reads a `template-file`.
    fn template(&mut self, name: &Token<'_>) -> Step<Option<(String, Common)>> {
        let failed = |reason: &str| {
            Diagnostic::error(
                name.span,
                format!("Failed to open template file '{}'.", name.text),
            )
            .full()
            .help(reason.to_owned())
        };
        let (file, text) = match self.open_beside(name.span, &name.text) {
            Ok(opened) => opened,
            Err(reason) => {
                self.report(failed(&reason));
                return Ok(None);
            }
        };
        let mut t = Tokens::new(&text, crate::lexer::Lexer::new(file));
        t.expect(Kind::Keyword(Keyword::Common))?;
        let open = t.expect(Kind::Open)?;
        let common = self.common(&mut t, open.span)?;
        let end = t.next();
        if end.kind != Kind::Eof {
            return Err(unexpected(&end, "end of file", &[]));
        }
        Ok(Some((self.config.sources.full_name(open.span), common)))
    }
}

fn unexpected_in_volume(token: &Token<'_>) -> Stop {
    unexpected(
        token,
        "device | disk | meta-disk | flexible-meta-disk | tiebreaker",
        VOLUME_WORDS,
    )
}

/// The minor a device name stands for: `/dev/drbdN`.
fn minor_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("/dev/drbd")?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    parse_number(digits, Scale::One)
        .ok()
        .and_then(|n| u32::try_from(n).ok())
}

/// The made-up name of a floating host: characters that resource names may not have are replaced.
fn floating_name(address: &Address) -> String {
    let text = match address.family {
        crate::model::Family::Ipv6 => format!("[{}]_{}", address.host, address.port),
        _ => format!("{}_{}", address.host, address.port),
    };
    text.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "+-._".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect()
}
