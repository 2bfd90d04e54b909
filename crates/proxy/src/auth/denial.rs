//! Why a client is not let in: PostgreSQL's own words for the client, the precise ones for the log.

use wire::{ErrorResponse, Severity};

use super::hba::{Origin, Replication, Request};
use super::scram::Violation;

/// A refusal. What the client is told never depends on whether the role exists, as far as it has not proven its password.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denial {
    pub sqlstate: &'static str,
    /// For the client.
    pub message: String,
    /// For the client.
    pub detail: &'static str,
    /// For the log alone: a sentence without the secret, in PostgreSQL's words where it has some.
    pub reason: String,
}

impl Denial {
    /// Ends the connection.
    pub fn response(&self) -> ErrorResponse {
        ErrorResponse {
            severity: Severity::Fatal,
            sqlstate: self.sqlstate,
            message: self.message.clone(),
            detail: self.detail.to_owned(),
            hint: String::new(),
        }
    }

    /// A rule of pg_hba.conf with the method `reject`.
    pub fn rejected(request: &Request<'_>) -> Denial {
        let Request { database, user, origin, .. } = request;
        let encryption = encryption(*origin);
        let message = match request.replication {
            Replication::Physical => format!(
                "pg_hba.conf rejects replication connection for host \"{origin}\", user \"{user}\", {encryption}"
            ),
            Replication::No | Replication::Logical => format!(
                "pg_hba.conf rejects connection for host \"{origin}\", user \"{user}\", database \"{database}\", {encryption}"
            ),
        };
        Denial::by_rule(message, "A rule with the method reject matches.")
    }

    /// No rule of pg_hba.conf matches.
    pub fn no_entry(request: &Request<'_>) -> Denial {
        let Request { database, user, origin, .. } = request;
        let encryption = encryption(*origin);
        let message = match request.replication {
            Replication::Physical => format!(
                "no pg_hba.conf entry for replication connection from host \"{origin}\", user \"{user}\", {encryption}"
            ),
            Replication::No | Replication::Logical => format!(
                "no pg_hba.conf entry for host \"{origin}\", user \"{user}\", database \"{database}\", {encryption}"
            ),
        };
        Denial::by_rule(message, "No rule matches.")
    }

    /// The console asks for SCRAM, or lets in whom PostgreSQL asks nothing.
    pub fn console() -> Denial {
        Denial {
            sqlstate: "28000",
            message: "the console asks for SCRAM, and this role has no such password".to_owned(),
            detail: "",
            reason: "PostgreSQL asks for another proof than the console can.".to_owned(),
        }
    }

    /// A rule of the proxy's asks for a password where PostgreSQL asks for none, and there is none to compare with.
    pub fn unproven(user: &str) -> Denial {
        Denial::password(
            user,
            "No SCRAM secret of this role is known here, and PostgreSQL has asked for no proof.".to_owned(),
        )
    }

    fn by_rule(message: String, reason: &str) -> Denial {
        Denial { sqlstate: "28000", message, detail: "", reason: reason.to_owned() }
    }

    pub(super) fn password(user: &str, reason: String) -> Denial {
        Denial {
            sqlstate: "28P01",
            message: format!("password authentication failed for user \"{user}\""),
            detail: "",
            reason,
        }
    }

    pub(super) fn certificate(user: &str, reason: String) -> Denial {
        let message = format!("certificate authentication failed for user \"{user}\"");
        Denial { sqlstate: "28000", message, detail: "", reason }
    }

    pub(super) fn no_certificate() -> Denial {
        Denial::by_rule(
            "connection requires a valid client certificate".to_owned(),
            "The client showed no certificate of a trusted authority.",
        )
    }

    pub(super) fn peer(user: &str, reason: String) -> Denial {
        let message = format!("Peer authentication failed for user \"{user}\"");
        Denial { sqlstate: "28000", message, detail: "", reason }
    }

    pub(super) fn no_role(user: &str) -> Denial {
        let message = format!("role \"{user}\" does not exist");
        Denial { sqlstate: "28000", message, detail: "", reason: format!("Role \"{user}\" does not exist.") }
    }

    pub(super) fn no_login(user: &str) -> Denial {
        let message = format!("role \"{user}\" is not permitted to log in");
        Denial { sqlstate: "28000", message, detail: "", reason: format!("Role \"{user}\" has NOLOGIN.") }
    }

    /// The message is not the one that was asked for.
    pub(super) fn protocol(message: String) -> Denial {
        Denial { sqlstate: "08P01", reason: message.clone(), message, detail: "" }
    }

    pub(super) fn violation(violation: Violation) -> Denial {
        let Violation { sqlstate, message, detail } = violation;
        let reason =
            [message, detail].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ");
        Denial { sqlstate, message: message.to_owned(), detail, reason }
    }
}

fn encryption(origin: Origin) -> &'static str {
    match origin {
        Origin::Host { tls: true, .. } => "SSL encryption",
        Origin::Host { tls: false, .. } | Origin::Local => "no encryption",
    }
}
