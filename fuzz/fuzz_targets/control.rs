//! The control protocol: any bytes, and commands with any arguments and options, go to a whole daemon over its socket. It
//! answers each complete line, and is there afterwards.
//!
//! Paths and addresses are replaced on the way: the commands are real, and would reach real disks and networks.
#![no_main]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use drbd_config::options::{COMMANDS, OptionDef};
use drbd_node::control::address;
use drbd_node::control::client::Client;
use drbd_node::control::protocol::{Answer, MAX_REQUEST, Request, VERSION};
use drbd_node::control::server::Server;
use drbd_node::node::{Node, Settings};
use drbd_node::reactor::{Helper, make_engine};
use drbd_tools::meta::run_with;
use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Line {
    /// Any bytes.
    Bytes(Vec<u8>),
    /// A command of the table with words that might fit.
    Fitting {
        command: u8,
        arguments: Vec<Word>,
        options: Vec<(u8, Option<Word>)>,
        set_defaults: bool,
    },
    /// Longer than is allowed.
    Long,
}

#[derive(Arbitrary, Debug)]
enum Word {
    Name(bool),
    Small(u8),
    Number(i64),
    Disk,
    Internal,
    Address(bool, u16),
    Text(String),
}

impl Word {
    fn text(&self) -> String {
        match self {
            Word::Name(first) => if *first { "r0" } else { "r1" }.to_owned(),
            Word::Small(n) => (n % 4).to_string(),
            Word::Number(n) => n.to_string(),
            Word::Disk => PLACE.disk.clone(),
            Word::Internal => "internal".to_owned(),
            Word::Address(six, port) if *six => format!("ipv6:[::1]:{port}"),
            Word::Address(_, port) => format!("ipv4:127.255.255.254:{port}"),
            Word::Text(text) => text.clone(),
        }
    }
}

struct Place {
    socket: PathBuf,
    disk: String,
    fresh: Vec<u8>,
}

/// A daemon for all inputs.
static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let name = format!("drbd-fuzz-control-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    let (socket, disk) = (directory.join("socket"), directory.join("disk"));
    let disk = disk.display().to_string();
    std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let var_lib = directory.display().to_string();
    let line = ["--force", "--var-lib-drbd", &var_lib, "-", "v09", &disk, "internal", "create-md", "3"];
    assert_eq!(run_with(line.map(str::to_owned), std::io::sink, std::io::sink), 0);
    let fresh = std::fs::read(&disk).unwrap();
    let node = Arc::new(Node::new(Settings {
        pool: 1 << 20,
        helper: Helper::default(),
        frontends: Vec::new(),
        make_core: Box::new(make_engine),
        max_parallel_resyncs: 0,
        lax_names: true,
    }));
    let server = Server::bind(&socket).unwrap();
    std::thread::spawn(move || server.run(&node));
    Place { socket, disk, fresh }
});

/// Nothing but our own disk, and nobody but this machine.
fn harmless(mut request: Request) -> Request {
    let safe = |text: &mut String| {
        if let Ok(found) = address::parse(text) {
            let host = if found.is_ipv6() { "ipv6:[::1]" } else { "ipv4:127.255.255.254" };
            *text = format!("{host}:{}", found.port());
        } else if text.contains(['/', '.']) {
            text.clone_from(&PLACE.disk);
        }
    };
    request.arguments.iter_mut().for_each(safe);
    request
        .options
        .iter_mut()
        .filter_map(|(_, value)| value.as_mut())
        .for_each(safe);
    if request.command == "attach" {
        for place in request.arguments.iter_mut().skip(1).take(2) {
            place.clone_from(&PLACE.disk);
        }
    }
    request
}

fn bytes(line: &Line) -> Vec<u8> {
    let request = match line {
        Line::Long => return vec![b' '; MAX_REQUEST + 1],
        Line::Bytes(bytes) => {
            let mut bytes = bytes.clone();
            bytes.retain(|b| *b != b'\n');
            match serde_json::from_slice::<Request>(&bytes) {
                Ok(request) => request,
                Err(_) => return bytes,
            }
        }
        Line::Fitting { command, arguments, options, set_defaults } => {
            let command = &COMMANDS[usize::from(*command) % COMMANDS.len()];
            let table: Vec<&OptionDef> = command.options().collect();
            let named = |(n, value): &(u8, Option<Word>)| {
                let def = table.get(usize::from(*n) % table.len().max(1))?;
                Some((def.name.to_owned(), value.as_ref().map(Word::text)))
            };
            Request {
                version: VERSION,
                command: command.name.to_owned(),
                arguments: arguments.iter().map(Word::text).collect(),
                options: options.iter().filter_map(named).collect(),
                set_defaults: *set_defaults,
            }
        }
    };
    serde_json::to_vec(&harmless(request)).unwrap()
}

fuzz_target!(|data: &[u8]| {
    // Text is lines as they are, for a corpus that can be read; anything else makes lines.
    let lines: Vec<Line> = if data.starts_with(b"{") {
        let lines = data.split(|b| *b == b'\n');
        lines.map(|line| Line::Bytes(line.to_vec())).collect()
    } else {
        Unstructured::new(data).arbitrary().unwrap_or_default()
    };
    let place = &*PLACE;
    std::fs::write(&place.disk, &place.fresh).unwrap();
    let stream = UnixStream::connect(&place.socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let (mut answers, mut stream) = (BufReader::new(stream.try_clone().unwrap()), stream);
    'lines: for line in lines.iter().take(24) {
        let mut bytes = bytes(line);
        bytes.push(b'\n');
        if stream.write_all(&bytes).is_err() {
            break;
        }
        loop {
            let mut text = String::new();
            match answers.read_line(&mut text) {
                // What is too long ends the connection.
                Ok(0) | Err(_) if matches!(line, Line::Long) => break 'lines,
                Ok(0) => panic!("no answer to {line:?}"),
                Err(e) => panic!("{e} after {line:?}"),
                Ok(_) => {}
            }
            match serde_json::from_str(&text).unwrap() {
                Answer::Reply { .. } => break,
                // From now on it only listens.
                Answer::Event(_) => break 'lines,
                Answer::Status(_) | Answer::Show(_) => {}
            }
        }
    }
    drop((stream, answers));
    // It is still there, and lets go of everything.
    let mut client = Client::connect(&place.socket).unwrap();
    client.set_timeout(Some(Duration::from_secs(60))).unwrap();
    let outcome = client.request("status", &["all"], Vec::new(), false).unwrap();
    for answer in outcome.answers {
        if let Answer::Status(resources) = answer {
            for resource in resources {
                let options = vec![("force".to_owned(), None)];
                let _ = client.request("secondary", &[&resource.name], options, false).unwrap();
                let down = client.request("down", &[&resource.name], Vec::new(), false).unwrap();
                assert!(down.code <= 101, "{down:?}");
            }
        }
    }
});
