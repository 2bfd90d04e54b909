//! Timeline history files in pg_wal: reading them, and making a promotion take the wanted id.
//!
//! PostgreSQL promotes to one more than the newest id whose history file it finds, looking upwards from its own
//! without a gap. Empty files for skipped ids make it take a later one. They **stay** after the promotion: a standby that
//! follows asks the primary for every history file between its own timeline and the primary's and fails for ever when
//! one is missing. (The new primary itself does not need them: its control file names the new timeline at once.)
//! An empty file above which there is no real one belongs to a promotion that never happened; it would keep the server
//! from fetching the real file of that id later, so it is removed before each start and each following.

use std::collections::BTreeMap;
use std::fs;

use wire::{History, Timeline};

use super::error::{Error, Result};
use super::files;
use super::server::Server;

impl Server {
    /// The history of `timeline` as PostgreSQL reads it; `None` when its file is missing (and it is not the first).
    pub(super) fn history(&self, timeline: Timeline) -> Result<Option<History>> {
        if timeline == Timeline::FIRST {
            return Ok(Some(History::root(timeline)));
        }
        let path = self.layout.wal().join(timeline.history_file());
        match fs::read_to_string(&path) {
            Ok(text) => History::parse(timeline, &text)
                .map(Some)
                .map_err(|error| Error::at("read", &path)(std::io::Error::other(error))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::at("read", &path)(error)),
        }
    }

    /// Every history file in pg_wal, with whether it is empty.
    pub(super) fn history_files(&self) -> Result<BTreeMap<Timeline, bool>> {
        let wal = self.layout.wal();
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&wal).map_err(Error::at("list", &wal))?.flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".history"));
            if let Some(id) = id.filter(|id| id.len() == 8).and_then(|id| u32::from_str_radix(id, 16).ok()) {
                found.insert(Timeline(id), entry.metadata().is_ok_and(|metadata| metadata.len() == 0));
            }
        }
        Ok(found)
    }

    /// Lays empty files so that a promotion from `current` takes `wanted`.
    pub(super) fn skip_to(&self, current: Timeline, wanted: Timeline) -> Result<()> {
        let refuse = |reason: String| Err(Error::Timeline { wanted, reason });
        if wanted <= current {
            return refuse(format!("the server is already on timeline {current}"));
        }
        let present = self.history_files()?;
        if present.contains_key(&wanted) {
            return refuse(format!(
                "{} is in pg_wal already, so that id was used before",
                wanted.history_file()
            ));
        }
        for id in current.0 + 1..wanted.0 {
            if !present.contains_key(&Timeline(id)) {
                files::write(&self.layout.wal().join(Timeline(id).history_file()), b"", &self.account)?;
            }
        }
        Ok(())
    }

    /// Removes empty history files that no real one stands above.
    pub(super) fn drop_orphaned_timelines(&self) -> Result<()> {
        for (timeline, empty) in self.history_files()?.into_iter().rev() {
            if !empty {
                break;
            }
            files::remove(&self.layout.wal().join(timeline.history_file()))?;
        }
        Ok(())
    }

    /// Moves history files of timelines above `newest` to `kept/`, so that the server can follow `newest` again.
    ///
    /// For a branch that was abandoned before this server wrote or received a record of it: PostgreSQL would stay on the
    /// way to it ("highest timeline of the primary is behind recovery timeline"). The server must be stopped.
    pub fn forget_timelines_above(&self, newest: Timeline) -> Result<Vec<Timeline>> {
        self.refuse_running()?;
        let above: Vec<Timeline> = self.history_files()?.into_keys().filter(|id| *id > newest).collect();
        if above.is_empty() {
            return Ok(above);
        }
        let kept = self.layout.kept.join(files::moment());
        files::private_dir(&kept, &self.account)?;
        for timeline in &above {
            let name = timeline.history_file();
            files::rename(&self.layout.wal().join(&name), &kept.join(&name))?;
        }
        Ok(above)
    }
}
