//! A small server with one client whose connections end where a test says.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use forebay_client::{QoS, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::peer::*;

/// Where a connection ends.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// After so many bytes of the client.
    Heard(usize),
    /// After so many bytes of the server.
    Said(usize),
}

struct Outgoing {
    payload: String,
    qos: QoS,
    id: u16,
    sent: bool,
    released: bool,
}

#[derive(Default)]
pub struct State {
    /// Cuts of the next connections.
    pub cuts: VecDeque<Cut>,
    /// Payload and QoS of what the client published.
    pub arrived: Vec<(String, u8)>,
    pub subscribed: Vec<String>,
    /// SUBSCRIBEs and UNSUBSCRIBEs are not answered while this is set.
    pub mute: bool,
    /// What filters begin with that are not authorized.
    pub refused: Vec<&'static str>,
    /// The next CONNECT finds no session.
    pub forget: bool,
    /// PUBLISHes are not acknowledged while this is set.
    pub withhold: bool,
    pub connections: usize,
    pub disconnects: usize,
    /// Bytes of the last connection, in both directions.
    pub heard: usize,
    pub said: usize,
    received: HashSet<u16>,
    outgoing: Vec<Outgoing>,
    session: bool,
    /// CONNECT has come on this connection.
    online: bool,
    next_id: u16,
}

pub struct Server {
    pub port: u16,
    state: Arc<Mutex<State>>,
    more: Arc<Notify>,
    drop: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(version: Version) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, more) = (Arc::new(Mutex::new(State::default())), Arc::new(Notify::new()));
        let drop = Arc::new(Notify::new());
        let (of_task, more_of_task, drop_of_task) = (state.clone(), more.clone(), drop.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::select! {
                    () = serve(stream, version, &of_task, &more_of_task) => {}
                    () = drop_of_task.notified() => {}
                }
            }
        });
        Self { port, state, more, drop, task }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Serves a stream that does not come from the network.
    pub async fn attach<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, version: Version) {
        serve(stream, version, &self.state, &self.more).await;
    }

    /// Ends the connection that there is.
    pub fn drop_connection(&self) {
        self.drop.notify_one();
    }

    /// Sends a message once the client has subscribed.
    pub fn send(&self, payload: impl ToString, qos: QoS) {
        let mut state = self.state();
        state.next_id += 1;
        let id = state.next_id;
        state.outgoing.push(Outgoing { payload: payload.to_string(), qos, id, sent: false, released: false });
        self.more.notify_one();
    }

    /// Looks at the state again and again, until it is as wanted.
    pub async fn until(&self, wanted: impl Fn(&State) -> bool) {
        crate::soon(async {
            while !wanted(&self.state()) {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// How often each payload came, of those that begin so.
    pub fn times(&self, payload: &str) -> usize {
        self.state().arrived.iter().filter(|(arrived, _)| arrived == payload).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<S>(mut stream: S, version: Version, state: &Mutex<State>, more: &Notify)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let cut = {
        let mut state = state.lock().unwrap();
        (state.connections, state.heard, state.said, state.online) = (state.connections + 1, 0, 0, false);
        state.cuts.pop_front()
    };
    let (mut tail, mut buffer) = (Vec::new(), vec![0; 4096]);
    loop {
        let budget = match cut {
            Some(Cut::Heard(limit)) => limit - state.lock().unwrap().heard,
            _ => buffer.len(),
        };
        if budget == 0 {
            return;
        }
        let room = budget.min(buffer.len());
        let read = tokio::select! {
            read = stream.read(&mut buffer[..room]) => match read {
                Ok(0) | Err(_) => return,
                Ok(read) => read,
            },
            () = more.notified() => 0,
        };
        tail.extend_from_slice(&buffer[..read]);
        let whole = whole_packets(&tail);
        let bytes: Vec<u8> = tail.drain(..whole).collect();
        let mut out = {
            let mut state = state.lock().unwrap();
            state.heard += read;
            let mut out = Vec::new();
            for packet in packets(version, &bytes) {
                state.hear(version, packet, &mut out);
            }
            state.send(version, &mut out);
            if let Some(Cut::Said(limit)) = cut {
                out.truncate(limit - state.said);
            }
            state.said += out.len();
            out
        };
        if stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        if let Some(Cut::Said(limit)) = cut
            && state.lock().unwrap().said >= limit
        {
            return;
        }
    }
}

impl State {
    /// Messages for the client that it has not acknowledged.
    pub fn outgoing_len(&self) -> usize {
        self.outgoing.len()
    }

    fn hear(&mut self, version: Version, packet: Packet, out: &mut Vec<u8>) {
        match packet {
            Packet::Connect { clean, .. } => {
                let present = self.session && !clean && !std::mem::take(&mut self.forget);
                if !present {
                    self.received.clear();
                    self.subscribed.clear();
                }
                (self.session, self.online) = (true, true);
                out.extend(connack(version, present, 0, &[]));
                for outgoing in &self.outgoing {
                    if outgoing.released {
                        out.extend(ack(PUBREL, outgoing.id));
                    } else if outgoing.sent {
                        out.extend(publish(version, "in/x", &outgoing.payload, outgoing.qos, outgoing.id, true));
                    }
                }
            }
            Packet::Publish { payload, qos, id, .. } => {
                if qos < 2 || self.received.insert(id) {
                    self.arrived.push((payload, qos));
                }
                match qos {
                    1 if !self.withhold => out.extend(ack(PUBACK, id)),
                    2 if !self.withhold => out.extend(ack(PUBREC, id)),
                    _ => {}
                }
            }
            Packet::Ack(PUBREL, id, _) => {
                self.received.remove(&id);
                out.extend(ack(PUBCOMP, id));
            }
            Packet::Ack(PUBREC, id, _) => {
                if let Some(outgoing) = self.outgoing.iter_mut().find(|outgoing| outgoing.id == id) {
                    outgoing.released = true;
                }
                out.extend(ack(PUBREL, id));
            }
            Packet::Ack(_, id, _) => self.outgoing.retain(|outgoing| outgoing.id != id),
            Packet::Subscribe { id, filters, .. } => {
                let is_refused = |filter: &str| self.refused.iter().any(|refused| filter.starts_with(refused));
                let refusal = if version.is_v5() { 0x87 } else { 0x80 };
                let codes: Vec<u8> = filters.iter().map(|(f, _)| if is_refused(f) { refusal } else { 2 }).collect();
                self.subscribed.extend(filters.into_iter().map(|(filter, _)| filter));
                if !self.mute {
                    out.extend(suback(version, id, &codes));
                }
            }
            Packet::Unsubscribe { id, filters } => {
                self.subscribed.retain(|filter| !filters.contains(filter));
                if !self.mute {
                    out.extend(unsuback(version, id));
                }
            }
            Packet::Ping => out.extend([0xd0, 0]),
            Packet::Disconnect(_) => self.disconnects += 1,
            Packet::Auth(..) => panic!("{packet:?}"),
        }
    }

    fn send(&mut self, version: Version, out: &mut Vec<u8>) {
        if self.subscribed.is_empty() || !self.online {
            return;
        }
        for outgoing in self.outgoing.iter_mut().filter(|outgoing| !outgoing.sent) {
            outgoing.sent = true;
            out.extend(publish(version, "in/x", &outgoing.payload, outgoing.qos, outgoing.id, false));
        }
        self.outgoing.retain(|outgoing| outgoing.qos != QoS::AtMostOnce);
    }
}

pub fn whole_packets(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Ok(Some(frame)) = forebay_wire::frame::peek(&bytes[at..], u32::MAX) {
        if at + frame.total() > bytes.len() {
            break;
        }
        at += frame.total();
    }
    at
}
