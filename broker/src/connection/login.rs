//! Who a client is: its user name and password, or an exchange of enhanced authentication, before CONNACK.

use std::sync::Arc;

use forebay_wire::reason::ReasonCode;
use tokio::io::AsyncWriteExt;

use super::handshake::{Origin, Refusal, read_frame, refused, whole};
use super::input::not_for_wills;
use super::{Shared, Stream};
use crate::access::auth::Step;
use crate::access::{Claim, Denied, Identity, Rights};
use crate::codec::{self, CodecError, Connect, Packet, encode};
use crate::logging::LOG_INS;

/// A client that is let in.
pub(super) struct LoggedIn {
    /// What it may do; `None`: everything.
    pub(super) rights: Option<Arc<Rights>>,
    /// What enhanced authentication says in CONNACK.
    pub(super) auth_data: Option<Vec<u8>>,
}

/// Who the client is. One line in the log says why it is not let in.
pub(super) async fn log_in<S: Stream>(
    stream: &mut S,
    on: &Arc<Shared>,
    from: &Origin,
    connect: &Connect,
    buffer: &mut Vec<u8>,
) -> Result<LoggedIn, Refusal> {
    let access = on.broker.access();
    let claim = claim(on, from, connect);
    let denied = |denied| deny(on, from, connect, denied);
    access.map_or(Ok(()), |access| access.not_banned(&claim)).map_err(denied)?;
    let (auth_data, proved) = match &connect.auth_method {
        Some(_) => exchange(stream, on, from, connect, buffer).await?,
        None => (None, None),
    };
    let Some(access) = access else {
        // Without sources the transport alone says who it is.
        if on.listener.user_from.is_some() && from.user.is_none() && !on.listener.anonymous {
            return Err(denied(Denied::not_authorized("nothing proves who it is", "user_from")));
        }
        return Ok(LoggedIn { rights: None, auth_data });
    };
    let admitted = match proved {
        Some(identity) => access.admit(&claim, identity),
        None => {
            let _room = from.begins_log_in(&on.broker).await;
            access.authenticate(claim).await
        }
    };
    let rights = admitted.map_err(denied)?;
    // What CONNECT says of the user is not what an exchange or a token has proved.
    if on.listener.client_id_is_user && rights.who().user.as_deref() != Some(&*connect.client_id) {
        return Err(denied(Denied::not_authorized("the client identifier is not its user name", "client_id_is_user")));
    }
    let rights = with_will(on, from, connect, rights)?;
    Ok(LoggedIn { rights: Some(rights), auth_data })
}

fn claim<'a>(on: &'a Shared, from: &'a Origin, connect: &'a Connect) -> Claim<'a> {
    Claim {
        client_id: &connect.client_id,
        user: from.user.as_deref().or(connect.username.as_deref()),
        vouched: from.user.is_some(),
        password: connect.password.as_deref(),
        addr: from.peer.ip(),
        certificate: from.shown.as_ref().map(|shown| &shown.owner),
        entrance: &on.entrance,
    }
}

/// Whether it may have its will as well.
fn with_will(on: &Shared, from: &Origin, connect: &Connect, rights: Arc<Rights>) -> Result<Arc<Rights>, Refusal> {
    let Some(will) = connect.will.as_ref().filter(|will| not_for_wills(&will.topic).is_none()) else {
        return Ok(rights);
    };
    if rights.may_leave_will(&will.topic, will.qos as u8, will.retain) {
        return Ok(rights);
    }
    Err(deny(on, from, connect, Denied::not_authorized("the will may not be published", "ACL")))
}

/// Counts and logs that a client is not let in.
fn deny(on: &Shared, from: &Origin, connect: &Connect, denied: Denied) -> Refusal {
    let counters = &on.broker.counters;
    counters.connects_denied.add(1);
    let user = from.user.as_deref().or(connect.username.as_deref());
    let (client, source) = (&connect.client_id, denied.source);
    tracing::warn!(target: LOG_INS, listener = on.listener.url, %from, ?client, ?user, source, "log-in refused: {}", denied.why);
    if denied.banned {
        counters.addresses_banned.add(1);
        tracing::warn!(listener = on.listener.url, %from, "the address is banned: too many wrong passwords");
    }
    // Whether it is the name or the password that is wrong is nobody's business but the log's.
    let why =
        if denied.reason == ReasonCode::BadUserNameOrPassword { "user name or password is wrong" } else { denied.why };
    let error = CodecError::new(denied.reason, "MQTT5-3.1.4-2", why);
    Refusal::Denied(connect.version, error, connect.maximum_packet_size)
}

/// The exchange of enhanced authentication [MQTT5-4.12]; returns what goes with CONNACK, and who the client has proved to be.
async fn exchange<S: Stream>(
    stream: &mut S,
    on: &Arc<Shared>,
    from: &Origin,
    connect: &Connect,
    buffer: &mut Vec<u8>,
) -> Result<(Option<Vec<u8>>, Option<Identity>), Refusal> {
    let refuse = |reason, statement, detail| Err(refused(connect, reason, statement, detail));
    let method = connect.auth_method.as_deref().unwrap_or_default();
    let claim = claim(on, from, connect);
    let own = on.broker.mechanisms.find(method).map(|mechanism| mechanism.begin(&connect.client_id));
    let of_access = || on.broker.access().and_then(|access| access.begin(method, &claim));
    let Some(mut exchange) = own.or_else(of_access) else {
        let detail = "this authentication method is not offered";
        return refuse(ReasonCode::BadAuthenticationMethod, "MQTT5-4.12.0-1", detail);
    };
    let mut data = connect.auth_data.clone().unwrap_or_default();
    let max = on.max_packet_size;
    loop {
        match exchange.step(&data) {
            Step::Done(last) => return Ok((last, exchange.identity())),
            Step::Refused(reason) => {
                let Some(access) = on.broker.access() else {
                    return refuse(reason, "MQTT5-4.12.0-4", "authentication failed");
                };
                let failed = Denied::failed_exchange("enhanced authentication");
                let denied = access.failed(&claim, failed).await;
                return Err(deny(on, from, connect, Denied { reason, ..denied }));
            }
            Step::Continue(challenge) => {
                let mut out = Vec::new();
                encode::auth(&mut out, ReasonCode::ContinueAuthentication, method, Some(&challenge));
                stream.write_all(&out).await?;
                stream.flush().await?;
            }
        }
        let total = read_frame(stream, buffer, max, &on.broker).await?;
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
