//! `qemu-storage-daemon` as a mirror and as a plain export.

use std::path::Path;
use std::process::Command;

use drbd_node::frontend::nbd::address::Address;

use super::Contender;
use super::files::WorkDir;
use super::process::{Process, free_port};

const PROGRAM: &str = "qemu-storage-daemon";
/// The mirror.
pub(super) const MIRROR: &str = "QEMU quorum mirror";
/// One file.
pub(super) const PLAIN: &str = "QEMU, one file (no mirror)";

/// First line of `qemu-storage-daemon --version`; `None` if there is no such program.
pub(super) fn version() -> Option<String> {
    let output = Command::new(PROGRAM).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output
        .status
        .success()
        .then(|| text.lines().next().unwrap_or(PROGRAM).to_owned())
}

/// A daemon with a file as the node `disk`.
fn daemon(file: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    let file = file.display();
    command.arg("--blockdev").arg(format!(
        "driver=file,node-name=file,filename={file},cache.direct=on,aio=io_uring"
    ));
    command.args([
        "--blockdev",
        "driver=raw,node-name=disk,file=file,cache.direct=on",
    ]);
    command
}

fn export_unix(command: &mut Command, socket: &Path, node: &str) {
    let socket = socket.display();
    command
        .arg("--nbd-server")
        .arg(format!("addr.type=unix,addr.path={socket}"));
    command.arg("--export").arg(format!(
        "type=nbd,id=out,node-name={node},name=bench,writable=on"
    ));
}

fn contender(
    name: &'static str,
    dir: &WorkDir,
    socket: &str,
    size: u64,
    processes: Vec<Process>,
) -> Contender {
    Contender {
        name,
        address: Address::Unix(dir.run(socket)),
        export: "bench".into(),
        processes,
        idle_memory: 0,
        size,
        stores: Vec::new(),
        runs: Vec::new(),
    }
}

/// One file.
pub(super) fn start_plain(dir: &WorkDir, size: u64) -> Result<Contender, String> {
    let mut command = daemon(&dir.disk("plain.img", size)?);
    let socket = dir.run("plain.sock");
    export_unix(&mut command, &socket, "disk");
    let mut process = Process::start(command, dir.run("plain.log"))?;
    process.wait("QEMU opens its socket", || socket.exists())?;
    Ok(contender(PLAIN, dir, "plain.sock", size, vec![process]))
}

/// A quorum that needs both of its children: a file, and the export of a file by another daemon over TCP.
pub(super) fn start_mirror(dir: &WorkDir, size: u64) -> Result<Contender, String> {
    let stores = vec![
        dir.disk("quorum-1.img", size)?,
        dir.disk("quorum-2.img", size)?,
    ];
    let [near, far] = stores.as_slice() else {
        return Err("two files are two".into());
    };
    let port = free_port()?;
    let mut command = daemon(far);
    command.arg("--nbd-server").arg(format!(
        "addr.type=inet,addr.host=127.0.0.1,addr.port={port}"
    ));
    command.args([
        "--export",
        "type=nbd,id=out,node-name=disk,name=far,writable=on",
    ]);
    let mut remote = Process::start(command, dir.run("quorum-2.log"))?;
    remote.wait("QEMU opens its port", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    })?;

    let mut command = daemon(near);
    command.arg("--blockdev").arg(format!(
        "driver=nbd,node-name=far,server.type=inet,server.host=127.0.0.1,server.port={port},export=far,cache.direct=on"
    ));
    command.args([
        "--blockdev",
        "driver=quorum,node-name=mirror,vote-threshold=2,children.0=disk,children.1=far",
    ]);
    let socket = dir.run("quorum.sock");
    export_unix(&mut command, &socket, "mirror");
    let mut local = Process::start(command, dir.run("quorum-1.log"))?;
    local.wait("QEMU opens its socket", || socket.exists())?;
    let mut mirror = contender(MIRROR, dir, "quorum.sock", size, vec![local, remote]);
    mirror.stores = stores;
    Ok(mirror)
}
