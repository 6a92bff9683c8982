//! What certificates and revocation lists say that the TLS library does not tell: version, validity, whose a certificate is.

use std::fmt;

use ring::digest;
use time::format_description::well_known::Rfc3339;
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The version, `[0] EXPLICIT`; left out in version 1.
const VERSION: u8 = 0xa0;

/// Version and validity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dates {
    /// 1 to 3.
    pub(crate) version: u8,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

/// Why clients refuse it now, or will soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validity {
    NotYet(OffsetDateTime),
    Expired(OffsetDateTime),
    Soon(OffsetDateTime),
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |at: &OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
        match self {
            Self::NotYet(at) => write!(
                f,
                "is valid only from {} on, and clients refuse it: set this machine's clock, or have it issued again",
                show(at)
            ),
            Self::Expired(at) => write!(f, "expired on {}, and clients refuse it: renew it", show(at)),
            Self::Soon(at) => write!(f, "expires on {}: renew it", show(at)),
        }
    }
}

/// A certificate that expires within this time is said to; one that is made for less than three times as long, in the last
/// third of its time.
const SOON: time::Duration = time::Duration::days(30);

impl Dates {
    /// Reads the beginning of a certificate; `None` when it is not one.
    pub(crate) fn read(der: &[u8]) -> Option<Self> {
        let (body, _) = value(der, SEQUENCE)?;
        let (mut fields, _) = value(body, SEQUENCE)?;
        let mut version = 1;
        if let Some((explicit, rest)) = value(fields, VERSION) {
            let (number, _) = value(explicit, INTEGER)?;
            version = number.last()?.checked_add(1)?;
            fields = rest;
        }
        let (_serial, rest) = value(fields, INTEGER)?;
        let (_algorithm, rest) = value(rest, SEQUENCE)?;
        let (_issuer, rest) = value(rest, SEQUENCE)?;
        let (validity, _) = value(rest, SEQUENCE)?;
        let (not_before, rest) = moment(validity)?;
        let (not_after, _) = moment(rest)?;
        Some(Self { version, not_before, not_after })
    }

    /// When it ends.
    pub(crate) fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// What is wrong with its validity at this time.
    pub(crate) fn validity(&self, now: OffsetDateTime) -> Option<Validity> {
        if now < self.not_before {
            Some(Validity::NotYet(self.not_before))
        } else if now > self.not_after {
            Some(Validity::Expired(self.not_after))
        } else if now + SOON.min((self.not_after - self.not_before) / 3) > self.not_after {
            Some(Validity::Soon(self.not_after))
        } else {
            None
        }
    }
}

/// What a client certificate says of its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Certificate {
    /// The subject's common name.
    pub cn: Option<String>,
    /// The whole subject, as RFC 4514 writes it.
    pub subject: String,
    /// DNS names.
    pub dns: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
    /// E-mail addresses.
    pub emails: Vec<String>,
    /// The serial number: hexadecimal, lower case.
    pub serial: String,
    /// SHA-256 of the whole certificate: hexadecimal, lower case.
    pub fingerprint: String,
}

impl Certificate {
    /// The field of this name; of several values the first.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        match name {
            "cn" => self.cn.as_deref(),
            "subject" => Some(&self.subject),
            "dns" => self.dns.first().map(String::as_str),
            "uri" => self.uris.first().map(String::as_str),
            "email" => self.emails.first().map(String::as_str),
            "serial" => Some(&self.serial),
            "fingerprint" => Some(&self.fingerprint),
            _ => None,
        }
    }

    /// The names that [`Certificate::field`] knows.
    pub const FIELDS: [&'static str; 7] = ["cn", "subject", "dns", "uri", "email", "serial", "fingerprint"];

    /// Reads a certificate (DER); `None` when it is not one.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (body, _) = value(der, SEQUENCE)?;
        let (fields, _) = value(body, SEQUENCE)?;
        let fields = value(fields, VERSION).map_or(fields, |(_, rest)| rest);
        let (serial, rest) = value(fields, INTEGER)?;
        let (_algorithm, rest) = value(rest, SEQUENCE)?;
        let (_issuer, rest) = value(rest, SEQUENCE)?;
        let (_validity, rest) = value(rest, SEQUENCE)?;
        let (subject, rest) = value(rest, SEQUENCE)?;
        let (_key, mut rest) = value(rest, SEQUENCE)?;
        let serial = hex(serial.strip_prefix(&[0]).filter(|rest| !rest.is_empty()).unwrap_or(serial));
        let fingerprint = hex(digest::digest(&digest::SHA256, der).as_ref());
        let mut owner = Self { serial, fingerprint, ..Self::default() };
        owner.read_subject(subject)?;
        while let Some((tag, value, after)) = element(rest) {
            if tag == EXTENSIONS {
                owner.read_names(value)?;
            }
            rest = after;
        }
        Some(owner)
    }

    fn read_subject(&mut self, mut names: &[u8]) -> Option<()> {
        let mut parts = Vec::new();
        while let Some((set, rest)) = value(names, SET) {
            let mut together = Vec::new();
            let mut pairs = set;
            while let Some((pair, after)) = value(pairs, SEQUENCE) {
                let (kind, text) = value(pair, OID)?;
                let (tag, text, _) = element(text)?;
                let text = text_of(tag, text)?;
                if kind == COMMON_NAME {
                    self.cn = Some(text.clone());
                }
                together.push(format!("{}={}", attribute(kind), escaped(&text)));
                pairs = after;
            }
            parts.push(together.join("+"));
            names = rest;
        }
        parts.reverse();
        self.subject = parts.join(",");
        Some(())
    }

    fn read_names(&mut self, extensions: &[u8]) -> Option<()> {
        let (mut list, _) = value(extensions, SEQUENCE)?;
        while let Some((extension, rest)) = value(list, SEQUENCE) {
            let (kind, after) = value(extension, OID)?;
            let after = value(after, BOOLEAN).map_or(after, |(_, after)| after);
            if kind == SUBJECT_ALT_NAME {
                let (content, _) = value(after, OCTET_STRING)?;
                let (mut names, _) = value(content, SEQUENCE)?;
                while let Some((tag, name, after)) = element(names) {
                    let text = || String::from_utf8_lossy(name).into_owned();
                    match tag {
                        EMAIL => self.emails.push(text()),
                        DNS => self.dns.push(text()),
                        URI => self.uris.push(text()),
                        _ => {}
                    }
                    names = after;
                }
            }
            list = rest;
        }
        Some(())
    }
}

/// When the next list is due that replaces this revocation list; `None` inside when it does not say.
pub(crate) fn next_update(crl: &[u8]) -> Option<Option<OffsetDateTime>> {
    let (body, _) = value(crl, SEQUENCE)?;
    let (fields, _) = value(body, SEQUENCE)?;
    let fields = value(fields, INTEGER).map_or(fields, |(_, rest)| rest);
    let (_algorithm, rest) = value(fields, SEQUENCE)?;
    let (_issuer, rest) = value(rest, SEQUENCE)?;
    let (_this, rest) = moment(rest)?;
    Some(moment(rest).map(|(next, _)| next))
}

const SET: u8 = 0x31;
const OID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const EXTENSIONS: u8 = 0xa3;
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const COMMON_NAME: &[u8] = &[0x55, 4, 3];

/// The name of an attribute of a subject, or its number.
fn attribute(oid: &[u8]) -> String {
    let known: [(&[u8], &str); 10] = [
        (COMMON_NAME, "CN"),
        (&[0x55, 4, 5], "serialNumber"),
        (&[0x55, 4, 6], "C"),
        (&[0x55, 4, 7], "L"),
        (&[0x55, 4, 8], "ST"),
        (&[0x55, 4, 10], "O"),
        (&[0x55, 4, 11], "OU"),
        (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
        (&[9, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
        (&[9, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    ];
    if let Some((_, name)) = known.iter().find(|(known, _)| *known == oid) {
        return (*name).to_owned();
    }
    let mut numbers: Vec<u64> = Vec::new();
    let mut number = 0_u64;
    for byte in oid {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                let first = (number / 40).min(2);
                numbers.extend([first, number - 40 * first]);
            } else {
                numbers.push(number);
            }
            number = 0;
        }
    }
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

/// [RFC 4514, 2.4]
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        let at_an_end = c == ' ' && (at == 0 || at + 1 == text.len());
        if matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\') || (c == '#' && at == 0) || at_an_end {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn text_of(tag: u8, bytes: &[u8]) -> Option<String> {
    const BMP: u8 = 0x1e;
    const T61: u8 = 0x14;
    match tag {
        BMP => {
            let units = bytes.chunks_exact(2).map(|pair| pair.iter().fold(0, |sum, byte| sum << 8 | u16::from(*byte)));
            String::from_utf16(&units.collect::<Vec<_>>()).ok()
        }
        T61 => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
        _ => String::from_utf8(bytes.to_vec()).ok(),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The first element: its tag, its value, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let tag = *bytes.first()?;
    value(bytes, tag).map(|(value, rest)| (tag, value, rest))
}

/// The value of the first element, if it has this tag, and what follows it.
fn value(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    if *first != tag {
        return None;
    }
    let (length, rest) = rest.split_first()?;
    let (length, rest) = if *length < 0x80 {
        (usize::from(*length), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(*length & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
    };
    rest.split_at_checked(length)
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, and what follows it.
fn moment(bytes: &[u8]) -> Option<(OffsetDateTime, &[u8])> {
    let (text, year_digits, rest) = match value(bytes, UTC_TIME) {
        Some((text, rest)) => (text, 2, rest),
        None => value(bytes, GENERALIZED_TIME).map(|(text, rest)| (text, 4, rest))?,
    };
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, text) = text.split_at_checked(year_digits)?;
    let year: i32 = year.parse().ok()?;
    // RFC 5280: two digits from 50 on are of the last century.
    let year = if year_digits == 4 { year } else { year + if year < 50 { 2000 } else { 1900 } };
    let mut pairs = (0..5).map(|n| text.get(2 * n..2 * n + 2)?.parse::<u8>().ok());
    let mut next = || pairs.next().flatten();
    let (month, day, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?);
    let date = Date::from_calendar_date(year, Month::try_from(month).ok()?, day).ok()?;
    Some((PrimitiveDateTime::new(date, Time::from_hms(hour, minute, second).ok()?).assume_utc(), rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn made(not_before: OffsetDateTime, not_after: OffsetDateTime) -> Vec<u8> {
        let mut parameters = rcgen::CertificateParams::new(vec!["device".to_owned()]).unwrap();
        (parameters.not_before, parameters.not_after) = (not_before, not_after);
        parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn what_a_certificate_says_is_read() {
        let day = time::Duration::DAY;
        for year in [2024, 2049, 2050, 2100] {
            let begin = Date::from_calendar_date(year, Month::February, 28).unwrap().midnight().assume_utc();
            let end = begin + day * 90;
            let read = Dates::read(&made(begin, end)).unwrap();
            assert_eq!(read, Dates { version: 3, not_before: begin, not_after: end });
            assert_eq!(read.validity(begin - day), Some(Validity::NotYet(begin)));
            assert_eq!(read.validity(begin + day * 59), None);
            assert_eq!(read.validity(end - day), Some(Validity::Soon(end)));
            assert_eq!(read.validity(end + day), Some(Validity::Expired(end)));
        }
    }

    #[test]
    fn the_owner_is_read_whole_and_nothing_panics() {
        use rcgen::{DnType, SanType};
        let mut parameters = rcgen::CertificateParams::new(vec!["pump.site".to_owned(), "b.site".to_owned()]).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::OrganizationName, "Site, north");
        parameters.distinguished_name.push(DnType::CommonName, "pump \u{e9}7 ");
        parameters.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 42]), "x");
        parameters.serial_number = Some(vec![0x00, 0xab, 0x01].into());
        let uri = SanType::URI("urn:pump:7".try_into().unwrap());
        let mail = SanType::Rfc822Name("pump@site".try_into().unwrap());
        parameters.subject_alt_names.extend([uri, mail]);
        let der = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let owner = Certificate::read(&der).unwrap();
        assert_eq!(owner.cn.as_deref(), Some("pump \u{e9}7 "));
        assert_eq!(owner.subject, "2.5.4.42=x,CN=pump \u{e9}7\\ ,O=Site\\, north");
        assert_eq!((owner.dns.len(), owner.field("dns")), (2, Some("pump.site")));
        assert_eq!((owner.field("uri"), owner.field("email")), (Some("urn:pump:7"), Some("pump@site")));
        assert_eq!(owner.serial, "ab01");
        assert_eq!(owner.fingerprint.len(), 64);
        assert_eq!(owner.field("nothing"), None);
        for cut in 0..der.len() {
            let _ = Certificate::read(&der[..cut]);
            let mut other = der.clone();
            other[cut] ^= 0x55;
            let _ = Certificate::read(&other);
        }
    }

    #[test]
    fn version_1_has_no_version() {
        // SEQUENCE { SEQUENCE { serial 5, algorithm, issuer, SEQUENCE { two times } } }
        let times = [&b"\x17\x0d240101000000Z"[..], b"\x17\x0d250101000000Z"].concat();
        let validity = [&[SEQUENCE, u8::try_from(times.len()).unwrap()][..], &times].concat();
        let fields = [&b"\x02\x01\x05\x30\x00\x30\x00"[..], &validity].concat();
        let body = [&[SEQUENCE, u8::try_from(fields.len()).unwrap()][..], &fields].concat();
        let der = [&[SEQUENCE, u8::try_from(body.len()).unwrap()][..], &body].concat();
        assert_eq!(Dates::read(&der).unwrap().version, 1);
        for length in 0..der.len() {
            assert_eq!(Dates::read(&der[..length]), None, "{length}");
        }
    }
}
