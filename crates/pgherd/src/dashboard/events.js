// What happened, newest first, with the rule and the reason of each; filtered by node and by text.

import { $, attr, make, show } from "./dom.js";
import { clock, day } from "./words.js";

/// More than a person reads; the nodes' own files have more.
const ROWS_MAX = 500;

const list = $("events");
const nodeChoice = $("events-node");
const textChoice = $("events-text");
const rows = [];
const known = new Set();
const nodes = new Set();
let waiting = [];

export function event(record) {
  const key = `${record.node} ${record.id} ${record.at}`;
  if (known.has(key)) return;
  known.add(key);
  // A stream begins with a page of them: they are put in with one turn of the document.
  if (waiting.push(record) === 1) requestAnimationFrame(putIn);
}

function putIn() {
  const fresh = waiting;
  waiting = [];
  for (const record of fresh) {
    const row = make(
      "li",
      { "data-node": record.node },
      make("time", { datetime: record.at, title: record.at }, ...(day(record.at) ? [make("span", { class: "day" }, day(record.at)), " "] : []), clock(record.at)),
      make("span", { class: "node" }, record.node),
      make("span", { class: "term", title: "term" }, record.term ? `t${record.term}` : ""),
      make("div", {}, make("p", { class: "what" }, record.what), ...(record.why ? [make("p", { class: "why" }, record.why)] : [])),
      make("code", { title: "the rule" }, record.rule),
    );
    row.record = record;
    row.words = `${record.what} ${record.why} ${record.rule} ${record.node}`.toLowerCase();
    const at = rows.findIndex((other) => other.record.at <= record.at);
    const before = at < 0 ? null : rows[at];
    list.insertBefore(row, before);
    rows.splice(at < 0 ? rows.length : at, 0, row);
    choice(record.node);
  }
  for (const old of rows.splice(ROWS_MAX)) {
    known.delete(`${old.record.node} ${old.record.id} ${old.record.at}`);
    old.remove();
  }
  filter();
}

function choice(node) {
  if (nodes.has(node)) return;
  nodes.add(node);
  const after = [...nodeChoice.options].slice(1).find((option) => option.value > node) ?? null;
  nodeChoice.insertBefore(make("option", { value: node }, node), after);
}

function filter() {
  const [node, words] = [nodeChoice.value, textChoice.value.trim().toLowerCase()];
  let shown = 0;
  for (const row of rows) {
    const fits = (!node || row.record.node === node) && (!words || row.words.includes(words));
    attr(row, "hidden", !fits);
    shown += fits;
  }
  const none = $("events-none");
  none.textContent = rows.length ? "No event fits." : "No events yet.";
  show(none, !shown);
  show(list, shown);
}

nodeChoice.addEventListener("change", filter);
textChoice.addEventListener("input", filter);
