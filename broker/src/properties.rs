//! User properties among the encoded properties of a message.

use forebay_wire::property::{Place, Properties, Property, id};

/// The first user property of this name.
#[must_use]
pub fn user_property<'a>(properties: &'a [u8], wanted: &str) -> Option<&'a str> {
    for spanned in Properties::new(properties, Place::Publish).flatten() {
        if let Property::UserProperty(name, value) = spanned.property
            && name == wanted
        {
            return Some(value);
        }
    }
    None
}

/// All user properties, in order.
pub fn user_properties(properties: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    Properties::new(properties, Place::Publish).flatten().filter_map(|spanned| {
        if let Property::UserProperty(name, value) = spanned.property { Some((name, value)) } else { None }
    })
}

/// The last user property of this name: one that the broker has appended, if it did.
#[must_use]
pub fn last_user_property<'a>(properties: &'a [u8], wanted: &str) -> Option<&'a str> {
    let mut found = None;
    for spanned in Properties::new(properties, Place::Publish).flatten() {
        if let Property::UserProperty(name, value) = spanned.property
            && name == wanted
        {
            found = Some(value);
        }
    }
    found
}

/// Appends those that are no user properties, as they are.
pub fn put_others(out: &mut Vec<u8>, properties: &[u8]) {
    for spanned in Properties::new(properties, Place::Publish).flatten() {
        if !matches!(spanned.property, Property::UserProperty(..)) {
            out.extend_from_slice(spanned.bytes);
        }
    }
}

/// Appends a user property. Name and value have at most 65,535 bytes.
pub fn put_user(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(id::USER_PROPERTY);
    for text in [name, value] {
        out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
}
