//! Where the server of tokio-postgres's suite is: the suite itself has port 5433 in its texts, and xtask puts these calls there.

use tokio_postgres::tls::{NoTls, NoTlsStream};
use tokio_postgres::{Client, Connection, Error, Socket};

const OF_THE_SUITE: &str = "5433";

fn port() -> String {
    std::env::var("PGPORT").expect("PGPORT")
}

pub fn address() -> String {
    format!("127.0.0.1:{}", port())
}

/// As `tokio_postgres::connect`.
pub async fn connect(
    parameters: &str,
    tls: NoTls,
) -> Result<(Client, Connection<Socket, NoTlsStream>), Error> {
    tokio_postgres::connect(&parameters.replace(OF_THE_SUITE, &port()), tls).await
}
