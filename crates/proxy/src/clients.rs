//! Who may come from where, and what of him must be proven: the rules of `[proxy] hba`.
//!
//! PostgreSQL sees the proxy's address, so its own `pg_hba.conf` cannot tell clients apart by theirs. What it is: a condition more.
//! What it is not: a way in; PostgreSQL judges every log-in by its own rules, too. Invariant: a rule that this proxy cannot
//! decide for certain is refused when the proxy starts, and nobody is let in by it.

use std::net::Ipv4Addr;

use wire::startup::Startup;

use super::auth::attempt::{Applicant, Attempt, Method, Pretence, Random, Step};
use super::auth::denial::Denial;
use super::auth::hba::{HbaError, Origin, Outcome, Replication, Request, Rules};
use super::auth::roles::{Role, Roles, Secret};
use super::auth::scram::Mock;
use super::tls::Stream;

/// Beside a refusal in PostgreSQL's words, which speak of pg_hba.conf.
const DETAIL: &str = "This is by the rules of the proxy (setting [proxy] hba).";

/// A client that has sent its start-up packet.
#[derive(Debug)]
pub struct Comer {
    pub user: String,
    database: String,
    origin: Origin,
    replication: Replication,
    /// Of its certificate, when that was verified.
    common_name: Option<String>,
    /// The name of the operating system's user at the other end of a Unix socket, where a rule asks for it.
    os_user: Option<String>,
}

impl Comer {
    pub fn of(client: &Stream, startup: &Startup<'_>, replication: bool) -> Comer {
        let text = |name| startup.get(name).map(|text| String::from_utf8_lossy(text).into_owned());
        let user = text("user").unwrap_or_default();
        let host = || {
            // One that has gone meanwhile comes from nowhere; it is not taken for one of this machine.
            let address =
                client.socket().peer_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip());
            Origin::Host { address: address.to_canonical(), tls: client.is_encrypted() }
        };
        Comer {
            database: text("database").filter(|name| !name.is_empty()).unwrap_or_else(|| user.clone()),
            user,
            origin: if client.is_nearby() { Origin::Local } else { host() },
            replication: match startup.get("replication") {
                Some(b"database") => Replication::Logical,
                _ if replication => Replication::Physical,
                _ => Replication::No,
            },
            common_name: client.common_name(),
            os_user: None,
        }
    }

    /// A process of this user of the operating system.
    pub fn run_by(self, os_user: Option<String>) -> Comer {
        Comer { os_user, ..self }
    }

    pub fn request(&self) -> Request<'_> {
        let Comer { user, database, origin, replication, .. } = self;
        Request { database, user, origin: *origin, replication: *replication }
    }
}

/// What the proxy sees to beside PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Demand {
    Nothing,
    /// A password is proven: to PostgreSQL, or where that asks for none, to the proxy.
    Password,
}

#[derive(Debug)]
pub struct ClientRules {
    /// `None`: everybody may try.
    rules: Option<Rules>,
}

impl ClientRules {
    pub fn parse(lines: &[String]) -> Result<ClientRules, HbaError> {
        if lines.is_empty() {
            return Ok(ClientRules { rules: None });
        }
        let rules = Rules::parse(lines)?;
        match rules.undecidable() {
            Some((line, why)) => Err(HbaError {
                line,
                message: format!("the proxy cannot decide by {why}; leave it to [postgres] hba"),
            }),
            None => Ok(ClientRules { rules: Some(rules) }),
        }
    }

    /// Some rule has the method `peer`.
    pub fn ask_for_peers(&self) -> bool {
        self.rules.as_ref().is_some_and(Rules::ask_for_peers)
    }

    /// `comer` is asked for where there are rules: log-ins come in storms.
    pub fn demand(&self, comer: impl FnOnce() -> Comer) -> Result<Demand, Denial> {
        let Some(rules) = &self.rules else { return Ok(Demand::Nothing) };
        let comer = comer();
        let request = comer.request();
        let denied = |denial: Denial| Err(Denial { detail: DETAIL, ..denial });
        let vouched = |comer: &Comer, method| by_identity(comer, &method).map_or(Ok(Demand::Nothing), denied);
        match rules.decide(&request, &Roles::default(), None).outcome {
            Outcome::Trust => Ok(Demand::Nothing),
            Outcome::Password(_) => Ok(Demand::Password),
            Outcome::Cert => vouched(&comer, Method::Cert { common_name: comer.common_name.clone() }),
            Outcome::Peer => vouched(&comer, Method::Peer { os_user: comer.os_user.clone() }),
            Outcome::Reject => denied(Denial::rejected(&request)),
            Outcome::NoEntry | Outcome::Elsewhere(_) => denied(Denial::no_entry(&request)),
        }
    }
}

/// Why the certificate, or the operating system, does not speak for the user. Whether there is such a role is PostgreSQL's to say.
fn by_identity(comer: &Comer, method: &Method) -> Option<Denial> {
    let role = Role {
        can_login: true,
        superuser: false,
        secret: Secret::None,
        valid_until: None,
        member_of: Vec::new(),
    };
    let applicant = Applicant { user: &comer.user, role: Some(&role), end_point: None, now: 0 };
    // Nothing is asked, so no dice are thrown.
    let pretence = Pretence { mock: Mock::new([0; 32], 4096), prefers_md5: false };
    let random = Random { nonce: Default::default(), salt: Default::default() };
    match Attempt::begin(method, &applicant, &pretence, random) {
        Step::Granted { .. } => None,
        Step::Denied(denial) => Some(denial),
        Step::Ask { .. } => Some(Denial::no_entry(&comer.request())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comer(address: &str, user: &str, common_name: Option<&str>) -> Comer {
        Comer {
            user: user.to_owned(),
            database: "app".to_owned(),
            origin: Origin::Host { address: address.parse().unwrap(), tls: common_name.is_some() },
            replication: Replication::No,
            common_name: common_name.map(str::to_owned),
            os_user: None,
        }
    }

    fn rules(lines: &[&str]) -> Result<ClientRules, HbaError> {
        ClientRules::parse(&lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = rules(&[
            "host all all 10.0.9.0/24 reject",
            "host app ann 10.0.0.0/8 trust",
            "hostssl all all 192.168.0.0/16 cert",
            "host all all 10.0.0.0/8 scram-sha-256",
        ])
        .unwrap();
        let demand = |address, user, name| {
            rules.demand(|| comer(address, user, name)).map_err(|denial| denial.message)
        };
        assert_eq!(demand("10.1.1.1", "ann", None), Ok(Demand::Nothing));
        assert_eq!(demand("10.1.1.1", "bob", None), Ok(Demand::Password));
        assert!(
            demand("10.0.9.1", "ann", None).unwrap_err().contains("rejects connection for host \"10.0.9.1\"")
        );
        assert!(demand("172.16.0.1", "ann", None).unwrap_err().contains("no pg_hba.conf entry"));
        assert_eq!(demand("192.168.0.1", "ann", Some("ann")), Ok(Demand::Nothing));
        assert!(demand("192.168.0.1", "ann", Some("bob")).is_err());
        assert!(demand("192.168.0.1", "ann", None).is_err(), "without TLS no rule of hostssl matches");
    }

    #[test]
    fn at_a_unix_socket_the_lines_for_local_decide() {
        let rules = rules(&["local app ann peer", "local app bob trust", "host all all all trust"]).unwrap();
        assert!(rules.ask_for_peers());
        let demand = |user: &str, os_user: Option<&str>| {
            let here = Comer {
                origin: Origin::Local,
                os_user: os_user.map(str::to_owned),
                ..comer("::", user, None)
            };
            rules.demand(|| here).map_err(|denial| denial.message)
        };
        assert_eq!(demand("ann", Some("ann")), Ok(Demand::Nothing));
        for other in [Some("root"), None] {
            assert!(
                demand("ann", other).unwrap_err().contains("Peer authentication failed for user \"ann\"")
            );
        }
        assert_eq!(demand("bob", None), Ok(Demand::Nothing));
        assert!(
            demand("eve", Some("eve")).unwrap_err().contains("no pg_hba.conf entry for host \"[local]\"")
        );
    }

    #[test]
    fn without_rules_everybody_may_try() {
        assert_eq!(rules(&[]).unwrap().demand(|| comer("8.8.8.8", "x", None)).ok(), Some(Demand::Nothing));
    }

    #[test]
    fn what_cannot_be_decided_here_is_refused_at_the_start() {
        for line in [
            "host all all 10.0.0.0/8 ldap",
            "host all +staff 10.0.0.0/8 trust",
            "host samerole all 10.0.0.0/8 trust",
            "host all all db.example.org trust",
            "host all all samenet trust",
            "host /^a all 10.0.0.0/8 trust",
            "host @file all 10.0.0.0/8 trust",
            "local all all peer map=m",
            "hostssl all all 10.0.0.0/8 cert map=m",
        ] {
            let error = rules(&["host all all 127.0.0.1/32 trust", line]).unwrap_err();
            assert_eq!(error.line, 2, "{line}: {error}");
        }
        assert!(rules(&["host all all"]).is_err());
    }
}
