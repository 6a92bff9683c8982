//! TLS: certificates of clients and of the broker, watched; openssl's alerts and this broker's lines.

use std::process::{Command, Stdio};
use std::sync::Arc;

use forebay_client::{Options, Reconnect, Tls, Version};
use forebay_tests::absence::{of_program, panicking};
use forebay_tests::broker::{Broker, free_port};
use forebay_tests::http::Api;
use libtest_mimic::Trial;
use rcgen::{ExtendedKeyUsagePurpose, SanType};

use crate::pki::{DAY, Pki, Wanted, write};
use crate::{LIMIT, block_on, logged, refused, soon, talk};

pub(crate) fn trials() -> Vec<Trial> {
    let openssl = of_program("openssl");
    let mut trials: Vec<Trial> = Vec::new();
    for (name, run) in [
        ("a_certificate_may_be_optional", optional as fn()),
        ("the_client_identifier_may_be_bound_to_the_user", bound),
        ("a_key_that_does_not_fit_is_refused", wrong_key),
        ("the_brokers_certificate_is_watched", watched),
        ("a_revoked_certificate_is_disconnected", revoked),
        ("an_old_revocation_list_does_what_is_set", old_list),
        ("what_does_not_go_together_is_said_at_the_start", said_at_the_start),
        ("the_end_of_a_certificate_is_a_warning_and_a_figure", ending),
        ("a_client_that_refuses_the_broker_is_explained", explained),
    ] {
        trials.push(panicking("transport", name, None, run));
    }
    for (name, run) in [
        ("a_certificate_is_a_user_name", names as fn()),
        ("every_bad_certificate_has_its_alert_and_its_line", alerts),
        ("names_and_versions_and_suites_as_openssl_sees_them", as_openssl_sees),
    ] {
        trials.push(panicking("transport", name, openssl.as_deref(), run));
    }
    trials
}

/// Keys of a listener with this CA's server certificate, which asks clients for theirs.
fn keys(pki: &Pki) -> String {
    let folder = pki.folder.path().display();
    format!("certificate = \"{folder}/server.pem\"\nkey = \"{folder}/server.key\"\nclient_ca = \"{folder}/ca.pem\"\n")
}

fn broker(pki: &Pki, more: &str) -> Broker {
    Broker::with_config(&format!("[[listeners]]\nurl = \"mqtts://127.0.0.1:TLS_PORT\"\n{}{more}\n", keys(pki)))
}

fn options(pki: &Pki, port: u16, client: &str) -> Options {
    let tls = Tls::new().ca_file(pki.path("ca.pem")).unwrap();
    let tls = match client {
        "" => tls,
        name => tls.identity(pki.path(&format!("{name}.pem")), pki.path(&format!("{name}.key"))).unwrap(),
    };
    Options::new(&format!("mqtts://localhost:{port}")).unwrap().tls(tls)
}

fn names() {
    let pki = Pki::new();
    let names = vec![
        SanType::DnsName("pump.site".try_into().unwrap()),
        SanType::URI("urn:pump:7".try_into().unwrap()),
        SanType::Rfc822Name("pump@site".try_into().unwrap()),
    ];
    pki.issue("pump", Wanted::client("pump-7").names(names).serial(0x1f));
    let fingerprint = crate::run(
        Command::new("openssl").args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(pki.path("pump.pem")),
    );
    let fingerprint = fingerprint.trim().split_once('=').unwrap().1.replace(':', "").to_lowercase();
    let expected = [
        ("cn", "pump-7"),
        ("subject", "CN=pump-7,O=Site"),
        ("dns", "pump.site"),
        ("uri", "urn:pump:7"),
        ("email", "pump@site"),
        ("serial", "1f"),
        ("fingerprint", fingerprint.as_str()),
    ];
    // Only this user may do what the test does: the name is what the ACL is asked with.
    let acl = pki.path("acl");
    let ports: Vec<u16> = expected.iter().map(|_| free_port()).collect();
    let listeners: String = expected
        .iter()
        .zip(&ports)
        .map(|((from, _), port)| {
            format!("[[listeners]]\nurl = \"mqtts://127.0.0.1:{port}\"\nuser_from = \"{from}\"\n{}", keys(&pki))
        })
        .collect();
    let rules: String = expected.iter().map(|(_, user)| format!("user {user}\ntopic readwrite talk\n")).collect();
    std::fs::write(&acl, rules).unwrap();
    let listeners = format!("{listeners}[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\n");
    let broker = Broker::with_config(&format!("[access]\nacl_file = \"{}\"\n{listeners}", acl.display()));
    for ((from, user), port) in expected.iter().zip(ports) {
        let id = format!("by-{from}");
        block_on(talk(options(&pki, port, "pump").client_id(&id).username("somebody else")));
        logged(&broker, &["connected", &id, user]);
    }
}

fn optional() {
    let pki = Pki::new();
    pki.issue("pump", Wanted::client("pump-7"));
    pki.issue("nameless", Wanted::client(""));
    let passwords = pki.path("passwords");
    std::fs::write(&passwords, "").unwrap();
    let mut broker = Broker::prepare(None);
    broker.configure(&format!(
        "[access]\npassword_file = \"{}\"\n[[listeners]]\nurl = \"mqtts://127.0.0.1:TLS_PORT\"\n{}\
         client_certificates = \"optional\"\nuser_from = \"cn\"\n",
        passwords.display(),
        keys(&pki)
    ));
    broker.run();
    block_on(async {
        talk(options(&pki, broker.tls_port(), "pump")).await;
        let error = refused(options(&pki, broker.tls_port(), "")).await;
        assert!(error.to_string().contains("0x87"), "{error}");
        let error = refused(options(&pki, broker.tls_port(), "").username("pump-7").password("guess")).await;
        assert!(error.to_string().contains("0x86"), "{error}");
        let error = refused(options(&pki, broker.tls_port(), "nameless")).await;
        assert!(error.to_string().contains("user_from"), "{error}");
    });
}

fn bound() {
    let pki = Pki::new();
    pki.issue("pump", Wanted::client("pump-7"));
    let broker = broker(&pki, "user_from = \"cn\"\nclient_id_is_user = true");
    block_on(async {
        let error = refused(options(&pki, broker.tls_port(), "pump").client_id("pump-8")).await;
        assert!(error.to_string().contains("0x85"), "{error}");
        talk(options(&pki, broker.tls_port(), "pump").client_id("pump-7")).await;
    });
    // Whoever says none gets it.
    block_on(async {
        let options = options(&pki, broker.tls_port(), "pump").version(Version::V5).client_id("");
        let client = soon(options.reconnect(Reconnect::never()).connect()).await.unwrap();
        soon(client.disconnect()).await;
    });
    logged(&broker, &["connected client=\"pump-7\"", "version=\"5.0\""]);
}

fn wrong_key() {
    let pki = Pki::new();
    pki.issue("pump", Wanted::client("pump-7"));
    pki.issue("other", Wanted::client("other"));
    let broker = broker(&pki, "");
    // A pair that does not fit is refused by every client; one that signs with another key all the same is made by hand.
    let config = mismatched(&pki);
    let url = format!("mqtts://localhost:{}", broker.tls_port());
    let options = Options::new(&url).unwrap().tls(Tls::new().with_config(config));
    let error = block_on(refused(options));
    assert!(error.to_string().to_lowercase().contains("decrypt"), "{error}");
    logged(&broker, &["TLS handshake failed", "the client has not the key of the certificate that it shows"]);
}

fn mismatched(pki: &Pki) -> Arc<rustls::ClientConfig> {
    use rustls::client::ResolvesClientCert;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::sign::CertifiedKey;
    #[derive(Debug)]
    struct Own(Arc<CertifiedKey>);
    impl ResolvesClientCert for Own {
        fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            Some(self.0.clone())
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let chain = vec![CertificateDer::from_pem_file(pki.path("pump.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(pki.path("other.key")).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.path("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let own = Arc::new(Own(Arc::new(CertifiedKey::new(chain, key))));
    Arc::new(builder.with_root_certificates(roots).with_client_cert_resolver(own))
}

/// What `openssl s_client` says.
fn s_client(pki: &Pki, port: u16, arguments: &[&str]) -> String {
    let ca = pki.path("ca.pem");
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-CAfile"]).arg(ca);
    // Until the broker closes: a client of TLS 1.3 hears after its own handshake that it is refused.
    command.args(["-ign_eof"]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Something that is no MQTT: a broker that has let it in closes.
    use std::io::Write;
    let _ = child.stdin.take().unwrap().write_all(b"\xf0\0no MQTT");
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn alerts() {
    let pki = Pki::new();
    let (other, same) = (Pki::named("another CA"), Pki::new());
    pki.issue("good", Wanted::client("good"));
    pki.issue("expired", Wanted::client("expired").valid(-DAY * 9, -DAY));
    pki.issue("early", Wanted::client("early").valid(DAY, DAY * 9));
    pki.self_signed("self", &Wanted::client("self"));
    for (from, name) in [(&other, "foreign"), (&same, "forged")] {
        from.issue(name, Wanted::client(name));
        for file in ["pem", "key"].map(|kind| format!("{name}.{kind}")) {
            std::fs::copy(from.path(&file), pki.path(&file)).unwrap();
        }
    }
    pki.issue("revoked", Wanted::client("revoked").serial(7));
    let mut usage = Wanted::client("usage");
    usage.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    pki.issue("usage", usage);
    pki.long_chain("long", &Wanted::client("long"), 9);
    pki.revoke(&[7], DAY * 30);
    let broker = broker(&pki, &format!("crl = \"{}\"", pki.path("crl.pem").display()));
    for version in ["-tls1_3", "-tls1_2"] {
        for (name, alert, line) in [
            ("expired", "certificate expired", "has expired"),
            ("early", "certificate expired", "is not valid yet"),
            ("self", "unknown ca", "comes from no CA"),
            ("foreign", "unknown ca", "comes from no CA"),
            ("forged", "decrypt error", "that has not signed it"),
            ("revoked", "certificate revoked", "is revoked"),
            ("usage", "unsupported certificate", "not made for clients"),
            ("long", "", "is refused"),
        ] {
            let (pem, key) = (format!("{name}.pem"), format!("{name}.key"));
            let (pem, key) = (pki.path(&pem).display().to_string(), pki.path(&key).display().to_string());
            let said = s_client(&pki, broker.tls_port(), &[version, "-cert", &pem, "-cert_chain", &pem, "-key", &key]);
            assert!(said.contains("alert") && said.contains(alert), "{version} {name}: {said}");
            logged(&broker, &["TLS handshake failed", line, if name == "long" { "long" } else { name }]);
        }
        let said = s_client(&pki, broker.tls_port(), &[version]);
        let alert = if version == "-tls1_3" { "certificate required" } else { "alert" };
        assert!(said.contains(alert), "{version} no certificate: {said}");
        logged(&broker, &["TLS handshake failed", "shows no certificate"]);
    }
    block_on(talk(options(&pki, broker.tls_port(), "good")));
}

fn as_openssl_sees() {
    let pki = Pki::new();
    pki.issue("north", Wanted::server(&["north.site", "*.north.site"]));
    let folder = pki.folder.path().display().to_string();
    let tls = format!("certificate = \"{folder}/server.pem\"\nkey = \"{folder}/server.key\"\nanonymous = true\n");
    let (one, other, suites) = (free_port(), free_port(), free_port());
    let more =
        format!("more_certificates = [{{ certificate = \"{folder}/north.pem\", key = \"{folder}/north.key\" }}]");
    let _broker = Broker::with_config(&format!(
        "[[listeners]]\nurl = \"mqtts://127.0.0.1:{one}\"\n{tls}{more}\n\
         [[listeners]]\nurl = \"mqtts://127.0.0.1:{other}\"\n{tls}min_tls = \"1.3\"\n\
         [[listeners]]\nurl = \"mqtts://127.0.0.1:{suites}\"\n{tls}\
         cipher_suites = [\"TLS13_CHACHA20_POLY1305_SHA256\", \"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\"]\n\
         [[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\n"
    ));
    for (port, arguments, says) in [
        (one, &["-servername", "localhost"][..], "CN = localhost"),
        (one, &["-servername", "north.site"], "CN = north.site"),
        (one, &["-servername", "a.north.site"], "CN = north.site"),
        (one, &["-servername", "elsewhere"], "CN = localhost"),
        (one, &["-servername", "under_score.site"], "CN = localhost"),
        (one, &["-servername", "192.0.2.1"], "CN = localhost"),
        (one, &["-noservername"], "CN = localhost"),
        (one, &["-alpn", "mqtt"], "ALPN protocol: mqtt"),
        (one, &["-alpn", "h2,mqtt"], "ALPN protocol: mqtt"),
        (one, &["-alpn", "x-other"], "No ALPN negotiated"),
        (one, &["-tls1_2"], "Protocol  : TLSv1.2"),
        (one, &["-tls1_1"], "alert"),
        (other, &["-tls1_3"], "Verification: OK"),
        (other, &["-tls1_2"], "protocol version"),
        (suites, &["-tls1_3"], "TLS_CHACHA20_POLY1305_SHA256"),
        (suites, &["-tls1_2"], "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ] {
        let said = s_client(&pki, port, arguments);
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
}

/// The common name of the certificate that the broker shows, and whether it is who it should be.
fn shown(pki: &Pki, port: u16) -> String {
    let said = s_client(pki, port, &["-noservername"]);
    said.lines().find(|line| line.starts_with("subject=")).unwrap_or_default().to_owned()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// As Kubernetes does it: the files are links into a folder that is a link itself, which is moved.
fn watched() {
    let pki = Pki::new();
    let folder = pki.folder.path();
    let put = |version: &str, name: &str| {
        pki.issue("made", Wanted::server(&[name, "localhost"]));
        let to = folder.join(version);
        std::fs::create_dir(&to).unwrap();
        std::fs::rename(folder.join("made.pem"), to.join("tls.crt")).unwrap();
        std::fs::rename(folder.join("made.key"), to.join("tls.key")).unwrap();
        std::os::unix::fs::symlink(version, folder.join("..tmp")).unwrap();
        std::fs::rename(folder.join("..tmp"), folder.join("..data")).unwrap();
    };
    put("..first", "first.site");
    for file in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(format!("..data/{file}"), folder.join(file)).unwrap();
    }
    let at = folder.display();
    let mut broker = Broker::with_config(&format!(
        "[[listeners]]\nurl = \"mqtts://127.0.0.1:TLS_PORT\"\ncertificate = \"{at}/tls.crt\"\nkey = \"{at}/tls.key\"\n\
         anonymous = true\n"
    ));
    let port = broker.tls_port();
    assert!(shown(&pki, port).contains("first.site"));
    put("..second", "second.site");
    until("the second certificate", || shown(&pki, port).contains("second.site"));
    logged(&broker, &["read anew, and are in force"]);
    // A key that does not fit: the old one stays, and it is said once.
    pki.issue("wrong", Wanted::server(&["wrong.site"]));
    write(&folder.join("..second").join("tls.key"), &std::fs::read_to_string(pki.path("wrong.key")).unwrap());
    logged(&broker, &["the old ones stay in force", "is not the key of"]);
    assert!(shown(&pki, port).contains("second.site"));
    put("..third", "third.site");
    until("the third certificate", || shown(&pki, port).contains("third.site"));
    assert_eq!(broker.log().matches("the old ones stay in force").count(), 1, "{}", broker.log());
    // SIGHUP reads everything, changed or not.
    let before = broker.log().matches("read anew, and are in force").count();
    crate::run(Command::new("kill").args(["-HUP", &broker.pid().unwrap().to_string()]));
    until("SIGHUP", || broker.log().matches("read anew, and are in force").count() > before);
    assert_eq!(broker.terminate(), Some(0));
}

fn revoked() {
    let pki = Pki::new();
    pki.issue("pump", Wanted::client("pump").serial(7));
    pki.issue("valve", Wanted::client("valve").serial(8));
    pki.revoke(&[], DAY * 30);
    let crl = pki.path("crl.pem").display().to_string();
    let wss = free_port();
    let broker = Broker::with_config(&format!(
        "[[listeners]]\nurl = \"wss://127.0.0.1:{wss}\"\n{0}crl = \"{crl}\"\n\
         [[listeners]]\nurl = \"mqtts://127.0.0.1:TLS_PORT\"\n{0}crl = \"{crl}\"\nuser_from = \"cn\"\n",
        keys(&pki)
    ));
    let port = broker.tls_port();
    let by_wss = |client: &str| {
        let tls = Tls::new().ca_file(pki.path("ca.pem")).unwrap();
        let tls = tls.identity(pki.path(&format!("{client}.pem")), pki.path(&format!("{client}.key"))).unwrap();
        Options::new(&format!("wss://localhost:{wss}/")).unwrap().tls(tls)
    };
    block_on(async {
        let once = |options: Options| options.version(Version::V5).reconnect(Reconnect::never()).connect();
        let pump = soon(once(options(&pki, port, "pump"))).await.unwrap();
        let pump_page = soon(once(by_wss("pump"))).await.unwrap();
        let valve = soon(once(options(&pki, port, "valve"))).await.unwrap();
        pki.revoke(&[7], DAY * 30);
        for client in [pump, pump_page] {
            let mut messages = soon(client.subscribe(forebay_client::Subscribe::to("x"))).await;
            if let Ok(messages) = &mut messages {
                assert!(soon(messages.recv()).await.is_none(), "it is still connected");
            }
        }
        for options in [options(&pki, port, "pump"), by_wss("pump")] {
            let error = refused(options).await;
            assert!(error.to_string().to_lowercase().contains("revoked"), "{error}");
        }
        soon(soon(valve.publish(forebay_client::Message::new("still", "here"))).await.unwrap()).await.unwrap();
        soon(valve.disconnect()).await;
    });
    logged(&broker, &["disconnected: its certificate is not let in any more", "CN=pump,O=Site", "serial=\"07\""]);
}

fn old_list() {
    let pki = Pki::new();
    pki.issue("pump", Wanted::client("pump").serial(7));
    pki.issue("valve", Wanted::client("valve").serial(8));
    pki.revoke(&[7], -DAY);
    for (setting, valve_may) in [("accept", true), ("refuse", false)] {
        let crl = format!("crl = \"{}\"\ncrl_expired = \"{setting}\"", pki.path("crl.pem").display());
        let broker = broker(&pki, &crl);
        logged(&broker, &["revocation list 1", "is old since"]);
        block_on(async {
            refused(options(&pki, broker.tls_port(), "pump")).await;
            if valve_may {
                talk(options(&pki, broker.tls_port(), "valve")).await;
            } else {
                refused(options(&pki, broker.tls_port(), "valve")).await;
                logged(&broker, &["TLS handshake failed", "the revocation list in `crl` is old"]);
            }
        });
    }
    pki.revoke(&[7], DAY * 5);
    let broker = broker(&pki, &format!("crl = \"{}\"", pki.path("crl.pem").display()));
    logged(&broker, &["revocation list 1", "is old from"]);
}

fn said_at_the_start() {
    let pki = Pki::new();
    pki.issue("other", Wanted::server(&["other"]));
    let folder = pki.folder.path().display().to_string();
    write(&pki.path("empty.pem"), "nothing\n");
    for (line, says) in [
        (format!("key = \"{folder}/other.key\""), "is not the key of"),
        (format!("key = \"{folder}/server.key\"\nclient_ca = \"{folder}/none.pem\""), "none.pem cannot be read"),
        (format!("key = \"{folder}/server.key\"\nclient_ca = \"{folder}/empty.pem\""), "holds no certificate"),
        (
            format!("key = \"{folder}/server.key\"\nclient_ca = \"{folder}/ca.pem\"\ncrl = \"{folder}/ca.pem\""),
            "holds no revocation list",
        ),
        (
            format!("key = \"{folder}/server.key\"\ncipher_suites = [\"TLS13_AES_128_GCM_SHA256\"]\nmin_tls = \"1.2\""),
            "",
        ),
        (
            format!(
                "key = \"{folder}/server.key\"\ncipher_suites = [\"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\"]\nmin_tls = \"1.3\""
            ),
            "cipher suites do not go with",
        ),
    ] {
        let mut broker = Broker::prepare(None);
        broker.configure(&format!(
            "[[listeners]]\nurl = \"mqtts://127.0.0.1:TLS_PORT\"\ncertificate = \"{folder}/server.pem\"\n{line}\n"
        ));
        if says.is_empty() {
            broker.run();
            continue;
        }
        broker.add_arguments(&["check", &broker.data().with_file_name("forebay.toml").display().to_string()]);
        broker.run_to_end();
        assert!(broker.log().contains(says), "{line}: {}", broker.log());
    }
}

fn ending() {
    let pki = Pki::new();
    pki.issue("server", Wanted::server(&["localhost"]).valid(-DAY * 300, DAY * 20));
    let http = free_port();
    let broker = broker(&pki, &format!("[admin]\nhttp = \"127.0.0.1:{http}\""));
    logged(&broker, &["WARN", "server.pem expires on"]);
    let metrics = Api::http(http).get("/metrics").body;
    let name = format!("forebay_listener_certificate_ends_seconds{{url=\"mqtts://127.0.0.1:{}\"}}", broker.tls_port());
    let line = metrics.lines().find(|line| line.starts_with(&name)).unwrap_or_else(|| panic!("{metrics}"));
    let ends: i64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    let wanted: i64 = time::OffsetDateTime::now_utc().unix_timestamp() + 20 * 86_400;
    assert!((wanted - ends).abs() < 600, "{line}");
}

fn explained() {
    let pki = Pki::new();
    let other = Pki::named("another CA");
    pki.issue("pump", Wanted::client("pump"));
    let broker = broker(&pki, "");
    block_on(async {
        let tls = Tls::new().ca_file(other.path("ca.pem")).unwrap();
        refused(Options::new(&format!("mqtts://localhost:{}", broker.tls_port())).unwrap().tls(tls)).await;
        logged(&broker, &["the client does not know the CA of this broker's certificate"]);
        let tls = Tls::new().ca_file(pki.path("ca.pem")).unwrap().server_name("elsewhere.site");
        refused(Options::new(&format!("mqtts://localhost:{}", broker.tls_port())).unwrap().tls(tls)).await;
        logged(&broker, &["is it made for the name that the client connects to?"]);
        refused(Options::new(&format!("mqtt://localhost:{}", broker.tls_port())).unwrap()).await;
        logged(&broker, &["what came is not TLS"]);
    });
}
