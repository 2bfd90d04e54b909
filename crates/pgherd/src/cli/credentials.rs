//! With what a command comes to a node that does not trust it for where it comes from: a user, and the authorities of certificates.
//!
//! Invariant: a password is never an argument, so that no list of processes shows it.

use std::fs;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use rustix::termios::{self, LocalModes, OptionalActions};
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use super::failure::{Exit, Failure};

const PASSWORD: &str = "PGHERD_PASSWORD";

#[derive(Args, Debug, Clone, Default)]
pub struct CredentialArgs {
    /// A user of the nodes' [http] users; the password comes from PGHERD_PASSWORD, --password-file or the terminal
    #[arg(long, value_name = "NAME", env = "PGHERD_USER", hide_env_values = true, global = false)]
    pub user: Option<String>,
    /// A file with the user's password
    #[arg(long, value_name = "FILE", env = "PGHERD_PASSWORD_FILE", hide_env_values = true)]
    pub password_file: Option<PathBuf>,
    /// The authorities of the nodes' certificates (PEM), for https://
    #[arg(long, value_name = "FILE", env = "PGHERD_CA", hide_env_values = true)]
    pub ca: Option<PathBuf>,
}

impl CredentialArgs {
    /// The header Authorization; `None` without a user.
    pub fn authorization(&self) -> Result<Option<String>, Failure> {
        let Some(user) = &self.user else { return Ok(None) };
        let password = match (&self.password_file, std::env::var(PASSWORD)) {
            (Some(file), _) => {
                let text = fs::read_to_string(file).map_err(|error| {
                    Failure::new(Exit::Configuration, format!("{} cannot be read", file.display())).why(error)
                })?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            (None, Ok(password)) => password,
            (None, Err(_)) => ask(&format!("Password of {user}: "))?,
        };
        Ok(Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))))
    }

    /// `own`: a certificate that is known to be the node's.
    pub fn tls(&self, own: Option<&Path>) -> Result<TlsConfig, Failure> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            TlsConfig::builder().provider(TlsProvider::Rustls).unversioned_rustls_crypto_provider(provider);
        let Some(file) = self.ca.as_deref().or(own) else { return Ok(builder.build()) };
        let wrong = |why: String| {
            Failure::new(Exit::Configuration, format!("{} cannot be used", file.display())).why(why)
        };
        let pem = fs::read(file).map_err(|error| wrong(error.to_string()))?;
        let mut certificates = Vec::new();
        for item in parse_pem(&pem) {
            if let PemItem::Certificate(certificate) = item.map_err(|error| wrong(error.to_string()))? {
                certificates.push(certificate);
            }
        }
        if certificates.is_empty() {
            return Err(wrong("it holds no certificate in PEM form".to_owned()));
        }
        Ok(builder.root_certs(RootCerts::new_with_certs(&certificates)).build())
    }
}

/// A line from the terminal that is not shown while it is typed; from standard input when that is none.
pub fn ask(prompt: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    let mut line = String::new();
    if !stdin.is_terminal() {
        stdin.lock().read_line(&mut line)?;
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    eprint!("{prompt}");
    std::io::stderr().flush()?;
    let before = termios::tcgetattr(&stdin).map_err(std::io::Error::from)?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    termios::tcsetattr(&stdin, OptionalActions::Now, &hidden).map_err(std::io::Error::from)?;
    let read = stdin.lock().read_line(&mut line);
    let _ = termios::tcsetattr(&stdin, OptionalActions::Now, &before);
    eprintln!();
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_comes_from_its_file_without_the_end_of_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "pen:cil 1\nmore\n").unwrap();
        let args = CredentialArgs { user: Some("anna".into()), password_file: Some(file), ca: None };
        let header = args.authorization().unwrap().unwrap();
        let pair = STANDARD.decode(header.strip_prefix("Basic ").unwrap()).unwrap();
        assert_eq!(pair, b"anna:pen:cil 1");
        assert!(CredentialArgs::default().authorization().unwrap().is_none());
    }

    #[test]
    fn a_file_without_certificates_is_no_authority() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca");
        fs::write(&file, "nothing").unwrap();
        let args = CredentialArgs { ca: Some(file), ..CredentialArgs::default() };
        assert_eq!(args.tls(None).unwrap_err().exit, Exit::Configuration);
    }
}
