//! The comparison as a bar chart. It has its own ground, light or dark as the reader's system is, so that its text is read on a
//! page of either kind.

use std::fmt::Write as _;

use super::{Comparison, Row};
use crate::tools::bench::words::digits;

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 16.0;
/// Two of them.
const COLUMN: f64 = 424.0;
/// Where bars begin in a column, behind the names of the brokers.
const BARS: f64 = 100.0;
/// The longest.
const LONGEST: f64 = 196.0;
const BAR: f64 = 13.0;
const ROW: f64 = 18.0;
const TITLE: f64 = 26.0;
const HEAD: f64 = 64.0;
/// Behind a bar: `12345 µs, 1234×`.
const LABEL: f64 = 108.0;
const _: () =
    assert!(BARS + LONGEST + 6.0 + LABEL <= COLUMN && MARGIN + COLUMN + BARS + LONGEST + 6.0 + LABEL <= WIDTH);
/// Text and ground: 16 to 1 in both.
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1f2328}.g{fill:#fff}.t{font-weight:600}\
     .h{font-size:16px;font-weight:600}.n{text-anchor:end}\
     @media(prefers-color-scheme:dark){text{fill:#e6edf3}.g{fill:#0d1117}}";
/// By place among the brokers: 3 to 1 and more on either ground.
const COLOURS: [&str; 7] = ["#2f81f7", "#c2772b", "#2e9e6b", "#a05bd6", "#d1497f", "#1f9aa5", "#8b949e"];

/// The bars of one load.
struct Group<'a> {
    load: &'a str,
    what: &'a str,
    bars: Vec<(&'a Row, f64)>,
}

impl Group<'_> {
    fn height(&self) -> f64 {
        TITLE + self.bars.len() as f64 * ROW
    }
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
    let all: f64 = groups.iter().map(Group::height).sum();
    // The first column is the one that is longer.
    let mut first = 0.0;
    let split = groups.iter().position(|group| {
        first += group.height();
        first >= all / 2.0
    });
    let split = split.map_or(groups.len(), |at| at + 1);
    let height = HEAD + first + MARGIN;
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = draw(&mut out, comparison, &groups, split, height);
    Some(out)
}

fn draw(
    out: &mut String,
    comparison: &Comparison,
    groups: &[Group<'_>],
    split: usize,
    height: f64,
) -> std::fmt::Result {
    let title = "Processor time of the broker for each message";
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n\
         <rect class=\"g\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>"
    )?;
    writeln!(out, "<text class=\"h\" x=\"{MARGIN}\" y=\"26\">{title}</text>")?;
    let first = comparison.brokers.first().copied().unwrap_or_default();
    let rounds =
        if comparison.rounds > 1 { format!(" Medians of {} rounds.", comparison.rounds) } else { String::new() };
    writeln!(
        out,
        "<text x=\"{MARGIN}\" y=\"46\">In µs, and as a multiple of {}. Shorter is better; each group has its own scale.{rounds}</text>",
        escaped(first)
    )?;
    let (left, right) = groups.split_at_checked(split).unwrap_or((groups, &[]));
    for (groups, x) in [(left, MARGIN), (right, MARGIN + COLUMN)] {
        let mut y = HEAD;
        for group in groups {
            draw_group(out, comparison, group, x, y)?;
            y += group.height();
        }
    }
    writeln!(out, "</svg>")
}

fn draw_group(out: &mut String, comparison: &Comparison, group: &Group<'_>, x: f64, mut y: f64) -> std::fmt::Result {
    let longest = group.bars.iter().map(|(_, cost)| *cost).fold(f64::MIN_POSITIVE, f64::max);
    let (load, what) = (escaped(group.load), escaped(group.what));
    writeln!(out, "<text x=\"{x}\" y=\"{:.0}\"><tspan class=\"t\">{load}</tspan>  {what}</text>", y + 14.0)?;
    y += TITLE - 4.0;
    for (row, cost) in &group.bars {
        bar(out, comparison, row, *cost / longest, x, y)?;
        y += ROW;
    }
    Ok(())
}

/// `part`: of the longest.
fn bar(out: &mut String, comparison: &Comparison, row: &Row, part: f64, x: f64, y: f64) -> std::fmt::Result {
    let place = comparison.brokers.iter().position(|broker| *broker == row.broker).unwrap_or(0);
    let colour = COLOURS.get(place % COLOURS.len()).copied().unwrap_or("#8b949e");
    let (start, length) = (x + BARS, (part * LONGEST).max(1.0));
    let cost = row.figures.as_ref().ok().and_then(super::cost).map_or(String::new(), digits);
    let times = row.times_first.filter(|_| place > 0).map_or(String::new(), |times| format!(", {}×", digits(times)));
    let (name, base) = (escaped(row.broker), y + BAR - 2.0);
    writeln!(
        out,
        "<text class=\"n\" x=\"{:.0}\" y=\"{base:.0}\">{name}</text><rect x=\"{start}\" y=\"{y:.0}\" width=\"{length:.1}\" \
         height=\"{BAR}\" rx=\"2\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{base:.0}\">{cost} µs{times}</text>",
        start - 8.0,
        start + length + 6.0
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
