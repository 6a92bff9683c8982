//! Malformed packets, as files of bytes in `malformed/`: one test of each case and version. A case is
//!
//! ```text
//!   case    name
//!   on      3.1.1,5             versions of the protocol
//!   breaks  MQTT-2.2.2-2        statements; none for a packet that is well formed, to check the check
//!   sent    first               in place of CONNECT; without this line after a good one
//!   expect  disconnect 81       see `Expect`
//!   send    41 02 (00 0a)*1     bytes in hexadecimal; (…)*N repeats, and ## in it counts from 1 in two bytes
//! ```
//!
//! A wrong packet costs its sender the connection and nobody else anything: each test has a second connection, which
//! must still carry a message afterwards.

use std::path::Path;

use forebay_tests::packet::{self, Packet, Version, build::Connect};
use forebay_tests::raw::{Raw, hex};

use crate::{Case, Target};

/// What every wrong packet breaks beside its own statement; the manifests name tests of their own for these.
const GENERAL: [&str; 2] = ["MQTT-4.8.0-1", "MQTT5-4.13.1-1"];

/// The broker's answer.
#[derive(Debug, Clone)]
enum Expect {
    /// `close`: the connection ends without a byte.
    Close,
    /// `connack CODE`: CONNACK with this code and no session, then the end.
    Connack(u8),
    /// `disconnect CODE`: DISCONNECT with this code, then the end.
    Disconnect(u8),
    /// `accepted`: CONNACK with success, and the connection goes on.
    Accepted,
    /// `stays BYTES`: these bytes, and the connection goes on.
    Stays(Vec<u8>),
    /// `answer BYTES close` or `answer BYTES disconnect CODE`: these bytes first.
    After(Vec<u8>, Box<Expect>),
    /// `disconnect CODE after pubrec`: the same after any number of PUBRECs.
    DisconnectAfterPubrec(u8),
}

/// One case of a file.
#[derive(Debug, Clone, Default)]
struct Block {
    name: String,
    versions: Vec<Version>,
    breaks: Vec<String>,
    first: bool,
    expect: String,
    send: String,
}

/// One test of each case and version of all files.
pub fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/malformed");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|file| cases_of(file)).collect()
}

fn cases_of(file: &Path) -> Vec<Case> {
    let stem = file.file_stem().unwrap().to_str().unwrap();
    let text = std::fs::read_to_string(file).unwrap();
    let mut cases = Vec::new();
    for block in blocks(&text) {
        let block = block.unwrap_or_else(|line| panic!("{}: {line}", file.display()));
        for &version in &block.versions {
            let (bytes, expect) = (bytes(&block.send), Expect::read(&block.expect));
            let name = format!("malformed::{stem}::{}::{}", block.name.replace('-', "_"), suffix(version));
            // MQTT 5 has tests in code for each of its statements; these are for its reason codes.
            let proves = block.breaks.iter().filter(|id| id.starts_with("MQTT-") && !GENERAL.contains(&id.as_str()));
            let proves = proves.cloned().collect();
            let (first, client) = (block.first, name.clone());
            let run = move |target: &Target| run(target, version, &client, first, &bytes, &expect);
            cases.push(Case { name, proves, run: Box::new(run) });
        }
    }
    cases
}

fn blocks(text: &str) -> impl Iterator<Item = Result<Block, String>> {
    text.split("\n\n").filter_map(|paragraph| {
        let lines = paragraph.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let mut block = Block::default();
        let mut any = false;
        for line in lines {
            any = true;
            if let Err(why) = block.take(line) {
                return Some(Err(why));
            }
        }
        any.then_some(Ok(block))
    })
}

impl Block {
    fn take(&mut self, line: &str) -> Result<(), String> {
        let (key, value) = line.split_at_checked(8).ok_or(line)?;
        match key.trim_end() {
            "case" => value.clone_into(&mut self.name),
            "on" => self.versions = value.split(',').map(version).collect(),
            "breaks" => self.breaks = value.split(' ').map(str::to_owned).collect(),
            "sent" if value == "first" => self.first = true,
            "expect" => value.clone_into(&mut self.expect),
            "send" | "" => self.send.push_str(value),
            _ => return Err(line.to_owned()),
        }
        Ok(())
    }
}

fn version(name: &str) -> Version {
    match name {
        "3.1" => Version::V31,
        "3.1.1" => Version::V4,
        "5" => Version::V5,
        other => panic!("there is no version {other}"),
    }
}

fn suffix(version: Version) -> &'static str {
    match version {
        Version::V31 => "v31",
        Version::V4 => "v311",
        Version::V5 => "v5",
    }
}

impl Expect {
    fn read(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let code = |word: &str| u8::from_str_radix(word, 16).unwrap();
        match words[..] {
            ["close"] => Self::Close,
            ["connack", reason] => Self::Connack(code(reason)),
            ["disconnect", reason] => Self::Disconnect(code(reason)),
            ["disconnect", reason, "after", "pubrec"] => Self::DisconnectAfterPubrec(code(reason)),
            ["accepted"] => Self::Accepted,
            ["stays", ..] => Self::Stays(hex(&words[1..].concat())),
            ["answer", .., "close"] => Self::After(hex(&words[1..words.len() - 1].concat()), Box::new(Self::Close)),
            ["answer", .., "disconnect", reason] => {
                Self::After(hex(&words[1..words.len() - 2].concat()), Box::new(Self::Disconnect(code(reason))))
            }
            _ => panic!("what is expected by {text:?}?"),
        }
    }

    fn check(&self, raw: &mut Raw) {
        match self {
            Self::Close => raw.expect_closed(),
            Self::Connack(code) => {
                raw.expect_refused(*code);
            }
            Self::Disconnect(code) => {
                raw.expect_disconnect(*code);
            }
            Self::Accepted => {
                raw.expect_connack(0);
                raw.expect_nothing();
            }
            Self::Stays(bytes) => {
                if !bytes.is_empty() {
                    raw.expect(bytes);
                }
                raw.expect_nothing();
            }
            Self::After(bytes, end) => {
                raw.expect(bytes);
                end.check(raw);
            }
            Self::DisconnectAfterPubrec(code) => loop {
                match raw.receive() {
                    Packet::Ack(packet::Ack::Pubrec, ..) => {}
                    Packet::Disconnect(came, _) if came == *code => return raw.expect_closed(),
                    other => panic!("instead of PUBREC or DISCONNECT {code:#04x}: {other:?}"),
                }
            },
        }
    }
}

/// The bytes of a `send` line.
fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((plain, tail)) = rest.split_once('(') {
        out.extend(hex(plain));
        let (part, tail) = tail.split_once(")*").expect("(…)*N");
        let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (count, tail) = tail.split_at(digits);
        for n in 1..=count.parse::<u16>().unwrap() {
            out.extend(hex(&part.replace("##", &format!("{n:04x}"))));
        }
        rest = tail;
    }
    out.extend(hex(rest));
    out
}

fn run(target: &Target, version: Version, name: &str, first: bool, bytes: &[u8], expect: &Expect) {
    let mut witness = Raw::clean(target.port, Version::V4, &format!("{name}-witness"));
    witness.subscribe(name, 1);
    let mut raw = Raw::connect(target.port, version);
    if !first {
        raw.send(&Connect::new(version, name).packet());
        raw.expect_connack(0);
    }
    raw.send(bytes);
    expect.check(&mut raw);
    witness.publish(name, 1, b"still there");
    witness.take_message(name, b"still there");
}
