//! Slots of the primary on a replica: the slot's state file, taken from the primary.
//!
//! No command makes a slot on a standby that begins where another's stands, except for logical slots from 17 on. The file
//! `pg_replslot/NAME/state` is all that a slot is; a server reads it once, when it starts. It is read with the rewind
//! role, which may read files already, and is as the server wrote it: renamed into place, with a checksum of its own.
//! Invariant: a copy is put only into a stopped data directory that has the WAL it needs, never over a slot that is there.

use std::time::Duration;

use tokio_postgres::{Config, NoTls, SimpleQueryMessage};
use wire::Lsn;

use super::error::{Error, Result, within};
use super::files;
use super::hba::REWIND_ROLE;
use super::server::{Server, Source};
use super::session::literal;

/// A connection by the network and some files of 200 bytes.
const FETCH_DEADLINE: Duration = Duration::from_secs(10);

/// `SLOT_MAGIC` and the places in `ReplicationSlotOnDisk` (slot.c), the same in 15 to 18.
const MAGIC: u32 = 0x0105_1CA1;
const NAME: std::ops::Range<usize> = 16..80;
const DATABASE: usize = 80;
const PERSISTENCY: usize = 84;
const RESTART_LSN: usize = 96;
const CONFIRMED_FLUSH: usize = 112;
const BYTES_MIN: usize = 120;

/// The last major whose standbys need copies: newer ones synchronize logical slots themselves.
pub const COPIES_UNTIL: u32 = 16;

/// A slot as it lies on the primary's disk.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotCopy {
    pub name: String,
    pub restart: Lsn,
    pub confirmed: Lsn,
    state: Vec<u8>,
}

impl std::fmt::Debug for SlotCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} from {}, confirmed {}", self.name, self.restart, self.confirmed)
    }
}

impl SlotCopy {
    /// Checks what the file says of itself; the server checks its checksum when it reads it.
    fn parse(name: &str, state: Vec<u8>) -> Result<SlotCopy, String> {
        let word = |at: usize| Some(u32::from_ne_bytes(state.get(at..at + 4)?.try_into().ok()?));
        let lsn = |at: usize| Some(Lsn(u64::from_ne_bytes(state.get(at..at + 8)?.try_into().ok()?)));
        if state.len() < BYTES_MIN || word(0) != Some(MAGIC) {
            return Err("it is no state of a slot".to_owned());
        }
        let own = state[NAME].split(|byte| *byte == 0).next().unwrap_or_default();
        if own != name.as_bytes() {
            return Err(format!("it is the state of {:?}", String::from_utf8_lossy(own)));
        }
        // RS_PERSISTENT; one that is being made is ephemeral until it is whole.
        if word(PERSISTENCY) != Some(0) {
            return Err("it is not whole yet".to_owned());
        }
        let physical = word(DATABASE) == Some(0);
        match (lsn(RESTART_LSN), lsn(CONFIRMED_FLUSH)) {
            (Some(restart), Some(confirmed)) if restart > Lsn::ZERO && (physical || confirmed >= restart) => {
                Ok(SlotCopy { name: name.to_owned(), restart, confirmed, state })
            }
            _ => Err("it holds no WAL".to_owned()),
        }
    }
}

impl Server {
    /// Reads the states of those of `names` that `source` has; its password is [`REWIND_ROLE`]'s.
    pub async fn fetch_slots(&self, source: &Source, names: &[String]) -> Result<Vec<SlotCopy>> {
        let what = "read the states of slots from the primary";
        let mut config = Config::new();
        config.host(&source.host).port(source.port).user(REWIND_ROLE).password(&source.password);
        config.dbname("postgres").application_name("pgherd slots").connect_timeout(FETCH_DEADLINE);
        let list: Vec<String> = names.iter().map(|name| literal(name)).collect();
        let sql = format!(
            "SELECT slot_name, encode(pg_read_binary_file('pg_replslot/' || slot_name || '/state'), 'hex') \
             FROM pg_replication_slots WHERE slot_name IN ({})",
            list.join(", ")
        );
        let rows = within(what, FETCH_DEADLINE, async {
            let (client, connection) = config.connect(NoTls).await.map_err(Error::sql(what))?;
            let driver = tokio::spawn(async move { drop(connection.await) });
            let rows = client.simple_query(&sql).await.map_err(Error::sql(what));
            driver.abort();
            rows
        })
        .await?;
        let mut copies = Vec::new();
        for row in rows {
            let SimpleQueryMessage::Row(row) = row else { continue };
            let (name, text) = (row.get(0).unwrap_or_default(), row.get(1).unwrap_or_default());
            let state = bytes_of_hex(text).ok_or_else(|| "it is no hexadecimal".to_owned());
            match state.and_then(|state| SlotCopy::parse(name, state)) {
                Ok(copy) => copies.push(copy),
                // One that is being made, or holds nothing yet, is no reason to go without the others.
                Err(reason) => tracing::warn!(name, reason, "the state of a slot was not taken"),
            }
        }
        Ok(copies)
    }

    /// Puts copies into the data directory of a stopped server; returns the names of those that it had no WAL for.
    pub fn place_slots(&self, copies: &[SlotCopy]) -> Result<Vec<String>> {
        self.refuse_running()?;
        let slots = self.layout.data.join("pg_replslot");
        let mut without = Vec::new();
        for copy in copies {
            let dir = slots.join(&copy.name);
            if dir.exists() {
                continue;
            }
            if !self.has_wal(copy.restart)? {
                without.push(copy.name.clone());
                continue;
            }
            // A start removes what ends so: half a copy is no slot.
            let fresh = slots.join(format!("{}.tmp", copy.name));
            super::lifecycle::remove_tree(&fresh)?;
            files::private_dir(&fresh, &self.account)?;
            files::write(&fresh.join("state"), &copy.state, &self.account)?;
            files::rename(&fresh, &dir)?;
        }
        Ok(without)
    }
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| Some(c.to_digit(16)? as u8)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str, persistency: u32, restart: u64, confirmed: u64) -> Vec<u8> {
        let mut state = vec![0u8; 200];
        state[..4].copy_from_slice(&MAGIC.to_ne_bytes());
        state[16..16 + name.len()].copy_from_slice(name.as_bytes());
        state[DATABASE] = 5;
        state[PERSISTENCY..PERSISTENCY + 4].copy_from_slice(&persistency.to_ne_bytes());
        state[RESTART_LSN..RESTART_LSN + 8].copy_from_slice(&restart.to_ne_bytes());
        state[CONFIRMED_FLUSH..CONFIRMED_FLUSH + 8].copy_from_slice(&confirmed.to_ne_bytes());
        state
    }

    #[test]
    fn only_a_whole_state_of_the_named_slot_is_taken() {
        let copy = SlotCopy::parse("app", state("app", 0, 100, 200)).unwrap();
        assert_eq!((copy.restart, copy.confirmed), (Lsn(100), Lsn(200)));
        assert!(SlotCopy::parse("ap", state("app", 0, 100, 200)).is_err(), "another slot's");
        assert!(SlotCopy::parse("app", state("app", 1, 100, 200)).is_err(), "still being made");
        assert!(SlotCopy::parse("app", state("app", 0, 0, 200)).is_err(), "holds nothing");
        let mut physical = state("app", 0, 100, 0);
        assert!(SlotCopy::parse("app", physical.clone()).is_err(), "a logical one confirms");
        physical[DATABASE] = 0;
        assert_eq!(SlotCopy::parse("app", physical).unwrap().restart, Lsn(100));
        assert!(SlotCopy::parse("app", vec![0; 200]).is_err(), "no magic");
        assert!(SlotCopy::parse("app", state("app", 0, 100, 200)[..100].to_vec()).is_err(), "cut short");
        assert_eq!(bytes_of_hex("01fF"), Some(vec![1, 255]));
        assert_eq!(bytes_of_hex("01f"), None);
    }
}
