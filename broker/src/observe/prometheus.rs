//! Figures in the text format of Prometheus (exposition format 0.0.4).

use std::fmt::Write;

use super::figures::{Figure, Kind, Unit};
use super::histogram::Counted;

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All figures, as Prometheus reads them.
#[must_use]
pub fn text(figures: &[Figure]) -> String {
    let mut out = String::with_capacity(16 * 1024);
    for figure in figures {
        // A string takes all that is written to it.
        let _ = write_figure(&mut out, figure);
    }
    out
}

fn write_figure(out: &mut String, figure: &Figure) -> std::fmt::Result {
    let name = format!("forebay_{}", figure.metric);
    let kind = match figure.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", escape(&figure.help, false))?;
    if let Some(histogram) = &figure.histogram {
        return write_histogram(out, &name, histogram, figure.unit);
    }
    for sample in &figure.samples {
        let value = value(sample.value, figure.unit);
        match &sample.label {
            Some((label, of)) => writeln!(out, "{name}{{{label}=\"{}\"}} {value}", escape(of, true))?,
            None => writeln!(out, "{name} {value}")?,
        }
    }
    Ok(())
}

fn write_histogram(out: &mut String, name: &str, histogram: &Counted, unit: Unit) -> std::fmt::Result {
    let mut sum = 0;
    for (end, count) in histogram.ends_us.iter().zip(&histogram.counts) {
        sum += count;
        writeln!(out, "{name}_bucket{{le=\"{}\"}} {sum}", value(*end, unit))?;
    }
    let total = histogram.total();
    writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {total}")?;
    writeln!(out, "{name}_sum {}\n{name}_count {total}", value(histogram.sum_us, unit))
}

/// In base units: seconds, with as many decimals as there are.
fn value(value: u64, unit: Unit) -> String {
    let (whole, digits) = match unit {
        Unit::One => return value.to_string(),
        Unit::Milliseconds => (1_000, 3),
        Unit::Microseconds => (1_000_000, 6),
    };
    let text = format!("{}.{:0digits$}", value / whole, value % whole);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::histogram::Histogram;
    use super::super::{Kind, Sample};
    use super::*;
    use std::time::Duration;

    #[test]
    fn base_units_without_needless_digits() {
        assert_eq!(value(1_500, Unit::Milliseconds), "1.5");
        assert_eq!(value(50, Unit::Microseconds), "0.00005");
        assert_eq!(value(0, Unit::Microseconds), "0");
        assert_eq!(value(10_000, Unit::Milliseconds), "10");
        assert_eq!(value(10, Unit::One), "10");
    }

    #[test]
    fn labels_are_escaped_and_buckets_add_up() {
        let histogram = Histogram::default();
        histogram.add(Duration::from_micros(70));
        histogram.add(Duration::from_micros(70));
        histogram.add(Duration::from_secs(9));
        let sample = Sample { label: Some(("url", "a\"b\\c\n".to_owned())), value: 3, topics: Vec::new() };
        let figure = |metric: &str, histogram| Figure {
            metric: metric.to_owned(),
            help: "a\nb".to_owned(),
            kind: if metric == "h" { Kind::Histogram } else { Kind::Gauge },
            unit: if metric == "h" { Unit::Microseconds } else { Unit::One },
            samples: vec![sample.clone()],
            histogram,
        };
        let text = text(&[figure("g", None), figure("h", Some(histogram.counted()))]);
        assert!(
            text.starts_with("# HELP forebay_g a\\nb\n# TYPE forebay_g gauge\nforebay_g{url=\"a\\\"b\\\\c\\n\"} 3\n")
        );
        assert!(text.contains("forebay_h_bucket{le=\"0.00005\"} 0\nforebay_h_bucket{le=\"0.0001\"} 2\n"), "{text}");
        assert!(text.contains("forebay_h_bucket{le=\"5\"} 2\nforebay_h_bucket{le=\"+Inf\"} 3\n"), "{text}");
        assert!(text.ends_with("forebay_h_sum 9.00014\nforebay_h_count 3\n"), "{text}");
    }
}
