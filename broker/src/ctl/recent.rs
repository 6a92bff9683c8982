//! `forebay acl replay` and `forebay acl learn`: what clients of the running broker did lately.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{ask, get, pages, say, show, socket_path, with_query};
use crate::access::recent::{self, By, Changed, Format, Kind, Learn, Replay, Seen};
use crate::access::{self, Principal};
use crate::certificate::Certificate;
use crate::cli::{AclFormat, RecentArgs};
use crate::config;

/// The command line is wrong.
const USAGE: u8 = 2;

/// Says which answers another file would change; fails when there are some.
pub(super) fn replay(args: &RecentArgs, json: bool, file: Option<&Path>, config: Option<&Path>) -> ExitCode {
    let file = match file.map_or_else(|| configured(args.listener.as_deref(), config), |file| Ok(file.to_owned())) {
        Ok(file) => file,
        Err(why) => return complain(&why, ExitCode::from(USAGE)),
    };
    let (text, acl) = match access::read_acl(&file) {
        Ok(read) => read,
        Err(error) => return complain(&error.to_string(), ExitCode::FAILURE),
    };
    match fetch(args, config) {
        Ok(seen) => {
            let replay = recent::replay(&acl, seen, args.listener.as_deref());
            let code = if replay.changed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            let shown = if json { as_json(&replay, &file, &text) } else { as_text(&replay, &file, &text) };
            say(&mut std::io::stdout(), &shown, code)
        }
        Err(why) => complain(&why, ExitCode::FAILURE),
    }
}

/// Writes an ACL file to the standard output; fails when there is nothing to learn from.
pub(super) fn learn(args: &RecentArgs, format: AclFormat, alike: u16, config: Option<&Path>) -> ExitCode {
    let mut seen = match fetch(args, config) {
        Ok(seen) => seen,
        Err(why) => return complain(&why, ExitCode::FAILURE),
    };
    seen.retain(|one| args.listener.as_ref().map_or(!one.own_acl, |url| *one.who.listener == **url));
    if !seen.iter().any(|one| one.allowed && one.kind != Kind::Connect) {
        return complain(
            "nothing was seen to learn from: it is kept where an ACL or dynamic security decides, and where `learn = true` \
             in [access] says so",
            ExitCode::FAILURE,
        );
    }
    let when = args.since.map_or_else(|| "lately".to_owned(), |since| format!("in the last {}", span(since)));
    let format = match format {
        AclFormat::Mosquitto => Format::Mosquitto,
        AclFormat::Toml => Format::Toml,
    };
    let text = recent::learn(&seen, &Learn { format, most_alike: usize::from(alike), when: &when });
    say(&mut std::io::stdout(), &text, ExitCode::SUCCESS)
}

fn complain(why: &str, code: ExitCode) -> ExitCode {
    say(&mut std::io::stderr(), &format!("forebay: {why}\n"), code)
}

/// The file that the configuration names for the listener, or for those without one of their own.
fn configured(listener: Option<&str>, config: Option<&Path>) -> Result<PathBuf, String> {
    let missing = || "no ACL file: name one, or give a --config whose [access] has acl_file".to_owned();
    let file = config.ok_or_else(missing)?;
    let config = config::load(Some(file), &config::Overrides::default()).map_err(|error| error.to_string())?;
    let own = config.listeners.iter().filter(|known| listener == Some(known.url.as_str()));
    own.filter_map(|listener| listener.acl_file.clone()).next().or(config.access.acl_file).ok_or_else(missing)
}

/// What the running broker has kept.
fn fetch(args: &RecentArgs, config: Option<&Path>) -> Result<Vec<Seen>, String> {
    let since = args.since.map(|since| since.as_secs().to_string());
    let request = pages(get(with_query("/api/access/recent", &[("since_s", since)]), show::done), "recent", None);
    let answer = ask(&socket_path(args.socket.as_deref(), config)?, &request)?;
    if answer.get("limit_bytes").and_then(Value::as_u64) == Some(0) {
        return Err(
            "the broker keeps nothing of what clients do: set `recent_memory` in [access], and `learn = true` if \
                    nothing else is in it"
                .to_owned(),
        );
    }
    let rows = answer.get("recent").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let odd = |row: &Value| format!("the broker's answer has an entry that is not known here: {row}");
    rows.iter().map(|row| seen_of(row).ok_or_else(|| odd(row))).collect()
}

fn seen_of(row: &Value) -> Option<Seen> {
    let text = |name: &str| row.get(name).and_then(Value::as_str);
    let number = |name: &str| row.get(name).and_then(Value::as_u64);
    let flag = |name: &str| row.get(name).and_then(Value::as_bool);
    let qos = number("qos").and_then(|qos| u8::try_from(qos).ok());
    let groups = row.get("groups").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let who = Principal {
        user: text("user").map(Into::into),
        client_id: text("client_id")?.into(),
        groups: groups.iter().filter_map(Value::as_str).map(Into::into).collect(),
        certificate: row.get("certificate").and_then(certificate_of).map(Arc::new),
        addr: text("address").and_then(|address| address.parse().ok()),
        listener: text("listener")?.into(),
    };
    Some(Seen {
        who,
        own_acl: flag("own_acl")?,
        kind: Kind::of(text("action")?, qos.zip(flag("retain")))?,
        topic: text("topic")?.to_owned(),
        allowed: flag("allowed")?,
        by: By::of(text("by")?)?,
        count: number("count")?,
        ago_s: number("ago_s")?,
    })
}

fn certificate_of(row: &Value) -> Option<Certificate> {
    let text = |name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
    let list = |name: &str| text(name).into_iter().collect();
    Some(Certificate {
        cn: text("cn"),
        subject: text("subject")?,
        dns: list("dns"),
        uris: list("uri"),
        emails: list("email"),
        serial: text("serial")?,
        fingerprint: text("fingerprint")?,
    })
}

fn newly_denied(replay: &Replay) -> usize {
    replay.changed.iter().filter(|changed| changed.seen.allowed).count()
}

fn as_text(replay: &Replay, file: &Path, text: &str) -> String {
    let mut lines: Vec<String> = replay.changed.iter().map(|changed| line(changed, file, text)).collect();
    let (changed, denied) = (replay.changed.len(), newly_denied(replay));
    lines.push(format!(
        "{changed} of {} would change: {denied} allowed would be denied, {} denied would be allowed",
        replay.asked,
        changed - denied
    ));
    for (count, why) in [
        (
            replay.before_the_file,
            "are decided before the file is asked: by a token, an HTTP service or dynamic security",
        ),
        (replay.elsewhere, "came by other listeners, with other files"),
    ] {
        if count > 0 {
            lines.push(format!("{count} more {why}"));
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Names are quoted: a client may have chosen one with a line's end in it.
fn line(Changed { seen, answer }: &Changed, file: &Path, text: &str) -> String {
    let user = seen.who.user.as_deref().map_or_else(|| "no user name".to_owned(), |user| format!("user {user:?}"));
    let topic = if seen.topic.is_empty() { String::new() } else { format!(" {:?}", seen.topic) };
    let flags = seen
        .kind
        .flags()
        .map_or_else(String::new, |(qos, retain)| format!(" (QoS {qos}{})", if retain { ", retained" } else { "" }));
    let (before, times) =
        (if seen.allowed { "allowed" } else { "denied" }, if seen.count == 1 { "once" } else { "times" });
    let times = if seen.count == 1 { times.to_owned() } else { format!("{} {times}", seen.count) };
    format!(
        "{user}, client {:?}: {}{topic}{flags}: {before} {times}, {} s ago; would be {}",
        &*seen.who.client_id,
        seen.kind.word(),
        seen.ago_s,
        access::show(file, text, *answer)
    )
}

fn as_json(replay: &Replay, file: &Path, text: &str) -> String {
    let row = |Changed { seen, answer }: &Changed| {
        let (qos, retain) = seen.kind.flags().unzip();
        json!({
            "user": seen.who.user.as_deref(),
            "client_id": &*seen.who.client_id,
            "action": seen.kind.word(),
            "topic": seen.topic,
            "qos": qos,
            "retain": retain,
            "allowed_before": seen.allowed,
            "allowed": answer.allowed,
            "line": answer.line,
            "text": answer.line.map(|number| access::line_of(text, number)),
            "count": seen.count,
            "ago_s": seen.ago_s,
        })
    };
    let denied = newly_denied(replay);
    let answer = json!({
        "file": file.display().to_string(),
        "asked": replay.asked,
        "newly_denied": denied,
        "newly_allowed": replay.changed.len() - denied,
        "before_the_file": replay.before_the_file,
        "elsewhere": replay.elsewhere,
        "changed": replay.changed.iter().map(row).collect::<Vec<_>>(),
    });
    format!("{answer:#}\n")
}

fn span(time: Duration) -> String {
    match time.as_secs() {
        s if s > 0 && s.is_multiple_of(3600) => format!("{} h", s / 3600),
        s if s > 0 && s.is_multiple_of(60) => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}
