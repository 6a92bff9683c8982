//! Answers about the store, and what may be done with it while the broker works.

use std::path::Path;
use std::time::Instant;

use super::answers::{BackupAnswer, CompactAnswer, FoldAnswer, JournalAnswer, StoreAnswer};
use super::handlers::json;
use super::routes::{Ask, Error, Outcome};
use crate::observe::Snapshot;
use crate::store::BackupError;
use crate::store::upkeep::{Compacted, Folded, Upkeep, UpkeepError};

fn ms_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn upkeep<'a>(ask: &'a Ask<'_>) -> Result<&'a dyn Upkeep, Error> {
    ask.on.upkeep.as_deref().ok_or_else(|| Error::Conflict("the store is in memory".to_owned()))
}

fn not_done(error: UpkeepError) -> Error {
    match error {
        UpkeepError::TooMuch { .. } | UpkeepError::Busy => Error::Conflict(error.to_string()),
        UpkeepError::Store(_) => Error::Failed(error.to_string()),
    }
}

pub(super) fn journal(ask: &Ask<'_>) -> Outcome {
    let state = upkeep(ask)?.journal();
    let Snapshot { store, .. } = Snapshot::take(&ask.on.broker);
    json(&JournalAnswer {
        bytes: state.bytes,
        pending_bytes: state.pending_bytes,
        last_record: state.last_record,
        folded_record: state.folded_record,
        folds: store.folds,
        written_bytes: store.journal_written_bytes,
    })
}

pub(super) fn fold(ask: &Ask<'_>) -> Outcome {
    let began = Instant::now();
    let Folded { records, bytes } = upkeep(ask)?.fold().map_err(not_done)?;
    json(&FoldAnswer { records, bytes, took_ms: ms_since(began) })
}

pub(super) fn compact(ask: &Ask<'_>) -> Outcome {
    let began = Instant::now();
    let Compacted { before, after } = upkeep(ask)?.compact().map_err(not_done)?;
    let took_ms = ms_since(began);
    tracing::info!(before, after, took_ms, "the store's file was compacted");
    json(&CompactAnswer { before, after, took_ms })
}

pub(super) fn show(ask: &Ask<'_>) -> Outcome {
    let Snapshot { store, process, .. } = Snapshot::take(&ask.on.broker);
    json(&StoreAnswer {
        failing: store.failing,
        commits: store.commits,
        failures: store.failures,
        commit_p50_us: store.commit_times.at_percent(50),
        commit_p99_us: store.commit_times.at_percent(99),
        commit_times: store.commit_times,
        message_bytes: store.message_bytes,
        storage_written_bytes: process.storage_written_bytes,
        live_bytes: store.live_bytes,
        room_bytes: store.room_bytes,
        damaged_rows: store.damaged_rows,
        journal_written_bytes: store.journal_written_bytes,
        file_written_bytes: store.file_written_bytes,
        device_bytes_per_kilobyte: store.device_bytes_per_kilobyte,
        gather_us: store.gather_us,
        wear_bytes_per_year: store.wear_bytes_per_year,
        wear_over: store.wear_over,
    })
}

pub(super) fn backup(ask: &Ask<'_>) -> Outcome {
    let to = ask.query.text("to").ok_or_else(|| Error::Wrong("needs to".to_owned()))?;
    let path = Path::new(to);
    if !path.is_absolute() {
        return Err(Error::Wrong(format!("to must be a whole path, is \"{to}\"")));
    }
    let began = Instant::now();
    let copied = ask.on.reader.backup(path).map_err(|error| match error {
        BackupError::Exists { .. } => Error::Conflict(error.to_string()),
        BackupError::Write { .. } | BackupError::Store { .. } | BackupError::InMemory => {
            Error::Failed(error.to_string())
        }
    })?;
    let took_ms = ms_since(began);
    let (bytes, damaged_rows) = (copied.bytes, copied.damaged.len() as u64);
    tracing::info!(file = to, bytes, damaged_rows, took_ms, "the store has been copied");
    json(&BackupAnswer { file: to.to_owned(), bytes, damaged_rows, took_ms })
}
