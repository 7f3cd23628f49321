//! Option sections ("Configuration language", sections 4.8 and 5).

use crate::diagnostic::{Diagnostic, nearest};
use crate::lexer::{Keyword, Kind, Token};
use crate::model::{ProxyOptions, Sections, Text};
use crate::options::{Group, OptionDef, OptionItem, ValueError, find_in};
use crate::source::Span;

use super::Parser;
use super::tokens::{Step, Tokens, cut, unexpected};

/// Where a section stands decides which options it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskPlace {
    /// In `common` or `resource`.
    Resource,
    /// In a volume of a host or resource.
    Volume,
}

/// The option names of some groups, for messages.
fn names(groups: &[Group]) -> Vec<&'static str> {
    groups
        .iter()
        .flat_map(|g| g.options())
        .filter(|o| !o.internal)
        .map(|o| o.name)
        .collect()
}

/// A name found in the table: the option, and whether it was written with `no-`.
fn find(groups: &[Group], name: &str) -> Option<(&'static OptionDef, bool)> {
    find_in(groups, name).map(|def| (def, false)).or_else(|| {
        let rest = name.strip_prefix("no-")?;
        find_in(groups, rest).map(|def| (def, true))
    })
}

impl Parser {
    /// `option*` up to the closing brace. `alias` may rename what is not in the table;
    /// `expected` is what messages say if a name is unknown.
    fn options<'a>(
        &mut self,
        t: &mut Tokens<'a>,
        groups: &[Group],
        expected: &str,
        mut other: impl FnMut(&mut Self, &mut Tokens<'a>, &Token<'a>) -> Step<bool>,
        mut take: impl FnMut(OptionItem),
    ) -> Step<()> {
        loop {
            let mut token = t.next();
            let unknown = token.kind == Kind::Keyword(Keyword::Unknown);
            match token.kind {
                Kind::Close => return Ok(()),
                _ if unknown => token = t.next(),
                _ => {}
            }
            let known = match token.kind {
                Kind::Word | Kind::Quoted | Kind::Keyword(_) => find(groups, &token.text),
                _ => None,
            };
            let Some((def, negated)) = known else {
                if other(self, t, &token)? {
                    continue;
                }
                return Err(unexpected(&token, expected, &names(groups)));
            };
            if let Some(item) = self.value(t, def, negated, unknown, token.span)? {
                take(item);
            }
        }
    }

    /// What follows the name of an option: `;` or a value and `;`.
    pub(super) fn value(
        &mut self,
        t: &mut Tokens<'_>,
        def: &'static OptionDef,
        negated: bool,
        unknown: bool,
        span: Span,
    ) -> Step<Option<OptionItem>> {
        let item = |value: Option<Text>, span| OptionItem {
            def,
            value,
            inherited: false,
            span,
        };
        if t.accept(Kind::Semicolon).is_some() {
            if unknown {
                return Ok(Some(item(None, span)));
            }
            if !def.is_boolean() && !negated {
                self.report(
                    Diagnostic::warning(span, format!("option '{}' has no value", def.name))
                        .help("it will be passed on as 'yes', which is hardly what it takes"),
                );
            }
            let value = if negated {
                &self.texts.no
            } else {
                &self.texts.yes
            };
            return Ok(Some(item(Some(value.clone()), span)));
        }
        let token = t.next();
        if !token.is_value() {
            return Err(unexpected(&token, "an option value | ;", &[]));
        }
        t.expect(Kind::Semicolon)?;
        // What runs was accepted; defaults shown there may lie outside of the range for files.
        if let Err(error) = def.parse(&token.text)
            && !self.running
        {
            let mut message = format!(
                "Parse error: while parsing value ('{}')\nfor {}. Value is {error}.",
                cut(&token.text),
                def.name
            );
            let mut help = None;
            match error {
                ValueError::NotValid(words) => {
                    message.push_str(&format!("\nAllowed values are: {}", words.join(" | ")));
                    help = nearest(&token.text, words.iter().copied())
                        .map(|word| format!("did you mean '{word}'?"));
                }
                ValueError::TooLong(limit) => message.push_str(&format!("\nmax len: {limit}")),
                ValueError::TooSmall(n) | ValueError::TooBig(n) => {
                    let unit = if n.unit.is_empty() {
                        String::new()
                    } else if n.scale.letter() == "1" {
                        format!(" {}", n.unit)
                    } else {
                        format!(" in units of {} bytes", n.scale.factor())
                    };
                    help = Some(format!(
                        "{} takes {} to {}{unit}, default {}",
                        def.name, n.min, n.max, n.default
                    ));
                }
                ValueError::NotANumber => {
                    help = Some("a number may end in K, M, G or s (512 bytes)".to_owned());
                }
                ValueError::NotYesNo => {}
            }
            self.report(Diagnostic::error(token.span, message).maybe_help(help));
            return Ok(None);
        }
        Ok(Some(item(Some(self.texts.share(&token.text)), span)))
    }

    fn none(&mut self, _: &mut Tokens<'_>, _: &Token<'_>) -> Step<bool> {
        Ok(false)
    }

    /// `options { }`
    pub(super) fn resource_options(
        &mut self,
        t: &mut Tokens<'_>,
        take: impl FnMut(OptionItem),
    ) -> Step<()> {
        let expected = names(&[Group::Resource]).join(" | ");
        self.options(t, &[Group::Resource], &expected, Self::none, take)
    }

    /// `net { }`
    pub(super) fn net_options(
        &mut self,
        t: &mut Tokens<'_>,
        take: impl FnMut(OptionItem),
    ) -> Step<()> {
        let running = self.running;
        let other = move |_: &mut Self, t: &mut Tokens<'_>, token: &Token<'_>| {
            // A running connection may say so; it is no configuration.
            if running && &*token.text == "discard-my-data" {
                while t.accept(Kind::Semicolon).is_none() {
                    let token = t.next();
                    if matches!(token.kind, Kind::Eof | Kind::Close) {
                        return Err(unexpected(&token, ";", &[]));
                    }
                }
                return Ok(true);
            }
            Ok(false)
        };
        self.options(t, &[Group::Net], "an option keyword", other, take)
    }

    /// `disk { }` outside of connections.
    pub(super) fn disk_options(
        &mut self,
        t: &mut Tokens<'_>,
        place: DiskPlace,
        mut take: impl FnMut(OptionItem),
    ) -> Step<()> {
        const GROUPS: &[Group] = &[Group::Disk, Group::PeerDevice, Group::Device];
        let expected = names(GROUPS).join(" | ");
        let mut moved = Vec::new();
        let other = |this: &mut Self, t: &mut Tokens<'_>, token: &Token<'_>| {
            // 8.x had fencing here; it belongs to net.
            if place == DiskPlace::Resource
                && &*token.text == "fencing"
                && let Some(def) = Group::Net.find("fencing")
            {
                moved.extend(this.value(t, def, false, false, token.span)?);
                return Ok(true);
            }
            Ok(false)
        };
        self.options(t, GROUPS, &expected, other, &mut take)?;
        moved.into_iter().for_each(take);
        Ok(())
    }

    /// `disk { }` in a connection.
    pub(super) fn peer_device_options(
        &mut self,
        t: &mut Tokens<'_>,
        take: impl FnMut(OptionItem),
    ) -> Step<()> {
        let expected = names(&[Group::PeerDevice]).join(" | ");
        self.options(t, &[Group::PeerDevice], &expected, Self::none, take)
    }

    /// `startup { }`
    pub(super) fn startup_options(
        &mut self,
        t: &mut Tokens<'_>,
        sections: &mut Sections,
    ) -> Step<()> {
        let stacked = &mut sections.stacked_timeouts;
        let startup = &mut sections.startup;
        let other = |_: &mut Self, t: &mut Tokens<'_>, token: &Token<'_>| match &*token.text {
            "stacked-timeouts" => {
                t.expect(Kind::Semicolon)?;
                *stacked = true;
                Ok(true)
            }
            "become-primary-on" => {
                // Ignored since 9.0: promotion is automatic or up to the cluster manager.
                while t.accept(Kind::Semicolon).is_none() {
                    let token = t.next();
                    if !token.is_value() {
                        return Err(unexpected(&token, "TK_STRING | ;", &[]));
                    }
                }
                Ok(true)
            }
            _ => Ok(false),
        };
        self.options(
            t,
            &[Group::Startup],
            "<an option keyword> | become-primary-on | stacked-timeouts",
            other,
            |item| startup.push(item),
        )
    }

    /// `handlers { }`
    pub(super) fn handlers(
        &mut self,
        t: &mut Tokens<'_>,
        take: impl FnMut(OptionItem),
    ) -> Step<()> {
        let expected = names(&[Group::Handlers]).join(" | ");
        self.options(t, &[Group::Handlers], &expected, Self::none, take)
    }

    /// `proxy { }`, and `options { }` in a proxy section. The last such section counts, and the last
    /// `plugin { }`, as in the reference.
    pub(super) fn proxy_options(
        &mut self,
        t: &mut Tokens<'_>,
        proxy: &mut ProxyOptions,
    ) -> Step<()> {
        let expected = format!("{} | plugin", names(&[Group::Proxy]).join(" | "));
        let plugins = &mut proxy.plugins;
        let options = &mut proxy.options;
        *options = Default::default();
        let other = |this: &mut Self, t: &mut Tokens<'_>, token: &Token<'_>| {
            if &*token.text != "plugin" {
                if !token.is_value() || t.peek().kind != Kind::Open {
                    return Ok(false);
                }
                let message = format!("'{}' is taken for 'plugin'", cut(&token.text));
                this.report(Diagnostic::warning(token.span, message));
            }
            t.expect(Kind::Open)?;
            plugins.clear();
            loop {
                let mut words: Vec<String> = Vec::new();
                loop {
                    let token = t.next();
                    match token.kind {
                        Kind::Close if words.is_empty() => return Ok(true),
                        Kind::Semicolon => break,
                        Kind::Eof
                        | Kind::Close
                        | Kind::WordTooLong
                        | Kind::Unterminated
                        | Kind::QuotedTooLong
                        | Kind::NotUtf8 => return Err(unexpected(&token, ";", &[])),
                        // Whatever it is, the proxy gets it.
                        _ => words.push(token.text.into_owned()),
                    }
                }
                plugins.push(words.join(" "));
            }
        };
        self.options(t, &[Group::Proxy], &expected, other, |item| {
            options.push(item)
        })
    }

    /// `syncer { }` of 8.3: options that live in four sections today.
    pub(super) fn syncer(&mut self, t: &mut Tokens<'_>, sections: &mut Sections) -> Step<()> {
        const GROUPS: &[Group] = &[Group::Net, Group::Disk, Group::Resource, Group::PeerDevice];
        let expected = names(GROUPS).join(" | ");
        let mut renamed = Vec::new();
        let other = |this: &mut Self, t: &mut Tokens<'_>, token: &Token<'_>| {
            let def = match &*token.text {
                "rate" => Group::PeerDevice.find("resync-rate"),
                "after" => Group::Disk.find("resync-after"),
                "outdate-peer" => Group::Handlers.find("fence-peer"),
                _ => None,
            };
            let Some(def) = def else { return Ok(false) };
            renamed.extend(this.value(t, def, false, false, token.span)?);
            Ok(true)
        };
        let mut items = Vec::new();
        self.options(t, GROUPS, &expected, other, |item| items.push(item))?;
        items.append(&mut renamed);
        items.sort_by_key(|i| i.span.start);
        for item in items {
            sections.take(item);
        }
        Ok(())
    }
}

impl Sections {
    /// Puts an option where it belongs.
    pub(super) fn take(&mut self, item: OptionItem) {
        match item.def.group {
            Group::Resource => self.resource.push(item),
            Group::Net => self.net.push(item),
            Group::Disk => self.disk.push(item),
            Group::PeerDevice => self.peer_device.push(item),
            Group::Device => self.device.push(item),
            Group::Startup => self.startup.push(item),
            Group::Handlers => self.handlers.push(item),
            Group::Proxy => self.proxy.options.push(item),
            Group::Operation => {}
        }
    }
}
