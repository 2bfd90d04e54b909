//! The certificates with which the nodes of a demo know each other.

use super::layout::{CLUSTER, DemoNode, Layout};
use crate::cli::failure::{Exit, Failure};
use crate::peer::certificates::{CertificateError, create_authority, issue};

/// Makes a certificate for a node that joins the demo.
pub fn add(layout: &Layout, node: &DemoNode) -> Result<(), Failure> {
    let failed = |error: CertificateError| {
        Failure::new(Exit::General, format!("no certificate for {} can be made", node.name)).why(error)
    };
    issue(&layout.dir.join("authority"), &node.name, &node.dir.join("tls")).map_err(failed)
}

/// Makes DIR/authority, and for each node a certificate where its configuration looks for it by default.
pub fn make(layout: &Layout) -> Result<(), Failure> {
    let authority = layout.dir.join("authority");
    let failed = |error: CertificateError| {
        Failure::new(Exit::General, "the demo's certificates cannot be made").why(error)
    };
    create_authority(&authority, CLUSTER).map_err(failed)?;
    for node in &layout.nodes {
        issue(&authority, &node.name, &node.dir.join("tls")).map_err(failed)?;
    }
    Ok(())
}
