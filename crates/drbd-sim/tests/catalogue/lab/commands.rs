//! What an administrator says.

use drbd_engine::command::{Command, Reply, RetCode};
use drbd_engine::options::{NetOptions, ResourceOptions};
use drbd_proto::{ConnState, DiskState, Role};
use drbd_sim::cluster::node_id;

use super::Is::*;
use super::{Lab, vol};

impl Lab {
    /// Gives a command and waits for the answer, whatever it is.
    #[track_caller]
    pub fn ask(&mut self, n: usize, command: Command) -> Reply {
        match self.c.ask(n, command) {
            Ok(reply) => reply,
            Err(e) => self.panic(&e),
        }
    }

    /// Gives a command that has to succeed.
    #[track_caller]
    pub fn ok(&mut self, n: usize, command: Command) {
        let text = format!("{command:?}");
        let reply = self.ask(n, command);
        if !reply.is_ok() {
            self.panic(&format!("node {n}: {text}: {reply:?}"));
        }
    }

    /// Gives a command that has to be refused with this code.
    #[track_caller]
    pub fn refuses(&mut self, n: usize, command: Command, code: RetCode) {
        let text = format!("{command:?}");
        let reply = self.ask(n, command);
        if reply.code != code {
            self.panic(&format!("node {n}: {text}: {reply:?}, not {code:?}"));
        }
    }

    /// Gives commands to several nodes at once; their answers.
    #[track_caller]
    pub fn at_once(&mut self, commands: impl IntoIterator<Item = (usize, Command)>) -> Vec<Reply> {
        let given: Vec<(usize, u64)> = commands
            .into_iter()
            .map(|(n, command)| (n, self.c.command(n, command)))
            .collect();
        self.wait_until("answers", |c| {
            given
                .iter()
                .all(|(n, id)| c.nodes[*n].replies.contains_key(id))
        });
        given
            .into_iter()
            .filter_map(|(n, id)| self.c.take_reply(n, id))
            .collect()
    }

    /// Gives a command without waiting; see [`Lab::reply`].
    pub fn begin(&mut self, n: usize, command: Command) -> u64 {
        self.c.command(n, command)
    }

    /// The answer to a command given before.
    #[track_caller]
    pub fn reply(&mut self, n: usize, id: u64) -> Reply {
        self.wait_until(&format!("an answer of node {n}"), |c| {
            c.nodes[n].replies.contains_key(&id)
        });
        match self.c.take_reply(n, id) {
            Some(reply) => reply,
            None => self.panic("the answer is gone"),
        }
    }

    /// Whether a command given before is still to be answered.
    pub fn unanswered(&self, n: usize, id: u64) -> bool {
        self.c.nodes[n].commands_waiting(id)
    }

    #[track_caller]
    pub fn primary(&mut self, n: usize) {
        self.ok(n, Command::Primary { force: false });
        self.expect(n, Am(Role::Primary));
    }

    #[track_caller]
    pub fn force_primary(&mut self, n: usize) {
        self.ok(n, Command::Primary { force: true });
        self.expect(n, Am(Role::Primary));
    }

    #[track_caller]
    pub fn no_primary(&mut self, n: usize, code: RetCode) {
        self.refuses(n, Command::Primary { force: false }, code);
    }

    #[track_caller]
    pub fn secondary(&mut self, n: usize) {
        self.ok(n, Command::Secondary { force: false });
        self.expect(n, Am(Role::Secondary));
    }

    pub fn disconnect_command(&self, p: usize) -> Command {
        let peer = node_id(p);
        Command::Disconnect { peer, force: false }
    }

    /// Node n disconnects from p and does not want it back.
    #[track_caller]
    pub fn disconnect(&mut self, n: usize, p: usize) {
        self.ok(n, self.disconnect_command(p));
        self.links.remove(&(n.min(p), n.max(p)));
    }

    /// Both ends want to be connected from now on.
    #[track_caller]
    pub fn connect_begin(&mut self, n: usize, p: usize) {
        self.links.insert((n.min(p), n.max(p)));
        for (x, y) in [(n, p), (p, n)] {
            if self.c.nodes[x].up() && self.c.connection(x, y) == ConnState::StandAlone {
                self.ok(x, self.c.connect_command(y));
            }
        }
    }

    /// Both ends want to be connected, and get connected.
    #[track_caller]
    pub fn connect(&mut self, n: usize, p: usize) {
        self.connect_begin(n, p);
        self.wait(n, Conn(p, ConnState::Connected));
        self.wait(p, Conn(n, ConnState::Connected));
    }

    /// Node n connects to p and gives up what it wrote on its own.
    #[track_caller]
    pub fn connect_discarding(&mut self, n: usize, p: usize) {
        self.links.insert((n.min(p), n.max(p)));
        let command = Command::Connect {
            peer: node_id(p),
            discard_my_data: true,
            tentative: false,
        };
        self.ok(n, command);
        if self.c.connection(p, n) == ConnState::StandAlone {
            self.ok(p, self.c.connect_command(n));
        }
    }

    #[track_caller]
    pub fn attach(&mut self, n: usize) {
        self.attach_volume(n, 0);
    }

    #[track_caller]
    pub fn attach_volume(&mut self, n: usize, v: usize) {
        self.ok(n, self.c.attach_command(n, v));
    }

    pub fn detach_command(&self, v: usize) -> Command {
        Command::Detach {
            volume: vol(v),
            force: false,
            diskless: false,
        }
    }

    #[track_caller]
    pub fn detach(&mut self, n: usize) {
        self.ok(n, self.detach_command(0));
        self.expect(n, Disk(DiskState::Diskless));
    }

    /// The resource is taken down on a node.
    #[track_caller]
    pub fn down(&mut self, n: usize) {
        self.ok(n, Command::Down);
        self.c.crash(n, false);
    }

    pub fn new_current_uuid(&self, v: usize, clear_bitmap: bool, force_resync: bool) -> Command {
        Command::NewCurrentUuid {
            volume: vol(v),
            clear_bitmap,
            force_resync,
        }
    }

    /// `new-current-uuid --clear-bitmap`, after which everybody is UpToDate.
    #[track_caller]
    pub fn skip_initial_sync(&mut self, n: usize) {
        for v in 0..self.volumes {
            self.ok(n, self.new_current_uuid(v, true, false));
        }
        self.healthy();
    }

    /// Changes options of the resource on a node.
    #[track_caller]
    pub fn resource_options(&mut self, n: usize, change: impl FnOnce(&mut ResourceOptions)) {
        let mut options = self.c.config.resource.clone();
        change(&mut options);
        self.ok(n, Command::ResourceOptions { options });
    }

    /// Changes options of a connection on a node.
    #[track_caller]
    pub fn net_options(&mut self, n: usize, p: usize, change: impl FnOnce(&mut NetOptions)) {
        let mut options = self.c.config.net_options(n, p);
        change(&mut options);
        let peer = node_id(p);
        self.ok(n, Command::NetOptions { peer, options });
    }

    /// Pauses the resync with a peer on a node, or lets it go on.
    #[track_caller]
    pub fn pause_sync(&mut self, n: usize, p: usize, pause: bool) {
        let (peer, volume) = (node_id(p), vol(0));
        let command = match pause {
            true => Command::PauseSync { peer, volume },
            false => Command::ResumeSync { peer, volume },
        };
        self.ok(n, command);
    }
}
