//! The comparison as a bar chart. Its colours are chosen to be read on white and on black.

use std::fmt::Write as _;

use super::{Comparison, Row};
use crate::tools::bench::words::digits;

const WIDTH: f64 = 820.0;
const MARGIN: f64 = 16.0;
/// Where bars begin, behind the names of the brokers.
const BARS: f64 = 116.0;
/// The longest.
const LONGEST: f64 = 520.0;
const BAR: f64 = 13.0;
const ROW: f64 = 18.0;
const TITLE: f64 = 26.0;
const HEAD: f64 = 64.0;
/// Text: 4.5 to 1 on white, 4.2 to 1 on #0d1117.
const TEXT: &str = "#71787f";
/// By place among the brokers.
const COLOURS: [&str; 7] = ["#2f81f7", "#c2772b", "#2e9e6b", "#a05bd6", "#d1497f", "#1f9aa5", "#8b949e"];

/// The bars of one load.
struct Group<'a> {
    load: &'a str,
    what: &'a str,
    bars: Vec<(&'a Row, f64)>,
}

/// The chart; `None` if nothing was measured that it could show.
#[must_use]
pub fn chart(comparison: &Comparison) -> Option<String> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for row in &comparison.rows {
        let Some(cost) = row.figures.as_ref().ok().and_then(super::cost) else { continue };
        match groups.last_mut().filter(|group| group.load == row.load) {
            Some(group) => group.bars.push((row, cost)),
            None => groups.push(Group { load: row.load, what: row.what, bars: vec![(row, cost)] }),
        }
    }
    if groups.is_empty() {
        return None;
    }
    let bars: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = HEAD + groups.len() as f64 * TITLE + bars as f64 * ROW + MARGIN;
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = draw(&mut out, comparison, &groups, height);
    Some(out)
}

fn draw(out: &mut String, comparison: &Comparison, groups: &[Group<'_>], height: f64) -> std::fmt::Result {
    let title = "Processor time of the broker for each message";
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-label=\"{title}\">\n<style>text{{font:12px system-ui,sans-serif;fill:{TEXT}}}\
         .t{{font-weight:600}}.h{{font-size:16px;font-weight:600}}.n{{text-anchor:end}}</style>"
    )?;
    writeln!(out, "<text class=\"h\" x=\"{MARGIN}\" y=\"26\">{title}</text>")?;
    let first = comparison.brokers.first().copied().unwrap_or_default();
    let brokers = escaped(&comparison.brokers.join(", "));
    writeln!(
        out,
        "<text x=\"{MARGIN}\" y=\"46\">µs, and times {}; shorter is better; each group has its own scale. {brokers}, \
         medians of {} rounds</text>",
        escaped(first),
        comparison.rounds
    )?;
    let mut y = HEAD;
    for Group { load, what, bars } in groups {
        let longest = bars.iter().map(|(_, cost)| *cost).fold(f64::MIN_POSITIVE, f64::max);
        let (load, what) = (escaped(load), escaped(what));
        writeln!(out, "<text x=\"{MARGIN}\" y=\"{:.0}\"><tspan class=\"t\">{load}</tspan>  {what}</text>", y + 14.0)?;
        y += TITLE - 4.0;
        for (row, cost) in bars {
            bar(out, comparison, row, *cost, longest, y)?;
            y += ROW;
        }
        y += 4.0;
    }
    writeln!(out, "</svg>")
}

fn bar(out: &mut String, comparison: &Comparison, row: &Row, cost: f64, longest: f64, y: f64) -> std::fmt::Result {
    let place = comparison.brokers.iter().position(|broker| *broker == row.broker).unwrap_or(0);
    let colour = COLOURS.get(place % COLOURS.len()).copied().unwrap_or(TEXT);
    let length = (cost / longest * LONGEST).max(1.0);
    let times = row.times_first.filter(|_| place > 0).map_or(String::new(), |times| format!("  {}×", digits(times)));
    let (name, base) = (escaped(row.broker), y + BAR - 2.0);
    writeln!(
        out,
        "<text class=\"n\" x=\"{:.0}\" y=\"{base:.0}\">{name}</text><rect x=\"{BARS}\" y=\"{y:.0}\" width=\"{length:.1}\" \
         height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{base:.0}\">{}{times}</text>",
        BARS - 8.0,
        BARS + length + 6.0,
        digits(cost)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
