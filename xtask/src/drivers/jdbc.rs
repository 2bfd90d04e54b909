//! Java: Debian's package of the JDBC driver, unpacked.

use std::path::Path;

use anyhow::{Context, Result};

use super::Part;
use crate::apt::Apt;

pub const PART: Part = Part { name: "jdbc", needs: "java", suites: "JDBC", versions, fetch };

const PACKAGE: &str = "libpostgresql-jdbc-java";

fn versions() -> String {
    PACKAGE.to_owned()
}

fn fetch(folder: &Path) -> Result<()> {
    let apt = Apt::new(&folder.join("apt"))?;
    apt.download(&[PACKAGE])?;
    std::fs::rename(apt.unpack(&[PACKAGE])?.join("usr/share/java"), folder.join("java"))?;
    std::fs::remove_dir_all(apt.folder).context("remove what apt has left")
}
