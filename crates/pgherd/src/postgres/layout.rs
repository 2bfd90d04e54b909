//! Where the files of one node's PostgreSQL lie.
//!
//! Invariant: everything that must survive a base backup or a rewind (configuration, credentials, the mark of an
//! unfinished rewind) lies beside the data directory, never in it: both tools copy what is inside from another node.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::account::Account;
use super::error::{Error, Result};
use super::files;

/// `sockaddr_un.sun_path` holds 108 bytes with the terminating zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How credential files begin.
const CREDENTIAL: &str = "replication-";

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    pub dir: PathBuf,
    /// PGDATA.
    pub data: PathBuf,
    /// Our configuration files.
    pub conf: PathBuf,
    /// The private socket's directory: who can enter it is the superuser, so only we can.
    pub run: PathBuf,
    pub log: PathBuf,
    /// WAL that a rewind would have discarded, a directory per rewind.
    pub kept: PathBuf,
}

impl Layout {
    pub fn new(dir: &Path) -> Result<Layout> {
        let dir = std::path::absolute(dir).map_err(Error::at("find", dir))?;
        Ok(Layout {
            data: dir.join("data"),
            conf: dir.join("conf"),
            run: dir.join("run"),
            log: dir.join("log"),
            kept: dir.join("kept"),
            dir,
        })
    }

    /// Makes the directories beside the data directory.
    pub(super) fn prepare(&self, account: &Account) -> Result<()> {
        std::fs::create_dir_all(&self.dir).map_err(Error::at("create", &self.dir))?;
        for dir in [&self.conf, &self.run, &self.log] {
            files::private_dir(dir, account)?;
        }
        Ok(())
    }

    /// Refuses a place too deep for a unix socket, before anything is created there.
    pub(super) fn check_socket_path(&self, port: u16) -> Result<()> {
        let longest = self.socket(port);
        let bytes = longest.as_os_str().len();
        if bytes > SOCKET_PATH_BYTES_MAX {
            return Err(Error::Unusable {
                data: self.data.clone(),
                reason: format!(
                    "the socket path {} has {bytes} bytes and the system allows {SOCKET_PATH_BYTES_MAX}; choose a shorter --dir",
                    longest.display()
                ),
            });
        }
        Ok(())
    }

    /// The first directory on the way to `dir` that the user `uid` cannot pass; what does not exist yet is no hindrance.
    pub fn closed_on_the_way(dir: &Path, uid: u32) -> Option<PathBuf> {
        let passable = |metadata: std::fs::Metadata| {
            let own = metadata.uid() == uid && metadata.mode() & 0o100 != 0;
            own || metadata.mode() & 0o001 != 0
        };
        let closed = |dir: &&Path| std::fs::metadata(dir).is_ok_and(|metadata| !passable(metadata));
        dir.ancestors().find(closed).map(Path::to_owned)
    }

    /// The socket of a server that listens on this port.
    pub fn socket(&self, port: u16) -> PathBuf {
        self.run.join(format!(".s.PGSQL.{port}"))
    }

    pub fn pgherd_conf(&self) -> PathBuf {
        self.conf.join("pgherd.conf")
    }

    pub fn hba(&self) -> PathBuf {
        self.conf.join("pg_hba.conf")
    }

    /// What the fencer puts in place of [`Layout::hba`].
    pub(super) fn hba_ready(&self) -> PathBuf {
        self.conf.join(super::fenced::READY)
    }

    pub fn ident(&self) -> PathBuf {
        self.conf.join("pg_ident.conf")
    }

    /// The credential for one following. Only the agent writes it; without it no WAL receiver gets in. Each following has a
    /// file of its own, so that a receiver which starts late, for a former upstream, finds none.
    pub(super) fn credential(&self, id: u64) -> PathBuf {
        self.conf.join(format!("{CREDENTIAL}{id:016x}.pgpass"))
    }

    /// Every credential that is there.
    pub(super) fn credentials(&self) -> Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(&self.conf) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::at("list", &self.conf)(error)),
        };
        // Half-written ones too: a temporary file keeps the stem.
        let ours = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(CREDENTIAL);
        Ok(entries.flatten().filter(ours).map(|entry| entry.path()).collect())
    }

    pub fn server_log(&self) -> PathBuf {
        self.log.join("postgres.log")
    }

    /// There while a rewind has begun and not ended: such a data directory is neither the old nor the new one.
    pub fn rewind_mark(&self) -> PathBuf {
        self.conf.join("rewind-unfinished")
    }

    pub fn wal(&self) -> PathBuf {
        self.data.join("pg_wal")
    }
}
