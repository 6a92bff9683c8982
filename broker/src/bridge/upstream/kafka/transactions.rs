//! Exactly once for whoever reads `read_committed`. A transaction carries messages and, as the offset of a consumer group of the
//! bridge's own, the place behind the last of them: both are there or neither is. At a start the offset is read back, and what
//! is below it leaves the queue without being sent. An open transaction of an earlier run is ended by the new producer, which has
//! the same transactional id.

use std::time::Duration;

use krafka::consumer::{AutoOffsetReset, Consumer, ConsumerGroupMetadata};
use krafka::error::KrafkaError;
use krafka::producer::{DeliveryHandle, TopicPartitionOffset, TransactionalProducer};
use krafka::{Kafka, Record};
use tokio::time::{Instant, sleep, timeout};

use super::{Options, group, in_flight, producer, reason, record, refusal, say_if_ended};
use crate::bridge::upstream::piped::Pipe;
use crate::bridge::upstream::{Event, Outcome, Outgoing};
use crate::store::DropReason;

/// Messages of one transaction.
const BATCH: usize = 1_000;
/// How long the members of the group may take to agree.
const JOIN: Duration = Duration::from_secs(45);
/// Between two looks whether the group has agreed.
const LOOK: Duration = Duration::from_millis(200);
/// The server ends a transaction that is open for so long.
const TRANSACTION: Duration = Duration::from_secs(90);
/// How long the group keeps a member that is silent: a bridge that is back earlier has its place at once.
const SESSION: Duration = Duration::from_secs(30);

/// What was refused is on disk here by then, as a dead letter. The next transaction says that it is not to be sent again.
const ON_DISK: Duration = Duration::from_secs(1);

/// What was said of a record before its transaction failed is known by then.
const SAID: Duration = Duration::from_millis(10);

pub(super) async fn run(options: &Options, kafka: &Kafka, mut pipe: Pipe) -> Result<(), String> {
    let group = group(&options.remote);
    let text = |error: KrafkaError| reason(&options.remote, &error);
    let consumer = kafka
        .consumer(group.as_str())
        .group_instance_id(options.remote.name.as_str())
        .session_timeout(SESSION)
        .auto_offset_reset(AutoOffsetReset::Latest)
        .enable_auto_commit(false)
        .build()
        .await
        .map_err(text)?;
    join(&consumer, options).await?;
    let build =
        producer(options, kafka).transaction_timeout(TRANSACTION).build_transactional(options.remote.name.as_str());
    let producer = build.await.map_err(text)?;
    // Only now: what an earlier run left open has been ended by now.
    let committed = consumer.committed(&[(&options.progress_topic, 0)]).await.map_err(text)?;
    let reached = committed.values().map(|position| position.offset).max();
    pipe.resume_at(reached.and_then(|offset| u64::try_from(offset).ok()).unwrap_or(0));
    pipe.say(Event::Connected).await;
    let mut batch = Vec::new();
    while pipe.messages.recv_many(&mut batch, options.remote.window.min(BATCH)).await > 0 {
        while !batch.is_empty() {
            let settled = transaction(options, &consumer, &producer, &batch).await;
            if let Err(Failed { why, .. }) = &settled {
                say_if_ended(&pipe, why).await;
            }
            let (settled, done, failed) = match settled {
                Ok(Committed { settled, done, waits }) => (settled, done, waits),
                Err(Failed { why, refused }) => (refused, batch.len(), Some(text(why))),
            };
            let some_refused = settled.iter().any(|(_, outcome)| *outcome != Outcome::Delivered);
            for (place, outcome) in settled {
                pipe.settled(place, outcome).await;
            }
            if let Some(why) = failed {
                return Err(why);
            }
            batch.drain(..done.min(batch.len()));
            if some_refused && !batch.is_empty() {
                sleep(ON_DISK).await;
            }
        }
    }
    let _ = consumer.close().await;
    Ok(())
}

/// Becomes a member of the group: without one the offsets of a transaction could be another's.
async fn join(consumer: &Consumer, options: &Options) -> Result<(), String> {
    let topic = options.progress_topic.as_str();
    let text = |error| format!("{}; of the topic {topic}, where progress is kept", reason(&options.remote, &error));
    consumer.subscribe([topic]).await.map_err(text)?;
    let begun = Instant::now();
    while member(consumer).await.is_none() {
        consumer.poll(LOOK).await.map_err(text)?;
        if begun.elapsed() > JOIN {
            return Err(format!("its consumer group did not form in {} s; is there a topic {topic}?", JOIN.as_secs()));
        }
    }
    Ok(())
}

async fn member(consumer: &Consumer) -> Option<ConsumerGroupMetadata> {
    consumer.group_metadata().await.filter(ConsumerGroupMetadata::is_fenceable)
}

/// Nothing of the transaction is there; all of it is to be sent again, but what was refused.
struct Failed {
    why: KrafkaError,
    refused: Vec<(u64, Outcome)>,
}

impl From<KrafkaError> for Failed {
    fn from(error: KrafkaError) -> Self {
        Self { why: error, refused: Vec::new() }
    }
}

/// What is settled is there.
struct Committed {
    settled: Vec<(u64, Outcome)>,
    /// How many of the batch were dealt with. The rest is for another transaction.
    done: usize,
    /// Why the rest of the batch is not in it, and has to be sent again.
    waits: Option<String>,
}

/// Sends a batch, and commits it with the place behind it. A message that waits ends the transaction before it: what is below the
/// place is never sent again. So does one that is refused, since nobody knows of that yet: those at the beginning are refused alone.
async fn transaction(
    options: &Options,
    consumer: &Consumer,
    producer: &TransactionalProducer,
    batch: &[Outgoing],
) -> Result<Committed, Failed> {
    producer.begin()?;
    let mut settled = Vec::with_capacity(batch.len());
    let mut handles = Vec::with_capacity(batch.len());
    let (mut end, mut done, mut waits) = (batch.last().map_or(0, |out| out.place + 1), batch.len(), None);
    for (at, out) in batch.iter().enumerate() {
        let prepared = prepare(options, producer, out).await?;
        if is_for_another(prepared.as_ref().err(), handles.len(), settled.len()) {
            (end, done) = (out.place, at);
            break;
        }
        match prepared {
            Ok(record) => {
                let handle = producer.enqueue(record).await.map_err(|error| {
                    let refused = in_flight(&options.remote, (&out.topic, out.place), &error).ok();
                    let refused = refused.map(|refused| (out.place, refused)).into_iter().collect();
                    Failed { why: error, refused }
                })?;
                handles.push((out, handle));
                settled.push((out.place, Outcome::Delivered));
            }
            Err(Outcome::Retry(why)) => {
                (end, done, waits) = (out.place, at, Some(why));
                break;
            }
            Err(refused) => settled.push((out.place, refused)),
        }
    }
    if handles.is_empty() {
        producer.abort().await?;
        return Ok(Committed { settled, done, waits });
    }
    match commit(options, consumer, producer, end).await {
        Ok(()) => {
            handles.iter().for_each(|(out, _)| options.remote.refused.taken(&out.topic));
            Ok(Committed { settled, done, waits })
        }
        Err(why) => Err(Failed { why, refused: refused(options, handles).await }),
    }
}

/// Whether a message goes into another transaction: it is refused and others are sent, or it is sent and others are refused.
/// `settled` counts both.
fn is_for_another(becomes: Option<&Outcome>, sent: usize, settled: usize) -> bool {
    match becomes {
        None => settled > sent,
        Some(Outcome::Retry(_)) => false,
        Some(_) => sent > 0,
    }
}

/// The record, or what becomes of a message that is none. A send that fails costs the transaction: whether its topic is there
/// is asked before.
async fn prepare(
    options: &Options,
    producer: &TransactionalProducer,
    out: &Outgoing,
) -> Result<Result<Record, Outcome>, KrafkaError> {
    let record = match record(&options.remote.marks, out) {
        Ok(record) => record,
        Err(why) => return Ok(Err(Outcome::Refused(why, DropReason::Refused))),
    };
    let (refused, at) = (&options.remote.refused, (out.topic.as_str(), out.place));
    if let Some(known) = refused.known(at, Instant::now().into_std()) {
        return Ok(Err(known));
    }
    match producer.partitions_for(&out.topic).await {
        Ok(_) => Ok(Ok(record)),
        Err(error) => refusal(&options.remote, at, &error).map(Err).ok_or(error),
    }
}

async fn commit(
    options: &Options,
    consumer: &Consumer,
    producer: &TransactionalProducer,
    place: u64,
) -> Result<(), KrafkaError> {
    let offset = i64::try_from(place).map_err(|_| KrafkaError::illegal_state("the place is no offset"))?;
    let offsets = [TopicPartitionOffset::new(options.progress_topic.as_str(), 0, offset)];
    let member = member(consumer).await.ok_or_else(|| KrafkaError::illegal_state("it is no member of its group"))?;
    producer.send_offsets(&offsets, &member).await?;
    let ended = timeout(TRANSACTION, producer.commit()).await;
    ended.map_err(|_| KrafkaError::timeout("the end of a transaction"))?
}

/// Which messages have made a transaction fail, and always will.
async fn refused(options: &Options, handles: Vec<(&Outgoing, DeliveryHandle)>) -> Vec<(u64, Outcome)> {
    let mut all = Vec::new();
    for (out, handle) in handles {
        if let Ok(Err(error)) = timeout(SAID, handle).await {
            let refused = in_flight(&options.remote, (&out.topic, out.place), &error);
            all.extend(refused.ok().map(|refused| (out.place, refused)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_transaction_has_what_is_sent_and_what_is_refused() {
        let refused = Outcome::Refused("no".to_owned(), DropReason::Refused);
        assert!(!is_for_another(None, 0, 0) && !is_for_another(None, 3, 3));
        assert!(!is_for_another(Some(&refused), 0, 0) && !is_for_another(Some(&refused), 0, 2));
        assert!(is_for_another(Some(&refused), 1, 1), "its refusal is known to nobody when the transaction ends");
        assert!(is_for_another(None, 0, 1), "the same, from the other side");
        assert!(!is_for_another(Some(&Outcome::Retry("full".to_owned())), 1, 1), "it ends the transaction by itself");
    }
}
