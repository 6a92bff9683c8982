//! HTTP/1.1: accepting, reading requests, writing answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};

use super::bind::Token;
use super::guard::{self, Refused, Via};
use super::query::{Query, decode};
use super::routes::{Ask, Error, Found, Needs, Outcome, Route, find};
use super::{Bound, Surroundings, handlers, health, openapi, page};
use crate::observe::{Snapshot, figures, prometheus};

/// Requests that are worked on at once; others wait.
pub(super) const JOBS_AT_ONCE: usize = 4;
/// Connections at once, of HTTP and of the socket each.
const CONNECTIONS_MAX: usize = 64;
/// How long the broker's end waits for answers that are under way.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// From a connection's start, or the answer before, until the head of a request is complete.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// From then on until its body is complete.
const BODY_TIME: Duration = Duration::from_secs(15);
/// A connection ends after this, whatever it does.
const CONNECTION_TIME: Duration = Duration::from_secs(3600);
/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

type Answer = Response<Full<Bytes>>;

struct Server {
    on: Surroundings,
    token: Option<Token>,
    stopped: watch::Receiver<bool>,
}

impl Server {
    fn check(&self, parts: &Parts, via: Via, needs: Needs) -> Result<(), Refused> {
        guard::check(parts, via, self.token.as_ref(), needs)
    }
}

/// Serves until it is told to stop; then what is being answered is answered.
pub(super) async fn serve(bound: Bound, on: Surroundings, mut stopped: watch::Receiver<bool>) {
    let server = Arc::new(Server { on, token: bound.token, stopped: stopped.clone() });
    let mut places = Vec::new();
    if let Some(listener) = bound.http.and_then(|http| tokio::net::TcpListener::from_std(http).ok()) {
        let (server, permits) = (server.clone(), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        places.push(permits.clone());
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, from)) => connection(stream, Via::Http(from), &server, &permits),
                    Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
                }
            }
        });
    }
    #[cfg(unix)]
    let listener = bound.socket.as_ref().and_then(|socket| socket.listener.try_clone().ok());
    #[cfg(unix)]
    if let Some(listener) = listener.and_then(|listener| tokio::net::UnixListener::from_std(listener).ok()) {
        let (server, permits) = (server.clone(), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
        places.push(permits.clone());
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => connection(stream, Via::Socket, &server, &permits),
                    Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
                }
            }
        });
    }
    let _ = stopped.wait_for(|stopped| *stopped).await;
    let all_gone = async {
        for permits in places {
            let _ = permits.acquire_many(CONNECTIONS_MAX as u32).await;
        }
    };
    let _ = tokio::time::timeout(LAST_ANSWERS, all_gone).await;
}

/// Serves one connection, unless there are too many: then it is closed.
fn connection<S>(stream: S, via: Via, server: &Arc<Server>, permits: &Arc<Semaphore>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(permit) = permits.clone().try_acquire_owned() else { return };
    let (server, mut stopped) = (server.clone(), server.stopped.clone());
    tokio::spawn(async move {
        let service = service_fn(move |request| answer(request, via, server.clone()));
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let mut serving = std::pin::pin!(serving);
        let end = async {
            tokio::select! {
                // How it ends is the client's affair.
                _ = serving.as_mut() => return,
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        };
        let _ = tokio::time::timeout(CONNECTION_TIME, end).await;
        drop(permit);
    });
}

async fn answer(request: Request<Incoming>, via: Via, server: Arc<Server>) -> Result<Answer, Infallible> {
    let (parts, body) = request.into_parts();
    let head = parts.method == Method::HEAD;
    let method = if head { "GET" } else { parts.method.as_str() };
    let path = parts.uri.path();
    if let Some(special) = special(method, path) {
        let allowed = server.check(&parts, via, special.needs());
        return Ok(match allowed {
            Ok(()) => special.answer(server).await,
            Err(refused) => refusal(refused),
        });
    }
    let (route, name) = match find(method, path) {
        Found::Route(route, name) => (route, name),
        Found::OtherMethod(methods) => {
            let mut answer = failed(StatusCode::METHOD_NOT_ALLOWED, format!("{path} is for {methods}"));
            if let Ok(methods) = HeaderValue::from_str(&methods) {
                answer.headers_mut().insert(ALLOW, methods);
            }
            return Ok(answer);
        }
        Found::Nothing => return Ok(failed(StatusCode::NOT_FOUND, format!("there is nothing at {path}"))),
    };
    if let Err(refused) = server.check(&parts, via, route.needs) {
        return Ok(refusal(refused));
    }
    let body = match tokio::time::timeout(BODY_TIME, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            return Ok(failed(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {BODY_BYTES_MAX} bytes")));
        }
        Err(_) => return Ok(failed(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    };
    let query = parts.uri.query().unwrap_or_default().to_owned();
    Ok(job(move || finish(run(route, &name, &query, &body, &server.on))).await)
}

/// Works on a thread beside the one that serves: health is answered meanwhile.
async fn job(work: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn run(route: &Route, name: &str, query: &str, body: &[u8], on: &Surroundings) -> Outcome {
    let query = Query::parse(query).map_err(Error::Wrong)?;
    let known: Vec<&str> = route.parameters.iter().map(|parameter| parameter.name).collect();
    query.check(&known).map_err(Error::Wrong)?;
    if route.body.is_none() && !body.is_empty() {
        return Err(Error::Wrong("a body is not wanted here".to_owned()));
    }
    let name = decode(name).map_err(Error::Wrong)?;
    (route.run)(&Ask { on, name, query, body })
}

fn finish(outcome: Outcome) -> Answer {
    match outcome {
        Ok(value) => json_answer(StatusCode::OK, &value),
        Err(Error::Wrong(why)) => failed(StatusCode::BAD_REQUEST, why),
        Err(Error::Missing(why)) => failed(StatusCode::NOT_FOUND, why),
        Err(Error::Conflict(why)) => failed(StatusCode::CONFLICT, why),
        Err(Error::Failed(why)) => failed(StatusCode::INTERNAL_SERVER_ERROR, why),
    }
}

/// What is answered outside the API.
#[derive(Clone, Copy)]
enum Special {
    Metrics,
    Live,
    Ready,
    Description,
    Page(page::File),
}

fn special(method: &str, path: &str) -> Option<Special> {
    if method != "GET" {
        return None;
    }
    match path {
        "/metrics" => Some(Special::Metrics),
        "/healthz" => Some(Special::Live),
        "/readyz" => Some(Special::Ready),
        "/api/openapi.json" => Some(Special::Description),
        path => page::find(path).map(Special::Page),
    }
}

impl Special {
    fn needs(self) -> Needs {
        match self {
            Self::Metrics => Needs::Look,
            // The page has nothing in it but the page: what it shows it asks for.
            Self::Live | Self::Ready | Self::Description | Self::Page(_) => Needs::Nothing,
        }
    }

    async fn answer(self, server: Arc<Server>) -> Answer {
        match self {
            Self::Metrics => {
                let work = move || {
                    let text = prometheus::text(&figures(&Snapshot::take(&server.on.broker)));
                    answer_of(StatusCode::OK, prometheus::CONTENT_TYPE, text.into())
                };
                job(work).await
            }
            Self::Live => well(health::live(&server.on.broker)),
            Self::Ready => well(health::ready(&server.on.broker)),
            Self::Page(file) => {
                let mut answer = answer_of(StatusCode::OK, file.content_type, Bytes::from_static(file.text.as_bytes()));
                let headers = answer.headers_mut();
                headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
                headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
                answer
            }
            Self::Description => json_answer(StatusCode::OK, &openapi::description()),
        }
    }
}

fn well(health: Result<(), health::Trouble>) -> Answer {
    let (status, text) = match health {
        Ok(()) => (StatusCode::OK, "ok"),
        Err(trouble) => (StatusCode::SERVICE_UNAVAILABLE, trouble.text()),
    };
    answer_of(status, "text/plain; charset=utf-8", format!("{text}\n").into())
}

fn refusal(refused: Refused) -> Answer {
    match refused {
        Refused::Token => {
            let mut answer = failed(StatusCode::UNAUTHORIZED, "needs the token: Authorization: Bearer TOKEN");
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            answer
        }
        Refused::NoToken => failed(
            StatusCode::FORBIDDEN,
            "HTTP without a token shows no payloads and changes nothing; set admin.token_file, or use admin.socket",
        ),
        Refused::Host => failed(
            StatusCode::FORBIDDEN,
            "without a token the address must be given as a number or as localhost; set admin.token_file for names",
        ),
    }
}

fn failed(status: StatusCode, why: impl Into<String>) -> Answer {
    json_answer(status, &json!({ "error": why.into() }))
}

fn json_answer(status: StatusCode, value: &Value) -> Answer {
    answer_of(status, "application/json", handlers::text(value).into())
}

fn answer_of(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
