//! The client as a task, against the model broker, in virtual time: every task is polled only when it was woken, and every
//! future may be dropped after any number of polls.
#![cfg(all(feature = "embedded-io-async", feature = "v3", feature = "v5", feature = "qos2"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::wildcard_enum_match_arm, dead_code)]

#[path = "../simulation/broker.rs"]
mod broker;
mod net;
#[path = "../simulation/seed.rs"]
mod seed;
mod story;

use forebay_firmware::adapter::task::TooLarge;
use forebay_firmware::{Class, Message, Pressure, QoS, Status};
use story::{Story, options};

#[test]
fn messages_go_both_ways_at_once() {
    for v5 in [false, true] {
        let story = Story::new(v5);
        let polls = story.run(None, None);
        assert!(polls > 10);
    }
}

/// Miri takes a thousand times as long: it is told a few stories, and short ones.
const STEP: usize = if cfg!(miri) { 20 } else { 1 };

/// The task that serves the connection is dropped after N polls, for every N, and started again.
#[test]
fn the_connection_may_be_cancelled_at_every_await() {
    for v5 in [false, true] {
        let polls = Story::new(v5).run(None, None);
        for after in (0..=polls).step_by(STEP) {
            Story::new(v5).run(Some(after), None);
        }
    }
}

/// Those that publish and receive are dropped after every N polls, and begin the same again.
#[test]
fn handles_may_be_cancelled_at_every_await() {
    for v5 in [false, true] {
        for every in (1..40).step_by(STEP) {
            Story::new(v5).run(None, Some(every));
            Story::new(v5).run(Some(every), Some(every));
        }
    }
}

#[test]
fn a_duty_cycle_ends_when_all_is_safe_or_at_its_deadline() {
    story::with(options(true, |_| {}), 1_024, |mut runner, handle, net| {
        for number in 10..15u32 {
            handle.publish(&Message::new("up/0").qos(QoS::ExactlyOnce), &number.to_be_bytes()).unwrap();
        }
        net.carries(false);
        let mut connector = net.connector();
        let began = net.now();
        let drained = net.block_on(runner.drain_until(&mut connector, began + 5_000));
        assert!(!drained && net.now() >= began + 5_000 && net.now() < began + 6_000, "{}", net.now());
        net.carries(true);
        let began = net.now();
        assert!(net.block_on(runner.drain_until(&mut connector, began + 600_000)));
        assert!(net.now() < began + 600_000, "it does not wait for its deadline");
        assert_eq!(net.taken().len(), 5);
        assert_eq!(net.broker().disconnects.last(), Some(&0), "the connection ends in order");
        assert!(handle.counters().acknowledged == 5);
        // And another.
        handle.publish(&Message::new("up/0"), b"\0\0\0\x02").unwrap();
        let began = net.now();
        assert!(net.block_on(runner.drain_until(&mut connector, began + 600_000)));
        assert_eq!(net.taken().len(), 6);
    });
}

#[test]
fn a_time_the_server_has_asked_for_is_waited_for_in_a_duty_cycle_too() {
    story::with(options(true, |_| {}), 1_024, |mut runner, handle, net| {
        handle.publish(&Message::new("up/0"), b"\0\0\0\x01").unwrap();
        net.broker().mood.refuse = Some((0x89, Some(60_000)));
        let mut connector = net.connector();
        let began = net.now();
        assert!(!net.block_on(runner.drain_until(&mut connector, began + 10_000)));
        net.broker().mood.refuse = None;
        let began_again = net.now();
        assert!(!net.block_on(runner.drain_until(&mut connector, began_again + 10_000)));
        assert_eq!(net.broker().connects.len(), 1);
        assert!(net.block_on(runner.drain_until(&mut connector, began + 600_000)));
        assert!(net.broker().connects[1].0 >= began + 60_000);
    });
}

/// Its last words are there to be read, though a write finds out first that it has hung up; or there are none.
#[test]
fn what_a_server_said_before_it_hung_up_is_heard() {
    for says in [true, false] {
        story::with(options(true, |_| {}), 1_024, |mut runner, handle, net| {
            let mut connector = net.connector();
            let mut hung_up_at = 0;
            let all = async {
                handle.connected(true).await;
                if says {
                    net.broker().dismiss(0x89, Some(60_000));
                }
                net.deafen();
                hung_up_at = net.now();
                handle.publish(&Message::new("up/0"), b"\0\0\0\x01").unwrap();
                handle.connected(false).await;
                handle.drained().await;
            };
            net.block_on_while(all, runner.run(&mut connector));
            let waited = net.broker().connects[1].0 - hung_up_at;
            let expected = if says { 60_000..76_000 } else { 1_500..4_000 };
            assert!(expected.contains(&waited), "{waited}");
        });
    }
}

#[test]
fn a_publisher_waits_for_room_and_nothing_is_counted_meanwhile() {
    story::with(options(true, |_| {}), 256, |mut runner, handle, net| {
        use forebay_firmware::Policy;
        let message = Message::new("up/0").policy(Policy::DropNewest);
        let mut connector = net.connector();
        let all = async {
            for number in 0..50u32 {
                handle.publish_wait(&message, &number.to_be_bytes()).await.unwrap();
            }
            let last = handle.publish_wait(&message, &50u32.to_be_bytes()).await.unwrap();
            assert_eq!(handle.ended(last).await, Status::Done);
            handle.drained().await;
            assert!(handle.publish_wait(&message, &[0; 1_000]).await.is_err(), "what never fits is not waited for");
        };
        net.block_on_while(all, runner.run(&mut connector));
        assert_eq!(net.taken(), (0..=50).collect::<Vec<u32>>());
        assert_eq!(handle.counters().dropped_with_ticket(), 0);
        assert_eq!(handle.counters().accepted, 51);
    });
}

#[test]
fn a_message_without_room_is_refused_and_the_next_one_comes() {
    story::with(options(true, |_| {}), 1_024, |mut runner, handle, net| {
        handle.subscribe("down/#", QoS::AtLeastOnce).unwrap();
        let mut connector = net.connector();
        let all = async {
            handle.connected(true).await;
            handle.drained().await;
            for (number, len) in [(1, 20), (2, 90), (3, 3_000), (4, 10)] {
                assert!(net.broker().send(number, story::payload(number, len), QoS::AtLeastOnce));
            }
            let mut small = [0; 50];
            assert_eq!(handle.receive(&mut small).await.unwrap().payload, story::payload(1, 20));
            assert_eq!(handle.receive(&mut small).await, Err(TooLarge { payload_len: 90 }));
            assert_eq!(handle.receive(&mut small).await, Err(TooLarge { payload_len: 3_000 }));
            let last = handle.receive(&mut small).await.unwrap();
            assert_eq!((last.payload, last.topic), (&story::payload(4, 10)[..], "down/x"));
        };
        net.block_on_while(all, runner.run(&mut connector));
    });
}

/// Whoever receives is told, though nothing of the message comes to it.
#[test]
fn a_head_without_room_is_refused_and_the_next_message_comes() {
    story::with(options(true, |_| {}), 1_024, |mut runner, handle, net| {
        handle.subscribe("down/#", QoS::AtLeastOnce).unwrap();
        let mut connector = net.connector();
        let all = async {
            handle.connected(true).await;
            handle.drained().await;
            let mut body = Vec::new();
            broker::field(&mut body, &[b't'; 1_000]);
            body.extend([0, b'!']);
            net.broker().out.extend(broker::packet(0x30, &body));
            assert!(net.broker().send(1, story::payload(1, 10), QoS::AtLeastOnce));
            let mut buffer = [0; 50];
            assert_eq!(handle.receive(&mut buffer).await, Err(TooLarge { payload_len: 2 }));
            assert_eq!(handle.receive(&mut buffer).await.unwrap().payload, story::payload(1, 10));
        };
        net.block_on_while(all, runner.run(&mut connector));
        assert_eq!(net.broker().connects.len(), 1);
    });
}

/// A message is acknowledged when somebody asks for the next one, not when another packet has been read past.
#[test]
fn what_is_read_past_acknowledges_no_message() {
    story::with(options(true, |_| {}), 1_024, |mut runner, handle, net| {
        handle.subscribe("down/#", QoS::AtLeastOnce).unwrap();
        let mut connector = net.connector();
        let all = async {
            handle.connected(true).await;
            handle.drained().await;
            assert!(net.broker().send(1, story::payload(1, 10), QoS::AtLeastOnce));
            // A PUBACK for nothing, with a reason string of 250 bytes.
            let mut words = Vec::new();
            broker::field(&mut words, &[b'w'; 250]);
            let body = [&[0, 99, 0, 0xfd, 1, 0x1f][..], &words].concat();
            net.broker().out.extend(broker::packet(0x40, &body));
            let mut buffer = [0; 50];
            assert_eq!(handle.receive(&mut buffer).await.unwrap().payload, story::payload(1, 10));
            net.sleep(1_000).await;
            assert!(!net.broker().is_idle(), "it is in the receiver's hands");
            let other = async {
                let _ = handle.receive(&mut buffer).await;
            };
            let mut other = std::pin::pin!(other);
            std::future::poll_fn(|context| {
                assert!(other.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            net.sleep(1_000).await;
            assert!(net.broker().is_idle());
        };
        net.block_on_while(all, runner.run(&mut connector));
        assert_eq!(net.broker().connects.len(), 1);
    });
}

/// A receiver that does not come for long is no reason to give the server up; what was sent meanwhile comes.
#[test]
fn a_slow_receiver_does_not_cost_the_connection() {
    // Also for so long that a server would miss a device that says nothing.
    for waits in [5, 60] {
        slow_receiver(waits);
    }
}

/// Nobody asks for what has come for so many times ten seconds.
fn slow_receiver(waits: u32) {
    story::with(options(true, |options| options.keep_alive_s = 60), 1_024, |mut runner, handle, net| {
        handle.subscribe("down/#", QoS::AtLeastOnce).unwrap();
        let mut connector = net.connector();
        let all = async {
            handle.connected(true).await;
            handle.drained().await;
            for number in 1..=30 {
                net.broker().send(number, story::payload(number, 30), QoS::AtLeastOnce);
            }
            handle.publish(&Message::new("up/0").class(Class::Alarm), b"\0\0\0\x01").unwrap();
            for _ in 0..waits {
                net.sleep(10_000).await;
                assert!(net.now() - net.broker().heard_at <= 90_000, "the server ends the connection");
            }
            let mut buffer = [0; 64];
            for number in 1..=30 {
                assert_eq!(handle.receive(&mut buffer).await.unwrap().payload, story::payload(number, 30));
            }
            handle.drained().await;
            assert_eq!(handle.pressure(), Pressure::Normal);
        };
        net.block_on_while(all, runner.run(&mut connector));
        assert_eq!(net.broker().connects.len(), 1);
    });
}
