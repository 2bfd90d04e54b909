//! The nodes' small disks and the store's directory: filled, given room again, emptied.
//!
//! What it is not: a slow or a broken disk. Invariant: each ballast belongs to one step of the schedule, and leaves with it.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::FallocateFlags;
use tests::cluster::Node;

use crate::schedule::Fault;

/// A power of four blocks; some eight of them fill the disk.
const BALLAST_STEP: u64 = 64 << 20;
const BALLAST: &str = "ballast-";

/// The store's directory, which has a disk of its own.
pub fn store_of(node: &Node) -> PathBuf {
    node.dir.join("store")
}

/// The disks that a fault fills at a node.
pub fn filled_by(fault: Fault, node: &Node) -> Vec<PathBuf> {
    match fault {
        Fault::FullDisk => vec![node.dir.clone()],
        Fault::FullStoreDisk | Fault::FullStoreDisksMajority => vec![store_of(node)],
        Fault::FullDisks => vec![node.dir.clone(), store_of(node)],
        _ => Vec::new(),
    }
}

/// Takes every free block of the file system: in big steps, then in small ones, since servers take and give blocks
/// meanwhile.
pub fn fill(disk: &Path, step: usize) -> Result<()> {
    let file = File::create(ballast(disk, step)).context("make the ballast")?;
    let block = rustix::fs::statvfs(disk)?.f_frsize;
    let (mut length, mut step) = (0, BALLAST_STEP);
    while step >= block {
        match rustix::fs::fallocate(file.as_fd(), FallocateFlags::empty(), length, step) {
            Ok(()) => length += step,
            Err(rustix::io::Errno::NOSPC) => step /= 4,
            Err(error) => return Err(error).context("fill the disk"),
        }
    }
    Ok(())
}

pub fn make_room(disk: &Path, step: usize) -> Result<()> {
    fs::remove_file(ballast(disk, step)).context("remove the ballast")
}

/// Leaves nothing of the store of a node whose agent does not run, as a new disk in its place would.
pub fn lose_store(node: &Node) -> Result<()> {
    let Ok(entries) = fs::read_dir(store_of(node)) else { return Ok(()) };
    for entry in entries {
        let entry = entry.context("the store's directory")?;
        if !entry.file_name().to_string_lossy().starts_with(BALLAST) {
            fs::remove_file(entry.path()).with_context(|| format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn ballast(disk: &Path, step: usize) -> PathBuf {
    disk.join(format!("{BALLAST}{step}"))
}
