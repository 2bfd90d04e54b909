//! What the server wrote to its log, read from the end.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::files;
use super::server::Server;

/// The end of a run takes some dozen lines.
const READ_BYTES_MAX: u64 = 16 * 1024;

/// What the WAL receiver wrote last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReceiverSays {
    Streams,
    /// Its last words, without the prefixes of the log. A new copy does not help a receiver that could not even log in
    /// upstream, nor one whose slot is not there or another's.
    Ended {
        words: String,
        copy_helps: bool,
    },
}

/// The end of what lies after `begin` in the file, and where it begins.
fn read_since(path: &Path, begin: u64) -> std::io::Result<(Vec<u8>, u64)> {
    let mut file = fs::File::open(path)?;
    let start = begin.max(file.metadata()?.len().saturating_sub(READ_BYTES_MAX));
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok((bytes, start))
}

impl Server {
    /// The end of what was logged after `begin`.
    pub(super) fn log_since(&self, begin: u64) -> String {
        let read = read_since(&self.layout.server_log(), begin);
        read.map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Where the log ends; 0 when there is none.
    pub(super) fn log_end(&self) -> u64 {
        fs::metadata(self.layout.server_log()).map_or(0, |metadata| metadata.len())
    }

    /// What the WAL receiver has written since `begin`, a place in the log, and where to read on; without a `begin` only
    /// that. A log that cannot be read says nothing.
    pub async fn receiver_says(&self, begin: Option<u64>) -> (Option<ReceiverSays>, u64) {
        let path = self.layout.server_log();
        let from = begin.unwrap_or(0);
        let read = files::blocking(move || read_since(&path, from).map_err(super::Error::at("read", &path)));
        let Ok((bytes, start)) = read.await else { return (None, from) };
        // Only whole lines: the rest of the last one is still being written, and of the first one the beginning is missing.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let cut = if start > from {
            bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1)
        } else {
            0
        };
        let text = String::from_utf8_lossy(bytes.get(cut..whole).unwrap_or_default()).into_owned();
        (begin.and_then(|_| receiver_says(&text)), start + whole as u64)
    }

    /// The line that says best why the server's last run ended; `None` when it said nothing, as after SIGKILL.
    pub async fn last_words(&self) -> Option<String> {
        let path = self.layout.server_log();
        let read = files::blocking(move || read_since(&path, 0).map_err(super::Error::at("read", &path)));
        last_words(&String::from_utf8_lossy(&read.await.ok()?.0))
    }
}

/// Of the last run in `text`: the last PANIC, else the process whose end brought the server down.
fn last_words(text: &str) -> Option<String> {
    let run = text.rfind("starting PostgreSQL").map_or(text, |begin| &text[begin..]);
    let panic = run.lines().rev().find_map(|line| line.find("PANIC:").map(|at| &line[at..]));
    let ended =
        |line: &str| line.contains("was terminated by signal") || line.contains("exited with exit code");
    let died =
        || run.lines().rev().find(|line| ended(line)).map(|line| line.split("LOG:  ").last().unwrap_or(line));
    panic.or_else(died).map(str::to_owned)
}

/// How a receiver's end begins, on 15 to 18.
const ENDED: [&str; 6] = [
    "could not connect to the primary server",
    "streaming replication receiver",
    "could not receive data from WAL stream",
    "could not start WAL streaming",
    "terminating walreceiver",
    "highest timeline",
];

/// What may stand between the prefix of a line and its text. The first one in a line is the server's own, unless the
/// user's `log_line_prefix` shows what clients call themselves.
const TAGS: [&str; 13] = [
    "DEBUG:  ",
    "INFO:  ",
    "NOTICE:  ",
    "WARNING:  ",
    "ERROR:  ",
    "LOG:  ",
    "FATAL:  ",
    "PANIC:  ",
    "DETAIL:  ",
    "HINT:  ",
    "QUERY:  ",
    "CONTEXT:  ",
    "STATEMENT:  ",
];

/// A line for a terminal, and a word in each heartbeat.
const WORDS_MAX: usize = 300;

/// The tag of a line and what follows it, without the SQLSTATE that `log_error_verbosity = verbose` puts there.
fn tagged(line: &str) -> Option<(&str, &str)> {
    let found = TAGS.iter().filter_map(|tag| Some((line.find(tag)?, *tag)));
    let (at, tag) = found.min()?;
    let text = &line[at + tag.len()..];
    let state = text.split_once(": ").filter(|(state, _)| {
        state.len() == 5 && state.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
    });
    Some((tag, state.map_or(text, |(_, text)| text)))
}

/// `further` lines of a message begin with a tab: of several hosts each has one.
fn ended(first: &str, further: &[&str]) -> Option<ReceiverSays> {
    ENDED.iter().any(|words| first.starts_with(words)).then_some(())?;
    let refused = first.split_once("could not connect to the primary server: ");
    let slot = first.contains("replication slot \"")
        && (first.ends_with("does not exist") || first.contains("is active for PID"));
    let mut words = refused.map_or(first, |(_, words)| words).to_owned();
    for line in further {
        words.push_str("; ");
        words.push_str(line.trim());
    }
    let words = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS_MAX).collect();
    Some(ReceiverSays::Ended { words, copy_helps: refused.is_none() && !slot })
}

fn receiver_says(text: &str) -> Option<ReceiverSays> {
    let lines: Vec<&str> = text.lines().collect();
    let firsts = (0..lines.len()).rev().filter(|at| !lines[*at].starts_with('\t'));
    firsts.into_iter().find_map(|at| {
        let further = lines[at + 1..].iter().take_while(|line| line.starts_with('\t'));
        match tagged(lines[at])? {
            ("LOG:  ", words) if words.starts_with("started streaming WAL from primary at") => {
                Some(ReceiverSays::Streams)
            }
            ("FATAL:  ", words) => ended(words, &further.copied().collect::<Vec<_>>()),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: &str = "2026 [7] FATAL:  could not connect to the primary server: connection to server at \"h\", port 1 failed: Connection refused\n";

    fn says(words: &str, copy_helps: bool) -> Option<ReceiverSays> {
        Some(ReceiverSays::Ended { words: words.to_owned(), copy_helps })
    }

    #[test]
    fn the_receiver_says_why_it_ended_and_whether_a_copy_helps() {
        let words = "connection to server at \"h\", port 1 failed: Connection refused";
        assert_eq!(receiver_says(REFUSED), says(words, false));
        // From 17 on the receiver names itself.
        let named = REFUSED.replace("could not", "streaming replication receiver \"n2\" could not");
        assert_eq!(receiver_says(&named), says(words, false));
        assert_eq!(receiver_says(&REFUSED.replace("FATAL:  ", "FATAL:  08006: ")), says(words, false));
        let hosts = format!(
            "{REFUSED}\tconnection to server at \"i\", port 1 failed: FATAL:  no pg_hba.conf entry\n"
        );
        let both =
            format!("{words}; connection to server at \"i\", port 1 failed: FATAL:  no pg_hba.conf entry");
        assert_eq!(receiver_says(&hosts), says(&both, false));

        let streams = format!(
            "{REFUSED}2026 [7] LOG:  started streaming WAL from primary at 0/3000000 on timeline 1\n"
        );
        assert_eq!(receiver_says(&streams), Some(ReceiverSays::Streams));
        let gone = "could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 has already been removed";
        assert_eq!(receiver_says(&format!("{streams}2026 [7] FATAL:  {gone}\n")), says(gone, true));
        let slot = "could not start WAL streaming: ERROR:  replication slot \"west\" does not exist";
        assert_eq!(receiver_says(&format!("{streams}2026 [7] FATAL:  {slot}\n")), says(slot, false));
        assert_eq!(receiver_says("2026 [1] LOG:  starting PostgreSQL 15\n"), None);
        let long =
            format!("2026 [7] FATAL:  could not start WAL streaming: \u{1b}[31m{}\n", "x".repeat(20_000));
        let Some(ReceiverSays::Ended { words, .. }) = receiver_says(&long) else { panic!("{long}") };
        assert!(words.len() == WORDS_MAX && !words.contains('\u{1b}'), "{words}");
    }

    /// What clients can make the server write.
    #[test]
    fn nobody_else_speaks_for_the_receiver() {
        let words = "connection to server at \"h\", port 1 failed: Connection refused";
        let forged = [
            "ERROR:  relation \"FATAL:  could not receive data from WAL stream: x\" does not exist",
            "STATEMENT:  SELECT 'FATAL:  could not start WAL streaming: x'",
            "LOG:  statement: SELECT 'LOG:  started streaming WAL from primary at 0/3'",
            "ERROR:  syntax error\n\tFATAL:  could not receive data from WAL stream: x",
            "FATAL:  sorry, too many clients already",
            "FATAL:  database \"could not start WAL streaming\" does not exist",
        ];
        for line in forged {
            assert_eq!(receiver_says(&format!("{REFUSED}2026 [9] {line}\n")), says(words, false), "{line}");
        }
    }

    #[test]
    fn the_last_run_speaks() {
        let log = "2026 [1] LOG:  starting PostgreSQL 15\n2026 [7] PANIC:  could not write to file \"pg_wal/xlogtemp.7\": No space left on device\n\
                   2026 [1] LOG:  server process (PID 7) was terminated by signal 6: Aborted\n";
        let words = "PANIC:  could not write to file \"pg_wal/xlogtemp.7\": No space left on device";
        assert_eq!(last_words(log).as_deref(), Some(words));
        let killed = format!(
            "{log}2026 [2] LOG:  starting PostgreSQL 15\n2026 [9] FATAL:  sorry, too many clients already\n"
        );
        assert_eq!(last_words(&killed), None, "an earlier run's words are not this one's");
        let killed =
            format!("{killed}2026 [2] LOG:  server process (PID 9) was terminated by signal 9: Killed\n");
        assert_eq!(
            last_words(&killed).as_deref(),
            Some("server process (PID 9) was terminated by signal 9: Killed")
        );
    }
}
