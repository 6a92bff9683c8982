//! Why a message on a topic reaches a client, or does not: held against the client's session as it is now.

use forebay_wire::topic::{matches, without_share};

use super::answers::Why;
use super::handlers::{check_topic, json};
use super::routes::{Ask, Error, Outcome};
use super::sessions::waits;
use crate::broker::Slot;
use crate::session::Policy;
use crate::store::DropReason;

/// What is found on the way; the first thing that stops a message decides.
#[derive(Default)]
struct Findings {
    against: Vec<String>,
    for_it: Vec<String>,
}

pub(super) fn why(ask: &Ask<'_>) -> Outcome {
    let wanted = |name: &str| ask.query.text(name).ok_or_else(|| Error::Wrong(format!("needs {name}")));
    let (client, topic) = (wanted("client")?, wanted("topic")?);
    check_topic(ask, topic)?;
    let mut findings = Findings::default();
    match ask.on.broker.slot_of(client) {
        None => findings.against.push(format!(
            "there is no session of \"{client}\": it has never connected, has left with a clean session, or its session \
             has expired"
        )),
        Some(slot) => of_session(&mut findings, ask, &slot, topic),
    }
    if ask.on.broker.store_failing() {
        findings.against.push("the store cannot be written: QoS 1 and 2 messages are refused".to_owned());
    }
    let reaches = findings.against.is_empty();
    let reasons = findings.against.into_iter().chain(findings.for_it).collect();
    json(&Why { client_id: client.to_owned(), topic: topic.to_owned(), reaches, reasons })
}

fn of_session(findings: &mut Findings, ask: &Ask<'_>, slot: &Slot, topic: &str) {
    let settings = &ask.on.broker.settings;
    let full = slot.full();
    slot.look(|session| {
        let matching = |filter: &str| matches(without_share(filter), topic);
        let subscriptions: Vec<_> = session.subscriptions().iter().filter(|of| matching(&of.filter)).collect();
        if subscriptions.is_empty() {
            let count = session.subscriptions().len();
            findings.against.push(format!("no match: none of its {count} subscriptions matches the topic"));
        }
        for of in &subscriptions {
            let shared =
                if of.filter.starts_with("$share/") { "; shared: one member of the group gets it" } else { "" };
            let own = if of.no_local { "; not its own messages (No Local)" } else { "" };
            findings.for_it.push(format!("it is subscribed to {} with QoS {}{shared}{own}", of.filter, of.qos));
        }
        if !session.connected() {
            let qos0 = if settings.queue.queue_qos0 { "QoS 0 as well" } else { "QoS 0 is dropped" };
            findings.against.push(format!("its client is away: QoS 1 and 2 wait in its queue, {qos0}"));
        }
        if full {
            findings.against.push("queue policy: its queue is full and refuses more (0x97)".to_owned());
        }
        let (figures, (ledger, _)) = (session.queue_figures(), session.ledger());
        if figures.messages > 0 && session.connected() {
            let (count, waits) = (figures.messages, waits(session));
            findings.against.push(format!("pace: {count} messages are before it; {waits}"));
        }
        if session.maximum_packet_size() < u32::MAX {
            let most = session.maximum_packet_size();
            findings
                .for_it
                .push(format!("messages whose packet is larger than {most} bytes are dropped: its client says so"));
        }
        if let Policy::KeepLast = settings.queue.policy {
            findings.for_it.push("queue policy: keep-last replaces an older message of the same topic".to_owned());
        }
        if ledger.expired > 0 {
            findings.for_it.push(format!("{} messages have expired in its queue so far", ledger.expired));
        }
        for (reason, count) in DropReason::ALL.iter().zip(ledger.dropped).filter(|(_, count)| *count > 0) {
            findings.for_it.push(format!("{count} messages have been dropped so far: {}", reason.name()));
        }
    });
}
