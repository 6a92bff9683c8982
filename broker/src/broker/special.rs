//! Publications that are more than their topic says: delayed ones, those that say which they are, and schedules. Most are
//! none of them, and are told by one look at each byte of their properties.

use forebay_wire::property::id;

use crate::{delayed, origins, schedules};

/// Whether the publications of a topic may be such, and are worth being asked in earnest.
pub(super) fn is_special(topic: &str) -> bool {
    [delayed::PREFIX, origins::PREFIX, schedules::PREFIX].into_iter().any(|prefix| topic.starts_with(prefix))
}

/// Whether a publication with these properties may be one.
pub(super) fn may_be_special(properties: &[u8]) -> bool {
    properties.split(|byte| *byte == id::USER_PROPERTY).skip(1).any(is_marked)
}

/// Whether what follows the identifier of a user property is a name that means something: its length, and itself.
fn is_marked(property: &[u8]) -> bool {
    [origins::SEQ, delayed::DELIVER_AFTER, delayed::DELIVER_AT].into_iter().any(|name| {
        let length =
            property.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_be_bytes(*length)), rest));
        length.is_some_and(|(length, rest)| length == name.len() && rest.starts_with(name.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::put_user;

    fn user(key: &str, value: &str) -> Vec<u8> {
        let mut properties = Vec::new();
        put_user(&mut properties, key, value);
        properties
    }

    #[test]
    fn topics_tell() {
        assert!(is_special("$delayed/5/a") && is_special("$once/p/1.2/a") && is_special("$schedule/a"));
        assert!(!is_special("a/$once/b") && !is_special("$dead/a"));
    }

    #[test]
    fn properties_tell() {
        for key in ["seq", "deliver-after", "deliver-at"] {
            let all = [user("origin", "a & b"), user(key, "1"), vec![0x01, 1]].concat();
            assert!(may_be_special(&all), "{key}");
            let cut = all.len() - 3 - 2 - 1;
            assert!(!may_be_special(&all[..cut]), "a name that is cut");
        }
        for key in ["sequence", "seq ", "deliver", "deliver-above", "origin", ""] {
            assert!(!may_be_special(&user(key, "seq")), "{key}");
        }
        assert!(!may_be_special(&[0x26]) && !may_be_special(&[0x26, 0, 3]));
    }
}
