//! What pgherd is built from: licences, sources, banned crates and known vulnerabilities, by cargo-deny and `deny.toml`.
//!
//! It is no part of `cargo xtask ci`: cargo-deny takes minutes to build, and the vulnerabilities are looked up in a database that not
//! every machine reaches. Invariant: what was not checked is said, and is an error unless it was asked for.

use anyhow::{Result, bail};

use crate::shell;

const LOCAL: [&str; 3] = ["bans", "licenses", "sources"];

/// `audit [--offline]`.
pub fn audit(arguments: &[String]) -> Result<()> {
    let offline = match arguments {
        [] => false,
        [flag] if flag == "--offline" => true,
        _ => bail!("cargo xtask audit knows --offline alone"),
    };
    if !shell::has_program("cargo-deny") {
        bail!(
            "there is no cargo-deny; type: cargo install cargo-deny --locked (some three minutes on two cores)"
        );
    }
    let deny = |words: &[&str]| shell::cargo(&[&["deny", "--locked"], words].concat());
    deny(&[["check"].as_slice(), &LOCAL].concat())?;
    if offline {
        println!(
            "NOT CHECKED: known vulnerabilities, yanked and unmaintained crates, which need RustSec's database."
        );
        return Ok(());
    }
    if deny(&["fetch", "db"]).is_err() {
        bail!(
            "known vulnerabilities are NOT CHECKED: RustSec's database cannot be fetched from GitHub, as cargo-deny says above; \
             bans, licences and sources are in order. Where there is no way to GitHub, type: cargo xtask audit --offline"
        );
    }
    deny(&["check", "advisories"])
}
