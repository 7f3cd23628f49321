//! A daemon that has the recorded objects, and answers questions about them on a control socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use drbd_control::protocol::{Answer, Config, Event, Request, Resource, VERSION};

/// What it has, and what it was asked for.
#[derive(Default)]
pub(crate) struct Objects {
    pub(crate) resources: Vec<Resource>,
    pub(crate) configs: Vec<Config>,
    /// Result code and further lines for every other command.
    pub(crate) code: i32,
    pub(crate) info: Vec<String>,
    /// What follows the snapshot of `events2`; then the connection stays open until the daemon is dropped.
    pub(crate) events: Vec<Event>,
    /// Commands with their arguments and options, as they came.
    pub(crate) asked: Vec<String>,
}

/// A daemon in a directory of its own.
pub(crate) struct Daemon {
    dir: tempfile::TempDir,
    objects: Arc<Mutex<Objects>>,
}

/// What a program left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit: i32,
}

impl Daemon {
    pub(crate) fn new(objects: Objects) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let objects = Arc::new(Mutex::new(objects));
        let shared = objects.clone();
        // It ends with the test.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = shared.clone();
                thread::spawn(move || serve(&shared, stream.unwrap()));
            }
        });
        Daemon { dir, objects }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it was asked for since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.objects.lock().unwrap().asked)
    }

    /// Runs `drbdsetup` with a command line, words separated by blanks.
    pub(crate) fn drbdsetup(&self, line: &str) -> Output {
        run(&self.socket(), line)
    }
}

/// Runs `drbdsetup` with a socket.
pub(crate) fn run(socket: &Path, line: &str) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_drbdsetup"))
        .args(line.split_whitespace())
        .env("DRBD_CONTROL", socket)
        .output()
        .unwrap();
    Output {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        exit: output.status.code().unwrap_or(-1),
    }
}

fn serve(objects: &Mutex<Objects>, mut stream: UnixStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    while let Some(Ok(line)) = lines.next() {
        let request: Request = serde_json::from_str(&line).unwrap();
        assert_eq!(request.version, VERSION);
        let mut all = objects.lock().unwrap();
        let mut said = vec![request.command.clone()];
        said.extend(request.arguments.clone());
        said.extend(request.options.iter().map(|(name, value)| match value {
            Some(value) => format!("--{name}={value}"),
            None => format!("--{name}"),
        }));
        all.asked.push(said.join(" "));
        let which = request.arguments.first().map_or("all", String::as_str);
        let wanted = |name: &str| which == "all" || which == name;
        let mut answers = Vec::new();
        let (mut code, mut info) = (101, Vec::new());
        let resources = all.resources.iter().filter(|r| wanted(&r.name)).cloned();
        match request.command.as_str() {
            "status" => answers.push(Answer::Status(resources.collect())),
            "show" => {
                let configs = all.configs.iter().filter(|c| wanted(&c.resource)).cloned();
                answers.push(Answer::Show(configs.collect()));
            }
            "events2" => {
                answers.extend(resources.map(|r| Answer::Event(Event::Snapshot(Box::new(r)))));
                answers.push(Answer::Event(Event::SnapshotsEnd));
                answers.extend(all.events.iter().cloned().map(Answer::Event));
            }
            _ => (code, info) = (all.code, all.info.clone()),
        }
        drop(all);
        if request.command != "events2" {
            answers.push(Answer::Reply { code, info });
        }
        for answer in answers {
            let mut line = serde_json::to_vec(&answer).unwrap();
            line.push(b'\n');
            // The client may have heard enough.
            let _ = stream.write_all(&line);
        }
    }
}
