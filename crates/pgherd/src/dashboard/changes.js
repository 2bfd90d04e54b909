// What people change: each change is said in full before it is asked for, and followed to its end afterwards. What can
// lose or copy data wants the cluster's name typed.

import { Refused, ask, logIn, logOut } from "./link.js";
import { $, attr, keyed, make, show, text } from "./dom.js";
import { asked, clock, loss, names } from "./words.js";

const STAGES = { switchover: ["waiting", "preparing", "holding", "stopping", "done"], other: ["waiting", "running", "done"] };
const CANCELLABLE = ["waiting", "preparing", "holding"];
/// Requests that have ended stay in sight for so long.
const ENDED_MS = 10 * 60_000;
const FOLLOW_MS = 400;

let report = null;
let me = { user: null, role: "viewer", by: "nobody" };
let renew = () => {};
let announce = () => {};
const mayChange = () => me.role === "operator" || me.role === "admin";

export function start(on) {
  ({ renew, announce } = on);
  whoAmI();
}

// ---- who is asking

async function whoAmI() {
  try {
    me = await ask("/api/v1/me");
  } catch (error) {
    // A node that knows no log-in takes changes from its own machine, and refuses others itself.
    if (error.status === 404) me = { user: null, role: "admin", by: "loopback" };
    else if (error.status === 401) me = { user: null, role: "viewer", by: "nobody" };
    else return;
  }
  showMe();
}

function showMe() {
  const login = $("login");
  show(login, me.by !== "loopback");
  text(login, me.by === "password" ? `Log out ${me.user}` : "Log in");
  buttons();
}

let afterLogin = null;

$("login").addEventListener("click", () => {
  if (me.by !== "password") return askLogin();
  logOut();
  whoAmI().then(renew);
});

function askLogin(then = null) {
  afterLogin = then;
  text($("login-error"), "");
  $("login-password").value = "";
  if (!$("login-dialog").open) $("login-dialog").showModal();
}

$("login-cancel").addEventListener("click", () => $("login-dialog").close());
$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  logIn($("login-user").value, $("login-password").value);
  try {
    me = await ask("/api/v1/me");
    if (me.by !== "password") throw new Refused(401, "the node does not take this name and password");
  } catch (error) {
    logOut();
    text($("login-error"), error.status === 401 ? "This name and password are not taken." : error.message);
    return;
  }
  $("login-dialog").close();
  $("login-password").value = "";
  showMe();
  renew();
  afterLogin?.();
});

/// The node says that nobody reads without a log-in.
export function mustLogIn() {
  if (!$("login-dialog").open) askLogin();
}

// ---- what may be done now

export function changes(status) {
  report = status;
  buttons();
  const moved = status.requests.map((request) => `${request.id} ${request.stage} ${request.note}`).join("\n");
  if (moved !== lastMoved) {
    lastMoved = moved;
    requests();
  }
}

let lastMoved = null;

function buttons() {
  const denied = mayChange() ? null : "This needs the role operator: log in";
  for (const button of [$("switchover"), $("pause")]) attr(button, "title", denied);
  const others = report?.nodes.filter((node) => node.role === "replica" && node.healthy) ?? [];
  $("switchover").disabled = !mayChange() || !report?.primary || !others.length;
  $("pause").disabled = !mayChange() || !report;
  text($("pause"), report?.paused_until ? "Resume…" : "Pause…");
}

$("switchover").addEventListener("click", () => confirm(switchover(null)));
$("pause").addEventListener("click", () => confirm(report.paused_until ? resume() : pause()));

/// The menu of one node.
export function menu(button, node) {
  const items = mayChange() ? possible(node) : [];
  const list = $("menu");
  list.replaceChildren(...items.map(({ label, change, why }) => {
    const item = make("button", { type: "button", role: "menuitem", disabled: Boolean(why) }, label, ...(why ? [make("small", {}, why)] : []));
    item.addEventListener("click", () => {
      list.hidePopover();
      button.focus();
      confirm(change());
    });
    return item;
  }));
  if (!items.length) list.append(make("p", {}, mayChange() ? "A node without PostgreSQL has nothing to change here." : "Changes need the role operator: log in."));
  const at = button.getBoundingClientRect();
  list.showPopover();
  const [width, height] = [list.offsetWidth, list.offsetHeight];
  list.style.left = `${Math.max(8, Math.min(at.right - width, innerWidth - width - 8))}px`;
  list.style.top = `${at.bottom + 6 + height > innerHeight ? Math.max(8, at.top - height - 6) : at.bottom + 6}px`;
  list.querySelector("button:not([disabled])")?.focus();
}

$("menu").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const items = [...$("menu").querySelectorAll("button:not([disabled])")];
  items.at((items.indexOf(document.activeElement) + step) % items.length)?.focus();
});

/// It hangs at its button, which is elsewhere now.
function closeMenu() {
  if ($("menu").matches(":popover-open")) $("menu").hidePopover();
}

addEventListener("resize", closeMenu);
addEventListener("scroll", closeMenu, { passive: true });

function possible(node) {
  if (node.role === "witness" || node.role === "router") return [];
  const { primary, origin } = report;
  const isLead = primary === node.name || origin?.head === node.name;
  const away = node.state === "unreachable" ? "it does not answer" : null;
  const items = [];
  if (primary === node.name) items.push({ label: "Hand over to another node…", change: () => switchover(null) });
  else if (primary) items.push({ label: "Make it primary…", change: () => switchover(node.name), why: node.tags?.nofailover ? "it is tagged nofailover" : node.healthy ? null : "it is not healthy" });
  else if (!origin) items.push({ label: "Force it to be primary…", change: () => failover(node.name), why: away });
  items.push({ label: "Restart PostgreSQL…", change: () => restart(node), why: away });
  items.push({ label: "Reload the configuration…", change: () => reload(node), why: away });
  items.push({ label: "Copy its data anew…", change: () => reinit(node), why: isLead ? "the others follow it" : away });
  return items;
}

// ---- each change: what it is, what it does, how it is asked for

const post = (body) => ({ path: "/api/v1/requests", options: { method: "POST", body } });

function switchover(to) {
  const able = report.nodes.filter((node) => node.role === "replica" && node.name !== report.primary);
  return {
    title: to ? `Make ${to} the primary?` : `Hand over from ${report.primary}?`,
    words: [
      `${report.primary} stops taking writes and the new primary takes over. New transactions wait at the proxies meanwhile, usually for less than a second; running ones may end first. No commit is lost.`,
      "If a transaction does not end in time, or the new primary is not ready, nothing happens and the request says why.",
    ],
    targets: to ? null : able.map((node) => ({ value: node.name, label: `${node.name}${node.sync ? ", confirms commits" : ""}${node.healthy ? "" : `, ${node.state}`}` })),
    force: "Cut transactions that do not end by themselves in time",
    go: "Hand over",
    ask: (form) => post({ kind: "switchover", to: to ?? (form.to || null), force: form.force }),
  };
}

function failover(to) {
  return {
    title: `Force ${to} to be primary?`,
    words: [`There is no open primary. ${to} becomes primary with what it has, although too few members answer. Acknowledged commits may be lost.`, loss(report, to)],
    isGrave: true,
    go: "Force the failover",
    ask: () => post({ kind: "failover", to }),
  };
}

function restart(node) {
  const isPrimary = report.primary === node.name;
  return {
    title: `Restart PostgreSQL of ${node.name}?`,
    words: [
      isPrimary
        ? `${node.name} is the primary: transactions wait at the proxies while it stops and starts, then it goes on as primary. Should it not come back, another node takes over.`
        : `${node.name} stops, starts and follows again. Its read-only sessions are moved or told so.${node.sync ? " It confirms commits: the others of the sync set must do so meanwhile." : ""}`,
    ],
    force: isPrimary ? "Cut transactions that do not end by themselves in time" : "Also when commits have to wait meanwhile",
    go: "Restart",
    ask: (form) => post({ kind: "restart", node: node.name, force: form.force }),
  };
}

function reload(node) {
  return {
    title: `Reload the configuration of ${node.name}?`,
    words: ["Its file is read again, and what needs no restart is applied: parameters and lines of pg_hba.conf. Nothing is stopped."],
    go: "Reload",
    ask: () => post({ kind: "reload", node: node.name }),
  };
}

function reinit(node) {
  const left = report.sync.members.filter((name) => name !== node.name);
  return {
    title: `Copy the data of ${node.name} anew?`,
    words: [
      `${node.name} leaves the sync set, its data directory is moved aside, and everything is copied from another node. That takes as long as the database is large.`,
      left.length ? `Until it is back, commits are confirmed by ${names(left)} alone.` : "It is the last standby: until it has its copy nobody can take over.",
    ],
    isGrave: true,
    go: "Copy anew",
    ask: () => post({ kind: "reinit", node: node.name }),
  };
}

function pause() {
  return {
    title: "Pause the cluster?",
    words: ["Nothing is started, taken over or rebuilt by itself: a primary that dies stays dead until the pause ends. Fencing and promises go on. What you ask for here is done."],
    time: true,
    go: "Pause",
    ask: (form) => ({ path: "/api/v1/pause", options: { method: "POST", body: { seconds: Number(form.time) } } }),
    done: "The cluster is being paused.",
  };
}

function resume() {
  return {
    title: "Resume the cluster?",
    words: [`The pause, which would end by itself at ${clock(report.paused_until)}, ends now: nodes take over, start and rebuild by themselves again.`],
    go: "Resume",
    ask: () => ({ path: "/api/v1/pause", options: { method: "DELETE" } }),
    done: "The cluster goes on by itself again.",
  };
}

// ---- the dialog

let current = null;

function confirm(change) {
  current = change;
  text($("change-title"), change.title);
  $("change-text").replaceChildren(...change.words.map((words) => make("p", {}, words)));
  show($("change-to-row"), change.targets);
  if (change.targets) $("change-to").replaceChildren(make("option", { value: "" }, "the best candidate"), ...change.targets.map(({ value, label }) => make("option", { value }, label)));
  show($("change-for-row"), change.time);
  show($("change-force-row"), change.force);
  text($("change-force-text"), change.force);
  $("change-force").checked = false;
  show($("change-name-row"), change.isGrave);
  text($("change-name-is"), report.cluster);
  $("change-name").value = "";
  text($("change-error"), "");
  text($("change-go"), change.go);
  attr($("change"), "data-grave", change.isGrave);
  ready();
  $("change").showModal();
  if (change.isGrave) $("change-name").focus();
  else if (change.targets) $("change-to").focus();
  else $("change-go").focus();
}

function ready(isBusy = false) {
  $("change-go").disabled = isBusy || (current.isGrave && $("change-name").value !== report.cluster);
}

$("change-name").addEventListener("input", () => ready());
$("change-cancel").addEventListener("click", () => $("change").close());
$("change-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("change-go").disabled) carryOut();
});

async function carryOut() {
  const change = current;
  const { path, options } = change.ask({ to: $("change-to").value, time: $("change-for").value, force: $("change-force").checked });
  ready(true);
  text($("change-error"), "");
  try {
    const { id } = await ask(path, options);
    $("change").close();
    announce(id === null ? change.done : `Request ${id} is taken.`);
    requests();
  } catch (error) {
    if (error.status === 401) askLogin(carryOut);
    text($("change-error"), error.status === 401 ? "This needs a log-in." : error.message);
  }
  ready();
}

// ---- the requests, to their end

let following = null;
const told = new Map();

async function requests() {
  clearTimeout(following);
  following = null;
  let list;
  try {
    list = await ask("/api/v1/requests");
  } catch {
    following = setTimeout(requests, 2 * FOLLOW_MS);
    return;
  }
  const isActive = ({ stage }) => stage !== "done" && stage !== "failed";
  const isRecent = (request) => Date.now() - new Date(request.asked_at).getTime() < ENDED_MS;
  const shown = list.filter((request) => isActive(request) || isRecent(request)).reverse().slice(0, 6);
  keyed($("requests"), shown, (request) => request.id, row, update);
  show($("requests-none"), !shown.length);
  for (const request of shown) {
    if (told.get(request.id) === "under way" && !isActive(request)) announce(`Request ${request.id}, ${asked(request)}: ${request.stage}. ${request.note}`);
    told.set(request.id, isActive(request) ? "under way" : "ended");
  }
  if (shown.some(isActive)) following = setTimeout(requests, FOLLOW_MS);
}

function row(request) {
  const cancel = make("button", { type: "button", class: "quiet" }, "Cancel");
  const element = make("li", {});
  element.words = make("strong", {}, asked(request));
  element.stage = make("span", { class: "stage" });
  element.steps = make("ol", { class: "steps", "aria-hidden": "true" });
  element.note = make("p", { class: "why" });
  element.cancel = cancel;
  element.append(make("div", { class: "line" }, make("span", { class: "id" }, `#${request.id}`), element.words, element.stage, cancel), element.steps, element.note);
  cancel.addEventListener("click", async () => {
    cancel.disabled = true;
    try {
      await ask(`/api/v1/requests/${request.id}`, { method: "DELETE" });
    } catch (error) {
      if (error.status === 401) askLogin();
      text(element.note, error.message);
    }
    cancel.disabled = false;
    requests();
  });
  return element;
}

function update(element, request) {
  attr(element, "data-stage", request.stage);
  text(element.stage, request.stage);
  text(element.note, request.note);
  const handsOver = ["switchover", "restart"].includes(request.kind) && request.stage !== "running";
  const stages = handsOver ? STAGES.switchover : STAGES.other;
  const at = stages.indexOf(request.stage);
  keyed(element.steps, request.stage === "failed" ? [] : stages.map((stage, index) => ({ stage, index })), (step) => step.stage, (step) => make("li", {}, step.stage), (step, { index }) => attr(step, "data-at", index < at || request.stage === "done" ? "past" : index === at ? "now" : "ahead"));
  show(element.cancel, mayChange() && CANCELLABLE.includes(request.stage));
}
