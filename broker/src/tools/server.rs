//! Which server, and as whom: the arguments that `forebay pub` and `forebay sub` share, after the habits of
//! mosquitto_pub and mosquitto_sub.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use forebay_client::{ConnectError, Message, Options, QoS, Reconnect, Tls, Url, Version, Will};

use super::exit::{Exit, Failure};
use super::properties::Properties;
use super::say;

/// Which MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// MQTT 3.1
    #[value(name = "3.1", aliases = ["31", "3", "mqttv31"])]
    V31,
    /// MQTT 3.1.1
    #[value(name = "3.1.1", aliases = ["311", "4", "mqttv311"])]
    V311,
    /// MQTT 5.0
    #[value(name = "5", aliases = ["5.0", "mqttv5"])]
    V5,
}

/// Which server, and as whom.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Server")]
pub struct Server {
    /// URL of the server in place of -h and -p: mqtt://, mqtts://, ws://, wss:// with [USER[:PASSWORD]@]HOST[:PORT], or
    /// unix:///PATH; several are tried in turn. After mqtt:// and mqtts:// a path is the topic: mqtt://HOST/site/7
    #[arg(long, short = 'L', value_name = "URL", conflicts_with_all = ["host", "port"])]
    url: Vec<String>,
    /// Host name or address
    #[arg(long, short = 'h', value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port [default: 1883, with TLS 8883]
    #[arg(long, short = 'p', value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// MQTT version
    #[arg(long = "protocol", short = 'V', value_enum, default_value = "5", value_name = "VERSION")]
    protocol: Protocol,
    /// Client identifier [default: the server gives one, or a random one]
    #[arg(long, short = 'i', value_name = "ID", allow_hyphen_values = true)]
    id: Option<String>,
    /// User name
    #[arg(long, short = 'u', value_name = "NAME", allow_hyphen_values = true)]
    username: Option<String>,
    /// Password; FOREBAY_PASSWORD in the environment is not seen by other users of this machine
    #[arg(long, short = 'P', value_name = "PASSWORD", allow_hyphen_values = true)]
    password: Option<String>,
    /// Keep alive in seconds, 0 for none
    #[arg(long, short = 'k', value_name = "SECONDS", default_value_t = 60)]
    keep_alive: u16,
    /// Keep the session on the server after this program has ended (as -x does in MQTT 5); needs -i
    #[arg(long, short = 'c', requires = "id")]
    persistent: bool,
    /// How long the server keeps the session, in seconds (MQTT 5); needs -i
    #[arg(long, short = 'x', value_name = "SECONDS")]
    session_expiry: Option<u32>,
    /// Seconds until the server must have answered
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    connect_timeout: u64,
    /// Do not connect again when the connection is lost
    #[arg(long)]
    no_reconnect: bool,

    /// TLS, with the platform's roots
    #[arg(long, help_heading = "TLS")]
    tls: bool,
    /// TLS, trusting the certificates in this PEM file only
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    cafile: Option<PathBuf>,
    /// Client certificate chain, PEM
    #[arg(long, value_name = "FILE", requires = "key", help_heading = "TLS")]
    cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "TLS")]
    key: Option<PathBuf>,
    /// Accept any certificate: whoever is in between can read and change everything
    #[arg(long, help_heading = "TLS")]
    insecure: bool,
    /// Application protocol to offer
    #[arg(long, value_name = "NAME", help_heading = "TLS")]
    tls_alpn: Option<String>,
    /// Name that the server's certificate must have, when that is not its host
    #[arg(long, value_name = "NAME", help_heading = "TLS")]
    tls_name: Option<String>,

    /// Topic of a will
    #[arg(long, value_name = "TOPIC", allow_hyphen_values = true, help_heading = "Will")]
    will_topic: Option<String>,
    /// Payload of the will
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, requires = "will_topic", help_heading = "Will")]
    will_payload: Option<String>,
    /// QoS of the will
    #[arg(long, value_name = "QOS", value_parser = qos, requires = "will_topic", help_heading = "Will")]
    will_qos: Option<QoS>,
    /// The will is retained
    #[arg(long, requires = "will_topic", help_heading = "Will")]
    will_retain: bool,
    /// Seconds before the will is published (MQTT 5)
    #[arg(long, value_name = "SECONDS", requires = "will_topic", help_heading = "Will")]
    will_delay: Option<u64>,

    /// Print a line on the standard error for each step
    #[arg(long, short = 'd', help_heading = "Other")]
    debug: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help, help_heading = "Other")]
    help: Option<bool>,
}

/// mosquitto's `-L mqtt://HOST/TOPIC`: the server, and the topic behind it. A WebSocket's or a Unix socket's path is its own.
fn split_topic(url: &str) -> (&str, Option<&str>) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url, None) };
    if !matches!(scheme, "mqtt" | "mqtts" | "tcp" | "ssl" | "tls") {
        return (url, None);
    }
    match rest.split_once('/') {
        Some((authority, topic)) => {
            let server = url.get(..scheme.len() + 3 + authority.len()).unwrap_or(url);
            (server, Some(topic).filter(|topic| !topic.is_empty()))
        }
        None => (url, None),
    }
}

/// 0, 1 or 2.
pub fn qos(text: &str) -> Result<QoS, String> {
    let level: u8 = text.parse().map_err(|_| wrong_qos(text))?;
    QoS::try_from(level).map_err(|_| wrong_qos(text))
}

fn wrong_qos(text: &str) -> String {
    format!("QoS is 0, 1 or 2, not {text}")
}

impl Server {
    /// Whether to say what happens.
    #[must_use]
    pub fn debug(&self) -> bool {
        self.debug
    }

    /// What these arguments mean, checked.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn options(&self, properties: &Properties) -> Result<Options, Failure> {
        let usage = |error: forebay_client::InvalidOptions| Failure::usage(error.to_string());
        let with_tls = self.tls || self.cafile.is_some() || self.cert.is_some() || self.insecure;
        let urls = self.urls();
        let (first, others) = urls.split_first().ok_or_else(|| Failure::usage("no server is named"))?;
        let mut options = Options::new(first).map_err(usage)?;
        for url in others {
            options = options.also(url).map_err(usage)?;
        }
        let secure = |url: &String| url.parse().is_ok_and(|url: Url| url.scheme().is_tls());
        if with_tls && !urls.iter().all(secure) {
            return Err(Failure::usage("TLS arguments with a URL that has no TLS: use mqtts:// or wss://"));
        }
        options = options.tls(self.tls().map_err(usage)?);
        options = options.version(match self.protocol {
            Protocol::V31 => Version::V31,
            Protocol::V311 => Version::V311,
            Protocol::V5 => Version::V5,
        });
        self.needs_v5("a property", properties.needs_v5())?;
        self.needs_v5("--expiry (-e)", properties.expiry_s.is_some())?;
        self.needs_v5("--session-expiry (-x)", self.session_expiry.is_some())?;
        self.needs_v5("--will-delay", self.will_delay.is_some())?;
        options = self.identity(options)?;
        options = options.keep_alive(Duration::from_secs(self.keep_alive.into()));
        options = options.connect_timeout(Duration::from_secs(self.connect_timeout));
        if self.no_reconnect {
            options = options.reconnect(Reconnect::never());
        }
        for (name, value) in &properties.connect {
            options = options.user_property(name, value);
        }
        if let Some(topic) = &self.will_topic {
            let payload = self.will_payload.clone().unwrap_or_default();
            let message = Message::new(topic.as_str(), payload).qos(self.will_qos.unwrap_or(QoS::AtMostOnce));
            let will = Will::new(message.retain(self.will_retain));
            options = options.will(will.delay(Duration::from_secs(self.will_delay.unwrap_or(0))));
        }
        options.check().map_err(usage)?;
        Ok(options)
    }

    /// Fails when an option that only MQTT 5 knows is given with another version: it would do nothing.
    ///
    /// # Errors
    /// It is given, and the version is not 5.
    pub fn needs_v5(&self, option: &str, given: bool) -> Result<(), Failure> {
        if given && self.protocol != Protocol::V5 {
            return Err(Failure::usage(format!("{option} needs MQTT 5: leave -V out")));
        }
        Ok(())
    }

    /// Says a step, with -d.
    pub fn say(&self, what: impl FnOnce(&str) -> String) {
        if self.debug {
            let shown = |url: &String| url.parse::<Url>().map_or_else(|_| String::new(), |url| url.to_string());
            let servers: Vec<String> = self.urls().iter().map(shown).collect();
            say::line(what(&servers.join(", ")));
        }
    }

    /// The servers, without topics.
    fn urls(&self) -> Vec<String> {
        let with_tls = self.tls || self.cafile.is_some() || self.cert.is_some() || self.insecure;
        if self.url.is_empty() {
            return vec![self.plain_url(with_tls)];
        }
        self.url.iter().map(|url| split_topic(url).0.to_owned()).collect()
    }

    /// Topics that stand in URLs, each once.
    #[must_use]
    pub fn url_topics(&self) -> Vec<String> {
        let mut topics: Vec<String> = self.url.iter().filter_map(|url| split_topic(url).1.map(str::to_owned)).collect();
        topics.dedup();
        topics
    }

    fn plain_url(&self, with_tls: bool) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let (scheme, default) = if with_tls { ("mqtts", 8883) } else { ("mqtt", 1883) };
        format!("{scheme}://{host}:{}", self.port.unwrap_or(default))
    }

    fn identity(&self, mut options: Options) -> Result<Options, Failure> {
        if let Some(id) = &self.id {
            options = options.client_id(id);
        }
        if let Some(name) = &self.username {
            options = options.username(name);
        }
        if let Some(password) = self.password.clone().or_else(|| std::env::var("FOREBAY_PASSWORD").ok()) {
            options = options.password(password);
        }
        match (self.persistent, self.session_expiry) {
            // Nobody would come back to it, and the server would go on filling its queue.
            (false, None) => Ok(options.session_expiry(Duration::ZERO)),
            (_, Some(_)) if self.id.is_none() => {
                Err(Failure::usage("a session that is kept belongs to a client: add -i"))
            }
            (_, Some(seconds)) => {
                Ok(options.session_expiry(Duration::from_secs(seconds.into())).clean_start(!self.persistent))
            }
            (true, None) => Ok(options.session_expiry(Duration::from_secs(u32::MAX.into())).clean_start(false)),
        }
    }

    fn tls(&self) -> Result<Tls, forebay_client::InvalidOptions> {
        let mut tls = Tls::new();
        if let Some(file) = &self.cafile {
            tls = tls.ca_file(file)?;
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(cert, key)?;
        }
        if let Some(alpn) = &self.tls_alpn {
            tls = tls.alpn(&[alpn.as_str()]);
        }
        if let Some(name) = &self.tls_name {
            tls = tls.server_name(name);
        }
        Ok(if self.insecure { tls.without_verification() } else { tls })
    }
}

/// Why there is no connection, as exit code and line.
impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let exit = match &error {
            ConnectError::Unreachable { .. } | ConnectError::TimedOut { .. } => Exit::Unreachable,
            ConnectError::Tls { .. } => Exit::Tls,
            ConnectError::Refused { .. } | ConnectError::Authentication(_) | ConnectError::Closed => Exit::Refused,
            ConnectError::Protocol(_) | ConnectError::WebSocket { .. } => Exit::NotMqtt,
            ConnectError::Options(_) => Exit::Usage,
            ConnectError::Ended(_) | ConnectError::Store(_) | _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_behind_the_server_is_split_off() {
        for (url, server, topic) in [
            ("mqtt://h:1/site/7", "mqtt://h:1", Some("site/7")),
            ("mqtts://u:p@h/x", "mqtts://u:p@h", Some("x")),
            ("mqtt://h/", "mqtt://h", None),
            ("mqtt://h", "mqtt://h", None),
            ("ws://h/mqtt", "ws://h/mqtt", None),
            ("unix:///run/m.sock", "unix:///run/m.sock", None),
            ("h/x", "h/x", None),
        ] {
            assert_eq!(split_topic(url), (server, topic), "{url}");
        }
    }
}
