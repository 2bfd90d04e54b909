//! The user's wish to end: Ctrl-C, SIGTERM or the terminal hanging up.
//!
//! Commands are blocking; a thread with a small runtime waits for the signals and wakes whoever waits here.
//! Invariant: the first signal asks for an orderly end and never kills the command by itself.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// Cloned freely; all clones see the same signal.
#[derive(Clone, Default)]
pub struct Interrupt {
    state: Arc<(Mutex<bool>, Condvar)>,
}

impl Interrupt {
    /// Takes the signals over for the rest of the process.
    pub fn listen() -> std::io::Result<Interrupt> {
        let interrupt = Interrupt::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        // The handlers are in place before this returns; only the waiting happens on the thread.
        let mut signals = {
            let _inside = runtime.enter();
            [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            ]
        };
        let raised = interrupt.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(async {
                let [interrupt, terminate, hangup] = &mut signals;
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            raised.raise();
        })?;
        Ok(interrupt)
    }

    /// As if the user had asked; `q` in a watched screen does this.
    pub fn raise(&self) {
        let (raised, changed) = &*self.state;
        *raised.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// Waits for at most `patience`; true once the end was asked for.
    pub fn wait(&self, patience: Duration) -> bool {
        let (raised, changed) = &*self.state;
        let guard = raised.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = changed
            .wait_timeout_while(guard, patience, |raised| !*raised)
            .unwrap_or_else(PoisonError::into_inner);
        *guard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_wakes_at_once() {
        let interrupt = Interrupt::default();
        assert!(!interrupt.wait(Duration::ZERO));
        let other = interrupt.clone();
        let waiter = std::thread::spawn(move || other.wait(Duration::from_secs(60)));
        interrupt.raise();
        assert!(waiter.join().unwrap());
        assert!(interrupt.wait(Duration::ZERO));
    }
}
