//! A listener's mount point: what stands before every topic of its clients. Whatever lies below this module knows whole topics only;
//! a session leaves the mount point out again when it encodes a message.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::SystemTime;

use forebay_wire::reason::ReasonCode;
use forebay_wire::topic;

use crate::access::Rights;
use crate::codec::{Connect, Subscribe};
use crate::message::Message;
use crate::session::Authority;

/// The whole topic name for what a client calls `name`.
///
/// # Errors
/// It is the broker's own, which is not there below a mount point, or it is too long for a topic.
pub(super) fn whole_name(mount_point: &str, name: &str, levels_max: usize) -> Result<String, ReasonCode> {
    if name.starts_with('$') {
        return Err(ReasonCode::NotAuthorized);
    }
    let whole = format!("{mount_point}{name}");
    let fits = whole.len() <= usize::from(u16::MAX) && topic::check_name(&whole, levels_max).is_ok();
    if fits { Ok(whole) } else { Err(ReasonCode::TopicNameInvalid) }
}

/// The whole topic filter for what a client calls `filter`: a shared subscription keeps its group.
///
/// # Errors
/// As of [`whole_name`].
pub(super) fn whole_filter(mount_point: &str, filter: &str, levels_max: usize) -> Result<String, ReasonCode> {
    let (share, plain) = match topic::split_share(filter) {
        Some(shared) => (filter.strip_suffix(shared.filter).unwrap_or_default(), shared.filter),
        None => ("", filter),
    };
    if plain.starts_with('$') {
        return Err(ReasonCode::NotAuthorized);
    }
    let whole = format!("{share}{mount_point}{plain}");
    let fits = whole.len() <= usize::from(u16::MAX) && topic::check_filter(&whole, levels_max).is_ok();
    if fits { Ok(whole) } else { Err(ReasonCode::TopicFilterInvalid) }
}

/// The packet with whole filters; one that cannot be is refused by itself.
pub(super) fn with_whole_filters(mount_point: &str, packet: &Subscribe, levels_max: usize) -> Subscribe {
    let mut whole = packet.clone();
    for filter in &mut whole.filters {
        match whole_filter(mount_point, &filter.filter, levels_max) {
            Ok(text) => filter.filter = text,
            Err(reason) => filter.valid = filter.valid.and(Err(reason)),
        }
    }
    whole
}

/// Gives the will its whole topic.
///
/// # Errors
/// As of [`whole_name`].
pub(super) fn mount_will(mount_point: &str, connect: &mut Connect, levels_max: usize) -> Result<(), ReasonCode> {
    if let Some(will) = &mut connect.will {
        will.topic = whole_name(mount_point, &will.topic, levels_max)?;
    }
    Ok(())
}

/// What a client may do that comes by a mount point: nothing outside of it, whatever its session was subscribed to before.
#[derive(Debug)]
pub(super) struct Mounted {
    pub(super) mount_point: Box<str>,
    pub(super) rights: Option<Arc<Rights>>,
}

impl Mounted {
    /// Whether a topic, or the topics of a filter, lie below the mount point.
    fn has(&self, topic: &str) -> bool {
        topic.strip_prefix(&*self.mount_point).is_some_and(|own| !own.is_empty())
    }
}

impl Authority for Mounted {
    fn user(&self) -> Option<&str> {
        self.rights.as_ref().and_then(|rights| rights.who().user.as_deref())
    }

    fn may_receive(&self, topic: &str) -> bool {
        self.has(topic) && self.rights.as_ref().is_none_or(|rights| rights.may_receive(topic))
    }

    fn may_leave_will(&self, will: &Message) -> bool {
        self.rights.as_ref().is_none_or(|rights| rights.may_leave_will(will.topic(), will.qos, will.retain))
    }

    fn may_keep(&self, filter: &str) -> bool {
        self.has(topic::without_share(filter)) && self.rights.as_ref().is_none_or(|rights| rights.may_keep(filter))
    }

    fn note_standing(&self, filters: &[String]) {
        if let Some(rights) = &self.rights {
            rights.note_standing(filters);
        }
    }

    fn is_valid(&self) -> bool {
        self.rights.as_ref().is_none_or(|rights| rights.is_valid())
    }

    fn expires(&self) -> Option<SystemTime> {
        self.rights.as_ref().and_then(|rights| rights.expires())
    }

    fn depends_on(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.mount_point, self.rights.as_ref().map(|rights| rights.depends_on())).hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_filters_get_what_stands_before_them() {
        let name = |name| whole_name("site/7/", name, 5);
        assert_eq!(name("a/b"), Ok("site/7/a/b".to_owned()));
        assert_eq!(name("/a"), Ok("site/7//a".to_owned()));
        assert_eq!(name("$SYS/x"), Err(ReasonCode::NotAuthorized));
        assert_eq!(name("a/b/c/d"), Err(ReasonCode::TopicNameInvalid));
        assert_eq!(name(&"a".repeat(65_535)), Err(ReasonCode::TopicNameInvalid));
        let filter = |filter| whole_filter("site/7/", filter, 5);
        assert_eq!(filter("#"), Ok("site/7/#".to_owned()));
        assert_eq!(filter("$share/g/+/b"), Ok("$share/g/site/7/+/b".to_owned()));
        assert_eq!(filter("$share/g/g"), Ok("$share/g/site/7/g".to_owned()));
        for own in ["$SYS/#", "$share/g/$SYS/#", "$queue/jobs"] {
            assert_eq!(filter(own), Err(ReasonCode::NotAuthorized), "{own}");
        }
        assert_eq!(filter("a/b/c/#"), Err(ReasonCode::TopicFilterInvalid));
    }

    #[test]
    fn nothing_outside_is_allowed() {
        let mounted = Mounted { mount_point: "site/7/".into(), rights: None };
        for (topic, may) in
            [("site/7/a", true), ("site/7/", false), ("site/7", false), ("site/70/a", false), ("a", false)]
        {
            assert_eq!(mounted.may_receive(topic), may, "{topic}");
        }
        for (filter, may) in [("site/7/#", true), ("$share/g/site/7/a", true), ("site/#", false), ("$share/g/a", false)]
        {
            assert_eq!(mounted.may_keep(filter), may, "{filter}");
        }
    }
}
