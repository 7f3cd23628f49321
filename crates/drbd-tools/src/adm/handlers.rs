//! Handlers: what the node runs when something happens ("Command line tools", section 7).

use drbd_config::model::Resource;

use super::Adm;
use super::commands::Limit;
use super::helper::{Call, Program};

impl Adm {
    /// Runs the configured command of the handler this program was called as.
    pub(super) fn handler(&self, resource: &Resource) -> i32 {
        let Some(command) = resource.sections.handlers.text(self.command.name) else {
            return 0;
        };
        let mut environment: Vec<(String, Option<String>)> = Vec::new();
        // What a previous handler further up has set does not concern this resource.
        for (name, _) in std::env::vars() {
            if name.starts_with("DRBD_NODE_ID_") {
                environment.push((name, None));
            }
        }
        let mut set = |name: &str, value: String| {
            environment.push((name.to_owned(), Some(value)));
        };
        let main = self.config.main.and_then(|m| self.config.sources.get(m));
        set(
            "DRBD_CONF",
            main.map_or_else(String::new, |f| f.full_name()),
        );
        set("DRBD_RESOURCE", resource.name.to_string());
        for host in &resource.hosts {
            if let Some(id) = host.node_id {
                set(&format!("DRBD_NODE_ID_{id}"), host.joined_name());
            }
        }
        if let Some(me) = resource.my_host() {
            if std::env::var_os("DRBD_MY_NODE_ID").is_none()
                && let Some(id) = me.node_id
            {
                set("DRBD_MY_NODE_ID", id.to_string());
            }
            let list = |f: &dyn Fn(&drbd_config::model::Volume) -> String| {
                me.volumes.iter().map(f).collect::<Vec<_>>().join(" ")
            };
            set("DRBD_MINOR", list(&|v| v.minor.unwrap_or(0).to_string()));
            set("DRBD_VOLUME", list(&|v| v.number.to_string()));
            set(
                "DRBD_LL_DISK",
                list(&|v| v.disk_path().unwrap_or("none").to_owned()),
            );
        }
        let args = vec!["-c".to_owned(), command.to_owned()];
        self.call(&Call {
            environment,
            ..Call::new(Program::Shell, &resource.name, Limit::Long, args)
        })
    }
}
