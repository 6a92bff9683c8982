//! The tools of the store on stores made by the model: an export says everything, an import makes the same store of it or
//! nothing, verify sees damage and changes nothing. `FOREBAY_SEEDS=n` runs more seeds, `FOREBAY_SEED=s` one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod model;

use std::path::{Path, PathBuf};

use forebay::store::redb::{RedbStore, StoreOptions};
use forebay::store::tool::{Counts, ToolError, compact, export, import, verify};
use forebay::store::{Store, StoreError};
use model::{Model, Seed};

fn options() -> StoreOptions {
    StoreOptions { min_free_bytes: 0, ..StoreOptions::default() }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("forebay.redb")
}

fn make(dir: &Path, seed: &mut Seed, small: bool) -> Model {
    let mut model = Model { small, with_keyed: true, ..Model::default() };
    let (mut store, _) = RedbStore::open(dir, &options(), 0).unwrap();
    for _ in 0..2 + seed.below(20) {
        store.commit(&model.step(seed)).unwrap();
    }
    model
}

fn exported(dir: &Path) -> (Counts, String) {
    let mut out = Vec::new();
    let counts = export(dir, &mut out).unwrap();
    (counts, String::from_utf8(out).unwrap())
}

fn is_model(dir: &Path, model: &Model, seed: &mut Seed) {
    let (store, recovered) = RedbStore::open(dir, &options(), 0).unwrap();
    assert_eq!(model.differs(&recovered, store.reader().as_ref(), seed), None);
}

fn is_sound(dir: &Path, counts: Counts) {
    let verdict = verify(dir).unwrap();
    assert_eq!(verdict.wrong, Vec::<String>::new());
    assert_eq!(verdict.counts, counts);
}

fn round(number: u64) {
    let mut seed = Seed(number);
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let small = !seed.one_in(5);
    let model = make(old.path(), &mut seed, small);
    let before = std::fs::read(file(old.path())).unwrap();
    let (counts, text) = exported(old.path());
    is_sound(old.path(), counts);
    assert!(before == std::fs::read(file(old.path())).unwrap(), "looking at it has changed the file");
    assert_eq!(counts.sessions, model.sessions.len() as u64);
    assert_eq!(counts.queued, model.sessions.values().map(|session| session.queue.len() as u64).sum::<u64>());
    assert_eq!(import(new.path(), &mut text.as_bytes()).unwrap(), counts);
    assert!(exported(new.path()).1 == text, "the export of the import differs");
    is_sound(new.path(), counts);
    is_model(new.path(), &model, &mut seed);
    // It is a store like any other: the model goes on with it.
    let mut model = model;
    let (mut store, _) = RedbStore::open(new.path(), &options(), 0).unwrap();
    for _ in 0..3 {
        store.commit(&model.step(&mut seed)).unwrap();
    }
    drop(store);
    compact(new.path()).unwrap();
    is_model(new.path(), &model, &mut seed);
    is_sound(new.path(), exported(new.path()).0);
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn an_import_of_an_export_is_the_same_store() {
    if let Some(seed) = variable("FOREBAY_SEED") {
        return round(seed);
    }
    for seed in 0..variable("FOREBAY_SEEDS").unwrap_or(40) {
        if std::panic::catch_unwind(|| round(seed)).is_err() {
            panic!("again: FOREBAY_SEED={seed} cargo test -p forebay --test tool");
        }
    }
}

#[test]
fn a_bad_line_is_said_with_its_number_and_nothing_is_imported() {
    let old = tempfile::tempdir().unwrap();
    let mut seed = Seed(3);
    make(old.path(), &mut seed, false);
    let (_, text) = exported(old.path());
    let lines: Vec<&str> = text.lines().collect();
    let at = |start: &str| lines.iter().position(|line| line.starts_with(start)).unwrap();
    let queued = at("{\"queued\"");
    let with = |at: usize, line: &str| {
        let mut lines = lines.clone();
        lines[at] = line;
        lines.join("\n")
    };
    let without = |at: usize| {
        let mut lines = lines.clone();
        lines.remove(at);
        lines.join("\n")
    };
    let twice = |at: usize| {
        let mut lines = lines.clone();
        lines.insert(at, lines[at]);
        lines.join("\n")
    };
    let next_session = queued + lines[queued..].iter().position(|line| !line.starts_with("{\"queued\"")).unwrap();
    let wildcard = lines[queued].replace("\"topic\":\"", "\"topic\":\"+/");
    let qos = lines[at("{\"subscription\"")].replace("\"qos\":", "\"qos\":3");
    let cases = [
        ("no JSON", with(queued, "{\"queued\":"), queued),
        ("an unknown kind", with(queued, "{\"queue\":{}}"), queued),
        ("a wildcard in a topic", with(queued, &wildcard), queued),
        ("a QoS", with(at("{\"subscription\""), &qos), at("{\"subscription\"")),
        ("a queue entry missing", without(queued), next_session - 1),
        ("a queue entry twice", twice(queued), queued + 1),
        ("a session twice", twice(at("{\"session\"")), at("{\"session\"") + 1),
        ("a state twice", twice(at("{\"state\"")), at("{\"state\"") + 1),
        ("a retained message twice", twice(at("{\"retained\"")), at("{\"retained\"") + 1),
        ("no first line", without(0), 0),
        ("another version", with(0, "{\"export\":{\"version\":99}}"), 0),
        ("no end", without(lines.len() - 1), lines.len() - 1),
        ("more after the end", twice(lines.len() - 1), lines.len()),
        ("an end that counts otherwise", without(at("{\"retained\"")), lines.len() - 2),
    ];
    for (what, text, wrong) in cases {
        let new = tempfile::tempdir().unwrap();
        match import(new.path(), &mut text.as_bytes()) {
            Err(ToolError::Line { number, .. }) => assert_eq!(number, wrong as u64 + 1, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        is_sound(new.path(), Counts::default());
        is_model(new.path(), &Model::default(), &mut seed);
    }
}

#[test]
fn only_an_empty_store_is_imported_into() {
    let dir = tempfile::tempdir().unwrap();
    let mut seed = Seed(5);
    let model = make(dir.path(), &mut seed, true);
    let (_, text) = exported(dir.path());
    let error = import(dir.path(), &mut text.as_bytes()).unwrap_err();
    assert!(matches!(error, ToolError::NotEmpty { .. }), "{error}");
    is_model(dir.path(), &model, &mut seed);
}

#[test]
fn a_store_that_is_open_or_not_there_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let held = tempfile::tempdir().unwrap();
    let _store = RedbStore::open(held.path(), &options(), 0).unwrap();
    let in_use = |error: ToolError| matches!(error, ToolError::Store(StoreError::InUse { .. }));
    let missing = |error: ToolError| matches!(error, ToolError::NoStore { .. });
    assert!(in_use(verify(held.path()).unwrap_err()) && missing(verify(dir.path()).unwrap_err()));
    assert!(in_use(compact(held.path()).unwrap_err()) && missing(compact(dir.path()).unwrap_err()));
    let mut out = Vec::new();
    assert!(in_use(export(held.path(), &mut out).unwrap_err()) && missing(export(dir.path(), &mut out).unwrap_err()));
    assert!(in_use(import(held.path(), &mut &b""[..]).unwrap_err()));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something was made in an empty folder");
}

#[test]
fn verify_sees_damage_and_changes_nothing() {
    let healthy = tempfile::tempdir().unwrap();
    let mut seed = Seed(8);
    let model = make(healthy.path(), &mut seed, false);
    let bytes = std::fs::read(file(healthy.path())).unwrap();
    let mut seen = 0;
    for _ in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        let mut damaged = bytes.clone();
        for _ in 0..1 + seed.below(12) {
            let at = seed.below(bytes.len() as u64) as usize;
            damaged[at] ^= 1 << seed.below(8);
        }
        std::fs::write(file(dir.path()), &damaged).unwrap();
        let sound = verify(dir.path()).unwrap().wrong.is_empty();
        assert!(damaged == std::fs::read(file(dir.path())).unwrap(), "verify has changed the file");
        if sound {
            // The bits are in nothing that is used.
            is_model(dir.path(), &model, &mut seed);
        } else {
            seen += 1;
            let compacted = compact(dir.path());
            // Either redb could do without what is damaged, or nothing was done.
            assert!(compacted.is_ok() || damaged == std::fs::read(file(dir.path())).unwrap());
        }
    }
    assert!(seen > 10, "{seen} of 60 seen");
}

#[test]
fn compaction_makes_a_drained_store_small() {
    let dir = tempfile::tempdir().unwrap();
    let mut seed = Seed(9);
    let mut model = Model::default();
    let (mut store, _) = RedbStore::open(dir.path(), &options(), 0).unwrap();
    for _ in 0..60 {
        store.commit(&model.step(&mut seed)).unwrap();
    }
    drop(store);
    let sizes = compact(dir.path()).unwrap();
    assert!(sizes.after < sizes.before, "{sizes:?}");
    assert_eq!(sizes.after, std::fs::metadata(file(dir.path())).unwrap().len());
    is_model(dir.path(), &model, &mut seed);
}
