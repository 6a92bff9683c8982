//! The client as a task with a store in flash, whose operations take a while: power cuts at every write and erase, and
//! futures that are dropped at any await, between them and in the middle of them.
#![cfg(all(feature = "flash", feature = "embedded-io-async", feature = "v3", feature = "v5", feature = "qos2"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::wildcard_enum_match_arm, clippy::print_stdout, dead_code)]

mod book;
#[path = "../simulation/broker.rs"]
mod broker;
mod chip;
#[path = "../flash/mock.rs"]
mod mock;
#[path = "../task/net.rs"]
mod net;
#[path = "../simulation/payload.rs"]
mod payload;
#[path = "../simulation/seed.rs"]
mod seed;
mod story;

use mock::Torn;
use seed::Seed;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use story::{Outcome, Story};

/// What never waits.
pub fn now<R>(future: impl Future<Output = R>) -> R {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("nothing here waits"),
    }
}

/// Runs it, and says which one it was when it fails.
fn told(story: Story) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| story.run())).unwrap_or_else(|panic| {
        eprintln!("failed: {story:?}");
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn a_backlog_larger_than_the_outbox_goes_through_flash_and_all_of_it_arrives() {
    for v5 in [false, true] {
        let outcome = told(Story::new(v5));
        println!("{outcome:?}");
        assert_eq!(outcome.cuts, 0);
        assert!(outcome.spilled > 5 && outcome.operations > 60, "{outcome:?}");
    }
}

/// Each of them not done, half done, and done.
#[test]
fn the_power_may_be_cut_at_every_operation() {
    for v5 in [false, true] {
        let operations = Story::new(v5).run().operations;
        for at in 0..operations {
            for torn in [Torn::Nothing, Torn::Some, Torn::All] {
                let outcome = told(Story { power: Some((at, torn)), ..Story::new(v5) });
                assert_eq!(outcome.cuts, 1);
            }
        }
    }
}

/// Also in the middle of what the store does, when reading takes a while too.
#[test]
fn the_connection_may_be_cancelled_at_every_await() {
    for v5 in [false, true] {
        for (eager, step) in [(u32::MAX, 1), (20, 7)] {
            let story = Story { eager, ..Story::new(v5) };
            let polls = story.run().polls;
            println!("{polls} polls");
            for after in (1..=polls).step_by(step) {
                for next in 0..4 {
                    let outcome = told(Story { connection: Some((after, next * step)), ..story });
                    assert_eq!(outcome.counters.accepted, story::MESSAGES, "{outcome:?}");
                }
            }
        }
    }
}

#[test]
fn handles_may_be_cancelled_at_every_await() {
    for v5 in [false, true] {
        for every in 1..30 {
            let story = Story { others: Some(every), eager: 50, ..Story::new(v5) };
            told(story);
            told(Story { connection: Some((every * 9, every)), ..story });
            told(Story { power: Some((every as u64 * 3, Torn::Some)), ..story });
        }
    }
}

/// What is published between the store's last word and the choice of what to send is stored before it is sent.
#[test]
fn whoever_publishes_at_any_moment_has_it_stored_first() {
    for v5 in [false, true] {
        told(Story { preempted: true, ..Story::new(v5) });
    }
}

fn chance(number: u64) -> Story {
    let mut seed = Seed::new(number);
    let torn = [Torn::Nothing, Torn::Some, Torn::All][seed.below(3)];
    let others = (seed.below(3) == 0).then(|| 1 + seed.below(40));
    Story {
        v5: seed.below(2) == 0,
        power: (seed.below(4) > 0).then(|| (seed.below(150) as u64, torn)),
        connection: (seed.below(3) == 0).then(|| (seed.below(1_500), seed.below(30))),
        others,
        eager: [1, 2, 3, 5, 10, 100][seed.below(6)],
        // It gets to ask.
        slow: [0, 1, 3, 10, 40][seed.below(5)].min(others.unwrap_or(usize::MAX) - 1),
        preempted: false,
    }
}

#[test]
fn anything_may_happen_and_what_is_stored_arrives() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let range = match number("FOREBAY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FOREBAY_SEEDS").unwrap_or(300),
    };
    for seed in range {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| told(chance(seed)))) {
            eprintln!("failed with FOREBAY_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
