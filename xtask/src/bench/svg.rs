//! The results as a picture: a bar for each contender, with the span of its turns.

use std::fmt::Write as _;

use super::report::Report;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 210.0;
const BAR: f64 = 22.0;
const COLOURS: [&str; 7] = [
    "#2f6db5", "#6c9bd2", "#c2573a", "#d98a6f", "#e3b09c", "#8a8a8a", "#b8b8b8",
];

/// Draws the results of all rounds.
pub(super) fn draw(rounds: &[Report]) -> String {
    let mut body = String::new();
    let mut y = 20.0;
    let loads = rounds
        .iter()
        .flat_map(|round| round.loads.iter().map(|load| (&round.place, load)));
    for (place, load) in loads {
        let place = place.replace('&', "&amp;").replace('<', "&lt;");
        y += 16.0;
        let ratio = load
            .ratio
            .map(|r| format!(" - {r:.2} times QEMU's mirror (target {:.1})", load.target))
            .unwrap_or_default();
        let _ = writeln!(
            body,
            "<text x=\"16\" y=\"{y:.0}\" font-weight=\"bold\">{} writes in {place}{ratio}</text>",
            load.name
        );
        y += 14.0;
        let most = load.rows.iter().map(|r| r.max).fold(1.0, f64::max);
        let x = |value: f64| LEFT + value / most * (WIDTH - LEFT - 150.0);
        for (row, colour) in load.rows.iter().zip(COLOURS) {
            let (text, middle) = (y + 15.0, y + BAR / 2.0);
            let _ = writeln!(body, "<text x=\"16\" y=\"{text:.0}\">{}</text>", row.name);
            let _ = writeln!(
                body,
                "<rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>",
                x(row.iops) - LEFT
            );
            let _ = writeln!(
                body,
                "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.0}\" y2=\"{middle:.0}\" stroke=\"black\"/>",
                x(row.min),
                x(row.max)
            );
            let _ = writeln!(
                body,
                "<text x=\"{:.1}\" y=\"{text:.0}\">{:.0} IOPS, {:.0} MiB/s</text>",
                x(row.max) + 6.0,
                row.iops,
                row.mib
            );
            y += BAR + 6.0;
        }
        y += 12.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y:.0}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}
