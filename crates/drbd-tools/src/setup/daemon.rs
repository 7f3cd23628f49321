//! Starting the daemon on demand.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use drbd_control::client::Client;

/// How long the daemon may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// The daemon beside this program, or the one that `PATH` has.
fn program() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|me| {
        let me = me.canonicalize().unwrap_or(me);
        Some(me.parent()?.join("drbdd"))
    });
    beside
        .filter(|path| path.exists())
        .unwrap_or_else(|| "drbdd".into())
}

/// Starts the daemon and waits until it answers. It logs into a file beside its socket.
pub(super) fn start(socket: &Path) -> Result<Client, String> {
    let directory = socket
        .parent()
        .filter(|d| !d.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let log = socket.with_extension("log");
    let output: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|e| format!("{}: {e}", log.display()))?;
    let program = program();
    // Its own group: what interrupts this program is not meant for the daemon.
    let mut child = Command::new(&program)
        .arg("--control")
        .arg(socket)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .spawn()
        .map_err(|e| format!("cannot start {}: {e}", program.display()))?;
    let end = Instant::now() + LIMIT;
    loop {
        if let Ok(client) = Client::connect(socket) {
            return Ok(client);
        }
        match child.try_wait() {
            // Another one may have been faster.
            Ok(Some(status)) => {
                return Client::connect(socket).map_err(|_| {
                    format!(
                        "{} ended at once ({status}); its log is {}",
                        program.display(),
                        log.display()
                    )
                });
            }
            _ if Instant::now() >= end => {
                return Err(format!(
                    "{} does not answer; its log is {}",
                    program.display(),
                    log.display()
                ));
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
