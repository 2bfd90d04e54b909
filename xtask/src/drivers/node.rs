//! JavaScript: packages of npm.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::Part;
use crate::shell;

pub const PART: Part =
    Part { name: "node", needs: "npm", suites: "node-postgres and postgres.js", versions, fetch };

const PACKAGES: [&str; 2] = ["pg@8", "postgres@3"];

fn versions() -> String {
    PACKAGES.join("\n")
}

fn fetch(folder: &Path) -> Result<()> {
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
    shell::run(npm.arg(folder).args(PACKAGES))
}
