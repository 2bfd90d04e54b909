//! Instructions of the proxy's thread, counted by valgrind: the same whatever else the machine does meanwhile.
//!
//! What is counted is `crates/proxy/counted`, the real proxy between a client and servers of a few lines, and of that the thread that
//! moves the bytes, in user space. What is not: the kernel's share (`strace` counts its calls), TLS, and what link-time optimisation
//! would spare. Invariant: what happens once, log-in and first uses, is in no figure.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

use crate::cluster;

/// A run with so many is taken from one with twice as many. What is not the same in both, a look at the clock or a mail to the thread, is
/// below a thousandth of that.
const TRANSACTIONS: u32 = 2_000;
/// The function that a thread of the proxy runs from its beginning to its end.
const THREAD: &str = "proxy::worker::engine::Engine::run";
/// Lines of the profile that show where most instructions are.
const SHOWN: usize = 40;

/// Builds what is counted, optimised, and says where it is. `cargo xtask test` has done that before, so that it takes no core from
/// other tests; here it is made sure that it is of the sources that are there.
pub fn build() -> Result<PathBuf> {
    let program = cluster::program();
    let folder = program.parent().context("the directory of pgherd")?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace).args(["build", "--quiet", "--package", "pgherd", "--package", "proxy"]);
    cargo.args(["--bin", "counted", "--config", "crates/proxy/counted/profile.toml", "--target-dir"]);
    done(cargo.arg(folder.parent().context("the target directory")?))?;
    Ok(folder.join("counted"))
}

pub struct Counted {
    pub per_transaction: u64,
    /// Of callgrind, of the run with more transactions.
    pub profile: PathBuf,
}

/// What a transaction costs the thread by this port, asked in this mode.
pub fn count(program: &Path, port: &str, mode: &str) -> Result<Counted> {
    let (once, _) = run(program, port, mode, TRANSACTIONS)?;
    let (twice, text) = run(program, port, mode, 2 * TRANSACTIONS)?;
    let profiles = program.ancestors().nth(2).context("the target directory")?.join("callgrind");
    fs::create_dir_all(&profiles)?;
    let profile = profiles.join(format!("{port}-{mode}"));
    fs::write(&profile, text)?;
    let per_transaction = twice.saturating_sub(once) / u64::from(TRANSACTIONS);
    Ok(Counted { per_transaction, profile })
}

/// All instructions of the thread, and its profile.
fn run(program: &Path, port: &str, mode: &str, transactions: u32) -> Result<(u64, String)> {
    let folder = cluster::folder();
    let out = folder.path().join("out");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--separate-threads=yes"]);
    valgrind.arg(format!("--callgrind-out-file={}", out.display()));
    done(valgrind.arg(program).args([port, mode, &transactions.to_string()]))?;
    for file in fs::read_dir(folder.path())? {
        let text = fs::read_to_string(file?.path())?;
        if text.lines().any(|line| line.ends_with(THREAD)) {
            let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
            let total = total.context("callgrind gives a total")?.parse()?;
            return Ok((total, text));
        }
    }
    anyhow::bail!("no thread of the program has run {THREAD}")
}

/// The command that shows a profile.
pub fn annotate(profile: &Path) -> String {
    format!("callgrind_annotate --inclusive=yes {}", profile.display())
}

/// The functions of a profile in which, with all that they call, most instructions are.
pub fn dearest(profile: &Path) -> Result<String> {
    let said = done(Command::new("callgrind_annotate").arg("--inclusive=yes").arg(profile))?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let lines = text.lines().skip_while(|line| !line.trim_start().starts_with("Ir")).take(SHOWN);
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn done(command: &mut Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| {
        format!("start {name}; \"cargo xtask test\" installs what the tests need, valgrind among it")
    })?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}
