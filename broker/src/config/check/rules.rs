//! `[[rules]]`.

use super::super::checked::Config;
use super::super::raw::RawRules;
use super::super::table::At;
use super::{Checker, bytes, defaults, number};
use crate::rules::{Expression, OF_MESSAGE, OF_WINDOW, RULES_MAX, Rule, WindowRule};
use crate::template::Template;

impl Checker<'_> {
    pub(super) fn message_rules(&mut self, raw: Vec<At<RawRules>>) -> Vec<Rule> {
        let mut rules: Vec<Rule> = Vec::with_capacity(raw.len());
        for at in raw {
            let place = at.place();
            let named = at.value.name.as_ref().map_or_else(|| place.clone(), At::place);
            let Some(rule) = self.message_rule(at) else { continue };
            if rules.iter().any(|other| other.name == rule.name) {
                self.wrong(&named, format!("there is a rule \"{}\" already", rule.name));
            } else if rules.len() >= RULES_MAX {
                self.wrong(&place, format!("there may be {RULES_MAX} rules at most"));
            }
            rules.push(rule);
        }
        rules
    }

    fn message_rule(&mut self, at: At<RawRules>) -> Option<Rule> {
        let place = at.place();
        let RawRules { name, filter, where_, topic, payload, qos, retain, window, by, max_keys, max_payload } =
            at.value;
        let name = self.name(&place, name);
        let filter = match filter {
            Some(filter) => self.queue_filter(&place, Some(filter)),
            None => {
                self.wrong(&place, "needs `filter`: the topics whose messages it looks at");
                None
            }
        };
        let condition = where_.map(|at| self.expression(&at));
        let topic = self.rule_topic(&place, topic);
        let by = by.map(|by| {
            if window.is_none() {
                self.wrong(&by, "is for a window: set `window`, or leave it out");
            }
            self.expression(&by)
        });
        let mut aggregates = Vec::new();
        let payload = match (&window, payload) {
            (Some(window), None) => {
                let what = "needs `payload`, what is made of its messages, such as \"{'mean': mean(payload.t)}\"";
                self.wrong(window, what);
                None
            }
            (Some(_), Some(at)) => {
                let read = Expression::read_aggregates(&at.value, &OF_MESSAGE, &OF_WINDOW);
                let read = read.map_err(|why| self.wrong(&at, why)).ok();
                Some(read.map(|(payload, found)| {
                    aggregates = found;
                    payload
                }))
            }
            (None, payload) => payload.map(|at| self.expression(&at)),
        };
        // What is wrong has been said, with all that is wrong beside it.
        let window = match window {
            Some(at) => {
                let max_keys = number(max_keys, defaults::RULE_MAX_KEYS);
                Some(WindowRule { length: at.value, by: transposed(by)?, aggregates, max_keys })
            }
            None => None,
        };
        Some(Rule {
            name: name?,
            filter: filter?,
            condition: transposed(condition)?,
            topic: topic?,
            payload: transposed(payload)?,
            qos: qos.map(|at| number(Some(at), 0)),
            retain: retain.is_some_and(|at| at.value),
            max_payload: bytes(max_payload, defaults::RULE_MAX_PAYLOAD),
            window,
        })
    }

    fn expression(&mut self, at: &At<String>) -> Option<Expression> {
        Expression::read(&at.value, &OF_MESSAGE).map_err(|why| self.wrong(at, why)).ok()
    }

    fn rule_topic(&mut self, place: &At<()>, at: Option<At<String>>) -> Option<Template> {
        let Some(at) = at else {
            self.wrong(place, "needs `topic`: where what it makes is published");
            return None;
        };
        let template = self.template(&at)?;
        if template.names_bridge() {
            self.wrong(&at, "has {bridge}, and a rule is of none");
        } else if template.beginning().starts_with('$') {
            self.wrong(&at, format!("\"{}\" begins with $: such topics are the broker's own", at.value));
        } else if template.is_constant() && template.beginning().contains(['+', '#', '\0']) {
            self.wrong(&at, format!("\"{}\" has a wildcard, and is a topic to publish on", at.value));
        }
        Some(template)
    }
}

/// `None`: it is there, and wrong.
fn transposed<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    match read {
        Some(None) => None,
        Some(Some(right)) => Some(Some(right)),
        None => Some(None),
    }
}

impl Config {
    /// The rule of this name.
    #[must_use]
    pub fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.name == name)
    }
}
