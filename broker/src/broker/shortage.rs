//! No room for what is to be retained, to be sent later, or for another schedule. Publishers of MQTT 5 are refused; those before
//! wait, perhaps for ever: that is said when it begins and when it ends, and is pressure meanwhile.

use parking_lot::Mutex;

use super::Broker;

/// The first message that found no room, of each kind. It lasts until that one would find it.
#[derive(Default)]
pub(super) struct Shortages(Mutex<Short>);

#[derive(Default)]
struct Short {
    /// Topic and size.
    retained: Option<(String, usize)>,
    /// Size.
    delayed: Option<usize>,
    schedules: bool,
    /// It was said that a message is larger than all that there may be.
    said_too_large: bool,
}

impl Broker {
    pub(super) fn short_of_retained(&self, topic: &str, size: usize) {
        if size > self.config.limits.max_retained_bytes {
            return self.say_too_large(topic, size, "limits.max_retained_bytes");
        }
        let mut short = self.shortages.0.lock();
        if short.retained.is_none() {
            short.retained = Some((topic.to_owned(), size));
            drop(short);
            tracing::warn!(
                topic,
                size,
                "there is no room for a retained message (limits.max_retained_*): publishers of MQTT 5 are refused, others wait"
            );
        }
    }

    pub(super) fn short_of_delayed(&self, topic: &str, size: usize) {
        let limits = &self.config.limits;
        if limits.max_delayed_messages == 0 || size as u64 > limits.max_delayed_bytes {
            return self.say_too_large(topic, size, "limits.max_delayed_*");
        }
        let mut short = self.shortages.0.lock();
        if short.delayed.replace(size).is_none() {
            drop(short);
            tracing::warn!(
                size,
                "there is no room for a delayed message (limits.max_delayed_*): publishers of MQTT 5 are refused, others wait"
            );
        }
    }

    /// No room that comes is enough for it.
    fn say_too_large(&self, topic: &str, size: usize, limit: &str) {
        if !std::mem::replace(&mut self.shortages.0.lock().said_too_large, true) {
            tracing::warn!(
                topic,
                size,
                limit,
                "a message that is larger than all that may be kept: it never finds room"
            );
        }
    }

    pub(super) fn short_of_schedules(&self, topic: &str) {
        if !std::mem::replace(&mut self.shortages.0.lock().schedules, true) {
            tracing::warn!(
                topic,
                "there is no room for another schedule (limits.max_schedules): publishers of MQTT 5 are refused, others wait"
            );
        }
    }

    /// Whether there is no room for something that somebody wanted to be kept.
    pub(super) fn is_short_of_room(&self) -> bool {
        let short = self.shortages.0.lock();
        short.retained.is_some() || short.delayed.is_some() || short.schedules
    }

    /// Says what has ended.
    pub(super) fn watch_shortages(&self) {
        if !self.is_short_of_room() {
            return;
        }
        let mut short = self.shortages.0.lock();
        let mut ended = Vec::new();
        if short.retained.take_if(|(topic, size)| self.retained.has_room(topic, *size)).is_some() {
            ended.push("retained messages");
        }
        if short.delayed.take_if(|size| self.delayed.has_room(*size)).is_some() {
            ended.push("delayed messages");
        }
        if short.schedules && self.retained_schedules() < self.config.limits.max_schedules {
            short.schedules = false;
            ended.push("schedules");
        }
        drop(short);
        for what in ended {
            tracing::warn!("there is room for {what} again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::broker::by_hand;
    use crate::broker::{Batch, Pressure, Staged, Verdict};
    use crate::message::Message;
    use crate::router::RouteCache;
    use crate::session::Durability;

    const ONE: &str = "[limits]\nmax_retained_messages = 1\nmax_delayed_messages = 1\nmax_schedules = 1\n";

    fn publish(broker: &Broker, message: Message, retain: bool) -> Verdict {
        let message = Arc::new(message);
        let mut staged = [Staged::of(&message, retain, Durability::Memory)];
        broker.fan_out(&mut RouteCache::default(), Batch::OWN, &mut staged);
        staged[0].verdict
    }

    fn pressure(broker: &Broker) -> Pressure {
        broker.watch_shortages();
        broker.pressure()
    }

    #[test]
    fn no_room_for_retained_messages_is_pressure_until_there_is_some() {
        let (broker, _store) = by_hand::broker_with(ONE);
        assert_eq!(publish(&broker, by_hand::message("a", &[]), true), Verdict::Taken);
        assert_eq!(pressure(&broker), Pressure::Normal, "it is full, and nobody wants more");
        assert_eq!(publish(&broker, by_hand::message("b", &[]), true), Verdict::Full);
        assert_eq!(pressure(&broker), Pressure::High);
        assert_eq!(publish(&broker, by_hand::empty("a"), true), Verdict::Taken);
        assert_eq!(pressure(&broker), Pressure::Normal);
    }

    #[test]
    fn what_never_fits_is_no_pressure() {
        let (broker, _store) = by_hand::broker_with("[limits]\nmax_retained_bytes = \"1KiB\"\n");
        assert_eq!(publish(&broker, by_hand::saying("a", &[0; 2000]), true), Verdict::Full);
        assert_eq!(pressure(&broker), Pressure::Normal);
    }

    #[test]
    fn no_room_for_delayed_messages_is_pressure_until_there_is_some() {
        let (broker, mut store) = by_hand::broker_with(ONE);
        let later = || by_hand::message("$delayed/60/a", &[]);
        assert_eq!(publish(&broker, later(), false), Verdict::Taken);
        assert_eq!(publish(&broker, later(), false), Verdict::Full);
        assert_eq!(pressure(&broker), Pressure::High);
        by_hand::commit(&broker, &mut store);
        let pending = broker.delayed_from(None, 1).unwrap();
        assert!(broker.cancel_delayed(pending[0].key).unwrap());
        by_hand::commit(&broker, &mut store);
        assert_eq!(pressure(&broker), Pressure::Normal);
    }

    #[test]
    fn no_room_for_schedules_is_pressure_until_there_is_some() {
        let (broker, _store) = by_hand::broker_with("[limits]\nmax_schedules = 1\n");
        let described = br#"{"cron":"* * * * *","topic":"a","payload":"x"}"#;
        assert_eq!(publish(&broker, by_hand::saying("$schedule/a", described), true), Verdict::Taken);
        assert_eq!(publish(&broker, by_hand::saying("$schedule/b", described), true), Verdict::Full);
        assert_eq!(pressure(&broker), Pressure::High);
        assert_eq!(publish(&broker, by_hand::empty("$schedule/a"), true), Verdict::Taken);
        assert_eq!(pressure(&broker), Pressure::Normal);
    }
}
