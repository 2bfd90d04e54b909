//! Asking for something and watching it to its end.

use std::time::{Duration, Instant};

use brain::{Ask, Stage};
use clap::Args;

use super::client::{Change, Client};
use super::failure::{Exit, Failure};
use super::interrupt::Interrupt;
use super::target::TargetArgs;
use super::{OutputArgs, print, print_json};
use crate::api::{Accepted, RequestReport};

/// Often enough for a step of a switchover, seldom enough for a node.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How a command that asks for something waits for its end; shared by all of them.
#[derive(Args, Debug, Clone)]
pub struct WaitArgs {
    /// How long to watch, such as 30s or 5min
    #[arg(long, value_name = "DURATION", default_value = "2min", value_parser = duration)]
    wait: Duration,
    /// Return at once; pgherd requests ID tells the rest
    #[arg(long)]
    pub no_wait: bool,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `30s`, `5min`, `2h`, or whole seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "" | "s" => 1,
        "min" | "m" => 60,
        "h" => 3_600,
        _ => return Err("expected a whole number and one of s, min, h, such as 30s".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a whole number first, such as 30s".to_owned())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| "too long".to_owned())
}

/// Asks; the request to follow, when there is one.
pub fn submit(client: &Client, ask: &Ask) -> Result<Option<u64>, Failure> {
    let body = serde_json::to_value(ask)
        .map_err(|error| Failure::new(Exit::General, "the request cannot be written as JSON").why(error))?;
    let Accepted { id } = client.change(Change::Post(&body), "/api/v1/requests")?;
    Ok(id)
}

/// Asks, and watches until it has ended. An error unless it is done.
pub fn carry_out(ask: &Ask, args: &WaitArgs) -> Result<(), Failure> {
    let client = Client::new(&args.target)?;
    let Some(id) = submit(&client, ask)? else { return Ok(()) };
    if args.no_wait {
        return if args.output.is_json() {
            print_json(&Accepted { id: Some(id) })
        } else {
            print(&format!("request {id} is taken; see: pgherd requests {id}\n"))
        };
    }
    watch(&client, id, args)
}

/// Tells each step of request `id` until it has ended. An error unless it is done.
pub fn watch(client: &Client, id: u64, args: &WaitArgs) -> Result<(), Failure> {
    match look_on(client, id, args)? {
        Seen::Done => Ok(()),
        Seen::Failed(failure) | Seen::Late(failure) | Seen::Interrupted(failure) => Err(failure),
    }
}

/// What was seen of a request.
pub enum Seen {
    Done,
    Failed(Failure),
    /// It has not ended in time.
    Late(Failure),
    /// Whoever watched has had enough.
    Interrupted(Failure),
}

/// As `watch`, with the ways to end told apart.
pub fn look_on(client: &Client, id: u64, args: &WaitArgs) -> Result<Seen, Failure> {
    let interrupt = Interrupt::listen()?;
    let begun = Instant::now();
    let mut told: Option<(Stage, String)> = None;
    let path = format!("/api/v1/requests/{id}");
    let next = format!("pgherd requests {id} tells how it goes on");
    loop {
        // In the middle of a hand-over a node may be a moment behind, or the one that was asked may be gone.
        let seen = client.ask_each::<RequestReport>(|_| path.clone()).ok();
        let newest = seen.into_iter().flatten().flatten().max_by_key(|request| (request.stage, request.term));
        if let Some(request) = newest {
            let step = (request.stage, request.note.clone());
            if told.as_ref() != Some(&step) && !args.output.is_json() {
                print(&line(&request, begun))?;
            }
            told = Some(step);
            if request.stage.is_final() {
                return Ok(match finish(&request, args) {
                    Ok(()) => Seen::Done,
                    Err(failure) => Seen::Failed(failure),
                });
            }
        }
        if begun.elapsed() > args.wait {
            let waited = args.wait.as_secs();
            let what = format!("request {id} has not ended within {waited} s");
            return Ok(Seen::Late(Failure::new(Exit::Unfinished, what).next(next)));
        }
        if interrupt.wait(LOOK_INTERVAL) {
            let what = format!("request {id} goes on without being watched");
            return Ok(Seen::Interrupted(Failure::new(Exit::Unfinished, what).next(next)));
        }
    }
}

fn finish(request: &RequestReport, args: &WaitArgs) -> Result<(), Failure> {
    if args.output.is_json() {
        print_json(request)?;
    }
    match request.stage {
        Stage::Failed => {
            Err(Failure::new(Exit::Unfinished, format!("request {} failed", request.id)).why(&request.note))
        }
        _ => Ok(()),
    }
}

fn line(request: &RequestReport, begun: Instant) -> String {
    let note = if request.note.is_empty() { "taken" } else { &request.note };
    format!("{:>6.1} s  {:<10} {note}\n", begun.elapsed().as_secs_f64(), request.stage.word())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5min"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7_200)));
        for wrong in ["", "s", "5 weeks", "-1s", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
