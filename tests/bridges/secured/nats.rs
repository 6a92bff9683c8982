//! NATS: users, tokens and credentials.

use async_nats::ConnectOptions;
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, Context};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use forebay_tests::absence::of_program;
use forebay_tests::broker::free_port;
use forebay_tests::server::Program;
use forebay_tests::server::secured::{PASSWORD, USER};
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::{Files, bridge, running, says, told_no_secret};
use crate::nats::{messages, next};
use crate::{Case, block_on, client, publish, soon};

pub(super) fn trials() -> Vec<Case> {
    let absent = of_program("nats-server");
    vec![
        ("nats_with_tls_and_users", absent.clone(), || block_on(users())),
        ("nats_with_a_certificate_and_a_token", absent.clone(), || block_on(token())),
        ("nats_with_credentials", absent, || block_on(credentials())),
    ]
}

const RULES: &str = "[[bridges.out]]\nfilter = 'n/#'\ntopic = 'up.{topic}'\n\
                     [[bridges.out]]\nfilter = 'c/#'\ntopic = 'closed.{topic}'";

/// JetStream with a stream that has everything.
async fn context(server: &Program, how: ConnectOptions) -> Context {
    let how = how.add_root_certificates(server.folder().join("ca.pem"));
    let context = jetstream::new(soon(how.connect(format!("tls://127.0.0.1:{}", server.port))).await.unwrap());
    let subjects = ["up.>", "closed.>"].map(str::to_owned).to_vec();
    let config = Config { name: "ALL".to_owned(), subjects, ..Config::default() };
    soon(context.get_or_create_stream(config)).await.unwrap();
    context
}

/// The user may publish to these subjects; another one may do everything.
fn lines(publish: &str) -> String {
    let may = format!("publish: [{publish}], subscribe: [\"_INBOX.>\"]");
    format!(
        "authorization {{ users = [ {{ user: {USER}, password: \"{PASSWORD}\", permissions: {{ {may} }} }}, \
         {{ user: deaf, password: \"{PASSWORD}\", permissions: {{ publish: \">\", subscribe: \"x\" }} }}, \
         {{ user: all, password: \"{PASSWORD}\" }} ] }}"
    )
}

/// The first address is nobody's.
fn urls(server: &Program) -> [String; 2] {
    [free_port(), server.port].map(|port| format!("tls://127.0.0.1:{port}"))
}

async fn users() {
    let some = lines("\"up.>\", \"$JS.API.>\"");
    let mut server = Program::jetstream_secured(false, &some);
    let files = Files::of(server.folder());
    let all = || ConnectOptions::new().user_and_password("all".to_owned(), PASSWORD.to_owned());
    let mut there = messages(&context(&server, all()).await).await;
    let (trusted, right) = (files.trusted(), files.user("right"));
    let deaf = right.replace(&format!("'{USER}'"), "'deaf'");
    let other = "[[bridges.out]]\nfilter = 'x/#'\ntopic = 'up.{topic}'";
    let broker = running(&[
        bridge("known", &urls(&server), &[trusted.clone(), right.clone()].concat(), RULES),
        bridge("untrusted", &urls(&server), &[files.distrusted(), right].concat(), other),
        bridge("wrong", &urls(&server), &[trusted.clone(), files.user("wrong")].concat(), other),
        bridge("deaf", &urls(&server), &[trusted.clone(), deaf].concat(), other),
        bridge("nobody", &urls(&server), &trusted, other),
    ]);
    let here = client(broker.port(), "here").await;
    publish(&here, "n/1", "first").await;
    assert_eq!(&soon(next(&mut there)).await.unwrap().payload[..], b"first");
    for (name, state) in [
        ("known", "connected"),
        ("untrusted", "backing off: the server's certificate is not trusted: "),
        ("wrong", "backing off: the login is refused: authorization violation"),
        ("nobody", "backing off: the login is refused: authorization violation"),
        ("deaf", "backing off: not allowed: Permissions Violation for Subscription to \"_INBOX.>\""),
    ] {
        says(&broker, name, state);
    }
    // What is not allowed waits, and does not hold up what is.
    publish(&here, "c/1", "one").await;
    says(
        &broker,
        "known",
        "blocked: not taken for now: not allowed: Permissions Violation for Publish to \"closed.c.1\"",
    );
    publish(&here, "c/1", "two").await;
    publish(&here, "n/2", "goes on").await;
    assert_eq!(&soon(next(&mut there)).await.unwrap().payload[..], b"goes on");
    let file = server.folder().join("nats.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    server.terminate();
    std::fs::write(&file, text.replace(&some, &lines("\">\""))).unwrap();
    server.run();
    let mut there = messages(&context(&server, all()).await).await;
    for payload in ["first", "goes on", "one", "two"] {
        assert_eq!(&soon(next(&mut there)).await.unwrap().payload[..], payload.as_bytes());
    }
    says(&broker, "known", "connected");
    told_no_secret(&broker);
}

async fn token() {
    let server = Program::jetstream_secured(true, &format!("authorization {{ token: \"{PASSWORD}\" }}"));
    let files = Files::of(server.folder());
    let part = |name: &str| server.folder().join(name);
    let how = ConnectOptions::with_token(PASSWORD.to_owned());
    let how = how.add_client_certificate(part("client.pem"), part("client.key"));
    let mut there = messages(&context(&server, how).await).await;
    let (trusted, shown) = (files.trusted(), files.certificate());
    let broker = running(&[
        bridge("known", &urls(&server), &[trusted.clone(), shown.clone(), files.token("right")].concat(), RULES),
        bridge("wrong", &urls(&server), &[trusted.clone(), shown, files.token("wrong")].concat(), RULES),
        bridge("bare", &urls(&server), &[trusted, files.token("right")].concat(), RULES),
    ]);
    publish(&client(broker.port(), "here").await, "n/1", "x").await;
    assert_eq!(&soon(next(&mut there)).await.unwrap().payload[..], b"x");
    says(&broker, "wrong", "backing off: the login is refused: authorization violation");
    says(&broker, "bare", "backing off: the server does not take this side's certificate: ");
    told_no_secret(&broker);
}

/// What `by` says of `of`, signed.
fn jwt(by: &KeyPair, of: &KeyPair, claims: Value) -> String {
    let (issuer, subject) = (by.public_key(), of.public_key());
    let all = json!({ "jti": "1", "iat": 1_700_000_000, "iss": issuer, "name": "n", "sub": subject, "nats": claims });
    let head = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let [head, all] = [head, all].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
    let text = format!("{head}.{all}");
    let signature = BASE64_URL_SAFE_NO_PAD.encode(by.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

/// The file of a user of this account.
fn credentials_of(account: &KeyPair) -> String {
    let user = KeyPair::new_user();
    let claims = json!({ "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1 });
    let (jwt, seed) = (jwt(account, &user, claims), user.seed().unwrap());
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

async fn credentials() {
    let (operator, account, system) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = json!({ "type": "account", "version": 2, "limits": limits });
    let of_system = json!({ "type": "account", "version": 2, "limits": { "subs": -1, "conn": -1 } });
    let lines = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}\n",
        jwt(&operator, &operator, json!({ "type": "operator", "version": 2 })),
        system.public_key(),
        account.public_key(),
        jwt(&operator, &account, of_account),
        system.public_key(),
        jwt(&operator, &system, of_system),
    );
    let server = Program::jetstream_secured(false, &lines);
    let files = Files::of(server.folder());
    let known = credentials_of(&account);
    let mut there = messages(&context(&server, ConnectOptions::with_credentials(&known).unwrap()).await).await;
    let file = |name: &str, text: &str| {
        let file = files.others.path().join(name);
        std::fs::write(&file, text).unwrap();
        format!("credentials_file = '{}'\n{}", file.display(), files.trusted())
    };
    let broker = running(&[
        bridge("known", &urls(&server), &file("known", &known), RULES),
        bridge("strange", &urls(&server), &file("strange", &credentials_of(&KeyPair::new_account())), RULES),
        bridge("empty", &urls(&server), &file("empty", "nothing\n"), RULES),
    ]);
    publish(&client(broker.port(), "here").await, "n/1", "x").await;
    assert_eq!(&soon(next(&mut there)).await.unwrap().payload[..], b"x");
    says(&broker, "known", "connected");
    says(&broker, "strange", "backing off: the login is refused: authorization violation");
    says(&broker, "empty", "empty: cannot parse user JWT from the credentials file");
    let seed = known.lines().find(|line| line.starts_with("SU")).unwrap();
    assert!(!broker.log().contains(seed));
}
