//! Is a TCP port free, and if not, who has it?
//!
//! The answer is true at the moment of the question only; whoever binds afterwards reports a lost race itself.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

use super::failure::{Exit, Failure};
use super::processes::{self, Process};

/// An error that names the port and its holder when somebody listens on it on loopback.
pub fn check_free(port: u16, next: &str) -> Result<(), Failure> {
    // The standard library sets SO_REUSEADDR, so a port in TIME_WAIT counts as free, as it does for PostgreSQL.
    let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else { return Ok(()) };
    let failure = if error.kind() == io::ErrorKind::AddrInUse {
        let who = match holder(port) {
            Some(process) => format!("{} (pid {}) listens on it", process.name, process.pid),
            None => "another user's process listens on it; as root: ss -ltnp".to_owned(),
        };
        Failure::new(Exit::Precondition, format!("port {port} is in use")).why(who)
    } else {
        Failure::new(Exit::Precondition, format!("port {port} cannot be used")).why(error)
    };
    Err(failure.next(next))
}

/// The process that listens on `port`, when we may see it.
fn holder(port: u16) -> Option<Process> {
    let inode = listening_inode(port)?;
    let wanted = format!("socket:[{inode}]");
    processes::all().into_iter().find(|process| {
        std::fs::read_dir(format!("/proc/{}/fd", process.pid)).is_ok_and(|files| {
            files.filter_map(Result::ok).any(|file| {
                std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())
            })
        })
    })
}

/// The socket's number from /proc/net/tcp{,6}: `sl local_address rem_address st … uid timeout inode`.
fn listening_inode(port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let table = std::fs::read_to_string(table).ok()?;
        table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let local = fields.get(1)?.rsplit_once(':')?.1;
            let here = u16::from_str_radix(local, 16).ok()? == port && *fields.get(3)? == LISTEN;
            here.then(|| fields.get(9)?.parse().ok()).flatten()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_names_its_holder() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let failure = check_free(port, "choose another").unwrap_err();
        assert_eq!(failure.exit, Exit::Precondition);
        assert_eq!(failure.what, format!("port {port} is in use"));
        let own = format!("(pid {}) listens on it", std::process::id());
        assert!(failure.why.as_ref().unwrap().ends_with(&own), "{failure}");
        assert_eq!(failure.next.as_deref(), Some("choose another"));
        drop(listener);
        assert_eq!(check_free(port, ""), Ok(()));
    }
}
