//! Rules and what surrounds them: publishers and their acks, dead letters, the clock.
//!
//! What a rule makes of a message is published beside it, inside the same gate and so in the same commit, and its publisher waits
//! for both. A message is refused as a whole when what comes of it finds no room. What a rule has made is not given to rules again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::fanout::{Batch, Found, NoRoomIn, Source, Staged, Verdict};
use super::{Broker, Slot};
use crate::config::Config;
use crate::delayed::{DELIVER_AFTER, DELIVER_AT};
use crate::message::Message;
use crate::origins::{EPOCH, ORIGIN, SEQ};
use crate::properties::{put_user, user_properties};
use crate::router::Route;
use crate::rules::{Closed, Derived, Entry, Failed, Judged, Message as Seen, Rule, RuleSet, Subject, Window};
use crate::session::{Cx, Durability};

/// Units of a worker's turn that a rule costs: see [`super::Budget`].
const COST: usize = 64;
/// Bytes of a payload that cost one more where it is read as JSON.
const READ_BYTES: usize = 4;
/// Units after which the turn is over: half of one, beside what the messages cost without rules.
const JUDGED_AT_ONCE: usize = super::TURN / 2;
/// Between two lines of the log about messages that one rule cannot be applied to.
const SAID_EACH_MS: u64 = 10_000;
/// User properties that say when or how often a message itself may come; what is made of it is another one.
const OF_THE_CAUSE: [&str; 5] = [ORIGIN, EPOCH, SEQ, DELIVER_AFTER, DELIVER_AT];
/// The user property that names the rule.
const RULE: &str = "rule";

/// Whether rules look at what is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judging {
    /// They do.
    Do,
    /// They have, or made it.
    Done,
}

/// The rules of a broker, and their windows.
pub struct Rules {
    set: RuleSet,
    /// Beside the rules.
    states: Box<[State]>,
    /// Results of windows that have found no room.
    waiting: Mutex<Vec<(Arc<Rule>, Derived)>>,
}

#[derive(Default)]
struct State {
    window: Mutex<Window>,
    /// When it was said last that it failed, on the broker's clock and one later.
    said_ms: AtomicU64,
}

/// What a rule makes of a message, and who gets it.
struct Made {
    rule: Arc<Rule>,
    at: usize,
    what: What,
}

/// A message on its way.
struct Outgoing {
    derived: Derived,
    properties: Vec<u8>,
    route: Arc<Route<Arc<Slot>>>,
    /// The router's, before it was asked.
    version: u64,
}

enum What {
    Message(Outgoing),
    Entry(Entry),
    Failed(Failed),
}

impl Rules {
    pub(super) fn new(config: &Config) -> Self {
        let set = RuleSet::new(&config.rules);
        let states = set.all().iter().map(|_| State::default()).collect();
        Self { set, states, waiting: Mutex::default() }
    }

    /// The places of the rules that are for messages of this batch with this topic.
    pub(super) fn of(&self, batch: Batch<'_>, topic: &str) -> Option<Vec<usize>> {
        if self.set.is_empty() || batch.judging == Judging::Done {
            return None;
        }
        let found: Vec<usize> = self.set.matching(topic).collect();
        (!found.is_empty()).then_some(found)
    }

    fn get(&self, at: usize) -> Option<(&Arc<Rule>, &State)> {
        self.set.all().get(at).zip(self.states.get(at))
    }
}

impl Broker {
    /// Messages with one topic that these rules are for, in order, as far as the budget goes.
    pub(super) fn run_judged(
        &self,
        found: Found<'_>,
        batch: Batch<'_>,
        run: &mut [Staged<'_>],
        rules: &[usize],
        cx: Cx<'_>,
    ) {
        let mut units = 0;
        for at in 0..run.len() {
            // What the budget said before was without rules. Those behind must not overtake what stays: the turn is over.
            if let Some(budget) = batch.budget.filter(|_| units >= JUDGED_AT_ONCE) {
                budget.spend(usize::MAX);
                return;
            }
            let Some(one) = run.get_mut(at..=at) else { return };
            let Some(staged) = one.first_mut() else { return };
            units += cost(rules, staged.source.payload);
            let made = self.judge(rules, batch, staged);
            let full = self.no_room(found.route, staged, batch.origin);
            if let Some(full) = full.or_else(|| self.made_finds_no_room(&made, staged)) {
                staged.verdict = Verdict::Full;
                self.wait_behind(batch, staged, full);
            } else {
                self.run_made(found, batch, one, made, cx);
            }
            if one.iter().any(|staged| batch.stops_at(staged)) {
                return;
            }
        }
    }

    /// A message that cannot wait for room, such as a will.
    pub(super) fn run_judged_at_once(
        &self,
        found: Found<'_>,
        batch: Batch<'_>,
        staged: &mut Staged<'_>,
        rules: &[usize],
        cx: Cx<'_>,
    ) {
        let made = self.judge(rules, batch, staged);
        self.run_made(found, batch, std::slice::from_mut(staged), made, cx);
    }

    /// What the rules make of it. Nothing is done yet.
    fn judge(&self, rules: &[usize], batch: Batch<'_>, staged: &Staged<'_>) -> Vec<Made> {
        let Source { topic, properties, payload, qos, retain, .. } = staged.source;
        if let Some(budget) = batch.budget {
            budget.spend(cost(rules, payload));
        }
        let authority = batch.origin.and_then(|slot| slot.authority());
        let subject = Subject {
            topic,
            payload,
            properties,
            qos,
            retain,
            client: batch.origin.map_or("", |slot| slot.client_id()),
            user: authority.as_ref().and_then(|authority| authority.user()),
            now_ms: self.clock.wall_ms(),
        };
        let seen = Seen::new(subject);
        let levels_max = self.config.limits.max_topic_levels;
        let made = rules.iter().filter_map(|at| {
            let (rule, _) = self.rules.get(*at)?;
            let what = match rule.judge(&seen, levels_max) {
                Ok(Judged::No) => return None,
                Ok(Judged::Publish(derived)) => {
                    let version = self.router.version();
                    let route = self.router.route(&derived.topic);
                    let properties = properties_of(rule, properties, derived.payload.is_none());
                    What::Message(Outgoing { derived, properties, route, version })
                }
                Ok(Judged::Collect(entry)) => What::Entry(entry),
                Err(failed) => What::Failed(failed),
            };
            Some(Made { rule: rule.clone(), at: *at, what })
        });
        made.collect()
    }

    /// Whether its publisher must wait because of what comes of it, and for what.
    fn made_finds_no_room(&self, made: &[Made], cause: &Staged<'_>) -> Option<NoRoomIn> {
        made.iter().filter(|_| cause.source.qos > 0).find_map(|made| match &made.what {
            What::Message(out) => {
                self.no_room(&out.route, &Staged::new(source_of(&made.rule, out, cause), cause.durability), None)
            }
            What::Entry(_) | What::Failed(_) => None,
        })
    }

    /// The message, and what comes of it.
    fn run_made(&self, found: Found<'_>, batch: Batch<'_>, one: &mut [Staged<'_>], made: Vec<Made>, cx: Cx<'_>) {
        if let Some(staged) = one.first_mut() {
            staged.used = made.iter().any(|made| !matches!(made.what, What::Failed(_)));
        }
        self.run_with_room(found, batch, one, cx);
        let Some(cause) = one.first_mut().filter(|cause| cause.verdict != Verdict::Full) else { return };
        for Made { rule, at, what } in made {
            let failed = match what {
                What::Message(out) => self.publish_made(&rule, &out, batch, cause, cx),
                What::Entry(entry) => self.collect_entry(&rule, at, entry, cx),
                What::Failed(failed) => Err(failed),
            };
            if let Err(failed) = failed {
                self.rule_failed(&rule, at, &failed, batch, cause, cx);
            }
        }
    }

    /// In the commit of its cause, whose publisher waits for both.
    fn publish_made(
        &self,
        rule: &Rule,
        out: &Outgoing,
        batch: Batch<'_>,
        cause: &mut Staged<'_>,
        cx: Cx<'_>,
    ) -> Result<(), Failed> {
        let source = source_of(rule, out, cause);
        let found = Found { route: &out.route, version: out.version };
        let verdict = cause.make_another(source, batch.origin, cx.now, |made| {
            self.run_with_room(found, Batch::MADE, std::slice::from_mut(made), cx);
            made.verdict
        });
        if verdict == Verdict::Full {
            return Err(Failed("there is no room for one more retained message".to_owned()));
        }
        self.counters.rules_published.add(1);
        Ok(())
    }

    /// A dead letter of this rule is given to it again. `None`: it still cannot be applied to it, or there is none of that name.
    pub(super) fn made_again(&self, name: &str, message: &Arc<Message>) -> Option<Verdict> {
        let at = self.rules.set.all().iter().position(|rule| rule.name == name)?;
        let mut cause = Staged::of(message, message.retain, Durability::Moved);
        let cx = self.cx();
        for Made { rule, at, what } in self.judge(&[at], Batch::OWN, &cause) {
            match what {
                What::Message(out) => {
                    let staged = Staged::new(source_of(&rule, &out, &cause), Durability::Moved);
                    if self.no_room(&out.route, &staged, None).is_some() {
                        return Some(Verdict::Full);
                    }
                    self.publish_made(&rule, &out, Batch::MADE, &mut cause, cx).ok()?;
                }
                What::Entry(entry) => self.collect_entry(&rule, at, entry, cx).ok()?,
                What::Failed(_) => return None,
            }
        }
        Some(Verdict::Taken)
    }

    fn collect_entry(&self, rule: &Rule, at: usize, entry: Entry, cx: Cx<'_>) -> Result<(), Failed> {
        let (Some((_, state)), Some(window)) = (self.rules.get(at), &rule.window) else { return Ok(()) };
        let mut open = state.window.lock();
        // The keeper may be late: what is of the next window must not be in this one.
        let closed = open.close_at(cx.now);
        let added = open.add(window, entry, cx.now, self.clock.wall_ms());
        drop(open);
        if let Some(closed) = closed {
            self.keep_results(at, closed);
        }
        added.inspect(|()| self.counters.rules_collected.add(1))
    }

    /// The message is a dead letter, where one takes it; otherwise it is counted, and said now and then.
    fn rule_failed(
        &self,
        rule: &Rule,
        at: usize,
        failed: &Failed,
        batch: Batch<'_>,
        staged: &mut Staged<'_>,
        cx: Cx<'_>,
    ) {
        self.counters.rules_failed.add(1);
        if !self.keep_unfit(batch, staged, &rule.name, &failed.0, cx) {
            self.say_failed(rule, at, staged.source.topic, failed);
        }
    }

    fn say_failed(&self, rule: &Rule, at: usize, topic: &str, failed: &Failed) {
        let Some((_, state)) = self.rules.get(at) else { return };
        let now_ms = self.clock.uptime_ms() + 1;
        let said_ms = state.said_ms.load(Ordering::Relaxed);
        if said_ms != 0 && now_ms < said_ms + SAID_EACH_MS {
            return;
        }
        state.said_ms.store(now_ms, Ordering::Relaxed);
        tracing::warn!(
            rule = rule.name,
            topic,
            why = ?failed.0,
            "the rule cannot be applied to a message (counters/rules_failed counts them; [[dead_letters]] with the reason \
             \"rule\" keeps them)"
        );
    }

    /// Publishes the results of windows whose time is over.
    pub(super) fn close_windows(&self) {
        let now = self.clock.now();
        for (at, state) in self.rules.states.iter().enumerate() {
            let closed = state.window.lock().close_at(now);
            if let Some(closed) = closed {
                self.keep_results(at, closed);
            }
        }
        self.publish_results(NoRoom::Waits);
    }

    /// Publishes what is in all windows: the broker stops.
    pub fn close_all_windows(&self) {
        for (at, state) in self.rules.states.iter().enumerate() {
            let closed = state.window.lock().close();
            if let Some(closed) = closed {
                self.keep_results(at, closed);
            }
        }
        self.publish_results(NoRoom::IsDropped);
    }

    /// What a window has come to, for [`Broker::publish_results`]. What still waits of the one before has had its time.
    fn keep_results(&self, at: usize, closed: Closed) {
        let Some((rule, _)) = self.rules.get(at) else { return };
        self.counters.rules_closed.add(closed.messages);
        let mut waiting = self.rules.waiting.lock();
        let before = waiting.len();
        waiting.retain(|(other, _)| !Arc::ptr_eq(other, rule));
        self.drop_results(rule, before - waiting.len());
        for result in closed.results(rule, self.clock.wall_ms()) {
            match result {
                Ok(derived) => waiting.push((rule.clone(), derived)),
                Err(failed) => {
                    self.counters.rules_failed.add(1);
                    self.say_failed(rule, at, "", &failed);
                }
            }
        }
    }

    fn drop_results(&self, rule: &Rule, count: usize) {
        if count > 0 {
            self.counters.rules_dropped.add(count as u64);
            tracing::error!(
                rule = rule.name,
                count,
                "results of a window are dropped: queues that are to have them are full"
            );
        }
    }

    fn publish_results(&self, no_room: NoRoom) {
        // Not held below: who is inside the gate may want it.
        let results = std::mem::take(&mut *self.rules.waiting.lock());
        if results.is_empty() {
            return;
        }
        let mut without_room = Vec::new();
        for (rule, derived) in results {
            let _one_commit = self.writer.gate();
            let properties = properties_of(&rule, &[], false);
            let source = Source {
                topic: &derived.topic,
                properties: &properties,
                payload: derived.payload.as_deref().unwrap_or_default(),
                qos: rule.qos.unwrap_or(1),
                retain: rule.retain,
                expires_at: None,
            };
            let mut staged = Staged::new(source, Durability::Moved);
            self.run_one(Batch::MADE, &mut staged, self.cx());
            match (staged.verdict, no_room) {
                (Verdict::Full, NoRoom::Waits) => without_room.push((rule, derived)),
                (Verdict::Full, NoRoom::IsDropped) => self.drop_results(&rule, 1),
                _ => self.counters.rules_published.add(1),
            }
        }
        drop(self.rules.waiting.lock().splice(..0, without_room));
        self.writer.mark_retained(crate::session::Urgency::Now);
    }
}

/// Units of a turn that it takes to judge a message with this payload.
fn cost(rules: &[usize], payload: &[u8]) -> usize {
    rules.len() * COST + payload.len() / READ_BYTES
}

/// What becomes of a window's result that finds no room.
#[derive(Clone, Copy)]
enum NoRoom {
    Waits,
    IsDropped,
}

fn source_of<'a>(rule: &Rule, out: &'a Outgoing, cause: &Staged<'a>) -> Source<'a> {
    Source {
        topic: &out.derived.topic,
        properties: &out.properties,
        payload: out.derived.payload.as_deref().unwrap_or(cause.source.payload),
        qos: rule.qos.unwrap_or(cause.source.qos),
        retain: rule.retain,
        expires_at: cause.source.expires_at,
    }
}

/// The user properties travel on. The others say what the payload is, and are true of the same one only.
fn properties_of(rule: &Rule, of_cause: &[u8], same_payload: bool) -> Vec<u8> {
    let mut properties = Vec::with_capacity(of_cause.len() + RULE.len() + rule.name.len() + 5);
    if same_payload {
        crate::properties::put_others(&mut properties, of_cause);
    }
    for (name, value) in user_properties(of_cause).filter(|(name, _)| *name != RULE && !OF_THE_CAUSE.contains(name)) {
        put_user(&mut properties, name, value);
    }
    put_user(&mut properties, RULE, &rule.name);
    properties
}

#[cfg(all(test, feature = "rules"))]
mod tests {
    use super::*;
    use crate::broker::{Budget, by_hand};
    use crate::router::RouteCache;

    const SUM: &str = "[[rules]]\nname = 'sum'\nfilter = 'a/#'\ntopic = 'out'\npayload = 'payload.x + 1'\n";

    fn message(topic: &str, payload: &[u8]) -> Arc<Message> {
        Arc::new(by_hand::saying(topic, payload))
    }

    #[test]
    fn a_dead_letter_is_given_to_its_rule_alone() {
        let (broker, _store) = by_hand::broker_with(&format!("[queue]\nmax_messages = 1\n{SUM}"));
        let (out, cause) = (by_hand::queue_of(&broker, "out"), by_hand::queue_of(&broker, "a/#"));
        let again = |name: &str, payload: &[u8]| broker.made_again(name, &message("a/b", payload));
        assert_eq!(again("sum", b"no JSON"), None, "it stays");
        assert_eq!(again("gone", b"{\"x\":1}"), None, "there is no such rule any more");
        assert_eq!((again("sum", b"{\"x\":1}"), out.figures().messages), (Some(Verdict::Taken), 1));
        assert_eq!((again("sum", b"{\"x\":2}"), out.figures().messages), (Some(Verdict::Full), 1));
        assert_eq!(cause.figures().messages, 0);
    }

    /// What rules cost counts towards the turn: the rest goes on in the next one.
    #[test]
    fn a_turn_ends_within_a_run() {
        let (broker, _store) = by_hand::broker_with(SUM);
        let _out = by_hand::queue_of(&broker, "out");
        let messages: Vec<Arc<Message>> = (0..1000).map(|_| message("a/b", b"{\"x\":1}")).collect();
        let mut staged: Vec<Staged<'_>> =
            messages.iter().map(|message| Staged::of(message, false, Durability::Memory)).collect();
        let budget = Budget::turn();
        let batch = Batch { budget: Some(&budget), ..Batch::OWN };
        broker.fan_out(&mut RouteCache::default(), batch, &mut staged);
        let done = staged.iter().take_while(|staged| staged.verdict == Verdict::Taken).count();
        let open = staged.iter().skip(done).all(|staged| staged.verdict == Verdict::Open);
        assert!(budget.is_spent() && (1..1000).contains(&done) && open, "{done}");
        assert_eq!(broker.counters.rules_published.get(), done as u64);
    }

    /// Neither in the commit without the other.
    #[test]
    fn a_publisher_waits_for_what_comes_of_its_message() {
        let (broker, mut store) = by_hand::broker_with(SUM);
        let publisher = broker.open("p", true, by_hand::link(0), 0).slot;
        let out = by_hand::queue_of(&broker, "out");
        let source =
            Source { topic: "a/b", properties: &[], payload: b"{\"x\":1}", qos: 1, retain: false, expires_at: None };
        let mut staged = Staged::new(source, Durability::Commit);
        let batch = Batch { origin: Some(&publisher), ..Batch::OWN };
        broker.fan_out(&mut RouteCache::default(), batch, std::slice::from_mut(&mut staged));
        let cause = staged.message.clone().filter(|_| staged.waits).expect("nobody else has it, and it waits");
        assert!(!cause.is_safe());
        by_hand::commit(&broker, &mut store);
        assert!(cause.is_safe());
        assert_eq!(out.figures().messages, 1);
    }
}
