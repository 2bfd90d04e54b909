//! `DIR/pgherd.pid`: one agent on one directory.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A killed process is gone within milliseconds, on a busy machine within a second.
const PID_FILE_WAIT: Duration = Duration::from_secs(2);
const PID_FILE_POLL: Duration = Duration::from_millis(20);

/// `DIR/pgherd.pid`, locked while the node runs: two agents on one directory would both be right.
pub(super) struct PidFile {
    _file: File,
}

impl PidFile {
    pub async fn take(dir: &Path) -> Result<PidFile> {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let path = dir.join("pgherd.pid");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("write {}", path.display()))?;
        // A process that was killed a moment ago holds the lock until the last of its threads has ended.
        let begun = Instant::now();
        while file.try_lock().is_err() {
            if begun.elapsed() > PID_FILE_WAIT {
                bail!("another pgherd runs on {}; see {}", dir.display(), path.display());
            }
            tokio::time::sleep(PID_FILE_POLL).await;
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(PidFile { _file: file })
    }
}
