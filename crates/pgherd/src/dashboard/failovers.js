// The last failovers, each as a bar of its phases, with the numbers beside it. The colours only repeat what the numbers say.

import { ask } from "./link.js";
import { $, attr, keyed, make, show, text } from "./dom.js";
import { bytes, clock, day } from "./words.js";

/// The report is written some seconds after the new primary has opened.
const AGAIN_MS = 2_000;
const LOOK_MS = 30_000;
const ROWS_MAX = 8;
/// A phase that is there can be seen.
const SHARE_MIN = 0.6;

/// What a phase is, in order; those of one part of the work have one colour.
const PHASES = {
  detection: ["detect", "the old primary is found to be gone"],
  checks: ["plan", "the hand-over is looked at"],
  checkpoint: ["plan", "a checkpoint ahead; nobody waits"],
  drain: ["detect", "proxies hold, running transactions end"],
  stop: ["detect", "the old primary stops"],
  turn: ["vote", "who stands first, asks first"],
  promises: ["vote", "members promise and answer"],
  record: ["vote", "the new term is recorded"],
  preparation: ["promote", "the winner takes WAL from nobody"],
  promotion: ["promote", "PostgreSQL is promoted"],
  synchronization: ["open", "standbys follow and flush"],
  opening: ["open", "clients are admitted"],
  release: ["open", "the last hold ends"],
};

const KINDS = { takeover: "takeover", switchover: "switchover", restart: "restart in place", forced: "forced failover", promotion: "promotion" };

let timer = null;
let known = "";

/// Asks anew, soon: something has happened.
export function want(wait = 0) {
  clearTimeout(timer);
  timer = setTimeout(look, wait);
}

async function look() {
  try {
    if (!document.hidden) draw((await ask("/api/v1/failovers")).reverse().slice(0, ROWS_MAX));
  } catch {
    // The stream tells that the node is gone; what it said last stays.
  }
  want(LOOK_MS);
}

/// A new term, or a word of a report.
export function term(value) {
  if (known === value) return;
  known = value;
  want();
}

export function event(record) {
  if (record.rule === "failover.report") want(AGAIN_MS);
}

const ms = (value) => (value === null || value === undefined ? "unknown" : value < 10_000 ? `${value} ms` : `${(value / 1_000).toFixed(1)} s`);

function draw(reports) {
  show($("failovers-none"), !reports.length);
  show($("failovers-legend"), reports.length);
  keyed($("failovers"), reports, (report) => report.term, row, () => {});
}

/// A report never changes once it is there.
function row(report) {
  const { from, to, loss } = report;
  const sum = (name) => report.proxies.reduce((total, proxy) => total + proxy[name], 0);
  const way = from.node === to.node ? `${to.node} again` : `${from.node} → ${to.node}`;
  const when = [day(report.at), clock(report.at)].filter(Boolean).join(" ");
  const head = make("p", { class: "way" }, make("b", {}, way), make("span", { class: "kind" }, KINDS[report.kind] ?? report.kind), make("time", { datetime: report.at, title: report.at }, when), make("span", { class: "id" }, `term ${report.term}`));
  const facts = [
    ["writes paused", report.writes_paused_ms === null ? "unknown" : `≤ ${ms(report.writes_paused_ms)}`],
    ["sessions held", sum("held")],
    ["cut", sum("cut")],
    ["lost", loss.bytes ? bytes(loss.bytes) : "nothing"],
  ];
  const list = make("dl", {}, ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  return make("li", {}, head, list, bar(report), numbers(report), make("p", { class: "why" }, report.reason), more(report));
}

function bar(report) {
  const total = Math.max(1, report.total_ms);
  const parts = report.phases.filter((phase) => phase.ms > 0).map((phase) => {
    const part = make("span", { "data-part": PHASES[phase.name]?.[0] ?? "vote", title: `${phase.name}: ${ms(phase.ms)}` });
    part.style.flexGrow = String(Math.max(SHARE_MIN, (phase.ms * 100) / total));
    return part;
  });
  return make("div", { class: "phases", "aria-hidden": "true" }, ...parts);
}

function numbers(report) {
  const item = (phase) => make("li", { "data-part": PHASES[phase.name]?.[0] ?? "vote", title: PHASES[phase.name]?.[1] ?? "" }, make("span", {}, phase.name), " ", make("b", {}, ms(phase.ms)));
  return make("ol", { class: "numbers", "aria-label": `Phases, ${ms(report.total_ms)} in all` }, ...report.phases.map(item));
}

function more({ ballot, loss, proxies, silent_proxies: silent, to }) {
  const vote = (v) => make("li", {}, `${v.node} answered ${v.lsn} on timeline ${v.timeline} at ${ms(v.heard_ms)}${v.counted ? "" : ", not counted"}${v.node === to.node ? " and won" : ""}`);
  const proxy = (p) => make("li", {}, `proxy of ${p.node}: no primary for ${ms(p.away_ms)}; ${p.held} held at once, ${p.moved} moved, ${p.cut} cut, ${p.timed_out} timed out`);
  const plain = (words) => make("li", {}, words);
  const counted = plain(`counted against ANY ${ballot.k} (${ballot.set.join(", ")}), ${ballot.needed || "any"} needed`);
  const lines = [counted, ...ballot.votes.map(vote), ...ballot.rejected.map(plain), plain(`lost: ${loss.bytes} bytes; ${loss.why}`), ...proxies.map(proxy), ...silent.map((node) => plain(`proxy of ${node}: not known`))];
  return make("details", {}, make("summary", {}, "answers and sessions"), make("ul", { class: "why" }, ...lines));
}

export function start() {
  for (const [part, words] of [["plan", "ahead of it"], ["detect", "detect, or drain and stop"], ["vote", "answer and record"], ["promote", "promote"], ["open", "open"]]) {
    $("failovers-legend").append(make("li", { "data-part": part }, words));
  }
  look();
}
