//! By what clients come: TCP ports, and Unix sockets where a folder for them is named.
//!
//! What it is: binding, inheriting from a process before this one, and the files of the sockets. What it is not: accepting.
//! Invariants: a socket's file is replaced when nobody answers there, and removed by the last process that listens on it; a doorway
//! that was handed over is the other process's.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::net::{SocketAddrUnix, getsockname};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream, lookup_host};

use super::ProxyError;
use super::tls::Stream;

/// Connections the kernel holds for us between two accepts; the kernel caps it at net.core.somaxconn (4096).
const BACKLOG: u32 = 1024;
/// Who may connect is said by the folder's mode and by the rules; PostgreSQL's `unix_socket_permissions`.
const SOCKET_MODE: u32 = 0o777;
/// Of `sockaddr_un`, the byte at its end not counted.
const PATH_BYTES_MAX: usize = 107;

/// One listening socket.
pub enum Doorway {
    Port(TcpListener),
    Socket(UnixListener),
}

impl AsFd for Doorway {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Doorway::Port(listener) => listener.as_fd(),
            Doorway::Socket(listener) => listener.as_fd(),
        }
    }
}

impl Doorway {
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Doorway::Port(listener) => {
                let (client, _) = listener.accept().await?;
                super::listener::set_socket_options(&client);
                Ok(Stream::from(client))
            }
            Doorway::Socket(listener) => Stream::try_from(listener.accept().await?.0),
        }
    }

    /// `None` for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Doorway::Port(listener) => listener.local_addr().ok(),
            Doorway::Socket(_) => None,
        }
    }
}

/// Binds `port` of `host`, or takes it out of `open`; `setting` is the name under which the user configured it.
pub async fn port(
    host: &str,
    port: u16,
    setting: &'static str,
    open: &mut Vec<OwnedFd>,
) -> Result<Doorway, ProxyError> {
    let failed = |source| ProxyError::bind(host, port, setting, source);
    let addresses = lookup_host((host, port)).await.map_err(failed)?;
    let address = addresses.into_iter().next().ok_or_else(|| failed(ErrorKind::AddrNotAvailable.into()))?;
    let is_it = |fd: &OwnedFd| getsockname(fd).is_ok_and(|there| SocketAddr::try_from(there) == Ok(address));
    let listener = match open.iter().position(is_it) {
        Some(at) => nonblocking(open.swap_remove(at)).and_then(|fd| TcpListener::from_std(fd.into())),
        None => listen(address),
    };
    listener.map(Doorway::Port).map_err(failed)
}

fn nonblocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart need not wait for connections of the last run that linger in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Where libpq looks for a server with this port.
pub fn path_of(folder: &Path, port: u16) -> PathBuf {
    folder.join(format!(".s.PGSQL.{port}"))
}

/// Whether sockets could be made there.
pub fn check_folder(folder: &Path) -> Result<(), ProxyError> {
    let refused = |why: String| ProxyError::SocketFolder { folder: folder.to_owned(), why };
    let metadata = std::fs::metadata(folder).map_err(|error| refused(error.to_string()))?;
    if !metadata.is_dir() {
        return Err(refused("it is no folder".to_owned()));
    }
    // The longest port.
    match path_of(folder, u16::MAX).as_os_str().len() {
        ..=PATH_BYTES_MAX => Ok(()),
        bytes => Err(refused(format!(
            "the path of a socket there would have {bytes} bytes, and Linux takes {PATH_BYTES_MAX}"
        ))),
    }
}

/// Binds the Unix socket of `port` in `folder`, or takes it out of `open`.
pub async fn socket(folder: &Path, port: u16, open: &mut Vec<OwnedFd>) -> Result<Doorway, ProxyError> {
    check_folder(folder)?;
    let path = path_of(folder, port);
    let is_it = |fd: &OwnedFd| path_at(fd).is_some_and(|there| there == path);
    let listener = match open.iter().position(is_it) {
        // One whose file is gone is found by nobody.
        Some(at) if path.exists() => {
            nonblocking(open.swap_remove(at)).and_then(|fd| UnixListener::from_std(fd.into()))
        }
        _ => listen_at(&path).await,
    };
    listener.map(Doorway::Socket).map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => ProxyError::SocketInUse { path },
        _ => ProxyError::SocketFolder { folder: folder.to_owned(), why: source.to_string() },
    })
}

fn path_at(fd: &OwnedFd) -> Option<PathBuf> {
    let address = SocketAddrUnix::try_from(getsockname(fd).ok()?).ok()?;
    Some(PathBuf::from(address.path()?.to_string_lossy().into_owned()))
}

async fn listen_at(path: &Path) -> io::Result<UnixListener> {
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        // Left by a process that had no time to remove it.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
                return Err(ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        // Somebody listens, or would if he had time; whoever he is.
        _ => return Err(ErrorKind::AddrInUse.into()),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// The doorways of one process, open as long as this is, whoever accepts.
#[derive(Default)]
pub struct Doorways {
    open: Vec<OwnedFd>,
    /// Of the process before this one, and not wanted any more.
    surplus: Vec<OwnedFd>,
    /// The files of the sockets are this process's. Until it runs they are those of the one before it, which may have to go on.
    is_owner: bool,
}

impl Doorways {
    /// `surplus`: what is left of those that a process before this one has handed over.
    pub fn new(surplus: Vec<OwnedFd>) -> Doorways {
        Doorways { open: Vec::new(), surplus, is_owner: false }
    }

    pub fn add(&mut self, doorway: &Doorway) -> io::Result<()> {
        self.open.push(doorway.as_fd().try_clone_to_owned()?);
        Ok(())
    }

    /// This process has taken over, for good.
    pub fn settle(&mut self) {
        self.is_owner = true;
        remove_files(&std::mem::take(&mut self.surplus));
    }

    /// For another process; they stay open when this one ends.
    pub fn hand_over(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.open)
    }

    /// Closes them; whoever accepts is to have stopped. The files of the sockets go.
    pub fn close(&mut self) {
        let open = self.hand_over();
        if self.is_owner {
            remove_files(&open);
        }
    }
}

impl Drop for Doorways {
    fn drop(&mut self) {
        self.close();
    }
}

/// Of sockets that no process listens on any more.
fn remove_files(doorways: &[OwnedFd]) {
    for path in doorways.iter().filter_map(path_at) {
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::info!(path = %path.display(), %error, "a Unix socket's file could not be removed");
        }
    }
}
