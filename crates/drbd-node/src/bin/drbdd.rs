//! The DRBD daemon. Its configuration comes through `drbdsetup`; it runs in the foreground and logs to stderr or the journal.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use drbd_node::control::{self, server::Server};
use drbd_node::frontend;
use drbd_node::frontend::choose::{Choice, Frontends};
use drbd_node::frontend::nbd::address::Address;
use drbd_node::log::{self, LogTo};
use drbd_node::node::{Node, Settings};
use drbd_node::reactor::{Helper, make_engine};
use drbd_node::signals::EndSignals;

/// How long the end may take.
const END_LIMIT: Duration = Duration::from_secs(8);

/// The DRBD daemon: replicates block devices to other machines.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The socket for drbdsetup.
    #[arg(long, value_name = "PATH", env = "DRBD_CONTROL")]
    control: Option<PathBuf>,
    /// A group, by name or number, whose members may use the control socket; else only root may.
    #[arg(long, value_name = "GROUP", env = "DRBD_GROUP")]
    group: Option<String>,
    /// Directory for what the daemon needs while it runs; by default that of the control socket.
    #[arg(long, value_name = "DIR", env = "DRBD_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// How volumes are offered: ublk or loop as a block device, fuse as a file, nbd to QEMU and libnbd, none not at all; auto
    /// takes the best that works here.
    #[arg(
        long,
        alias = "frontends",
        value_name = "KIND",
        env = "DRBD_FRONTEND",
        default_value = "auto"
    )]
    frontend: Choice,
    /// An NBD server besides, at unix:PATH or tcp:ADDRESS[:PORT]. With `--frontend nbd` by default at unix:RUN_DIR/nbd.sock.
    #[arg(long, value_name = "ADDRESS", env = "DRBD_NBD", value_delimiter = ',')]
    nbd: Vec<Address>,
    /// The program called for handlers, or `disabled`.
    #[arg(
        long,
        value_name = "PROGRAM",
        env = "DRBD_USERMODE_HELPER",
        default_value = "disabled"
    )]
    usermode_helper: String,
    /// How many volumes may be resynced or verified at a time; 0: no limit.
    #[arg(
        long,
        value_name = "COUNT",
        env = "DRBD_MAX_PARALLEL_RESYNCS",
        default_value_t = 0
    )]
    max_parallel_resyncs: usize,
    /// Allow names of resources and connections with other characters than letters, digits and `+-._`.
    #[arg(long, env = "DRBD_LAX_NAMES", value_parser = clap::builder::BoolishValueParser::new())]
    lax_names: bool,
    /// Where log lines go: stderr, journal, or auto, which is the journal if that is where stderr leads. DRBD_LOG says what is logged,
    /// by default `info`.
    #[arg(
        long,
        value_name = "WHERE",
        env = "DRBD_LOG_TO",
        default_value = "auto"
    )]
    log_to: LogTo,
    /// Memory for the data of one resource, in MiB.
    #[arg(long, value_name = "MIB", env = "DRBD_MEMORY", default_value_t = 128)]
    memory: usize,
}

fn main() -> ExitCode {
    // Before any thread exists.
    let signals = EndSignals::hold_back();
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("DRBD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    if let Err(e) = log::start(arguments.log_to, filter) {
        eprintln!("drbdd: cannot log: {e}");
        return ExitCode::FAILURE;
    }
    let result = signals.map_err(|e| format!("cannot hold back signals: {e}"));
    match result.and_then(|signals| run(arguments, &signals)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments, signals: &EndSignals) -> Result<(), String> {
    let control = arguments
        .control
        .clone()
        .unwrap_or_else(control::default_path);
    let directory = control
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_owned);
    let run_dir = arguments.run_dir.clone().unwrap_or(directory);
    let server = Server::bind(&control).map_err(|e| e.to_string())?;
    if let Some(group) = &arguments.group {
        server
            .admit_group(group)
            .map_err(|e| format!("control socket for group {group}: {e}"))?;
    }
    std::fs::create_dir_all(&run_dir).map_err(|e| format!("{}: {e}", run_dir.display()))?;
    // Links below /dev are for the one daemon of the system.
    let system = rustix::process::geteuid().is_root() && run_dir == Path::new("/run/drbd");
    let frontends = Frontends::new(&frontend::choose::Settings {
        choice: arguments.frontend,
        nbd: arguments.nbd,
        run_dir,
        system,
    })
    .map_err(|e| format!("frontend: {e}"))?;
    let program = Some(arguments.usermode_helper).filter(|name| name != "disabled");
    let node = Arc::new(Node::new(Settings {
        pool: arguments.memory << 20,
        helper: Helper {
            program: program.map(PathBuf::from),
            control: Some(control.clone()),
        },
        frontends: vec![Box::new(frontends)],
        make_core: Box::new(make_engine),
        max_parallel_resyncs: arguments.max_parallel_resyncs,
        lax_names: arguments.lax_names,
    }));
    tracing::info!(
        "drbdd: version {}, control socket {}",
        env!("CARGO_PKG_VERSION"),
        control.display()
    );
    let server = Arc::new(server);
    let thread = std::thread::Builder::new().name("drbd-listen".into());
    let (listener, its_node) = (server.clone(), node.clone());
    thread
        .spawn(move || listener.run(&its_node))
        .map_err(|e| format!("no thread: {e}"))?;
    let thread = std::thread::Builder::new().name("drbd-networks".into());
    let its_node = node.clone();
    thread
        .spawn(move || its_node.follow_networks())
        .map_err(|e| format!("no thread: {e}"))?;
    let signal = signals.wait();
    tracing::info!("drbdd: signal {signal}, going down");
    node.shut_down(END_LIMIT);
    // The listening thread ends with the process; the socket must not be found any more.
    let _ = std::fs::remove_file(server.path());
    Ok(())
}
