//! The style check: what a reviewer should not have to look for.
//!
//! Every rule is a function from the workspace's files to a list of complaints, each with a path.

mod docs;
mod purity;
mod sources;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A file of the workspace with its text.
pub struct Source {
    /// From the workspace's root.
    pub path: String,
    pub text: String,
}

pub fn tidy() -> Result<()> {
    let sources = read_sources(Path::new("."))?;
    let complaints: Vec<String> =
        [sources::check(&sources), docs::check(&sources), purity::check(&sources)].concat();
    for warning in sources::long_files(&sources) {
        println!("tidy: warning: {warning}");
    }
    for complaint in &complaints {
        println!("tidy: {complaint}");
    }
    match complaints.len() {
        0 => {
            println!("tidy: {} files, nothing to complain about", sources.len());
            Ok(())
        }
        count => bail!("tidy: {count} complaints"),
    }
}

/// Rust, TOML and Markdown files, without what cargo and git make.
fn read_sources(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() {
                if !matches!(name.as_str(), "target" | ".git") {
                    folders.push(path);
                }
            } else if [".rs", ".toml", ".md"].iter().any(|end| name.ends_with(end)) {
                let text =
                    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                let path = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                sources.push(Source { path, text });
            }
        }
    }
    sources.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(sources)
}

#[cfg(test)]
mod tests {
    /// The style check is a test: it runs wherever the tests run.
    #[test]
    fn the_workspace_is_tidy() {
        std::env::set_current_dir(crate::shell::root()).unwrap();
        super::tidy().unwrap();
    }
}
