//! Patterns: `%u`, `%c`, `%g` and `%{FIELD}` in a topic filter, `*` in a name.

use std::borrow::Cow;

use crate::access::Principal;
use crate::certificate::Certificate;

/// One piece of a pattern.
enum Piece<'a> {
    Text(&'a str),
    User,
    Client,
    Group,
    Field(&'a str),
}

/// The pieces of a pattern; a `%` that begins nothing known is itself.
fn pieces(pattern: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = pattern;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(behind) = rest.strip_prefix('%') else {
            let (text, after) = rest.split_at(rest.find('%').unwrap_or(rest.len()));
            rest = after;
            return Some(Piece::Text(text));
        };
        for (name, piece) in [("u", Piece::User), ("c", Piece::Client), ("g", Piece::Group)] {
            if let Some(after) = behind.strip_prefix(name) {
                rest = after;
                return Some(piece);
            }
        }
        if let Some((field, after)) = behind.strip_prefix('{').and_then(|behind| behind.split_once('}')) {
            rest = after;
            return Some(Piece::Field(field));
        }
        rest = behind;
        Some(Piece::Text("%"))
    })
}

/// Whether a pattern names a field that no certificate has.
pub(super) fn unknown_field(pattern: &str) -> bool {
    pieces(pattern).any(|piece| matches!(piece, Piece::Field(field) if !Certificate::FIELDS.contains(&field)))
}

/// Whether the pattern, filled in for this client, is one that `found` wants; with `%g` each of its groups is tried. A name that is
/// empty or has `/`, `+` or `#` in it fills nothing in: it would open more than its owner's place.
pub(in crate::access) fn fill(
    pattern: &str,
    who: &Principal,
    groups: &[Box<str>],
    found: &mut dyn FnMut(&str) -> bool,
) -> bool {
    if !pattern.contains('%') {
        return found(pattern);
    }
    if !pieces(pattern).any(|piece| matches!(piece, Piece::Group)) {
        return filled(pattern, who, None).is_some_and(|filter| found(&filter));
    }
    let groups = groups.iter().map(|group| &**group).chain(who.groups.iter().map(|group| &**group));
    groups.into_iter().any(|group| filled(pattern, who, Some(group)).is_some_and(|filter| found(&filter)))
}

fn filled(pattern: &str, who: &Principal, group: Option<&str>) -> Option<String> {
    let mut out = String::with_capacity(pattern.len() + 32);
    for piece in pieces(pattern) {
        let name = match piece {
            Piece::Text(text) => {
                out.push_str(text);
                continue;
            }
            Piece::User => who.user.as_deref()?,
            Piece::Client => &who.client_id,
            Piece::Group => group?,
            Piece::Field(field) => who.certificate.as_ref()?.field(field)?,
        };
        if name.is_empty() || name.contains(['/', '+', '#']) {
            return None;
        }
        out.push_str(name);
    }
    Some(out)
}

/// Whether a name matches: `*` stands for any characters, also for none.
pub(super) fn glob(glob: &str, name: &str) -> bool {
    let Some((first, mut rest)) = glob.split_once('*') else { return glob == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    loop {
        let Some((middle, after)) = rest.split_once('*') else { return name.ends_with(rest) };
        let Some((_, behind)) = name.split_once(middle) else { return false };
        (name, rest) = (behind, after);
    }
}

/// `${clientid}` and `${username}`, as tokens of other brokers have them, in our words.
pub(super) fn of_tokens(topic: &str) -> Cow<'_, str> {
    if !topic.contains("${") {
        return Cow::Borrowed(topic);
    }
    Cow::Owned(topic.replace("${clientid}", "%c").replace("${username}", "%u"))
}
