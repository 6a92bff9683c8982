//! Every future is dropped at every point: after so many polls, from none to as many as it takes.

use std::time::Duration;

use forebay_client::{Client, Outbox, Subscribe, Subscription, Version};

use crate::server::Server;
use crate::{Q1, Q2, VERSIONS, message, options, polled, soon};

async fn started(version: Version) -> (Server, Client) {
    let server = Server::start(version).await;
    let client = soon(options(server.port, version).connect()).await.unwrap();
    (server, client)
}

async fn subscribed(client: &Client) -> Subscription {
    soon(client.subscribe(Subscribe::to("in/#").qos(Q2))).await.unwrap()
}

/// More than any of these takes.
const POLLS: usize = 12;

#[tokio::test]
async fn publish_is_accepted_or_not() {
    for version in VERSIONS {
        let server = Server::start(version).await;
        server.state().withhold = true;
        // One has room, the next waits for it.
        let outbox = Outbox { max_messages: 1, ..Outbox::default() };
        let client = soon(options(server.port, version).outbox(outbox).connect()).await.unwrap();
        let mut accepted = 0;
        for times in 0..POLLS {
            let ready = polled(client.publish(message(times, Q2)), times.min(1)).await;
            accepted += u64::from(ready.is_some());
            assert_eq!(client.stats().accepted, accepted, "half a message");
        }
        assert_eq!(accepted, 1);
        server.state().withhold = false;
        server.drop_connection();
        soon(client.drained()).await;
        // While it comes and goes there is room, and none.
        for times in 0..POLLS {
            let before = client.stats().accepted;
            let ready = polled(client.publish(message(format!("n{times}"), Q2)), times).await;
            let after = client.stats().accepted;
            assert_eq!(after - before, u64::from(ready.is_some()));
            soon(client.drained()).await;
            assert_eq!(server.times(&format!("n{times}")) as u64, after - before);
        }
    }
}

#[tokio::test]
async fn a_ticket_is_taken_up_again() {
    for version in VERSIONS {
        let (server, client) = started(version).await;
        for times in 0..POLLS {
            let mut ticket = client.publish(message(times, Q2)).await.unwrap();
            if polled(&mut ticket, times).await.is_none() {
                soon(ticket).await.unwrap();
            }
            assert_eq!(server.times(&times.to_string()), 1);
        }
        drop(client.publish(message("dropped", Q1)).await.unwrap());
        soon(client.drained()).await;
        assert_eq!(server.times("dropped"), 1);
    }
}

#[tokio::test]
async fn subscribe_leaves_no_subscription_behind() {
    for version in VERSIONS {
        for mute in [false, true] {
            let (server, client) = started(version).await;
            server.state().mute = mute;
            for times in 0..POLLS {
                let times = if mute { times.min(1) } else { times };
                match polled(client.subscribe("in/#"), times).await {
                    Some(subscription) => soon(subscription.unwrap().unsubscribe()).await,
                    None if times > 0 => server.until(|state| state.subscribed.is_empty()).await,
                    None => {}
                }
                // What was asked for is taken back by now, or was never asked for.
                server.state().mute = false;
                let last = soon(client.subscribe("other")).await.unwrap();
                server.until(|state| state.subscribed == ["other"]).await;
                soon(last.unsubscribe()).await;
                server.state().mute = mute;
                soon(client.publish(message("fence", Q1))).await.unwrap().await.unwrap();
                assert!(server.state().subscribed.is_empty());
            }
        }
    }
}

#[tokio::test]
async fn recv_loses_nothing() {
    for version in VERSIONS {
        let (server, client) = started(version).await;
        let mut messages = subscribed(&client).await;
        let mut got = Vec::new();
        for times in 0..POLLS {
            server.send(times, Q2);
            if let Some(received) = polled(messages.recv(), times).await {
                got.push(received.unwrap().payload().to_vec());
            }
            tokio::task::yield_now().await;
        }
        while got.len() < POLLS {
            got.push(soon(messages.recv()).await.unwrap().payload().to_vec());
        }
        let expected: Vec<_> = (0..POLLS).map(|n| n.to_string().into_bytes()).collect();
        assert_eq!(got, expected);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(messages.try_recv().is_none());
    }
}

#[tokio::test]
async fn unsubscribe_goes_on() {
    for version in VERSIONS {
        let (server, client) = started(version).await;
        for times in 0..POLLS {
            let messages = subscribed(&client).await;
            if times == 0 {
                // Never begun, it is a subscription that was dropped: the session is kept, and it with it.
                assert!(polled(messages.unsubscribe(), 0).await.is_none());
                assert_eq!(server.state().subscribed, ["in/#"]);
                continue;
            }
            polled(messages.unsubscribe(), times).await;
            server.until(|state| state.subscribed.is_empty()).await;
        }
    }
}

#[tokio::test]
async fn drained_disconnect_and_events_can_be_asked_again() {
    for version in VERSIONS {
        for times in 0..POLLS {
            let (server, client) = started(version).await;
            let mut events = client.events();
            let _ticket = client.publish(message("x", Q2)).await.unwrap();
            polled(client.drained(), times).await;
            soon(client.drained()).await;
            assert_eq!(server.times("x"), 1);
            server.drop_connection();
            let mut seen = 0;
            // Lost, waiting, connected; none is missed by who asks and gives up.
            while seen < 3 {
                seen += usize::from(polled(events.next(), times.max(1)).await.is_some());
                tokio::task::yield_now().await;
            }
            let gone = polled(client.disconnect(), times).await;
            if times == 0 {
                assert!(gone.is_none() && client.is_connected());
            }
            soon(client.disconnect()).await;
            assert!(!client.is_connected());
            server.until(|state| state.disconnects == 1).await;
        }
    }
}

#[tokio::test]
async fn connect_leaves_no_client_behind() {
    for version in VERSIONS {
        for times in 0..POLLS {
            let server = Server::start(version).await;
            let client = polled(options(server.port, version).connect(), times).await;
            let connected = client.is_some();
            drop(client);
            if times == 0 {
                assert_eq!(server.state().connections, 0);
            } else if connected {
                server.until(|state| state.disconnects == 1).await;
            }
            // The server has one connection at a time: another finds it free.
            let other = options(server.port, version).client_id("other");
            soon(soon(other.connect()).await.unwrap().disconnect()).await;
        }
    }
}
