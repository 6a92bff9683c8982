//! A headless Chromium, driven through chromedriver (WebDriver).

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::broker::free_port;
use crate::http::Api;

/// How long anything of the browser's may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A browser with one window; it ends when this is dropped.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    api: Api,
    session: String,
}

/// Why there is none here.
pub fn absent() -> Option<String> {
    let there =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    (!there("chromedriver") || !there("chromium")).then(|| "no chromium and chromedriver".to_owned())
}

impl Browser {
    /// Starts it; `dark` is what it says that its user prefers.
    pub fn start(dark: bool) -> Self {
        let port = free_port();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let driver = command.spawn().unwrap();
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < LIMIT, "chromedriver does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut browser = Self { driver, api: Api::http(port), session: String::new() };
        let mut arguments =
            vec!["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"];
        if dark {
            arguments.push("--blink-settings=preferredColorScheme=0");
        }
        let options = json!({ "args": arguments });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let made = browser.post("/session", &wanted);
        browser.session = format!("/session/{}", made["sessionId"].as_str().unwrap());
        browser
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.api.ask("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()["value"].clone()
    }

    /// Goes to an address.
    pub fn open(&self, url: &str) {
        self.post(&format!("{}/url", self.session), &json!({ "url": url }));
    }

    /// Makes its window so large.
    pub fn resize(&self, width: u32, height: u32) {
        self.post(&format!("{}/window/rect", self.session), &json!({ "width": width, "height": height }));
    }

    /// Runs a script's body in the page; the answer is what it returns.
    pub fn run(&self, script: &str) -> Value {
        self.post(&format!("{}/execute/sync", self.session), &json!({ "script": script, "args": [] }))
    }

    /// The text that can be seen.
    pub fn text(&self) -> String {
        self.run("return document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the script's body returns true.
    pub fn until(&self, what: &str, script: &str) {
        let begun = Instant::now();
        while self.run(script) != json!(true) {
            assert!(begun.elapsed() < LIMIT, "{what}:\n{}\n{:?}", self.text(), self.complaints());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a text can be seen.
    pub fn until_text(&self, text: &str) {
        self.until(text, &format!("return document.body.innerText.includes({})", json!(text)));
    }

    /// Presses keys, as they come to what has the focus.
    pub fn press(&self, keys: &str) {
        let each = keys.chars().flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key })));
        let actions = json!([{ "type": "key", "id": "keyboard", "actions": each.collect::<Vec<_>>() }]);
        self.post(&format!("{}/actions", self.session), &json!({ "actions": actions }));
    }

    /// What the browser complained of since the last call: scripts that failed, and what a policy refused.
    pub fn complaints(&self) -> Vec<String> {
        let lines = self.post(&format!("{}/se/log", self.session), &json!({ "type": "browser" }));
        lines.as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Writes what the window shows into a file (PNG).
    pub fn picture(&self, to: &Path) {
        use base64::Engine;
        let answer = self.api.get(&format!("{}/screenshot", self.session)).json();
        let bytes = base64::engine::general_purpose::STANDARD.decode(answer["value"].as_str().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.api.ask("DELETE", &self.session, &[], b"");
        }
        let _ = Command::new("kill").arg(self.driver.id().to_string()).status();
        let _ = self.driver.wait();
    }
}
