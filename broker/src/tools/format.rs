//! How `forebay sub` prints a message: the payload, with its topic, as JSON, as hex, or after a format of the user's.

use clap::Args;
use forebay_client::Received;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::exit::Failure;

/// As it is asked for.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct Show {
    /// Topic before payload
    #[arg(long, short = 'v')]
    verbose: bool,
    /// A JSON object a line: time, topic, qos, retain, payload (base64 under payload_base64 when it is not UTF-8), properties
    #[arg(long, conflicts_with_all = ["format", "hex", "verbose"])]
    json: bool,
    /// Payload in hexadecimal
    #[arg(long, conflicts_with = "format")]
    hex: bool,
    /// Payload, then properties in brackets
    #[arg(long, conflicts_with_all = ["format", "json"])]
    show_properties: bool,
    /// Time of arrival before all else
    #[arg(long, conflicts_with_all = ["format", "json"])]
    time: bool,
    /// %t topic, %p payload, %x payload in hex, %q QoS, %r retained (0, 1), %l length, %I time (RFC 3339), %U time (Unix),
    /// %E expiry, %P user properties, %C content type, %R response topic, %D correlation data, %j all as JSON, %% a percent
    /// sign; \n, \t and \\ too
    #[arg(long, short = 'F', value_name = "FORMAT", allow_hyphen_values = true, conflicts_with = "verbose")]
    format: Option<String>,
    /// No end of line after each message
    #[arg(long, short = 'N')]
    no_eol: bool,
}

/// Ready to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    parts: Vec<Part>,
    eol: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Topic,
    Payload,
    Hex,
    Qos,
    Retain,
    Length,
    Time,
    Unix,
    Expiry,
    User,
    ContentType,
    ResponseTopic,
    Correlation,
    Properties,
    Json,
}

impl Format {
    /// What it will print.
    ///
    /// # Errors
    /// A `%` or `\` that means nothing.
    pub fn new(show: &Show) -> Result<Self, Failure> {
        let eol = !show.no_eol;
        if let Some(format) = &show.format {
            return Ok(Self { parts: read(format)?, eol });
        }
        if show.json {
            return Ok(Self { parts: vec![Part::Json], eol });
        }
        let mut parts = Vec::new();
        if show.time {
            parts.extend([Part::Time, Part::Text(b" ".to_vec())]);
        }
        if show.verbose {
            parts.extend([Part::Topic, Part::Text(b" ".to_vec())]);
        }
        parts.push(if show.hex { Part::Hex } else { Part::Payload });
        if show.show_properties {
            parts.push(Part::Properties);
        }
        Ok(Self { parts, eol })
    }

    /// Prints a message into `out`.
    pub fn put(&self, received: &Received, out: &mut Vec<u8>) {
        for part in &self.parts {
            part.put(received, out);
        }
        if self.eol {
            out.push(b'\n');
        }
    }
}

fn read(format: &str) -> Result<Vec<Part>, Failure> {
    let mut parts = Vec::new();
    let mut text = Vec::new();
    let mut chars = format.chars();
    while let Some(first) = chars.next() {
        let second = if matches!(first, '%' | '\\') { chars.next() } else { None };
        let part = match (first, second) {
            ('%', Some('%')) => Err(b'%'),
            ('\\', Some('n')) => Err(b'\n'),
            ('\\', Some('t')) => Err(b'\t'),
            ('\\', Some('\\')) => Err(b'\\'),
            ('%', Some(letter)) => Ok(of_letter(letter).ok_or_else(|| unknown(first, Some(letter)))?),
            ('%' | '\\', letter) => return Err(unknown(first, letter)),
            (plain, _) => {
                text.extend_from_slice(plain.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
        };
        match part {
            Err(byte) => text.push(byte),
            Ok(part) => {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(part);
            }
        }
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

fn unknown(first: char, letter: Option<char>) -> Failure {
    let letter = letter.map_or_else(String::new, String::from);
    Failure::usage(format!("-F: {first}{letter} means nothing; `forebay sub --help` lists what does"))
}

fn of_letter(letter: char) -> Option<Part> {
    Some(match letter {
        't' => Part::Topic,
        'p' => Part::Payload,
        'x' => Part::Hex,
        'q' => Part::Qos,
        'r' => Part::Retain,
        'l' => Part::Length,
        'I' => Part::Time,
        'U' => Part::Unix,
        'E' => Part::Expiry,
        'P' => Part::User,
        'C' => Part::ContentType,
        'R' => Part::ResponseTopic,
        'D' => Part::Correlation,
        'j' => Part::Json,
        _ => return None,
    })
}

impl Part {
    fn put(&self, received: &Received, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => out.extend_from_slice(text),
            Self::Topic => out.extend_from_slice(received.topic().as_bytes()),
            Self::Payload => out.extend_from_slice(received.payload()),
            Self::Hex => put_hex(received.payload(), out),
            Self::Qos => out.push(b'0' + received.qos() as u8),
            Self::Retain => out.push(b'0' + u8::from(received.retain())),
            Self::Length => out.extend_from_slice(received.payload().len().to_string().as_bytes()),
            Self::Time => out.extend_from_slice(now().as_bytes()),
            Self::Unix => {
                let at = OffsetDateTime::now_utc();
                out.extend_from_slice(format!("{}.{:09}", at.unix_timestamp(), at.nanosecond()).as_bytes());
            }
            Self::Expiry => {
                let expiry = received.expiry_s().map(|s| s.to_string()).unwrap_or_default();
                out.extend_from_slice(expiry.as_bytes());
            }
            Self::User => {
                let user = received.properties().user;
                let words: Vec<String> = user.iter().map(|(name, value)| format!("{name}:{value}")).collect();
                out.extend_from_slice(words.join(" ").as_bytes());
            }
            Self::ContentType => {
                out.extend_from_slice(received.properties().content_type.unwrap_or_default().as_bytes())
            }
            Self::ResponseTopic => {
                out.extend_from_slice(received.properties().response_topic.unwrap_or_default().as_bytes());
            }
            Self::Correlation => out.extend_from_slice(received.correlation_data().unwrap_or_default()),
            Self::Properties => {
                let properties = properties(received);
                if !properties.is_empty() {
                    out.extend_from_slice(format!(" {}", Value::Object(properties)).as_bytes());
                }
            }
            Self::Json => out.extend_from_slice(json(received).to_string().as_bytes()),
        }
    }
}

fn put_hex(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
}

/// UTC, RFC 3339.
fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

fn json(received: &Received) -> Value {
    use base64::Engine;
    let mut object = Map::new();
    object.insert("time".into(), json!(now()));
    object.insert("topic".into(), json!(received.topic()));
    object.insert("qos".into(), json!(received.qos() as u8));
    object.insert("retain".into(), json!(received.retain()));
    match std::str::from_utf8(received.payload()) {
        Ok(text) => object.insert("payload".into(), json!(text)),
        Err(_) => {
            let text = base64::engine::general_purpose::STANDARD.encode(received.payload());
            object.insert("payload_base64".into(), json!(text))
        }
    };
    let properties = properties(received);
    if !properties.is_empty() {
        object.insert("properties".into(), Value::Object(properties));
    }
    Value::Object(object)
}

fn properties(received: &Received) -> Map<String, Value> {
    let found = received.properties();
    let mut object = Map::new();
    let mut put = |name: &str, value: Option<Value>| value.map(|value| object.insert(name.to_owned(), value));
    put("message_expiry_interval", received.expiry_s().map(Value::from));
    put("payload_format_indicator", found.payload_is_utf8.then(|| json!(1)));
    put("content_type", found.content_type.map(Value::from));
    put("response_topic", found.response_topic.map(Value::from));
    put("correlation_data", found.correlation_data.map(|data| json!(String::from_utf8_lossy(&data))));
    let ids: Vec<u32> = received.subscription_ids().collect();
    put("subscription_identifiers", (!ids.is_empty()).then(|| json!(ids)));
    let user: Vec<Value> = found.user.iter().map(|(name, value)| json!([name, value])).collect();
    put("user_properties", (!user.is_empty()).then(|| json!(user)));
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_read_in_parts() {
        let parts = read(r"%t: %p\n100%% é").unwrap();
        let text = |text: &str| Part::Text(text.as_bytes().to_vec());
        assert_eq!(parts, [Part::Topic, text(": "), Part::Payload, text("\n100% é")]);
    }

    #[test]
    fn what_means_nothing_is_said() {
        for wrong in ["%z", "%", r"\q", r"\"] {
            let failure = read(wrong).unwrap_err();
            assert!(failure.what.contains("-F"), "{wrong}: {failure}");
        }
    }
}
