//! Answers about access: who is banned, the files, users made while the broker runs.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use forebay_wire::topic::{check_filter, check_name};
use serde_json::{Value, json};

use super::answers::{AccessAnswer, AclAnswer, BanList, BanRow, CertificateRow, Changes, RecentPage, RecentRow};
use super::handlers::{done, json, page};
use super::routes::{Ask, Error, Outcome};
use crate::access::recent::Seen;
use crate::access::{AclAsk, AclTest, Principal};
use crate::certificate::Certificate;

pub(super) fn show(ask: &Ask<'_>) -> Outcome {
    let Some(access) = ask.on.broker.access() else {
        return json(&AccessAnswer { configured: false, version: 0, users: 0, dynamic_users: 0, rules: 0, banned: 0 });
    };
    let policy = access.policy();
    json(&AccessAnswer {
        configured: true,
        version: access.version(),
        users: policy.passwords().map_or(0, |passwords| passwords.len() as u64),
        dynamic_users: access.dynamic_users() as u64,
        rules: policy.rules() as u64,
        banned: access.guard().banned(Instant::now()).len() as u64,
    })
}

/// What the rules in force say.
pub(super) fn test(ask: &Ask<'_>) -> Outcome {
    let query = |name| ask.query.text(name);
    let number = |name| ask.query.number(name).map_err(Error::Wrong);
    let action = query("action").ok_or_else(|| Error::Wrong("needs action".to_owned()))?;
    let topic = query("topic").unwrap_or_default();
    let qos = number("qos")?.unwrap_or(0);
    let qos = u8::try_from(qos).ok().filter(|qos| *qos <= 2);
    let qos = qos.ok_or_else(|| Error::Wrong("qos must be 0, 1 or 2".to_owned()))?;
    let retain = number("retain")?.is_some_and(|retain| retain > 0);
    let (wanted, checked) = match action {
        "connect" => (AclAsk::Connect, Ok(())),
        "publish" => (AclAsk::Publish(topic, qos, retain), check_name(topic, usize::MAX)),
        "receive" => (AclAsk::Receive(topic), check_name(topic, usize::MAX)),
        "subscribe" => (AclAsk::Subscribe(topic), check_filter(topic, usize::MAX)),
        other => {
            return Err(Error::Wrong(format!("no action \"{other}\"; there are connect, publish, subscribe, receive")));
        }
    };
    checked.map_err(|why| Error::Wrong(format!("topic \"{topic}\": {why}")))?;
    let address = query("address").map(str::parse::<IpAddr>).transpose();
    let address = address.map_err(|_| Error::Wrong("address must be an IP address".to_owned()))?;
    let config = &ask.on.broker.config;
    let mut acl = config.access.acl_file.as_deref();
    if let Some(url) = query("listener") {
        let found = config.listeners.iter().find(|listener| listener.url == url);
        let found = found.ok_or_else(|| Error::Wrong(format!("no listener has the url \"{url}\"")))?;
        acl = found.acl_file.as_deref().or(acl);
    }
    let groups = query("groups").unwrap_or_default().split(',').filter(|group| !group.is_empty());
    let who = Principal {
        user: query("user").map(Into::into),
        client_id: query("client").unwrap_or_default().into(),
        groups: groups.map(Into::into).collect(),
        certificate: None,
        addr: address,
        listener: query("listener").unwrap_or_default().into(),
    };
    let Some(access) = ask.on.broker.access() else {
        return json(&AclAnswer { allowed: true, by: "[access] names no rules".to_owned(), version: 0 });
    };
    let version = access.version();
    let (allowed, by) = access.explain(acl, &AclTest { who, ask: wanted });
    json(&AclAnswer { allowed, by, version })
}

/// What clients did lately.
pub(super) fn recent(ask: &Ask<'_>) -> Outcome {
    let since = ask.query.number("since_s").map_err(Error::Wrong)?.map(Duration::from_secs);
    let recent = ask.on.broker.access().and_then(|access| access.recent());
    if recent.is_some() && ask.query.text("after").is_none() {
        ask.on.broker.note_standing();
    }
    let seen = recent.map(|recent| recent.list(since)).unwrap_or_default();
    // No name has a NUL in it: these are the entry's own.
    let key = |Seen { who, kind, topic, .. }: &Seen| {
        let (user, flags) = (who.user.as_deref().map_or_else(String::new, |user| format!("={user}")), kind.flags());
        format!("{}\0{user}\0{} {flags:?}\0{topic}", who.client_id, kind.word())
    };
    let page = page(ask, seen, key)?;
    let (limit, bytes) = recent.map_or((0, 0), |recent| recent.limit_and_bytes());
    json(&RecentPage {
        total: page.total,
        recent: page.items.into_iter().map(recent_row).collect(),
        next: page.next,
        limit_bytes: limit as u64,
        bytes: bytes as u64,
        forgotten: recent.map_or(0, |recent| recent.forgotten()),
    })
}

fn recent_row(Seen { who, own_acl, kind, topic, allowed, by, count, ago_s }: Seen) -> RecentRow {
    let certificate = |certificate: &Certificate| CertificateRow {
        cn: certificate.cn.clone(),
        subject: certificate.subject.clone(),
        dns: certificate.dns.first().cloned(),
        uri: certificate.uris.first().cloned(),
        email: certificate.emails.first().cloned(),
        serial: certificate.serial.clone(),
        fingerprint: certificate.fingerprint.clone(),
    };
    let (qos, retain) = kind.flags().unzip();
    RecentRow {
        user: who.user.as_deref().map(str::to_owned),
        client_id: who.client_id.to_string(),
        groups: who.groups.iter().map(ToString::to_string).collect(),
        certificate: who.certificate.as_deref().map(certificate),
        address: who.addr.map(|addr| addr.to_string()),
        listener: who.listener.to_string(),
        own_acl,
        action: kind.word().to_owned(),
        topic,
        qos: qos.map(u64::from),
        retain,
        allowed,
        by: by.word().to_owned(),
        count,
        ago_s,
    }
}

pub(super) fn bans(ask: &Ask<'_>) -> Outcome {
    let mut bans = ask.on.broker.access().map(|access| access.guard().banned(Instant::now())).unwrap_or_default();
    bans.sort_unstable();
    let row = |(address, left): (IpAddr, Duration)| BanRow { address: address.to_string(), left_s: left.as_secs() };
    json(&BanList { bans: bans.into_iter().map(row).collect() })
}

pub(super) fn forgive(ask: &Ask<'_>) -> Outcome {
    let address: IpAddr = ask.name.parse().map_err(|_| Error::Wrong(format!("\"{}\" is not an address", ask.name)))?;
    if ask.on.broker.access().is_some_and(|access| access.guard().forgive(Some(address))) {
        tracing::info!(%address, "an address is forgiven through the API");
        return done(format!("{address} may log in again"));
    }
    done(format!("nothing is held against {address}"))
}

pub(super) fn forgive_all(ask: &Ask<'_>) -> Outcome {
    if let Some(access) = ask.on.broker.access() {
        access.guard().forgive(None);
        tracing::info!("all addresses are forgiven through the API");
    }
    done("every address may log in again")
}

pub(super) fn reload(ask: &Ask<'_>) -> Outcome {
    let outcome = ask.on.broker.reload_all();
    let changes = outcome.map_err(|error| Error::Conflict(format!("nothing is changed: {error}")))?;
    json(&Changes { changes })
}

pub(super) fn dynamic(ask: &Ask<'_>) -> Outcome {
    let answer = ask.on.broker.dynamic_request(ask.body);
    answer.ok_or_else(|| Error::Conflict("access.dynamic_security is not set".to_owned()))
}

/// The answers are mosquitto's: an object for each command.
pub(super) fn dynamic_schema() -> Value {
    let object = json!({ "type": "object", "description": "The answer to one command." });
    json!({
        "type": "object",
        "description": "Answers of dynamic security, in the order of the commands.",
        "properties": { "responses": { "type": "array", "items": object } },
        "required": ["responses"],
    })
}
