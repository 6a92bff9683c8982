//! The thread that does the requests, and how a change gets into the store before it holds.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use forebay_wire::reason::ReasonCode;
use forebay_wire::topic;
use parking_lot::{Condvar, Mutex};
use serde_json::{Map, Value, json};

use crate::access::Access;
use crate::access::dynamic::{State, Work, first_user, imported};
use crate::broker::{Broker, Slot};
use crate::message::{Message, Parts};
use crate::session::{Delivery, Durability, Urgency};
use crate::store::{Keyed, KeyedChange, Reader};

/// Topics that are requests to the broker, not messages.
const PREFIX: &str = "$CONTROL/";
/// Where requests go.
const REQUEST: &str = "$CONTROL/dynamic-security/v1";
/// Where their answers come.
const RESPONSE: &str = "$CONTROL/dynamic-security/v1/response";
/// Requests that wait; more are refused.
const REQUESTS_MAX: usize = 64;
/// Commands of one request.
const COMMANDS_MAX: usize = 1_000;
/// How long a commit may take. It is not waited for for ever: the broker may be stopping.
const COMMIT: Duration = Duration::from_secs(60);
/// Rows that are read at once at the start, and bytes of them.
const PAGE: (usize, usize) = (1024, 1024 * 1024);

/// The requests of dynamic security, and what of them is not written.
#[derive(Default)]
pub(crate) struct DynamicSecurity {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// One request after the other: each works on a copy of the state.
    working: Mutex<()>,
    unwritten: Mutex<Unwritten>,
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<Request>,
    stopped: bool,
}

struct Request {
    from: Arc<Slot>,
    payload: Vec<u8>,
}

/// Who asks, for the log.
#[derive(Clone, Copy)]
struct By<'a> {
    client: &'a str,
    user: Option<&'a str>,
}

/// What the next commit takes, and who waits for it.
#[derive(Default)]
struct Unwritten {
    /// What the first start made: nobody waits for it, and it is tried until it is written.
    first: Vec<KeyedChange>,
    changes: Vec<KeyedChange>,
    waiting: Vec<SyncSender<bool>>,
}

/// What one commit has of it.
pub(crate) struct DynamicWork {
    first: Vec<KeyedChange>,
    waiting: Vec<SyncSender<bool>>,
}

impl Broker {
    /// Whether requests need a thread.
    pub(crate) fn has_dynamic(&self) -> bool {
        self.dynamic().is_some()
    }

    /// Who has the state, and what is asked of it; `None`: it is not configured.
    fn dynamic(&self) -> Option<(&Arc<Access>, &DynamicSecurity)> {
        self.access().filter(|access| access.has_dynamic()).map(|access| (access, &self.dynamic))
    }

    /// Reads what the store has, before anybody can connect. Where it has nothing, what the configuration names is taken over, or a
    /// first user is made.
    ///
    /// # Errors
    /// The store cannot be read, or what is to be taken over is wrong.
    pub(crate) fn load_dynamic(&self, reader: &dyn Reader) -> io::Result<()> {
        let Some((access, dynamic)) = self.dynamic() else { return Ok(()) };
        dynamic.queue.lock().stopped = false;
        let (mut state, mut from, mut some) = (State::default(), Vec::new(), false);
        loop {
            let page = reader.keyed(Keyed::Dynamic, &from, PAGE.0, PAGE.1).map_err(io::Error::other)?;
            let Some((last, _)) = page.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            some = true;
            for (key, value) in &page {
                if !state.recover(key, value) {
                    let name = String::from_utf8_lossy(key);
                    tracing::error!(
                        "dynamic security: the stored row {name:?} is not one; it is as if it were not there"
                    );
                }
            }
        }
        state.gather();
        if !some {
            let work = match &access.config().dynamic_security_import {
                Some(path) => imported(path).map_err(io::Error::other)?,
                None => first_user(&self.config.data_dir)?,
            };
            let changes = work.changed.iter().map(|key| work.state.change(key)).collect();
            dynamic.unwritten.lock().first = changes;
            self.writer.mark_retained(Urgency::Now);
            state = work.state;
        }
        access.set_dynamic_state(state);
        Ok(())
    }

    /// A PUBLISH to a topic below `$CONTROL/`, if such topics are requests here: what is answered to it.
    pub(crate) fn control(&self, from: &Arc<Slot>, topic: &str, payload: &[u8]) -> Option<ReasonCode> {
        let (_, dynamic) = self.dynamic().filter(|_| topic.starts_with(PREFIX))?;
        if topic != REQUEST {
            return Some(ReasonCode::NotAuthorized);
        }
        let mut queue = dynamic.queue.lock();
        if queue.requests.len() >= REQUESTS_MAX {
            return Some(ReasonCode::QuotaExceeded);
        }
        queue.requests.push_back(Request { from: from.clone(), payload: payload.to_vec() });
        dynamic.wake.notify_one();
        Some(ReasonCode::Success)
    }

    /// The thread.
    pub(crate) fn serve_dynamic(self: &Arc<Self>) {
        let Some((access, dynamic)) = self.dynamic() else { return };
        loop {
            let mut queue = dynamic.queue.lock();
            while queue.requests.is_empty() && !queue.stopped {
                dynamic.wake.wait(&mut queue);
            }
            let Some(request) = queue.requests.pop_front().filter(|_| !queue.stopped) else { return };
            drop(queue);
            let client = request.from.look(|session| session.client_id().clone());
            let authority = request.from.authority();
            let by = By { client: &client, user: authority.as_ref().and_then(|authority| authority.user()) };
            let answer = self.do_request(access, dynamic, &request.payload, by);
            self.answer_request(&request.from, &answer);
        }
    }

    /// Ends the thread.
    pub(crate) fn stop_dynamic(&self) {
        if let Some((_, dynamic)) = self.dynamic() {
            dynamic.queue.lock().stopped = true;
            dynamic.wake.notify_all();
        }
    }

    /// A request of an operator. `None`: dynamic security is not configured.
    pub(crate) fn dynamic_request(self: &Arc<Self>, payload: &[u8]) -> Option<Value> {
        let (access, dynamic) = self.dynamic()?;
        Some(self.do_request(access, dynamic, payload, By { client: "", user: Some("operator") }))
    }

    fn do_request(self: &Arc<Self>, access: &Access, dynamic: &DynamicSecurity, payload: &[u8], by: By<'_>) -> Value {
        let _alone = dynamic.working.lock();
        let whole: Option<Value> = serde_json::from_slice(payload).ok();
        let commands = whole.as_ref().and_then(|whole| whole.get("commands")).and_then(Value::as_array);
        let Some(commands) = commands.filter(|commands| commands.len() <= COMMANDS_MAX) else {
            let error = format!("The payload is not JSON with a list \"commands\" of at most {COMMANDS_MAX}");
            return json!({"responses": [{"command": "Unknown command", "error": error}]});
        };
        let mut work = Work::new(State::clone(&access.dynamic_state().unwrap_or_default()));
        let mut responses: Vec<Value> = Vec::with_capacity(commands.len());
        let By { client, user } = by;
        for command in commands {
            let done = work.run(command);
            let name = command.get("command").and_then(Value::as_str).unwrap_or("Unknown command");
            match &done {
                Ok(None) => tracing::info!(client, user, "dynamic security: {name}"),
                Ok(Some(_)) => {}
                Err(why) => tracing::info!(client, user, "dynamic security: {name}: {why}"),
            }
            responses.push(response(name, command, done));
        }
        if !work.changed.is_empty() && !self.commit_dynamic(access, dynamic, work) {
            for (response, command) in responses.iter_mut().zip(commands) {
                let name = command.get("command").and_then(Value::as_str).unwrap_or_default();
                *response = self::response(name, command, Err("The change cannot be written to the store".to_owned()));
            }
        }
        json!({ "responses": responses })
    }

    /// Writes the changes; they hold when they are on the disk. False: they are not, and do not.
    fn commit_dynamic(self: &Arc<Self>, access: &Access, dynamic: &DynamicSecurity, work: Work) -> bool {
        let (send, receive) = sync_channel(1);
        {
            let mut unwritten = dynamic.unwritten.lock();
            unwritten.changes.extend(work.changed.iter().map(|key| work.state.change(key)));
            unwritten.waiting.push(send);
        }
        self.writer.mark_retained(Urgency::Now);
        if receive.recv_timeout(COMMIT) != Ok(true) {
            return false;
        }
        access.set_dynamic_state(work.state);
        self.policy_changed();
        true
    }

    /// To who asked, if it has subscribed to answers.
    fn answer_request(&self, to: &Arc<Slot>, answer: &Value) {
        let payload = answer.to_string();
        let cx = self.cx();
        let parts = Parts {
            topic: RESPONSE,
            properties: &[],
            payload: payload.as_bytes(),
            qos: 0,
            retain: false,
            expires_at: None,
            accepted_at: cx.now,
        };
        let message = Arc::new(Message::new(&parts, None));
        if !to.may_receive(RESPONSE) {
            return;
        }
        to.with(self, |session| {
            if !session.subscriptions().iter().any(|known| topic::matches(&known.filter, RESPONSE)) {
                return;
            }
            let delivery = Delivery {
                topic: RESPONSE.as_bytes(),
                properties: &[],
                payload: payload.as_bytes(),
                qos: 0,
                retain: false,
                shared: None,
                subscription_ids: &[],
                expires_at: None,
                durability: Durability::Memory,
            };
            session.deliver(&delivery, &mut || message.clone(), cx);
        });
        to.wake();
    }

    pub(crate) fn collect_dynamic(&self, changes: &mut Vec<KeyedChange>) -> DynamicWork {
        let unwritten = std::mem::take(&mut *self.dynamic.unwritten.lock());
        changes.extend(unwritten.first.iter().cloned().chain(unwritten.changes));
        DynamicWork { first: unwritten.first, waiting: unwritten.waiting }
    }

    pub(crate) fn dynamic_committed(&self, work: DynamicWork) {
        for waiting in work.waiting {
            let _ = waiting.send(true);
        }
    }

    /// Who waits is told; what the first start made is tried again.
    pub(crate) fn dynamic_not_committed(&self, work: DynamicWork) {
        if !work.first.is_empty() {
            self.dynamic.unwritten.lock().first = work.first;
        }
        for waiting in work.waiting {
            let _ = waiting.send(false);
        }
    }
}

/// The answer to one command, as mosquitto has it.
fn response(name: &str, command: &Value, done: Result<Option<Value>, String>) -> Value {
    let mut object = Map::new();
    object.insert("command".to_owned(), json!(name));
    match done {
        Ok(Some(data)) => {
            object.insert("data".to_owned(), data);
        }
        Ok(None) => {}
        Err(why) => {
            object.insert("error".to_owned(), json!(why));
        }
    }
    if let Some(correlation) = command.get("correlationData") {
        object.insert("correlationData".to_owned(), correlation.clone());
    }
    Value::Object(object)
}
