//! `forebay pub`, `forebay sub` and `forebay demo`, the real program, against this repository's broker and mosquitto.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod ending;
mod lines;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use forebay_tests::absence;
use forebay_tests::broker::{Broker, free_port, program};
use forebay_tests::scratch::Scratch;
use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let no_mosquitto = absence::of_program("mosquitto_pub");
    let mut trials: Vec<Trial> = Vec::new();
    let mut add = |name: &str, absent: Option<&str>, run: fn()| {
        trials.push(absence::panicking("pub_sub", name, absent, run));
    };
    add("every_version_and_qos", None, every_version_and_qos);
    add("lines_files_and_nothing", None, lines_files_and_nothing);
    add("what_sub_prints", None, what_sub_prints);
    add("tls_and_who_is_trusted", None, tls_and_who_is_trusted);
    add("retained_messages", None, retained_messages);
    add("a_persistent_session_gets_what_came_meanwhile", None, a_persistent_session_gets_what_came_meanwhile);
    add("a_will_is_published_when_sub_is_killed", None, a_will_is_published_when_sub_is_killed);
    add("a_rate_is_kept", None, a_rate_is_kept);
    add("delay_number_and_key", None, lines::delay_number_and_key);
    add("exit_codes", None, exit_codes);
    add("wrong_arguments_never_open_a_connection", None, wrong_arguments_never_open_a_connection);
    add("sub_comes_back_after_the_broker_does", None, sub_comes_back_after_the_broker_does);
    add("sub_ends_when_what_it_lost_is_refused", None, sub_ends_when_what_it_lost_is_refused);
    add("completions_and_manual_pages", None, completions_and_manual_pages);
    add("the_demo_ends_by_itself_with_nothing_lost", None, the_demo_ends_by_itself_with_nothing_lost);
    add("signals_and_time_end_with_disconnect", None, ending::signals_and_time_end_with_disconnect);
    add("sub_leaves_no_session_behind", None, ending::sub_leaves_no_session_behind);
    add("bench_leaves_no_session_behind", None, ending::bench_leaves_no_session_behind);
    add("what_sub_cannot_write_comes_again", None, ending::what_sub_cannot_write_comes_again);
    add("sub_ends_while_nobody_reads_what_it_writes", None, ending::sub_ends_while_nobody_reads_what_it_writes);
    add("exit_codes_without_a_reader_of_the_errors", None, ending::exit_codes_without_a_reader_of_the_errors);
    add("the_demo_takes_its_folder_away", None, ending::the_demo_takes_its_folder_away);
    let no_script = absence::of_program("script");
    add("the_demo_fits_its_terminal", no_script.as_deref(), ending::the_demo_fits_its_terminal);
    add("values_begin_with_a_hyphen", None, lines::values_begin_with_a_hyphen);
    add("a_url_may_end_with_the_topic", None, lines::a_url_may_end_with_the_topic);
    add("options_without_effect_are_refused", None, lines::options_without_effect_are_refused);
    add("help_fits_80_columns", None, lines::help_fits_80_columns);
    add("each_step_is_a_line_with_debug", None, lines::each_step_is_a_line_with_debug);
    add("with_mosquittos_tools", no_mosquitto.as_deref(), with_mosquittos_tools);
    libtest_mimic::run(&arguments, trials).exit();
}

fn forebay(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A `forebay sub` whose subscription is there.
struct Subscriber {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Subscriber {
    fn start(port: u16, arguments: &[&str]) -> Self {
        let port = port.to_string();
        let mut all = vec!["sub", "-p", &port, "-W", "60", "-d"];
        all.extend(arguments);
        let mut child = forebay(&all).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut subscriber = Self { child, stderr };
        subscriber.wait_for("subscribed to");
        subscriber
    }

    /// Waits for a line that begins so.
    fn wait_for(&mut self, beginning: &str) {
        let mut line = String::new();
        while !line.starts_with(beginning) {
            line.clear();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "it ended without a line \"{beginning}\"");
        }
    }

    /// What it printed until it ended by itself.
    fn finish(self) -> (i32, Vec<u8>) {
        // A full pipe would stop it.
        let mut stderr = self.stderr;
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        let output = self.child.wait_with_output().unwrap();
        (output.status.code().unwrap_or(-1), output.stdout)
    }

    fn lines(self) -> Vec<String> {
        let (code, out) = self.finish();
        assert_eq!(code, 0, "{}", String::from_utf8_lossy(&out));
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }
}

fn output(mut command: Command) -> Output {
    command.output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn code(arguments: &[&str]) -> (i32, String) {
    let output = output(forebay(arguments));
    (output.status.code().unwrap_or(-1), words(&output))
}

/// Publishes, and expects that to succeed.
fn publish(port: u16, arguments: &[&str]) {
    let port = port.to_string();
    let mut all = vec!["pub", "-p", &port];
    all.extend(arguments);
    let output = output(forebay(&all));
    assert!(output.status.success(), "{all:?}: {}", words(&output));
}

fn publish_stdin(port: u16, arguments: &[&str], input: &[u8]) {
    let port = port.to_string();
    let mut all = vec!["pub", "-p", &port];
    all.extend(arguments);
    let mut child = forebay(&all).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{all:?}: {}", words(&output));
}

fn every_version_and_qos() {
    let broker = Broker::start();
    for version in ["3.1", "3.1.1", "5"] {
        for qos in ["0", "1", "2"] {
            let topic = format!("v/{version}/{qos}");
            let subscriber =
                Subscriber::start(broker.port(), &["-V", version, "-t", &topic, "-q", qos, "-C", "2", "-F", "%q %p"]);
            publish(broker.port(), &["-V", version, "-t", &topic, "-q", qos, "-m", "one"]);
            publish(broker.port(), &["-V", version, "-t", &topic, "-q", qos, "-m", "two"]);
            assert_eq!(subscriber.lines(), [format!("{qos} one"), format!("{qos} two")]);
        }
    }
}

fn lines_files_and_nothing() {
    let broker = Broker::start();
    let scratch = Scratch::new("pub-sub");
    let subscriber = Subscriber::start(broker.port(), &["-t", "#", "-q", "1", "-C", "1005", "-F", "%l %x"]);
    let lines: String = (0..1_000).map(|n| format!("line {n}\n")).collect();
    publish_stdin(broker.port(), &["-t", "l", "-q", "1", "-l"], lines.as_bytes());
    let file = scratch.path().join("payload");
    std::fs::write(&file, [0, 255, b'\n', 13]).unwrap();
    publish(broker.port(), &["-t", "f", "-q", "1", "-f", file.to_str().unwrap()]);
    publish_stdin(broker.port(), &["-t", "s", "-q", "1", "-s"], b"a\nb\n");
    publish(broker.port(), &["-t", "n", "-q", "1", "-n"]);
    publish(broker.port(), &["-t", "r", "-q", "1", "-m", "", "--repeat", "2"]);
    let printed = subscriber.lines();
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    for (n, line) in printed.iter().take(1_000).enumerate() {
        let text = format!("line {n}");
        assert_eq!(*line, format!("{} {}", text.len(), hex(&text)));
    }
    assert_eq!(printed[1_000..], ["4 00ff0a0d", "4 610a620a", "0 ", "0 ", "0 "]);
}

fn what_sub_prints() {
    let broker = Broker::start();
    let properties =
        ["--user-property", "k=v", "--content-type", "text/plain", "-e", "100", "--response-topic", "back"];
    let send = |topic: &str| {
        let mut all = vec!["-t", topic, "-m", "héllo", "-q", "1", "--correlation-data", "c7"];
        all.extend(properties);
        publish(broker.port(), &all);
    };
    for (arguments, wanted) in [
        (&["-v"][..], "p/x héllo"),
        (&["--hex"], "68c3a96c6c6f"),
        (&["-F", "%t|%p|%q|%r|%l|%P|%C|%R|%D|%E|%%\\t"], "p/x|héllo|1|0|6|k:v|text/plain|back|c7|100|%\t"),
    ] {
        let mut all = vec!["-t", "p/#", "-q", "1", "-C", "1"];
        all.extend(arguments);
        let subscriber = Subscriber::start(broker.port(), &all);
        send("p/x");
        assert_eq!(subscriber.lines(), [wanted], "{arguments:?}");
    }
    let subscriber = Subscriber::start(broker.port(), &["-t", "p/#", "-q", "1", "-C", "2", "--json"]);
    send("p/x");
    publish_stdin(broker.port(), &["-t", "p/bin", "-s"], &[0xff, 0xfe]);
    let lines = subscriber.lines();
    assert!(lines[0].contains(r#""payload":"héllo""#) && lines[0].contains(r#""topic":"p/x""#), "{}", lines[0]);
    assert!(
        lines[0].contains(r#""user_properties":[["k","v"]]"#) && lines[0].contains(r#""content_type":"text/plain""#)
    );
    assert!(lines[0].contains(r#""message_expiry_interval":100"#) && lines[0].contains(r#""qos":1"#));
    assert!(lines[1].contains(r#""payload_base64":"//4=""#), "{}", lines[1]);
    let subscriber = Subscriber::start(broker.port(), &["-t", "p/#", "-T", "p/no/#", "-C", "1", "-N"]);
    publish(broker.port(), &["-t", "p/no/1", "-m", "left out"]);
    publish(broker.port(), &["-t", "p/yes", "-m", "printed"]);
    assert_eq!(subscriber.finish(), (0, b"printed".to_vec()));
}

fn tls_and_who_is_trusted() {
    let broker = Broker::start();
    let (port, ca) = (broker.tls_port().to_string(), broker.ca().display().to_string());
    let line = |more: &[&str]| {
        let mut all = vec!["pub", "-h", "localhost", "-p", &port, "-t", "t", "-m", "x", "-q", "1"];
        all.extend(more);
        code(&all)
    };
    assert_eq!(line(&["--cafile", &ca]).0, 0);
    assert_eq!(line(&["--insecure"]).0, 0);
    let (exit, said) = line(&["--tls"]);
    assert!(exit == 7 && said.contains("CA"), "{exit}: {said}");
    let (exit, said) = line(&["--cafile", &ca, "--tls-name", "elsewhere.example"]);
    assert!(exit == 7 && said.contains("another name"), "{exit}: {said}");
    let (exit, said) = line(&["--cafile", "/nonexistent.pem"]);
    assert!(exit == 2 && said.contains("/nonexistent.pem"), "{exit}: {said}");
    let plain = broker.port().to_string();
    let (exit, said) = code(&["pub", "-h", "localhost", "-p", &plain, "--cafile", &ca, "-t", "t", "-m", "x"]);
    assert!(exit == 7, "TLS to a port without it: {exit}: {said}");
}

fn retained_messages() {
    let broker = Broker::start();
    publish(broker.port(), &["-t", "r/1", "-m", "kept", "-r", "-q", "1"]);
    let get = |arguments: &[&str]| {
        let port = broker.port().to_string();
        let mut all = vec!["sub", "-p", &port, "-t", "r/#", "-W", "2", "-F", "%r %p"];
        all.extend(arguments);
        let output = output(forebay(&all));
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(get(&["-C", "1"]), (0, "1 kept\n".to_owned()));
    assert_eq!(get(&["-R"]), (0, String::new()));
    assert_eq!(get(&["--retain-handling", "never", "-C", "1"]), (8, String::new()));
    assert_eq!(get(&["--remove-retained", "-C", "1", "-q", "1"]), (0, "1 kept\n".to_owned()));
    assert_eq!(get(&[]), (0, String::new()));
}

fn a_persistent_session_gets_what_came_meanwhile() {
    let broker = Broker::start();
    let port = broker.port().to_string();
    for version in ["3.1.1", "5"] {
        let id = format!("keeper-{version}");
        let session = ["sub", "-p", &port, "-V", version, "-i", &id, "-c", "-t", "k", "-q", "1"];
        let with = |more: &[&str]| output(forebay(&[&session[..], more].concat()));
        assert_eq!(with(&["-E"]).status.code(), Some(0));
        publish(broker.port(), &["-t", "k", "-q", "1", "-m", "meanwhile", "--repeat", "3"]);
        let later = with(&["-C", "3", "-W", "20"]);
        assert_eq!((later.status.code(), later.stdout), (Some(0), b"meanwhile\n".repeat(3)));
    }
}

fn a_will_is_published_when_sub_is_killed() {
    let broker = Broker::start();
    let watcher = Subscriber::start(broker.port(), &["-t", "will/#", "-q", "1", "-C", "1", "-v"]);
    let will = ["--will-topic", "will/x", "--will-payload", "gone", "--will-qos", "1"];
    let mut dying = Subscriber::start(broker.port(), &[&["-t", "nothing"][..], &will].concat());
    dying.child.kill().unwrap();
    dying.child.wait().unwrap();
    assert_eq!(watcher.lines(), ["will/x gone"]);
}

fn a_rate_is_kept() {
    let broker = Broker::start();
    let begun = Instant::now();
    publish(broker.port(), &["-t", "rate", "-m", "x", "-q", "1", "--repeat", "21", "--rate", "20"]);
    assert!(begun.elapsed() >= Duration::from_millis(990), "{:?}", begun.elapsed());
    // Time without a message is not made up for by a burst.
    let port = broker.port().to_string();
    let mut child = forebay(&["pub", "-p", &port, "-t", "rate", "-q", "1", "-l", "--rate", "20"]);
    let mut child = child.stdin(Stdio::piped()).spawn().unwrap();
    let mut lines = child.stdin.take().unwrap();
    lines.write_all(b"first\n").unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    let begun = Instant::now();
    lines.write_all(&b"later\n".repeat(21)).unwrap();
    drop(lines);
    assert!(child.wait_with_output().unwrap().status.success());
    assert!(begun.elapsed() >= Duration::from_millis(950), "{:?}", begun.elapsed());
}

fn sub_ends_when_what_it_lost_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    // It loses every session, and grants only the first.
    std::thread::spawn(move || {
        for granted in [0, 0x87] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 512];
            let _connect = stream.read(&mut buffer).unwrap();
            stream.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
            let _subscribe = stream.read(&mut buffer).unwrap();
            // Its packet identifier follows the fixed header; then a message, which is read before the end.
            let [high, low] = [buffer[2], buffer[3]];
            stream.write_all(&[0x90, 4, high, low, 0, granted, 0x30, 7, 0, 1, b't', 0, b'h', b'i', b'\n']).unwrap();
            if granted > 0 {
                let _more = stream.read(&mut buffer);
            }
        }
    });
    let output = output(forebay(&["sub", "-p", &port, "-V", "5", "-t", "t", "-W", "60"]));
    let said = words(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("no longer granted by the server: t: Not authorized (0x87)"), "{said}");
    assert_eq!(output.stdout, b"hi\n\n");
}

fn exit_codes() {
    let closed = free_port().to_string();
    let (exit, said) = code(&["pub", "-p", &closed, "-t", "t", "-m", "x"]);
    assert!(exit == 4 && said.contains("refused"), "{exit}: {said}");
    // What answers is a web server.
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = web.local_addr().unwrap().port().to_string();
    std::thread::spawn(move || {
        for stream in web.incoming() {
            let _ = stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let (exit, said) = code(&["sub", "-p", &port, "-t", "t"]);
    assert!(exit == 6 && said.contains("MQTT"), "{exit}: {said}");
    // And one that says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let (exit, said) = code(&["sub", "-p", &port, "-t", "t", "--connect-timeout", "1"]);
    assert!(exit == 4 && said.contains("did not answer"), "{exit}: {said}");
    let broker = Broker::start();
    let port = broker.port().to_string();
    let (exit, _) = code(&["sub", "-p", &port, "-t", "t", "-C", "1", "-W", "1"]);
    assert_eq!(exit, 8);
    // MQTT 3.1.1 needs an identifier for a session that is kept: the broker refuses.
    let many = "x".repeat(70_000);
    let (exit, said) = code(&["pub", "-p", &port, "-t", &many, "-m", "x"]);
    assert!(exit == 2 && said.contains("65,535"), "{exit}: {said}");
}

fn wrong_arguments_never_open_a_connection() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    nobody.set_nonblocking(true).unwrap();
    let port = nobody.local_addr().unwrap().port().to_string();
    for (arguments, said) in [
        (&["pub", "-t", "a/#", "-m", "x"][..], "wildcard"),
        (&["pub", "-t", "t"], "--message"),
        (&["pub", "-t", "t", "-m", "x", "-n"], "cannot be used"),
        (&["pub", "-t", "t", "-m", "x", "-q", "3"], "0, 1 or 2"),
        (&["pub", "-t", "t", "-m", "x", "--qoss", "1"], "--qos"),
        (&["pub", "-t", "t", "-m", "x", "-V", "4.2"], "3.1.1"),
        (&["pub", "-t", "t", "-m", "x", "-V", "3.1.1", "--user-property", "a=b"], "MQTT 5"),
        (&["pub", "-t", "t", "-m", "x", "-x", "5"], "-i"),
        (&["pub", "-m", "x"], "--topic"),
        (&["pub", "-t", "t", "-m", "x", "--cert", "c.pem"], "--key"),
        (&["pub", "-t", "t", "-m", "x", "-V", "3.1.1", "-P", "secret"], "user name"),
        (&["sub", "-t", "a/#/b"], "filter"),
        (&["sub", "-t", "t", "-T", "a+"], "filter"),
        (&["sub", "-t", "t", "-F", "%z"], "%z"),
        (&["sub"], "--topic"),
        (&["sub", "-t", "t", "-D", "publish", "colour", "red"], "content-type"),
    ] {
        let (exit, words) = code(&[arguments, &["-p", &port]].concat());
        assert!(exit == 2 && words.contains(said), "{arguments:?}: {exit}: {words}");
        assert!(!words.contains("secret"));
    }
    for url in ["http://x", "mqtt://", "mqtt://h:99999"] {
        let (exit, words) = code(&["pub", "-t", "t", "-m", "x", "-L", url]);
        assert!(exit == 2 && words.contains("URL"), "{url}: {exit}: {words}");
    }
    assert!(nobody.accept().is_err(), "a connection was opened");
}

fn sub_comes_back_after_the_broker_does() {
    let mut broker = Broker::start();
    let mut subscriber = Subscriber::start(broker.port(), &["-t", "back", "-q", "1", "-C", "1"]);
    broker.kill();
    subscriber.wait_for("the connection is lost");
    broker.run();
    subscriber.wait_for("connected");
    // Its subscription is made anew: until then nobody gets this.
    let begun = Instant::now();
    while subscriber.child.try_wait().unwrap().is_none() {
        publish(broker.port(), &["-t", "back", "-q", "1", "-m", "x"]);
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
    assert_eq!(subscriber.lines(), ["x"]);
}

fn completions_and_manual_pages() {
    let scratch = Scratch::new("man");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = output(forebay(&["completions", shell]));
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("will-topic"), "{shell}");
    }
    let dir = scratch.path().join("man1").display().to_string();
    assert_eq!(code(&["man", &dir]).0, 0);
    for page in ["forebay.1", "forebay-pub.1", "forebay-sub.1", "forebay-bench.1", "forebay-store.1"] {
        let text = std::fs::read_to_string(scratch.path().join("man1").join(page)).unwrap();
        assert!(text.contains(".SH"), "{page}");
    }
}

fn the_demo_ends_by_itself_with_nothing_lost() {
    let output = output(forebay(&["demo", "--devices", "40", "--seconds", "8", "--rate", "300"]));
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", words(&output));
    assert!(said.contains("nothing was lost") && said.contains("kill -9"), "{said}");
    let figure = |name: &str| -> u64 {
        let line = said.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let published = figure("published by the devices");
    assert!(published > 1_000, "{said}");
    assert_eq!((figure("acknowledged by the broker"), figure("arrived at the upstream")), (published, published));
}

/// One of ours and one of theirs, both ways, on their broker.
fn with_mosquittos_tools() {
    let scratch = Scratch::new("mosquitto");
    let port = free_port();
    let config = scratch.path().join("m.conf");
    std::fs::write(&config, format!("user root\nallow_anonymous true\nlistener {port} 127.0.0.1\n")).unwrap();
    let mut server = Command::new("mosquitto").arg("-c").arg(&config).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    let port_text = port.to_string();
    let ours = Subscriber::start(port, &["-t", "m/#", "-q", "2", "-C", "1", "-v"]);
    let theirs = ["-p", &port_text, "-V", "5", "-t", "m/x", "-q", "2", "-m", "theirs"];
    assert!(Command::new("mosquitto_pub").args(theirs).status().unwrap().success());
    assert_eq!(ours.lines(), ["m/x theirs"]);
    let theirs = ["-p", &port_text, "-V", "mqttv5", "-t", "o/#", "-q", "2", "-C", "1", "-W", "30", "-v"];
    let theirs = Command::new("mosquitto_sub").args(theirs).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    publish(port, &["-t", "o/y", "-q", "2", "-m", "ours", "-r"]);
    let printed = theirs.wait_with_output().unwrap();
    assert_eq!(printed.stdout, b"o/y ours\n");
    server.kill().unwrap();
    server.wait().unwrap();
}
