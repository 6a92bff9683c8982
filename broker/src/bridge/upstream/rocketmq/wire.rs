//! The messages of `apache.rocketmq.v2.MessagingService/SendMessage`, by the published field numbers. Fields that this program
//! neither writes nor reads are left out.

use std::collections::HashMap;

/// The method's path.
pub(super) const SEND_MESSAGE: &str = "/apache.rocketmq.v2.MessagingService/SendMessage";

/// `MessageType`.
pub(super) const NORMAL: i32 = 1;
/// `MessageType` of a message with a group.
pub(super) const FIFO: i32 = 2;
/// `MessageType` of a message with a time of delivery.
pub(super) const DELAY: i32 = 3;
/// `Encoding`: the body as it is.
pub(super) const IDENTITY: i32 = 1;

/// `Code`: it is there.
pub(super) const OK: i32 = 20_000;
/// `Code`: no such topic.
pub(super) const TOPIC_NOT_FOUND: i32 = 40_402;
/// `Code`: the topic takes messages of another type.
pub(super) const OTHER_TYPE: i32 = 40_014;

/// `Resource`: the name of a topic.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Resource {
    #[prost(string, tag = "2")]
    pub(super) name: String,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

/// `SystemProperties`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SystemProperties {
    #[prost(string, optional, tag = "1")]
    pub(super) tag: Option<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) keys: Vec<String>,
    #[prost(string, tag = "3")]
    pub(super) message_id: String,
    #[prost(int32, tag = "5")]
    pub(super) body_encoding: i32,
    #[prost(int32, tag = "6")]
    pub(super) message_type: i32,
    #[prost(message, optional, tag = "7")]
    pub(super) born_timestamp: Option<Timestamp>,
    #[prost(string, tag = "8")]
    pub(super) born_host: String,
    #[prost(message, optional, tag = "11")]
    pub(super) delivery_timestamp: Option<Timestamp>,
    #[prost(string, optional, tag = "17")]
    pub(super) message_group: Option<String>,
}

/// `Message`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Message {
    #[prost(message, optional, tag = "1")]
    pub(super) topic: Option<Resource>,
    #[prost(map = "string, string", tag = "2")]
    pub(super) user_properties: HashMap<String, String>,
    #[prost(message, optional, tag = "3")]
    pub(super) system_properties: Option<SystemProperties>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) body: Vec<u8>,
}

/// `SendMessageRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {
    #[prost(message, repeated, tag = "1")]
    pub(super) messages: Vec<Message>,
}

/// `Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

/// `SendResultEntry`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Receipt {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
}

/// `SendMessageResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Response {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(message, repeated, tag = "2")]
    pub(super) entries: Vec<Receipt>,
}
