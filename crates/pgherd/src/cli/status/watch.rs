//! `pgherd status --watch`: the screen again each second.
//!
//! On a terminal it draws on the alternate screen and leaves the terminal as it was, also after Ctrl-C. In a pipe it
//! writes one screen after the other, with JSON one object a line.

use std::io::{IsTerminal, Read, Write};
use std::time::Duration;

use rustix::termios::{self, LocalModes, OptionalActions, Termios};

use super::table;
use crate::cli::client::Client;
use crate::cli::failure::{Exit, Failure};
use crate::cli::interrupt::Interrupt;
use crate::cli::print;

const REDRAW_INTERVAL: Duration = Duration::from_secs(1);
const ENTER_ALTERNATE_HIDE_CURSOR: &str = "\x1b[?1049h\x1b[?25l";
const SHOW_CURSOR_LEAVE_ALTERNATE: &str = "\x1b[?25h\x1b[?1049l";
const HOME_AND_CLEAR_BELOW: &str = "\x1b[H\x1b[J";

pub fn watch(client: &Client, json: bool) -> Result<(), Failure> {
    let interrupt = Interrupt::listen()?;
    if json || !std::io::stdout().is_terminal() {
        return stream(client, json, &interrupt);
    }
    let _screen = Screen::enter(&interrupt)?;
    loop {
        let body = match client.status() {
            Ok(answered) => table::screen(&answered),
            // A cluster that is away may come back: the screen goes on.
            Err(failure) => format!("{failure}\n"),
        };
        let text = body.replace('\n', "\x1b[K\n");
        print(&format!("{HOME_AND_CLEAR_BELOW}{text}\nq or Ctrl-C ends\n"))?;
        if interrupt.wait(REDRAW_INTERVAL) {
            return Ok(());
        }
    }
}

fn stream(client: &Client, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    loop {
        match client.status() {
            Ok(answered) if json => {
                let line = serde_json::to_string(&answered.report).map_err(|error| {
                    Failure::new(Exit::General, "the answer cannot be written as JSON").why(error)
                })?;
                print(&format!("{line}\n"))?;
            }
            Ok(answered) => print(&format!("{}\n", table::screen(&answered)))?,
            Err(failure) => eprintln!("{failure}"),
        }
        if interrupt.wait(REDRAW_INTERVAL) {
            return Ok(());
        }
    }
}

/// The alternate screen with single keys; the terminal is as before when this is dropped.
struct Screen {
    before: Option<Termios>,
}

impl Screen {
    fn enter(interrupt: &Interrupt) -> Result<Screen, Failure> {
        let before = take_single_keys(interrupt);
        print(ENTER_ALTERNATE_HIDE_CURSOR)?;
        Ok(Screen { before })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = std::io::stdout().lock();
        // Nothing is left to do for a terminal that does not take its own restoration.
        let _ = out.write_all(SHOW_CURSOR_LEAVE_ALTERNATE.as_bytes()).and_then(|()| out.flush());
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Keys without Return and without echo, and a thread that ends the watch at `q`; `None` when input is no terminal.
fn take_single_keys(interrupt: &Interrupt) -> Option<Termios> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return None;
    }
    let before = termios::tcgetattr(&stdin).ok()?;
    let mut single = before.clone();
    single.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
    termios::tcsetattr(&stdin, OptionalActions::Now, &single).ok()?;
    let interrupt = interrupt.clone();
    // The thread ends with the process: a read of the terminal cannot be called off.
    std::thread::spawn(move || {
        let quit =
            std::io::stdin().lock().bytes().map_while(Result::ok).any(|key| matches!(key, b'q' | b'Q'));
        if quit {
            interrupt.raise();
        }
    });
    Some(before)
}
