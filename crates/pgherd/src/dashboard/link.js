// The way to the node: questions, changes, and the stream that the page lives from.

/// The server says something at least every two seconds.
const SILENCE_MS = 5_500;
const AGAIN_MS_MIN = 400;
const AGAIN_MS_MAX = 4_000;
const ANSWER_MS_MAX = 10_000;

/// In the memory of this page, and nowhere else.
let authorization = null;

export function logIn(user, password) {
  const bytes = new TextEncoder().encode(`${user}:${password}`);
  authorization = `Basic ${btoa(String.fromCharCode(...bytes))}`;
}

export function logOut() {
  authorization = null;
}

/// With it the server leaves the asking to this page.
const headers = (more) => ({
  "X-Requested-With": "pgherd",
  ...(authorization && { Authorization: authorization }),
  ...more,
});

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/// What the node answers, as JSON or as it is. `Refused` when it says no, with status 0 when it says nothing.
export async function ask(path, { method = "GET", body, plain = false } = {}) {
  const signal = AbortSignal.timeout(ANSWER_MS_MAX);
  const more = body === undefined ? {} : { "Content-Type": "application/json" };
  let answer;
  try {
    answer = await fetch(path, { method, headers: headers(more), body: body && JSON.stringify(body), signal, cache: "no-store", credentials: "omit" });
  } catch {
    throw new Refused(0, "the node does not answer");
  }
  if (!answer.ok) throw new Refused(answer.status, await reason(answer));
  try {
    return plain ? await answer.text() : await answer.json();
  } catch {
    throw new Refused(0, "the node broke off its answer");
  }
}

async function reason(answer) {
  const said = await answer.json().catch(() => null);
  return said?.error ?? `the node answered ${answer.status} ${answer.statusText}`;
}

/// Follows the stream for ever. `on.status`, `on.event`: what it says; `on.live`, `on.lost(why, status, since)`: how it is.
export class Stream {
  #on;
  #last = "";
  #again = AGAIN_MS_MIN;
  #wake = () => {};
  #abort = null;
  /// When the node last said anything.
  #heardAt = performance.now();

  constructor(on) {
    this.#on = on;
    document.addEventListener("visibilitychange", () => document.hidden || this.#wake());
    addEventListener("online", () => this.#wake());
    this.#run();
  }

  /// Begins anew, as after a log-in.
  renew() {
    this.#abort?.abort();
    this.#again = AGAIN_MS_MIN;
    this.#wake();
  }

  async #run() {
    for (;;) {
      let lost = new Refused(0, "the connection has ended");
      try {
        await this.#follow();
      } catch (error) {
        if (error instanceof Refused) lost = error;
      }
      this.#on.lost(lost.message, lost.status, this.#heardAt);
      await new Promise((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, this.#again * (0.7 + 0.6 * Math.random()));
      });
      this.#again = Math.min(this.#again * 2, AGAIN_MS_MAX);
    }
  }

  async #follow() {
    const abort = (this.#abort = new AbortController());
    let silence;
    const patience = () => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(), SILENCE_MS);
    };
    const heard = () => {
      this.#heardAt = performance.now();
      patience();
    };
    patience();
    try {
      const more = { Accept: "text/event-stream", ...(this.#last && { "Last-Event-ID": this.#last }) };
      const answer = await fetch("/api/v1/stream", { headers: headers(more), signal: abort.signal, cache: "no-store", credentials: "omit" });
      if (!answer.ok) throw new Refused(answer.status, await reason(answer));
      this.#again = AGAIN_MS_MIN;
      heard();
      this.#on.live();
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        heard();
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        parts.forEach((part) => this.#message(part));
      }
    } finally {
      clearTimeout(silence);
    }
  }

  #message(part) {
    const message = { event: "", data: "", id: "" };
    for (const line of part.split("\n")) {
      const colon = line.indexOf(":");
      if (colon <= 0) continue;
      const name = line.slice(0, colon);
      if (name in message) message[name] += line.slice(colon + 1).replace(/^ /, "");
    }
    if (!message.data) return;
    if (message.id) this.#last = message.id;
    const tell = { status: this.#on.status, event: this.#on.event }[message.event];
    tell?.(JSON.parse(message.data));
  }
}
