// The page of a broker: asks its API every two seconds, and draws the view that the address names. What devices chose
// (client identifiers, topics, payloads) becomes text and never markup.
"use strict";

const EVERY_MS = 2000;
const KEPT = 90;
const main = document.getElementById("main");
const state = document.getElementById("state");
const history = [];
let timer = 0;
let drawn = "";

// ---- asking

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function ask(path, method = "GET") {
  const headers = {};
  const token = sessionStorage.getItem("token");
  if (token) headers.Authorization = "Bearer " + token;
  const answer = await fetch(path, { method, headers, cache: "no-store" });
  const body = await answer.json();
  if (!answer.ok) throw new Refused(answer.status, body.error);
  return body;
}

const query = (pairs) => {
  const there = Object.entries(pairs).filter(([, value]) => value !== undefined && value !== "");
  return there.length ? "?" + there.map(([name, value]) => name + "=" + encodeURIComponent(value)).join("&") : "";
};

function login(why) {
  const dialog = document.getElementById("login");
  if (dialog.open) return;
  if (why) document.getElementById("login-why").textContent = why;
  dialog.showModal();
  dialog.onclose = () => {
    sessionStorage.setItem("token", document.getElementById("token").value.trim());
    show();
  };
}

function sure(text) {
  const dialog = document.getElementById("ask");
  document.getElementById("ask-text").textContent = text;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => { dialog.onclose = () => done(dialog.returnValue === "yes"); });
}

// ---- drawing

function make(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "title"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node[key] = value; else if (value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== undefined && child !== null));
  return node;
}

const whole = (n) => Math.round(n).toLocaleString("en");

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < 4) { bytes /= 1000; unit += 1; }
  return (unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)) + " " + units[unit];
}

function time(ms) {
  if (ms === null || ms === undefined) return "–";
  const units = [[86400000, "d"], [3600000, "h"], [60000, "min"], [1000, "s"]];
  for (const [n, [length, name]] of units.entries()) {
    if (ms < length) continue;
    const next = units[n + 1];
    const rest = next ? Math.floor((ms % length) / next[0]) : 0;
    return Math.floor(ms / length) + " " + name + (rest ? " " + rest + " " + next[1] : "");
  }
  return Math.round(ms) + " ms";
}

function card(name, value, more, extra, kind) {
  return make("div", { class: "card" },
    make("p", { class: "name" }, name), make("p", { class: "value " + (kind || "") }, value),
    more === undefined ? null : make("p", { class: "more" }, more), extra);
}

function table(titles, rows) {
  const numbers = titles.map((title) => title.startsWith(">"));
  const head = titles.map((title, n) =>
    make("th", { scope: "col", class: numbers[n] ? "number" : "" }, title.replace(">", "")));
  const body = rows.map((row) => make("tr", {}, ...row.map((cell, n) =>
    make("td", { class: numbers[n] ? "number" : n === 0 ? "wide" : "" }, cell))));
  if (!rows.length) body.push(make("tr", {}, make("td", { colspan: titles.length, class: "soft" }, "none")));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" },
    make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body)));
}

/** Lines over the last minutes; each a list of numbers. */
function lines(label, ...series) {
  const most = Math.max(1, ...series.flatMap((one) => one.values));
  const svg = make("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": label });
  svg.append(make("title", {}, label));
  for (const { values, kind } of series) {
    const step = 100 / Math.max(1, KEPT - 1);
    const from = KEPT - values.length;
    const points = values.map((value, n) => ((from + n) * step).toFixed(2) + "," + (38 - 36 * value / most).toFixed(2));
    if (points.length > 1) svg.append(make("path", { d: "M" + points.join("L"), class: kind }));
  }
  return svg;
}

function draw(key, ...nodes) {
  // A view that is drawn again keeps its place, and what is being typed.
  const scroll = drawn === key ? window.scrollY : 0;
  const active = document.activeElement;
  const typed = drawn === key && active && active.id && main.contains(active) ? { id: active.id, at: active.selectionStart } : null;
  const open = new Set([...main.querySelectorAll("details[open]")].map((one) => one.dataset.path));
  main.replaceChildren(...nodes);
  for (const one of main.querySelectorAll("details")) if (open.has(one.dataset.path)) one.open = true;
  if (typed && document.getElementById(typed.id)) {
    const field = document.getElementById(typed.id);
    field.focus();
    if (typed.at !== null && field.setSelectionRange) field.setSelectionRange(typed.at, typed.at);
  }
  window.scrollTo(0, scroll);
  drawn = key;
}

// ---- what is remembered of the last minutes

const counter = (status, name) => (status.counters.find((one) => one.name === name) || { count: 0 }).count;

function remember(status) {
  const last = history[history.length - 1];
  const now = performance.now();
  // A broker that was started anew counts from 0.
  if (last && status.broker.uptime_ms < last.status.broker.uptime_ms) history.length = 0;
  history.push({ now, status });
  if (history.length > KEPT + 1) history.shift();
}

/** How fast something has grown, for each step that is remembered. */
function rates(read) {
  const out = [];
  for (let n = 1; n < history.length; n += 1) {
    const [a, b] = [history[n - 1], history[n]];
    out.push(Math.max(0, (read(b.status) - read(a.status)) * 1000 / (b.now - a.now)));
  }
  return out;
}

const latest = (values) => values.length ? values[values.length - 1] : 0;

/** The time within which so many percent of the commits of the last minutes were done, in microseconds. */
function commitTime(percent) {
  const [first, last] = [history[0].status.store.commit_times, history[history.length - 1].status.store.commit_times];
  let counts = last.counts.map((count, n) => count - first.counts[n]);
  if (!counts.some((count) => count)) counts = last.counts;
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (!total) return null;
  let seen = 0;
  for (const [n, count] of counts.entries()) {
    seen += count;
    if (seen >= total * percent / 100) return last.ends_us[Math.min(n, last.ends_us.length - 1)];
  }
  return null;
}

const us = (value) => value === null ? "–" : value < 1000 ? value + " µs" : time(value / 1000);

// ---- the views

const views = {
  "": overview, sessions, queues, retained, listeners, store, session: oneSession,
};

function ledgerTable(ledger) {
  const rows = [["accepted", whole(ledger.accepted)], ["delivered", whole(ledger.delivered)],
    ["queued", whole(ledger.queued)], ["expired", whole(ledger.expired)]];
  for (const part of ledger.dropped) if (part.count) rows.push(["dropped: " + part.reason, whole(part.count)]);
  return table(["ledger", ">messages"], rows);
}

async function overview() {
  const status = latest(history).status;
  const into = rates((one) => counter(one, "publish_received"));
  const out = rates((one) => one.ledger.delivered);
  const [bytesIn, bytesOut] = ["bytes_received", "bytes_sent"].map((name) => rates((one) => counter(one, name)));
  const backlog = history.map((one) => one.status.queues.messages);
  const lost = status.ledger.expired + status.ledger.dropped.reduce((sum, part) => sum + part.count, 0);
  return [make("h2", {}, "Overview"), make("div", { class: "cards" },
    card("Messages in", whole(latest(into)) + "/s", "blue: published to the broker", lines("Messages in a second", { values: into, kind: "line-in" })),
    card("Messages out", whole(latest(out)) + "/s", "green: acknowledged by receivers", lines("Messages out a second", { values: out, kind: "line-out" })),
    card("Bytes", size(latest(bytesIn)) + "/s in", size(latest(bytesOut)) + "/s out",
      lines("Bytes a second, in and out", { values: bytesIn, kind: "line-in" }, { values: bytesOut, kind: "line-out" })),
    card("Backlog", whole(status.queues.messages), size(status.queues.bytes) + ", oldest " + time(status.queues.oldest_ms),
      lines("Messages in queues", { values: backlog, kind: "line-in" })),
    card("Commit", us(commitTime(50)), "99 of 100 within " + us(commitTime(99))),
    card("Connections", whole(status.broker.connections), "at most " + whole(status.broker.connections_max)),
    card("Sessions", whole(status.sessions.total), whole(status.sessions.away) + " away, " + whole(status.sessions.full) + " full",
      undefined, status.sessions.full ? "bad" : ""),
    card("Not delivered", whole(lost), "expired or dropped, see the ledger", undefined, lost ? "warn" : ""),
    card("Memory", size(status.process.resident_bytes), whole(status.process.open_files) + " files and sockets open"),
  ), ledgerTable(status.ledger)];
}

function sessionLink(id) { return make("a", { href: "#/session/" + encodeURIComponent(id) }, id); }

function sessionTable(rows) {
  return table(["client", "state", ">away", ">subscriptions", ">queued", ">bytes", ">in flight", ">oldest"], rows.map((row) => [
    sessionLink(row.client_id), (row.connected ? "connected" : "away") + (row.full ? ", full" : ""), time(row.away_ms),
    whole(row.subscriptions), whole(row.queued_messages), size(row.queued_bytes), whole(row.in_flight), time(row.oldest_ms)]));
}

const filter = { search: "", state: "", after: [] };

async function sessions() {
  const page = await ask("/api/sessions" + query({ search: filter.search, state: filter.state, limit: 50, after: filter.after[filter.after.length - 1] }));
  const search = make("input", { id: "search", type: "search", placeholder: "client identifier", "aria-label": "Search for a client identifier",
    oninput: (event) => { filter.search = event.target.value; filter.after = []; show(); } });
  search.value = filter.search;
  const select = make("select", { id: "state-filter", "aria-label": "State", onchange: (event) => { filter.state = event.target.value; filter.after = []; show(); } },
    ...[["", "all"], ["connected", "connected"], ["away", "away"], ["full", "full"]].map(([value, name]) => make("option", { value }, name)));
  select.value = filter.state;
  const before = make("button", { type: "button", onclick: () => { filter.after.pop(); show(); } }, "Before");
  const next = make("button", { type: "button", onclick: () => { filter.after.push(page.next); show(); } }, "Next");
  before.disabled = !filter.after.length;
  next.disabled = page.next === null;
  return [make("h2", {}, "Sessions"), make("div", { class: "row" }, search, select, make("span", { class: "soft", role: "status" }, whole(page.total) + " sessions")),
    sessionTable(page.sessions), make("div", { class: "row" }, before, next)];
}

async function queues() {
  const list = await ask("/api/queues?limit=50");
  return [make("h2", {}, "Queues"), make("p", { class: "soft" }, whole(list.total) + " queues are not empty; the longest first"), sessionTable(list.queues)];
}

async function change(path, method, question) {
  if (question && !await sure(question)) return;
  try {
    note((await ask(path, method)).done);
  } catch (error) {
    if (error.status === 401) login(); else note(error.message);
  }
  show();
}

let noted = "";
function note(text) { noted = text; }

async function oneSession(id) {
  const path = "/api/sessions/" + encodeURIComponent(id);
  const shown = await ask(path);
  let queue;
  try {
    const peek = await ask(path + "/queue?limit=20");
    queue = table([">place", "topic", ">QoS", ">age", ">bytes", "payload"], peek.messages.map((one) => [
      whole(one.place), one.topic, one.qos + "", time(one.age_ms), size(one.bytes), (one.text ?? one.base64).slice(0, 80)]));
  } catch (error) {
    if (error.status !== 403) throw error;
    queue = make("p", { class: "soft" }, "Messages are shown with a token only (admin.token_file).");
  }
  const kick = make("button", { type: "button", onclick: () => change(path + "/kick", "POST", "Disconnect " + id + "? Its session stays.") }, "Disconnect");
  const end = make("button", { type: "button", class: "danger", onclick: () => change(path, "DELETE", "End the session of " + id + "? Its queue is dropped.") }, "End the session");
  const purge = make("button", { type: "button", class: "danger", onclick: () => change(path + "/purge", "POST", "Drop all messages that wait for " + id + "?") }, "Empty the queue");
  kick.disabled = !shown.session.connected;
  return [make("h2", {}, id), make("p", {}, "Why its queue waits: ", make("strong", { id: "waits" }, shown.waits)),
    sessionTable([shown.session]), make("div", { class: "row" }, kick, purge, end, make("span", { role: "status", class: "soft" }, noted)),
    make("h3", {}, "The first messages in its queue"), queue, make("h3", {}, "Its messages so far"), ledgerTable(shown.ledger),
    make("h3", {}, "Subscriptions"), table(["filter", ">QoS"], shown.subscriptions.map((one) => [one.filter, one.qos + ""]))];
}

let retainedFilter = "#";

async function retained() {
  const page = await ask("/api/retained" + query({ filter: retainedFilter, limit: 1000 }));
  const root = new Map();
  for (const row of page.retained) {
    let node = root;
    const levels = row.topic.split("/");
    levels.forEach((level, n) => {
      if (!node.has(level)) node.set(level, { below: new Map(), row: null, path: levels.slice(0, n + 1).join("/") });
      const entry = node.get(level);
      if (n === levels.length - 1) entry.row = row;
      node = entry.below;
    });
  }
  const field = make("input", { id: "filter", "aria-label": "Topic filter", onchange: (event) => { retainedFilter = event.target.value || "#"; show(); } });
  field.value = retainedFilter;
  const shown = page.total > page.retained.length ? "the first " + whole(page.retained.length) + " of " + whole(page.total) : whole(page.total);
  return [make("h2", {}, "Retained messages"), make("div", { class: "row" }, field, make("span", { class: "soft", role: "status" }, shown)),
    make("div", { class: "card" }, root.size ? tree(root, true) : make("p", { class: "soft" }, "none"))];
}

function tree(level, top) {
  return make("ul", { class: top ? "tree" : undefined }, ...[...level].map(([name, entry]) => {
    const label = name === "" ? "(empty level)" : name;
    const own = entry.row ? message(entry.row, label) : null;
    if (!entry.below.size) return make("li", {}, own);
    return make("li", {}, make("details", { "data-path": entry.path }, make("summary", {}, label + "/"), tree(entry.below)), own);
  }));
}

function message(row, label) {
  const about = make("span", { class: "soft" }, " " + size(row.payload_bytes) + ", QoS " + row.qos + ", " + time(row.age_ms) + " ago");
  const value = make("button", { type: "button", "aria-label": "Show the payload of " + row.topic, onclick: async (event) => {
    const place = event.target.parentElement;
    try {
      const answer = await ask("/api/retained/" + encodeURIComponent(row.topic));
      place.replaceChildren(make("pre", {}, answer.text ?? answer.base64));
    } catch (error) {
      place.replaceChildren(make("span", { class: "soft" }, error.message));
    }
  } }, "payload");
  return make("div", {}, label, about, " ", make("span", {}, value));
}

async function listeners() {
  const status = latest(history).status;
  const names = ["sockets_accepted", "handshakes_timed_out", "handshakes_displaced", "tls_failed", "connects_accepted", "connects_refused",
    "packets_refused", "keep_alive_timeouts"];
  return [make("h2", {}, "Listeners"), table(["URL", ">sockets", ">limit"], status.listeners.map((one) => [one.url, whole(one.sockets), whole(one.sockets_limit)])),
    make("h3", {}, "Since the start"), table(["what", ">how often"], names.map((name) => [name.replaceAll("_", " "), whole(counter(status, name))]))];
}

async function store() {
  const { store, process, retained: kept } = latest(history).status;
  const wear = rates((one) => one.process.storage_written_bytes);
  const commits = rates((one) => one.store.commits);
  const factor = store.message_bytes ? (process.storage_written_bytes / store.message_bytes).toFixed(1) : "–";
  return [make("h2", {}, "Store"), make("div", { class: "cards" },
    card("State", store.failing ? "cannot be written" : "fine", "room for " + size(store.room_bytes), undefined, store.failing ? "bad" : "good"),
    card("Commits", whole(latest(commits)) + "/s", whole(store.commits) + " since the start, " + whole(store.failures) + " failed",
      lines("Commits a second", { values: commits, kind: "line-in" })),
    card("A commit takes", us(commitTime(50)), "99 of 100 within " + us(commitTime(99))),
    card("Written to storage", size(latest(wear)) + "/s", size(process.storage_written_bytes) + " since the start",
      lines("Bytes written to storage a second", { values: wear, kind: "line-out" })),
    card("Wear", factor, "bytes written for each byte of a stored message"),
    card("In the file", size(store.live_bytes), whole(kept.messages) + " retained messages"),
    card("Damaged rows", whole(store.damaged_rows), undefined, undefined, store.damaged_rows ? "bad" : ""),
  )];
}

// ---- going round

async function show() {
  clearTimeout(timer);
  const path = location.hash.replace(/^#\//, "");
  const cut = path.indexOf("/");
  const [view, rest] = cut < 0 ? [path, ""] : [path.slice(0, cut), decodeURIComponent(path.slice(cut + 1))];
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === "#/" + view) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  try {
    const status = await ask("/api/status");
    remember(status);
    document.getElementById("version").textContent = status.broker.version;
    const pressure = status.broker.pressure;
    state.textContent = "pressure " + pressure + ", running for " + time(status.broker.uptime_ms);
    state.className = { normal: "good", high: "warn" }[pressure] || "bad";
    const nodes = await (views[view] || overview)(rest);
    if (location.hash.replace(/^#\//, "") === path) draw(path, ...nodes);
  } catch (error) {
    if (error.status === 401) {
      login();
    } else if (error.status === 404) {
      draw(path, make("h2", {}, rest), make("p", {}, error.message));
    } else {
      state.className = "bad";
      state.textContent = error instanceof Refused ? error.message : "the broker does not answer; trying again";
    }
  }
  clearTimeout(timer);
  timer = setTimeout(show, EVERY_MS);
}

window.addEventListener("hashchange", () => { noted = ""; filter.after = []; show().then(() => main.focus()); });
show();
