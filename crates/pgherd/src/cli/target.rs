//! Which cluster a client command means: `--dir`, `--config`, `--url`, `PGHERD_URL`, in that order.
//!
//! The result is a list of HTTP addresses, one per node that is known from here. Reads of a configuration file take
//! only what they need from it, so a file that a newer daemon understands still serves.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use super::credentials::CredentialArgs;
use super::failure::{Exit, Failure};
use crate::config::join_address;

/// The HTTP port of a node whose configuration names none, as in the table of settings.
pub const HTTP_PORT_DEFAULT: u16 = 8432;

#[derive(Args, Debug, Clone, Default)]
pub struct TargetArgs {
    /// The directory of a demo
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// A node's configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A node's HTTP address, such as http://10.0.0.1:8432; PGHERD_URL when no flag is given
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    #[command(flatten)]
    pub credentials: CredentialArgs,
}

/// One address to ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// The node's name where it is known from here.
    pub node: Option<String>,
    /// `http://host:port` or `https://host:port`, without a slash at the end.
    pub url: String,
    /// The certificate of its HTTP server, where that is known from here.
    pub cert: Option<PathBuf>,
}

impl TargetArgs {
    /// The addresses to ask, at least one.
    pub fn addresses(&self) -> Result<Vec<Address>, Failure> {
        self.resolve(std::env::var("PGHERD_URL").ok().filter(|url| !url.is_empty()))
    }

    fn resolve(&self, environment: Option<String>) -> Result<Vec<Address>, Failure> {
        if let Some(dir) = &self.dir {
            return demo_addresses(dir);
        }
        if let Some(config) = &self.config {
            return Ok(vec![node_address(config)?]);
        }
        if let Some(url) = self.url.as_ref().or(environment.as_ref()) {
            return Ok(vec![Address { node: None, url: checked_url(url)?, cert: None }]);
        }
        Err(Failure::new(Exit::Usage, "no cluster named")
            .why("none of --dir, --config, --url and the environment variable PGHERD_URL is given")
            .next("pgherd status --dir DIR (a demo), --config FILE (a node here) or --url http://HOST:PORT"))
    }
}

/// What a client needs of a node's configuration.
#[derive(Deserialize, Debug)]
pub struct NodeFile {
    pub node: NodeSection,
    #[serde(default)]
    pub http: HttpSection,
    #[serde(default)]
    pub postgres: PostgresSection,
}

#[derive(Deserialize, Debug)]
pub struct NodeSection {
    pub name: String,
}

#[derive(Deserialize, Debug, Default)]
pub struct HttpSection {
    pub listen: Option<String>,
    pub port: Option<u16>,
    pub cert: Option<PathBuf>,
    pub users: Option<PathBuf>,
}

#[derive(Deserialize, Debug, Default)]
pub struct PostgresSection {
    pub port: Option<u16>,
}

pub fn read_node_file(path: &Path) -> Result<NodeFile, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(Exit::Configuration, format!("{shown} cannot be read")).why(error))?;
    toml::from_str(&text).map_err(|error| {
        Failure::new(Exit::Configuration, format!("{shown} is no node's configuration")).why(error.message())
    })
}

pub fn node_address(path: &Path) -> Result<Address, Failure> {
    let file = read_node_file(path)?;
    // A wildcard says where to listen, not where to ask.
    let host = match file.http.listen.as_deref() {
        None | Some("" | "*" | "0.0.0.0") => "127.0.0.1",
        Some("::") => "::1",
        Some(host) => host,
    };
    let port = file.http.port.unwrap_or(HTTP_PORT_DEFAULT);
    let scheme = if file.http.cert.is_some() { "https" } else { "http" };
    Ok(Address {
        node: Some(file.node.name),
        url: format!("{scheme}://{}", join_address(host, port)),
        cert: file.http.cert,
    })
}

/// Configuration files of a demo, in the order of the nodes' numbers.
pub fn demo_files(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(Failure::new(Exit::General, format!("{} cannot be read", dir.display())).why(error));
        }
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("pgherd.toml"))
        .filter(|file| file.is_file())
        .collect();
    // n10 comes after n9.
    files.sort_by_key(|file| (file.as_os_str().len(), file.clone()));
    Ok(files)
}

fn demo_addresses(dir: &Path) -> Result<Vec<Address>, Failure> {
    let files = demo_files(dir)?;
    if files.is_empty() {
        return Err(Failure::new(Exit::Configuration, format!("there is no demo in {}", dir.display()))
            .why("no DIR/NODE/pgherd.toml is there")
            .next(format!("pgherd demo --dir {}", dir.display())));
    }
    files.iter().map(|file| node_address(file)).collect()
}

fn checked_url(url: &str) -> Result<String, Failure> {
    let url = url.trim_end_matches('/');
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    if rest.is_none_or(|rest| rest.is_empty() || rest.contains('/')) {
        return Err(Failure::new(Exit::Usage, format!("\"{url}\" is not the address of a node"))
            .next("--url http://HOST:PORT, or https://"));
    }
    Ok(url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo_with(nodes: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (index, name) in nodes.iter().enumerate() {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            let port = 17_004 + 10 * index;
            let text = format!(
                "cluster = \"demo\"\n[node]\nname = \"{name}\"\n[http]\nlisten = \"127.0.0.1\"\nport = {port}\n"
            );
            std::fs::write(dir.path().join(name).join("pgherd.toml"), text).unwrap();
        }
        dir
    }

    #[test]
    fn the_directory_comes_before_file_url_and_environment() {
        let dir = demo_with(&["n1", "n2", "n10"]);
        let all = TargetArgs {
            dir: Some(dir.path().into()),
            config: Some(dir.path().join("n2/pgherd.toml")),
            url: Some("http://h:1".into()),
            credentials: CredentialArgs::default(),
        };
        let environment = || Some("http://e:1".to_owned());
        let urls = |target: &TargetArgs| -> Vec<String> {
            target.resolve(environment()).unwrap().into_iter().map(|address| address.url).collect()
        };
        let by_dir = ["http://127.0.0.1:17004", "http://127.0.0.1:17014", "http://127.0.0.1:17024"];
        assert_eq!(urls(&all), by_dir);
        let names: Vec<_> = all.addresses().unwrap().into_iter().filter_map(|address| address.node).collect();
        assert_eq!(names, ["n1", "n2", "n10"]);
        let no_dir = TargetArgs { dir: None, ..all };
        assert_eq!(urls(&no_dir), ["http://127.0.0.1:17014"]);
        let url_only = TargetArgs { config: None, ..no_dir };
        assert_eq!(urls(&url_only), ["http://h:1"]);
        assert_eq!(urls(&TargetArgs::default()), ["http://e:1"]);
    }

    #[test]
    fn without_a_cluster_the_error_says_how_to_name_one() {
        let failure = TargetArgs::default().resolve(None).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.next.unwrap().contains("--dir DIR"));
    }

    #[test]
    fn an_empty_directory_and_a_broken_file_are_configuration_errors() {
        let dir = tempfile::tempdir().unwrap();
        let target = TargetArgs { dir: Some(dir.path().into()), ..Default::default() };
        assert_eq!(target.resolve(None).unwrap_err().exit, Exit::Configuration);
        let file = dir.path().join("x.toml");
        std::fs::write(&file, "cluster = ").unwrap();
        let target = TargetArgs { config: Some(file), ..Default::default() };
        assert_eq!(target.resolve(None).unwrap_err().exit, Exit::Configuration);
    }

    #[test]
    fn addresses_that_are_none() {
        for url in ["", "h:1", "ftp://h:1", "http://", "https://", "http://h:1/api"] {
            assert!(checked_url(url).is_err(), "{url}");
        }
        assert_eq!(checked_url("http://h:1/").unwrap(), "http://h:1");
        assert_eq!(checked_url("https://h:1").unwrap(), "https://h:1");
    }
}
