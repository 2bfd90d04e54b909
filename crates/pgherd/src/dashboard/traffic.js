// Pools and traffic of this node's proxy, from /metrics: counters become rates, and the last minutes become a line. What
// is not known, as before the second look or after a restart of the proxy, is shown as a gap.

import { ask } from "./link.js";
import { $, attr, keyed, make, makeSvg, show, text } from "./dom.js";
import { bytes, count, duration } from "./words.js";

const LOOK_MS = 3_000;
/// Five minutes.
const POINTS = 100;
const ROWS_MAX = 12;

const P = "pgherd_proxy_";
let before = null;
const history = new Map();

const TILES = [
  { name: "Sessions", value: (now) => now.sum(`${P}sessions`), words: count, more: (now) => `${count(now.sum(`${P}pool_sessions`, { state: "active" }))} active` },
  { name: "Waiting", value: (now) => now.sum(`${P}pool_sessions`, { state: "waiting" }) + now.sum(`${P}sessions_queued`) + now.sum(`${P}sessions_parked`), words: count, more: (now) => `${count(now.sum(`${P}sessions_parked`))} held for a switchover` },
  { name: "Servers", value: (now) => now.sum(`${P}pool_servers`), words: count, more: (now) => `${count(now.sum(`${P}pool_servers`, { state: "active" }))} in use` },
  { name: "Transactions", unit: "/s", value: (now, rate) => rate(`${P}transactions_total`), words: count },
  { name: "Queries", unit: "/s", value: (now, rate) => rate(`${P}queries_total`), words: count, more: (now, rate) => `${count(rate(`${P}reads_by_replicas_total`))}/s of the auto port by replicas` },
  { name: "Mean query", value: (now, rate) => mean(rate, "query"), words: duration },
  { name: "From clients", unit: "/s", value: (now, rate) => rate(`${P}received_bytes_total`), words: bytesOr },
  { name: "To clients", unit: "/s", value: (now, rate) => rate(`${P}sent_bytes_total`), words: bytesOr },
];

function bytesOr(value) {
  return value === null ? "–" : bytes(value);
}

function mean(rate, what, labels) {
  const [sum, number] = [rate(`${P}${what}_seconds_sum`, labels), rate(`${P}${what}_seconds_count`, labels)];
  return sum === null || !number ? null : sum / number;
}

class Sample {
  constructor(source) {
    this.at = performance.now();
    this.families = new Map();
    for (const line of source.split("\n")) {
      if (line.startsWith("#") || line.includes("_bucket{")) continue;
      const end = line.lastIndexOf(" ");
      if (end < 0) continue;
      const brace = line.indexOf("{");
      const name = line.slice(0, brace < 0 ? end : brace);
      const labels = brace < 0 ? {} : labelsOf(line.slice(brace + 1, end - 1));
      const values = this.families.get(name) ?? [];
      values.push({ labels, value: Number(line.slice(end + 1)) });
      this.families.set(name, values);
    }
  }

  sum(name, labels = {}) {
    const fits = (sample) => Object.entries(labels).every(([label, value]) => sample.labels[label] === value);
    return (this.families.get(name) ?? []).filter(fits).reduce((sum, sample) => sum + sample.value, 0);
  }

  owners() {
    const found = new Map();
    for (const name of [`${P}transactions_total`, `${P}pool_sessions`]) {
      for (const { labels } of this.families.get(name) ?? []) found.set(`${labels.database}\n${labels.user}`, { database: labels.database, user: labels.user });
    }
    return [...found].map(([key, labels]) => ({ key, labels }));
  }
}

function labelsOf(source) {
  const labels = {};
  const unescaped = { "\\\\": "\\", '\\"': '"', "\\n": "\n" };
  for (const [, name, value] of source.matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value.replace(/\\./g, (pair) => unescaped[pair] ?? pair);
  return labels;
}

/// How much a counter grew a second since the sample before; `null` when that is not known.
function rateBetween(old, now) {
  return (name, labels) => {
    if (!old) return null;
    const grown = now.sum(name, labels) - old.sum(name, labels);
    return grown < 0 ? null : (grown * 1000) / (now.at - old.at);
  };
}

async function look() {
  if (document.hidden) return;
  let now;
  try {
    now = new Sample(await ask("/metrics", { plain: true }));
  } catch {
    before = null;
    for (const tile of TILES) point(tile, null, "", "");
    return;
  }
  // After a long pause the mean over it is no rate of now.
  const old = before && now.at - before.at < 3 * LOOK_MS ? before : null;
  const rate = rateBetween(old, now);
  for (const tile of TILES) {
    const value = tile.value(now, rate);
    point(tile, value, tile.words(value), tile.more?.(now, rate) ?? "");
  }
  pools(now, rate);
  before = now;
}

function tileOf(tile) {
  const known = history.get(tile.name);
  if (known) return known;
  const figure = make("b");
  const more = make("span", { class: "more" });
  const line = makeSvg("svg", { viewBox: `0 0 ${POINTS - 1} 30`, preserveAspectRatio: "none", class: "spark", "aria-hidden": "true" });
  line.append(makeSvg("path", { class: "area" }), makeSvg("path", { class: "line" }));
  const element = make("li", {}, make("span", { class: "label" }, tile.name), make("p", {}, figure, make("span", { class: "unit" }, tile.unit ?? "")), more, line);
  $("tiles").append(element);
  const made = { points: [], figure, more, line, element };
  history.set(tile.name, made);
  return made;
}

function point(tile, value, words, more) {
  const made = tileOf(tile);
  made.points.push(value);
  if (made.points.length > POINTS) made.points.shift();
  text(made.figure, words || "–");
  text(made.more, more);
  const top = Math.max(...made.points.map((v) => v ?? 0), 1e-9) * 1.15;
  const x = (index) => POINTS - made.points.length + index;
  const y = (v) => (29 - (v / top) * 27).toFixed(1);
  let [line, area, begun] = ["", "", null];
  const close = (index) => {
    if (begun !== null) area += `L${x(index)} 30L${x(begun)} 30Z`;
    begun = null;
  };
  made.points.forEach((v, index) => {
    if (v === null) return close(index - 1);
    line += `${begun === null ? "M" : "L"}${x(index)} ${y(v)}`;
    area += `${begun === null ? "M" : "L"}${x(index)} ${y(v)}`;
    begun ??= index;
  });
  close(made.points.length - 1);
  attr(made.line.children[0], "d", area);
  attr(made.line.children[1], "d", line);
}

function pools(now, rate) {
  const all = now.owners().map(({ key, labels }) => ({
    key,
    cells: [
      labels.database,
      labels.user,
      count(now.sum(`${P}pool_sessions`, labels)),
      count(now.sum(`${P}pool_sessions`, { ...labels, state: "active" })),
      count(now.sum(`${P}pool_sessions`, { ...labels, state: "waiting" })),
      count(now.sum(`${P}pool_servers`, labels)),
      count(now.sum(`${P}pool_servers`, { ...labels, state: "active" })),
      count(rate(`${P}transactions_total`, labels)),
      count(rate(`${P}queries_total`, labels)),
      duration(mean(rate, "query", labels)),
    ],
    weight: now.sum(`${P}queries_total`, labels),
  }));
  all.sort((left, right) => right.weight - left.weight);
  const shown = all.slice(0, ROWS_MAX);
  keyed($("pool-rows"), shown, (row) => row.key, (row) => make("tr", {}, ...row.cells.map((_, index) => make("td", index > 1 ? { class: "n" } : {}))), (element, row) => row.cells.forEach((cell, index) => text(element.children[index], cell)));
  show($("pools"), shown.length);
  show($("pools-none"), !shown.length);
  const hidden = all.length - shown.length;
  const note = $("pools-none");
  if (hidden > 0) text(note, `and ${hidden} more with less traffic; /metrics has them all`);
  show(note, !shown.length || hidden > 0);
}

export function start() {
  TILES.forEach(tileOf);
  look();
  setInterval(look, LOOK_MS);
}
