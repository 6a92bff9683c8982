//! Answers of the API as people read them.

use serde_json::Value;

use super::table::{plain, size, table, time};

pub(super) fn number(of: &Value, field: &str) -> u64 {
    of.pointer(field).and_then(Value::as_u64).unwrap_or_default()
}

pub(super) fn text(of: &Value, field: &str) -> String {
    plain(of.pointer(field).and_then(Value::as_str).unwrap_or_default())
}

pub(super) fn count(of: &Value, field: &str) -> String {
    number(of, field).to_string()
}

/// A time that may be null.
pub(super) fn some_time(of: &Value, field: &str) -> String {
    of.pointer(field).and_then(Value::as_u64).map_or_else(|| "-".to_owned(), time)
}

fn yes(of: &Value, field: &str) -> bool {
    of.pointer(field).and_then(Value::as_bool).unwrap_or_default()
}

pub(super) fn rows<'v>(of: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> {
    of.pointer(field).and_then(Value::as_array).into_iter().flatten()
}

/// Names and values under each other.
fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    pairs.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

pub(super) fn done(answer: &Value) -> String {
    format!("{}\n", text(answer, "/done"))
}

pub(super) fn status(answer: &Value) -> String {
    let uptime = time(number(answer, "/broker/uptime_ms"));
    let mut out = pairs(&[
        ("version", text(answer, "/broker/version")),
        ("running for", uptime),
        ("pressure", text(answer, "/broker/pressure")),
        (
            "connections",
            format!("{} (at most {})", count(answer, "/broker/connections"), count(answer, "/broker/connections_max")),
        ),
        (
            "sessions",
            format!(
                "{}, {} away, {} full",
                count(answer, "/sessions/total"),
                count(answer, "/sessions/away"),
                count(answer, "/sessions/full")
            ),
        ),
        ("subscriptions", count(answer, "/subscriptions/count")),
        (
            "queued",
            format!("{} messages, {}", count(answer, "/queues/messages"), size(number(answer, "/queues/bytes"))),
        ),
        ("oldest", time(number(answer, "/queues/oldest_ms"))),
        (
            "retained",
            format!("{} messages, {}", count(answer, "/retained/messages"), size(number(answer, "/retained/bytes"))),
        ),
        ("store", store_state(yes(answer, "/store/failing"), number(answer, "/store/room_bytes"))),
        ("memory", size(number(answer, "/process/resident_bytes"))),
    ]);
    let listeners: Vec<Vec<String>> = rows(answer, "/listeners")
        .map(|row| vec![text(row, "/url"), count(row, "/sockets"), count(row, "/sockets_limit")])
        .collect();
    out.push('\n');
    out.push_str(&table(&["listener", ">sockets", ">limit"], &listeners));
    out
}

fn store_state(failing: bool, room: u64) -> String {
    if failing { "cannot be written".to_owned() } else { format!("fine, room for {}", size(room)) }
}

const SESSION_TITLES: [&str; 9] =
    ["client", "state", "protocol", ">away", ">subscriptions", ">queued", ">bytes", ">in flight", ">oldest"];

fn session_row(row: &Value) -> Vec<String> {
    let state = match (yes(row, "/connected"), yes(row, "/full")) {
        (true, false) => "connected",
        (true, true) => "connected, full",
        (false, false) => "away",
        (false, true) => "away, full",
    };
    vec![
        text(row, "/client_id"),
        state.to_owned(),
        text(row, "/protocol"),
        some_time(row, "/away_ms"),
        count(row, "/subscriptions"),
        count(row, "/queued_messages"),
        size(number(row, "/queued_bytes")),
        count(row, "/in_flight"),
        some_time(row, "/oldest_ms"),
    ]
}

/// What is said below a table.
fn of_total(shown: usize, total: u64) -> String {
    if shown as u64 == total { format!("{total} in all\n") } else { format!("{shown} of {total}\n") }
}

fn session_table(answer: &Value, field: &str) -> String {
    let rows: Vec<_> = rows(answer, field).map(session_row).collect();
    format!("{}{}", table(&SESSION_TITLES, &rows), of_total(rows.len(), number(answer, "/total")))
}

pub(super) fn sessions(answer: &Value) -> String {
    session_table(answer, "/sessions")
}

pub(super) fn queues(answer: &Value) -> String {
    session_table(answer, "/queues")
}

pub(super) fn declared(answer: &Value) -> String {
    let titles = [
        "queue",
        "dead letters",
        ">messages",
        ">bytes",
        ">consumers",
        ">connected",
        ">in flight",
        ">set aside",
        ">not allowed",
    ];
    let row = |row: &Value| {
        let dead = if yes(row, "/dead_letters") { "yes" } else { "" };
        let counts =
            ["/consumers", "/connected", "/in_flight", "/aside", "/not_allowed"].map(|field| count(row, field));
        let first = [text(row, "/name"), dead.to_owned(), count(row, "/messages"), size(number(row, "/bytes"))];
        first.into_iter().chain(counts).collect()
    };
    table(&titles, &rows(answer, "/queues").map(row).collect::<Vec<_>>())
}

pub(super) fn delayed(answer: &Value) -> String {
    let row = |row: &Value| {
        let clock = if yes(row, "/by_wall_clock") { "wall" } else { "own" };
        let (due, bytes) = (time(number(row, "/due_in_ms")), size(number(row, "/payload_bytes")));
        vec![text(row, "/key"), text(row, "/topic"), count(row, "/qos"), bytes, due, clock.to_owned()]
    };
    let rows: Vec<Vec<String>> = rows(answer, "/delayed").map(row).collect();
    let titles = ["key", "topic", ">qos", ">bytes", ">due in", "clock"];
    format!("{}{}", table(&titles, &rows), of_total(rows.len(), number(answer, "/total")))
}

pub(super) fn session(answer: &Value) -> String {
    let row = answer.pointer("/session").unwrap_or(&Value::Null);
    let mut out = table(&SESSION_TITLES, &[session_row(row)]);
    out.push('\n');
    out.push_str(&pairs(&[("waits", text(answer, "/waits")), ("ends in", some_time(row, "/ends_in_ms"))]));
    out.push('\n');
    out.push_str(&ledger(answer.pointer("/ledger").unwrap_or(&Value::Null)));
    out.push('\n');
    out.push_str(&subscription_table(answer));
    out
}

fn subscription_table(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = rows(answer, "/subscriptions")
        .map(|row| {
            let flags = [("/no_local", "no local"), ("/retain_as_published", "retain as published")];
            let flags = flags.iter().filter(|(field, _)| yes(row, field)).map(|(_, name)| *name);
            let flags = flags.collect::<Vec<_>>().join(", ");
            vec![text(row, "/client_id"), text(row, "/filter"), count(row, "/qos"), flags]
        })
        .collect();
    table(&["client", "filter", ">qos", "options"], &rows)
}

pub(super) fn subscriptions(answer: &Value) -> String {
    let shown = rows(answer, "/subscriptions").count();
    format!("{}{}", subscription_table(answer), of_total(shown, number(answer, "/total")))
}

pub(super) fn retained(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = rows(answer, "/retained")
        .map(|row| {
            let (age, expires) = (time(number(row, "/age_ms")), some_time(row, "/expires_in_ms"));
            vec![text(row, "/topic"), count(row, "/qos"), size(number(row, "/payload_bytes")), age, expires]
        })
        .collect();
    let shown = rows.len();
    let table = table(&["topic", ">qos", ">payload", ">age", ">expires in"], &rows);
    format!("{table}{}", of_total(shown, number(answer, "/total")))
}

/// The payload alone, for scripts; what is no text in base64.
pub(super) fn payload(answer: &Value) -> String {
    let payload = answer
        .pointer("/text")
        .unwrap_or(&Value::Null)
        .as_str()
        .or(answer.pointer("/base64").unwrap_or(&Value::Null).as_str())
        .unwrap_or_default();
    format!("{payload}\n")
}

pub(super) fn peek(answer: &Value) -> String {
    let rows: Vec<Vec<String>> = rows(answer, "/messages")
        .map(|row| {
            let payload = if row.pointer("/text").unwrap_or(&Value::Null).is_string() {
                text(row, "/text")
            } else {
                text(row, "/base64")
            };
            let short: String = payload.chars().take(60).collect();
            let (age, bytes) = (time(number(row, "/age_ms")), size(number(row, "/bytes")));
            vec![count(row, "/place"), text(row, "/topic"), count(row, "/qos"), age, bytes, short]
        })
        .collect();
    let shown = rows.len();
    let table = table(&[">place", "topic", ">qos", ">age", ">bytes", "payload"], &rows);
    format!("{table}{}", of_total(shown, number(answer, "/total")))
}

pub(super) fn ledger(answer: &Value) -> String {
    let mut lines = vec![
        ("accepted".to_owned(), count(answer, "/accepted")),
        ("delivered".to_owned(), count(answer, "/delivered")),
        ("queued".to_owned(), count(answer, "/queued")),
        ("expired".to_owned(), count(answer, "/expired")),
    ];
    let dropped = rows(answer, "/dropped").filter(|row| number(row, "/count") > 0);
    lines.extend(dropped.map(|row| (format!("dropped: {}", text(row, "/reason")), count(row, "/count"))));
    let rows: Vec<Vec<String>> = lines.into_iter().map(|(name, count)| vec![name, count]).collect();
    table(&["ledger", ">messages"], &rows)
}

pub(super) fn access(answer: &Value) -> String {
    let number = |key: &str| answer.get(key).and_then(Value::as_u64).unwrap_or(0);
    if answer.get("configured").and_then(Value::as_bool) != Some(true) {
        return "everybody may do everything: [access] names no source and no ACL\n".to_owned();
    }
    format!(
        "{} users of the password file, {} made while the broker runs, {} rules; {} addresses banned; version {}\n",
        number("users"),
        number("dynamic_users"),
        number("rules"),
        number("banned"),
        number("version")
    )
}

pub(super) fn acl(answer: &Value) -> String {
    let verdict = if answer.get("allowed").and_then(Value::as_bool) == Some(true) { "allowed" } else { "denied" };
    let by = answer.get("by").and_then(Value::as_str).unwrap_or_default();
    let version = answer.get("version").and_then(Value::as_u64).unwrap_or(0);
    format!("{verdict}: {by} (version {version} of the rules)\n")
}

pub(super) fn bans(answer: &Value) -> String {
    let bans = answer.get("bans").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let line = |ban: &Value| {
        let address = ban.get("address").and_then(Value::as_str).unwrap_or_default();
        format!("{address}  {} s left\n", ban.get("left_s").and_then(Value::as_u64).unwrap_or(0))
    };
    bans.iter().map(line).chain([format!("{} in all\n", bans.len())]).collect()
}

pub(super) fn changes(answer: &Value) -> String {
    let changes = answer.get("changes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if changes.is_empty() {
        return "nothing is different\n".to_owned();
    }
    changes.iter().filter_map(Value::as_str).map(|line| format!("{line}\n")).collect()
}

pub(super) fn drops(answer: &Value) -> String {
    let mut lines = Vec::new();
    for row in rows(answer, "/sessions") {
        let mut line = |reason: String, count: u64| {
            if count > 0 {
                lines.push(vec![text(row, "/client_id"), reason, count.to_string()]);
            }
        };
        line("expired".to_owned(), number(row, "/ledger/expired"));
        rows(row, "/ledger/dropped").for_each(|part| line(text(part, "/reason"), number(part, "/count")));
    }
    format!(
        "{}\n{}",
        table(&["client", "reason", ">messages"], &lines),
        ledger(answer.pointer("/all").unwrap_or(&Value::Null))
    )
}

pub(super) fn store(answer: &Value) -> String {
    let us = |field: &str| format!("{} us", number(answer, field));
    pairs(&[
        ("state", store_state(yes(answer, "/failing"), number(answer, "/room_bytes"))),
        ("commits", format!("{}, {} failed", count(answer, "/commits"), count(answer, "/failures"))),
        ("a commit takes", format!("{} (half), {} (99 of 100)", us("/commit_p50_us"), us("/commit_p99_us"))),
        ("messages written", size(number(answer, "/message_bytes"))),
        ("written to storage", size(number(answer, "/storage_written_bytes"))),
        ("in the file", size(number(answer, "/live_bytes"))),
        ("to the journal", size(number(answer, "/journal_written_bytes"))),
        ("to the file", size(number(answer, "/file_written_bytes"))),
        ("for 1000 bytes", format!("{} to the device", count(answer, "/device_bytes_per_kilobyte"))),
        ("wear", wear(answer)),
        ("damaged rows", count(answer, "/damaged_rows")),
    ])
}

fn wear(answer: &Value) -> String {
    let gather = number(answer, "/gather_us") / 1000;
    let limit = match (number(answer, "/wear_bytes_per_year"), yes(answer, "/wear_over")) {
        (0, _) => "no limit".to_owned(),
        (per_year, false) => format!("{} a year, kept", size(per_year)),
        (per_year, true) => format!("{} a year, NOT kept", size(per_year)),
    };
    format!("{limit}; commits wait {gather} ms for others")
}

pub(super) fn journal(answer: &Value) -> String {
    let of = |field: &str| size(number(answer, field));
    let waits = number(answer, "/last_record").saturating_sub(number(answer, "/folded_record"));
    pairs(&[
        ("its file", if number(answer, "/bytes") == 0 { "none".to_owned() } else { of("/bytes") }),
        ("waits to be folded", format!("{waits} records, {}", of("/pending_bytes"))),
        ("last record", count(answer, "/last_record")),
        ("folded to", count(answer, "/folded_record")),
        ("folds", count(answer, "/folds")),
        ("written", of("/written_bytes")),
    ])
}

pub(super) fn fold(answer: &Value) -> String {
    let (bytes, took) = (size(number(answer, "/bytes")), time(number(answer, "/took_ms")));
    format!("{} records, {bytes} in {took}\n", count(answer, "/records"))
}

pub(super) fn compact(answer: &Value) -> String {
    let of = |field: &str| size(number(answer, field));
    format!("{} before, {} now, in {}\n", of("/before"), of("/after"), time(number(answer, "/took_ms")))
}

pub(super) fn log(answer: &Value) -> String {
    let mut shown = vec![
        ("level", text(answer, "/level")),
        ("lines lost", count(answer, "/lines_lost")),
        ("lines left out", count(answer, "/lines_left_out")),
    ];
    if answer.pointer("/client").is_some_and(Value::is_string) {
        let left = time(number(answer, "/client_for_s").saturating_mul(1000));
        shown.push(("packets of", format!("{} for {left}", text(answer, "/client"))));
    }
    pairs(&shown)
}

pub(super) fn backup(answer: &Value) -> String {
    let (bytes, took) = (size(number(answer, "/bytes")), time(number(answer, "/took_ms")));
    let done = format!("{}: {bytes} in {took}\n", text(answer, "/file"));
    match number(answer, "/damaged_rows") {
        0 => done,
        rows => format!("{done}{rows} rows in it are damaged, as they are in the store: the broker's log names them\n"),
    }
}

pub(super) fn why(answer: &Value) -> String {
    let verdict = if yes(answer, "/reaches") { "reaches" } else { "does not reach" };
    let mut out = format!("a message on {} {verdict} {} now:\n", text(answer, "/topic"), text(answer, "/client_id"));
    for reason in rows(answer, "/reasons") {
        out.push_str(&format!("- {}\n", plain(reason.as_str().unwrap_or_default())));
    }
    out
}
