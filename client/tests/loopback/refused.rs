//! A server that loses the session, and refuses then what it granted before.

use forebay_client::{Event, ReasonCode, RequestError, Subscribe, SubscribeError, Version};

use crate::server::Server;
use crate::{Q1, Q2, VERSIONS, message, options, soon};

#[tokio::test]
async fn the_owner_of_the_stream_learns_it() {
    for version in VERSIONS {
        let server = Server::start(version).await;
        let client = soon(options(server.port, version).connect()).await.unwrap();
        let mut events = client.events();
        let mut gone = soon(client.subscribe(Subscribe::to("in/x").qos(Q1))).await.unwrap();
        let mut other = soon(client.subscribe("other/#")).await.unwrap();
        assert_eq!(gone.ended(), None);
        // It waits for a message when the news comes.
        let waits = tokio::spawn(async move {
            let mut read = Vec::new();
            while let Some(received) = gone.recv().await {
                read.push(String::from_utf8(received.payload().to_vec()).unwrap());
            }
            (read, gone.ended())
        });
        server.send("before", Q1);
        server.until(|state| state.outgoing_len() == 0).await;
        {
            let mut state = server.state();
            (state.refused, state.forget) = (vec!["in/"], true);
        }
        server.drop_connection();
        let (read, why) = soon(waits).await.unwrap();
        assert_eq!(read, ["before"]);
        let Some(SubscribeError::Revoked { refused, .. }) = why else { panic!("{why:?}") };
        let reason = if version.is_v5() { ReasonCode::NotAuthorized } else { ReasonCode::UnspecifiedError };
        assert_eq!(refused, [("in/x".to_owned(), reason)]);
        let filters = soon(async {
            loop {
                if let Event::SubscriptionEnded { filters, .. } = events.next().await.unwrap() {
                    break filters;
                }
            }
        });
        assert_eq!(filters.await, ["in/x"]);
        // The client goes on.
        assert!(other.try_recv().is_none() && other.ended().is_none());
        soon(soon(client.publish(message("on", Q2))).await.unwrap()).await.unwrap();
        soon(client.disconnect()).await;
        assert!(matches!(other.ended(), Some(SubscribeError::Ended(_))));
        assert!(soon(other.recv()).await.is_none());
    }
}

#[tokio::test]
async fn requests_end_with_the_subscription_to_their_responses() {
    let server = Server::start(Version::V5).await;
    let client = soon(options(server.port, Version::V5).connect()).await.unwrap();
    let requester = soon(client.requester()).await.unwrap();
    let ask = || requester.request(message("?", Q1), crate::PATIENCE * 10);
    let waits = ask();
    let refuse = async {
        server.until(|state| !state.arrived.is_empty()).await;
        {
            let mut state = server.state();
            (state.refused, state.forget) = (vec!["forebay/"], true);
        }
        server.drop_connection();
    };
    let (answer, ()) = soon(async { tokio::join!(waits, refuse) }).await;
    let is_why = |error: &RequestError| matches!(error, RequestError::Unsubscribed(SubscribeError::Revoked { .. }));
    assert!(is_why(&answer.unwrap_err()));
    assert!(is_why(&soon(ask()).await.unwrap_err()), "the next one is told at once");
}
