//! A panic in any thread ends the program. This program is run again as a child, since the end is the whole process's.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::Command;

use forebay::config::{LogFormat, LogLevel};
use forebay::logging;

/// Set for the child, which panics in this way.
const HOW: &str = "FOREBAY_TEST_PANIC";

/// What a child does; without the variable, nothing.
#[test]
fn child() {
    let Ok(how) = std::env::var(HOW) else { return };
    if how != "before the log" {
        logging::start(LogLevel::Info, LogFormat::Text, 100).unwrap();
    }
    logging::end_at_panic();
    if how == "task" {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _ = runtime.block_on(runtime.spawn(async { panic!("on purpose") }));
    } else {
        let _ = std::thread::Builder::new().name("worker-7".to_owned()).spawn(|| panic!("on purpose")).unwrap().join();
    }
    // Reached only when the panic ended its own thread alone.
    std::process::exit(55);
}

fn ends_with_words(how: &str, thread: &str) {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).args(["child", "--exact", "--nocapture"]).env(HOW, how).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{how}: {words}");
    for part in ["forebay: a fault of the program", "on purpose", "panics.rs", thread, "exit code 4"] {
        assert!(words.contains(part), "{how}: {part:?} in {words}");
    }
}

#[test]
fn a_panic_in_a_thread_ends_the_program() {
    ends_with_words("thread", "worker-7");
}

#[test]
fn a_panic_that_a_runtime_would_swallow_ends_it_as_well() {
    ends_with_words("task", "child");
}

#[test]
fn a_panic_before_there_is_a_log_is_said_too() {
    ends_with_words("before the log", "worker-7");
}
