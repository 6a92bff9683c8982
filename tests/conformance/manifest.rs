//! The manifests: every normative statement of a version, with the tests that prove it or the reason why none does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};

use crate::Case;

/// Name, file, and how the ids of its statements begin.
const VERSIONS: [(&str, &str, &str); 2] =
    [("5.0", "manifest-5.0.tsv", "MQTT5-"), ("3.1.1", "manifest-3.1.1.tsv", "MQTT-")];

/// The manifest of one version.
pub struct Manifest {
    version: &'static str,
    prefix: &'static str,
    rows: Vec<Row>,
    /// What cannot be read of it.
    faults: Vec<String>,
}

struct Row {
    id: String,
    binds_server: bool,
    /// The tests that prove it.
    tests: Vec<String>,
    /// Why there is none.
    reason: String,
}

/// All manifests that there are.
pub fn load() -> Vec<Manifest> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let read = |&(version, file, prefix): &(&'static str, &str, &'static str)| {
        let text = std::fs::read_to_string(folder.join(file)).ok()?;
        Some(Manifest::read(version, prefix, &text))
    };
    VERSIONS.iter().filter_map(read).collect()
}

impl Manifest {
    fn read(version: &'static str, prefix: &'static str, text: &str) -> Self {
        let (mut rows, mut faults) = (Vec::new(), Vec::new());
        for (n, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match Row::read(line) {
                Some(row) if row.id.starts_with(prefix) => rows.push(row),
                Some(row) => faults.push(format!("line {}: {} does not begin with {prefix}", n + 1, row.id)),
                None => {
                    faults.push(format!("line {}: not id, binds, words, test or none, and its names or reason", n + 1))
                }
            }
        }
        Self { version, prefix, rows, faults }
    }

    /// The line of counts.
    pub fn summary(&self) -> String {
        let server = self.rows.iter().filter(|row| row.binds_server);
        let tested = server.clone().filter(|row| !row.tests.is_empty()).count();
        let (all, bound) = (self.rows.len(), server.count());
        let reasoned = bound - tested;
        let version = self.version;
        format!(
            "statements: MQTT {version}: {all}, server {bound}, tested {tested}, not tested with a reason {reasoned}"
        )
    }

    fn is_read(&self) -> Result<(), Failed> {
        none_of(&self.faults)
    }

    fn names_each_statement_once(&self) -> Result<(), Failed> {
        let mut seen = BTreeSet::new();
        none_of(&self.rows.iter().map(|row| &row.id).filter(|id| !seen.insert(*id)).collect::<Vec<_>>())
    }

    fn gives_a_test_or_a_reason_for_each(&self) -> Result<(), Failed> {
        let bare = self.rows.iter().filter(|row| row.tests.is_empty() && row.reason.len() < 10);
        none_of(&bare.map(|row| &row.id).collect::<Vec<_>>())
    }

    /// Both ways: a named test exists and proves the statement; what a test proves names the test.
    fn agrees_with_the_tests(&self, tests: &BTreeMap<String, BTreeSet<String>>) -> Result<(), Failed> {
        let mut faults = Vec::new();
        let mut named: BTreeSet<(&str, &str)> = BTreeSet::new();
        for row in &self.rows {
            for test in &row.tests {
                named.insert((test, &row.id));
                match tests.get(test) {
                    None => faults.push(format!("{}: there is no test {test}", row.id)),
                    Some(proves) if !proves.contains(&row.id) => {
                        faults.push(format!("{test} does not prove {}", row.id))
                    }
                    Some(_) => {}
                }
            }
        }
        for (test, proves) in tests {
            for id in proves.iter().filter(|id| id.starts_with(self.prefix)) {
                if !named.contains(&(test.as_str(), id.as_str())) {
                    faults.push(format!("{test} proves {id}, and the manifest does not say so"));
                }
            }
        }
        none_of(&faults)
    }
}

impl Row {
    fn read(line: &str) -> Option<Self> {
        let [id, binds, words, kind, rest] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
        let binds_server = match binds {
            "server" | "both" => true,
            "client" => false,
            _ => return None,
        };
        let list = || rest.split(", ").map(str::to_owned).collect();
        let (tests, reason) = match kind {
            "test" => (list(), String::new()),
            "none" => (Vec::new(), rest.to_owned()),
            _ => return None,
        };
        (!words.is_empty()).then(|| Self { id: id.to_owned(), binds_server, tests, reason })
    }
}

/// Trials that hold manifests and tests against each other.
pub fn trials(manifests: Vec<Manifest>, cases: &[Case]) -> Vec<Trial> {
    let mut trials = vec![own_trial(cases)];
    let proofs = cases.iter().map(|case| (case.name.clone(), case.proves.iter().cloned().collect())).collect();
    let proofs: Arc<BTreeMap<String, BTreeSet<String>>> = Arc::new(proofs);
    for manifest in manifests.into_iter().map(Arc::new) {
        let version = manifest.version;
        let mut add = |what: &str, check: fn(&Manifest) -> Result<(), Failed>| {
            let manifest = manifest.clone();
            trials.push(Trial::test(format!("manifest::{version}::{what}"), move || check(&manifest)));
        };
        add("is_read", Manifest::is_read);
        add("names_each_statement_once", Manifest::names_each_statement_once);
        add("gives_a_test_or_a_reason_for_each", Manifest::gives_a_test_or_a_reason_for_each);
        let proofs = proofs.clone();
        trials.push(Trial::test(format!("manifest::{version}::agrees_with_the_tests"), move || {
            manifest.agrees_with_the_tests(&proofs)
        }));
    }
    trials
}

/// Every test has a name of its own, and what it proves begins as the ids of some version do.
fn own_trial(cases: &[Case]) -> Trial {
    let mut seen = BTreeSet::new();
    let mut faults: Vec<String> =
        cases.iter().map(|case| case.name.clone()).filter(|n| !seen.insert(n.clone())).collect();
    let odd = cases.iter().flat_map(|case| &case.proves);
    faults.extend(odd.filter(|id| !VERSIONS.iter().any(|v| id.starts_with(v.2))).cloned());
    Trial::test("manifest::tests_have_names_of_their_own", move || none_of(&faults))
}

fn none_of<T: std::fmt::Display>(faults: &[T]) -> Result<(), Failed> {
    if faults.is_empty() {
        return Ok(());
    }
    Err(faults.iter().map(T::to_string).collect::<Vec<_>>().join("\n").into())
}
