//! `/dev/watchdog`: what ends this machine when even the fencer cannot act.
//!
//! Open while there is something to fence, patted while all is well, closed in order (with the magic `V`) when there is
//! nothing to fence any more. A fencer that is killed, frozen or starved pats no more, nor does one whose server does
//! not leave: then the device resets the machine. How long that takes is the device's own setting.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

use super::cell::WatchdogWord;

#[derive(Default)]
pub struct Watchdog {
    device: Option<(String, File)>,
    failed: Option<String>,
}

impl Watchdog {
    pub fn word(&self) -> WatchdogWord {
        match (&self.failed, &self.device) {
            (Some(reason), _) => WatchdogWord::Failed(reason.clone()),
            (None, Some(_)) => WatchdogWord::Open,
            (None, None) => WatchdogWord::Closed,
        }
    }

    /// `armed`: there is something to fence. `well`: it is not due, or it is done.
    pub fn keep(&mut self, device: Option<&str>, armed: bool, well: bool) {
        let wanted = device.filter(|_| armed);
        if self.device.as_ref().is_some_and(|(open, _)| wanted != Some(open)) {
            self.close();
        }
        let Some(wanted) = wanted else {
            self.failed = None;
            return;
        };
        if !well {
            return;
        }
        if self.device.is_none() {
            // Not to wait: the device itself never makes one wait, but a configuration may name anything.
            let flags = OFlags::NONBLOCK.bits() as i32;
            match OpenOptions::new().write(true).custom_flags(flags).open(wanted) {
                Ok(file) => self.device = Some((wanted.to_owned(), file)),
                Err(error) => {
                    self.failed = Some(format!("the watchdog {wanted} cannot be opened: {error}"));
                    return;
                }
            }
        }
        self.failed = self.pat().err().map(|error| format!("the watchdog {wanted} takes no pat: {error}"));
    }

    fn pat(&mut self) -> std::io::Result<()> {
        self.device.as_mut().map_or(Ok(()), |(_, file)| file.write_all(b"1"))
    }

    /// In order: the machine goes on.
    pub fn close(&mut self) {
        if let Some((_, mut file)) = self.device.take() {
            // A device that takes no more words resets the machine, as it would if we had died.
            let _ = file.write_all(b"V");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_patted_while_all_is_well_and_closed_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        std::fs::write(&path, "").unwrap();
        let device = path.to_str();
        let said = || std::fs::read_to_string(&path).unwrap();
        let mut watchdog = Watchdog::default();
        watchdog.keep(device, false, true);
        assert_eq!((said().as_str(), watchdog.word()), ("", WatchdogWord::Closed));
        watchdog.keep(device, true, true);
        watchdog.keep(device, true, true);
        assert_eq!((said().as_str(), watchdog.word()), ("11", WatchdogWord::Open));
        watchdog.keep(device, true, false);
        assert_eq!(said(), "11", "the deadline has passed and the server is not gone");
        watchdog.keep(device, false, true);
        assert_eq!((said().as_str(), watchdog.word()), ("11V", WatchdogWord::Closed));
    }

    #[test]
    fn one_that_is_not_there_is_told() {
        let mut watchdog = Watchdog::default();
        watchdog.keep(Some("/nonexistent/watchdog"), true, true);
        assert!(
            matches!(watchdog.word(), WatchdogWord::Failed(reason) if reason.contains("cannot be opened"))
        );
        watchdog.keep(None, true, true);
        assert_eq!(watchdog.word(), WatchdogWord::Closed);
    }
}
