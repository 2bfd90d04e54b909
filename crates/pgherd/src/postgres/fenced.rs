//! `pg_hba.conf` as the fencer leaves it: quarantined, with a word of its own in the first line.
//!
//! The fencer writes no other file: what it replaced might be newer than what it had read, and a sync set that goes back
//! loses commits. So `pgherd.conf` may still say *open*, and whoever reads the admission asks here first.

use super::hba;

/// Beside `pg_hba.conf`, written before it is needed: a full disk must not keep the door open.
pub const READY: &str = "pg_hba.fenced";

const WORD: &str = "fenced";

pub fn text() -> String {
    hba::closed(WORD)
}

/// The fencer has closed the door, and no agent has taken it over since.
pub fn is_fenced(hba: &str) -> bool {
    hba.lines().next() == text().lines().next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Admission;

    #[test]
    fn it_is_the_quarantined_file_but_for_its_first_line() {
        let quarantined = hba::hba(Admission::Quarantined, false, &["host all all all trust".to_owned()]);
        assert!(is_fenced(&text()));
        assert!(!is_fenced(&quarantined));
        assert_eq!(text().replace(WORD, "quarantined"), quarantined);
    }
}
