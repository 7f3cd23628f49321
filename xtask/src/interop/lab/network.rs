//! The nodes and the network between them: made, cut, restored.

use std::fmt::Write as _;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use drbd_testkit::{Context, Error, Node, Place, Result, Spaces};

use super::super::guest::Machine;
use super::super::side::{Kind, RESOURCE, Side};
use super::Lab;

fn address(id: u8) -> String {
    format!("10.77.0.{}", id + 1)
}

fn hardware_address(id: u8) -> String {
    format!("02:00:00:00:00:{:02x}", id + 1)
}

/// Runs a shell script in a place.
pub(super) fn sh(place: &Place, script: &str) -> Result<()> {
    let mut command = Command::new("sh");
    command.arg("-ec").arg(script).stdin(Stdio::null());
    let output = place.run(move || command.output())?.context(script)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!("`{script}`: {}", said.trim())))
}

impl Lab {
    pub(super) fn make_side(&self, id: u8, kind: Kind, disk: Option<PathBuf>) -> Result<Side> {
        let name = match kind {
            Kind::Ours => format!("ours{id}"),
            Kind::Kernel => format!("kern{id}"),
            Kind::Guest => format!("guest{id}"),
        };
        let dir = self.dir.path().join(&name);
        std::fs::create_dir_all(&dir).context(dir.display())?;
        let disk = match disk {
            Some(disk) => disk,
            None => {
                let disk = self.disks.path().join(format!("{name}.img"));
                let file = File::create(&disk).context(disk.display())?;
                file.set_len(self.options.size).context(disk.display())?;
                disk
            }
        };
        match kind {
            Kind::Ours => {
                let place = Place::new(&name, Spaces::Own)?;
                let pid = std::process::id();
                let thread = place.run(|| rustix::thread::gettid().as_raw_nonzero())?;
                sh(
                    &self.hub,
                    &format!(
                        "ip link add port{id} type veth peer name eth0 netns /proc/{pid}/task/{thread}/ns/net\n\
                         ip link set port{id} master br0 up"
                    ),
                )?;
                let (mac, ip) = (hardware_address(id), address(id));
                sh(
                    &place,
                    &format!(
                        "ip link set eth0 address {mac} && ip addr add {ip}/24 dev eth0 && ip link set eth0 gso_max_segs 1 gso_max_size 2000 up"
                    ),
                )?;
                let minor = self.first_minor + u32::from(id);
                Ok(Side::ours(Node::alone(
                    &name, id, place, dir, RESOURCE, disk, minor,
                )?))
            }
            Kind::Kernel | Kind::Guest => {
                let tap = format!("tap{id}");
                sh(
                    &self.hub,
                    &format!("ip tuntap add {tap} mode tap && ip link set {tap} master br0 up"),
                )?;
                let machine = Machine {
                    name,
                    address: format!("{}/24", address(id)),
                    tap,
                    number: id + 1,
                    disks: vec![disk],
                    dir,
                };
                let (image, legacy) = (&self.setup.image, self.setup.legacy);
                Side::kernel(id, image, machine, &self.hub, legacy, kind == Kind::Guest)
            }
        }
    }

    /// The configuration, in the form for one kind of node.
    pub(super) fn config(&self) -> impl Fn(Kind) -> String + use<> {
        let options = self.options.clone();
        let legacy = self.setup.legacy;
        let nodes: Vec<_> = self
            .sides
            .iter()
            .map(|s| (s.name.clone(), s.id, s.minor(), s.backing()))
            .collect();
        move |kind| {
            let old = legacy && kind == Kind::Kernel;
            let mut out = format!(
                "global {{ usage-count no; disable-ip-verification; }}\nresource {RESOURCE} {{\n"
            );
            for (name, lines) in [
                ("net", &options.net),
                ("disk", &options.disk),
                ("options", &options.options),
            ] {
                if old && name == "options" {
                    continue;
                }
                let _ = writeln!(out, "    {name} {{");
                for line in lines {
                    let _ = writeln!(out, "        {line};");
                }
                out.push_str("    }\n");
            }
            for (name, id, minor, disk) in &nodes {
                let ip = address(*id);
                let _ = writeln!(out, "    on {name} {{");
                if !old {
                    let _ = writeln!(out, "        node-id {id};");
                }
                let disk = if options.diskless.contains(id) {
                    "none".to_owned()
                } else {
                    format!("\"{disk}\"")
                };
                let _ = writeln!(
                    out,
                    "        device minor {minor}; disk {disk}; meta-disk internal; address {ip}:7788;\n    }}"
                );
            }
            if nodes.len() > 2 {
                let names: Vec<&str> = nodes.iter().map(|n| n.0.as_str()).collect();
                let _ = writeln!(out, "    connection-mesh {{ hosts {}; }}", names.join(" "));
            }
            out.push_str("}\n");
            out
        }
    }

    fn neighbour(&self, of: u8, peer: u8, reachable: bool) -> Result<()> {
        let side = self.side(of)?;
        let device = side.network();
        let ip = address(peer);
        side.sh(&if reachable {
            format!("ip neigh del {ip} dev {device}")
        } else {
            // Packets go to a station that does not exist.
            format!("ip neigh replace {ip} lladdr 02:00:00:00:00:99 dev {device} nud permanent")
        })
        .map(drop)
    }

    /// Nothing gets through between two nodes any more, and nobody is told.
    pub(in crate::interop) fn cut(&self, a: u8, b: u8) -> Result<()> {
        self.neighbour(a, b, false)?;
        self.neighbour(b, a, false)
    }

    /// The link is back.
    pub(in crate::interop) fn restore(&self, a: u8, b: u8) -> Result<()> {
        self.neighbour(a, b, true)?;
        self.neighbour(b, a, true)
    }

    /// All links are back, as far as nodes can be told.
    pub(in crate::interop) fn restore_all(&self) {
        for a in 0..self.sides.len() {
            for b in 0..self.sides.len() {
                let (Ok(a), Ok(b)) = (u8::try_from(a), u8::try_from(b)) else {
                    continue;
                };
                let _ = self.neighbour(a, b, true);
            }
        }
    }
}
