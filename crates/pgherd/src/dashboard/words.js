// What the reports mean, in words. It says what `pgherd status` says on a terminal.

const UNITS = ["B", "kB", "MB", "GB", "TB"];

export function bytes(count) {
  if (count === null || count === undefined) return "unknown";
  let unit = 0;
  while (count >= 1024 && unit < UNITS.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit === 0 || count >= 10 ? Math.round(count) : count.toFixed(1)} ${UNITS[unit]}`;
}

/// A rate or a number of things: three digits at most.
export function count(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  return value >= 10 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(1);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  return `${Math.round(seconds / 60)} min`;
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

export function clock(at) {
  const time = new Date(at);
  return Number.isNaN(time.getTime()) ? at : CLOCK.format(time);
}

export function day(at) {
  const time = new Date(at);
  const isToday = time.toDateString() === new Date().toDateString();
  return Number.isNaN(time.getTime()) || isToday ? "" : DAY.format(time);
}

export const names = (list) => (list.length < 2 ? list.join("") : `${list.slice(0, -1).join(", ")} and ${list.at(-1)}`);

/// `ANY 1 (n2, n3)`
export function sync(report) {
  const { mode, k, members } = report.sync;
  return { quorum: `ANY ${k} (${members.join(", ")})`, async: "off (asynchronous)", degraded: "DEGRADED", standby: "off (standby cluster)" }[mode] ?? mode;
}

/// One word on the state of a node, for a person.
export function state(node, report) {
  if (node.state === "running" && node.role === "primary") return report.primary === node.name ? "open for writes" : "not open";
  // A standby that streams says so.
  if (node.state === "standby") return "not streaming";
  return node.state || "unknown";
}

const WELL = ["running", "streaming", "voting"];

/// It does what it is there for. A node that has just begun to copy or to stop may still be called healthy.
export const isWell = (node) => node.healthy && WELL.includes(node.state);

/// The one sentence when all is well.
export function calm(report) {
  if (report.origin) return `All is well. This standby cluster follows ${report.origin.sender ?? report.origin.hosts.join(", ")}; nobody writes here.`;
  const { mode, k, members } = report.sync;
  const how = {
    quorum: members.length > k ? `a commit is acknowledged once it is also on ${k} of ${names(members)}` : `a commit is acknowledged once it is also on ${names(members)}`,
    async: "commits are acknowledged by it alone, so a takeover may lose some",
  }[mode];
  return `All is well. ${report.primary} takes writes${how ? `; ${how}` : ""}.`;
}

/// What is wrong now, worst first: `{ level, text }`, the level `bad`, `warn` or `note`.
export function troubles(report) {
  const found = [];
  const say = (level, words) => found.push({ level, text: words });
  cluster(report, say);
  for (const node of report.nodes) ofNode(node, report, say);
  const order = { bad: 0, warn: 1, note: 2 };
  return found.sort((left, right) => order[left.level] - order[right.level]);
}

/// Too few members are there to confirm a commit.
export function commitsWait({ sync, nodes }) {
  return sync.mode === "quorum" && nodes.filter((node) => node.sync && node.healthy).length < sync.k;
}

function cluster(report, say) {
  const { origin, sync } = report;
  if (origin && !origin.sender) {
    say("bad", `Nothing comes from the cluster that is followed: ${origin.seen}. It last streamed at ${origin.streamed_at ?? "an unknown time"}.`);
  } else if (!origin && !report.primary) {
    say("bad", `No open primary: ${report.reason || "the view gives no reason"}.`);
  } else if (!origin && report.reason) {
    say("warn", `${report.reason}.`);
  }
  if (sync.mode === "degraded") say("bad", "The last standby is lost: commits are on the primary alone.");
  if (sync.mode === "async") say("note", "Replication is asynchronous: a takeover may lose commits.");
  const sound = report.nodes.filter((node) => node.sync && node.healthy).length;
  if (commitsWait(report)) say("bad", `Commits wait: ${sound} of the ${sync.k} members that must flush can do so.`);
  if (report.paused_until) say("warn", `Paused until ${clock(report.paused_until)}: nothing is started, taken over or rebuilt by itself.`);
}

function ofNode(node, report, say) {
  const { name, condition = {}, fencer } = node;
  if (!isWell(node)) {
    const why = node.receiver_note ? `: ${node.receiver_note}` : node.why?.length ? `: ${node.why.join("; ")}` : ".";
    say(node.state === "unreachable" || node.state === "stopped" ? "bad" : "warn", `${name} is ${state(node, report)}${why}`);
  }
  if (condition.disk_full) say("bad", `${name}: the disk is full (${bytes(condition.free_bytes)} free); make room, it goes on by itself.`);
  if (condition.crowded) say("bad", `${name}: no free connection slot; end some sessions, or raise max_connections.`);
  if (condition.hung) say("bad", `${name}: PostgreSQL answers no new connection.`);
  if (condition.stuck) say("bad", `${name}: ${condition.stuck}`);
  if (condition.outgrown) say("warn", `${name}: replay has stopped, the primary's settings are larger; it is restarted by itself.`);
  if (condition.progress) say("note", `${name}: ${progress(condition.progress)}.`);
  for (const lost of (condition.lost ?? []).slice(-3)) {
    say("warn", `${name}: ${lost.transactions} transactions in ${lost.relations} tables (${bytes(lost.bytes)} of WAL) left history at ${lost.fork}; listed in ${lost.listed}`);
  }
  for (const setting of condition.pending ?? []) {
    say("note", `${name}: ${setting.name} is ${setting.old} and becomes ${setting.new} with a restart${setting.note ? `; ${setting.note}` : ""}.`);
  }
  if (fencer?.state === "missing") say("bad", `${name} has no fencer: nothing ends its server if its agent dies.`);
  if (fencer?.state === "fencing") say("bad", `${name}: its fencer is cutting its clients off.`);
  if (fencer?.obstacle) say("bad", `${name}: ${fencer.obstacle}`);
  if (node.upstream_note) say("warn", `${name} does not replicate from the replica in its tags: ${node.upstream_note}`);
  if (node.receiver_note && node.healthy) say("warn", `${name} receives no WAL: ${node.receiver_note}`);
  for (const missing of node.slots?.missing ?? []) say("warn", `${name}: slot not ready: ${missing}`);
  for (const slot of node.slots?.slots ?? []) ofSlot(node, slot, say);
}

const NEAR_BUDGET = 0.8;

function ofSlot(node, slot, say) {
  const about = `Slot ${slot.name} on ${node.name} (${slot.owner ?? "no owner"})`;
  if (slot.lost) say("bad", `${about} is lost: ${slot.lost}`);
  else if (slot.held_bytes >= slot.budget_bytes * NEAR_BUDGET) say("warn", `${about} holds ${bytes(slot.held_bytes)} of WAL, its budget is ${bytes(slot.budget_bytes)}.`);
  else if (slot.holds_back_vacuum && (node.role === "primary" || !slot.kept)) say("warn", `${about} is read by nobody and holds back vacuum.`);
}

export function progress({ what, done_bytes, total_bytes }) {
  if (!total_bytes) return `${what}, ${bytes(done_bytes)} so far`;
  return `${what} ${Math.min(100, Math.floor((done_bytes * 100) / total_bytes))} % (${bytes(done_bytes)} of ${bytes(total_bytes)})`;
}

/// What was asked for, in a few words.
export function asked(request) {
  const forced = request.force ? ", by force" : "";
  switch (request.kind) {
    case "switchover":
      return `switchover${request.to ? ` to ${request.to}` : ""}${forced}`;
    case "failover":
      return `failover to ${request.to}`;
    case "demote":
      return `demotion to a standby of ${request.hosts.join(", ")}`;
    case "promote":
      return `promotion${forced}`;
    default:
      return `${request.kind} of ${request.node}${forced}`;
  }
}

/// What may be lost by a failover to `to`, as far as it is known here.
export function loss(report, to) {
  const lsn = (node) => (node?.lsn ? node.lsn.split("/").reduce((high, low) => high * 2 ** 32 + parseInt(low, 16), 0) : null);
  const own = lsn(report.nodes.find((node) => node.name === to));
  const furthest = Math.max(...report.nodes.map((node) => lsn(node) ?? 0));
  const silent = report.nodes.filter((node) => node.state === "unreachable").map((node) => node.name);
  const known = own === null ? `Nothing is known of the WAL of ${to}.` : own < furthest ? `${to} lacks ${bytes(furthest - own)} of WAL that are known of.` : `${to} has all WAL that is known of.`;
  const more = silent.length ? ` ${names(silent)} may have acknowledged more and cannot be asked.` : "";
  return `${known}${more} The sync set is ${sync(report)}.`;
}
