//! From a fresh socket to a connection: TLS, CONNECT, CONNACK, in bounded time. It runs in a task of its own, so that its
//! memory is given back when the connection begins.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use forebay_wire::frame;
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::Version;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::pace::Pace;
use super::{Connection, Shared, Stream, crew};
use crate::auth::{Authentication, Step};
use crate::broker::{Broker, Opened, RETRY_AFTER_MS};
use crate::codec::encode::{self, ConnackProperties};
use crate::codec::{self, CodecError, Connect, ConnectError, Packet};
use crate::message::{Message, Parts};
use crate::session::Link;
use crate::store::{NEVER_S, StoredWill};

/// First reading buffer: nearly every CONNECT fits.
const FIRST_READ: usize = 512;

/// Why no connection came of it. The socket is closed.
enum Refusal {
    /// It broke, or the peer went away.
    Gone,
    /// Said in CONNACK where the protocol can, in a packet of at most so many bytes.
    Refused(Version, CodecError, u32),
    /// Closed without a word.
    Silent(CodecError),
}

impl From<std::io::Error> for Refusal {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

impl From<ConnectError> for Refusal {
    fn from(error: ConnectError) -> Self {
        match error.answer {
            Some(version) => Self::Refused(version, error.error, error.maximum_packet_size),
            None => Self::Silent(error.error),
        }
    }
}

/// Serves a socket from its accept to its end. The permit bounds how many are not past their CONNECT.
pub(crate) async fn serve(socket: TcpStream, on: Arc<Shared>, permit: OwnedSemaphorePermit) {
    let _ = socket.set_nodelay(true);
    let timeout = on.broker.config.limits.connect_timeout;
    let started = tokio::time::timeout(timeout, start(socket, &on)).await;
    drop(permit);
    if let Ok(true) = started {
        return;
    }
    if started.is_err() {
        on.broker.counters.handshakes_timed_out.add(1);
        tracing::debug!(listener = on.listener.url, "a connection did not finish its CONNECT in time");
    }
    on.sockets.fetch_sub(1, Ordering::Relaxed);
}

/// False: no connection came of it.
async fn start(socket: TcpStream, on: &Arc<Shared>) -> bool {
    let Some(acceptor) = &on.tls else {
        return begin(socket, on).await;
    };
    match Box::pin(acceptor.accept(socket)).await {
        Ok(stream) => begin(Box::new(stream), on).await,
        Err(error) => {
            on.broker.counters.tls_failed.add(1);
            tracing::debug!(listener = on.listener.url, "TLS handshake failed: {error}");
            false
        }
    }
}

/// False: no connection came of it.
pub(super) async fn begin<S: Stream>(mut stream: S, on: &Arc<Shared>) -> bool {
    match connect(&mut stream, on).await {
        Ok(greeted) => {
            crew::add(greeted.connection(stream, on));
            true
        }
        Err(refusal) => {
            refuse(&mut stream, on, refusal).await;
            false
        }
    }
}

async fn refuse<S: Stream>(stream: &mut S, on: &Shared, refusal: Refusal) {
    let error = match refusal {
        Refusal::Gone => return,
        Refusal::Silent(error) => error,
        Refusal::Refused(version, error, max) => {
            let busy = error.reason == ReasonCode::ServerBusy;
            let config = &on.broker.config;
            let properties = ConnackProperties {
                reason_string: Some(error.detail.to_string()),
                retry_after_ms: busy.then_some(RETRY_AFTER_MS),
                server_reference: config.server_reference.clone().filter(|_| busy),
                ..ConnackProperties::default()
            };
            let mut out = Vec::new();
            encode::connack(&mut out, version, false, error.reason, &properties, max);
            if out.len() > max as usize {
                out.clear();
            }
            let _ = stream.write_all(&out).await;
            let _ = stream.flush().await;
            error
        }
    };
    let _ = stream.shutdown().await;
    on.broker.counters.connects_refused.add(1);
    tracing::info!(
        listener = on.listener.url,
        "CONNECT refused: {} ({} [{}])",
        error.detail,
        error.reason.name(),
        error.statement
    );
}

/// What a finished CONNECT leaves for the connection.
struct Greeted {
    opened: Opened,
    version: Version,
    problem_information: bool,
    connack: Vec<u8>,
    rest: Vec<u8>,
    auth: Option<Box<Authentication>>,
}

impl Greeted {
    fn connection<S: Stream>(self, stream: S, on: &Arc<Shared>) -> Connection<S> {
        on.broker.connections.fetch_add(1, Ordering::Relaxed);
        on.broker.counters.connects_accepted.add(1);
        Connection {
            stream,
            on: on.clone(),
            slot: self.opened.slot,
            epoch: self.opened.epoch,
            version: self.version,
            problem_information: self.problem_information,
            over: false,
            unflushed: false,
            tail_is_fresh: !self.rest.is_empty(),
            written: 0,
            // The buffer that CONNECT was read into is given back: an idle connection owns none.
            tail: if self.rest.is_empty() { Vec::new() } else { self.rest },
            out: self.connack,
            pace: on.listener.rate.map(|rate| Box::new(Pace::new(rate))),
            parked: None,
            auth: self.auth,
        }
    }
}

async fn connect<S: Stream>(stream: &mut S, on: &Arc<Shared>) -> Result<Greeted, Refusal> {
    let mut buffer = Vec::with_capacity(FIRST_READ);
    let max = on.broker.config.limits.max_packet_size;
    let total = read_frame(stream, &mut buffer, max).await?;
    let packet = buffer.get(..total).unwrap_or_default();
    let frame = whole(packet, max)?;
    let mut connect = codec::read_connect(&frame, packet, &on.limits)?;
    buffer.drain(..total);
    admit(on, &connect)?;
    let mut assigned = None;
    if connect.client_id.is_empty() {
        connect.client_id = client_id(&on.broker);
        assigned = Some(connect.client_id.clone());
    }
    let auth_data = match &connect.auth_method {
        Some(_) => authenticate(stream, on, &connect, &mut buffer).await?,
        None => None,
    };
    open(on, connect, assigned, auth_data, buffer)
}

fn whole(packet: &[u8], max: u32) -> Result<frame::Frame, Refusal> {
    match frame::peek(packet, max) {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(Refusal::Gone),
        Err(error) => Err(Refusal::Silent(error.into())),
    }
}

/// Reads until the buffer begins with a whole packet; returns its length.
async fn read_frame<S: Stream>(stream: &mut S, buffer: &mut Vec<u8>, max: u32) -> Result<usize, Refusal> {
    loop {
        match frame::peek(buffer, max) {
            // Before CONNECT is read no version is known to answer in.
            Err(error) => return Err(Refusal::Silent(error.into())),
            Ok(Some(frame)) if frame.total() <= buffer.len() => return Ok(frame.total()),
            Ok(_) => {}
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(Refusal::Gone);
        }
    }
}

/// Whether there is room for one more connection at all.
fn admit(on: &Shared, connect: &Connect) -> Result<(), Refusal> {
    let broker = &on.broker;
    let refuse = |reason, detail| Err(refused(connect, reason, "MQTT5-4.13.2-1", detail));
    if broker.stopping.load(Ordering::Relaxed) {
        return refuse(ReasonCode::ServerShuttingDown, "the broker is stopping");
    }
    let connections = broker.connections.load(Ordering::Relaxed);
    if connections >= broker.config.limits.max_connections {
        return refuse(ReasonCode::ServerBusy, "as many connections as there may be");
    }
    // Sockets that are not past their CONNECT count here as well: a little early is better than late.
    if on.sockets.load(Ordering::Relaxed) > on.listener.max_connections {
        return refuse(ReasonCode::ServerBusy, "as many connections on this listener as there may be");
    }
    if connect.will.as_ref().is_some_and(|will| will.topic.starts_with("$SYS/")) {
        return refuse(ReasonCode::NotAuthorized, "$SYS is the broker's own");
    }
    Ok(())
}

fn refused(connect: &Connect, reason: ReasonCode, statement: &'static str, detail: &'static str) -> Refusal {
    Refusal::Refused(connect.version, CodecError::new(reason, statement, detail), connect.maximum_packet_size)
}

/// A client identifier that nobody else has [MQTT-3.1.3-6], [MQTT5-3.1.3-6].
fn client_id(broker: &Broker) -> String {
    let random = || std::hash::RandomState::new().build_hasher().finish();
    loop {
        let id = format!("auto-{:016x}", random());
        if !broker.has_session(&id) {
            return id;
        }
    }
}

/// The exchange of enhanced authentication [MQTT5-4.12]; returns what goes with CONNACK.
async fn authenticate<S: Stream>(
    stream: &mut S,
    on: &Arc<Shared>,
    connect: &Connect,
    buffer: &mut Vec<u8>,
) -> Result<Option<Vec<u8>>, Refusal> {
    let refuse = |reason, statement, detail| Err(refused(connect, reason, statement, detail));
    let method = connect.auth_method.as_deref().unwrap_or_default();
    let Some(mechanism) = on.broker.mechanisms.find(method) else {
        let detail = "this authentication method is not offered";
        return refuse(ReasonCode::BadAuthenticationMethod, "MQTT5-4.12.0-1", detail);
    };
    let mut exchange = mechanism.begin(&connect.client_id);
    let mut data = connect.auth_data.clone().unwrap_or_default();
    let max = on.broker.config.limits.max_packet_size;
    loop {
        match exchange.step(&data) {
            Step::Done(last) => return Ok(last),
            Step::Refused(reason) => return refuse(reason, "MQTT5-4.12.0-4", "authentication failed"),
            Step::Continue(challenge) => {
                let mut out = Vec::new();
                encode::auth(&mut out, ReasonCode::ContinueAuthentication, method, Some(&challenge));
                stream.write_all(&out).await?;
                stream.flush().await?;
            }
        }
        let total = read_frame(stream, buffer, max).await?;
        let packet = buffer.get(..total).unwrap_or_default();
        let frame = whole(packet, max)?;
        let checked = frame.check(connect.version).map_err(CodecError::from);
        let answer = checked.and_then(|()| codec::read_packet(connect.version, &frame, packet, &on.limits));
        buffer.drain(..total);
        match answer {
            Ok(Packet::Auth(auth))
                if auth.reason == ReasonCode::ContinueAuthentication && auth.method.as_deref() == Some(method) =>
            {
                data = auth.data.unwrap_or_default();
            }
            Ok(Packet::Disconnect(_)) => return Err(Refusal::Gone),
            Ok(_) => {
                return refuse(
                    ReasonCode::ProtocolError,
                    "MQTT5-4.12.0-3",
                    "neither an AUTH that goes on nor DISCONNECT",
                );
            }
            Err(error) => return Err(Refusal::Refused(connect.version, error, connect.maximum_packet_size)),
        }
    }
}

/// Opens the session and writes CONNACK, which goes before anything that the session has to send.
fn open(
    on: &Arc<Shared>,
    connect: Connect,
    assigned: Option<String>,
    auth_data: Option<Vec<u8>>,
    rest: Vec<u8>,
) -> Result<Greeted, Refusal> {
    let broker = &on.broker;
    let limits = &broker.config.limits;
    let (version, v5) = (connect.version, connect.version.is_v5());
    let asked_s = match (v5, connect.clean_start) {
        (true, _) => connect.session_expiry_s,
        (false, true) => 0,
        (false, false) => seconds(limits.session_expiry_v3),
    };
    let expiry_s = broker.bounded_expiry_s(asked_s);
    let keep_alive_max = u16::try_from(limits.max_keep_alive.as_secs()).unwrap_or(u16::MAX);
    let asked_keep_alive = connect.keep_alive_s;
    let shorter = v5 && keep_alive_max > 0 && (asked_keep_alive == 0 || asked_keep_alive > keep_alive_max);
    let keep_alive_s = if shorter { keep_alive_max } else { asked_keep_alive };
    let properties = ConnackProperties {
        session_expiry_s: (expiry_s != asked_s).then_some(expiry_s),
        receive_maximum: (limits.receive_maximum != u16::MAX).then_some(limits.receive_maximum),
        maximum_packet_size: Some(limits.max_packet_size),
        assigned_client_id: assigned,
        topic_alias_maximum: (limits.topic_alias_maximum > 0).then_some(limits.topic_alias_maximum),
        server_keep_alive_s: shorter.then_some(keep_alive_s),
        auth_method: connect.auth_method.clone(),
        auth_data,
        ..ConnackProperties::default()
    };
    let mut connack = Vec::new();
    let max = connect.maximum_packet_size;
    encode::connack(&mut connack, version, false, ReasonCode::Success, &properties, max);
    if connack.len() > max as usize {
        let detail = "CONNACK is larger than the client's Maximum Packet Size";
        return Err(Refusal::Silent(CodecError::new(ReasonCode::PacketTooLarge, "MQTT5-3.1.2-24", detail)));
    }
    let link = Link {
        version,
        expiry_s,
        receive_maximum: connect.receive_maximum,
        maximum_packet_size: connect.maximum_packet_size,
        topic_alias_maximum: connect.topic_alias_maximum,
        problem_information: connect.request_problem,
        will: connect.will.map(|will| stored_will(broker, will)),
    };
    let opened = broker.open(&connect.client_id, connect.clean_start, link, keep_alive_s);
    tracing::debug!(client = connect.client_id, present = opened.session_present, "connected");
    if opened.session_present {
        connack.clear();
        encode::connack(&mut connack, version, true, ReasonCode::Success, &properties, max);
    }
    Ok(Greeted {
        opened,
        version,
        problem_information: connect.request_problem,
        connack,
        rest,
        auth: connect.auth_method.map(|method| Box::new((method, None))),
    })
}

fn stored_will(broker: &Broker, will: codec::Will) -> StoredWill {
    let parts = Parts {
        topic: &will.topic,
        properties: &will.properties,
        payload: &will.payload,
        qos: will.qos as u8,
        retain: will.retain,
        expires_at: None,
        accepted_at: broker.clock.now(),
    };
    let message = Arc::new(Message::new(&parts, None));
    StoredWill { message, expiry_s: will.expiry_s, delay_s: will.delay_s }
}

fn seconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(NEVER_S)
}

impl Broker {
    /// What is granted of a session expiry interval [MQTT5-3.2.2.3.2].
    pub(crate) fn bounded_expiry_s(&self, asked_s: u32) -> u32 {
        asked_s.min(seconds(self.config.limits.max_session_expiry))
    }
}
