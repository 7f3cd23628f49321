//! A guest: a kernel with DRBD in a process, and a shell in it that does what it is told.
//!
//! Its root is the host's own file tree, read-only; a directory of the run is mounted at `/mnt`, where
//! scripts are handed in and their output and exit code come back. Over the console goes only which
//! script to run, and that it has ended.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use drbd_testkit::{Context, Error, Output, Place, Result, cleanup, spawn};
use rustix::process::{Pid, Signal, kill_process_group};

use super::{confine, emulated};

/// How long a guest may take to come up.
const BOOT: Duration = Duration::from_secs(60);
/// How long a guest has not begun with a script when it is told once more.
const AGAIN: Duration = Duration::from_secs(10);
/// How often it is looked whether a script has ended of which nothing was heard.
const LOOK: Duration = Duration::from_secs(1);

/// What guests are made of.
#[derive(Debug, Clone)]
pub(super) struct Image {
    /// The kernel, a program.
    pub(super) kernel: PathBuf,
    /// Modules in the order in which they are loaded.
    pub(super) modules: Vec<PathBuf>,
    /// The busybox of the packages.
    pub(super) busybox: PathBuf,
    /// Directories of programs, before those of the host.
    pub(super) path: Vec<PathBuf>,
    /// How it is run.
    pub(super) boot: Boot,
}

/// How a guest is run.
#[derive(Debug, Clone)]
pub(super) enum Boot {
    /// The kernel is a process.
    Process,
    /// In QEMU, whose processor is emulated.
    Emulated {
        /// The first file system.
        initrd: PathBuf,
    },
}

impl Boot {
    /// The guest's network device.
    pub(super) fn network(&self) -> &'static str {
        match self {
            Boot::Process => "vec0",
            Boot::Emulated { .. } => "eth0",
        }
    }

    /// The guest's first disk.
    pub(super) fn disk(&self) -> &'static str {
        match self {
            Boot::Process => "/dev/ubda",
            Boot::Emulated { .. } => "/dev/vda",
        }
    }
}

/// One guest as it is to be booted.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) name: String,
    /// Its address, with the length of the prefix.
    pub(super) address: String,
    /// The network device of the host that it is connected to.
    pub(super) tap: String,
    /// The last byte of its hardware address.
    pub(super) number: u8,
    /// Files that are its disks, `/dev/ubda` and so on.
    pub(super) disks: Vec<PathBuf>,
    /// Directory of the run that it sees at `/mnt`.
    pub(super) dir: PathBuf,
}

/// A running guest.
pub(super) struct Guest {
    machine: Machine,
    child: Child,
    console: Mutex<Console>,
}

struct Console {
    input: ChildStdin,
    lines: Receiver<String>,
    next: u32,
}

fn init_script(image: &Image, machine: &Machine) -> String {
    let mut script = format!("#!{} sh\n", image.busybox.display());
    let path: Vec<String> = image.path.iter().map(|p| p.display().to_string()).collect();
    let net = image.boot.network();
    let mounts = match image.boot {
        Boot::Process => format!(
            "$b mount -t proc proc /proc; $b mount -t sysfs sysfs /sys\n\
             $b mount -t devtmpfs dev /dev 2>/dev/null\n\
             $b mount -t hostfs none /mnt -o {}\n",
            machine.dir.display()
        ),
        Boot::Emulated { .. } => {
            "$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 run /mnt\n".to_owned()
        }
    };
    let _ = write!(
        script,
        "export PATH={}:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C\n\
         b={}\n\
         {mounts}\
         for d in /run /tmp /var/lib; do $b mount -t tmpfs tmpfs $d; done\n\
         $b mkdir -p /run/lock /run/drbd /var/lib/drbd /var/lock 2>/dev/null\n\
         $b hostname {}\n\
         ip link set lo up; ip addr add {} dev {net}; ip link set {net} gso_max_segs 1 gso_max_size 2000 up\n",
        path.join(":"),
        image.busybox.display(),
        machine.name,
        machine.address,
    );
    for module in &image.modules {
        let _ = writeln!(script, "$b insmod {}", module.display());
    }
    // Helpers are not what is tested, unless a scenario names one.
    script.push_str(
        "for p in /sys/module/drbd/parameters/usermode_helper; do echo disabled >$p; done\n\
         cd /mnt; echo @@ready\n\
         while read -r n; do\n\
         [ -e $n.cmd ] || continue\n\
         $b sh $n.cmd >$n.out 2>$n.err </dev/null\n\
         echo $? >$n.new; $b rm $n.cmd; $b mv $n.new $n.code; echo @@$n\n\
         done\n\
         $b poweroff -f\n",
    );
    script
}

fn as_process(image: &Image, machine: &Machine, init: &Path) -> Command {
    let mut command = Command::new(&image.kernel);
    command
        .args(["mem=192M", "root=/dev/root", "rootfstype=hostfs"])
        .args(["rootflags=/", "ro", "con=null", "con0=fd:0,fd:1", "quiet"])
        .arg(format!("init={}", init.display()))
        .arg(format!(
            "vec0:transport=tap,ifname={},depth=64,mac=02:00:00:00:00:{:02x}",
            machine.tap, machine.number
        ));
    for (i, disk) in machine.disks.iter().enumerate() {
        command.arg(format!("ubd{i}={}", disk.display()));
    }
    if confine::needed() {
        command.arg(confine::NO_AVX);
        confine::without_register_sets(&mut command);
    }
    command
}

fn in_qemu(image: &Image, machine: &Machine, init: &Path, initrd: &Path) -> Command {
    let mut command = Command::new(emulated::QEMU);
    command
        .args([
            "-machine",
            "q35",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
        ])
        .args(["-m", "512", "-display", "none", "-monitor", "none"])
        .args(["-serial", "stdio", "-no-reboot"])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(initrd)
        .arg("-append")
        .arg(format!(
            "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check next={}",
            init.display()
        ))
        .args([
            "-virtfs",
            "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap",
        ])
        .arg("-virtfs")
        .arg(format!(
            "local,path={},mount_tag=run,security_model=none",
            machine.dir.display()
        ))
        .arg("-netdev")
        .arg(format!(
            "tap,id=net,ifname={},script=no,downscript=no",
            machine.tap
        ))
        .arg("-device")
        .arg(format!(
            "virtio-net-pci,netdev=net,romfile=,mac=02:00:00:00:00:{:02x}",
            machine.number
        ));
    for disk in &machine.disks {
        command.arg("-drive").arg(format!(
            "file={},format=raw,if=virtio,cache=none,discard=unmap",
            disk.display()
        ));
    }
    command
}

impl Guest {
    /// Boots a guest in a network.
    ///
    /// # Errors
    /// When it does not come up; with what it said.
    pub(super) fn boot(image: &Image, machine: &Machine, net: &Arc<Place>) -> Result<Guest> {
        let init = machine.dir.join("init");
        std::fs::write(&init, init_script(image, machine)).context(init.display())?;
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&init, executable).context(init.display())?;
        let log = machine.dir.join("console.log");
        let log = File::options().append(true).create(true).open(log);
        let mut log = log.context("the log of the console")?;
        let mut command = match &image.boot {
            Boot::Process => as_process(image, machine, &init),
            Boot::Emulated { initrd } => in_qemu(image, machine, &init, initrd),
        };
        command
            .current_dir(&machine.dir)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().context("log")?);
        spawn::die_with_thread(&mut command);
        let child = net.run(move || command.spawn())?;
        let mut child = child.context(format!("cannot start {}", image.kernel.display()))?;
        cleanup::add_group(child.id());
        let input = child.stdin.take().context("the console has no input")?;
        let output = child.stdout.take().context("the console has no output")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { break };
                let _ = writeln!(log, "{line}");
                if let Some(at) = line.find("@@")
                    && send
                        .send(line.get(at + 2..).unwrap_or("").to_owned())
                        .is_err()
                {
                    break;
                }
            }
        });
        let guest = Guest {
            machine: machine.clone(),
            child,
            console: Mutex::new(Console {
                input,
                lines,
                next: 0,
            }),
        };
        let limit = match image.boot {
            Boot::Process => BOOT,
            Boot::Emulated { .. } => 3 * BOOT,
        };
        let ready = guest.lock()?.wait_for("ready", limit);
        let seconds = limit.as_secs();
        ready
            .map_err(|silence| match silence {
                Silence::Ended => Error::new("the guest has ended"),
                Silence::Lasting => Error::new(format!("no answer within {seconds} s")),
            })
            .context(format!("{} does not boot", machine.name))
            .map_err(|e| Error::new(format!("{e}\n{}", guest.log_tail(20))))?;
        Ok(guest)
    }

    fn lock(&self) -> Result<std::sync::MutexGuard<'_, Console>> {
        self.console.lock().context("the console is in use")
    }

    /// Runs a script in the guest.
    ///
    /// # Errors
    /// When the guest is gone, or does not get it done in time.
    pub(super) fn sh(&self, script: &str, limit: Duration) -> Result<Output> {
        let mut console = self.lock()?;
        let n = console.next;
        console.next += 1;
        let file = |kind: &str| self.machine.dir.join(format!("{n}.{kind}"));
        std::fs::write(file("cmd"), format!("{script}\n")).context("script")?;
        let name = &self.machine.name;
        let end = Instant::now() + limit;
        // The console may lose a line, in either direction, when the kernel has much to say.
        let mut told: Option<Instant> = None;
        while !file("code").exists() {
            let due = told.is_none_or(|at| at.elapsed() > AGAIN);
            if due && file("cmd").exists() {
                writeln!(console.input, "{n}").context(format!("{name}: console"))?;
                told = Some(Instant::now());
            }
            let left = end.saturating_duration_since(Instant::now());
            let said = console.wait_for(&n.to_string(), left.min(LOOK));
            if left.is_zero() || matches!(said, Err(Silence::Ended)) {
                let seconds = limit.as_secs();
                return Err(match said {
                    Err(Silence::Ended) => Error::new("the guest has ended"),
                    _ => Error::new(format!("no answer within {seconds} s")),
                })
                .context(format!("{name}: `{script}`"));
            }
        }
        let text = |kind: &str| {
            let bytes = std::fs::read(file(kind)).unwrap_or_default();
            let _ = std::fs::remove_file(file(kind));
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Ok(Output {
            line: script.to_owned(),
            code: text("code").trim().parse().ok(),
            stdout: text("out"),
            stderr: text("err"),
        })
    }

    /// Pulls the plug: what the guest's disks have is all that stays.
    pub(super) fn kill(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        cleanup::remove_group(self.child.id());
        let _ = self.child.wait();
    }

    /// The last lines of its kernel's log, or of its console if it does not answer.
    pub(super) fn log_tail(&self, lines: usize) -> String {
        let said = self.sh("dmesg | grep -v vector", Duration::from_secs(5));
        let text = match said {
            Ok(output) => output.stdout,
            Err(_) => console_log(&self.machine.dir),
        };
        let all: Vec<&str> = text.lines().collect();
        let last = all.get(all.len().saturating_sub(lines)..).unwrap_or(&[]);
        let name = &self.machine.name;
        format!("-- end of the log of {name}:\n{}\n", last.join("\n"))
    }
}

fn console_log(dir: &Path) -> String {
    let bytes = std::fs::read(dir.join("console.log")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Nothing came from the console.
enum Silence {
    /// For as long as it was waited.
    Lasting,
    /// And nothing will.
    Ended,
}

impl Console {
    /// Waits for a line that is this word.
    fn wait_for(&mut self, word: &str, limit: Duration) -> std::result::Result<(), Silence> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.trim() == word => return Ok(()),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Err(Silence::Lasting),
                Err(RecvTimeoutError::Disconnected) => return Err(Silence::Ended),
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}
