//! The proxy of 8.x and 9.x configurations, a program of its own that `drbd-proxy-ctl` controls ("Command line tools",
//! section 5).

use drbd_config::model::{Connection, Endpoint, Proxy, ProxyOptions, Resource};
use drbd_config::options::{Scale, parse_number};
use drbd_config::{Environment, Input, Parser, expand};

use super::Adm;
use super::commands::Limit;
use super::helper::{Call, Program};
use super::schedule::{Schedule, Stage};
use super::select::Target;

/// The path of a connection through a proxy on this host.
struct Through<'r> {
    resource: &'r Resource,
    /// The end whose proxy runs here.
    own: &'r Endpoint,
    proxy: &'r Proxy,
    other: &'r Proxy,
}

fn call(resource: &Resource, commands: &[String]) -> Call {
    let args = commands.iter().flat_map(|c| ["-c".to_owned(), c.clone()]);
    Call::new(Program::Proxy, &resource.name, Limit::Short, args.collect())
}

impl Through<'_> {
    /// `RES-PEER-ME`, what the proxy calls a connection: the names of the hosts with its two ends.
    fn name(&self) -> String {
        let [peer, me] = [self.other, self.proxy].map(|proxy| proxy.hosts.join("_"));
        format!("{}-{peer}-{me}", self.resource.name)
    }

    fn set_plugin(&self, index: usize, plugin: &str) -> String {
        format!("set plugin {} {index} {plugin}", self.name())
    }

    fn down(&self) -> Call {
        call(self.resource, &[format!("del connection {}", self.name())])
    }

    /// The commands that set the connection up in the proxy.
    fn up(&self) -> Option<Vec<Call>> {
        let Through {
            resource,
            own,
            proxy,
            other,
        } = *self;
        let name = self.name();
        let place =
            |a: Option<&drbd_config::model::Address>| a.map(|a| format!("{}:{}", a.host, a.port));
        let mut add = format!(
            "add connection {name} {} {} {} {}",
            place(proxy.inside.as_ref())?,
            place(other.outside.as_ref())?,
            place(proxy.outside.as_ref())?,
            place(own.resolved.as_ref())?,
        );
        let mut set = Vec::new();
        for item in &proxy.options.options {
            let value = item.value.as_deref().unwrap_or("yes");
            add.push_str(&format!(" --{}={value}", item.def.name));
            set.push(format!("set {} {name} {value}", item.def.name));
        }
        for (i, plugin) in proxy.options.plugins.iter().enumerate() {
            set.push(self.set_plugin(i, plugin));
        }
        if !proxy.options.plugins.is_empty() {
            let count = proxy.options.plugins.len();
            set.push(self.set_plugin(count, "END"));
        }
        let mut calls = vec![call(resource, &[add])];
        if !set.is_empty() {
            calls.push(call(resource, &set));
        }
        Some(calls)
    }

    /// What makes the connection that the proxy has the one that is wanted.
    fn changes(&self, known: &ProxyOptions) -> Changes {
        let wanted = &self.proxy.options;
        let limit = |options: &ProxyOptions| {
            let text = options.options.text("memlimit")?;
            parse_number(text, Scale::One).ok()
        };
        if let Some(wanted) = limit(wanted)
            && limit(known).is_none_or(|known| !about_the_same(wanted, known))
        {
            return Changes::Anew;
        }
        let mut set = Vec::new();
        for (i, plugin) in wanted.plugins.iter().enumerate() {
            match known.plugins.get(i) {
                Some(present) if present == plugin => continue,
                // One that is there already cannot move back.
                _ if known.plugins.iter().take(i).any(|p| p == plugin) => return Changes::Anew,
                _ => set.push(self.set_plugin(i, plugin)),
            }
        }
        if known.plugins.len() > wanted.plugins.len() {
            set.push(self.set_plugin(wanted.plugins.len(), "end"));
        }
        let calls = set.into_iter().map(|set| call(self.resource, &[set]));
        Changes::Plugins(calls.collect())
    }
}

/// What a connection that a proxy knows needs.
enum Changes {
    /// It is taken down and set up again.
    Anew,
    /// These, if any.
    Plugins(Vec<Call>),
}

/// The proxy rounds its limit to pages: two per cent do not count.
fn about_the_same(a: u64, b: u64) -> bool {
    a.abs_diff(b).saturating_mul(50) <= a.min(b)
}

/// The settings that a proxy answers with, `proxy { }` as in a configuration; `None` if it does not know the connection.
fn settings(answer: &[u8], environment: &Environment) -> Option<ProxyOptions> {
    let answer = answer.trim_ascii();
    if !answer.starts_with(b"proxy") {
        return None;
    }
    let mut parser = Parser::new(environment);
    parser.read(Input::Text {
        name: "drbd-proxy-ctl".to_owned(),
        text: [b"common {\n", answer, b"\n}\n"].concat(),
    });
    let parsed = parser.finish();
    let common = parsed.config.common?;
    (!expand::failed(&parsed.diagnostics)).then_some(common.sections.proxy)
}

impl Adm {
    /// True if this host runs the proxy of some connection of a resource. It need have no other part in the resource.
    pub(super) fn has_proxy(&self, resource: &Resource) -> bool {
        let mut connections = resource.connections.iter();
        connections.any(|c| self.through(resource, c).is_some())
    }

    /// The commands for proxies also want those resources to be right that have nothing but a proxy here.
    pub(super) fn check_proxies(&self) -> Result<(), i32> {
        let here = |resource: &&Resource| {
            let connections = resource.connections.iter();
            let endpoints = connections
                .flat_map(|c| &c.paths)
                .flat_map(|p| &p.endpoints);
            let mut hosts = endpoints
                .filter_map(|e| e.proxy.as_ref())
                .flat_map(|p| &p.hosts);
            hosts.any(|h| self.environment.is_my_name(h))
        };
        let foreign = self.config.resources.iter().filter(|r| r.ignored);
        let found: Vec<_> = foreign
            .filter(here)
            .flat_map(expand::check_proxies)
            .collect();
        self.report(&found)
    }

    fn through<'r>(
        &self,
        resource: &'r Resource,
        connection: &'r Connection,
    ) -> Option<Through<'r>> {
        let runs = |e: &&Endpoint| {
            let mine = resource.me.is_none_or(|me| e.host == Some(me));
            let hosts = e.proxy.iter().flat_map(|proxy| &proxy.hosts);
            mine && hosts.into_iter().any(|h| self.environment.is_my_name(h))
        };
        connection.paths.iter().find_map(|path| {
            let own = path.endpoints.iter().find(runs)?;
            let other = path.endpoint_not_of(own.host?)?;
            Some(Through {
                resource,
                own,
                proxy: own.proxy.as_ref()?,
                other: other.proxy.as_ref()?,
            })
        })
    }

    /// `proxy-up` and `proxy-down`.
    pub(super) fn proxy(&self, target: &Target, resource: &Resource) -> i32 {
        let one = |c: &Connection| match self.through(resource, c) {
            Some(through) if self.command.name == "proxy-down" => self.call(&through.down()),
            Some(through) => self.calls(&through.up().unwrap_or_default()),
            None => 0,
        };
        if resource.me.is_some() {
            return self.each_connection(target, resource, one);
        }
        // Nothing but a proxy is here: no connection is our own.
        let mut codes = resource.connections.iter().map(one);
        codes.find(|code| *code != 0).unwrap_or(0)
    }

    /// Schedules what the proxy of a connection needs, if it is here.
    pub(super) fn schedule_proxy(
        &self,
        schedule: &mut Schedule,
        index: usize,
        resource: &Resource,
        connection: &Connection,
    ) {
        let Some(through) = self.through(resource, connection) else {
            return;
        };
        match self
            .proxy_settings(&through)
            .map(|known| through.changes(&known))
        {
            Some(Changes::Plugins(calls)) => {
                for call in calls {
                    schedule.add(Stage::NetOptions, index, "proxy", vec![call]);
                }
                return;
            }
            Some(Changes::Anew) => {
                let down = vec![through.down()];
                schedule.add(Stage::NetDown, index, "proxy-down", down);
            }
            None => {}
        }
        for call in through.up().unwrap_or_default() {
            schedule.add(Stage::NetUp, index, "proxy-up", vec![call]);
        }
    }

    /// Asks the proxy for a connection; `FAKE_DRBD_PROXY_CTL` names a file with its answer.
    fn proxy_settings(&self, through: &Through<'_>) -> Option<ProxyOptions> {
        let answer = match std::env::var_os("FAKE_DRBD_PROXY_CTL") {
            Some(file) => std::fs::read(file).ok()?,
            None => {
                let question = format!("show proxy-settings {}", through.name());
                let ask = Call {
                    quiet: true,
                    ..call(through.resource, &[question])
                };
                self.helpers.ask(&ask).ok()?
            }
        };
        settings(&answer, &self.environment)
    }
}
