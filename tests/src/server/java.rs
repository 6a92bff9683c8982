//! Servers that run in Java, from libraries that tests/run gets from Maven, started by the launchers of tests/data.

use std::path::{Path, PathBuf};

use super::{Program, make_certificates, write};
use crate::broker::free_port;
use crate::scratch::Scratch;

impl Program {
    /// Why this server of tests/data cannot be started here, if it cannot.
    pub fn java_is_absent(server: &str) -> Option<String> {
        let absent = || (!libraries(server).is_dir()).then(|| format!("no {server} in target/clients"));
        crate::absence::of_program("javac").or_else(absent)
    }

    /// ActiveMQ Artemis, with AMQP 1.0. It refuses what has the property `poison`, and what no longer fits into the address `small`.
    pub fn artemis() -> Self {
        Self::artemis_with(Scratch::new("servers"), Vec::new())
    }

    /// The same, and its port with TLS, where it wants a certificate; the certificates are in its folder.
    pub fn artemis_with_tls() -> (Self, u16) {
        let (scratch, port) = (Scratch::new("servers"), free_port());
        make_certificates(scratch.path());
        let file = |name: &str| scratch.path().join(name);
        let both = [file("server.key"), file("server.pem")].map(|part| std::fs::read_to_string(part).unwrap()).concat();
        let (keys, trusted) = (write(&scratch, "keys.pem", &both), file("ca.pem").display().to_string());
        (Self::artemis_with(scratch, vec![port.to_string(), keys, trusted]), port)
    }

    fn artemis_with(scratch: Scratch, tls: Vec<String>) -> Self {
        let port = free_port();
        let arguments = [vec![scratch.path().display().to_string(), port.to_string()], tls].concat();
        let options = ["-Xmx192m", "--add-opens", "java.base/jdk.internal.misc=ALL-UNNAMED"];
        let line = java("artemis", "Artemis.java", &options, &arguments);
        Self::start(scratch, port, line, Vec::new())
    }

    /// ActiveMQ Classic, with AMQP 1.0.
    pub fn activemq() -> Self {
        let (scratch, port) = (Scratch::new("servers"), free_port());
        let arguments = [scratch.path().display().to_string(), port.to_string()];
        let line = java("activemq", "Classic.java", &["-Xmx192m"], &arguments);
        Self::start(scratch, port, line, Vec::new())
    }

    /// RocketMQ with these topics (NAME:TYPE,…), whose messages have 100,000 bytes at most; the port is that of its proxy, with TLS and without. The certificates are in its
    /// folder, and so is the file `names` with the address of its name server.
    pub fn rocketmq(topics: &str) -> Self {
        let (scratch, port) = (Scratch::new("servers"), free_port());
        make_certificates(scratch.path());
        let folder = scratch.path().display().to_string();
        // The broker takes the port two below its own as well: ports are given in order, and that one is nobody's.
        let [names, copies, remoting, _two_below, _, broker] = [(); 6].map(|()| free_port());
        let address = format!("127.0.0.1:{names}");
        write(&scratch, "names", &address);
        write(&scratch, "ns.conf", &format!("listenPort={names}\nbindAddress=127.0.0.1\n"));
        let text = format!(
            "brokerClusterName=DefaultCluster\nbrokerName=broker-a\nbrokerId=0\nbrokerIP1=127.0.0.1\nbrokerIP2=127.0.0.1\n\
             bindAddress=127.0.0.1\nlistenPort={broker}\nhaListenPort={copies}\nnamesrvAddr={address}\n\
             storePathRootDir={folder}/store\nstorePathCommitLog={folder}/store/commitlog\n\
             mappedFileSizeCommitLog=16777216\nmappedFileSizeConsumeQueue=600000\nmappedFileSizeTimerLog=4194304\n\
             maxIndexNum=100000\nmaxHashSlotNum=50000\nautoCreateTopicEnable=false\ndiskMaxUsedSpaceRatio=95\n\
             flushDiskType=SYNC_FLUSH\n"
        );
        write(&scratch, "broker.conf", &text);
        let text = format!(
            "{{\"rocketMQClusterName\":\"DefaultCluster\",\"namesrvAddr\":\"{address}\",\"grpcServerPort\":{port},\
             \"remotingListenPort\":{remoting},\"localServeAddr\":\"127.0.0.1\",\"tlsTestModeEnable\":false,\"maxMessageSize\":100000,\
             \"tlsKeyPath\":\"{folder}/server.key\",\"tlsCertPath\":\"{folder}/server.pem\",\
             \"topicRouteServiceCacheRefreshSeconds\":1,\"topicRouteServiceCacheExpiredSeconds\":2}}"
        );
        write(&scratch, "proxy.json", &text);
        let ready = scratch.path().join("ready");
        let arguments = [folder.clone(), address, topics.to_owned(), ready.display().to_string()];
        let home = format!("-Duser.home={folder}");
        let line = java("rocketmq", "RocketMq.java", &["-Xmx384m", &home], &arguments);
        let variables = vec![("ROCKETMQ_HOME".to_owned(), folder.clone()), ("RMQ_PROXY_HOME".to_owned(), folder)];
        let mut program = Self { port, line, variables, epmd: None, child: None, ready: Some(ready), scratch };
        program.run();
        program
    }

    /// The topics that a RocketMQ has from its next start on, those that it has by now among them.
    pub fn rocketmq_topics(&mut self, topics: &str) {
        if let Some(argument) = self.line.iter_mut().rev().nth(1) {
            topics.clone_into(argument);
        }
    }

    /// What prints what these topics of RocketMQ hold.
    pub fn rocketmq_reader(&self, topics: &[&str]) -> std::process::Command {
        let names = std::fs::read_to_string(self.folder().join("names")).unwrap();
        let arguments: Vec<String> =
            [names].into_iter().chain(topics.iter().map(|topic| (*topic).to_owned())).collect();
        let home = format!("-Duser.home={}", self.folder().display());
        let line = java("rocketmq", "Reader.java", &["-Xmx128m", &home], &arguments);
        let mut command = std::process::Command::new(&line[0]);
        command.args(&line[1..]);
        command
    }
}

/// Where tests/run puts the libraries of a server.
pub(super) fn libraries(server: &str) -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients");
    std::env::var_os("FOREBAY_TESTS_CACHE").map_or_else(beside, PathBuf::from).join(server)
}

/// The command line that starts a program of tests/data from its source.
fn java(server: &str, file: &str, options: &[&str], arguments: &[String]) -> Vec<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(server).join(file);
    let (path, source) = (format!("{}/*", libraries(server).display()), source.display().to_string());
    let line = ["java", "-XX:+UseSerialGC"].into_iter().chain(options.iter().copied());
    let line = line.chain(["-cp", &path, &source]).map(str::to_owned);
    line.chain(arguments.iter().cloned()).collect()
}
