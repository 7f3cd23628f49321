//! Resources, host sections and volumes ("Configuration language", sections 3, 4.2 to 4.5).

use crate::diagnostic::Diagnostic;
use crate::lexer::{Keyword, Kind, Token};
use crate::model::{Address, Common, Host, HostKind, Resource, Sections, Text};
use crate::options::{Group, OptionSet};
use crate::source::Span;

use super::options::DiskPlace;
use super::tokens::{Step, Tokens, conflict, unexpected};
use super::volume::settle;
use super::{NODE_ID, Parser};

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

/// Node ids go up to 31; there cannot be more hosts. One more is left to the check of the ids.
const MAX_HOSTS: usize = 32;
/// Names a host section may list.
const MAX_NAMES: usize = 64;

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
        let bad = if name.text.is_empty() {
            Some("Resource name is empty.")
        } else if name.text.chars().any(char::is_control) {
            Some("Resource name is invalid - please don't use control characters.")
        } else {
            None
        };
        if let Some(message) = bad {
            // What follows belongs to it and is no error of its own.
            t.accept(Kind::Open);
            return Err(Diagnostic::plain(message).exit(1).show([name.span]).into());
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
        settle(&mut resource.volumes);
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
                    if resource.hosts.len() > MAX_HOSTS {
                        let message = format!("in resource {name}: more than {MAX_HOSTS} hosts");
                        return Err(Diagnostic::error(host.span, message).into());
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
                        make_room(resource);
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
                    if host.names.len() > MAX_NAMES {
                        let message = format!("more than {MAX_NAMES} names for one host");
                        return Err(Diagnostic::error(name.span, message).into());
                    }
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
        settle(&mut host.volumes);
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

/// Room for all pairs of the hosts as soon as there are more than a few connections: moving them again and again takes
/// longer than reading them.
fn make_room(resource: &mut Resource) {
    const FEW: usize = 4;
    const MANY: usize = 32;
    let connections = &mut resource.connections;
    let hosts = resource.hosts.len();
    if connections.len() == FEW && connections.capacity() == FEW && hosts <= MANY {
        let pairs = hosts * hosts.saturating_sub(1) / 2;
        connections.reserve_exact(pairs.saturating_sub(FEW));
    }
}
