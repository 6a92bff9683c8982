//! Numbers as people read them.

/// `1,234,567`.
#[must_use]
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1,234/s`.
#[must_use]
pub fn rate(per_s: f64) -> String {
    if per_s < 100.0 { format!("{per_s:.1}/s") } else { format!("{}/s", count(per_s.round() as u64)) }
}

/// Microseconds with three digits and a unit.
#[must_use]
pub fn time_us(us: f64) -> String {
    match us {
        us if us < 1000.0 => format!("{} µs", digits(us)),
        us if us < 1_000_000.0 => format!("{} ms", digits(us / 1000.0)),
        us => format!("{} s", digits(us / 1_000_000.0)),
    }
}

/// Three digits.
#[must_use]
pub fn digits(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.5, 1_234_567.4].map(rate), ["0.5/s", "1,234,567/s"]);
        assert_eq!(
            [1.234, 56.78, 999.4, 1500.0, 2_500_000.0].map(time_us),
            ["1.23 µs", "56.8 µs", "999 µs", "1.50 ms", "2.50 s"]
        );
    }
}
