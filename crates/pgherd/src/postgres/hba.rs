//! Who may connect: `pg_hba.conf` and `pg_ident.conf`, in two variants.
//!
//! *quarantined* admits the agent (private socket, by operating-system user), replication and rewinds of other nodes;
//! *open* admits the user's lines as well. Invariant: our lines stand first and PostgreSQL takes the first match, so
//! no line of the user's can let the replication role in without its password.

use super::account::Account;

/// The role that standbys and base backups connect with.
pub const REPLICATION_ROLE: &str = "pgherd_replication";
/// The role that `pg_rewind` of another node connects with.
pub const REWIND_ROLE: &str = "pgherd_rewind";

/// The agent's own role, which our lines for `local` let in.
pub const SUPERUSER: &str = "postgres";
/// Of `pg_stat_activity`: no session of the agent, which comes by the private socket as its own role.
pub(super) const NOT_THE_AGENT: &str = "NOT (client_addr IS NULL AND usename = 'postgres')";
/// The ident map from operating-system users to [`SUPERUSER`].
const MAP: &str = "pgherd";

/// Whether clients may connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    Quarantined,
    Open,
}

impl Admission {
    pub fn word(self) -> &'static str {
        match self {
            Admission::Quarantined => "quarantined",
            Admission::Open => "open",
        }
    }
}

/// `slots`: standbys of 17 and newer read the primary's slots by an ordinary connection of the replication role.
pub(super) fn hba(admission: Admission, slots: bool, user_lines: &[String]) -> String {
    let mut text = own_lines(admission.word(), slots);
    if admission == Admission::Open {
        for line in user_lines {
            text.push_str(line);
            text.push('\n');
        }
    }
    text + REJECTED
}

/// Nobody of the user's gets in; `word` says why.
pub(super) fn closed(word: &str) -> String {
    own_lines(word, false) + REJECTED
}

const REJECTED: &str = "host  all         all                  all  reject\n";

fn own_lines(word: &str, slots: bool) -> String {
    let slots = match slots {
        true => format!("host  postgres    {REPLICATION_ROLE} all  scram-sha-256\n"),
        false => String::new(),
    };
    format!(
        "# Written by pgherd ({word}); changes are lost. The cluster's own lines are the setting postgres.hba.\n\
         local all         {SUPERUSER}             peer map={MAP}\n\
         local replication {SUPERUSER}             peer map={MAP}\n\
         host  replication {REPLICATION_ROLE} all  scram-sha-256\n\
         host  postgres    {REWIND_ROLE}      all  scram-sha-256\n\
         {slots}\
         host  all         {REPLICATION_ROLE},{REWIND_ROLE} all reject\n"
    )
}

/// `peer` compares the operating-system user of the connecting process: the agent's own and PostgreSQL's.
pub(super) fn ident(account: &Account) -> String {
    let mut text = String::from("# Written by pgherd; changes are lost.\n");
    for name in account.internal_names() {
        text.push_str(&format!("{MAP} \"{name}\" {SUPERUSER}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_lines_come_after_ours_and_only_when_open() {
        let lines = ["host all all 0.0.0.0/0 trust".to_owned()];
        let open = hba(Admission::Open, false, &lines);
        assert!(open.find("pgherd_replication all  scram").unwrap() < open.find("trust").unwrap());
        assert!(!open.contains("host  postgres    pgherd_replication"));
        assert!(hba(Admission::Open, true, &lines).contains("host  postgres    pgherd_replication"));
        assert!(!hba(Admission::Quarantined, false, &lines).contains("trust"));
    }
}
