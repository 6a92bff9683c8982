//! The page, in a headless Chromium: every view with real data, by mouse and keyboard, wide and narrow, light and dark, and
//! while the broker is started anew beneath it. With FOREBAY_PICTURES=FOLDER each view is written there as a picture.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

use forebay_tests::absence::panicking;
use forebay_tests::broker::{Broker, free_port};
use forebay_tests::browser::{self, Browser};
use forebay_tests::http::Api;
use forebay_tests::link::Endpoint;
use forebay_tests::packet::Version;
use forebay_tests::peer::{Connect, Peer};
use libtest_mimic::{Arguments, Trial};

const TOKEN: &str = "0123456789abcdef";

/// A name, and what it does.
type Case = (&'static str, fn());

fn main() {
    let arguments = Arguments::from_args();
    let absent = browser::absent();
    let cases: [Case; 5] = [
        ("every_view_shows_what_there_is", every_view),
        ("a_thousand_sessions_are_searched_by_keyboard", thousand_sessions),
        ("it_fits_a_phone", phone),
        ("a_token_is_asked_for_and_kept", token),
        ("what_devices_send_is_text_and_a_restart_is_survived", hostile_and_restarted),
    ];
    let trials: Vec<Trial> =
        cases.into_iter().map(|(name, run)| panicking("page", name, absent.as_deref(), run)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

struct Site {
    broker: Broker,
    port: u16,
}

impl Site {
    fn start(with_token: bool) -> Self {
        let mut broker = Broker::prepare(None);
        broker.plain_only();
        let port = free_port();
        let (socket, token) = (broker.data().join("admin.sock"), broker.data().join("token"));
        std::fs::write(&token, TOKEN).unwrap();
        let token = if with_token { format!("token_file = \"{}\"", token.display()) } else { String::new() };
        broker.configure(&format!(
            "[[listeners]]\nurl = \"mqtt://127.0.0.1:PORT\"\n[admin]\nhttp = \"127.0.0.1:{port}\"\nsocket = \"{}\"\n{token}\n",
            socket.display()
        ));
        broker.run();
        Self { broker, port }
    }

    fn url(&self, view: &str) -> String {
        format!("http://127.0.0.1:{}/#/{view}", self.port)
    }

    fn client(&self, name: &str) -> Peer {
        Peer::open(&Endpoint::tcp(self.broker.port()), &Connect::kept(Version::V5, name)).0
    }

    fn retain(&self, topic: &str, payload: &[u8]) {
        let path = format!("/api/retained/{}", topic.replace('/', "%2F").replace('<', "%3C").replace('>', "%3E"));
        let socket = Api::socket(&self.broker.data().join("admin.sock"));
        assert_eq!(socket.ask("PUT", &path, &[], payload).status, 200, "{topic}");
    }

    /// Two devices, one away with a queue, one here; some retained messages.
    fn furnish(&self) -> Vec<Peer> {
        let mut away = self.client("pump-7");
        away.subscribe(&[("plant/#", 1)]);
        away.leave();
        let mut here = self.client("display");
        here.subscribe(&[("plant/+/level", 1)]);
        let mut publisher = self.client("sensor");
        for id in 1..=40 {
            publisher.publish(id, "plant/tank/level", format!("{id} cm").as_bytes());
            here.message();
        }
        for topic in ["home/kitchen/lamp", "home/kitchen/oven", "home/hall/lamp", "status"] {
            self.retain(topic, b"on");
        }
        vec![here, publisher]
    }
}

fn picture(browser: &Browser, name: &str) {
    if let Some(folder) = std::env::var_os("FOREBAY_PICTURES") {
        browser.picture(&std::path::Path::new(&folder).join(format!("{name}.png")));
    }
}

/// Nothing failed, and no policy refused anything.
fn content(browser: &Browser) {
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

fn every_view() {
    let site = Site::start(true);
    let mut peers = site.furnish();
    for dark in [false, true] {
        let shade = if dark { "dark" } else { "light" };
        let browser = Browser::start(dark);
        browser.resize(1280, 900);
        browser.open(&site.url(""));
        browser.until("the token is asked for", "return document.getElementById('login').open");
        browser.press(TOKEN);
        browser.press("\u{e007}");
        browser.until_text("Backlog");
        let dark_ground = "return matchMedia('(prefers-color-scheme: dark)').matches";
        assert_eq!(browser.run(dark_ground), serde_json::Value::from(dark));
        for (id, text) in [(90, "a"), (91, "b"), (92, "c")] {
            peers[1].publish(id, "plant/tank/level", text.as_bytes());
            std::thread::sleep(std::time::Duration::from_millis(700));
        }
        browser.until("lines are drawn", "return document.querySelectorAll('svg path').length >= 5");
        picture(&browser, &format!("overview-{shade}"));
        for (view, texts) in [
            ("sessions", &["pump-7", "display", "sensor", "3 sessions"][..]),
            ("queues", &["queues are not empty", "pump-7"]),
            ("session/pump-7", &["its client is away", "plant/tank/level", "1 cm", "plant/#", "End the session"]),
            ("retained", &["home/", "status"]),
            ("listeners", &["mqtt://127.0.0.1", "connects accepted"]),
            ("store", &["Written to storage", "fine"]),
        ] {
            browser.open(&site.url(view));
            texts.iter().for_each(|text| browser.until_text(text));
            picture(&browser, &format!("{}-{shade}", view.replace('/', "-")));
        }
        // A retained message's payload is shown when it is asked for.
        browser.open(&site.url("retained"));
        browser.until_text("status");
        browser.run("[...document.querySelectorAll('button')].find((one) => one.ariaLabel.endsWith('status')).click()");
        browser.until(
            "its payload is there",
            "return [...document.querySelectorAll('pre')].some((one) => one.textContent === 'on')",
        );
        // 401 before the log-in is what the browser complains of, and nothing else.
        let others: Vec<_> = browser.complaints().into_iter().filter(|line| !line.contains("401")).collect();
        assert_eq!(others, Vec::<String>::new());
        drop(browser);
    }
}

fn thousand_sessions() {
    let site = Site::start(false);
    for n in 0..1000 {
        site.client(&format!("device-{n:04}")).leave();
    }
    let browser = Browser::start(false);
    browser.open(&site.url("sessions"));
    browser.until_text("1,000 sessions");
    browser.until("fifty rows", "return document.querySelectorAll('tbody tr').length === 50");
    browser.run("[...document.querySelectorAll('button')].find((one) => one.textContent === 'Next').click()");
    browser.until_text("device-0050");
    // From the beginning of the page to the search by the keyboard alone: the link, seven of the header, the search.
    browser.run("document.activeElement.blur(); document.body.focus()");
    let mut steps = 0;
    while browser.run("return document.activeElement.id") != "search" {
        browser.press("\u{e004}");
        steps += 1;
        assert!(steps < 20, "the keyboard does not come to the search");
    }
    browser.press("0777");
    browser.until_text("1 sessions");
    browser.until_text("device-0777");
    assert_eq!(browser.run("return document.getElementById('search').value"), "0777");
    content(&browser);
}

fn phone() {
    let site = Site::start(false);
    let _peers = site.furnish();
    let browser = Browser::start(false);
    browser.open(&site.url(""));
    for (width, name) in [(500, "narrow"), (1280, "wide")] {
        browser.resize(width, 900);
        for view in ["", "sessions", "queues", "session/pump-7", "retained", "listeners", "store"] {
            browser.open(&site.url(view));
            browser.until("it is drawn", "return document.querySelector('main h2') !== null");
            browser.until(
                "nothing sticks out at the side",
                "return document.documentElement.scrollWidth <= document.documentElement.clientWidth",
            );
            picture(&browser, &format!("{name}-{}", view.replace('/', "-")));
        }
    }
    // What has no name cannot be read out.
    let nameless = "return [...document.querySelectorAll('input, select, button, svg')].filter((one) => \
        !one.ariaLabel && !one.textContent.trim() && !(one.labels && one.labels.length)).map((one) => one.outerHTML)";
    for view in ["", "sessions", "retained"] {
        browser.open(&site.url(view));
        browser.until("it is drawn", "return document.querySelector('main h2') !== null");
        assert_eq!(browser.run(nameless), serde_json::json!([]), "{view}");
    }
}

fn token() {
    let site = Site::start(true);
    let browser = Browser::start(false);
    browser.open(&site.url("store"));
    browser.until("the token is asked for", "return document.getElementById('login').open");
    browser.press("wrong-token-wrong-token");
    browser.press("\u{e007}");
    browser.until("it is asked for again", "return document.getElementById('login').open");
    browser.run("document.getElementById('token').value = ''; document.getElementById('token').focus()");
    browser.press(TOKEN);
    browser.press("\u{e007}");
    browser.until_text("Written to storage");
    browser.open(&site.url("sessions"));
    browser.until_text("0 sessions");
    // With the token something can be changed: not by one click.
    let mut victim = site.client("victim");
    browser.open(&site.url("session/victim"));
    browser.until_text("Disconnect");
    let click = "[...document.querySelectorAll('button')].find((one) => one.textContent === 'Disconnect').click()";
    browser.run(click);
    browser.until("it asks", "return document.getElementById('ask').open");
    browser.run("document.querySelector('#ask button[value=yes]').click()");
    assert!(matches!(victim.answer(), forebay_tests::peer::Came::Disconnect(0x98, _)));
}

fn hostile_and_restarted() {
    let mut site = Site::start(false);
    let name = "<img src=x onerror=document.title='taken'>";
    let _client = site.client(name);
    site.retain("<b>/<script>x</script>", b"x");
    let browser = Browser::start(false);
    browser.open(&site.url("sessions"));
    browser.until_text(name);
    browser.open(&site.url("retained"));
    browser.until_text("<b>");
    assert_eq!(browser.run("return document.querySelectorAll('main img, main b, main script').length"), 0);
    assert_eq!(browser.run("return document.title"), "forebay");
    content(&browser);
    browser.open(&site.url(""));
    browser.until_text("Backlog");
    site.broker.kill();
    browser.until_text("the broker does not answer");
    site.broker.run();
    browser.until_text("pressure normal");
    browser.until_text("Backlog");
}
