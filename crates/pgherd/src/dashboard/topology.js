// The nodes as cards, and the WAL that flows between them as arrows: from left to right, on a narrow screen from top to
// bottom. A card stays the same element whatever happens to its node; only its place and its words change.

import { $, attr, keyed, make, makeSvg, show, text } from "./dom.js";
import { bytes, isWell, progress, state } from "./words.js";

const herd = $("herd");
const flows = $("flows");
const cards = new Map();
const links = new Map();
let drawn = [];

new ResizeObserver(() => draw()).observe(herd);

/// `act(button, node)` opens what can be done with a node.
export function topology(report, act) {
  const places = place(report);
  const shown = [...report.nodes.map((node) => ({ key: node.name, node })), ...ghost(report)];
  keyed(herd, shown, (item) => item.key, (item) => (item.node ? card(item.node, act) : absent()), (element, item) => {
    if (item.node) update(element, item.node, report);
    else text(element.words, item.words), text(element.headline, item.title);
    const at = places.get(item.key);
    element.style.gridColumn = `${at.column}`;
    element.style.gridRow = `${at.row} / span ${at.rows}`;
    element.style.order = `${at.order}`;
    element.style.setProperty("--depth", at.column - 1);
  });
  herd.style.setProperty("--columns", Math.max(...[...places.values()].map((at) => at.column)));
  drawn = arrows(report);
  requestAnimationFrame(draw);
}

const GHOST = "\u0000";

/// What is not a node of ours and yet the beginning of the picture: the origin, or the primary that there is not.
function ghost(report) {
  if (report.origin) {
    const { sender, primary, hosts } = report.origin;
    return [{ key: GHOST, title: "Origin", words: sender ?? primary ?? hosts.join(", ") }];
  }
  const nobody = !report.nodes.some((node) => node.name === report.primary || isPrimary(node));
  return nobody ? [{ key: GHOST, title: "No primary", words: report.reason || "nobody takes writes now" }] : [];
}

const isPrimary = (node) => node.role === "primary" && node.state !== "unreachable";

/// A tree: who follows whom. Each row is a leaf, and a parent is as high as what follows it.
function place(report) {
  const known = new Set(report.nodes.map((node) => node.name));
  const first = (node) => node.name === report.primary || isPrimary(node);
  const root = report.nodes.find((node) => node.name === report.primary)?.name ?? report.nodes.find(first)?.name ?? GHOST;
  const parent = (node) => {
    if (node.name === root) return null;
    return node.upstream && known.has(node.upstream) && node.upstream !== node.name ? node.upstream : root;
  };
  const children = new Map();
  for (const node of report.nodes) {
    const above = parent(node);
    if (above !== null) children.set(above, [...(children.get(above) ?? []), node.name]);
  }
  const places = new Map();
  let row = 1;
  const walk = (name, column) => {
    if (places.has(name)) return;
    const at = { column, row, rows: 1, order: places.size };
    places.set(name, at);
    for (const child of children.get(name) ?? []) walk(child, column + 1);
    if (row === at.row) row += 1;
    at.rows = row - at.row;
  };
  walk(root, 1);
  // Nodes that follow each other in a ring, for a moment of confusion, still have a place.
  for (const node of report.nodes) walk(node.name, 2);
  return places;
}

function arrows(report) {
  const names = new Set(report.nodes.map((node) => node.name));
  const follows = (node) => node.upstream && names.has(node.upstream);
  const found = report.nodes.filter(follows).map((node) => ({ from: node.upstream, to: node.name, sync: node.sync, live: node.state === "streaming", lag: node.lag_bytes }));
  const head = report.origin?.head;
  if (head) found.push({ from: GHOST, to: head, sync: false, live: Boolean(report.origin.sender), lag: report.origin.lag_bytes });
  return found;
}

function absent() {
  const element = make("article", { class: "card ghost" });
  element.headline = make("h3");
  element.words = make("p");
  element.append(element.headline, element.words);
  cards.set(GHOST, element);
  return element;
}

function fact(list, name) {
  const value = make("dd");
  const row = make("div", {}, make("dt", {}, name), value);
  list.append(row);
  return { row, value };
}

function card(node, act) {
  const element = make("article", { class: "card", "data-node": node.name, "aria-label": `Node ${node.name}` });
  const more = make("button", { type: "button", class: "quiet more", "aria-haspopup": "menu", "aria-label": `Actions for ${node.name}` }, "Actions");
  const list = make("dl");
  const part = (element.parts = {
    role: make("span", { class: "role" }),
    state: make("p", { class: "state" }, make("span", { class: "dot", "aria-hidden": "true" })),
    words: make("span"),
    marks: make("p", { class: "marks" }),
    bar: make("progress", { max: 1, hidden: true }),
    lag: fact(list, "Behind"),
    lsn: fact(list, "WAL"),
    timeline: fact(list, "Timeline"),
    disk: fact(list, "Disk free"),
    heard: fact(list, "Last word"),
    more,
  });
  part.state.append(part.words);
  element.append(make("header", {}, make("h3", {}, node.name), part.role, more), part.state, part.bar, list, part.marks);
  more.addEventListener("click", () => act(more, element.node));
  cards.set(node.name, element);
  return element;
}

function update(element, node, report) {
  const { parts: part } = element;
  element.node = node;
  const isAway = node.state === "unreachable";
  const open = report.primary === node.name && !isAway;
  attr(element, "data-role", open ? "open" : node.role);
  attr(element, "data-health", isWell(node) ? "ok" : isAway ? "away" : node.role === "unknown" ? "bad" : "busy");
  text(part.role, isAway && node.role !== "witness" ? "was " + node.role : node.role);
  text(part.words, state(node, report));
  const work = node.condition?.progress;
  show(part.bar, work);
  if (work) {
    attr(part.bar, "value", work.total_bytes ? Math.min(1, work.done_bytes / work.total_bytes) : null);
    attr(part.bar, "aria-label", progress(work));
  }
  const isFull = node.role !== "witness" && node.role !== "router";
  const follows = node.role === "replica" || node.role === "head" || node.role === "unknown";
  fill(part.lag, isFull && follows && !open, isAway || node.lag_bytes === null ? "unknown" : bytes(node.lag_bytes));
  fill(part.lsn, isFull, node.lsn ?? "unknown");
  fill(part.timeline, isFull, node.timeline ?? "unknown");
  fill(part.disk, isFull, bytes(node.condition?.free_bytes));
  element.heardAt = node.last_contact_ms === null ? null : performance.now() - node.last_contact_ms;
  fill(part.heard, !node.healthy && node.name !== report.from, age(element));
  const marks = marksOf(node);
  keyed(part.marks, marks, (mark) => mark.word, (mark) => make("span", { class: `mark ${mark.kind ?? ""}`, title: mark.means }, mark.word), () => {});
  show(part.marks, marks.length);
}

function marksOf(node) {
  const { tags = {} } = node;
  const isAway = node.state === "unreachable";
  return [
    node.sync && { word: "sync", kind: "sync", means: "Its flush counts for commits" },
    !isAway && node.paused && { word: "paused", kind: "warn", means: "Its agent does nothing by itself" },
    !isAway && node.fencer?.state === "armed" && { word: "fencer armed", means: "Clients are cut if its agent falls silent" },
    tags.nofailover && { word: "nofailover", means: "It never becomes primary" },
    tags.nosync && { word: "nosync", means: "It never confirms commits" },
    tags.noloadbalance && { word: "noloadbalance", means: "It gets no read-only sessions" },
    tags.clonefrom && { word: "clonefrom", means: "Others copy from it by preference" },
    tags.zone && { word: `zone ${tags.zone}`, means: "Where it stands" },
  ].filter(Boolean);
}

function fill(fact, visible, value) {
  show(fact.row, visible);
  if (visible) text(fact.value, value);
}

function age(element) {
  if (element.heardAt === null || element.heardAt === undefined) return "never";
  const seconds = Math.max(0, (performance.now() - element.heardAt) / 1000);
  return seconds < 120 ? `${Math.round(seconds)} s ago` : `${Math.round(seconds / 60)} min ago`;
}

/// The ages go on by themselves, each second.
export function tick() {
  for (const element of cards.values()) {
    if (element.parts && !element.parts.heard.row.hidden) text(element.parts.heard.value, age(element));
  }
}

/// The arrows, along the cards as they stand.
function draw() {
  const box = herd.getBoundingClientRect();
  attr(flows, "viewBox", `0 0 ${box.width} ${box.height}`);
  const isNarrow = getComputedStyle(herd).display === "flex";
  const wanted = new Set(drawn.map((arrow) => arrow.to));
  for (const [name, link] of links) {
    if (!wanted.has(name)) {
      link.remove();
      links.delete(name);
    }
  }
  for (const arrow of drawn) {
    const [from, to] = [cards.get(arrow.from), cards.get(arrow.to)];
    if (!from?.isConnected || !to?.isConnected) continue;
    let link = links.get(arrow.to);
    if (!link) {
      link = makeSvg("g");
      link.append(makeSvg("path", { class: "flow" }), makeSvg("path", { class: "tip" }), makeSvg("text", { "text-anchor": "end" }));
      links.set(arrow.to, link);
      flows.append(link);
    }
    const [a, b] = [from.getBoundingClientRect(), to.getBoundingClientRect()];
    const way = isNarrow ? down(a, b, box) : across(a, b, box);
    const [path, tip, label] = link.children;
    attr(path, "d", way.path);
    attr(path, "class", `flow${arrow.sync ? " sync" : ""}${arrow.live ? " live" : ""}`);
    attr(tip, "d", way.tip);
    attr(tip, "class", `tip${arrow.sync ? " sync" : ""}${arrow.live ? " live" : ""}`);
    text(label, isNarrow || !arrow.live || arrow.lag === null ? "" : bytes(arrow.lag));
    attr(label, "x", way.x);
    attr(label, "y", way.y);
  }
}

function across(a, b, box) {
  const [x1, y1] = [a.right - box.left + 2, a.top + a.height / 2 - box.top];
  const [x2, y2] = [b.left - box.left - 4, b.top + b.height / 2 - box.top];
  const bend = (x2 - x1) / 2;
  return {
    path: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2 - 6} ${y2}`,
    tip: `M${x2 - 9} ${y2 - 5}L${x2} ${y2}L${x2 - 9} ${y2 + 5}Z`,
    // On the outer side of the bend, where no line passes.
    x: x2 - 12,
    y: y2 > y1 + 4 ? y2 + 19 : y2 - 10,
  };
}

function down(a, b, box) {
  const x1 = a.left - box.left + 14;
  const [y1, x2, y2] = [a.bottom - box.top + 2, b.left - box.left - 3, b.top + 28 - box.top];
  return {
    path: `M${x1} ${y1}V${y2 - 8}Q${x1} ${y2} ${x1 + 7} ${y2}H${x2 - 4}`,
    tip: `M${x2 - 7} ${y2 - 4}L${x2} ${y2}L${x2 - 7} ${y2 + 4}Z`,
    x: 0,
    y: 0,
  };
}
