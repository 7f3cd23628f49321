//! What happened when, as text and as a picture.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use drbd_testkit::{Context, Result};

/// State of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Down,
    Inconsistent,
    Sync,
    Secondary,
    Primary,
    Dead,
}

impl Phase {
    const ALL: [Phase; 6] = [
        Phase::Down,
        Phase::Inconsistent,
        Phase::Sync,
        Phase::Secondary,
        Phase::Primary,
        Phase::Dead,
    ];

    fn name(self) -> &'static str {
        match self {
            Phase::Down => "down",
            Phase::Inconsistent => "inconsistent",
            Phase::Sync => "sync target",
            Phase::Secondary => "secondary, up to date",
            Phase::Primary => "primary",
            Phase::Dead => "killed",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Phase::Down => "#d9dde2",
            Phase::Inconsistent => "#f2d7a0",
            Phase::Sync => "#f0a84b",
            Phase::Secondary => "#8fc1e3",
            Phase::Primary => "#4caf72",
            Phase::Dead => "#3b3f46",
        }
    }
}

#[derive(Debug)]
struct Event {
    at: f64,
    node: Option<u8>,
    text: String,
}

/// Collects what happens.
#[derive(Debug)]
pub(crate) struct Timeline {
    start: Instant,
    nodes: u8,
    phases: Vec<(f64, u8, Phase)>,
    events: Vec<Event>,
    /// Time and MiB/s.
    samples: Vec<(f64, f64)>,
}

// The picture, in pixels.
const WIDTH: f64 = 1200.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 70.0;
const LANE: f64 = 74.0;
const BAR: f64 = 26.0;
const CURVE: f64 = 130.0;

impl Timeline {
    /// Starts the clock.
    pub(crate) fn new(nodes: u8) -> Timeline {
        Timeline {
            start: Instant::now(),
            nodes,
            phases: Vec::new(),
            events: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn now(&self) -> f64 {
        self.elapsed().as_secs_f64()
    }

    /// A node is in another state from now on.
    pub(crate) fn phase(&mut self, node: u8, phase: Phase) {
        self.phases.push((self.now(), node, phase));
    }

    /// Something happened to a node, or to all.
    pub(crate) fn event(&mut self, node: Option<u8>, text: &str) {
        self.events.push(Event {
            at: self.now(),
            node,
            text: text.to_owned(),
        });
    }

    /// How fast data is written or resynced, in MiB/s.
    pub(crate) fn sample(&mut self, speed: f64) {
        self.samples.push((self.now(), speed));
    }

    /// All events, one a line.
    pub(crate) fn text(&self) -> String {
        let mut out = String::from("Timeline\n");
        for event in &self.events {
            let who = event
                .node
                .map_or_else(|| "all".to_owned(), |n| format!("node {}", n + 1));
            let _ = writeln!(out, "{:7.2} s  {who:<7} {}", event.at, event.text);
        }
        out
    }

    /// Writes the picture.
    pub(crate) fn write_svg(&self, path: &Path) -> Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).context(dir.display())?;
        }
        std::fs::write(path, self.svg(self.now())).context(path.display())
    }

    fn svg(&self, end: f64) -> String {
        let end = end.max(0.1);
        let x = |t: f64| LEFT + (WIDTH - LEFT - RIGHT) * (t / end).clamp(0.0, 1.0);
        let lanes = f64::from(self.nodes) * LANE;
        let base = TOP + lanes + 20.0 + CURVE;
        let height = base + 60.0;
        let mut s = String::new();
        let _ = writeln!(
            s,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"{LEFT}\" y=\"26\" font-size=\"18\" font-weight=\"bold\" fill=\"#22262b\">A mirrored volume \
             survives the loss of a node</text>"
        );
        self.legend(&mut s);
        self.axis(&mut s, end, base, &x);
        for node in 0..self.nodes {
            self.lane(&mut s, node, end, &x);
        }
        self.curve(&mut s, base, &x);
        s.push_str("</svg>\n");
        s
    }

    fn legend(&self, s: &mut String) {
        let mut at = LEFT;
        for phase in Phase::ALL {
            if !self.phases.iter().any(|(_, _, p)| *p == phase) {
                continue;
            }
            let _ = writeln!(
                s,
                "<rect x=\"{at}\" y=\"38\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{}\"/>\
                 <text x=\"{}\" y=\"48\" fill=\"#4a4f57\">{}</text>",
                phase.colour(),
                at + 17.0,
                phase.name()
            );
            #[allow(clippy::cast_precision_loss)] // A few letters.
            let wide = phase.name().len() as f64 * 6.6;
            at += wide + 45.0;
        }
    }

    fn axis(&self, s: &mut String, end: f64, base: f64, x: &impl Fn(f64) -> f64) {
        let step = [1.0, 2.0, 5.0, 10.0, 20.0]
            .into_iter()
            .find(|s| end / s <= 14.0)
            .unwrap_or(60.0);
        let mut t = 0.0;
        while t <= end {
            let at = x(t);
            let _ = writeln!(
                s,
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{base}\" stroke=\"#eceff2\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#7a808a\">{t:.0} s</text>",
                base + 18.0
            );
            t += step;
        }
        // Events of all nodes are lines through everything.
        for event in self.events.iter().filter(|e| e.node.is_none()) {
            let at = x(event.at);
            let anchor = if at > WIDTH * 0.8 { "end" } else { "start" };
            let _ = writeln!(
                s,
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{base}\" stroke=\"#9aa1ab\" \
                 stroke-dasharray=\"3 3\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" \
                 fill=\"#4a4f57\">{}</text>",
                base + 36.0,
                escape(&event.text)
            );
        }
    }

    fn lane(&self, s: &mut String, node: u8, end: f64, x: &impl Fn(f64) -> f64) {
        let top = TOP + f64::from(node) * LANE + 4.0;
        let _ = writeln!(
            s,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" font-weight=\"bold\" fill=\"#22262b\">node {}</text>",
            LEFT - 12.0,
            top + BAR / 2.0 + 4.0,
            node + 1
        );
        let mut phases = self.phases.iter().filter(|(_, n, _)| *n == node).peekable();
        while let Some((from, _, phase)) = phases.next() {
            let to = phases.peek().map_or(end, |(t, _, _)| *t);
            let _ = writeln!(
                s,
                "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"><title>{} from \
                 {from:.2} s to {to:.2} s</title></rect>",
                x(*from),
                (x(to) - x(*from)).max(0.5),
                phase.colour(),
                phase.name()
            );
        }
        // Labels in two rows, each after the one before it.
        let mut free = [0.0; 2];
        for event in self.events.iter().filter(|e| e.node == Some(node)) {
            let at = x(event.at);
            #[allow(clippy::cast_precision_loss)] // A few letters.
            let wide = event.text.len() as f64 * 6.4;
            let row = usize::from(free[0] > at && free[1] <= free[0]);
            let text_at = free[row].max(at).min(WIDTH - RIGHT - wide);
            free[row] = text_at + wide + 12.0;
            let below = top + BAR + if row == 0 { 15.0 } else { 31.0 };
            let _ = writeln!(
                s,
                "<line x1=\"{at:.1}\" y1=\"{top:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#22262b\"/>\
                 <text x=\"{:.1}\" y=\"{below:.1}\" fill=\"#22262b\">{}</text>",
                below - 3.0,
                text_at + 4.0,
                escape(&event.text)
            );
        }
    }

    fn curve(&self, s: &mut String, base: f64, x: &impl Fn(f64) -> f64) {
        let most = self.samples.iter().map(|(_, v)| *v).fold(1.0, f64::max);
        let y = |v: f64| base - CURVE * (v / most).clamp(0.0, 1.0);
        let _ = writeln!(
            s,
            "<text x=\"{0}\" y=\"{1:.1}\" text-anchor=\"end\" fill=\"#4a4f57\">MiB/s</text>\
             <text x=\"{0}\" y=\"{2:.1}\" text-anchor=\"end\" fill=\"#7a808a\">{most:.0}</text>\
             <line x1=\"{LEFT}\" y1=\"{base}\" x2=\"{3}\" y2=\"{base}\" stroke=\"#9aa1ab\"/>",
            LEFT - 12.0,
            base - CURVE / 2.0,
            base - CURVE + 10.0,
            WIDTH - RIGHT
        );
        let mut points = format!("{:.1},{base:.1} ", x(0.0));
        for (t, v) in &self.samples {
            let _ = write!(points, "{:.1},{:.1} ", x(*t), y(*v));
        }
        let last = self.samples.last().map_or(0.0, |(t, _)| *t);
        let _ = write!(points, "{:.1},{base:.1}", x(last));
        let _ = writeln!(
            s,
            "<polygon points=\"{points}\" fill=\"#4c6ef5\" fill-opacity=\"0.25\" stroke=\"#4c6ef5\" stroke-width=\"1.5\"/>"
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_has_every_lane_and_event() {
        let mut t = Timeline::new(3);
        for id in 0..3 {
            t.phase(id, Phase::Secondary);
        }
        t.phase(0, Phase::Dead);
        t.event(Some(0), "a < b");
        t.event(None, "done");
        t.sample(10.0);
        let svg = t.svg(4.0);
        assert_eq!(svg.matches("<svg").count(), 1);
        for text in [
            "node 1", "node 2", "node 3", "a &lt; b", ">done<", "killed", "polygon",
        ] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(!svg.contains("a < b"));
    }
}
