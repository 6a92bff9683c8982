//! `forebay certs`: what is said on the terminal.

use std::fmt::Write as _;
use std::io::{Write, stderr, stdout};
use std::process::ExitCode;

use forebay::certs::authority::{Authority, AuthorityError, For, Issued};
use forebay::cli::{Certs, CertsCommand};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::FAILED;

pub fn run(args: &Certs) -> ExitCode {
    let written = match done(args) {
        Ok(text) => stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush()),
        Err(error) => {
            let _ = writeln!(stderr(), "forebay: {error}");
            return ExitCode::from(FAILED);
        }
    };
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

fn done(args: &Certs) -> Result<String, AuthorityError> {
    if let CertsCommand::Ca { name, days } = &args.command {
        return Ok(of_ca(&Authority::create(&args.dir, name, *days)?));
    }
    let mut authority = Authority::open(&args.dir)?;
    match &args.command {
        CertsCommand::Ca { .. } | CertsCommand::List => Ok(list(&authority)),
        CertsCommand::Server { names, days } => {
            let issued = authority.issue(For::Server, names, *days)?;
            Ok(of_issued(&authority, &issued))
        }
        CertsCommand::Device { name, days } => {
            let issued = authority.issue(For::Device, std::slice::from_ref(name), *days)?;
            Ok(of_issued(&authority, &issued))
        }
        CertsCommand::Renew { name, days } => {
            let issued = authority.renew(name, *days)?;
            Ok(of_issued(&authority, &issued))
        }
        CertsCommand::Revoke { name } => {
            let count = authority.revoke(name)?;
            let crl = authority.path("crl.pem");
            Ok(format!(
                "{count} revoked\n{}\n\n# Bring it to the broker: it is in force within two seconds.\n",
                crl.display()
            ))
        }
        CertsCommand::Crl { days } => {
            authority.write_crl(*days)?;
            Ok(format!("{}\n", authority.path("crl.pem").display()))
        }
    }
}

fn of_ca(authority: &Authority) -> String {
    let path = |file: &str| authority.path(file).display().to_string();
    format!(
        "{ca}\n{key}\n{crl}\n\n# Devices get ca.pem. Keep ca.key off the board. For listeners that ask devices for certificates:\n\
         client_ca = \"{ca}\"\ncrl = \"{crl}\"\nuser_from = \"cn\"\n",
        ca = path("ca.pem"),
        key = path("ca.key"),
        crl = path("crl.pem"),
    )
}

fn of_issued(authority: &Authority, issued: &Issued) -> String {
    let path = |file: &str| authority.path(file).display().to_string();
    let (pem, key) = (path(&format!("{}.pem", issued.file)), path(&format!("{}.key", issued.file)));
    let (ca, crl) = (path("ca.pem"), path("crl.pem"));
    let mut text = format!("{pem}\n{key}\n\n# Valid until {}.\n", when(issued.ends_s));
    let _ = match issued.kind {
        For::Server => write!(
            text,
            "[[listeners]]\nurl = \"mqtts://0.0.0.0:8883\"\ncertificate = \"{pem}\"\nkey = \"{key}\"\n\
             # For devices that have certificates:\nclient_ca = \"{ca}\"\ncrl = \"{crl}\"\nuser_from = \"cn\"\n"
        ),
        For::Device => {
            writeln!(text, "mosquitto_pub -h BROKER -p 8883 --cafile {ca} --cert {pem} --key {key} -t hello -m world")
        }
    };
    text
}

fn list(authority: &Authority) -> String {
    let mut text = String::new();
    for issued in authority.issued() {
        let kind = match issued.kind {
            For::Server => "server",
            For::Device => "device",
        };
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let state = match issued.revoked_s {
            Some(at) => format!("revoked {}", when(at)),
            None if issued.ends_s < now => format!("expired {}", when(issued.ends_s)),
            None => format!("until {}", when(issued.ends_s)),
        };
        let _ = writeln!(text, "{:<24} {kind} {} {state} {}", issued.file, issued.serial, issued.names.join(" "));
    }
    text
}

fn when(at_s: i64) -> String {
    OffsetDateTime::from_unix_timestamp(at_s).ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}
