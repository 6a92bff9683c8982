//! Tests of which something may be missing on this machine: another program, a right.

use libtest_mimic::{Failed, Trial};

/// A trial of `suite`. `absent` says why it cannot be run here, which makes it a skipped one with a line that says so, or
/// with CI=true a failed one unless the reason is on the list of known absences.
pub fn trial(
    suite: &str,
    name: impl Into<String>,
    absent: Option<&str>,
    run: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let name = name.into();
    let Some(reason) = absent.map(str::to_owned) else { return Trial::test(name, run) };
    println!("SKIP {suite}: {name}: {reason}");
    let known = include_str!("../known-absences").lines().any(|line| line == reason);
    let strict = std::env::var("CI").as_deref() == Ok("true") && !known;
    Trial::test(name, move || Err(reason.into())).with_ignored_flag(!strict)
}

/// The same for a test that says what is wrong by a panic.
pub fn panicking(suite: &str, name: &str, absent: Option<&str>, run: impl FnOnce() + Send + 'static) -> Trial {
    trial(suite, name, absent, move || {
        run();
        Ok(())
    })
}

/// `no PROGRAM` when it cannot be started.
pub fn of_program(program: &str) -> Option<String> {
    let command = std::process::Command::new(program).arg("--help").output();
    command.is_err().then(|| format!("no {program}"))
}
