//! The sources of authentication, asked in the order that the configuration states: each allows, denies, or leaves it to the next.
//! The end of the list is a denial, and so is an error.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use forebay_wire::reason::ReasonCode;

use super::dynamic::Found;
use super::http::{Allowed, Verdict};
use super::password::Stored;
use super::rules::Rules;
use super::{Access, Principal, Rights, jwt};
use crate::certificate::Certificate;
use crate::config::{AccessConfig, Listener, Source, UserFrom};

/// What a listener says of access.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entrance {
    /// As it is written in the configuration.
    pub url: Arc<str>,
    /// Clients without a user name may connect.
    pub anonymous: bool,
    /// Who says who a client is, in this order.
    pub sources: Vec<Source>,
    /// No source is configured anywhere: user names are believed.
    pub believes_names: bool,
    /// Who gets in by what the transport proves, for people; no source is asked about them.
    pub proved: Option<String>,
    /// The ACL.
    pub acl: Option<PathBuf>,
}

impl Entrance {
    /// That of a listener.
    #[must_use]
    pub fn new(listener: &Listener, access: &AccessConfig) -> Self {
        Self {
            url: listener.url.as_str().into(),
            anonymous: listener.anonymous,
            sources: listener.sources.clone().unwrap_or_else(|| access.sources.clone()),
            proved: proved(listener),
            believes_names: listener.sources.is_none() && access.sources.is_empty() && listener.user_from.is_none(),
            acl: listener.acl_file.clone().or_else(|| access.acl_file.clone()),
        }
    }

    /// Who decides, for people: `password, then jwt`.
    #[must_use]
    pub fn who_decides(&self) -> String {
        if let Some(proved) = &self.proved {
            return proved.clone();
        }
        let words: Vec<&str> = self.sources.iter().map(|source| source.word()).collect();
        match (words.is_empty(), self.anonymous) {
            (true, true) => "anyone".to_owned(),
            (true, false) => "nobody".to_owned(),
            (false, true) => format!("{}; and anyone without a user name", words.join(", then ")),
            (false, false) => words.join(", then "),
        }
    }
}

fn proved(listener: &Listener) -> Option<String> {
    let clients = listener.tls_rules.clients.as_ref();
    match (listener.user_from, clients) {
        (Some(UserFrom::Peer), _) => Some("the users of this machine that may open it".to_owned()),
        (Some(from), Some(clients)) if clients.required => {
            Some(format!("certificates of {}, whose {} is the user name", clients.ca.display(), from.word()))
        }
        (None, Some(clients)) if clients.required && listener.anonymous => {
            Some(format!("certificates of {}", clients.ca.display()))
        }
        _ => None,
    }
}

/// What a client says of itself.
#[derive(Clone, Copy)]
pub struct Claim<'a> {
    /// Its client identifier.
    pub client_id: &'a str,
    /// Its user name.
    pub user: Option<&'a str>,
    /// The transport has proved the user name: no source is asked.
    pub vouched: bool,
    /// Its password.
    pub password: Option<&'a [u8]>,
    /// Where it comes from.
    pub addr: Option<IpAddr>,
    /// The certificate that it showed.
    pub certificate: Option<&'a Arc<Certificate>>,
    /// Which way it came in.
    pub entrance: &'a Arc<Entrance>,
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// For CONNACK.
    pub reason: ReasonCode,
    /// For the log.
    pub why: &'static str,
    /// Which source said so.
    pub source: &'static str,
    /// The address is banned from now on.
    pub banned: bool,
}

impl Denied {
    pub(super) fn new(reason: ReasonCode, why: &'static str, source: &'static str) -> Self {
        Self { reason, why, source, banned: false }
    }

    /// For what the client may not do.
    pub(crate) fn not_authorized(why: &'static str, source: &'static str) -> Self {
        Self::new(ReasonCode::NotAuthorized, why, source)
    }

    /// For a proof that is wrong.
    pub(crate) fn failed_exchange(source: &'static str) -> Self {
        Self::wrong("authentication failed", source)
    }

    fn wrong(why: &'static str, source: &'static str) -> Self {
        Self::new(ReasonCode::BadUserNameOrPassword, why, source)
    }
}

/// What a client logged in with: it counts as long as its source would take it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Credential {
    #[default]
    None,
    /// Of the password file.
    Hash(Arc<Stored>),
    /// Of dynamic security.
    Dynamic(Arc<Stored>),
    /// That a token is signed with.
    Key(Arc<jwt::Key>),
}

/// What a source says of a client that it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub(super) user: Option<Arc<str>>,
    pub(super) groups: Vec<Arc<str>>,
    pub(super) credential: Credential,
    /// What it may do, before the ACL is asked.
    pub(super) rules: Option<Arc<Rules>>,
    /// When its connection ends.
    pub(super) expires: Option<SystemTime>,
}

impl From<jwt::Claims> for Identity {
    fn from(claims: jwt::Claims) -> Self {
        Self {
            user: Some(claims.user.into()),
            groups: claims.groups,
            credential: Credential::Key(claims.key),
            rules: claims.rules,
            expires: claims.expires,
        }
    }
}

/// What one source says.
enum Said {
    Allow(Identity),
    Deny(Denied),
    /// It does not know the client: that is the reason if nobody does.
    Next(Option<Denied>),
}

impl Access {
    /// Who the client is. Takes as long as its password takes to check, and longer after failures of its address.
    ///
    /// # Errors
    /// It is not let in.
    pub async fn authenticate(self: &Arc<Self>, claim: Claim<'_>) -> Result<Arc<Rights>, Denied> {
        self.not_banned(&claim)?;
        match self.ask_sources(&claim).await {
            Ok(identity) => self.admit(&claim, identity),
            Err(denied) => Err(self.failed(&claim, denied).await),
        }
    }

    /// Lets in whoever has proved who it is.
    ///
    /// # Errors
    /// The ACL does not let it connect.
    pub fn admit(self: &Arc<Self>, claim: &Claim<'_>, identity: Identity) -> Result<Arc<Rights>, Denied> {
        let who = Principal {
            user: identity.user.clone(),
            client_id: claim.client_id.into(),
            groups: identity.groups.clone(),
            certificate: claim.certificate.cloned(),
            addr: claim.addr,
            listener: claim.entrance.url.clone(),
        };
        let rights = Rights::new(self.clone(), who, claim.entrance.clone(), identity);
        match rights.lets_connect() {
            true => Ok(rights),
            false => Err(Denied::not_authorized("it may not connect", "ACL")),
        }
    }

    /// # Errors
    /// The address is banned.
    pub(crate) fn not_banned(&self, claim: &Claim<'_>) -> Result<(), Denied> {
        match claim.addr.is_some_and(|addr| self.guard.is_banned(addr, Instant::now())) {
            true => Err(Denied::new(ReasonCode::Banned, "the address is banned", "ban list")),
            false => Ok(()),
        }
    }

    /// Counts a wrong password against its address, and puts the answer off.
    pub(crate) async fn failed(&self, claim: &Claim<'_>, mut denied: Denied) -> Denied {
        if let Some(addr) = claim.addr.filter(|_| denied.reason == ReasonCode::BadUserNameOrPassword) {
            let consequence = self.guard.failed(addr, Instant::now());
            denied.banned = consequence.banned;
            tokio::time::sleep(consequence.delay).await;
        }
        denied
    }

    async fn ask_sources(&self, claim: &Claim<'_>) -> Result<Identity, Denied> {
        if let Some(user) = claim.user.filter(|_| claim.vouched) {
            return Ok(Identity { user: Some(user.into()), ..Identity::default() });
        }
        let mut why = None;
        let sources = &claim.entrance.sources;
        for (n, source) in sources.iter().enumerate() {
            // A name that is not there must take as long as one that is, unless another will be asked who takes long.
            let is_token = claim.password.is_some_and(jwt::is_token);
            let slow =
                |later: &Source| matches!(later, Source::Dynamic | Source::Http) || *later == Source::Jwt && is_token;
            let last = !sources.iter().skip(n + 1).any(slow);
            let said = match source {
                Source::Password => self.ask_passwords(claim, last).await,
                Source::Jwt => self.ask_jwt(claim),
                Source::Dynamic => self.ask_dynamic(claim, last).await,
                Source::Http => self.ask_http(claim).await,
            };
            match said {
                Said::Allow(identity) => return Ok(identity),
                Said::Deny(denied) => return Err(denied),
                Said::Next(reason) => why = reason.or(why),
            }
        }
        let Some(user) = claim.user else {
            return match claim.entrance.anonymous {
                true => Ok(Identity::default()),
                false => Err(why.unwrap_or(Denied::not_authorized("no user name", "anonymous"))),
            };
        };
        if claim.entrance.believes_names {
            return Ok(Identity { user: Some(user.into()), ..Identity::default() });
        }
        Err(why.unwrap_or(Denied::wrong("no source knows it", "the end of the list")))
    }

    /// `last`: nobody who takes long is asked behind this one.
    async fn ask_passwords(&self, claim: &Claim<'_>, last: bool) -> Said {
        const SOURCE: &str = "password file";
        let policy = self.policy();
        let (Some(user), Some(passwords)) = (claim.user, policy.passwords()) else { return Said::Next(None) };
        let stored = passwords.get(user);
        let right = match stored.or(passwords.decoy().filter(|_| last)) {
            Some(hash) => self.verify(claim, user, hash).await,
            None => false,
        };
        match stored {
            None => Said::Next(Some(Denied::wrong("no such user", SOURCE))),
            Some(stored) if right && claim.password.is_some() => Said::Allow(Identity {
                user: Some(user.into()),
                credential: Credential::Hash(stored.clone()),
                ..Identity::default()
            }),
            Some(_) => Said::Deny(Denied::wrong("wrong password", SOURCE)),
        }
    }

    async fn ask_dynamic(&self, claim: &Claim<'_>, last: bool) -> Said {
        const SOURCE: &str = "dynamic security";
        let (Some(user), Some(state)) = (claim.user, self.dynamic_state()) else { return Said::Next(None) };
        match state.find(user, claim.client_id) {
            Found::Client(stored) => match claim.password.is_some() && self.verify(claim, user, &stored).await {
                true => Said::Allow(Identity {
                    user: Some(user.into()),
                    credential: Credential::Dynamic(stored),
                    ..Identity::default()
                }),
                false => Said::Deny(Denied::wrong("wrong password", SOURCE)),
            },
            other @ (Found::Shut(_) | Found::Unknown) => {
                if let Some(decoy) = state.decoy().filter(|_| last || other != Found::Unknown) {
                    self.verify(claim, user, &decoy).await;
                }
                match other {
                    Found::Shut(why) => Said::Deny(Denied::wrong(why, SOURCE)),
                    Found::Client(_) | Found::Unknown => Said::Next(Some(Denied::wrong("no such user", SOURCE))),
                }
            }
        }
    }

    fn ask_jwt(&self, claim: &Claim<'_>) -> Said {
        let Some(token) = claim.password.filter(|password| jwt::is_token(password)) else { return Said::Next(None) };
        match self.verify_token(token, claim.user, claim.client_id) {
            Ok(identity) => Said::Allow(identity),
            Err(why) => Said::Deny(Denied::wrong(why, "jwt")),
        }
    }

    /// Who a token is for. A user name beside it must be its own.
    pub(super) fn verify_token(
        &self,
        token: &[u8],
        user: Option<&str>,
        client_id: &str,
    ) -> Result<Identity, &'static str> {
        let policy = self.policy();
        let (Some(keys), Some(config)) = (policy.keys(), &self.config.jwt) else {
            return Err("tokens do not count here");
        };
        let claims = jwt::verify(token, keys, config, client_id, SystemTime::now())?;
        match user.is_none_or(|user| user.is_empty() || user == claims.user) {
            true => Ok(claims.into()),
            false => Err("the user name is not the token's"),
        }
    }

    async fn ask_http(&self, claim: &Claim<'_>) -> Said {
        const SOURCE: &str = "http";
        let Some(service) = self.policy().http().cloned() else { return Said::Next(None) };
        if claim.user.is_none() && claim.password.is_none() && claim.entrance.anonymous {
            return Said::Next(None);
        }
        let (user, password) = (claim.user.unwrap_or_default(), claim.password.unwrap_or_default());
        let known =
            self.digest(&[user.as_bytes(), password, claim.client_id.as_bytes(), claim.entrance.url.as_bytes()]);
        let allow = |allowed: Allowed| {
            Said::Allow(Identity {
                user: claim.user.map(Into::into),
                groups: allowed.groups,
                credential: Credential::None,
                rules: allowed.rules,
                expires: allowed.expires,
            })
        };
        match service.ask(claim).await {
            Ok(verdict) => {
                self.last_answers.heard(known, &verdict);
                match verdict {
                    Verdict::Allow(allowed) => allow(allowed),
                    Verdict::Deny => Said::Deny(Denied::wrong("the service says no", SOURCE)),
                    Verdict::Ignore => Said::Next(Some(Denied::wrong("the service does not know it", SOURCE))),
                }
            }
            Err(why) => match self.last_answers.last(&known) {
                Some(allowed) => {
                    tracing::warn!(client = ?claim.client_id, "let in by an answer from before: {why}");
                    allow(allowed)
                }
                None => Said::Deny(Denied::new(ReasonCode::ServerUnavailable, why, SOURCE)),
            },
        }
    }
}
