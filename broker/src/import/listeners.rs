//! `listener`, and who may connect there.

use std::net::Ipv6Addr;
use std::path::Path;

use super::conf::{Group, Setting, Settings};
use super::toml::Section;
use super::translate::Out;
use crate::config::why_no_mount_point;

/// The plug-in whose file is taken over.
const DYNAMIC_SECURITY: &str = "mosquitto_dynamic_security";

pub(super) struct Entries {
    pub(super) per_listener: bool,
    pub(super) listeners: Vec<Group>,
    /// Of all together.
    pub(super) connections_max: Option<u64>,
}

pub(super) struct Translated {
    pub(super) access: Section,
    pub(super) listeners: Vec<Section>,
    /// The most that one of them may have.
    pub(super) max_connections: u64,
}

/// Who may connect to all listeners.
#[derive(Default)]
struct Access {
    anonymous: Option<bool>,
    /// The password file that all have, or the first listener of its own.
    passwords: Option<String>,
    dynamic: bool,
    /// `clientid_prefixes`
    prefixes: Option<String>,
    /// `global_max_connections`
    connections_max: Option<u64>,
}

pub(super) fn translate(entries: Entries, whole: &mut Settings, out: &mut Out<'_>) -> Translated {
    let Entries { per_listener, listeners, connections_max } = entries;
    let mut section = Section::new("[access]");
    let mut access = Access {
        anonymous: whole.take("allow_anonymous").map(|setting| setting.is_true()),
        prefixes: whole.take("clientid_prefixes").map(|setting| setting.value),
        dynamic: dynamic_security(whole, &mut section, out),
        connections_max,
        ..Access::default()
    };
    access.passwords = copied(whole.take("password_file"), "passwords", out);
    if let Some(acl) = copied(whole.take("acl_file"), "acl", out) {
        section.text("acl_file", &acl);
    }
    let mut sections = Vec::new();
    let mut max_connections = 0;
    for mut group in listeners {
        let mut listener = Section::new("[[listeners]]");
        let own =
            if per_listener { own_access(&mut group, &mut listener, &mut section, &mut access, out) } else { None };
        let own = own.unwrap_or(Own { anonymous: access.anonymous, passwords: access.passwords.is_some() });
        let named = group.head.as_ref().map_or_else(
            || "the default listener".to_owned(),
            |head| format!("{}: listener {}", head.place, head.value),
        );
        match listener_of(group, &own, &access, &mut listener, out) {
            Ok(most) => {
                max_connections = max_connections.max(most);
                sections.push(listener);
            }
            Err(why) => out.left.push(format!("{named}: {why}")),
        }
    }
    if let Some(passwords) = &access.passwords {
        section.text("password_file", passwords);
    }
    Translated { access: section, listeners: sections, max_connections }
}

fn copied(setting: Option<Setting>, name: &str, out: &mut Out<'_>) -> Option<String> {
    let setting = setting?;
    let path = beside(out, &setting.value);
    Some(out.copy(&path, &setting, name))
}

fn beside(out: &Out<'_>, named: &str) -> std::path::PathBuf {
    super::conf::file_beside(&out.conf_folder, named)
}

/// Whole, so that it is found from the new configuration's folder.
fn whole_path(out: &Out<'_>, named: &str) -> String {
    let path = beside(out, named);
    std::path::absolute(&path).unwrap_or(path).display().to_string()
}

/// Takes the plug-in's file over, if the plug-in is loaded.
fn dynamic_security(settings: &mut Settings, section: &mut Section, out: &mut Out<'_>) -> bool {
    let is_it = |setting: &Setting| {
        matches!(setting.key.as_str(), "plugin" | "auth_plugin") && setting.value.contains(DYNAMIC_SECURITY)
    };
    if !settings.0.iter().any(is_it) {
        return false;
    }
    settings.0.retain(|setting| !is_it(setting));
    section.raw("dynamic_security", "true");
    let file = settings.take("plugin_opt_config_file").or_else(|| settings.take("auth_opt_config_file"));
    if let Some(file) = copied(file, "dynamic-security.json", out) {
        section.text("dynamic_security_import", &file);
    }
    true
}

/// Who may connect to one listener.
struct Own {
    anonymous: Option<bool>,
    passwords: bool,
}

/// What a listener says itself, with `per_listener_settings`. None: the listener must be left out, or has nothing.
fn own_access(
    group: &mut Group,
    listener: &mut Section,
    section: &mut Section,
    access: &mut Access,
    out: &mut Out<'_>,
) -> Option<Own> {
    let settings = &mut group.settings;
    if dynamic_security(settings, section, out) {
        access.dynamic = true;
    }
    let anonymous = settings.take("allow_anonymous").map(|setting| setting.is_true());
    let named = settings.take("password_file");
    let mut passwords = false;
    if let Some(setting) = named {
        let copy = copied(Some(setting.clone()), "passwords", out);
        match (&access.passwords, copy) {
            (None, Some(copy)) => {
                access.passwords = Some(copy);
                passwords = true;
            }
            (Some(known), Some(copy)) if *known == copy => passwords = true,
            (Some(known), Some(copy)) => {
                // Whoever is in that one only may not come here.
                out.left.push(setting.left(&format!(
                    "there is one password file for all listeners, {known}: nobody is let in here by password; {copy} has the \
                     others, to be joined by hand"
                )));
                listener.list::<&str>("sources", &[]);
            }
            (_, None) => {}
        }
    } else if !access.dynamic {
        listener.list::<&str>("sources", &[]);
    }
    if let Some(acl) = copied(settings.take("acl_file"), "acl", out) {
        listener.text("acl_file", &acl);
    }
    Some(Own { anonymous: Some(anonymous.unwrap_or(false)), passwords })
}

/// Writes one listener. The most connections that it may have, or why it is left out.
fn listener_of(
    group: Group,
    own: &Own,
    access: &Access,
    section: &mut Section,
    out: &mut Out<'_>,
) -> Result<u64, String> {
    let Group { head, mut settings } = group;
    // Nothing at all is said of a listener: this machine only, and anybody.
    let is_local = head.is_none() && !settings.0.iter().any(|setting| setting.key == "port");
    let cert = match (settings.take("certfile"), settings.take("keyfile")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("TLS needs both certfile and keyfile: left out".to_owned()),
    };
    let web = settings.take("protocol").is_some_and(|setting| setting.value == "websockets");
    let url = url(head.as_ref(), &mut settings, (web, cert.is_some()), is_local)?;
    let is_unix = url.starts_with("unix://");
    section.text("url", &url);
    let certificates = match &cert {
        Some(_) if is_unix => return Err("a Unix socket has no TLS".to_owned()),
        Some((certificate, key)) => {
            section.text("certificate", &whole_path(out, &certificate.value));
            section.text("key", &whole_path(out, &key.value));
            tls(&mut settings, section, out)?
        }
        None => {
            needs_no_tls(&settings)?;
            false
        }
    };
    let anonymous = own.anonymous.unwrap_or(is_local);
    if !anonymous && !own.passwords && !access.dynamic && !certificates {
        return Err(
            "nobody could connect there (allow_anonymous is false, and no password file is named): left out".to_owned()
        );
    }
    section.raw("anonymous", if anonymous { "true" } else { "false" });
    if settings.is_true("use_username_as_clientid") {
        section.raw("client_id_is_user", "true");
        out.left.push(format!("{url}: use_username_as_clientid: a client that says another client identifier is refused (client_id_is_user)"));
    }
    if let Some(prefixes) = access.prefixes.as_deref().filter(|prefixes| !prefixes.is_empty()) {
        section.list("client_ids", &[format!("{prefixes}*")]);
    }
    if let Some(origins) = settings.take("websockets_origin").filter(|_| web) {
        section.list("origins", &[origins.value]);
    } else if web && anonymous {
        out.left.push(format!("{url}: only pages of the same host may connect: listeners.origins lists others"));
    }
    let most = settings.take("max_connections").and_then(|setting| setting.value.parse::<u64>().ok()).unwrap_or(0);
    let most = most.min(access.connections_max.unwrap_or(u64::MAX));
    if most > 0 {
        section.raw("max_connections", &most.to_string());
    }
    if let Some(setting) = settings.take("mount_point") {
        // Without it its clients would reach the topics of all others.
        if let Some(why) = why_no_mount_point(&setting.value) {
            return Err(format!("mount_point \"{}\" {why}: left out", setting.value));
        }
        section.text("mount_point", &setting.value);
    }
    out.leave(settings);
    Ok(most)
}

/// `listener PORT [ADDRESS or PATH]`, as a URL.
fn url(
    head: Option<&Setting>,
    settings: &mut Settings,
    (web, tls): (bool, bool),
    is_local: bool,
) -> Result<String, String> {
    let (port, mut host) = match head {
        Some(head) => {
            let (port, host) = head.value.split_once(' ').unwrap_or((&head.value, ""));
            (port.to_owned(), host.trim().to_owned())
        }
        None => {
            let port = settings.take("port").map_or_else(|| "1883".to_owned(), |setting| setting.value);
            (port, settings.take("bind_address").map_or_else(String::new, |setting| setting.value))
        }
    };
    if port == "0" && Path::new(&host).is_absolute() {
        return Ok(format!("unix://{host}"));
    }
    let only_v4 = settings.take("socket_domain").is_some_and(|setting| setting.value == "ipv4");
    if let Some(interface) = settings.take("bind_interface") {
        host = interface.value;
    }
    if host.is_empty() {
        host = if is_local {
            "127.0.0.1"
        } else if only_v4 {
            "0.0.0.0"
        } else {
            "[::]"
        }
        .to_owned();
    } else if host.parse::<Ipv6Addr>().is_ok() {
        host = format!("[{host}]");
    }
    if port.parse::<u16>().map_or(true, |port| port == 0) {
        return Err(format!("{port:?} is not a port"));
    }
    let scheme = match (web, tls) {
        (false, false) => "mqtt",
        (false, true) => "mqtts",
        (true, false) => "ws",
        (true, true) => "wss",
    };
    Ok(format!("{scheme}://{host}:{port}"))
}

/// Whether it lets in the same clients without TLS as mosquitto does.
fn needs_no_tls(settings: &Settings) -> Result<(), String> {
    let has = |key: &str| settings.0.iter().find(|setting| setting.key == key);
    if has("psk_hint").is_some() {
        return Err(
            "TLS with a pre-shared key is not supported, and without it others could connect: left out".to_owned()
        );
    }
    if has("require_certificate").is_some_and(Setting::is_true) {
        return Err("require_certificate needs TLS, which certfile and keyfile make: left out".to_owned());
    }
    Ok(())
}

/// What a listener with TLS asks of its clients. True: a certificate says who a client is. Or why nobody may be let in.
fn tls(settings: &mut Settings, section: &mut Section, out: &mut Out<'_>) -> Result<bool, String> {
    let required = settings.is_true("require_certificate");
    // Without it mosquitto asks nobody for a certificate.
    let ca = settings.take("cafile").filter(|_| required);
    if required && ca.is_none() {
        return Err(
            "require_certificate needs cafile, and without a certificate others could connect: left out (of the files \
                    in capath make one)"
                .to_owned(),
        );
    }
    if let Some(ca) = &ca {
        section.text("client_ca", &whole_path(out, &ca.value));
        if let Some(crl) = settings.take("crlfile") {
            section.text("crl", &whole_path(out, &crl.value));
        }
    }
    settings.take("dhparamfile");
    if let Some(version) = settings.take("tls_version") {
        section.text("min_tls", if version.value.ends_with("1.3") { "1.3" } else { "1.2" });
        if version.value.ends_with("1.1") {
            out.left.push(version.left("TLS 1.1 is not supported: 1.2 is the oldest"));
        }
    }
    let (cn, subject) = (settings.is_true("use_identity_as_username"), settings.is_true("use_subject_as_username"));
    if !(cn || subject) {
        return Ok(ca.is_some());
    }
    if ca.is_none() {
        return Err("certificates are user names, and none is asked for (require_certificate): nobody could connect there: left \
                    out"
            .to_owned());
    }
    section.text("user_from", if subject { "subject" } else { "cn" });
    Ok(true)
}
