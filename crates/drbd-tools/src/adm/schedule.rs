//! Commands in stages across resources ("Command line tools", section 4.1).

use std::io::Write;

use super::helper::{Call, Helpers};

/// When a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    Resource,
    ResourceOptions,
    DiskDown,
    DiskUp,
    Disconnect,
    NetDown,
    NetUp,
    Paths,
    NetOptions,
    PeerDeviceOptions,
    Disk,
    Connect,
    Wait,
}

impl Stage {
    const ALL: [Stage; 13] = [
        Stage::Resource,
        Stage::ResourceOptions,
        Stage::DiskDown,
        Stage::DiskUp,
        Stage::Disconnect,
        Stage::NetDown,
        Stage::NetUp,
        Stage::Paths,
        Stage::NetOptions,
        Stage::PeerDeviceOptions,
        Stage::Disk,
        Stage::Connect,
        Stage::Wait,
    ];

    /// What people are told is being done.
    const fn label(self) -> &'static str {
        match self {
            Stage::Resource => "create res",
            Stage::ResourceOptions => "adjust res",
            Stage::DiskDown | Stage::DiskUp => "prepare disk",
            Stage::Disconnect | Stage::NetDown | Stage::NetUp | Stage::Paths => "prepare net",
            Stage::NetOptions => "adjust net",
            Stage::PeerDeviceOptions => "adjust peer_devices",
            Stage::Disk => "adjust disk",
            Stage::Connect => "attempt to connect",
            Stage::Wait => "wait",
        }
    }

    /// Without these, nothing further of the resource can work.
    fn is_essential(self) -> bool {
        matches!(
            self,
            Stage::Resource | Stage::DiskDown | Stage::DiskUp | Stage::NetDown | Stage::NetUp
        )
    }
}

/// What to do after a command was successful.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    /// Remember where the configuration of a resource is.
    RegisterResource(String),
    /// Remember where the configuration of a minor is.
    RegisterMinor(u32),
}

/// A scheduled command: calls that run until one fails.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) stage: Stage,
    /// Index of the resource.
    pub(super) resource: usize,
    pub(super) name: &'static str,
    pub(super) calls: Vec<Call>,
    pub(super) after: After,
    /// Index of a task that must run before this one.
    pub(super) needs: Option<usize>,
}

/// The commands of one run of the program.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    tasks: Vec<Task>,
}

impl Schedule {
    /// True if nothing is to be done.
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Number of commands.
    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Lets all commands from an index on wait for another one.
    pub(super) fn hold_back(&mut self, from: usize, needs: Option<usize>) {
        if needs.is_some() {
            self.tasks
                .iter_mut()
                .skip(from)
                .for_each(|t| t.needs = needs);
        }
    }

    /// Lets a command wait for the one scheduled just before it.
    pub(super) fn hold_back_last(&mut self, index: Option<usize>) {
        if let Some(index) = index
            && let Some(task) = self.tasks.get_mut(index)
        {
            task.needs = index.checked_sub(1);
        }
    }

    /// Appends a command and returns its index. Commands without calls are dropped.
    pub(super) fn add(
        &mut self,
        stage: Stage,
        resource: usize,
        name: &'static str,
        calls: Vec<Call>,
    ) -> Option<usize> {
        if calls.is_empty() {
            return None;
        }
        self.tasks.push(Task {
            stage,
            resource,
            name,
            calls,
            after: After::Nothing,
            needs: None,
        });
        Some(self.tasks.len() - 1)
    }

    /// The task of an index.
    pub(super) fn task(&mut self, index: Option<usize>) -> Option<&mut Task> {
        self.tasks.get_mut(index?)
    }

    /// Runs everything. `done` is told about every success that has consequences. With a display of the progress errors do
    /// not end the run.
    pub(super) fn run(
        mut self,
        helpers: &Helpers,
        mut progress: Option<Progress>,
        mut done: impl FnMut(&After),
    ) -> i32 {
        let mut state: Vec<Option<bool>> = vec![None; self.tasks.len()];
        let mut broken: Vec<usize> = Vec::new();
        let mut worst = 0;
        loop {
            let before = state.iter().filter(|s| s.is_none()).count();
            for stage in Stage::ALL {
                let mut failed = false;
                for (i, task) in self.tasks.iter_mut().enumerate() {
                    let ready = state.get(i).is_some_and(Option::is_none)
                        && task.stage == stage
                        && task
                            .needs
                            .is_none_or(|n| state.get(n).is_none_or(Option::is_some));
                    if !ready {
                        continue;
                    }
                    let skipped = broken.contains(&task.resource);
                    let code = match &mut progress {
                        Some(progress) => progress.task(task, skipped, helpers),
                        None if skipped => {
                            let resource = task.calls.first().map_or("", |c| &c.resource);
                            eprintln!(
                                "drbdadm: {} {resource}: skipped due to earlier error",
                                task.name
                            );
                            0
                        }
                        None => task.run(helpers),
                    };
                    if let Some(s) = state.get_mut(i) {
                        *s = Some(!skipped && code == 0);
                    }
                    if skipped {
                        continue;
                    }
                    if code == 0 {
                        done(&task.after);
                        continue;
                    }
                    failed = true;
                    if stage.is_essential() {
                        broken.push(task.resource);
                    }
                }
                if let Some(progress) = &mut progress {
                    progress.end_of_stage();
                }
                if failed {
                    worst = 1;
                    if progress.is_none() {
                        return 1;
                    }
                }
            }
            let left = state.iter().filter(|s| s.is_none()).count();
            if left == 0 || left == before {
                return worst;
            }
        }
    }
}

impl Task {
    /// Runs the calls until one fails.
    fn run(&self, helpers: &Helpers) -> i32 {
        self.calls
            .iter()
            .map(|call| helpers.run(call))
            .find(|code| *code != 0)
            .unwrap_or(0)
    }
}

/// The display of `adjust-with-progress` on standard output: a line for each stage with the resources that it concerns. What
/// the helpers say is not shown.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The line that is being written.
    stage: Option<Stage>,
    resource: Option<usize>,
}

impl Progress {
    /// Opens the frame.
    pub(super) fn new() -> Progress {
        show("[\n");
        Progress::default()
    }

    /// Closes the frame.
    pub(super) fn end() {
        show("]\n");
    }

    fn task(&mut self, task: &mut Task, skipped: bool, helpers: &Helpers) -> i32 {
        if self.stage != Some(task.stage) {
            self.stage = Some(task.stage);
            self.resource = None;
            show(&format!("{:>15}:", task.stage.label()));
        }
        let first = self.resource.replace(task.resource) != Some(task.resource);
        let name = task
            .calls
            .first()
            .map_or_else(String::new, |c| c.resource.clone());
        if skipped {
            if first {
                show(&format!(" [skipped:{name}]"));
            }
            return 0;
        }
        if first {
            show(&format!(" {name}"));
        }
        task.calls.iter_mut().for_each(|c| c.quiet = true);
        let code = task.run(helpers);
        if code != 0 {
            show(&format!(":failed({}:{code})", task.name));
        }
        code
    }

    fn end_of_stage(&mut self) {
        if self.stage.take().is_some() {
            show("\n");
        }
    }
}

/// Writes at once; a reader that went away does not matter.
fn show(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
