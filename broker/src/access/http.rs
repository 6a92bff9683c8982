//! A service that says over HTTP who may connect. The questions and answers are those that people have already for EMQX
//! (`{"result": "allow"}`) and for mosquitto-go-auth (a status, `ok`, or `{"Ok": true}`).
//!
//! A service that fails, is silent or says something else lets nobody in, unless it let the same client in with the same
//! password not long ago and the configuration allows that to count.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::reload::text_of;
use super::rules::Rules;
use super::{AccessError, Claim};
use crate::config::{HttpConfig, HttpFormat};

/// The longest answer, in bytes.
const ANSWER_MAX: usize = 64 * 1024;
/// Groups of one answer.
const GROUPS_MAX: usize = 64;

/// What the service says of a client that it lets in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) groups: Vec<Arc<str>>,
    pub(super) rules: Option<Arc<Rules>>,
    pub(super) expires: Option<SystemTime>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow(Allowed),
    Deny,
    /// The service has no opinion.
    Ignore,
}

/// How the service is asked.
pub(super) struct Service {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    authorization: Option<String>,
    format: HttpFormat,
    timeout: Duration,
    running: Arc<Semaphore>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Service {
    /// Reads the files that the configuration names.
    pub(super) fn new(config: &HttpConfig) -> Result<Self, AccessError> {
        let wrong = |path: &Path, why: String| AccessError::Unusable { path: path.to_owned(), why };
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |source| AccessError::Unreadable { path, source }
        };
        let url = Path::new(&config.url);
        let uri: Uri = config.url.parse().map_err(|_| wrong(url, "is not a URL".to_owned()))?;
        let encrypted = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let tls = match (&config.ca_file, encrypted) {
            (Some(path), true) => {
                let text = text_of(path).map_err(unreadable(path))?;
                Some(connector(&text).map_err(|why| wrong(path, why))?)
            }
            (None, true) => {
                let why = "needs `ca_file`, such as \"/etc/ssl/certs/ca-certificates.crt\"";
                return Err(wrong(url, why.to_owned()));
            }
            (_, false) => None,
        };
        let authorization = match &config.token_file {
            Some(path) => {
                let token = text_of(path).map_err(unreadable(path))?;
                let printable = !token.trim().is_empty() && token.trim().bytes().all(|byte| byte.is_ascii_graphic());
                if !printable {
                    return Err(wrong(path, "is not a token of one line".to_owned()));
                }
                Some(format!("Bearer {}", token.trim()))
            }
            None => None,
        };
        let running = Arc::new(Semaphore::new(config.max_requests));
        Ok(Self { uri, host, port, tls, authorization, format: config.format, timeout: config.timeout, running })
    }

    /// What the service says, or why it says nothing.
    pub(super) async fn ask(&self, claim: &Claim<'_>) -> Result<Verdict, &'static str> {
        let asked = async {
            let _place = self.running.acquire().await.map_err(|_| "the service is not asked")?;
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await;
            let tcp = tcp.map_err(|_| "the service cannot be reached")?;
            let _ = tcp.set_nodelay(true);
            match &self.tls {
                None => self.exchange(tcp, claim).await,
                Some(tls) => {
                    let name = ServerName::try_from(self.host.clone()).map_err(|_| "the service has no valid name")?;
                    let stream =
                        tls.connect(name, tcp).await.map_err(|_| "the service's certificate is not trusted")?;
                    self.exchange(stream, claim).await
                }
            }
        };
        tokio::time::timeout(self.timeout, asked).await.unwrap_or(Err("the service does not answer in time"))
    }

    async fn exchange<S>(&self, stream: S, claim: &Claim<'_>) -> Result<Verdict, &'static str>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |_| "the service does not speak HTTP";
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = tokio::spawn(connection);
        let asked = async {
            let response = sender.send_request(self.request(claim)?).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
            let body = body.map_err(|_| "the service's answer breaks off, or is too long")?.to_bytes();
            read(status, &body)
        };
        let verdict = asked.await;
        connection.abort();
        verdict
    }

    fn request(&self, claim: &Claim<'_>) -> Result<Request<Full<Bytes>>, &'static str> {
        let password =
            claim.password.map(|password| std::str::from_utf8(password).map_err(|_| "its password is no text"));
        let (user, password) = (claim.user.unwrap_or_default(), password.transpose()?.unwrap_or_default());
        let from = claim.addr.map(|addr| addr.to_canonical().to_string()).unwrap_or_default();
        let fields = [
            ("username", user),
            ("password", password),
            ("clientid", claim.client_id),
            ("peerhost", &from),
            ("listener", &claim.entrance.url),
        ];
        let (kind, body) = match self.format {
            HttpFormat::Json => {
                let object: serde_json::Map<String, Value> =
                    fields.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
                ("application/json", Value::Object(object).to_string())
            }
            HttpFormat::Form => ("application/x-www-form-urlencoded", form(&fields)),
        };
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self.uri.authority().map_or(self.host.as_str(), |authority| authority.as_str());
        let mut request = Request::builder().method(Method::POST).uri(path).header(HOST, host);
        request = request.header(CONTENT_TYPE, kind).header(ACCEPT, "application/json, text/plain");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.body(Full::from(body)).map_err(|_| "the service cannot be asked")
    }
}

fn connector(pem: &str) -> Result<TlsConnector, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("is not PEM: {error}"))?;
        // A bundle of a system may hold one that is not understood here.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        return Err("has no certificate of a CA".to_owned());
    }
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Percent-encoded [WHATWG URL, application/x-www-form-urlencoded].
fn form(fields: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in fields {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => out.push(char::from(byte)),
                b' ' => out.push('+'),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    out
}

/// What an answer means. A failure of the service is not a denial: it says nothing of the client.
fn read(status: StatusCode, body: &[u8]) -> Result<Verdict, &'static str> {
    if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS && status != StatusCode::REQUEST_TIMEOUT {
        return Ok(Verdict::Deny);
    }
    if !status.is_success() {
        return Err("the service says that it failed");
    }
    let text = body.trim_ascii();
    if text.is_empty() || text.eq_ignore_ascii_case(b"ok") || text == b"allow" {
        return Ok(Verdict::Allow(Allowed::default()));
    }
    let Ok(Value::Object(answer)) = serde_json::from_slice(text) else {
        return if text.first() == Some(&b'{') { Err("the service's answer is not JSON") } else { Ok(Verdict::Deny) };
    };
    let known = match (answer.get("result").and_then(Value::as_str), answer.get("Ok").or(answer.get("ok"))) {
        (Some("allow"), _) | (None, Some(Value::Bool(true))) => true,
        (Some("deny"), _) | (None, Some(Value::Bool(false))) => return Ok(Verdict::Deny),
        (Some("ignore"), _) => return Ok(Verdict::Ignore),
        _ => false,
    };
    if !known {
        return Err("the service's answer says neither allow nor deny");
    }
    allowed(&Value::Object(answer)).map(Verdict::Allow)
}

fn allowed(answer: &Value) -> Result<Allowed, &'static str> {
    let groups = match answer.get("groups") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) if list.len() <= GROUPS_MAX => {
            let named = list.iter().map(|group| group.as_str().map(Into::into)).collect::<Option<_>>();
            named.ok_or("the service names a group that is no string")?
        }
        Some(_) => return Err("the service's groups are not a list, or too many"),
    };
    let rules = match (answer.get("is_superuser").and_then(Value::as_bool), answer.get("acl")) {
        (Some(true), _) => Some(json!({"all": ["#", "$SYS/#"]})),
        (_, None | Some(Value::Null)) => None,
        (_, Some(acl)) => Some(acl.clone()),
    };
    let rules = rules.map(|acl| Rules::of_claims(&acl)).transpose().map_err(|_| "the service's ACL is wrong")?;
    let seconds = answer.get("expire_at").and_then(Value::as_f64).filter(|at| (0.0..1e11).contains(at));
    let expires = seconds.map(|seconds| UNIX_EPOCH + Duration::from_secs_f64(seconds));
    Ok(Allowed { groups, rules: rules.map(Arc::new), expires })
}

/// Whom the service let in, and when: for the time in which it fails.
pub(super) struct LastAnswers {
    answers: parking_lot::Mutex<hashbrown::HashMap<[u8; 32], (Instant, Allowed)>>,
    max_age: Duration,
}

/// Answers that are remembered; beyond, all are forgotten.
const ANSWERS_MAX: usize = 20_000;

impl LastAnswers {
    pub(super) fn new(max_age: Duration) -> Self {
        Self { answers: parking_lot::Mutex::default(), max_age }
    }

    /// `claim` stands for a client and its password.
    pub(super) fn heard(&self, claim: [u8; 32], verdict: &Verdict) {
        if self.max_age.is_zero() {
            return;
        }
        let mut answers = self.answers.lock();
        match verdict {
            Verdict::Allow(allowed) => {
                if answers.len() >= ANSWERS_MAX {
                    answers.clear();
                }
                answers.insert(claim, (Instant::now(), allowed.clone()));
            }
            Verdict::Deny | Verdict::Ignore => {
                answers.remove(&claim);
            }
        }
    }

    pub(super) fn last(&self, claim: &[u8; 32]) -> Option<Allowed> {
        let answers = self.answers.lock();
        let (at, allowed) = answers.get(claim)?;
        (at.elapsed() <= self.max_age).then(|| allowed.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_the_answers_that_services_give() {
        let plain = || Ok(Verdict::Allow(Allowed::default()));
        for (status, body, expected) in [
            (204, "", plain()),
            (200, "", plain()),
            (200, "ok\n", plain()),
            (200, r#"{"result":"allow"}"#, plain()),
            (200, r#"{"Ok":true,"Error":""}"#, plain()),
            (200, r#"{"Ok":false,"Error":"no"}"#, Ok(Verdict::Deny)),
            (200, r#"{"result":"deny","Ok":true}"#, Ok(Verdict::Deny)),
            (200, r#"{"result":"ignore"}"#, Ok(Verdict::Ignore)),
            (200, "no", Ok(Verdict::Deny)),
            (200, "<html>ok</html>", Ok(Verdict::Deny)),
            (401, "", Ok(Verdict::Deny)),
            (403, r#"{"result":"allow"}"#, Ok(Verdict::Deny)),
            (404, "", Ok(Verdict::Deny)),
        ] {
            assert_eq!(read(StatusCode::from_u16(status).unwrap(), body.as_bytes()), expected, "{status} {body}");
        }
        for (status, body) in [
            (500, "ok"),
            (302, ""),
            (429, ""),
            (200, "{"),
            (200, "{}"),
            (200, r#"{"result":"maybe"}"#),
            (200, r#"{"result":"allow","acl":[{"permission":"allow","topic":"a#"}]}"#),
            (200, r#"{"result":"allow","groups":"x"}"#),
        ] {
            assert!(read(StatusCode::from_u16(status).unwrap(), body.as_bytes()).is_err(), "{status} {body}");
        }
        let body = br#"{"result":"allow","groups":["g"],"expire_at":1000,"acl":[{"permission":"allow","topic":"a"}]}"#;
        let Ok(Verdict::Allow(allowed)) = read(StatusCode::OK, body) else { panic!() };
        assert_eq!((allowed.groups.len(), allowed.rules.unwrap().len()), (1, 1));
        assert_eq!(allowed.expires, Some(UNIX_EPOCH + Duration::from_secs(1000)));
    }

    #[test]
    fn a_form_is_encoded() {
        assert_eq!(form(&[("a", "x y&=ä+"), ("b", "")]), "a=x+y%26%3D%C3%A4%2B&b=");
    }

    #[test]
    fn an_old_answer_counts_for_a_time() {
        let (answers, claim) = (LastAnswers::new(Duration::from_secs(60)), [1; 32]);
        assert_eq!(answers.last(&claim), None);
        answers.heard(claim, &Verdict::Allow(Allowed::default()));
        assert_eq!((answers.last(&claim), answers.last(&[2; 32])), (Some(Allowed::default()), None));
        answers.heard(claim, &Verdict::Deny);
        assert_eq!(answers.last(&claim), None);
        let none = LastAnswers::new(Duration::ZERO);
        none.heard(claim, &Verdict::Allow(Allowed::default()));
        assert_eq!(none.last(&claim), None);
    }
}
