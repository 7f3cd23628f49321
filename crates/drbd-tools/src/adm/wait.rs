//! Waiting for connections: `wait-connect`, `wait-sync` and the dialog of `wait-con-int` while a system boots ("Command line
//! tools", section 5).

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use drbd_config::model::Resource;
use drbd_config::options::Group;

use super::Adm;
use super::calls::{option_words, peer_id, setup, words};
use super::cli::Passed;
use super::helper::Call;
use super::select::Target;

/// Seconds before somebody is asked.
const PATIENCE: u64 = 10;
/// Ends of input that count as an answer.
const ENOUGH: u32 = 3;

impl Adm {
    /// The startup options for waiting commands.
    fn wait_words(&self, resource: &Resource) -> Vec<String> {
        let sections = &resource.sections;
        if resource.stacked && !sections.stacked_timeouts {
            let interval = Group::Net.find("connect-int").and_then(|def| {
                sections.net.text(def.name)?;
                sections.net.value(def).as_number()
            });
            let timeout = interval.map_or(20, |seconds| seconds * 2);
            return vec!["--wfc-timeout".to_owned(), timeout.to_string()];
        }
        let mut args = option_words(&sections.startup, &[], self.given());
        args.extend(self.given().iter().map(Passed::word));
        args
    }

    fn wait_resource(&self, resource: &Resource, what: &str) -> Call {
        let mut args = words([&format!("{what}-resource"), &resource.name]);
        args.extend(self.wait_words(resource));
        setup(resource, args)
    }

    pub(super) fn wait(&self, target: &Target, resource: &Resource) -> i32 {
        let what = self.command.name;
        let Some(connection) = target.connection.and_then(|i| resource.connections.get(i)) else {
            return self.call(&self.wait_resource(resource, what));
        };
        let id = peer_id(resource, connection);
        let mut args = match target.volume {
            Some(v) => words([
                &format!("{what}-volume"),
                &resource.name,
                &id,
                &v.to_string(),
            ]),
            None => words([&format!("{what}-connection"), &resource.name, &id]),
        };
        args.extend(self.wait_words(resource));
        self.call(&setup(resource, args))
    }

    /// `wait-con-int`: waits for all resources at the same time. It always succeeds, so that booting goes on.
    pub(super) fn wait_for_all(&self) -> i32 {
        let resources = self
            .config
            .resources
            .iter()
            .filter(|r| !r.ignored && r.stacked == self.invocation.stacked);
        let calls: Vec<Call> = resources
            .map(|r| self.wait_resource(r, "wait-connect"))
            .collect();
        if self.invocation.dry_run {
            self.calls(&calls);
            return 0;
        }
        let mut children: Vec<Child> = calls
            .iter()
            .filter_map(|c| self.helpers.spawn(c, false).ok())
            .collect();
        let refresh = self.config.global.dialog_refresh.unwrap_or(1);
        match console() {
            Some(console) => dialog(&mut children, console, refresh.into()),
            None => children.iter_mut().for_each(|c| drop(c.wait())),
        }
        0
    }
}

/// Where somebody may sit: the terminal, or the console of the system.
fn console() -> Option<File> {
    let both = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let name = if both { "/dev/tty" } else { "/dev/console" };
    File::options().read(true).write(true).open(name).ok()
}

/// Lines that are typed; an empty one stands for the end of the input.
fn lines(console: &File) -> Option<Receiver<String>> {
    let input = console.try_clone().ok()?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut input = BufReader::new(input);
        let mut ends = 0;
        while ends < ENOUGH {
            let mut line = String::new();
            match input.read_line(&mut line) {
                Ok(0) => ends += 1,
                Ok(_) => ends = 0,
                Err(_) => return,
            }
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    Some(receiver)
}

/// Waits for the children and lets people end that.
fn dialog(children: &mut Vec<Child>, mut console: File, refresh: u64) {
    let typed = lines(&console);
    let start = Instant::now();
    let (mut dots, mut asked, mut ends) = (0, None, 0);
    loop {
        children.retain_mut(|c| matches!(c.try_wait(), Ok(None)));
        if children.is_empty() {
            if dots > 0 {
                let _ = writeln!(console);
            }
            return;
        }
        let seconds = start.elapsed().as_secs();
        if seconds < PATIENCE {
            if seconds > dots {
                dots = seconds;
                let _ = console.write_all(b".");
            }
        } else {
            let due = asked.is_none_or(|at| refresh > 0 && seconds >= at + refresh);
            if asked.is_none() {
                let _ = console.write_all(
                    b"\nWaiting for the peers of this node. The limits are those of the 'startup' sections;\n\
                      without one this goes on until they are there.\n",
                );
            }
            if due {
                asked = Some(seconds);
                let _ = write!(console, "\rTo abort waiting enter 'yes' [{seconds:4}]: ");
            }
        }
        let line = typed
            .as_ref()
            .and_then(|t| t.recv_timeout(Duration::from_millis(100)).ok());
        match line.as_deref() {
            None => std::thread::sleep(Duration::from_millis(50)),
            Some("") => {
                ends += 1;
                if ends >= ENOUGH {
                    break;
                }
            }
            Some(line) if line.trim() == "yes" => break,
            Some(_) => ends = 0,
        }
    }
    for child in children {
        let _ = child.kill();
        let _ = child.wait();
    }
}
