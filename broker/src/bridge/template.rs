//! Where the messages of a bridge go.

use super::wrap::Wrapping;
pub use crate::template::fields::Fields;
pub use crate::template::{Fill, Missing, Template};

/// Which messages go, and where to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Topic filter, where they come from.
    pub filter: String,
    /// Topic, where they go.
    pub topic: Template,
    /// Highest QoS.
    pub qos: u8,
    /// Kafka: what decides the partition, and what compaction goes by. RocketMQ: the message group. AMQP 1.0: the group.
    pub key: Option<Template>,
    /// Kafka: the partition's number.
    pub partition: Option<Template>,
    /// RabbitMQ: the exchange.
    pub exchange: Option<Template>,
    /// RocketMQ: what consumers choose by.
    pub tag: Option<Template>,
    /// RocketMQ: after how many seconds it is to be seen.
    pub delay_s: Option<Template>,
    /// What the payload becomes.
    pub wrapping: Wrapping,
    /// The type of a CloudEvent.
    pub event_type: Option<Template>,
}

impl Rule {
    /// What its templates want of a payload that is JSON, read once for all of them.
    #[must_use]
    pub fn fields(&self, payload: &[u8]) -> Fields<'_> {
        let Self { topic, key, partition, exchange, tag, delay_s, event_type, filter: _, qos: _, wrapping: _ } = self;
        let optional = [key, partition, exchange, tag, delay_s, event_type].into_iter().flatten();
        Fields::read(payload, [topic].into_iter().chain(optional).flat_map(Template::wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_once_for_all_templates_of_a_rule() {
        let template = |text| Some(Template::parse(text).unwrap());
        let rule = Rule {
            topic: Template::parse("{json.a}").unwrap(),
            key: template("{json.b}"),
            partition: template("{json.c}"),
            exchange: template("{json.d}"),
            tag: template("{json.e}"),
            delay_s: template("{json.f}"),
            event_type: template("{json.g}"),
            ..Rule::default()
        };
        let fields = rule.fields(br#"{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7}"#);
        let from = Fill { bridge: "b", topic: "t", properties: &[], fields: &fields };
        let Rule { topic, key, partition, exchange, tag, delay_s, event_type, .. } = &rule;
        let all = [key, partition, exchange, tag, delay_s, event_type].into_iter().flatten().chain([topic]);
        let texts: Vec<_> = all.map(|template| template.fill(from).unwrap()).collect();
        assert_eq!(texts, ["2", "3", "4", "5", "6", "7", "1"]);
    }
}
