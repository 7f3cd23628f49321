//! Following events: `events2`.

use std::io::{IsTerminal as _, Read as _};

use drbd_control::client::{Client, ClientError};
use drbd_control::protocol::Event;

use super::args::Parsed;
use super::events::{Printer, Wanted};
use super::{color, daemon, print, socket};

mod refresh;

/// Output is collected up to this size, in bytes.
const TOGETHER: usize = 64 << 10;
/// Exit code when the daemon ends.
const UNLOADED: u8 = 121;

fn stamp(line: &str, timestamps: bool) -> String {
    if timestamps {
        // Six decimals, local time zone.
        let now = jiff::Zoned::now();
        format!("{} {line}\n", now.strftime("%Y-%m-%dT%H:%M:%S.%6f%:z"))
    } else {
        format!("{line}\n")
    }
}

/// `events2`.
pub(super) fn events2(parsed: &Parsed) -> Result<u8, String> {
    let which = parsed.arguments.first().map_or("all", String::as_str);
    let (now, timestamps) = (parsed.count("now") > 0, parsed.count("timestamps") > 0);
    let wanted = Wanted {
        statistics: parsed.count("statistics") > 0,
        full: parsed.count("full") > 0,
        diff: parsed.count("diff") > 0,
        color: color::wanted(
            parsed.count("color") > 0,
            parsed.value("color"),
            std::io::stdout().is_terminal(),
        )?,
    };
    let poll = parsed.count("poll") > 0;
    if poll && now {
        return poll_snapshots(which, wanted, timestamps);
    }
    let path = socket();
    let mut client = match Client::connect(&path) {
        Ok(client) => client,
        Err(ClientError::NoDaemon { .. }) if now => {
            print(&stamp("exists -", timestamps));
            return Ok(0);
        }
        // There has to be something to wait for.
        Err(ClientError::NoDaemon { .. }) => daemon::start(&path)?,
        Err(e) => return Err(format!("{which}: {e}")),
    };
    subscribe(&mut client, which)?;
    if poll {
        return refresh::follow(client, which, Printer::new(wanted), timestamps);
    }
    let mut printer = Printer::new(wanted);
    let mut text = String::new();
    loop {
        // Events that came together are printed together.
        if !text.is_empty() && (text.len() >= TOGETHER || !client.has_line()) {
            print(&text);
            text.clear();
        }
        let event = match client.next_event() {
            Ok(event) => event,
            Err(ClientError::Lost(_)) => {
                eprintln!("{which}: module unloaded");
                return Ok(UNLOADED);
            }
            Err(e) => return Err(format!("{which}: {e}")),
        };
        let end = matches!(event, Event::SnapshotsEnd);
        let lines = printer.lines(event);
        text.extend(lines.iter().map(|line| stamp(line, timestamps)));
        if end && now {
            print(&text);
            return Ok(0);
        }
    }
}

fn subscribe(client: &mut Client, which: &str) -> Result<(), String> {
    client
        .send("events2", &[which], Vec::new(), false)
        .map_err(|e| format!("{which}: {e}"))
}

/// `--now --poll`: the state at the start and for each `n` on stdin.
fn poll_snapshots(which: &str, wanted: Wanted, timestamps: bool) -> Result<u8, String> {
    let show = || -> Result<(), String> {
        let mut printer = Printer::new(wanted);
        let mut lines = Vec::new();
        for resource in super::resources(which)? {
            lines.extend(printer.lines(Event::Snapshot(Box::new(resource))));
        }
        lines.extend(printer.lines(Event::SnapshotsEnd));
        let text: String = lines.iter().map(|line| stamp(line, timestamps)).collect();
        print(&text);
        Ok(())
    };
    show()?;
    for byte in std::io::stdin().lock().bytes() {
        match byte {
            Ok(b'n') => show()?,
            Ok(b'\n') => {}
            _ => break,
        }
    }
    Ok(0)
}
