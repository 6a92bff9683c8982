//! The smallest ACL that allows what was seen, as a file that the broker reads.
//!
//! ```text
//!   topic ──► a level that is the user name or client identifier: %u, %c
//!         ──► topics that differ in one level, more than so many: `+`
//!         ──► what another one covers goes ──► rules of each user, with what is wider than what was seen in comments
//! ```
//!
//! Nothing is made so wide that it allows what was denied.

mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use forebay_wire::topic::without_share;

use super::{Kind, Seen};
use crate::access::acl::covers;

/// Levels beyond this one stay as they are.
const PLACES_MAX: usize = 32;
/// Topics of others that a comment names.
const NAMED_MAX: usize = 3;

/// How the file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Mosquitto,
    Toml,
}

/// What is learned, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Learn<'a> {
    pub(crate) format: Format,
    /// So many topics may differ in one level; of more a `+` is made.
    pub(crate) most_alike: usize,
    /// For the first line: `in the last 1h`.
    pub(crate) when: &'a str,
}

/// The levels of a topic filter.
type Levels = Vec<String>;

/// Which way messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Publish,
    Subscribe,
}

impl Way {
    const BOTH: [Self; 2] = [Self::Publish, Self::Subscribe];

    fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Publish { .. } | Kind::Will { .. } => Some(Self::Publish),
            Kind::Subscribe | Kind::Receive => Some(Self::Subscribe),
            Kind::Connect => None,
        }
    }
}

/// A topic filter that a user is allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Allowed {
    filter: String,
    /// What it allows beyond what was seen, for people.
    notes: Vec<String>,
}

/// The rules of one user.
#[derive(Clone, Debug, Default)]
struct OfUser {
    publish: Vec<Allowed>,
    subscribe: Vec<Allowed>,
    /// Something that it published was retained.
    retains: bool,
    /// Topics below its subscriptions that it did not get.
    withheld: BTreeSet<String>,
    /// What no rule can say, for people.
    left_out: Vec<String>,
}

/// The file's text. What was denied is not in it.
pub(crate) fn learn(seen: &[Seen], how: &Learn<'_>) -> String {
    let mut users: BTreeMap<Option<&str>, Vec<&Seen>> = BTreeMap::new();
    for one in seen {
        users.entry(user_of(one)).or_default().push(one);
    }
    // With another QoS, or without RETAIN, it was allowed: the topic is not what was wrong.
    let allowed: BTreeSet<_> = seen.iter().filter(|one| one.allowed).map(topic_of).collect();
    let is_denied = |one: &&Seen| !one.allowed && !allowed.contains(&topic_of(one));
    let denied: Vec<&Seen> = seen.iter().filter(is_denied).collect();
    users.retain(|_, own| own.iter().any(|one| one.allowed));
    let lessons =
        |(user, own): (&Option<&str>, &Vec<&Seen>)| Lessons { seen, own, denied: &denied, how, user: *user }.rules();
    let rules = users.iter().map(|of| (*of.0, lessons(of))).collect();
    let mut out = format!(
        "# Made by `forebay acl learn` from what {} users did {}: {} different things.\n",
        users.len(),
        how.when,
        seen.iter().filter(|one| one.allowed).count()
    );
    if !denied.is_empty() {
        let _ = writeln!(out, "# {} more were denied, and are not allowed here.", denied.len());
    }
    out.push_str("# Read it before it is used: what was not seen is denied.\n");
    match how.format {
        Format::Mosquitto => text::mosquitto(&rules, &mut out),
        Format::Toml => text::toml(&rules, &mut out),
    }
    out
}

fn topic_of(seen: &Seen) -> (Option<&str>, &str, Option<Way>, &str) {
    (user_of(seen), &seen.who.client_id, Way::of(seen.kind), without_share(&seen.topic))
}

fn user_of(seen: &Seen) -> Option<&str> {
    seen.who.user.as_deref()
}

fn levels(filter: &str) -> Levels {
    filter.split('/').map(str::to_owned).collect()
}

/// What one user's rules are made from.
struct Lessons<'a> {
    seen: &'a [Seen],
    /// Its own.
    own: &'a [&'a Seen],
    /// Of all.
    denied: &'a [&'a Seen],
    how: &'a Learn<'a>,
    user: Option<&'a str>,
}

impl<'a> Lessons<'a> {
    fn own(&self) -> impl Iterator<Item = &'a Seen> {
        self.own.iter().copied()
    }

    fn rules(&self) -> OfUser {
        let mut rules = OfUser::default();
        if let Some(why) = self.user.and_then(|user| text::unsayable_user(user, self.how.format)) {
            rules.left_out.push(why);
            return rules;
        }
        for way in Way::BOTH {
            let learned = self.filters(way, &mut rules.left_out);
            match way {
                Way::Publish => rules.publish = learned,
                Way::Subscribe => rules.subscribe = learned,
            }
        }
        let retains = |one: &Seen| one.allowed && one.kind.flags().is_some_and(|(_, retain)| retain);
        rules.retains = self.own().any(retains);
        self.withhold(&mut rules);
        rules
    }

    /// Topics that it may publish on, or filters that it may subscribe to.
    fn filters(&self, way: Way, left_out: &mut Vec<String>) -> Vec<Allowed> {
        let mut filters: BTreeMap<Levels, bool> = BTreeMap::new();
        for one in self.own().filter(|one| one.allowed) {
            // A message that comes is covered by the subscription that brings it.
            if Way::of(one.kind) != Some(way) || one.kind == Kind::Receive {
                continue;
            }
            match self.pattern(one, way) {
                Some(levels) => {
                    filters.insert(levels, false);
                }
                None => left_out.push(format!("{:?} cannot be written in this syntax", one.topic)),
            }
        }
        self.widen(&mut filters, way);
        let is_wild = |levels: &&Levels| levels.iter().any(|level| level == "+" || level == "#");
        let wild: Vec<String> = filters.keys().filter(is_wild).map(|levels| levels.join("/")).collect();
        let is_covered = |filter: &String| wild.iter().any(|other| other != filter && covers(other, filter));
        let kept = filters.into_iter().map(|(levels, widened)| (levels.join("/"), widened));
        let kept = kept.filter(|(filter, _)| !is_covered(filter));
        kept.map(|(filter, widened)| Allowed { notes: self.notes(&filter, widened), filter }).collect()
    }

    /// With `%u` and `%c`. `None` if the file cannot say it: a `+` in its place would open more.
    fn pattern(&self, one: &Seen, way: Way) -> Option<Levels> {
        let plain = levels(without_share(&one.topic));
        let named: Levels = plain.iter().map(|level| self.named(level, one).unwrap_or(level).to_owned()).collect();
        let chosen = if named != plain && self.opens(&named, way) { &plain } else { &named };
        let mut pairs = chosen.iter().zip(&plain);
        pairs.all(|(level, of)| level != of || !text::unsayable_level(level, self.how.format)).then(|| chosen.clone())
    }

    /// What stands for a level that is one of the client's names.
    fn named(&self, level: &str, one: &Seen) -> Option<&'static str> {
        let is_usable = |name: &str| !name.is_empty() && !name.contains(['/', '+', '#']);
        // mosquitto's patterns are for nobody who has a wildcard in one of the names.
        let user_fits = user_of(one).is_none_or(|user| !user.contains(['+', '#']));
        let client = &*one.who.client_id;
        if !user_fits || client.contains(['+', '#']) {
            return None;
        }
        match level {
            level if user_of(one) == Some(level) && is_usable(level) => Some("%u"),
            level if client == level && is_usable(level) => Some("%c"),
            _ => None,
        }
    }

    /// Topics that differ in one level, more than so many of them, become one: at the place where most do, until there are none.
    fn widen(&self, filters: &mut BTreeMap<Levels, bool>, way: Way) {
        loop {
            let deepest = filters.keys().map(Vec::len).max().unwrap_or(0).min(PLACES_MAX);
            let at_places = (0..deepest).map(|place| self.alike(filters, place, way));
            let most = |groups: &Vec<(Levels, Vec<Levels>)>| groups.iter().map(|(_, members)| members.len()).max();
            let Some(groups) = at_places.max_by_key(most).filter(|groups| !groups.is_empty()) else { return };
            for (widened, members) in groups {
                filters.retain(|filter, _| members.binary_search(filter).is_err());
                filters.insert(widened, true);
            }
        }
    }

    /// Those that differ at this place only, if they are more than so many.
    fn alike(&self, filters: &BTreeMap<Levels, bool>, place: usize, way: Way) -> Vec<(Levels, Vec<Levels>)> {
        let mut groups: BTreeMap<Levels, Vec<Levels>> = BTreeMap::new();
        for filter in filters.keys() {
            let mut widened = filter.clone();
            let Some(level) = widened.get_mut(place) else { continue };
            if level == "+" || level == "#" || (place == 0 && level.starts_with('$')) {
                continue;
            }
            "+".clone_into(level);
            groups.entry(widened).or_default().push(filter.clone());
        }
        let is_enough = |(widened, members): &(Levels, Vec<Levels>)| {
            members.len() > self.how.most_alike && !self.opens(widened, way)
        };
        groups.into_iter().filter(is_enough).collect()
    }

    /// Whether a rule with these levels would allow what was denied. mosquitto's patterns are for everybody.
    fn opens(&self, levels: &Levels, way: Way) -> bool {
        let is_pattern = levels.iter().any(|level| text::is_name(level));
        let for_all = is_pattern && self.how.format == Format::Mosquitto;
        let denied = self.denied.iter().filter(|one| Way::of(one.kind) == Some(way));
        denied
            .filter(|one| for_all || user_of(one) == self.user)
            .any(|one| covers(&filled(levels, one), without_share(&one.topic)))
    }

    /// What a rule allows that this user was not seen to need.
    fn notes(&self, filter: &str, widened: bool) -> Vec<String> {
        let mut notes = Vec::new();
        if widened {
            notes.push(format!("{filter:?} is wider than what was seen"));
            notes.extend(self.of_others(filter));
        }
        if filter.split('/').any(|level| level == "%c") {
            notes.push(
                "%c: a client chooses its identifier itself, unless its listener has client_id_is_user".to_owned(),
            );
        }
        notes
    }

    /// Topics of other users that the filter covers, and that this one has not used.
    fn of_others(&self, filter: &str) -> Option<String> {
        let used: BTreeSet<&str> = self.own().map(|one| without_share(&one.topic)).collect();
        let levels = levels(filter);
        let fillings: BTreeSet<String> = self.own().map(|own| filled(&levels, own)).collect();
        let others =
            self.seen.iter().filter(|one| user_of(one) != self.user && one.allowed && one.kind != Kind::Receive);
        let covered = others.filter(|one| {
            let topic = without_share(&one.topic);
            one.kind != Kind::Connect && !used.contains(topic) && fillings.iter().any(|filter| covers(filter, topic))
        });
        let name =
            |user: Option<&str>| user.map_or_else(|| "clients without a name".to_owned(), |user| format!("{user:?}"));
        let covered: BTreeSet<String> =
            covered.map(|one| format!("{:?} of {}", without_share(&one.topic), name(user_of(one)))).collect();
        let more = covered.len().saturating_sub(NAMED_MAX);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let named = covered.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        (!covered.is_empty()).then(|| format!("it covers topics that only others have used: {named}{more}"))
    }

    /// Messages that it did not get although it was subscribed to them stay denied.
    fn withhold(&self, rules: &mut OfUser) {
        let received: BTreeSet<&str> =
            self.own().filter(|one| one.allowed && one.kind == Kind::Receive).map(|one| &*one.topic).collect();
        for one in self.own().filter(|one| !one.allowed && one.kind == Kind::Receive) {
            let covered = |rule: &Allowed| covers(&filled(&levels(&rule.filter), one), &one.topic);
            if !rules.subscribe.iter().any(covered) || received.contains(&*one.topic) {
                continue;
            }
            // mosquitto's `deny` would take PUBLISH away as well.
            let kept_open = self.how.format == Format::Mosquitto && rules.publish.iter().any(covered);
            let unsayable = one.topic.split('/').any(|level| text::unsayable_level(level, self.how.format));
            if kept_open || unsayable {
                rules.left_out.push(format!("it did not get {:?}, and would here", one.topic));
            } else {
                rules.withheld.insert(one.topic.clone());
            }
        }
    }
}

/// A rule's filter for the client of an entry.
fn filled(levels: &Levels, of: &Seen) -> String {
    let name = |level: &String| match level.as_str() {
        "%u" => user_of(of).unwrap_or("%u").to_owned(),
        "%c" => of.who.client_id.to_string(),
        _ => level.clone(),
    };
    levels.iter().map(name).collect::<Vec<_>>().join("/")
}
