//! Why a handshake failed, so that whoever looks after the broker or the device knows what to do.

// The library's lists of errors are long and open: what is not here is said in its own words.
#![allow(clippy::wildcard_enum_match_arm)]

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::clients;

/// One line, without its end.
pub(crate) fn explain(error: &io::Error) -> String {
    let refused = clients::take_refused();
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "the client went away".to_owned(),
            _ => error.to_string(),
        };
    };
    match tls {
        // The signature of the client's own key, not that of a CA.
        Error::InvalidCertificate(CertificateError::BadSignature) if refused.is_none() => {
            "the client has not the key of the certificate that it shows".to_owned()
        }
        Error::InvalidCertificate(why) => {
            let whose = refused.map_or_else(String::new, |whose| format!(" {whose}"));
            format!("the client's certificate{whose} {}", of_certificate(why))
        }
        Error::NoCertificatesPresented => "the client shows no certificate, and this listener requires one".to_owned(),
        Error::AlertReceived(alert) => of_alert(*alert),
        Error::InvalidMessage(_) => format!("what came is not TLS ({tls})"),
        other => other.to_string(),
    }
}

fn of_certificate(why: &CertificateError) -> String {
    let text = match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired: renew it",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet: look at the clock of this machine"
        }
        CertificateError::Revoked => "is revoked",
        CertificateError::UnknownIssuer => "comes from no CA in `client_ca`, or signs itself",
        CertificateError::UnknownRevocationStatus => "comes from a CA of which `crl` has no list",
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            "cannot be looked up: the revocation list in `crl` is old (crl_expired = \"refuse\")"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not made for clients (extended key usage clientAuth)"
        }
        CertificateError::BadSignature => "names a CA in `client_ca` that has not signed it",
        CertificateError::BadEncoding => "is damaged",
        other => return format!("is refused: {other}"),
    };
    text.to_owned()
}

fn of_alert(alert: AlertDescription) -> String {
    let text = match alert {
        AlertDescription::UnknownCA => "the client does not know the CA of this broker's certificate",
        AlertDescription::CertificateExpired => {
            "for the client this broker's certificate has expired, or is not valid yet: look at its dates and at the clocks of both"
        }
        AlertDescription::CertificateRevoked => "for the client this broker's certificate is revoked",
        AlertDescription::BadCertificate => {
            "the client refuses this broker's certificate: is it made for the name that the client connects to?"
        }
        AlertDescription::CertificateUnknown => "the client refuses this broker's certificate",
        AlertDescription::UnsupportedCertificate => {
            "the client refuses this broker's certificate: it is not made for servers (extended key usage serverAuth)"
        }
        AlertDescription::DecryptError => "the client could not check this broker's signature",
        AlertDescription::ProtocolVersion => "the client speaks no version of TLS that this listener takes",
        other => return format!("the client ended the handshake: {other:?}"),
    };
    text.to_owned()
}
