//! `qemu-storage-daemon` as a mirror and as a plain export.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use drbd_node::frontend::nbd::address::Address;

use super::Contender;
use super::files::WorkDir;
use super::process::{Process, free_port};

const PROGRAM: &str = "qemu-storage-daemon";

/// How the two halves of the mirror are connected. None of them is best everywhere, so all are measured.
#[derive(Clone, Copy)]
pub(super) struct Link {
    /// Its name in the table.
    pub(super) name: &'static str,
    /// Of its files and sockets.
    key: &'static str,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Tcp,
    TcpWithoutDelay,
    Unix,
}

/// What QEMU's mirrors are called, in the beginning.
const MIRROR: &str = "QEMU mirror";

/// All of them.
pub(super) const LINKS: [Link; 3] = [
    // QEMU's NBD server leaves Nagle's algorithm on (7.2 at least): an answer waits until the one before is
    // acknowledged, which the other side delays by 40 ms when it has nothing to send.
    Link {
        name: "QEMU mirror, TCP",
        key: "tcp",
        how: How::Tcp,
    },
    // It has no option for that, but connections get TCP_NODELAY from the socket that they were accepted on.
    Link {
        name: "QEMU mirror, TCP_NODELAY",
        key: "nodelay",
        how: How::TcpWithoutDelay,
    },
    // Not what connects two machines, but what an NBD child costs least with.
    Link {
        name: "QEMU mirror, Unix socket",
        key: "unix",
        how: How::Unix,
    },
];

/// Whether a contender is one whose halves are connected by TCP, as ours are.
pub(super) fn is_tcp_mirror(name: &str) -> bool {
    LINKS.iter().any(|l| l.name == name && l.how != How::Unix)
}

/// Whether a contender is one of them.
pub(super) fn is_mirror(name: &str) -> bool {
    name.starts_with(MIRROR)
}

/// One file.
pub(super) const PLAIN: &str = "QEMU, one file (no mirror)";

/// Two files, each by itself: what the disk below both can do.
pub(super) const PAIR: &str = "two files, nothing between";

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
        second: None,
        runs: Vec::new(),
    }
}

/// One file.
pub(super) fn start_plain(dir: &WorkDir, size: u64) -> Result<Contender, String> {
    let process = export_file(dir, size, "plain")?;
    Ok(contender(PLAIN, dir, "plain.sock", size, vec![process]))
}

/// Two files, each with a daemon of its own.
pub(super) fn start_pair(dir: &WorkDir, size: u64) -> Result<Contender, String> {
    let processes = vec![
        export_file(dir, size, "pair-1")?,
        export_file(dir, size, "pair-2")?,
    ];
    let mut pair = contender(PAIR, dir, "pair-1.sock", size, processes);
    pair.second = Some(Address::Unix(dir.run("pair-2.sock")));
    Ok(pair)
}

fn export_file(dir: &WorkDir, size: u64, name: &str) -> Result<Process, String> {
    let mut command = daemon(&dir.disk(&format!("{name}.img"), size)?);
    let socket = dir.run(&format!("{name}.sock"));
    export_unix(&mut command, &socket, "disk");
    let mut process = Process::start(command, dir.run(&format!("{name}.log")))?;
    process.wait("QEMU opens its socket", || socket.exists())?;
    Ok(process)
}

/// Makes the far half listen. What is returned has to be kept until its process runs.
fn listen(
    command: &mut Command,
    dir: &WorkDir,
    link: &Link,
) -> Result<(String, Option<TcpListener>), String> {
    let key = link.key;
    match link.how {
        How::Tcp => {
            let port = free_port()?;
            command.arg("--nbd-server").arg(format!(
                "addr.type=inet,addr.host=127.0.0.1,addr.port={port}"
            ));
            Ok((tcp(port), None))
        }
        How::TcpWithoutDelay => {
            let listener = inherited_listener().map_err(|e| format!("a port: {e}"))?;
            let port = listener.local_addr().map_err(|e| e.to_string())?.port();
            let fd = listener.as_raw_fd();
            command
                .arg("--nbd-server")
                .arg(format!("addr.type=fd,addr.str={fd}"));
            Ok((tcp(port), Some(listener)))
        }
        How::Unix => {
            let path = dir.run(&format!("quorum-{key}-far.sock"));
            let path = path.display();
            command
                .arg("--nbd-server")
                .arg(format!("addr.type=unix,addr.path={path}"));
            Ok((format!("server.type=unix,server.path={path}"), None))
        }
    }
}

fn tcp(port: u16) -> String {
    format!("server.type=inet,server.host=127.0.0.1,server.port={port}")
}

/// A port whose connections send at once, for programs that are started.
fn inherited_listener() -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty())?;
    Ok(listener)
}

/// A quorum that needs both of its children: a file, and the export of a file by another daemon.
pub(super) fn start_mirror(dir: &WorkDir, size: u64, link: &Link) -> Result<Contender, String> {
    let key = link.key;
    let stores = vec![
        dir.disk(&format!("quorum-{key}-1.img"), size)?,
        dir.disk(&format!("quorum-{key}-2.img"), size)?,
    ];
    let [near, far] = stores.as_slice() else {
        return Err("two files are two".into());
    };
    let mut command = daemon(far);
    let (server, listener) = listen(&mut command, dir, link)?;
    command.args([
        "--export",
        "type=nbd,id=out,node-name=disk,name=far,writable=on",
    ]);
    let pid_file = dir.run(&format!("quorum-{key}-2.pid"));
    command.arg("--pidfile").arg(&pid_file);
    let mut remote = Process::start(command, dir.run(&format!("quorum-{key}-2.log")))?;
    drop(listener);
    // It is written when everything else is set up.
    remote.wait("QEMU comes up", || pid_file.exists())?;

    let mut command = daemon(near);
    command.arg("--blockdev").arg(format!(
        "driver=nbd,node-name=far,{server},export=far,cache.direct=on"
    ));
    command.args([
        "--blockdev",
        "driver=quorum,node-name=mirror,vote-threshold=2,children.0=disk,children.1=far",
    ]);
    let name = format!("quorum-{key}.sock");
    let socket = dir.run(&name);
    export_unix(&mut command, &socket, "mirror");
    let mut local = Process::start(command, dir.run(&format!("quorum-{key}-1.log")))?;
    local.wait("QEMU opens its socket", || socket.exists())?;
    let mut mirror = contender(link.name, dir, &name, size, vec![local, remote]);
    mirror.stores = stores;
    Ok(mirror)
}
