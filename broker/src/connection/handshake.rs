//! From a fresh socket to a connection: TLS, WebSocket, CONNECT, CONNACK, in bounded time. It runs in a task of its own, so that its
//! memory is given back when the connection begins.

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_wire::frame;
use forebay_wire::reason::ReasonCode;
use forebay_wire::types::Version;
use forebay_wire::varint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::SemaphorePermit;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::input::not_for_wills;
use super::login::{self, LoggedIn};
use super::mount::{self, Mounted};
use super::pace::Pace;
use super::shown::Shown;
use super::{Connection, Shared, Stream, executor, no_memory};
use crate::access::Rights;
use crate::access::auth::Authentication;
use crate::broker::{Broker, DEAD_PREFIX, Opened, QUEUE_PREFIX, RETRY_AFTER_MS, STREAM_PREFIX, TAKER_PREFIX};
use crate::codec::encode::{self, ConnackProperties};
use crate::codec::{self, CodecError, Connect, ConnectError};
#[cfg(unix)]
use crate::config::UserFrom;
use crate::config::{Listener, Rate, WebSocketRules};
use crate::message::{Message, Parts};
use crate::session::{Authority, Egress, Encoded, Link};
use crate::store::{NEVER_S, StoredWill};
use crate::transport::proxy::Spoken;
use crate::transport::websocket::{self, Entry};
use crate::transport::{Claimed, LiveTls, Peer, Permit, Seat, Socket, explain};

/// First reading buffer: nearly every CONNECT fits.
const FIRST_READ: usize = 512;

/// A frame of WebSocket may carry several packets: it may be as large as one packet, and at least this.
const FRAME_MAX: u64 = 1024 * 1024;
/// Between two probes of a peer that has not answered one.
const PROBE_INTERVAL: Duration = Duration::from_secs(60);
/// QoS 1 and 2 messages in flight to a bridge that cannot say how many it takes: mosquitto ends the connection at the
/// next one over its `max_inflight_messages`, 20 unless it is set, and would get a backlog at QoS 2 never.
const BRIDGE_RECEIVES: u16 = 20;

/// Why no connection came of it. The socket is closed.
pub(super) enum Refusal {
    /// It broke, or the peer went away.
    Gone,
    /// Said in CONNACK where the protocol can, in a packet of at most so many bytes.
    Refused(Version, CodecError, u32),
    /// The same, and the log has it already.
    Denied(Version, CodecError, u32),
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

/// Where a connection comes from, and what its transport knows of its user.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) peer: Peer,
    /// The user name that the transport vouches for.
    pub(super) user: Option<Arc<str>>,
    /// The certificate that the client showed.
    pub(super) shown: Option<Box<Shown>>,
    /// The certificate has no such name as the user name is made of.
    nameless: bool,
    /// Its permit, until what is left to do is not the client's doing.
    permit: Option<Arc<Permit>>,
}

impl Origin {
    /// Nothing is known.
    pub(super) fn unknown() -> Self {
        Self { peer: Peer::Unknown, user: None, shown: None, nameless: false, permit: None }
    }

    fn new(peer: Peer, on: &Shared, permit: Option<Arc<Permit>>) -> Self {
        let user = match (on.listener.user_from, peer) {
            #[cfg(unix)]
            (Some(UserFrom::Peer), Peer::Process { uid, .. }) => Some(crate::transport::unix::user_name(uid).into()),
            _ => None,
        };
        Self { peer, user, shown: None, nameless: false, permit }
    }

    /// The same, with the certificate that the client showed, if it did.
    fn with_certificate(&self, shown: Option<Shown>, on: &Shared) -> Self {
        let field = on
            .listener
            .user_from
            .zip(shown.as_ref())
            .map(|(from, shown)| shown.owner.field(from.word()).filter(|name| is_name(name)));
        Self {
            peer: self.peer,
            user: field.flatten().map(Into::into),
            nameless: field == Some(None),
            shown: shown.map(Box::new),
            permit: self.permit.clone(),
        }
    }

    /// Its CONNECT is whole, and it is looked up whether it may come: that may take long, and is no handshake any more. As many
    /// at once as there may be; those beyond wait with their permit. `None` at the end of the broker.
    pub(super) async fn begins_log_in<'a>(&self, broker: &'a Broker) -> Option<SemaphorePermit<'a>> {
        let room = broker.log_ins.acquire().await.ok();
        if let Some(permit) = &self.permit {
            permit.give_back();
        }
        room
    }
}

/// What a user name may be [MQTT5-1.5.4-2].
fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peer.fmt(f)
    }
}

/// Serves a socket from its accept to its end. The permit bounds how many are not past their CONNECT.
pub(crate) async fn serve(socket: Socket, peer: Peer, on: Arc<Shared>, permit: Permit) {
    let permit = Arc::new(permit);
    if let Socket::Tcp(socket) = &socket {
        let _ = socket.set_nodelay(true);
        let (_, longest_s) = on.listener.bounds.keep_alive_s(&on.broker.config.limits);
        watch_peer(socket, Duration::from_secs(longest_s.into()));
    }
    let from = Origin::new(peer, &on, Some(permit.clone()));
    let (limits, counters) = (&on.broker.config.limits, &on.broker.counters);
    let in_time = tokio::time::timeout(limits.connect_timeout, async {
        // A device that has just connected says something at once; a socket that is only held open is not kept for long.
        match tokio::time::timeout(limits.first_byte_timeout, first_byte(&socket, &permit)).await {
            Err(_) => None,
            Ok(()) => Some(behind_proxy(socket, &from, &on).await),
        }
    });
    tokio::select! {
        biased;
        started = in_time => match started {
            Ok(Some(true)) => return,
            Ok(Some(false)) => {}
            Ok(None) | Err(_) => {
                counters.handshakes_timed_out.add(1);
                tracing::info!(listener = on.listener.url, %from, "closed: it was not past its CONNECT in time");
            }
        },
        () = permit.displaced() => {
            counters.handshakes_displaced.add(1);
            tracing::info!(listener = on.listener.url, %from, "closed: it is not past its CONNECT, and others wait");
        }
    }
    permit.give_back();
    on.sockets.fetch_sub(1, Ordering::Relaxed);
}

/// Waits until there is something to read, or an end. Who is silent may have to make room.
async fn first_byte(socket: &Socket, permit: &Permit) {
    if !socket.says_something() {
        permit.seen(false);
        socket.first_byte().await;
    }
    permit.seen(true);
}

/// Has the system look after the peer where MQTT does not: before MQTT 5 a client cannot be told a shorter keep alive than
/// the one it asks for, or none. A peer that is gone is noticed within the longest keep alive and ten minutes.
fn watch_peer(socket: &TcpStream, max_keep_alive: Duration) {
    if max_keep_alive.is_zero() {
        return;
    }
    let keepalive = socket2::TcpKeepalive::new().with_time(max_keep_alive).with_interval(PROBE_INTERVAL);
    if let Err(error) = socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive) {
        tracing::debug!("a connection is not watched by the system: {error}");
    }
}

/// Reads whom a proxy speaks for, where there is one. False: no connection came of it.
async fn behind_proxy(mut socket: Socket, from: &Origin, on: &Arc<Shared>) -> bool {
    if !on.listener.proxy_protocol {
        return start(socket, from, on).await;
    }
    let refused = |why: &dyn fmt::Display| {
        on.broker.counters.proxies_refused.add(1);
        tracing::info!(listener = on.listener.url, %from, "closed: {why}");
        false
    };
    if !on.listener.trusts(from.peer.ip()) {
        return refused(&"it is no trusted proxy (trusted_proxies)");
    }
    match socket.proxied().await {
        Ok(Spoken::For(addr)) => start(socket, &Origin::new(Peer::Addr(addr), on, from.permit.clone()), on).await,
        Ok(Spoken::Itself) => start(socket, from, on).await,
        Err(error) => refused(&error),
    }
}

/// False: no connection came of it.
async fn start(socket: Socket, from: &Origin, on: &Arc<Shared>) -> bool {
    let socket = match socket {
        Socket::Tcp(socket) => socket,
        #[cfg(unix)]
        Socket::Unix(socket) => return begin(Box::new(socket) as Box<dyn Stream>, from, on).await,
    };
    let Some(tls) = &on.tls else {
        return match &on.listener.websocket {
            None => begin(socket, from, on).await,
            Some(rules) => Box::pin(upgrade(socket, rules, from, on)).await,
        };
    };
    let version = tls.version();
    match Box::pin(encrypt(socket, tls)).await {
        Ok(stream) => {
            let chain = stream.get_ref().1.peer_certificates();
            let shown = chain.map(|chain| Shown::new(chain, tls, version));
            // What cannot be read can be held against no rule and no revocation list.
            if matches!(shown, Some(None)) {
                on.broker.counters.tls_failed.add(1);
                tracing::info!(listener = on.listener.url, %from, "closed: its certificate cannot be read");
                return false;
            }
            let from = &from.with_certificate(shown.flatten(), on);
            match &on.listener.websocket {
                None => begin(Box::new(stream), from, on).await,
                Some(rules) => Box::pin(upgrade(Box::new(stream), rules, from, on)).await,
            }
        }
        Err(why) => {
            on.broker.counters.tls_failed.add(1);
            tracing::info!(listener = on.listener.url, %from, "TLS handshake failed: {why}");
            false
        }
    }
}

/// The TLS handshake; an error says why there is none.
async fn encrypt(socket: TcpStream, tls: &LiveTls) -> Result<TlsStream<TcpStream>, String> {
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket);
    let start = start.await.map_err(|error| explain(&error))?;
    let config = tls.for_client(&start.client_hello());
    start.into_stream(config).await.map_err(|error| explain(&error))
}

/// The opening handshake of a WebSocket, and what follows. False: no connection came of it.
async fn upgrade<S: Stream>(stream: S, rules: &WebSocketRules, from: &Origin, on: &Arc<Shared>) -> bool {
    let every = ["*".to_owned()];
    // A page that must know a password may come from anywhere.
    let origins = rules.origins.as_deref().or((!on.listener.anonymous).then_some(&every[..]));
    let frame_max = u64::from(on.max_packet_size).max(FRAME_MAX);
    match websocket::open(stream, Entry { path: &rules.path, origins, frame_max }).await {
        Ok((stream, forwarded)) => {
            let mut from = from.clone();
            // Its own word counts for nothing, but for a proxy's.
            if on.listener.trusts(from.peer.ip())
                && let Some(ip) = websocket::client_of(&forwarded, |ip| on.listener.trusts(Some(ip)))
            {
                from.peer = Peer::Addr((ip, 0).into());
            }
            begin(Box::new(stream) as Box<dyn Stream>, &from, on).await
        }
        Err(refusal) => {
            on.broker.counters.websockets_refused.add(1);
            tracing::info!(listener = on.listener.url, %from, "no WebSocket: {}", refusal.why);
            false
        }
    }
}

/// False: no connection came of it.
pub(super) async fn begin<S: Stream>(mut stream: S, from: &Origin, on: &Arc<Shared>) -> bool {
    match connect(&mut stream, from, on).await {
        Ok(greeted) => {
            executor::add(greeted.connection(stream, on, from.shown.clone()));
            true
        }
        Err(refusal) => {
            refuse(&mut stream, from, on, refusal).await;
            false
        }
    }
}

async fn refuse<S: Stream>(stream: &mut S, from: &Origin, on: &Shared, refusal: Refusal) {
    let said = matches!(refusal, Refusal::Denied(..));
    let error = match refusal {
        Refusal::Gone => return,
        Refusal::Silent(error) => error,
        Refusal::Refused(version, error, max) | Refusal::Denied(version, error, max) => {
            let busy = error.reason == ReasonCode::ServerBusy;
            let config = on.broker.live();
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
    if said {
        return;
    }
    tracing::info!(
        listener = on.listener.url,
        %from,
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
    bridge: bool,
    connack: Vec<u8>,
    rest: Vec<u8>,
    auth: Option<Box<Authentication>>,
    rights: Option<Arc<Rights>>,
    seat: Option<Box<Seat>>,
}

impl Greeted {
    fn connection<S: Stream>(self, stream: S, on: &Arc<Shared>, shown: Option<Box<Shown>>) -> Connection<S> {
        on.broker.connections.fetch_add(1, Ordering::Relaxed);
        on.broker.counters.connects_accepted.add(1);
        Connection {
            stream,
            on: on.clone(),
            slot: self.opened.slot,
            epoch: self.opened.epoch,
            version: self.version,
            problem_information: self.problem_information,
            bridge: self.bridge,
            over: false,
            unflushed: false,
            goes_on: false,
            is_owed_much: false,
            batch_max: super::input::FIRST_BATCH,
            tail_is_fresh: !self.rest.is_empty(),
            written: 0,
            has_taken: false,
            // The buffer that CONNECT was read into is given back: an idle connection owns none.
            tail: if self.rest.is_empty() { Vec::new() } else { self.rest },
            out: Encoded::of(self.connack),
            pace: on.listener.rate.map(|rate| Box::new(Pace::new(rate))),
            pace_out: on.listener.rate_out.map(|rate| Box::new(Pace::new(rate))),
            _seat: self.seat,
            parked: None,
            auth: self.auth,
            rights: self.rights,
            shown,
        }
    }
}

async fn connect<S: Stream>(stream: &mut S, from: &Origin, on: &Arc<Shared>) -> Result<Greeted, Refusal> {
    let mut buffer = Vec::with_capacity(FIRST_READ);
    let max = on.max_packet_size;
    let total = read_frame(stream, &mut buffer, max, &on.broker).await?;
    let packet = buffer.get(..total).unwrap_or_default();
    let frame = whole(packet, max)?;
    let mut connect = codec::read_connect(&frame, packet, &on.limits)?;
    buffer.drain(..total);
    admit(on, &connect)?;
    let seat = seat(on, from, &connect)?;
    if !on.listener.admission.admits(connect.version) {
        let detail = "this version of MQTT is not spoken on this listener";
        return Err(refused(&connect, ReasonCode::UnsupportedProtocolVersion, "MQTT5-3.1.2-2", detail));
    }
    let mut assigned = None;
    if on.listener.client_id_is_user || from.nameless {
        assigned = named_by_user(on, from, &mut connect)?;
    }
    if connect.client_id.is_empty() {
        connect.client_id = client_id(&on.broker);
        assigned = Some(connect.client_id.clone());
    }
    if !on.listener.admission.admits_client(&connect.client_id) {
        let detail = "client identifiers like this one may not connect on this listener (client_ids)";
        return Err(refused(&connect, ReasonCode::ClientIdentifierNotValid, "MQTT5-3.1.3-8", detail));
    }
    if let Some(point) = &on.listener.mount_point {
        mount(on, point, &mut connect)?;
    }
    let will_bytes =
        connect.will.as_ref().map_or(0, |will| will.topic.len() + will.payload.len() + will.properties.len());
    let no_room = |(reason, detail)| refused(&connect, reason, "MQTT5-4.13.2-1", detail);
    on.broker.admits(&connect.client_id, will_bytes).map_err(no_room)?;
    let LoggedIn { rights, auth_data } = login::log_in(stream, on, from, &connect, &mut buffer).await?;
    on.broker.admit(&connect.client_id, will_bytes).map_err(no_room)?;
    let greeted = open(on, from, connect, rights, (assigned, auth_data), buffer)?;
    Ok(Greeted { seat, ..greeted })
}

pub(super) fn whole(packet: &[u8], max: u32) -> Result<frame::Frame, Refusal> {
    match frame::peek(packet, max) {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(Refusal::Gone),
        Err(error) => Err(Refusal::Silent(error.into())),
    }
}

/// Reads until the buffer begins with a whole packet; returns its length. Those who have not logged in yet are held to the
/// memory limit as all others.
pub(super) async fn read_frame<S: Stream>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    max: u32,
    broker: &Broker,
) -> Result<usize, Refusal> {
    loop {
        match frame::peek(buffer, max) {
            // Before CONNECT is read no version is known to answer in.
            Err(error) => return Err(Refusal::Silent(error.into())),
            Ok(Some(frame)) if frame.total() <= buffer.len() => return Ok(frame.total()),
            Ok(_) if !broker.room_for_part(buffer.len()) => {
                return Err(Refusal::Silent(no_memory("no memory is left for a packet of this size")));
            }
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
    // A client that comes back before its dead connection was noticed takes that one's place.
    let comes_back = || broker.is_online(&connect.client_id);
    let connections = broker.connections.load(Ordering::Relaxed);
    if connections >= broker.config.limits.max_connections && !comes_back() {
        return refuse(ReasonCode::ServerBusy, "as many connections as there may be");
    }
    // Sockets that are not past their CONNECT count here as well: a little early is better than late.
    if on.sockets.load(Ordering::Relaxed) > on.listener.max_connections && !comes_back() {
        return refuse(ReasonCode::ServerBusy, "as many connections on this listener as there may be");
    }
    if [TAKER_PREFIX, QUEUE_PREFIX, DEAD_PREFIX, STREAM_PREFIX].iter().any(|own| connect.client_id.starts_with(own)) {
        let detail = "client identifiers that begin with $bridge/, $queue/, $dead/ or $stream/ are the broker's own";
        return refuse(ReasonCode::ClientIdentifierNotValid, detail);
    }
    Ok(())
}

/// One of the connections that the client's address may have, where they are limited.
fn seat(on: &Shared, from: &Origin, connect: &Connect) -> Result<Option<Box<Seat>>, Refusal> {
    let Some((seats, ip)) = on.seats.as_ref().zip(from.peer.ip()) else { return Ok(None) };
    let claimed = if on.broker.is_online(&connect.client_id) { Claimed::InsteadOfAnother } else { Claimed::New };
    match seats.take(ip, claimed) {
        Some(seat) => Ok(Some(Box::new(seat))),
        None => {
            let detail = "as many connections of this address as there may be (max_connections_per_address)";
            Err(refused(connect, ReasonCode::ServerBusy, "MQTT5-4.13.2-1", detail))
        }
    }
}

/// Gives the will its whole topic. One that is discarded anyway stays as it is.
fn mount(on: &Shared, point: &str, connect: &mut Connect) -> Result<(), Refusal> {
    if connect.will.as_ref().is_some_and(|will| not_for_wills(&will.topic).is_some()) {
        return Ok(());
    }
    mount::mount_will(point, connect, on.limits.max_topic_levels).map_err(|reason| {
        let detail =
            "the topic of the will is too long, or begins with $, which is not there on this listener (mount_point)";
        refused(connect, reason, "MQTT5-3.1.4-2", detail)
    })
}

/// Makes the client identifier the user name where the listener says so; returns it, if the client said none.
fn named_by_user(on: &Shared, from: &Origin, connect: &mut Connect) -> Result<Option<String>, Refusal> {
    if from.nameless {
        let detail = "the certificate has no such name as the user name is made of (user_from)";
        return Err(refused(connect, ReasonCode::NotAuthorized, "MQTT5-3.1.4-2", detail));
    }
    if !on.listener.client_id_is_user {
        return Ok(None);
    }
    let user = from.user.as_deref().or(connect.username.as_deref()).unwrap_or_default().to_owned();
    if user.is_empty() || (!connect.client_id.is_empty() && connect.client_id != user) {
        let detail = "the client identifier must be the user name on this listener (client_id_is_user)";
        return Err(refused(connect, ReasonCode::ClientIdentifierNotValid, "MQTT5-3.1.3-8", detail));
    }
    let said_none = connect.client_id.is_empty();
    connect.client_id.clone_from(&user);
    Ok(said_none.then_some(user))
}

pub(super) fn refused(connect: &Connect, reason: ReasonCode, statement: &'static str, detail: &'static str) -> Refusal {
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

/// Opens the session and writes CONNACK, which goes before anything that the session has to send.
fn open(
    on: &Arc<Shared>,
    from: &Origin,
    connect: Connect,
    rights: Option<Arc<Rights>>,
    (assigned, auth_data): (Option<String>, Option<Vec<u8>>),
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
    let expiry_s = bounded_expiry_s(on, asked_s);
    let asked_keep_alive_s = connect.keep_alive_s;
    let keep_alive_s = if v5 { bounded_keep_alive_s(on, asked_keep_alive_s) } else { asked_keep_alive_s };
    let properties = ConnackProperties {
        session_expiry_s: (expiry_s != asked_s).then_some(expiry_s),
        receive_maximum: (limits.receive_maximum != u16::MAX).then_some(limits.receive_maximum),
        // What no packet can exceed is not announced: there are clients that take it for an error.
        maximum_packet_size: Some(on.max_packet_size).filter(|max| *max <= varint::MAX),
        assigned_client_id: assigned,
        topic_alias_maximum: (limits.topic_alias_maximum > 0).then_some(limits.topic_alias_maximum),
        server_keep_alive_s: (keep_alive_s != asked_keep_alive_s).then_some(keep_alive_s),
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
        receive_maximum: if connect.bridge && !v5 {
            BRIDGE_RECEIVES.min(connect.receive_maximum)
        } else {
            connect.receive_maximum
        },
        maximum_packet_size: connect.maximum_packet_size,
        topic_alias_maximum: connect.topic_alias_maximum,
        problem_information: connect.request_problem,
        // One that nobody may publish is taken and discarded: mosquitto's bridges have one on $SYS.
        will: connect.will.filter(|will| not_for_wills(&will.topic).is_none()).map(|will| stored_will(broker, will)),
        authority: authority(on, rights.clone()),
        egress: egress(&on.listener),
    };
    let opened = broker.open(&connect.client_id, connect.clean_start, link, keep_alive_s);
    // The policy may have changed since it was asked: whoever is here by now is held against the next change.
    if rights.as_ref().is_some_and(|rights| !rights.is_valid()) {
        opened.slot.kick(ReasonCode::NotAuthorized as u8);
    }
    if let Some(at) = rights.as_ref().and_then(|rights| rights.expires()) {
        broker.expires_at(at);
    }
    tracing::info!(
        client = connect.client_id,
        user = rights.as_ref().and_then(|rights| rights.who().user.as_deref()),
        listener = on.listener.url,
        %from,
        version = name_of(version),
        bridge = connect.bridge,
        keep_alive_s,
        expiry_s,
        resumed = opened.session_present,
        "connected"
    );
    if opened.session_present {
        connack.clear();
        encode::connack(&mut connack, version, true, ReasonCode::Success, &properties, max);
    }
    Ok(Greeted {
        opened,
        version,
        problem_information: connect.request_problem,
        bridge: connect.bridge,
        connack,
        rest,
        auth: connect.auth_method.map(|method| Box::new((method, None))),
        rights,
        seat: None,
    })
}

/// What its session may do.
fn authority(on: &Shared, rights: Option<Arc<Rights>>) -> Option<Arc<dyn Authority>> {
    match &on.listener.mount_point {
        Some(point) => Some(Arc::new(Mounted { mount_point: point.as_str().into(), rights })),
        None => rights.map(|rights| rights as Arc<dyn Authority>),
    }
}

/// What the listener says of what is sent. A rate's worth of a second waits for the socket at most: what is behind it, an answer to
/// a ping perhaps, is not to wait for longer.
fn egress(listener: &Listener) -> Option<Box<Egress>> {
    if listener.mount_point.is_none() && listener.rate_out.is_none() {
        return None;
    }
    let most = |rate: Option<u64>| rate.and_then(|rate| usize::try_from(rate).ok()).unwrap_or(usize::MAX);
    let rate = listener.rate_out.unwrap_or(Rate { messages_per_s: None, bytes_per_s: None });
    Some(Box::new(Egress {
        mount_len: listener.mount_point.as_ref().map_or(0, String::len),
        bytes_max: most(rate.bytes_per_s),
        messages_max: most(rate.messages_per_s),
    }))
}

/// The keep alive of an MQTT 5 client, within what the listener has [MQTT5-3.2.2-21].
fn bounded_keep_alive_s(on: &Shared, asked_s: u16) -> u16 {
    let (min, max) = on.listener.bounds.keep_alive_s(&on.broker.config.limits);
    match asked_s {
        // No keep alive is the longest.
        0 => max,
        asked if max > 0 => asked.clamp(min.min(max), max),
        asked => asked.max(min),
    }
}

/// What is granted of a session expiry interval [MQTT5-3.2.2.3.2].
pub(super) fn bounded_expiry_s(on: &Shared, asked_s: u32) -> u32 {
    asked_s.min(seconds(on.listener.bounds.session_expiry(&on.broker.config.limits)))
}

fn name_of(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5.0",
    }
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

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::net::{IpAddr, Ipv4Addr};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::broker::by_hand;
    use crate::transport::Handshakes;

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_log_in_is_no_handshake_and_those_that_find_no_room_stay_handshakes() {
        let (broker, _store) = by_hand::broker_with("[limits]\nmax_log_ins = 1\n");
        let handshakes = Handshakes::new(1, 1);
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let enter = || async { Origin { permit: handshakes.enter(address).await.map(Arc::new), ..Origin::unknown() } };
        let first = enter().await;
        let room = first.begins_log_in(&broker).await;
        let second = enter().await;
        let mut waits = pin!(second.begins_log_in(&broker));
        assert!(poll(waits.as_mut()).is_pending());
        let mut third = pin!(enter());
        assert!(poll(third.as_mut()).is_pending(), "the second is one still");
        drop(room);
        assert!(poll(waits.as_mut()).is_ready() && poll(third.as_mut()).is_ready());
    }
}
