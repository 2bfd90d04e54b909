//! Go: the suite of lib/pq, built with Debian's compiler from Debian's package of its sources.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Part;
use crate::apt::Apt;
use crate::shell;

pub const PART: Part = Part { name: "go", needs: "apt-get", suites: "lib/pq", versions, fetch };

/// The compiler, its library, the driver.
const PACKAGES: [&str; 3] = ["golang-1.19-go", "golang-1.19-src", "golang-github-lib-pq-dev"];

fn versions() -> String {
    PACKAGES.join("\n")
}

/// Half a gigabyte comes, and one program of 10 MB stays.
fn fetch(folder: &Path) -> Result<()> {
    let apt = Apt::new(&folder.join("apt"))?;
    apt.download(&PACKAGES)?;
    let root = apt.unpack(&PACKAGES)?;
    let compiler = root.join("usr/lib/go-1.19");
    let mut go = Command::new(compiler.join("bin/go"));
    go.current_dir(root.join("usr/share/gocode/src/github.com/lib/pq"));
    go.env("GOROOT", &compiler).env("GOPATH", root.join("path")).env("GOCACHE", root.join("cache"));
    // All that it needs is there, and no C.
    go.envs([("GOPROXY", "off"), ("GOFLAGS", "-mod=mod"), ("GO111MODULE", "on"), ("CGO_ENABLED", "0")]);
    shell::run(go.args(["test", "-c", "-o"]).arg(folder.join("pq.test")).arg("."))?;
    fs::remove_dir_all(apt.folder).context("remove the compiler")
}
