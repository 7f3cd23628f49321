//! The proxy of 8.x and 9.x configurations, a program of its own that `drbd-proxy-ctl` controls ("Command line tools",
//! section 5).

use drbd_config::model::{Connection, Endpoint, Host, Resource};

use super::Adm;
use super::commands::Limit;
use super::helper::{Call, Program};
use super::schedule::{Schedule, Stage};
use super::select::Target;

/// Both ends of the path through a proxy; the own one first.
fn ends<'r>(resource: &'r Resource, connection: &'r Connection) -> Option<[&'r Endpoint; 2]> {
    let me = resource.me?;
    connection.paths.iter().find_map(|path| {
        let own = path.endpoint_of(me).filter(|e| e.proxy.is_some())?;
        Some([own, path.endpoint_not_of(me)?])
    })
}

/// `RES-PEER-ME`, what the proxy calls a connection.
fn name(resource: &Resource, connection: &Connection) -> String {
    let joined = |host: Option<&Host>| host.map(Host::joined_name).unwrap_or_default();
    let (peer, me) = (resource.peer_of(connection), resource.my_host());
    format!("{}-{}-{}", resource.name, joined(peer), joined(me))
}

fn call(resource: &Resource, commands: &[String]) -> Call {
    let args = commands.iter().flat_map(|c| ["-c".to_owned(), c.clone()]);
    Call::new(Program::Proxy, &resource.name, Limit::Short, args.collect())
}

/// The commands that set a connection up in the proxy; none without a proxy.
fn up(resource: &Resource, connection: &Connection) -> Option<Vec<Call>> {
    let [own, peer] = ends(resource, connection)?;
    let (proxy, other) = (own.proxy.as_ref()?, peer.proxy.as_ref()?);
    let name = name(resource, connection);
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
        set.push(format!("set plugin {name} {i} {plugin}"));
    }
    if !proxy.options.plugins.is_empty() {
        let count = proxy.options.plugins.len();
        set.push(format!("set plugin {name} {count} END"));
    }
    let mut calls = vec![call(resource, &[add])];
    if !set.is_empty() {
        calls.push(call(resource, &set));
    }
    Some(calls)
}

impl Adm {
    /// True if this host runs the proxy of some connection of a resource.
    pub(super) fn has_proxy(&self, resource: &Resource) -> bool {
        resource
            .my_connections()
            .any(|c| self.runs_proxy(resource, c))
    }

    fn runs_proxy(&self, resource: &Resource, connection: &Connection) -> bool {
        ends(resource, connection).is_some_and(|[own, _]| {
            let proxy = own.proxy.as_ref();
            proxy.is_some_and(|p| p.hosts.iter().any(|h| self.environment.is_my_name(h)))
        })
    }

    /// `proxy-up` and `proxy-down`.
    pub(super) fn proxy(&self, target: &Target, resource: &Resource) -> i32 {
        self.each_connection(target, resource, |c| {
            if !self.runs_proxy(resource, c) {
                return 0;
            }
            if self.command.name == "proxy-down" {
                let command = format!("del connection {}", name(resource, c));
                return self.call(&call(resource, &[command]));
            }
            self.calls(&up(resource, c).unwrap_or_default())
        })
    }

    /// Schedules `proxy-up` for a connection whose proxy, if there is one here, does not know it.
    pub(super) fn schedule_proxy(
        &self,
        schedule: &mut Schedule,
        index: usize,
        resource: &Resource,
        connection: &Connection,
    ) {
        if !self.runs_proxy(resource, connection) || self.proxy_knows(resource, connection) {
            return;
        }
        for call in up(resource, connection).unwrap_or_default() {
            schedule.add(Stage::NetUp, index, "proxy-up", vec![call]);
        }
    }

    /// Asks the proxy for a connection; `FAKE_DRBD_PROXY_CTL` names a file with its answer.
    fn proxy_knows(&self, resource: &Resource, connection: &Connection) -> bool {
        if let Some(file) = std::env::var_os("FAKE_DRBD_PROXY_CTL") {
            return std::fs::metadata(file).is_ok_and(|m| m.len() > 0);
        }
        let question = format!("show proxy-settings {}", name(resource, connection));
        let ask = Call {
            quiet: true,
            ..call(resource, &[question])
        };
        self.helpers
            .ask(&ask)
            .is_ok_and(|answer| !answer.is_empty())
    }
}
