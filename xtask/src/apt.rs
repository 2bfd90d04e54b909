//! Debian's packages, downloaded and unpacked, with lists and sources of our own: the machine's may be empty or name no sources.
//!
//! Invariant: nothing is installed, and apt's own lists and caches stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// All that it downloads is in its folder.
pub struct Apt {
    pub folder: PathBuf,
}

impl Apt {
    pub fn new(folder: &Path) -> Result<Apt> {
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::create_dir_all(folder.join("cache/archives/partial"))?;
        let lines: Vec<String> = [("debian", "bookworm"), ("debian-security", "bookworm-security")]
            .iter()
            .flat_map(|(archive, suite)| {
                ["deb", "deb-src"].map(|kind| {
                    let key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
                    format!("{kind} {key} http://deb.debian.org/{archive} {suite} main\n")
                })
            })
            .collect();
        fs::write(folder.join("sources.list"), lines.concat())?;
        let apt = Apt { folder: folder.to_owned() };
        shell::run(apt.command().arg("update"))?;
        Ok(apt)
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.current_dir(&self.folder).arg("--quiet");
        let folder = self.folder.display();
        for option in [
            format!("Dir::Etc::sourcelist={folder}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={folder}/lists"),
            format!("Dir::Cache={folder}/cache"),
            // Its own user cannot enter our target directory.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    pub fn download(&self, packages: &[impl AsRef<str>]) -> Result<()> {
        shell::run(self.command().arg("download").args(packages.iter().map(AsRef::as_ref)))
    }

    /// Packages that were downloaded, below a root as if installed.
    pub fn unpack(&self, packages: &[&str]) -> Result<PathBuf> {
        let root = self.folder.join("root");
        for package in packages {
            let archive =
                self.only_file(|name| name.starts_with(&format!("{package}_")) && name.ends_with(".deb"))?;
            shell::run(Command::new("dpkg").arg("-x").args([&archive, &root]))?;
        }
        Ok(root)
    }

    pub fn only_file(&self, matches: impl Fn(&str) -> bool) -> Result<PathBuf> {
        let paths = fs::read_dir(&self.folder)?.filter_map(|entry| Some(entry.ok()?.path()));
        let mut found =
            paths.filter(|path| path.file_name().is_some_and(|name| matches(&name.to_string_lossy())));
        found.next().with_context(|| format!("apt-get left nothing in {}", self.folder.display()))
    }
}
