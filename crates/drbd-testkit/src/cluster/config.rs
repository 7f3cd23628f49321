//! The configuration files of a cluster.

use std::fmt::Write as _;

use super::{Cluster, Story};

impl Cluster {
    /// The configuration as a node has it.
    pub(super) fn config(&self, id: u8) -> String {
        let mut out = String::from("global {\n    usage-count no;\n");
        if self.options.story == Story::Nbd {
            out.push_str("    disable-ip-verification;\n");
        }
        let _ = writeln!(out, "}}\n\nresource {} {{", self.resource);
        for (name, lines) in [
            ("net", &self.options.net),
            ("disk", &self.options.disk),
            ("options", &self.options.options),
            ("handlers", &self.options.handlers),
        ] {
            let _ = writeln!(out, "    {name} {{");
            for line in lines {
                let _ = writeln!(out, "        {line};");
            }
            out.push_str("    }\n");
        }
        for node in &self.nodes {
            let _ = writeln!(out, "    on {} {{\n        node-id {};", node.name, node.id);
            for volume in 0..self.options.volumes {
                let (minor, disk) = (node.minor(volume), node.disk(volume).display());
                let _ = writeln!(
                    out,
                    "        volume {volume} {{\n            device minor {minor};\n            disk \"{disk}\";\n            \
                     meta-disk internal;\n        }}"
                );
            }
            out.push_str("    }\n");
        }
        for (a, b) in self.pairs() {
            out.push_str("    connection {\n        path {\n");
            for node in [a, b] {
                // Links between others are of no interest here, but have to be complete.
                let by = if a == id || b == id { id } else { node };
                let by = if by == node && self.options.story == Story::BlockDevice {
                    if node == a { b } else { a }
                } else {
                    by
                };
                let (name, address) = (&self.node(node).name, self.address(node, by));
                let _ = writeln!(out, "            host {name} address {address};");
            }
            out.push_str("        }\n    }\n");
        }
        out.push_str("}\n");
        out
    }
}
