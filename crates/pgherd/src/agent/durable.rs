//! The node's durable words: `member.json` beside the data directory, never in it.
//!
//! pg_basebackup and pg_rewind copy what is inside a data directory; a copied promise would be a lie.
//! Invariant: what [`Words::save`] has returned for is on disk, file and directory fsynced.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use brain::{Durable, Upstream};
use serde::{Deserialize, Serialize};

/// What lies on disk.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Words {
    pub cluster: String,
    pub node: String,
    pub durable: Durable,
    /// How often an agent has started here.
    #[serde(default)]
    pub boots: u64,
    /// The cluster's, once it has been seen: a data directory with another is somebody else's.
    pub system_id: Option<u64>,
    /// Whom the server's files point at; written before they are.
    pub upstream: Option<Upstream>,
}

pub struct WordsFile {
    path: PathBuf,
    words: Words,
}

impl WordsFile {
    /// Reads `dir/member.json`, or starts with none. A file of another node or cluster is an error.
    pub fn open(dir: &Path, cluster: &str, node: &str) -> Result<WordsFile> {
        let path = dir.join("member.json");
        let words = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Words>(&bytes).with_context(|| {
                format!("{} is damaged; without its promise this node may not vote", path.display())
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Words { cluster: cluster.to_owned(), node: node.to_owned(), ..Words::default() }
            }
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        if words.cluster != cluster || words.node != node {
            bail!(
                "{} belongs to node {} of cluster {}, but the configuration says node {node} of cluster {cluster}; \
                 give this node a directory of its own ([node] dir)",
                path.display(),
                words.node,
                words.cluster
            );
        }
        Ok(WordsFile { path, words })
    }

    pub fn words(&self) -> &Words {
        &self.words
    }

    /// Changes the words; they count only once this has returned.
    pub fn save(&mut self, change: impl FnOnce(&mut Words)) -> Result<()> {
        let mut words = self.words.clone();
        change(&mut words);
        if words == self.words {
            return Ok(());
        }
        write_durably(&self.path, &serde_json::to_vec_pretty(&words)?)?;
        self.words = words;
        Ok(())
    }
}

/// Replaces `path` by `bytes`: a new file, fsynced, renamed over it, and the directory fsynced.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().context("the file has no directory")?;
    let temporary = path.with_extension("json.new");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    };
    write().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use brain::Term;

    #[test]
    fn words_survive_and_belong_to_one_node() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = WordsFile::open(dir.path(), "demo", "n1").unwrap();
        file.save(|words| words.durable.promise = Term(7)).unwrap();
        assert_eq!(WordsFile::open(dir.path(), "demo", "n1").unwrap().words().durable.promise, Term(7));
        let error = WordsFile::open(dir.path(), "demo", "n2").err().unwrap().to_string();
        assert!(error.contains("belongs to node n1"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("member.json"), b"{\"cluster\":").unwrap();
        assert!(WordsFile::open(dir.path(), "demo", "n1").is_err());
    }
}
