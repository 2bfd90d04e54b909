//! What may hang: files, and the titles of processes. Done on a thread of its own, so that the clock goes on.
//!
//! A stalled disk holds a rename for as long as it likes, and reading the title of a process that hangs in a page fault
//! may wait for that process. Neither keeps the fencer from seeing the time and from stopping the server by signals.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Signal;

use super::client;
use super::note::{NOTES_MAX, Note, append};
use super::process::{Identity, Process, Stat, children, command, pids};
use crate::postgres::fenced;

/// A look, a note and a check at a time; what does not fit is asked again at the next tick.
const JOBS_MAX: usize = 8;

pub enum Job {
    /// Close the door and send the clients away.
    Cut {
        postmaster: Identity,
        first: bool,
    },
    Note(Note),
    /// Is the node's directory still there?
    Check,
}

/// What the hand has seen and done.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Cuts that were carried out, the one under way not included.
    pub cuts: u64,
    /// How the last look at the door ended.
    pub door: Option<Result<(), String>>,
    /// The door is closed, and no client was inside at the last two looks.
    pub empty: bool,
    /// Sessions that were told to end.
    pub ended: u64,
    pub notes: u64,
    pub gone: bool,
}

pub struct Hand {
    jobs: SyncSender<Job>,
    findings: Arc<Mutex<Findings>>,
}

impl Hand {
    pub fn start(dir: &Path) -> io::Result<Hand> {
        let (jobs, coming) = sync_channel(JOBS_MAX);
        let findings = Arc::new(Mutex::new(Findings::default()));
        let mut work = Work { dir: dir.to_owned(), findings: findings.clone(), ..Work::default() };
        std::thread::Builder::new().name("pgherd-fencer-h".into()).spawn(move || work.run(&coming))?;
        Ok(Hand { jobs, findings })
    }

    /// Gives the job back when the hand has not finished what it was given before.
    pub fn ask(&self, job: Job) -> Result<(), Job> {
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
        })
    }

    pub fn findings(&self) -> Findings {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Default)]
struct Work {
    dir: PathBuf,
    findings: Arc<Mutex<Findings>>,
    /// Children without a title yet, at the look before.
    untitled: BTreeSet<i32>,
    quiet: u32,
    notes: VecDeque<Note>,
}

impl Work {
    fn run(&mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Cut { postmaster, first } => self.cut(postmaster, first),
                Job::Note(note) => {
                    if self.notes.len() == NOTES_MAX {
                        self.notes.pop_front();
                    }
                    self.notes.push_back(note);
                }
                Job::Check => {
                    let gone =
                        fs::metadata(&self.dir).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
                    self.found(|findings| findings.gone = gone);
                }
            }
            // After the work: a full disk loses no note, it is written once there is room.
            while let Some(note) = self.notes.front() {
                if append(&self.dir, note).is_err() {
                    break;
                }
                self.notes.pop_front();
                self.found(|findings| findings.notes += 1);
            }
        }
    }

    fn found(&self, change: impl FnOnce(&mut Findings)) {
        change(&mut self.findings.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn cut(&mut self, identity: Identity, first: bool) {
        let Some(postmaster) = Process::hold(identity) else { return };
        let mut ended = 0;
        if first {
            self.quiet = 0;
            self.untitled.clear();
            // Who is in goes at once: the door is a matter of the disk, which may take its time.
            ended += send_away(identity.pid, &self.look(&children(identity.pid)).0);
        }
        let door = close_door(&self.dir.join("conf"));
        // A postmaster that hangs accepts nobody; it reads this before it does again.
        if first || door.as_ref().is_ok_and(|changed| *changed) {
            postmaster.signal(Signal::HUP);
        }
        let (mut clients, mut untitled) = self.look(&children(identity.pid));
        if clients.is_empty() {
            // The kernel's list may miss one while another ends: to find nobody, everybody is asked.
            let all = pids().filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.parent == identity.pid));
            (clients, untitled) = self.look(&all.collect::<Vec<i32>>());
        }
        ended += send_away(identity.pid, &clients);
        self.quiet = if clients.is_empty() && untitled.is_empty() { self.quiet + 1 } else { 0 };
        self.untitled = untitled;
        let empty = door.is_ok() && self.quiet >= 2;
        self.found(|findings| {
            findings.cuts += 1;
            findings.door = Some(door.map(drop).map_err(|error| error.to_string()));
            findings.empty = empty;
            findings.ended += ended;
        });
    }

    /// Those of the children that are clients, and those without a title. Who had none at the look before either is
    /// about to be a client, let in by the old rules.
    fn look(&self, children: &[i32]) -> (Vec<i32>, BTreeSet<i32>) {
        let mut clients = Vec::new();
        let mut untitled = BTreeSet::new();
        for pid in children {
            match client::kind(&command(*pid).join(" ")) {
                client::Kind::Client => clients.push(*pid),
                client::Kind::Untitled => {
                    untitled.insert(*pid);
                }
                client::Kind::Own => {}
            }
        }
        clients.extend(untitled.intersection(&self.untitled));
        (clients, untitled)
    }
}

/// Ends the sessions of these children of the postmaster; how many were told.
fn send_away(postmaster: i32, clients: &[i32]) -> u64 {
    let mut told = 0;
    for client in clients.iter().filter_map(|pid| Process::hold(Identity::of(*pid)?)) {
        if Stat::of(client.identity.pid).is_some_and(|stat| stat.parent == postmaster) {
            client.signal(Signal::TERM);
            told += 1;
        }
    }
    told
}

/// Puts the closed `pg_hba.conf` in place; `true` when it was not there. The agent has laid it ready beside, so that a full
/// disk does not matter: a rename needs no room.
fn close_door(conf: &Path) -> io::Result<bool> {
    let (hba, ready) = (conf.join("pg_hba.conf"), conf.join(fenced::READY));
    let present = fs::read_to_string(&hba)?;
    if fenced::is_fenced(&present) {
        return Ok(false);
    }
    if fs::read_to_string(&ready).is_ok_and(|text| text == fenced::text()) {
        fs::rename(&ready, &hba)?;
        return Ok(true);
    }
    let owner = fs::metadata(&hba)?;
    let written = conf.join(format!("{}.{}", fenced::READY, std::process::id()));
    let _ = fs::remove_file(&written);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&written)?;
    file.write_all(fenced::text().as_bytes())?;
    // Only root may give a file away, and only root needs to.
    let _ = fchown(&file, Some(owner.uid()), Some(owner.gid()));
    fs::rename(&written, &hba)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_is_closed_with_what_lies_ready_and_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let hba = dir.path().join("pg_hba.conf");
        let open = "# Written by pgherd (open); changes are lost.\nhost all all all trust\n";
        for ready in [true, false] {
            fs::write(&hba, open).unwrap();
            if ready {
                fs::write(dir.path().join(fenced::READY), fenced::text()).unwrap();
            }
            assert!(close_door(dir.path()).unwrap(), "ready: {ready}");
            assert_eq!(fs::read_to_string(&hba).unwrap(), fenced::text());
            assert!(!close_door(dir.path()).unwrap(), "it is closed already");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        fs::remove_file(&hba).unwrap();
        assert!(close_door(dir.path()).is_err(), "no server's configuration");
    }
}
