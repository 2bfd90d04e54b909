// The page: it follows one node's stream, and shows what that node says. What is not known is shown as not known.

import { $, attr, keyed, lines, make, show, text } from "./dom.js";
import { Stream, ask } from "./link.js";
import { calm, commitsWait, names, sync, troubles } from "./words.js";
import { tick, topology } from "./topology.js";
import * as events from "./events.js";
import * as changes from "./changes.js";
import * as traffic from "./traffic.js";
import * as failovers from "./failovers.js";

const EXPLAIN_MS_MIN = 1_000;
/// What an explanation rests on changes also without the status changing.
const EXPLAIN_MS_MAX = 10_000;

let report = null;
let lostAt = null;

// ---- the stream

const stream = new Stream({
  status: (status) => {
    report = status;
    draw();
  },
  event: (record) => {
    events.event(record);
    failovers.event(record);
  },
  live: () => {
    lostAt = null;
    away();
    wantExplain();
  },
  lost: (why, status, since) => {
    lostAt = { at: since, why };
    away();
    if (status === 401) changes.mustLogIn();
  },
});

let said = "";

function announce(words) {
  if (words === said) return;
  said = words;
  text($("announce"), words);
}

changes.start({ renew: () => stream.renew(), announce });
traffic.start();
failovers.start();

// ---- the status

function draw() {
  attr($("main"), "aria-busy", null);
  text($("cluster"), report.cluster);
  document.title = `${report.primary ? "" : "! "}${report.cluster} – pgherd`;
  const lead = report.origin ? `head ${report.origin.head ?? "none"}` : `primary ${report.primary ?? "none"}`;
  if (!$("facts").keyedChildren) text($("facts"), "");
  const facts = [`term ${report.term}`, lead, `sync ${sync(report)}`];
  keyed($("facts"), facts.map((words, index) => ({ words, index })), (fact) => fact.index, () => make("span"), (node, fact) => text(node, fact.words));
  verdict();
  topology(report, changes.menu);
  changes.changes(report);
  failovers.term(`${report.term} ${report.primary}`);
  connect();
  others();
  away();
  wantExplain();
}

function verdict() {
  const found = troubles(report);
  const grave = found.filter((trouble) => trouble.level !== "note");
  const level = found.some((trouble) => trouble.level === "bad") ? "bad" : grave.length ? "warn" : "ok";
  // One thing alone is the headline; of several the headline is their number.
  const alone = grave.length === 1 && report.primary ? found.splice(found.indexOf(grave[0]), 1)[0].text : null;
  const writes = report.primary && !commitsWait(report) ? ` ${report.primary} takes writes.` : "";
  const several = report.primary || report.origin ? `${grave.length} things want attention.${writes}` : "Nobody takes writes";
  const line = level === "ok" ? calm(report) : alone ? alone.replace(/([^.])$/, "$1.") + writes : several;
  attr($("verdict"), "data-level", level);
  text($("verdict-line"), line);
  keyed($("troubles"), found.map((trouble, index) => ({ ...trouble, index })), (trouble) => trouble.index, () => make("li"), (node, trouble) => {
    attr(node, "data-level", trouble.level);
    text(node, trouble.text);
  });
  announce(level === "ok" ? `All is well, ${report.primary ?? "a standby cluster"}` : `${line}. ${grave[0]?.text ?? ""}`);
}

/// Doors of a node that this browser could go through: a loopback address only from the node's own machine.
const isHere = (address) => /^(127\.|localhost:|\[::1\])/.test(address);
const isReachable = (address) => !isHere(address) || isHere(`${location.hostname}:`);

function dashboards() {
  const told = report?.nodes.filter((node) => node.doors?.http && node.name !== report.from && node.state !== "unreachable") ?? [];
  return told.filter((node) => isReachable(node.doors.http)).map((node) => ({ name: node.name, href: `${node.doors.https ? "https" : "http"}://${node.doors.http}/dashboard` }));
}

function anchor(parent) {
  keyed(parent, dashboards(), (node) => node.name, (node) => make("a", { rel: "noreferrer" }, node.name), (element, node) => attr(element, "href", node.href));
}

function others() {
  anchor($("others"));
}

// ---- when the node does not answer

function away() {
  const seconds = lostAt ? Math.round((performance.now() - lostAt.at) / 1000) : 0;
  const from = report?.from ?? location.host;
  attr($("link"), "data-state", lostAt ? "lost" : report ? "live" : "connecting");
  text($("link-text"), lostAt ? `no word from ${from}` : report ? `live from ${from}` : "connecting");
  // The wink of a new connection is not worth a banner.
  const shown = lostAt && (seconds >= 1 || !report);
  show($("away"), shown);
  attr(document.body, "class", shown && report ? "stale" : null);
  if (!shown) return;
  text($("away-title"), `${from} does not answer.`);
  text($("away-text"), report ? `What you see is what it said ${seconds} s ago. This page asks again by itself (${lostAt.why}).` : `This page asks again by itself (${lostAt.why}).`);
  const list = $("away-links");
  const ways = dashboards();
  show(list, ways.length);
  if (!list.firstChild) list.append("Look from another node: ", make("span"));
  anchor(list.lastChild);
}

setInterval(() => {
  tick();
  if (lostAt) away();
}, 1_000);

// ---- what if

let explainAt = -EXPLAIN_MS_MAX;
let explainTimer = null;

function wantExplain(wait = EXPLAIN_MS_MIN) {
  if (explainTimer && wait > EXPLAIN_MS_MIN) return;
  clearTimeout(explainTimer);
  const since = performance.now() - explainAt;
  explainTimer = setTimeout(explain, wait > EXPLAIN_MS_MIN ? wait : Math.max(0, EXPLAIN_MS_MIN - since));
}

async function explain() {
  explainTimer = null;
  explainAt = performance.now();
  try {
    if (!document.hidden && !lostAt) explained(await ask("/api/v1/explain"));
  } catch {
    // The stream tells that the node is gone; what it said last stays, greyed.
  }
  wantExplain(EXPLAIN_MS_MAX);
}

function explained(list) {
  show($("explain-none"), !list.length);
  keyed($("explain"), list, (item) => item.node, (item) => {
    const element = make("li");
    element.outcome = make("span", { class: "outcome" });
    element.why = make("ul", { class: "why" });
    element.rule = make("code");
    element.blockers = make("ul", { class: "blockers" });
    const summary = make("summary", {}, make("b", {}, item.node), element.outcome);
    element.append((element.details = make("details", {}, summary, element.why, make("p", {}, "rule ", element.rule))), element.blockers);
    summary.addEventListener("click", () => (element.isChosen = true));
    return element;
  }, (element, item) => {
    const isHeldBack = item.blockers.length > 0;
    const outcome = item.takes_over ? `${item.takes_over} ${isHeldBack ? "would take over, but is held back" : "takes over"}` : item.blockers.length ? "nobody can take over" : "nobody needs to take over";
    text(element.outcome, outcome);
    attr(element, "data-level", item.blockers.length ? "bad" : item.takes_over ? "move" : "ok");
    // The one that matters is read without a click.
    if (!element.isChosen) element.details.open = Boolean(item.takes_over);
    lines(element.why, item.why);
    text(element.rule, item.rule || "none");
    lines(element.blockers, item.blockers);
  });
}

// ---- connection strings

const PORTS = [
  { door: "read_write", name: "Read and write", means: "always the primary" },
  { door: "read_only", name: "Read only", means: "the replicas" },
  { door: "auto", name: "By statement", means: "reads to replicas, all else to the primary" },
];

function connect() {
  const told = report.nodes.filter((node) => node.doors);
  const silent = report.nodes.filter((node) => !node.doors).map((node) => node.name);
  const rows = told.length ? PORTS.map((port) => ({ ...port, url: `postgresql://${told.map((node) => node.doors[port.door]).join(",")}/` })) : [];
  keyed($("connect"), rows, (row) => row.door, connection, (element, row) => {
    if (element.url.textContent === row.url) return;
    // It is broken after a comma, not within a number.
    element.url.replaceChildren(...row.url.split(/(?<=,)/).flatMap((part) => [part, make("wbr")]));
  });
  const note = $("connect-note");
  text(note, silent.length ? `${names(silent)} ${silent.length > 1 ? "have" : "has"} not told its ports.` : "");
  show(note, silent.length);
}

function connection(row) {
  const copy = make("button", { type: "button", class: "quiet", "aria-label": `Copy the address: ${row.name}` }, "Copy");
  const url = make("code", { tabindex: 0 });
  const element = make("div", {}, make("dt", {}, row.name, make("small", {}, row.means)), make("dd", {}, url, copy));
  element.url = url;
  copy.addEventListener("click", async () => {
    getSelection().selectAllChildren(url);
    try {
      await navigator.clipboard.writeText(url.textContent);
      text(copy, "Copied");
    } catch {
      // A browser gives the clipboard to encrypted pages alone: the text is selected, the keys do the rest.
      text(copy, "Selected");
    }
    setTimeout(() => text(copy, "Copy"), 2_000);
  });
  return element;
}

// ---- colours

const THEMES = { auto: "as the system has them", light: "light", dark: "dark" };

function theme(next) {
  const root = document.documentElement;
  if (next === "auto") delete root.dataset.theme;
  else root.dataset.theme = next;
  try {
    if (next === "auto") localStorage.removeItem("pgherd.theme");
    else localStorage.setItem("pgherd.theme", next);
  } catch {
    // It holds until the page is closed.
  }
  showTheme();
}

function showTheme() {
  const now = document.documentElement.dataset.theme ?? "auto";
  text($("theme-text"), now[0].toUpperCase() + now.slice(1));
  attr($("theme"), "aria-label", `Colours: ${THEMES[now]}`);
}

$("theme").addEventListener("click", () => {
  const order = Object.keys(THEMES);
  theme(order[(order.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % order.length]);
});
showTheme();
