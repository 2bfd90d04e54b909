//! A headless Chromium, driven over two pipes in the words of its DevTools protocol.
//!
//! What it is: one page that is loaded, looked at, clicked and typed into, and what it did on the network and the console.
//! What it is not: a library of waits; a test waits for conditions as everywhere ([`crate::wait`]).
//! Invariant: it ends with its owner: Chromium goes when its pipe closes, and is killed when it does not.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::wait::wait_at_most;

/// Debian's package `chromium`.
const PROGRAM: &str = "/usr/bin/chromium";
/// To start, on two cores beside a cluster, and for any answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// A page of a test says some hundreds of things.
const MESSAGES_MAX: usize = 100_000;

/// False where it is not installed: `cargo xtask test` does that.
pub fn is_installed() -> bool {
    Path::new(PROGRAM).exists()
}

pub struct Browser {
    child: Child,
    // Open for as long as the browser is to live.
    input: Option<RefCell<ChildStdin>>,
    messages: Receiver<Value>,
    state: RefCell<State>,
    _profile: TempDir,
}

#[derive(Default)]
struct State {
    last_id: u64,
    session: Option<String>,
    /// What was said without being asked.
    told: Vec<Value>,
}

impl Browser {
    /// With one empty page.
    pub fn start() -> Browser {
        let profile = tempfile::Builder::new().prefix("pgherd-browser-").tempdir().expect("a folder");
        // Chromium reads from 3 and writes to 4; Rust's standard library hands over only the first three.
        let script = "exec \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null";
        let mut child = Command::new("sh")
            .args(["-c", script, "sh", PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu"])
            .args(["--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking"])
            .arg("--remote-debugging-pipe")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let input = child.stdin.take().map(RefCell::new);
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let (tell, messages) = sync_channel(MESSAGES_MAX);
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while output.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else { return };
                if tell.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let browser = Browser { child, input, messages, state: RefCell::default(), _profile: profile };
        let page = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach)["sessionId"].as_str().map(str::to_owned);
        browser.state.borrow_mut().session = session;
        for part in ["Page", "Runtime", "Network", "Log"] {
            browser.call(&format!("{part}.enable"), json!({}));
        }
        browser
    }

    pub fn open(&self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// What the expression is worth, as JSON; an exception is a panic.
    #[track_caller]
    pub fn value(&self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", asked);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// The words of the first element that fits; empty when none does.
    #[track_caller]
    pub fn words(&self, selector: &str) -> String {
        let found = self.value(&format!("document.querySelector({selector:?})?.innerText ?? ''"));
        found.as_str().unwrap_or_default().to_owned()
    }

    /// A click of the mouse in its middle, wherever it is; false when it is not there or cannot be clicked now.
    #[track_caller]
    pub fn click(&self, selector: &str) -> bool {
        let place = self.value(&format!(
            "(() => {{
                const found = document.querySelector({selector:?});
                if (!found || found.disabled) return null;
                found.scrollIntoView({{ block: 'center', behavior: 'instant' }});
                const box = found.getBoundingClientRect();
                return box.width ? [box.x + box.width / 2, box.y + box.height / 2] : null;
            }})()"
        ));
        if place.is_null() {
            return false;
        }
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event);
        }
        true
    }

    /// A key, by its name: `Tab`, `Enter`, `Escape`, `ArrowDown`.
    pub fn press(&self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            "ArrowDown" => (40, ""),
            other => panic!("no key {other}"),
        };
        let event = |kind| json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
        let mut down = event(if text.is_empty() { "rawKeyDown" } else { "keyDown" });
        if !text.is_empty() {
            down["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", down);
        self.call("Input.dispatchKeyEvent", event("keyUp"));
    }

    pub fn type_in(&self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Exceptions, errors and warnings of the page, in the browser's words.
    pub fn complaints(&self) -> Vec<String> {
        self.hear();
        let told = &self.state.borrow().told;
        let of = |kind: &'static str| told.iter().filter(move |message| message["method"] == kind);
        let console = of("Runtime.consoleAPICalled").filter(|message| {
            matches!(message["params"]["type"].as_str(), Some("error" | "warning" | "assert"))
        });
        of("Runtime.exceptionThrown")
            .chain(of("Log.entryAdded"))
            .chain(console)
            .map(Value::to_string)
            .collect()
    }

    /// The addresses that the page has asked for.
    pub fn requests(&self) -> Vec<String> {
        self.hear();
        let told = &self.state.borrow().told;
        let asked = told.iter().filter(|message| message["method"] == "Network.requestWillBeSent");
        asked.filter_map(|message| Some(message["params"]["request"]["url"].as_str()?.to_owned())).collect()
    }

    /// How often a document was loaded.
    pub fn loads(&self) -> usize {
        self.hear();
        self.state.borrow().told.iter().filter(|message| message["method"] == "Page.loadEventFired").count()
    }

    fn hear(&self) {
        self.state.borrow_mut().told.extend(self.messages.try_iter());
    }

    #[track_caller]
    fn call(&self, method: &str, parameters: Value) -> Value {
        let mut state = self.state.borrow_mut();
        state.last_id += 1;
        let id = state.last_id;
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = &state.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut input = self.input.as_ref().expect("its input").borrow_mut();
        let bytes = [message.to_string().as_bytes(), b"\0"].concat();
        input.write_all(&bytes).expect("Chromium listens");
        loop {
            let answer = self.messages.recv_timeout(ANSWER_TIMEOUT);
            let answer = answer.unwrap_or_else(|error| panic!("{method}: Chromium does not answer: {error}"));
            if answer["id"] != id {
                state.told.push(answer);
                continue;
            }
            assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
            return answer["result"].clone();
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.input.take());
        let ended = wait_at_most(END_TIMEOUT, || self.child.try_wait().ok().flatten());
        if ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
