//! Processes under test.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to come up, or to answer.
pub(super) const SOON: Duration = Duration::from_secs(20);
/// How long a process may take to end.
const END: Duration = Duration::from_secs(10);

/// Our programs.
pub(super) struct Programs {
    pub(super) drbdd: PathBuf,
    pub(super) drbdmeta: PathBuf,
}

/// Our programs, beside the running one; built in release mode if that is wanted.
pub(super) fn programs(build: bool) -> Result<Programs, String> {
    let exe = std::env::current_exe().map_err(|e| format!("where am I: {e}"))?;
    let dir = exe.parent().ok_or("the running program is nowhere")?;
    if !build {
        return Ok(Programs {
            drbdd: dir.join("drbdd"),
            drbdmeta: dir.join("drbdmeta"),
        });
    }
    let target = dir
        .parent()
        .ok_or("the running program is in no target directory")?;
    eprintln!("building drbdd and drbdmeta (release) ...");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--release", "--bins"])
        .args(["-p", "drbd-node", "-p", "drbd-tools", "--target-dir"])
        .arg(target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .status()
        .map_err(|e| format!("cargo cannot be started: {e}"))?;
    if !status.success() {
        return Err(format!(
            "cargo could not build drbdd and drbdmeta: {status}"
        ));
    }
    let release = target.join("release");
    Ok(Programs {
        drbdd: release.join("drbdd"),
        drbdmeta: release.join("drbdmeta"),
    })
}

/// A process that ends with the value, and with this program.
pub(super) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program whose output goes to a log.
    pub(super) fn start(mut command: Command, log: PathBuf) -> Result<Process, String> {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line = words
            .map(|w| w.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        let file = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let copy = file.try_clone().map_err(|e| e.to_string())?;
        command.stdin(Stdio::null()).stdout(file).stderr(copy);
        die_with_thread(&mut command);
        let child = command
            .spawn()
            .map_err(|e| format!("cannot run `{line}`: {e}"))?;
        Ok(Process { child, log })
    }

    /// Waits until the process has done what makes `ready` true.
    pub(super) fn wait(
        &mut self,
        what: &str,
        mut ready: impl FnMut() -> bool,
    ) -> Result<(), String> {
        let start = Instant::now();
        while !ready() {
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || start.elapsed() > SOON {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().rev().take(8).collect();
                let said = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
                let how = match ended {
                    Some(status) => format!("the process ended: {status}"),
                    None => format!("not within {SOON:?}"),
                };
                return Err(format!("{what}: {how}; its last words:\n{said}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// VmRSS in bytes.
    pub(super) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
            .map_or(0, |kib| kib << 10)
    }

    /// Processor time used until now.
    pub(super) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        // After the name, which may contain anything, come the third and all further fields.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|f| f.parse::<u64>().ok())
            .sum();
        let hertz = rustix::param::clock_ticks_per_second().max(1);
        Duration::from_millis(ticks.saturating_mul(1000) / hertz)
    }

    /// Ends it in order, and with force when that takes too long.
    pub(super) fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let start = Instant::now();
        while start.elapsed() < END {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A process that is started shall not outlive this one, even if this one is killed.
#[allow(unsafe_code)]
fn die_with_thread(command: &mut Command) {
    use std::os::unix::process::CommandExt as _;
    let hook = || {
        Ok(rustix::process::set_parent_process_death_signal(Some(
            Signal::KILL,
        ))?)
    };
    // SAFETY: between fork and exec the hook makes one system call; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(hook);
    }
}

/// A TCP port of the loopback address that nobody listens on.
pub(super) fn free_port() -> Result<u16, String> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0));
    listener
        .and_then(|l| l.local_addr())
        .map(|a| a.port())
        .map_err(|e| format!("no free port: {e}"))
}
