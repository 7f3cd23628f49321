//! Connections, paths, meshes, proxies and addresses ("Configuration language", sections 3, 4.6
//! and 4.7).

use crate::diagnostic::Diagnostic;
use crate::lexer::{Keyword, Kind, Token};
use crate::model::{
    Address, Connection, Endpoint, EndpointKind, Family, Mesh, Origin, Path, PeerDevice, Proxy,
    ProxyOptions,
};
use crate::options::OptionSet;

use super::tokens::{Range, Step, Tokens, unexpected};
use super::{NODE_ID, Parser, VOLUME};

const PORT: Range = Range {
    name: "port",
    min: 1,
    max: 65_535,
};

const CONNECTION_WORDS: &[&str] = &[
    "host",
    "address",
    "path",
    "net",
    "disk",
    "volume",
    "skip",
    "_peer_node_id",
    "_cstate",
];

impl Parser {
    /// An address after its keyword, without the terminating `;`.
    pub(super) fn address(&mut self, t: &mut Tokens<'_>) -> Step<Address> {
        const EXPECTED: &str = "ssocks | sdp | ipv4 | ipv6 | <ipv4 address> ";
        let mut token = t.next();
        let family = match token.kind {
            Kind::Keyword(Keyword::Ipv6) => Family::Ipv6,
            Kind::Keyword(Keyword::Sdp) => Family::Sdp,
            Kind::Keyword(Keyword::Ssocks | Keyword::Sci) => Family::Ssocks,
            _ => Family::Ipv4,
        };
        let host = if family == Family::Ipv6 {
            t.expect(Kind::OpenBracket)?;
            let token = t.expect(Kind::Ipv6)?;
            t.expect(Kind::CloseBracket)?;
            token.text
        } else {
            if matches!(token.kind, Kind::Keyword(_)) {
                if token.kind == Kind::Keyword(Keyword::Ipv4) || family != Family::Ipv4 {
                    token = t.next();
                }
                if token.kind != Kind::Ipv4 {
                    return Err(unexpected(&token, "TK_IPADDR", &[]));
                }
            } else if token.kind != Kind::Ipv4 {
                return Err(unexpected(
                    &token,
                    EXPECTED,
                    &["ssocks", "sdp", "ipv4", "ipv6"],
                ));
            }
            token.text
        };
        t.expect(Kind::Colon)?;
        let port = self.port(t)?;
        Ok(Address {
            family,
            host: self.texts.share(&host),
            port: port.unwrap_or(0),
        })
    }

    fn port(&mut self, t: &mut Tokens<'_>) -> Step<Option<u16>> {
        let (port, _) = t.integer(PORT, &mut self.diagnostics)?;
        Ok(port.and_then(|p| u16::try_from(p).ok()))
    }

    /// After `connection`.
    pub(super) fn connection(&mut self, t: &mut Tokens<'_>) -> Step<Connection> {
        if t.peek().is_string() {
            let name = t.next();
            self.report(Diagnostic::warning(
                name.span,
                format!(
                    "explicitly named connections are deprecated!\n\tits name ('{}') will be ignored",
                    name.text
                ),
            ));
        }
        let open = t.expect(Kind::Open)?;
        let mut c = Connection::new(Origin::Explicit, open.span);
        let mut net_given = false;
        let mut too_many = false;
        loop {
            let token = t.next();
            let Kind::Keyword(keyword) = token.kind else {
                if token.kind == Kind::Close {
                    break;
                }
                return Err(self.unexpected_in_connection(&token));
            };
            match keyword {
                Keyword::Host | Keyword::Address => {
                    let endpoint = self.endpoint(t, &token)?;
                    self.implicit_path(&mut c, endpoint, &mut too_many);
                }
                Keyword::Path => {
                    let path = self.path(t)?;
                    if c.paths.first().is_some_and(|p| p.implicit) {
                        self.report(Diagnostic::error(token.span, MIXED_PATHS));
                    }
                    c.paths.reserve_exact(1);
                    c.paths.push(path);
                }
                Keyword::Net => {
                    t.expect(Kind::Open)?;
                    if net_given {
                        self.report(Diagnostic::error(
                            token.span,
                            "only one 'net' section per connection allowed",
                        ));
                    }
                    net_given = true;
                    let net = &mut c.net;
                    self.net_options(t, |item| net.push(item))?;
                }
                Keyword::Disk => {
                    t.expect(Kind::Open)?;
                    let options = &mut c.peer_device_options;
                    self.peer_device_options(t, |item| options.push(item))?;
                }
                Keyword::Volume => {
                    let device = self.peer_device(t)?;
                    c.peer_devices.push(device);
                }
                Keyword::PeerNodeId => {
                    let (id, _) = t.integer(NODE_ID, &mut self.diagnostics)?;
                    c.peer_node_id = id.and_then(|i| u8::try_from(i).ok());
                    t.expect(Kind::Semicolon)?;
                }
                Keyword::Cstate => {
                    c.cstate = Some(t.string("TK_STRING")?.text.into_owned());
                    t.expect(Kind::Semicolon)?;
                }
                Keyword::IsStandalone => {
                    c.cstate = Some("StandAlone".to_owned());
                    t.expect(Kind::Semicolon)?;
                }
                Keyword::Skip => self.skip(t)?,
                _ => return Err(self.unexpected_in_connection(&token)),
            }
        }
        if c.paths.is_empty() && !self.running {
            self.report(Diagnostic::error(
                c.span,
                "connection without a single path (maybe empty?) not allowed",
            ));
        }
        Ok(c)
    }

    fn unexpected_in_connection(&self, token: &Token<'_>) -> super::tokens::Stop {
        unexpected(
            token,
            "host | address | path | net | disk | volume | skip",
            CONNECTION_WORDS,
        )
    }

    fn implicit_path(&mut self, c: &mut Connection, endpoint: Endpoint, too_many: &mut bool) {
        match c.paths.first_mut() {
            Some(path) if !path.implicit => {
                self.report(Diagnostic::error(endpoint.span, MIXED_PATHS));
            }
            Some(path) if path.endpoints.len() >= 2 => {
                // One message per connection is enough.
                if !std::mem::replace(too_many, true) {
                    self.report(Diagnostic::error(
                        endpoint.span,
                        "only two 'host' keywords per connection allowed",
                    ));
                }
            }
            Some(path) => path.endpoints.push(endpoint),
            // There are many of these; a path has two ends and most connections have one path.
            None => {
                let mut endpoints = Vec::with_capacity(2);
                let span = endpoint.span;
                endpoints.push(endpoint);
                c.paths.reserve_exact(1);
                c.paths.push(Path {
                    implicit: true,
                    span,
                    endpoints,
                });
            }
        }
    }

    fn path(&mut self, t: &mut Tokens<'_>) -> Step<Path> {
        let open = t.expect(Kind::Open)?;
        let mut path = Path {
            implicit: false,
            span: open.span,
            endpoints: Vec::with_capacity(2),
        };
        let mut too_many = false;
        loop {
            let token = t.next();
            let kind = match token.kind {
                Kind::Close => return Ok(path),
                Kind::Keyword(Keyword::Host | Keyword::Address) => {
                    let endpoint = self.endpoint(t, &token)?;
                    if path.endpoints.len() < 2 {
                        path.endpoints.push(endpoint);
                    } else if !std::mem::replace(&mut too_many, true) {
                        self.report(Diagnostic::error(
                            token.span,
                            "only two 'host' keywords per path allowed",
                        ));
                    }
                    continue;
                }
                Kind::Keyword(Keyword::ThisHost) => EndpointKind::ThisHost,
                Kind::Keyword(Keyword::RemoteHost) => EndpointKind::RemoteHost,
                Kind::Keyword(Keyword::Skip) => {
                    self.skip(t)?;
                    continue;
                }
                _ => {
                    return Err(unexpected(
                        &token,
                        "host | address",
                        &["host", "address", "_this_host", "_remote_host"],
                    ));
                }
            };
            let address = self.address(t)?;
            t.expect(Kind::Semicolon)?;
            if path.endpoints.len() < 2 {
                path.endpoints
                    .push(Endpoint::new(kind, token.span, Some(address)));
            }
        }
    }

    /// After `host` or `address`, up to the end of the statement.
    fn endpoint(&mut self, t: &mut Tokens<'_>, first: &Token<'_>) -> Step<Endpoint> {
        let mut endpoint = if first.kind == Kind::Keyword(Keyword::Host) {
            let name = t.string("TK_STRING")?;
            let kind = EndpointKind::Host(self.texts.share(&name.text));
            let mut endpoint = Endpoint::new(kind, name.span, None);
            match t.keyword() {
                Some(Keyword::Address) => {
                    t.next();
                    endpoint.address = Some(self.address(t)?);
                }
                Some(Keyword::Port) => {
                    t.next();
                    endpoint.port = self.port(t)?;
                }
                _ => {}
            }
            endpoint
        } else {
            let address = self.address(t)?;
            Endpoint::new(EndpointKind::Address, first.span, Some(address))
        };
        let token = t.next();
        match token.kind {
            Kind::Semicolon => return Ok(endpoint),
            Kind::Keyword(Keyword::Via) => {}
            _ if endpoint.address.is_none() && endpoint.port.is_none() => {
                let words = &["address", "port", "via"];
                return Err(unexpected(&token, "address | port | via | ;", words));
            }
            _ => return Err(unexpected(&token, "via | ;", &["via"])),
        }
        let token = t.next();
        match token.kind {
            Kind::Keyword(Keyword::Proxy) => {
                endpoint.proxy = Some(Box::new(self.proxy(t)?));
            }
            Kind::Keyword(Keyword::OutsideAddress) => {
                endpoint.outside_address = Some(Box::new(self.address(t)?));
                t.expect(Kind::Semicolon)?;
            }
            _ => {
                let words = &["proxy", "outside-address"];
                return Err(unexpected(&token, "proxy | outside-address", words));
            }
        }
        Ok(endpoint)
    }

    /// `volume N { disk { } }` in a connection.
    fn peer_device(&mut self, t: &mut Tokens<'_>) -> Step<PeerDevice> {
        let (volume, span) = t.integer(VOLUME, &mut self.diagnostics)?;
        t.expect(Kind::Open)?;
        let mut device = PeerDevice {
            volume: volume.map_or(0, |v| v as u32),
            span,
            implicit: false,
            options: OptionSet::default(),
        };
        loop {
            let token = t.next();
            match token.kind {
                Kind::Close => return Ok(device),
                Kind::Keyword(Keyword::Disk) => {
                    t.expect(Kind::Open)?;
                    let options = &mut device.options;
                    self.peer_device_options(t, |item| options.push(item))?;
                }
                _ => return Err(unexpected(&token, "disk | }", &["disk"])),
            }
        }
    }

    /// After `connection-mesh`.
    pub(super) fn mesh(&mut self, t: &mut Tokens<'_>) -> Step<Mesh> {
        let open = t.expect(Kind::Open)?;
        let mut mesh = Mesh {
            span: open.span,
            hosts: Vec::new(),
            net: OptionSet::default(),
        };
        loop {
            let token = t.next();
            match token.kind {
                Kind::Close => return Ok(mesh),
                Kind::Keyword(Keyword::Hosts) => {
                    while t.accept(Kind::Semicolon).is_none() {
                        let name = t.string("TK_STRING | ;")?;
                        mesh.hosts.push((self.texts.share(&name.text), name.span));
                    }
                }
                Kind::Keyword(Keyword::Net) => {
                    t.expect(Kind::Open)?;
                    let net = &mut mesh.net;
                    self.net_options(t, |item| net.push(item))?;
                }
                _ => return Err(unexpected(&token, "hosts | net | }", &["hosts", "net"])),
            }
        }
    }

    /// After the keyword `proxy`: `on NAMES { }`.
    pub(super) fn proxy(&mut self, t: &mut Tokens<'_>) -> Step<Proxy> {
        let on = t.expect(Kind::Keyword(Keyword::On))?;
        let mut proxy = Proxy {
            hosts: Vec::new(),
            span: on.span,
            inside: None,
            outside: None,
            options: ProxyOptions::default(),
        };
        let first = t.string("TK_STRING")?;
        proxy.hosts.push(self.texts.share(&first.text));
        while t.accept(Kind::Open).is_none() {
            let name = t.string("TK_STRING | '{'")?;
            proxy.hosts.push(self.texts.share(&name.text));
        }
        loop {
            let token = t.next();
            match token.kind {
                Kind::Close => break,
                Kind::Keyword(Keyword::Inside) => {
                    proxy.inside = Some(self.address(t)?);
                    t.expect(Kind::Semicolon)?;
                }
                Kind::Keyword(Keyword::Outside) => {
                    proxy.outside = Some(self.address(t)?);
                    t.expect(Kind::Semicolon)?;
                }
                Kind::Keyword(Keyword::Options) => {
                    t.expect(Kind::Open)?;
                    self.proxy_options(t, &mut proxy.options)?;
                }
                _ => {
                    let words = &["inside", "outside", "options"];
                    return Err(unexpected(&token, "inside | outside | options", words));
                }
            }
        }
        let name = proxy
            .hosts
            .first()
            .map_or_else(String::new, |h| h.to_string());
        for (missing, word) in [
            (proxy.inside.is_none(), "inside"),
            (proxy.outside.is_none(), "outside"),
        ] {
            if missing {
                self.report(Diagnostic::error(
                    proxy.span,
                    format!("in section: proxy on {name} {{ ... }} }}: '{word}' keyword missing."),
                ));
            }
        }
        Ok(proxy)
    }
}

const MIXED_PATHS: &str = "Explicit and implicit paths not allowed";

impl Endpoint {
    pub(crate) fn new(
        kind: EndpointKind,
        span: crate::source::Span,
        address: Option<Address>,
    ) -> Endpoint {
        Endpoint {
            kind,
            span,
            address,
            port: None,
            proxy: None,
            outside_address: None,
            host: None,
            resolved: None,
        }
    }
}
