//! Fields of JSON payloads, for templates: all that a message's templates want is read in one pass, and nothing else is kept.
//!
//! What nobody wants is skipped without recursion, so that deep nesting costs no more than its bytes.

use std::borrow::Cow;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::Missing;

/// Bytes of a payload of which fields are read.
pub const PAYLOAD_MAX: usize = 1 << 20;
/// Names and indexes of one path.
const STEPS_MAX: usize = 32;

/// The way to a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// As it is written in a template.
    written: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    /// In an object.
    name: String,
    /// In an array.
    index: Option<usize>,
}

impl Path {
    /// `a.list.0`; `None`: it is no path.
    #[must_use]
    pub fn dotted(text: &str) -> Option<Self> {
        Self::of(text, text.split('.').map(|name| Some(name.to_owned())))
    }

    /// `a/list/0`, a JSON pointer without its first `/`: `~1` is a `/` in a name, and `~0` a `~` (RFC 6901). `None`: it is no path.
    #[must_use]
    pub fn pointer(text: &str) -> Option<Self> {
        let name = |token: &str| {
            let is_escape = |rest: &str| rest.starts_with(['0', '1']);
            let escapes = token.split('~').skip(1).all(is_escape);
            escapes.then(|| token.replace("~1", "/").replace("~0", "~"))
        };
        Self::of(text, text.split('/').map(name))
    }

    fn of(written: &str, names: impl Iterator<Item = Option<String>>) -> Option<Self> {
        let step = |name: Option<String>| {
            let name = name.filter(|name| !name.is_empty())?;
            let index = name.parse().ok().filter(|n: &usize| n.to_string() == name);
            Some(Step { name, index })
        };
        let steps: Option<Vec<Step>> = names.map(step).collect();
        let steps = steps.filter(|steps| steps.len() <= STEPS_MAX)?;
        Some(Self { written: written.to_owned(), steps })
    }
}

/// Why a payload has no text for a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Lack {
    Absent,
    TooLarge(usize),
    NotJson {
        line: usize,
        column: usize,
    },
    NotUtf8,
    /// A name on the way to it comes twice in its object: what it means is anybody's guess.
    Twice,
    Is(&'static str),
}

/// Some of what was wanted.
type Which = SmallVec<[usize; 4]>;

/// What was wanted of a payload.
#[derive(Debug, Default)]
pub struct Fields<'a> {
    all: Vec<(&'a Path, Result<String, Lack>)>,
}

impl<'a> Fields<'a> {
    /// Reads these of a payload. Where nothing is wanted, the payload is not looked at.
    pub fn read(payload: &[u8], wanted: impl Iterator<Item = &'a Path>) -> Self {
        let mut fields = Self { all: wanted.map(|path| (path, Err(Lack::Absent))).collect() };
        if fields.all.is_empty() {
            return fields;
        }
        if let Err(lack) = fields.walk(payload) {
            fields.all.iter_mut().for_each(|(_, found)| *found = Err(lack.clone()));
        }
        fields
    }

    fn walk(&mut self, payload: &[u8]) -> Result<(), Lack> {
        if payload.len() > PAYLOAD_MAX {
            return Err(Lack::TooLarge(payload.len()));
        }
        let text = std::str::from_utf8(payload).map_err(|_| Lack::NotUtf8)?;
        let not_json = |error: serde_json::Error| Lack::NotJson { line: error.line(), column: error.column() };
        let mut json = serde_json::Deserializer::from_str(text);
        let through = (0..self.all.len()).collect();
        Walk { fields: self, through, depth: 0 }.deserialize(&mut json).map_err(not_json)?;
        json.end().map_err(not_json)
    }

    /// The text of a field: of a string what it says, of a number and of a truth value what is written.
    ///
    /// # Errors
    /// The payload has none.
    pub fn get(&self, path: &Path) -> Result<&str, Missing> {
        let found = self.all.iter().find(|(wanted, _)| *wanted == path);
        let lack = match found {
            Some((_, Ok(text))) => return Ok(text),
            Some((_, Err(lack))) => lack,
            None => &Lack::Absent,
        };
        Err(Missing::field(&path.written, &lack.words()))
    }

    fn put(&mut self, which: &[usize], found: &Result<String, Lack>) {
        for n in which {
            if let Some((_, at)) = self.all.get_mut(*n) {
                at.clone_from(found);
            }
        }
    }

    /// Those of them whose step at this depth is so.
    fn with(&self, which: &[usize], depth: usize, is: impl Fn(&Step) -> bool) -> Which {
        let step = |n: &usize| self.all.get(*n).and_then(|(path, _)| path.steps.get(depth));
        which.iter().filter(|n| step(n).is_some_and(&is)).copied().collect()
    }

    /// Those of them that end at this depth.
    fn ending(&self, which: &[usize], depth: usize) -> Which {
        let ends = |n: &&usize| self.all.get(**n).is_some_and(|(path, _)| path.steps.len() == depth);
        which.iter().filter(ends).copied().collect()
    }
}

impl Lack {
    /// A payload is never in it.
    fn words(&self) -> Cow<'static, str> {
        match self {
            Self::Absent => "".into(),
            Self::TooLarge(size) => format!(": the payload has {size} bytes, and {PAYLOAD_MAX} are read").into(),
            Self::NotJson { line, column } => {
                format!(": the payload is not JSON, see line {line}, column {column}").into()
            }
            Self::NotUtf8 => ": the payload is not UTF-8".into(),
            Self::Twice => ": its name, or one before it, comes twice".into(),
            Self::Is(what) => format!(": it is {what}, and a string, a number, true or false is wanted").into(),
        }
    }
}

/// A value on the way to fields.
struct Walk<'r, 'a> {
    fields: &'r mut Fields<'a>,
    /// Those whose way goes through it.
    through: Which,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let ending = self.fields.ending(&self.through, self.depth);
        if ending.is_empty() {
            return from.deserialize_any(self);
        }
        // A way that goes on behind another's end finds nothing: one of the two wants what is not there, whatever this is.
        let raw = <&RawValue>::deserialize(from)?;
        self.fields.put(&ending, &scalar(raw.get()));
        Ok(())
    }
}

fn scalar(json: &str) -> Result<String, Lack> {
    match json.as_bytes().first() {
        Some(b'{') => Err(Lack::Is("an object")),
        Some(b'[') => Err(Lack::Is("an array")),
        Some(b'n') => Err(Lack::Is("null")),
        Some(b'"') => serde_json::from_str(json).map_err(|_| Lack::Is("a string with half a character")),
        _ => Ok(json.to_owned()),
    }
}

impl<'de> Visitor<'de> for Walk<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen: Which = SmallVec::new();
        while let Some(through) = map.next_key_seed(Name(&self))? {
            let (mut again, mut first): (Which, Which) = Default::default();
            for n in through {
                if seen.contains(&n) { again.push(n) } else { first.push(n) }
            }
            if first.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                seen.extend_from_slice(&first);
                map.next_value_seed(Walk { fields: &mut *self.fields, through: first, depth: self.depth + 1 })?;
            }
            self.fields.put(&again, &Err(Lack::Twice));
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        for index in 0.. {
            let through = self.fields.with(&self.through, self.depth, |step| step.index == Some(index));
            let more = if through.is_empty() {
                list.next_element::<IgnoredAny>()?.is_some()
            } else {
                let walk = Walk { fields: &mut *self.fields, through, depth: self.depth + 1 };
                list.next_element_seed(walk)?.is_some()
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    // The way ends here, before the field.
    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A name in the object of this walk: whose way goes on there.
struct Name<'w, 'r, 'a>(&'w Walk<'r, 'a>);

impl<'de> DeserializeSeed<'de> for Name<'_, '_, '_> {
    type Value = Which;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_, '_, '_> {
    type Value = Which;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        let Self(Walk { fields, through, depth }) = self;
        Ok(fields.with(through, *depth, |step| step.name == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, payload: &str) -> Result<String, String> {
        let path = Path::pointer(path).unwrap();
        let fields = Fields::read(payload.as_bytes(), [&path].into_iter());
        fields.get(&path).map(str::to_owned).map_err(|missing| missing.to_string())
    }

    #[test]
    fn a_field_is_found_as_it_is_written() {
        for (path, payload, text) in [
            ("a", r#"{"a":"x"}"#, "x"),
            ("a", r#" {"b":{"a":1}, "a" : "é\n\"" } "#, "é\n\""),
            ("n", r#"{"n":1.50}"#, "1.50"),
            ("n", r#"{"n":-0}"#, "-0"),
            ("n", r#"{"n":1E400}"#, "1E400"),
            ("n", r#"{"n":123456789012345678901234567890}"#, "123456789012345678901234567890"),
            ("on", r#"{"on":false}"#, "false"),
            ("list/1/x", r#"{"list":[{"x":1},{"x":2},{"x":3}]}"#, "2"),
            ("0", "[7]", "7"),
            ("0", r#"{"0":"a name, not an index"}"#, "a name, not an index"),
            ("a~1b/~01", r#"{"a/b":{"~1":true}}"#, "true"),
            ("a.b", r#"{"a":{"b":1},"a.b":2}"#, "2"),
            ("b", r#"{"a":1,"a":2,"b":3}"#, "3"),
        ] {
            assert_eq!(get(path, payload).as_deref(), Ok(text), "{path} of {payload}");
        }
    }

    #[test]
    fn what_is_not_there_is_said() {
        for (path, payload, why) in [
            ("a", "{}", ""),
            ("a/b", r#"{"a":1}"#, ""),
            ("a/b", r#"{"a":[1]}"#, ""),
            ("list/01", r#"{"list":[1,2]}"#, ""),
            ("a", r#"{"a":{}}"#, ": it is an object, and a string, a number, true or false is wanted"),
            ("a", r#"{"a":[1]}"#, ": it is an array, and a string, a number, true or false is wanted"),
            ("a", r#"{"a":null}"#, ": it is null, and a string, a number, true or false is wanted"),
            (
                "a",
                r#"{"a":"\ud800"}"#,
                ": it is a string with half a character, and a string, a number, true or false is wanted",
            ),
            ("a", r#"{"a":1,"a":1}"#, ": its name, or one before it, comes twice"),
            ("a/b", r#"{"a":{"b":1},"a":2}"#, ": its name, or one before it, comes twice"),
            ("a", "", ": the payload is not JSON, see line 1, column 0"),
            ("a", "secret", ": the payload is not JSON, see line 1, column 1"),
            ("a", r#"{"a":1}x"#, ": the payload is not JSON, see line 1, column 8"),
            ("a", r#"{"a":1,}"#, ": the payload is not JSON, see line 1, column 8"),
        ] {
            let said = get(path, payload).unwrap_err();
            assert_eq!(said, format!("the message has no field {path} in a JSON payload{why}"), "{payload}");
        }
        let path = Path::dotted("a").unwrap();
        let fields = Fields::read(b"\"\xff\"", [&path].into_iter());
        assert!(fields.get(&path).unwrap_err().to_string().ends_with("the payload is not UTF-8"));
    }

    #[test]
    fn all_are_found_in_one_pass() {
        let paths = ["a.b", "c", "a.d.0", "a.b"].map(|text| Path::dotted(text).unwrap());
        let fields = Fields::read(br#"{"a":{"d":[5],"b":6},"c":7}"#, paths.iter());
        assert_eq!(paths.each_ref().map(|path| fields.get(path).unwrap()), ["6", "7", "5", "6"]);
        // An end and a way through it: each message lacks one of them.
        let paths = ["a", "a.b"].map(|text| Path::dotted(text).unwrap());
        let fields = Fields::read(br#"{"a":{"b":6}}"#, paths.iter());
        assert!(paths.iter().all(|path| fields.get(path).is_err()));
    }

    #[test]
    fn size_and_depth_are_bounded() {
        let of = |size: usize| {
            let payload = format!("{{\"a\":1,\"b\":\"{}\"}}", " ".repeat(size - 14));
            assert_eq!(payload.len(), size);
            get("a", &payload)
        };
        assert_eq!(of(PAYLOAD_MAX).as_deref(), Ok("1"));
        let why = "the message has no field a in a JSON payload: the payload has 1048577 bytes, and 1048576 are read";
        assert_eq!(of(PAYLOAD_MAX + 1), Err(why.to_owned()));
        let (open, close) = ("[".repeat(400_000), "]".repeat(400_000));
        assert_eq!(get("a", &format!("{{\"x\":{open}{close},\"a\":1}}")).as_deref(), Ok("1"));
        assert!(get("a", &format!("{{\"a\":{open}{close}}}")).unwrap_err().contains("an array"));
        assert!(get("a", &format!("{{\"x\":{open},\"a\":1}}")).unwrap_err().contains("the payload is not JSON"));
        let steps = |n: usize| Path::dotted(&vec!["0"; n].join("."));
        assert!(steps(STEPS_MAX).is_some() && steps(STEPS_MAX + 1).is_none());
        let deepest = steps(STEPS_MAX).unwrap();
        let payload = format!("{}1{}", "[".repeat(STEPS_MAX), "]".repeat(STEPS_MAX));
        assert_eq!(Fields::read(payload.as_bytes(), [&deepest].into_iter()).get(&deepest), Ok("1"));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        assert!(["", ".", "a.", "a..b"].into_iter().all(|text| Path::dotted(text).is_none()));
        assert!(["", "/", "a//b", "a~", "a~2", "~~1"].into_iter().all(|text| Path::pointer(text).is_none()));
    }
}
