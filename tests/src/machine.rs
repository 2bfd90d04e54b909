//! Parts of the machine that a test bends: the user postgres, mounts, files that must not change.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::geteuid;

pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Every file below `dir` with a digest of its mode and content.
pub fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, u64> {
    use std::os::unix::fs::MetadataExt;
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder").map(|entry| entry.expect("its entry"))
        {
            let path = entry.path();
            let metadata = fs::symlink_metadata(&path).expect("its metadata");
            let mut digest = DefaultHasher::new();
            (metadata.mode(), metadata.uid()).hash(&mut digest);
            if metadata.is_dir() {
                folders.push(path.clone());
            } else if metadata.is_file() {
                fs::read(&path).expect("a readable file").hash(&mut digest);
            }
            files.insert(path, digest.finish());
        }
    }
    files
}

/// Says that a test proves nothing here. It passes, and the words of a test that passes are swallowed: these are not.
pub fn skipped(why: impl Display) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // The macros write where the test runner listens; the stream itself leads to whoever started it.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// The directory of PostgreSQL's programs that `PGHERD_TEST_BIN` names; `None` tests what pgherd finds by itself.
pub fn bin_under_test() -> Option<PathBuf> {
    let named = PathBuf::from(std::env::var_os("PGHERD_TEST_BIN").filter(|named| !named.is_empty())?);
    // Fail here, with the variable's name, not in every node.
    assert!(
        named.is_absolute() && named.join("postgres").is_file(),
        "PGHERD_TEST_BIN is {}; it must be the absolute path of a directory with PostgreSQL's programs",
        named.display()
    );
    Some(named)
}

/// What a server of the PostgreSQL under test calls itself, as `SHOW server_version` does; `None` when none is named.
pub fn version_under_test() -> Option<String> {
    let output = Command::new(bin_under_test()?.join("postgres")).arg("--version").output();
    let said = String::from_utf8(output.expect("postgres starts").stdout).expect("a version in UTF-8");
    Some(said.trim().trim_start_matches("postgres (PostgreSQL) ").to_owned())
}

/// `initdb` of the PostgreSQL under test, into `data`, as the user that would run it.
pub fn initdb(data: &Path) {
    let initdb = bin().join("initdb");
    let data = data.to_str().expect("a path in UTF-8");
    if is_root() {
        run(Command::new("install").args(["-d", "-o", "postgres", "-g", "postgres", "-m", "700", data]));
    }
    let mut command = as_postgres(initdb.to_str().expect("a path in UTF-8"));
    run(command.args(["--no-sync", "--username=postgres", "--auth=trust", "-D", data]));
}

/// The program as the user postgres when we are root, else as ourselves.
pub fn as_postgres(program: &str) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--", program]).current_dir("/");
    command
}

/// The directory of the programs of the PostgreSQL under test.
pub fn bin() -> PathBuf {
    bin_under_test().unwrap_or_else(newest_bin)
}

fn newest_bin() -> PathBuf {
    let majors = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL in /usr/lib/postgresql");
    let newest = majors
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .expect("a major version in /usr/lib/postgresql");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"))
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A small file system in memory; unmounted when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, and the test is reported as skipped, where mounting is not allowed.
    pub fn mount(at: &Path, size: &str) -> Option<SmallDisk> {
        let options = format!("size={size},mode=0755");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at);
        match mount.output() {
            Ok(output) if output.status.success() => Some(SmallDisk(at.to_owned())),
            outcome => {
                skipped(format_args!("a full disk needs root and mount: {outcome:?}"));
                None
            }
        }
    }
}

/// A file system of its own on a loop device, which can stall: what is written to it waits, and nothing is lost.
pub struct StallingDisk {
    at: PathBuf,
    image: PathBuf,
}

impl StallingDisk {
    /// `None`, and the test is reported as skipped, where there are no loop devices for us.
    pub fn mount(at: &Path, megabytes: u64) -> Option<StallingDisk> {
        let image = at.with_extension("image");
        fs::create_dir_all(at).expect("a place for the disk");
        fs::File::create(&image).and_then(|file| file.set_len(megabytes << 20)).expect("an image");
        let steps = [
            vec!["mkfs.ext4".as_ref(), "-q".as_ref(), image.as_os_str()],
            vec!["mount".as_ref(), "-o".as_ref(), "loop".as_ref(), image.as_os_str(), at.as_os_str()],
            // Where it cannot be frozen the test would prove nothing.
            vec!["fsfreeze".as_ref(), "--freeze".as_ref(), at.as_os_str()],
        ];
        let disk = StallingDisk { at: at.to_owned(), image: image.clone() };
        for step in steps {
            match Command::new(step[0]).args(&step[1..]).output() {
                Ok(output) if output.status.success() => {}
                outcome => {
                    skipped(format_args!(
                        "a stalled disk needs root, a loop device and fsfreeze: {outcome:?}"
                    ));
                    return None;
                }
            }
        }
        disk.thaw();
        Some(disk)
    }

    pub fn stall(&self) {
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.at));
    }

    pub fn thaw(&self) {
        run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.at));
    }
}

impl Drop for StallingDisk {
    fn drop(&mut self) {
        // It may be thawed, or not mounted at all. Who waits for a frozen disk cannot even be killed.
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.at).output();
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).output();
        let _ = fs::remove_file(&self.image);
    }
}

/// Moves the WAL of a stopped server to `disk` and leaves a link, as an administrator would.
pub fn move_wal(data: &Path, disk: &Path) {
    let (wal, moved) = (data.join("pg_wal"), disk.join("pg_wal"));
    run(Command::new("cp").arg("-a").arg(&wal).arg(&moved));
    fs::remove_dir_all(&wal).expect("the old WAL directory goes");
    std::os::unix::fs::symlink(&moved, &wal).expect("a link to the new one");
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy: what still runs there is killed by the folder's owner afterwards.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
