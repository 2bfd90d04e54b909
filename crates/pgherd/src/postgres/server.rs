//! One node's PostgreSQL: what it is made of, and the state of its data directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Mutex;

use super::account::Account;
use super::binaries::Installation;
use super::control::{self, ControlFile};
use super::disk::Disk;
use super::error::{Error, Result};
use super::fenced;
use super::files;
use super::hba::{self, Admission};
use super::layout::Layout;
use super::observe::Observer;
use super::session::Kept;
use super::settings::{self, Dynamic, Static};
use super::slot_settings::{SlotSettings, is_logical};
use super::slots::{FAILOVER_SLOTS, SlotSessions};

/// What the composition root knows of this node's server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The node's name; PostgreSQL's `cluster_name`.
    pub node: String,
    /// The node's directory; `data/`, `conf/`, `run/`, `log/` lie below it.
    pub dir: PathBuf,
    /// Whom PostgreSQL runs as; `None`: `postgres` when we are root, else ourselves.
    pub os_user: Option<String>,
    /// `listen_addresses`.
    pub listen: String,
    pub port: u16,
    pub tunable: Tunable,
    /// Kept allocated on the disk of pg_wal, for a recovery when it is full; 0: nothing.
    pub reserve_bytes: u64,
}

/// What a reload of the configuration may change.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tunable {
    /// PostgreSQL parameters of the user's choice.
    pub parameters: BTreeMap<String, String>,
    /// Lines of pg_hba.conf for clients, in force while the server is open.
    pub hba: Vec<String>,
    /// What the slots that are declared need of the server.
    pub slots: SlotSettings,
}

/// Another server to copy from.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    pub host: String,
    pub port: u16,
    /// Of [`super::REPLICATION_ROLE`] for a base backup, of [`super::REWIND_ROLE`] for a rewind.
    pub password: String,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What lies in the data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DataState {
    Absent,
    /// An empty directory.
    Empty,
    Ours(Box<ControlFile>),
    /// A rewind of it was begun and has not ended: to be copied anew, with nobody's hand.
    RewindUnfinished,
    /// Something that must not be touched; the reason says what and what to do.
    Unusable {
        reason: String,
    },
}

pub struct Server {
    pub config: ServerConfig,
    tunable: RwLock<Arc<Tunable>>,
    pub layout: Layout,
    pub installation: Installation,
    pub account: Account,
    pub disk: Disk,
    /// Held while the configuration files are read, changed and written.
    writing: Mutex<()>,
    pub(super) observer: Mutex<Observer>,
    /// For changes; kept open so that a change gets through when every other connection is taken.
    pub(super) admin: Mutex<Kept>,
    pub(super) prober: Mutex<Kept>,
    /// For questions of the proxy, which may come by the thousand.
    pub(super) secrets: Mutex<Kept>,
    pub(super) slot_sessions: Mutex<SlotSessions>,
}

impl Server {
    /// Checks the configuration; touches nothing on disk.
    pub async fn new(config: ServerConfig, installation: Installation) -> Result<Server> {
        settings::check_parameters(&config.tunable.parameters)?;
        let layout = Layout::new(&config.dir)?;
        layout.check_socket_path(config.port)?;
        let plain = |c: char| !c.is_control() && !"'\"\\$`".contains(c);
        if !layout.dir.to_str().is_some_and(|dir| dir.chars().all(plain)) {
            return Err(Error::Unusable {
                data: layout.data,
                reason: "the path holds a quote, a backslash, a dollar sign or a control character; choose another --dir"
                    .into(),
            });
        }
        let account = Account::resolve(config.os_user.as_deref()).await?;
        let disk = Disk::new(&layout, config.reserve_bytes);
        Ok(Server {
            tunable: RwLock::new(Arc::new(config.tunable.clone())),
            config,
            disk,
            layout,
            installation,
            account,
            writing: Mutex::default(),
            observer: Mutex::default(),
            admin: Mutex::default(),
            prober: Mutex::default(),
            secrets: Mutex::default(),
            slot_sessions: Mutex::default(),
        })
    }

    /// Looks at the data directory; touches nothing.
    pub fn data_state(&self) -> DataState {
        let data = &self.layout.data;
        let unusable = |reason: String| DataState::Unusable { reason };
        let metadata = match fs::metadata(data) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return DataState::Absent,
            Err(error) => return unusable(format!("{} cannot be read: {error}", data.display())),
        };
        if !metadata.is_dir() {
            return unusable(format!("{} is no directory", data.display()));
        }
        match fs::read_dir(data).map(|mut entries| entries.next().is_none()) {
            Ok(true) => return DataState::Empty,
            Ok(false) => {}
            Err(error) => return unusable(format!("{} cannot be listed: {error}", data.display())),
        }
        if self.layout.rewind_mark().exists() {
            return DataState::RewindUnfinished;
        }
        match self.check_whole(&metadata) {
            Ok(control) => DataState::Ours(Box::new(control)),
            Err(reason) => unusable(reason),
        }
    }

    fn check_whole(&self, metadata: &fs::Metadata) -> Result<ControlFile, String> {
        let data = self.layout.data.display();
        let Account { name, uid, .. } = &self.account;
        let version = fs::read_to_string(self.layout.data.join("PG_VERSION")).map_err(|_| {
            format!("{data} is not empty and has no PG_VERSION, so it is no PostgreSQL data directory; choose another --dir or move it away")
        })?;
        let version = version.trim();
        if version != self.installation.major.to_string() {
            return Err(format!(
                "it was made by PostgreSQL {version}, but the binaries in {} are {}; install that major (apt-get install postgresql-{version})",
                self.installation.bin_dir.display(),
                self.installation.major
            ));
        }
        if metadata.uid() != *uid {
            return Err(format!(
                "it belongs to user id {} instead of {name}; type: chown -R {name} {data}",
                metadata.uid()
            ));
        }
        let mode = metadata.mode() & 0o777;
        if mode & 0o027 != 0 {
            return Err(format!(
                "its permissions are {mode:o}, which lets others in; type: chmod 700 {data}"
            ));
        }
        control::read(&self.layout.data).map_err(|error| error.to_string())
    }

    pub(super) fn usable_control(&self) -> Result<ControlFile> {
        let reason = match self.data_state() {
            DataState::Ours(control) => return Ok(*control),
            DataState::Absent => "it does not exist".to_owned(),
            DataState::Empty => "it is empty".to_owned(),
            DataState::RewindUnfinished => {
                "a rewind of it has not finished; it must be cloned again".to_owned()
            }
            DataState::Unusable { reason } => reason,
        };
        Err(Error::Unusable { data: self.layout.data.clone(), reason })
    }

    /// The dynamic settings as they are on disk; closed where there are none.
    pub(super) fn dynamic(&self) -> Dynamic {
        let text = fs::read_to_string(self.layout.pgherd_conf()).unwrap_or_default();
        Dynamic::parse(&text).unwrap_or_else(|| Dynamic::closed(0))
    }

    /// The fencer has closed the server since an agent last wrote its files.
    pub(super) fn is_fenced(&self) -> bool {
        fs::read_to_string(self.layout.hba()).is_ok_and(|text| fenced::is_fenced(&text))
    }

    /// Changes the dynamic settings on disk, durably. The server learns of it by [`Server::reload_and_confirm`].
    pub(super) async fn write_settings(&self, edit: impl FnOnce(&mut Dynamic)) -> Result<Dynamic> {
        let _writing = self.writing.lock().await;
        let mut dynamic = self.dynamic();
        if self.is_fenced() {
            // The fencer's word becomes ours; only who admits on purpose opens what it has closed.
            dynamic.admission = Admission::Quarantined;
        }
        edit(&mut dynamic);
        if self.installation.major < FAILOVER_SLOTS {
            dynamic.synchronized_standby_slots = None;
        }
        dynamic.generation += 1;
        let tunable = self.tunable();
        let conf = self.rendered(&tunable, &dynamic);
        let hba = hba::hba(dynamic.admission, self.synchronizes_slots(), &tunable.hba);
        let ident = hba::ident(&self.account);
        let (layout, account) = (self.layout.clone(), self.account.clone());
        files::blocking(move || {
            files::write_if_changed(&layout.ident(), ident.as_bytes(), &account)?;
            files::write_if_changed(&layout.hba_ready(), fenced::text().as_bytes(), &account)?;
            files::write_if_changed(&layout.hba(), hba.as_bytes(), &account)?;
            // Last, because its generation vouches for the others.
            files::write(&layout.pgherd_conf(), conf.as_bytes(), &account)
        })
        .await?;
        Ok(dynamic)
    }

    /// What `pgherd.conf` should say.
    pub(super) fn rendered(&self, tunable: &Tunable, dynamic: &Dynamic) -> String {
        let mut fixed = self.fixed(tunable);
        // From a replica no slot can be synchronized: PostgreSQL would try, and fail, every few seconds.
        fixed.synchronizes_slots &= super::receiver::admits_slots(&dynamic.primary_conninfo);
        settings::render(&fixed, dynamic)
    }

    /// The command line's `-c` options: what nothing can override.
    pub(super) fn fixed_settings(&self) -> Vec<(&'static str, String)> {
        self.fixed(&self.tunable()).fixed()
    }

    pub(super) fn tunable(&self) -> Arc<Tunable> {
        // A holder only assigns, so a panic in one leaves nothing half done.
        self.tunable.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over other parameters and lines of pg_hba.conf; a running server applies what needs no restart. On an error
    /// what was in force stays; a line that the server cannot read is one: it would go on by the lines of before, and not start with these.
    pub async fn retune(&self, tunable: Tunable) -> Result<()> {
        settings::check_parameters(&tunable.parameters)?;
        let before = self.tunable();
        self.set_tunable(Arc::new(tunable));
        if super::process::find(&self.layout.data)?.is_none() {
            return Ok(());
        }
        let Err(error) = self.take_up().await else { return Ok(()) };
        self.set_tunable(before);
        if let Err(also) = self.take_up().await {
            tracing::warn!(error = %also, "what was in force before could not be written again; the next reload does");
        }
        Err(error)
    }

    /// Has the running server read its files anew.
    async fn take_up(&self) -> Result<()> {
        let dynamic = self.write_settings(|_| {}).await?;
        self.reload_and_confirm(&dynamic).await?;
        let Some(broken) = self.broken_hba_line().await? else { return Ok(()) };
        let reason =
            format!("{}, line {broken}; the lines from before stay in force", self.layout.hba().display());
        Err(Error::Configuration { reason })
    }

    fn set_tunable(&self, tunable: Arc<Tunable>) {
        *self.tunable.write().unwrap_or_else(PoisonError::into_inner) = tunable;
    }

    fn fixed<'a>(&'a self, tunable: &'a Tunable) -> Static<'a> {
        Static {
            layout: &self.layout,
            node: &self.config.node,
            listen: &self.config.listen,
            port: self.config.port,
            parameters: &tunable.parameters,
            slots: &tunable.slots,
            synchronizes_slots: self.synchronizes_slots(),
            disk_bytes: disk_bytes(&self.layout.dir),
        }
    }

    /// PostgreSQL itself brings logical slots from the primary to this server while it is a standby.
    pub(super) fn synchronizes_slots(&self) -> bool {
        let tunable = self.tunable();
        self.installation.major >= FAILOVER_SLOTS && is_logical(&tunable.slots, &tunable.parameters)
    }

    pub(super) fn running(&self) -> Result<super::Postmaster> {
        super::process::find(&self.layout.data)?
            .ok_or_else(|| Error::NotRunning { data: self.layout.data.clone() })
    }

    pub(super) fn refuse_running(&self) -> Result<()> {
        match super::process::find(&self.layout.data)? {
            Some(postmaster) => Err(Error::Running { data: self.layout.data.clone(), pid: postmaster.pid }),
            None => Ok(()),
        }
    }

    /// Forgets connections to a server that has ended, so that the next call opens new ones at once.
    pub(super) async fn close_sessions(&self) {
        *self.observer.lock().await = Observer::default();
        self.admin.lock().await.close();
        if let Ok(mut secrets) = self.secrets.try_lock() {
            secrets.close();
        }
        // A probe that hangs with its server finds its connection gone by itself, and so does a slot's.
        if let Ok(mut prober) = self.prober.try_lock() {
            prober.close();
        }
        if let Ok(mut sessions) = self.slot_sessions.try_lock() {
            *sessions = SlotSessions::default();
        }
    }
}

/// The size of the file system that `dir` is or will be on; `None` when it does not tell.
fn disk_bytes(dir: &std::path::Path) -> Option<u64> {
    let present = dir.ancestors().find(|dir| dir.exists())?;
    rustix::fs::statvfs(present).ok().map(|disk| disk.f_blocks * disk.f_frsize)
}
