//! Servers with TLS, that want to know who somebody is and what they may do. The certificates are in their folders.

use super::{Program, make_certificates, write};
use crate::broker::free_port;
use crate::scratch::Scratch;

/// Whom they know.
pub const USER: &str = "gateway";
/// The user's password, and the token where that is one.
pub const PASSWORD: &str = "a-secret-word";

impl Program {
    /// Kafka, open to everybody at its port, who may do everything there. The two ports that it returns have TLS: one asks for the
    /// user and its password (PLAIN and SCRAM), the other for a certificate. Whoever is known may do what its ACLs say.
    pub fn kafka_secured() -> (Self, [u16; 2]) {
        let (scratch, [open, password, certificate]) = (Scratch::new("servers"), [(); 3].map(|()| free_port()));
        make_certificates(scratch.path());
        let folder = scratch.path().display().to_string();
        let part = |name: &str| std::fs::read_to_string(scratch.path().join(name)).unwrap();
        let keys = write(&scratch, "keys.pem", &[part("server.key"), part("server.pem")].concat());
        let listeners = format!(",SASL_SSL://127.0.0.1:{password},SSL://127.0.0.1:{certificate}");
        let login = "org.apache.kafka.common.security";
        let sasl = "listener.name.sasl_ssl";
        let text = format!(
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL\n\
             ssl.keystore.type=PEM\nssl.keystore.location={keys}\nssl.truststore.type=PEM\n\
             ssl.truststore.location={folder}/ca.pem\nlistener.name.ssl.ssl.client.auth=required\n\
             sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
             {sasl}.plain.sasl.jaas.config={login}.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";\n\
             {sasl}.scram-sha-256.sasl.jaas.config={login}.scram.ScramLoginModule required;\n\
             {sasl}.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             super.users=User:ANONYMOUS\n"
        );
        let scram = ["256", "512"].map(|bits| format!("SCRAM-SHA-{bits}=[name={USER},password={PASSWORD}]"));
        let formatting = ["--add-scram", &scram[0], "--add-scram", &scram[1]];
        (Self::kafka_with(scratch, open, &listeners, &text, &formatting), [password, certificate])
    }

    /// RabbitMQ, open to its guest at its port; at the port that it returns it has TLS, and takes a certificate if one is shown. The
    /// user may write to exchanges whose name fits `writes`.
    pub fn rabbitmq_secured(writes: &str) -> (Self, u16) {
        let (scratch, [open, tls]) = (Scratch::new("servers"), [(); 2].map(|()| free_port()));
        make_certificates(scratch.path());
        let folder = scratch.path().display();
        let text = format!(
            "listeners.tcp.1 = 127.0.0.1:{open}\nlisteners.ssl.1 = 127.0.0.1:{tls}\n\
             ssl_options.cacertfile = {folder}/ca.pem\nssl_options.certfile = {folder}/server.pem\n\
             ssl_options.keyfile = {folder}/server.key\nssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = false\n"
        );
        let program = Self::rabbitmq_with(scratch, open, &text, "[].\n");
        program.rabbitmqctl(&["add_user", USER, PASSWORD]);
        program.rabbitmqctl(&["set_permissions", USER, "", writes, ""]);
        (program, tls)
    }

    /// nats-server with JetStream, TLS, and these lines that say who may do what. With `asks` it wants a certificate.
    pub fn jetstream_secured(asks: bool, lines: &str) -> Self {
        let (scratch, port) = (Scratch::new("servers"), free_port());
        make_certificates(scratch.path());
        let folder = scratch.path().display();
        let text = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{folder}\" }}\n\
             tls {{ cert_file: \"{folder}/server.pem\", key_file: \"{folder}/server.key\", ca_file: \"{folder}/ca.pem\", \
             verify: {asks} }}\n{lines}\n"
        );
        let line = vec!["nats-server".to_owned(), "-c".to_owned(), write(&scratch, "nats.conf", &text)];
        Self::start(scratch, port, line, Vec::new())
    }
}
