//! Answers about access: who is banned, the files, users made while the broker runs.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answers::{AccessAnswer, BanList, BanRow, Changes};
use super::handlers::{done, json};
use super::routes::{Ask, Error, Outcome};

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
