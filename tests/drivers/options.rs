//! The command line of the drivers' tests.

use std::path::PathBuf;

use crate::pass::Way;

pub const USAGE: &str = "\
  next: cargo xtask test drivers [--only NAME,… | --bounded] [--auto]
        --bounded leaves out what takes more than a minute
        --auto goes through the port that routes by statement instead of the read-write port";

#[derive(Debug)]
pub struct Options {
    /// Where xtask has put the drivers and their suites.
    pub fetched: PathBuf,
    /// Programs of ours that use a driver.
    pub programs: PathBuf,
    /// Names of suites; all when it is empty.
    pub only: Vec<String>,
    /// When no names are given, those that are part of every `cargo xtask test`.
    pub bounded: bool,
    /// What is compared with the direct pass.
    pub way: Way,
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            fetched: PathBuf::new(),
            programs: PathBuf::new(),
            only: Vec::new(),
            bounded: false,
            way: Way::ReadWrite,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().cloned().unwrap_or_default();
            match word.as_str() {
                "--fetched" => options.fetched = value().into(),
                "--programs" => options.programs = value().into(),
                "--only" => options.only = value().split(',').map(str::to_owned).collect(),
                "--bounded" => options.bounded = true,
                "--auto" => options.way = Way::Auto,
                other => return Err(format!("unknown argument \"{other}\"")),
            }
        }
        if options.fetched.as_os_str().is_empty() || options.programs.as_os_str().is_empty() {
            return Err("no drivers are named; start this through cargo xtask test drivers".to_owned());
        }
        Ok(options)
    }
}
