//! `connection`: a bridge.

use super::conf::Group;
use super::toml::Section;
use super::translate::{File, Out};

/// Characters of a bridge's name.
const NAME_MAX: usize = 64;

/// Settings, with the values at which they ask for what every bridge does.
const ANYWAY: &[(&str, &str)] =
    &[("cleansession", "false"), ("local_cleansession", "false"), ("start_type", "automatic")];

/// A section for each bridge and each of its rules.
pub(super) fn translate(groups: Vec<Group>, out: &mut Out<'_>) -> Vec<Section> {
    let mut sections = Vec::new();
    for group in groups {
        let named =
            group.head.as_ref().map_or_else(String::new, |head| format!("{}: connection {}", head.place, head.value));
        match bridge(group, out) {
            Ok(bridge) => sections.extend(bridge),
            Err(why) => out.left.push(format!("{named}: {why}")),
        }
    }
    sections
}

fn bridge(group: Group, out: &mut Out<'_>) -> Result<Vec<Section>, String> {
    let Group { head, mut settings } = group;
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    let name: String = head.map(|head| head.value).unwrap_or_default().chars().map(fits).take(NAME_MAX).collect();
    let mut section = Section::new("[[bridges]]");
    section.text("name", &name);
    let ca = settings.take("bridge_cafile");
    let tls = ca.is_some() || settings.0.iter().any(|setting| setting.key == "bridge_capath");
    let addresses =
        settings.take("addresses").or_else(|| settings.take("address")).ok_or("it has no address: left out")?;
    let urls: Vec<String> = addresses.value.split_whitespace().map(|address| url(address, tls)).collect();
    match urls.as_slice() {
        [one] => section.text("url", one),
        several => section.list("urls", several),
    }
    let absolute = |path: std::path::PathBuf| std::path::absolute(&path).unwrap_or(path).display().to_string();
    let files =
        [(ca, "ca_file"), (settings.take("bridge_certfile"), "certificate"), (settings.take("bridge_keyfile"), "key")];
    for (setting, key) in files {
        if let Some(setting) = setting {
            section.text(key, &absolute(super::conf::file_beside(&out.conf_folder, &setting.value)));
        }
    }
    let version = settings.take("bridge_protocol_version");
    let old = version.as_ref().is_some_and(|setting| setting.value != "mqttv50");
    section.text("version", if old { "3.1.1" } else { "5" });
    if let Some(client_id) = settings.take("remote_clientid").or_else(|| settings.take("clientid")) {
        section.text("client_id", &client_id.value);
    }
    if let Some(user) = settings.take("remote_username").or_else(|| settings.take("username")) {
        section.text("username", &user.value);
    }
    if let Some(password) = settings.take("remote_password").or_else(|| settings.take("password")) {
        let file = format!("{name}.password");
        section.text("password_file", &file);
        out.files.push(File { name: file, content: password.value.into_bytes() });
    }
    if let Some(seconds) = settings.take("keepalive_interval").and_then(|setting| setting.value.parse::<u16>().ok()) {
        section.text("keep_alive", &format!("{seconds}s"));
    }
    let mut sections = vec![section];
    for topic in settings.take_all("topic") {
        match rules(&topic.value) {
            Ok(rules) => {
                if rules.len() > 1 && old {
                    out.left
                        .push(topic.left("taken; with MQTT 3.1.1 nothing guards against a loop: version = \"5\" does"));
                }
                sections.extend(rules.iter().map(Rule::section));
            }
            Err(why) => out.left.push(topic.left(why)),
        }
    }
    // These say what is done here in any case.
    settings.0.retain(|setting| !ANYWAY.contains(&(setting.key.as_str(), setting.value.as_str())));
    out.leave(settings);
    if sections.len() == 1 {
        return Err("it carries no topic: left out".to_owned());
    }
    Ok(sections)
}

fn url(address: &str, tls: bool) -> String {
    let (scheme, port) = if tls { ("mqtts", 8883) } else { ("mqtt", 1883) };
    let has_port = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')));
    if has_port { format!("{scheme}://{address}") } else { format!("{scheme}://{address}:{port}") }
}

struct Rule {
    head: &'static str,
    filter: String,
    topic: String,
    qos: u8,
}

impl Rule {
    fn section(&self) -> Section {
        let mut section = Section::new(self.head);
        section.text("filter", &self.filter);
        if self.topic != "{topic}" {
            section.text("topic", &self.topic);
        }
        section.raw("qos", &self.qos.to_string());
        section
    }
}

/// `topic PATTERN [[[out | in | both] QOS] LOCAL REMOTE]`
fn rules(value: &str) -> Result<Vec<Rule>, &'static str> {
    let mut words = value.split_whitespace();
    let mut word = |or: &'static str| match words.next() {
        // mosquitto's way to write nothing.
        Some("\"\"") => "",
        Some(word) => word,
        None => or,
    };
    let (pattern, direction, qos, local, remote) = (word(""), word("out"), word("0"), word(""), word(""));
    let qos = qos.parse::<u8>().ok().filter(|qos| *qos <= 2).ok_or("the QoS is none")?;
    let (out, into) = match direction {
        "out" => (true, false),
        "in" => (false, true),
        "both" => (true, true),
        _ => return Err("the direction is none of out, in and both"),
    };
    let mut rules = Vec::new();
    for (wanted, head, from, to) in [(out, "[[bridges.out]]", local, remote), (into, "[[bridges.in]]", remote, local)] {
        if wanted {
            let filter = format!("{from}{pattern}");
            forebay_wire::topic::check_filter(&filter, usize::MAX).map_err(|error| error.detail)?;
            rules.push(Rule { head, topic: template(pattern, from, to)?, filter, qos });
        }
    }
    Ok(rules)
}

/// A topic that has `to` where it had `from`.
fn template(pattern: &str, from: &str, to: &str) -> Result<String, &'static str> {
    let literal = to.replace('{', "{{").replace('}', "}}");
    if pattern.is_empty() {
        return Ok(literal);
    }
    if from == to {
        return Ok("{topic}".to_owned());
    }
    if from.is_empty() {
        return Ok(format!("{literal}{{topic}}"));
    }
    if !from.ends_with('/') {
        return Err("a prefix that does not end with / cannot be taken away: write the rule by hand (docs/bridges.md)");
    }
    let first = from.split('/').count();
    Ok(format!("{literal}{{topic/{first}..}}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_change_places() {
        let rules = rules("# both 1 local/a/ site/").unwrap_or_default();
        let said: Vec<_> = rules.iter().map(|rule| (rule.head, rule.filter.as_str(), rule.topic.as_str())).collect();
        let out = ("[[bridges.out]]", "local/a/#", "site/{topic/3..}");
        assert_eq!(said, [out, ("[[bridges.in]]", "site/#", "local/a/{topic/2..}")]);
    }

    #[test]
    fn an_address_has_a_port() {
        assert_eq!(url("host", false), "mqtt://host:1883");
        assert_eq!(url("host:1884", true), "mqtts://host:1884");
        assert_eq!(url("[::1]:1884", false), "mqtt://[::1]:1884");
    }
}
