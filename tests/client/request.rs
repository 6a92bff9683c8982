//! Requests and responses.

use std::time::Duration;

use forebay_client::{Message, QoS, RequestError, Subscribe, Version};
use forebay_tests::broker::Broker;

use crate::options;

#[tokio::test]
async fn a_hundred_requests_at_once_each_get_their_own_response() {
    let broker = Broker::start();
    let service = options(&broker, Version::V5).connect().await.unwrap();
    let mut asked = service.subscribe(Subscribe::to("double").qos(QoS::AtLeastOnce)).await.unwrap();
    tokio::spawn(async move {
        // The answers come in another order than the questions.
        let mut held = Vec::new();
        while let Some(request) = asked.recv().await {
            held.push(request);
            if held.len() == 10 {
                for request in held.drain(..).rev() {
                    let number: u32 = String::from_utf8_lossy(request.payload()).parse().unwrap();
                    let _ticket = service.publish(request.response((2 * number).to_string()).unwrap()).await.unwrap();
                }
            }
        }
    });
    let client = options(&broker, Version::V5).connect().await.unwrap();
    let requester = client.requester().await.unwrap();
    let mut running = Vec::new();
    for n in 0..100u32 {
        let requester = requester.clone();
        running.push(tokio::spawn(async move {
            let request = Message::new("double", n.to_string()).qos(QoS::AtLeastOnce);
            let response = requester.request(request, Duration::from_secs(30)).await.unwrap();
            assert_eq!(response.payload(), (2 * n).to_string().as_bytes());
        }));
    }
    for task in running {
        task.await.unwrap();
    }
    let nobody = requester.request(Message::new("nobody/here", ""), Duration::from_millis(50)).await;
    assert!(matches!(nobody, Err(RequestError::TimedOut(_))), "{nobody:?}");
}
