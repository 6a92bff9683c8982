//! Topic names and topic filters [MQTT-4.7], [MQTT5-4.7], [MQTT5-4.8].

use crate::{ReasonCode, WireError};

const fn name_error(detail: &'static str) -> WireError {
    WireError::new(ReasonCode::TopicNameInvalid, "MQTT-3.3.2-2", detail)
}

const fn filter_error(statement: &'static str, detail: &'static str) -> WireError {
    WireError::new(ReasonCode::TopicFilterInvalid, statement, detail)
}

/// Checks a topic name of at most `levels_max` levels.
///
/// # Errors
/// It is empty, holds a wildcard or U+0000, or has too many levels.
#[inline]
pub fn check_name(name: &str, levels_max: usize) -> Result<(), WireError> {
    // Without branches, and each by itself: that is how it becomes sixteen bytes at a time.
    let bad =
        name.bytes().fold(0, |bad, byte| bad | u8::from(byte == b'+') | u8::from(byte == b'#') | u8::from(byte == 0));
    let levels = 1 + name.bytes().map(|byte| usize::from(byte == b'/')).sum::<usize>();
    if bad != 0 {
        return Err(name_error("a topic name holds a wildcard or U+0000"));
    }
    if name.is_empty() {
        return Err(name_error("a topic name is empty"));
    }
    if levels > levels_max {
        return Err(name_error("a topic name has more levels than the limit"));
    }
    Ok(())
}

/// Checks a topic filter of at most `levels_max` levels; `$share/NAME/FILTER` as well.
///
/// # Errors
/// It is empty, a wildcard stands where it may not [MQTT-4.7.1-2], [MQTT-4.7.1-3], or the share is not well formed
/// [MQTT5-4.8.2-1], [MQTT5-4.8.2-2].
pub fn check_filter(filter: &str, levels_max: usize) -> Result<(), WireError> {
    match filter.strip_prefix("$share/") {
        Some(_) => {
            let shared = split_share(filter)
                .ok_or(filter_error("MQTT5-4.8.2-1", "a shared subscription needs a share name and a filter"))?;
            if shared.name.contains(['+', '#']) {
                return Err(filter_error("MQTT5-4.8.2-2", "a share name holds a wildcard"));
            }
            check_plain(shared.filter, levels_max)
        }
        None => check_plain(filter, levels_max),
    }
}

fn check_plain(filter: &str, levels_max: usize) -> Result<(), WireError> {
    if filter.is_empty() {
        return Err(filter_error("MQTT-4.7.3-1", "a topic filter is empty"));
    }
    if filter.bytes().any(|byte| byte == 0) {
        return Err(filter_error("MQTT-4.7.3-2", "a topic filter holds U+0000"));
    }
    let mut levels = filter.split('/').peekable();
    let mut count = 0usize;
    while let Some(level) = levels.next() {
        count += 1;
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(filter_error("MQTT-4.7.1-2", "# does not stand alone at the end"));
        }
        if level.contains('+') && level != "+" {
            return Err(filter_error("MQTT-4.7.1-3", "+ does not stand alone in its level"));
        }
    }
    if count > levels_max {
        return Err(filter_error("MQTT-4.7.3-3", "a topic filter has more levels than the limit"));
    }
    Ok(())
}

/// The parts of `$share/NAME/FILTER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedFilter<'a> {
    /// The share name.
    pub name: &'a str,
    /// The topic filter.
    pub filter: &'a str,
}

/// Splits a shared subscription's filter; `None` for any other, or when a part is empty.
#[must_use]
pub fn split_share(filter: &str) -> Option<SharedFilter<'_>> {
    let (name, filter) = filter.strip_prefix("$share/")?.split_once('/')?;
    (!name.is_empty() && !filter.is_empty()).then_some(SharedFilter { name, filter })
}

/// The topic filter of a shared subscription; of any other the filter itself.
#[must_use]
pub fn without_share(filter: &str) -> &str {
    split_share(filter).map_or(filter, |shared| shared.filter)
}

/// Whether a valid filter (without `$share/NAME/`) matches a valid topic name.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    // Wildcards at the first level do not match what begins with $ [MQTT-4.7.2-1].
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false;
    }
    let mut names = topic.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match names.next() {
            Some(name) if level == "+" || level == name => {}
            Some(_) | None => return false,
        }
    }
    names.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "/", "a//b", "$SYS/x", "é/水", " "] {
            assert_eq!(check_name(good, 10), Ok(()), "{good}");
        }
        for bad in ["", "a/+", "#", "a\0b", "1/2/3/4/5/6/7/8/9/10/11"] {
            assert_eq!(check_name(bad, 10).unwrap_err().reason, ReasonCode::TopicNameInvalid, "{bad}");
        }
    }

    #[test]
    fn filters() {
        for good in ["a", "+", "#", "a/+/b/#", "/", "//", "$share/g/a/+", "+/+", "é/+"] {
            assert_eq!(check_filter(good, 10), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a+",
            "+a/b",
            "a#",
            "#/a",
            "a/#/b",
            "a/b#",
            "$share/",
            "$share/g",
            "$share//a",
            "$share/g/",
            "$share/+/a",
            "a\0",
        ] {
            assert_eq!(check_filter(bad, 10).unwrap_err().reason, ReasonCode::TopicFilterInvalid, "{bad}");
        }
    }

    #[test]
    fn matching_is_as_the_standards_examples_say() {
        for (filter, topic) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("sport/#", "sport"),
            ("#", "a/b"),
            ("sport/tennis/+", "sport/tennis/player1"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("$SYS/#", "$SYS/a"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("#", "$SYS/a"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("sport", "sport/"),
            ("sport/tennis", "sport/tennis/x"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }
}
