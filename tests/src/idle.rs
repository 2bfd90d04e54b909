//! Clients that are logged in and ask nothing, by a few lines of the protocol instead of a driver: thousands cost next to nothing here.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

const HOST: &str = "127.0.0.1";
const USER: &str = "postgres";
const DATABASE: &str = "postgres";
/// A log-in on a machine that is busy.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// So many clients that are logged in and ask nothing. They end when dropped.
pub fn idle_clients(port: u16, count: usize) -> Result<Vec<TcpStream>> {
    (0..count).map(|number| log_in(port).with_context(|| format!("idle client {number}"))).collect()
}

/// Start-up packet to ReadyForQuery, on a server that trusts.
fn log_in(port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((HOST, port))?;
    stream.set_read_timeout(Some(LOGIN_TIMEOUT))?;
    let mut body = 0x0003_0000_u32.to_be_bytes().to_vec();
    for word in ["user", USER, "database", DATABASE, ""] {
        body.extend_from_slice(word.as_bytes());
        body.push(0);
    }
    let length = u32::try_from(body.len() + 4)?;
    stream.write_all(&[length.to_be_bytes().as_slice(), &body].concat())?;
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let [tag, length @ ..] = head;
        let mut rest = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
        stream.read_exact(&mut rest)?;
        match tag {
            b'Z' => return Ok(stream),
            b'E' => bail!("{}", String::from_utf8_lossy(&rest).replace('\0', " ")),
            _ => {}
        }
    }
}
