//! Which messages go before others.

use forebay_wire::topic;

use crate::properties::user_property;

/// The user property in which a publisher says how urgent a message is: 0 to [`PRIORITY_MAX`].
pub const PRIORITY: &str = "priority";
/// The highest priority.
pub const PRIORITY_MAX: u8 = 31;
/// The most levels that a queue may have.
pub const LEVELS_MAX: u8 = 8;

/// What priority messages have, and how many of them make a level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Priorities {
    /// Levels that are told apart, 1 to [`LEVELS_MAX`].
    pub levels: u8,
    /// Of messages whose publishers say none: the first filter that matches; without one it is 0.
    pub by_filter: Vec<(String, u8)>,
}

impl Default for Priorities {
    fn default() -> Self {
        Self { levels: 1, by_filter: Vec::new() }
    }
}

impl Priorities {
    /// The level of a message: the higher, the more urgent.
    #[must_use]
    pub fn level(&self, topic: &str, properties: &[u8]) -> u8 {
        if self.levels <= 1 {
            return 0;
        }
        let said = user_property(properties, PRIORITY).and_then(|value| value.parse::<u8>().ok());
        let known =
            || self.by_filter.iter().find(|(filter, _)| topic::matches(filter, topic)).map(|(_, priority)| *priority);
        let priority = said.filter(|priority| *priority <= PRIORITY_MAX).or_else(known).unwrap_or(0);
        let level = u16::from(priority) * u16::from(self.levels) / (u16::from(PRIORITY_MAX) + 1);
        u8::try_from(level).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::put_user;

    #[test]
    fn a_message_has_a_level() {
        let four = Priorities { levels: 4, by_filter: vec![("alarm/#".to_owned(), 31), ("#".to_owned(), 9)] };
        let said = |value: &str| {
            let mut properties = Vec::new();
            put_user(&mut properties, PRIORITY, value);
            properties
        };
        for (topic, properties, level) in [
            ("alarm/a", Vec::new(), 3),
            ("t", Vec::new(), 1),
            ("alarm/a", said("0"), 0),
            ("t", said("31"), 3),
            ("t", said("24"), 3),
            ("t", said("23"), 2),
            ("t", said("32"), 1),
            ("t", said("high"), 1),
        ] {
            assert_eq!(four.level(topic, &properties), level, "{topic} {properties:?}");
        }
        assert_eq!(Priorities::default().level("t", &said("31")), 0);
    }
}
