//! Paths and queries of requests.

/// A request's query, decoded. A name that is not known is an error: one that is misspelt must not be ignored.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads it.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let read = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(&name.replace('+', " "))?, decode(&value.replace('+', " "))?))
        });
        read.collect::<Result<_, String>>().map(Self)
    }

    /// Complains of a name that is not among `known`.
    pub(super) fn check(&self, known: &[&str]) -> Result<(), String> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) if known.is_empty() => Err(format!("no parameter \"{name}\"; there are none here")),
            Some((name, _)) => Err(format!("no parameter \"{name}\"; there are {}", known.join(", "))),
            None => Ok(()),
        }
    }

    /// The value of a name.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// The number of a name.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("{name} must be a whole number, is \"{text}\""))
    }
}

/// Text from its percent-encoded form.
pub(super) fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(format!("\"{text}\" has a % without two hexadecimal digits"));
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    String::from_utf8(bytes).map_err(|_| format!("\"{text}\" is not UTF-8"))
}

/// Text as one segment of a path, or as a value of a query.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn any_text_comes_back() {
        for text in ["", "plain", "a/b c+d", "50 %", "naïve ✓", "%2F", "a&b=c"] {
            assert_eq!(decode(&encode(text)).unwrap(), text);
        }
        for wrong in ["%", "%2", "%zz", "%ff"] {
            assert!(decode(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_query_is_read_and_what_is_not_known_is_said() {
        let query = Query::parse("filter=a%2Fb&limit=10&&x").unwrap();
        assert_eq!(query.text("filter"), Some("a/b"));
        assert_eq!(query.number("limit"), Ok(Some(10)));
        assert_eq!(query.number("none"), Ok(None));
        assert!(query.number("filter").is_err());
        assert_eq!(query.check(&["filter", "limit"]), Err("no parameter \"x\"; there are filter, limit".to_owned()));
        assert_eq!(query.check(&["filter", "limit", "x"]), Ok(()));
    }
}
