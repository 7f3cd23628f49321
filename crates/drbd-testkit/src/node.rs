//! One node: a daemon and the commands given to it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use drbd_node::frontend::nbd::address::Address;

use crate::volume::Volume;
use crate::wait::{SOON, until};
use crate::{
    Context, Error, Place, Result, Spaces, Status, Story, binaries, cleanup, loopdev, spawn,
};

/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(60);

/// What a command left.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line.
    pub line: String,
    /// Exit code; `None` if it was killed.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output of a command that must succeed.
    ///
    /// # Errors
    /// When it did not; with all that it said.
    pub fn ok(self) -> Result<String> {
        if self.code == Some(0) {
            return Ok(self.stdout);
        }
        let code = self
            .code
            .map_or_else(|| "a signal".to_owned(), |c| format!("exit code {c}"));
        let said = format!("{}{}", self.stdout, self.stderr);
        Err(Error::new(format!(
            "`{}` ended with {code}: {}",
            self.line,
            said.trim()
        )))
    }

    /// What a command said that must fail.
    ///
    /// # Errors
    /// When it succeeded.
    pub fn refused(self) -> Result<String> {
        if self.code == Some(0) {
            return Err(Error::new(format!(
                "`{}` should have been refused",
                self.line
            )));
        }
        Ok(format!("{}{}", self.stdout, self.stderr))
    }
}

/// A node of a cluster.
#[derive(Debug)]
pub struct Node {
    /// Its host name.
    pub name: String,
    /// Its node id, which is its index in the cluster as well.
    pub id: u8,
    pub(crate) place: Arc<Place>,
    /// For its configuration, sockets and log.
    pub(crate) dir: PathBuf,
    pub(crate) resource: String,
    pub(crate) story: Story,
    pub(crate) disks: Vec<PathBuf>,
    pub(crate) minors: Vec<u32>,
    daemon: Option<Child>,
    /// Further arguments of the daemon.
    arguments: Vec<String>,
}

impl Node {
    pub(crate) fn new(
        name: String,
        id: u8,
        place: Place,
        dir: PathBuf,
        resource: String,
        story: Story,
    ) -> Result<Node> {
        std::fs::create_dir_all(&dir).context(dir.display())?;
        Ok(Node {
            name,
            id,
            place: Arc::new(place),
            dir,
            resource,
            story,
            disks: Vec::new(),
            minors: Vec::new(),
            daemon: None,
            arguments: Vec::new(),
        })
    }

    /// A node that shares its resource with nodes of another kind. The caller writes its configuration.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn alone(
        name: &str,
        id: u8,
        place: Place,
        dir: PathBuf,
        resource: &str,
        disk: PathBuf,
        minor: u32,
    ) -> Result<Node> {
        let story = Story::BlockDevice;
        let mut node = Node::new(name.to_owned(), id, place, dir, resource.to_owned(), story)?;
        node.disks.push(disk);
        node.minors.push(minor);
        Ok(node)
    }

    /// Where its processes run.
    pub fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("drbd.conf")
    }

    /// A directory for anything else of this node.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// File or device that holds the data of a volume.
    pub fn disk(&self, volume: u16) -> &Path {
        self.disks
            .get(usize::from(volume))
            .map_or(Path::new(""), PathBuf::as_path)
    }

    /// Minor number of a volume.
    pub fn minor(&self, volume: u16) -> u32 {
        self.minors
            .get(usize::from(volume))
            .copied()
            .unwrap_or(u32::MAX)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("drbdd.sock")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("drbdd.log")
    }

    /// Address of its NBD server.
    pub fn nbd(&self) -> Address {
        Address::Unix(self.dir.join("nbd.sock"))
    }

    /// Changes the configuration file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn edit_config(&self, change: impl FnOnce(String) -> String) -> Result<()> {
        let path = self.config();
        let text = std::fs::read_to_string(&path).context(path.display())?;
        std::fs::write(&path, change(text)).context(path.display())
    }

    fn helper(&self) -> PathBuf {
        self.dir.join("helper")
    }

    /// Makes the program that the daemon calls for handlers: `drbdadm` with the node's configuration.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn make_helper(&self) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.helper();
        let name = match self.place.spaces() {
            Spaces::Shared => format!("__DRBD_NODE__={} ", self.name),
            Spaces::Own => String::new(),
        };
        let (adm, conf) = (binaries::program("drbdadm")?, self.config());
        let script = format!(
            "#!/bin/sh\n{name}exec {} -c {} \"$@\"\n",
            adm.display(),
            conf.display()
        );
        std::fs::write(&path, script).context(path.display())?;
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).context(path.display())
    }

    /// Further arguments of the daemon from its next start on.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// When it does not; with the end of its log.
    pub fn start(&mut self) -> Result<()> {
        let log = File::options().append(true).create(true).open(self.log());
        let log = log.context(self.log().display())?;
        let mut command = Command::new(binaries::program("drbdd")?);
        command
            .arg("--control")
            .arg(self.socket())
            .arg("--run-dir")
            .arg(self.dir.join("run"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("log")?)
            .stderr(log);
        if self.helper().exists() {
            command.arg("--usermode-helper").arg(self.helper());
        }
        match self.story {
            Story::BlockDevice => command.args(["--frontend", "auto"]),
            Story::Nbd => command
                .args(["--frontend", "nbd"])
                .arg("--nbd")
                .arg(self.nbd().to_string()),
        };
        command.args(&self.arguments);
        self.environment(&mut command);
        spawn::die_with_thread(&mut command);
        let child = self
            .place
            .run(move || command.spawn())?
            .context("cannot start drbdd")?;
        cleanup::add_process(child.id());
        self.daemon = Some(child);
        until(&format!("{}: drbdd answers", self.name), SOON, || {
            if let Some(status) = self
                .daemon
                .as_mut()
                .and_then(|d| d.try_wait().ok().flatten())
            {
                self.forget();
                return Err(Error::new(format!(
                    "{}: drbdd ended at once: {status}",
                    self.name
                )));
            }
            if !self.socket().exists() {
                return Ok(None);
            }
            Ok((self.drbdsetup(&["status"])?.code == Some(0)).then_some(()))
        })
        .map_err(|e| Error::new(format!("{e}\n{}", self.log_tail(20))))
    }

    fn environment(&self, command: &mut Command) {
        command.env("DRBD_CONTROL", self.socket());
        if self.place.spaces() == Spaces::Shared {
            command.env("__DRBD_NODE__", &self.name);
        }
    }

    /// Whether the daemon runs.
    pub fn is_running(&mut self) -> bool {
        self.daemon
            .as_mut()
            .is_some_and(|d| matches!(d.try_wait(), Ok(None)))
    }

    /// Process id of the daemon.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    fn forget(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            cleanup::remove_process(daemon.id());
            let _ = daemon.wait();
        }
    }

    /// Kills the daemon with SIGKILL, and takes away what it leaves in the kernel: a mounted file
    /// system on its device must be unmounted first, or lazily.
    pub fn kill(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
        }
        self.forget();
        loopdev::detach_below(&self.dir);
    }

    /// Ends the daemon with SIGTERM.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<()> {
        let Some(daemon) = &mut self.daemon else {
            return Ok(());
        };
        let pid = i32::try_from(daemon.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let ended = until(&format!("{}: drbdd ends", self.name), SOON, || {
            Ok(daemon.try_wait().context("wait")?.map(drop))
        });
        self.kill();
        ended
    }

    /// Runs a program in the place of this node.
    ///
    /// # Errors
    /// When it cannot be started, or does not end in time.
    pub fn run(&self, mut command: Command, limit: Duration) -> Result<Output> {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line = words
            .map(|w| w.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        self.environment(&mut command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        spawn::die_with_thread(&mut command);
        let started = self.place.run(move || command.spawn())?;
        let mut child = started.context(format!("cannot run `{line}`"))?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let out = std::thread::spawn(move || read(out));
        let err = std::thread::spawn(move || read(err));
        let ended = until(&format!("{}: `{line}` ends", self.name), limit, || {
            child.try_wait().context("wait")
        });
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let (stdout, stderr) = (
            out.join().unwrap_or_default(),
            err.join().unwrap_or_default(),
        );
        match ended {
            Ok(status) => Ok(Output {
                line,
                code: status.code(),
                stdout,
                stderr,
            }),
            Err(error) => Err(Error::new(format!("{error}; it said: {stdout}{stderr}"))),
        }
    }

    /// Starts a program of ours in the place of this node, with pipes for input and output. Whoever called ends it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, program: &str, args: &[&str]) -> Result<Child> {
        let mut command = Command::new(binaries::program(program)?);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        self.environment(&mut command);
        spawn::die_with_thread(&mut command);
        let started = self.place.run(move || command.spawn())?;
        started.context(format!("cannot run {program}"))
    }

    /// The daemon's log.
    pub fn whole_log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log()).unwrap_or_default()).into_owned()
    }

    /// Runs `drbdsetup`.
    ///
    /// # Errors
    /// When it cannot be run; its own failure is in the output.
    pub fn drbdsetup(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(binaries::program("drbdsetup")?);
        command.args(args);
        self.run(command, COMMAND)
    }

    /// Runs `drbdadm` with the node's configuration.
    ///
    /// # Errors
    /// When it cannot be run; its own failure is in the output.
    pub fn drbdadm(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(binaries::program("drbdadm")?);
        command.arg("-c").arg(self.config()).args(args);
        self.run(command, COMMAND)
    }

    /// Runs `drbdadm ACTION` for the cluster's resource, which must succeed.
    ///
    /// # Errors
    /// When it did not.
    pub fn adm(&self, action: &str) -> Result<String> {
        self.adm_with(action, &[])
    }

    /// Runs `drbdadm ACTION` with options for the cluster's resource, which must succeed.
    ///
    /// # Errors
    /// When it did not.
    pub fn adm_with(&self, action: &str, options: &[&str]) -> Result<String> {
        let args: Vec<&str> = [action]
            .into_iter()
            .chain(options.iter().copied())
            .chain([&*self.resource])
            .collect();
        self.drbdadm(&args)?.ok().context(&self.name)
    }

    /// Runs `drbdadm secondary`. The daemon notices a moment later that a client has closed the device.
    ///
    /// # Errors
    /// When it is refused for another reason, or somebody keeps the device open.
    pub fn demote(&self) -> Result<()> {
        until("the device is closed", Duration::from_secs(10), || {
            let output = self.drbdadm(&["secondary", &self.resource])?;
            if output.code != Some(0) && output.stderr.contains("held open") {
                return Ok(None);
            }
            output.ok().context(&self.name).map(|_| Some(()))
        })
    }

    /// Runs `drbdmeta MINOR v09 DISK internal` on a disk of this node.
    ///
    /// # Errors
    /// When it cannot be run; its own failure is in the output.
    pub fn drbdmeta(&self, volume: u16, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(binaries::program("drbdmeta")?);
        command
            .arg(self.minor(volume).to_string())
            .arg("v09")
            .arg(self.disk(volume))
            .arg("internal")
            .args(args);
        self.run(command, COMMAND)
    }

    /// State of the cluster's resource.
    ///
    /// # Errors
    /// When the daemon does not know it.
    pub fn status(&self) -> Result<Status> {
        let args = ["status", "--json", "--statistics"];
        let text = self.drbdsetup(&args)?.ok().context(&self.name)?;
        Status::parse(&text, &self.resource).context(&self.name)
    }

    /// Waits for a state of the cluster's resource.
    ///
    /// # Errors
    /// When it does not come in time; with the state there is instead.
    pub fn wait(
        &self,
        what: &str,
        limit: Duration,
        is: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let mut last = None;
        let waited = until(&format!("{}: {what}", self.name), limit, || {
            let status = self.status()?;
            let found = is(&status).then(|| status.clone());
            last = Some(status);
            Ok(found)
        });
        waited.map_err(|e| {
            let state = self.drbdsetup(&["status", "--verbose", "--statistics"]);
            let state = state.map_or_else(|e| e.to_string(), |o| o.stdout);
            Error::new(format!("{e}; it is now:\n{state}{}", self.log_tail(15)))
        })
    }

    /// The block device of a volume, as its link names it.
    pub fn device(&self, volume: u16) -> PathBuf {
        self.device_of(&self.resource, volume)
    }

    fn device_of(&self, resource: &str, volume: u16) -> PathBuf {
        self.dir.join(format!("run/by-res/{resource}/{volume}"))
    }

    /// Opens a volume for reading and writing, past all caches.
    ///
    /// # Errors
    /// When the node does not let us.
    pub fn open(&self, volume: u16) -> Result<Volume> {
        self.open_volume(&self.resource, volume)
    }

    /// Opens a volume of any resource on this node.
    ///
    /// # Errors
    /// When the node does not let us.
    pub fn open_volume(&self, resource: &str, volume: u16) -> Result<Volume> {
        let what = format!("{}: cannot open {resource}/{volume}", self.name);
        match self.story {
            Story::BlockDevice => {
                let path = self.device_of(resource, volume);
                self.place.run(move || Volume::device(&path))?.context(what)
            }
            Story::Nbd => {
                let export = format!("{resource}/{volume}");
                Volume::nbd(&self.nbd(), &export).context(what)
            }
        }
    }

    /// The last lines of the daemon's log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        let last = all.get(all.len().saturating_sub(lines)..).unwrap_or(&[]);
        if last.is_empty() {
            return format!("-- {}: drbdd logged nothing", self.name);
        }
        format!("-- end of the log of {}:\n{}\n", self.name, last.join("\n"))
    }

    /// Whether the daemon's log has a line with this text.
    pub fn logged(&self, text: &str) -> bool {
        std::fs::read(self.log()).is_ok_and(|log| String::from_utf8_lossy(&log).contains(text))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads a pipe to its end, but not without bounds.
fn read(pipe: Option<impl std::io::Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = std::io::Read::by_ref(&mut pipe)
            .take(16 << 20)
            .read_to_end(&mut bytes);
        let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

use std::io::Read as _;
