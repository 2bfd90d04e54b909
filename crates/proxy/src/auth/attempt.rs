//! One client's attempt to log in: what is asked of it, message by message, up to a grant or a denial.
//!
//! What it is: PostgreSQL's `ClientAuthentication` for the methods that need nothing but the role's entry. What it is not:
//! a choice of the method (`hba`), nor a deadline: who waits for the answer has one.
//! Invariant: an attempt is used up by each answer, so no answer is judged twice, and nothing follows a grant or a denial.

mod identity;
#[cfg(test)]
mod tests;

use std::fmt;

use zeroize::Zeroizing;

use super::denial::Denial;
use super::hba::Password;
use super::md5::Md5Secret;
use super::messages::{self, Authentication, SaslInitial};
use super::roles::{Role, Secret};
use super::scram::{Challenge, ITERATIONS_MAX, Keys, Mechanism, Mock, NONCE_BYTES, Offer, Proof, Verifier};
use wire::message::frontend;

/// What the client must prove, and what of that is known already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Method {
    Trust,
    Password(Password),
    /// The common name in the certificate of which the chain was verified; none was shown: `None`.
    Cert {
        common_name: Option<String>,
    },
    /// The operating system's name of the process at the other end; `None`: it has none.
    Peer {
        os_user: Option<String>,
    },
}

/// Who wants in, and what the proxy knows.
#[derive(Clone, Copy, Debug)]
pub struct Applicant<'a> {
    pub user: &'a str,
    pub role: Option<&'a Role>,
    /// `tls-server-end-point` of the certificate that this client was shown (RFC 5929); none without TLS.
    pub end_point: Option<&'a [u8]>,
    /// Microseconds since 1970.
    pub now: i64,
}

/// What the cluster does with roles that have no secret.
#[derive(Clone, Debug)]
pub struct Pretence {
    pub mock: Mock,
    /// `password_encryption = md5`: under the method md5 PostgreSQL asks such a role for md5.
    pub prefers_md5: bool,
}

/// New and unpredictable for each attempt.
#[derive(Clone, Copy)]
pub struct Random {
    pub nonce: [u8; NONCE_BYTES],
    pub salt: [u8; 4],
}

/// With what the proxy can log in at a server as this user.
#[derive(Clone, Debug)]
pub enum Means {
    /// The server must let the user in by other means: a rule for the proxy, or a certificate of its own.
    None,
    Md5(Md5Secret),
    Scram(Keys),
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// Send this, and give the answer, a message of at most `messages::ANSWER_BYTES_MAX`, to the attempt.
    Ask { send: Vec<u8>, attempt: Box<Attempt> },
    /// Send this; it ends with AuthenticationOk.
    Granted { send: Vec<u8>, means: Means },
    /// Send its response and close.
    Denied(Denial),
}

/// An attempt that waits for an answer.
pub struct Attempt {
    user: String,
    /// What is said of the role if no answer can be good; the client does not hear it.
    flaw: Option<String>,
    can_login: bool,
    awaits: Awaits,
}

enum Awaits {
    Cleartext {
        secret: Cleartext,
    },
    Md5 {
        secret: Md5Secret,
        salt: [u8; 4],
    },
    SaslChoice {
        offer: Offer,
        nonce: [u8; NONCE_BYTES],
    },
    /// The client chose a mechanism and wants to be asked for its first message.
    SaslFirst {
        offer: Offer,
        mechanism: Mechanism,
        nonce: [u8; NONCE_BYTES],
    },
    SaslProof {
        challenge: Challenge,
    },
}

/// Against what a password in clear text is checked.
enum Cleartext {
    Md5(Md5Secret),
    Scram(Verifier),
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let awaits = match self.awaits {
            Awaits::Cleartext { .. } => "cleartext",
            Awaits::Md5 { .. } => "md5",
            Awaits::SaslChoice { .. } => "SASL choice",
            Awaits::SaslFirst { .. } => "SASL first message",
            Awaits::SaslProof { .. } => "SASL proof",
        };
        write!(f, "Attempt {{ user: {:?}, awaits: {awaits} }}", self.user)
    }
}

impl Attempt {
    pub fn begin(method: &Method, applicant: &Applicant<'_>, pretence: &Pretence, random: Random) -> Step {
        match method {
            Method::Trust => identity::granted(applicant),
            Method::Cert { common_name } => identity::certificate(applicant, common_name.as_deref()),
            Method::Peer { os_user } => identity::peer(applicant, os_user.as_deref()),
            Method::Password(password) => ask(*password, applicant, pretence, random),
        }
    }

    /// The client's message, its type byte and its body. The body may hold a password: its owner wipes it.
    pub fn answer(self, tag: u8, body: &[u8]) -> Step {
        if tag != frontend::PASSWORD {
            let expected = match self.awaits {
                Awaits::Cleartext { .. } | Awaits::Md5 { .. } => "password",
                Awaits::SaslChoice { .. } | Awaits::SaslFirst { .. } | Awaits::SaslProof { .. } => "SASL",
            };
            let text = format!("expected {expected} response, got message type {tag}");
            return Step::Denied(Denial::protocol(text));
        }
        let Attempt { user, flaw, can_login, awaits } = self;
        let case = Case { user, flaw, can_login };
        match awaits {
            Awaits::Cleartext { secret } => case.cleartext(&secret, body),
            Awaits::Md5 { secret, salt } => case.md5(secret, salt, body),
            Awaits::SaslChoice { offer, nonce } => case.choice(offer, nonce, body),
            Awaits::SaslFirst { offer, mechanism, nonce } => case.first(offer, mechanism, nonce, body),
            Awaits::SaslProof { challenge } => case.proof(challenge, body),
        }
    }
}

/// An attempt without what it waits for.
struct Case {
    user: String,
    flaw: Option<String>,
    can_login: bool,
}

impl Case {
    fn ask(self, message: &Authentication<'_>, awaits: Awaits) -> Step {
        let mut send = Vec::new();
        message.encode(&mut send);
        let Case { user, flaw, can_login } = self;
        Step::Ask { send, attempt: Box::new(Attempt { user, flaw, can_login, awaits }) }
    }

    /// The secret was proven; PostgreSQL looks only now whether the role may log in.
    fn proven(self, before_ok: &[u8], means: Means) -> Step {
        match self.flaw {
            Some(_) => self.wrong(),
            None if !self.can_login => Step::Denied(Denial::no_login(&self.user)),
            None => {
                let mut send = before_ok.to_vec();
                Authentication::Ok.encode(&mut send);
                Step::Granted { send, means }
            }
        }
    }

    fn wrong(self) -> Step {
        let reason =
            self.flaw.unwrap_or_else(|| format!("Password does not match for user \"{}\".", self.user));
        Step::Denied(Denial::password(&self.user, reason))
    }

    fn cleartext(self, secret: &Cleartext, body: &[u8]) -> Step {
        let password = match password_of(body) {
            Ok(password) => password,
            Err(denial) => return Step::Denied(denial),
        };
        match secret {
            Cleartext::Md5(secret) if secret.accepts_password(password, &self.user) => {
                self.proven(&[], Means::Md5(secret.clone()))
            }
            Cleartext::Md5(_) => self.wrong(),
            Cleartext::Scram(verifier) => match verifier.accepts_password(password) {
                Some(Some(keys)) => self.proven(&[], Means::Scram(keys)),
                Some(None) => self.wrong(),
                None => {
                    let count = verifier.iterations();
                    let reason = format!(
                        "The secret of user \"{}\" takes {count} iterations, and for the method password this proxy does \
                         {ITERATIONS_MAX} at most; use scram-sha-256.",
                        self.user
                    );
                    Step::Denied(Denial::password(&self.user, reason))
                }
            },
        }
    }

    fn md5(self, secret: Md5Secret, salt: [u8; 4], body: &[u8]) -> Step {
        match password_of(body) {
            Ok(answer) if secret.accepts(salt, answer) => self.proven(&[], Means::Md5(secret)),
            Ok(_) => self.wrong(),
            Err(denial) => Step::Denied(denial),
        }
    }

    fn choice(self, offer: Offer, nonce: [u8; NONCE_BYTES], body: &[u8]) -> Step {
        let Some(initial) = SaslInitial::parse(body) else {
            return Step::Denied(Denial::protocol("malformed SASL initial response".to_owned()));
        };
        match (offer.choose(initial.mechanism), initial.data) {
            (Ok(mechanism), Some(data)) => self.first(offer, mechanism, nonce, data),
            (Ok(mechanism), None) => {
                self.ask(&Authentication::SaslContinue(&[]), Awaits::SaslFirst { offer, mechanism, nonce })
            }
            (Err(violation), _) => Step::Denied(Denial::violation(violation)),
        }
    }

    fn first(self, offer: Offer, mechanism: Mechanism, nonce: [u8; NONCE_BYTES], data: &[u8]) -> Step {
        match offer.begin(mechanism, data, nonce) {
            Ok(challenge) => {
                let message = challenge.message().to_vec();
                self.ask(&Authentication::SaslContinue(&message), Awaits::SaslProof { challenge })
            }
            Err(violation) => Step::Denied(Denial::violation(violation)),
        }
    }

    fn proof(self, challenge: Challenge, body: &[u8]) -> Step {
        match messages::sasl_response(body).map(|data| challenge.check(data)) {
            Some(Ok(Proof::Good { server_final, keys })) => {
                let mut send = Vec::new();
                Authentication::SaslFinal(server_final.as_bytes()).encode(&mut send);
                self.proven(&send, Means::Scram(keys))
            }
            Some(Ok(Proof::Wrong)) => self.wrong(),
            Some(Err(violation)) => Step::Denied(Denial::violation(violation)),
            None => Step::Denied(Denial::protocol("invalid message length".to_owned())),
        }
    }
}

/// PostgreSQL takes no empty password, since some methods would let anybody in with it.
fn password_of(body: &[u8]) -> Result<&[u8], Denial> {
    match messages::password(body) {
        Some([]) => Err(Denial {
            sqlstate: "28P01",
            message: "empty password returned by client".to_owned(),
            detail: "",
            reason: "The client sent an empty password.".to_owned(),
        }),
        Some(password) => Ok(password),
        None => Err(Denial::protocol("invalid password packet size".to_owned())),
    }
}

/// The secret that the role may use, and what is wrong with it.
fn secret_of<'a>(applicant: &Applicant<'a>) -> (Option<&'a Secret>, Option<String>) {
    let user = applicant.user;
    let Some(role) = applicant.role else {
        return (None, Some(format!("Role \"{user}\" does not exist.")));
    };
    let flaw = match role.secret {
        Secret::None => Some(format!("User \"{user}\" has no password assigned.")),
        Secret::Unknown => Some(format!("User \"{user}\" has a password in an unknown format.")),
        Secret::Md5(_) | Secret::Scram(_)
            if role.valid_until.is_some_and(|end| end != i64::MAX && end < applicant.now) =>
        {
            Some(format!("User \"{user}\" has an expired password."))
        }
        Secret::Md5(_) | Secret::Scram(_) => None,
    };
    (Some(&role.secret), flaw)
}

fn ask(method: Password, applicant: &Applicant<'_>, pretence: &Pretence, random: Random) -> Step {
    let user = applicant.user;
    let (secret, mut flaw) = secret_of(applicant);
    let mock = || pretence.mock.verifier(user);
    let (message, awaits) = match (method, secret) {
        (Password::Password, Some(Secret::Md5(secret))) => {
            (Authentication::CleartextPassword, Awaits::Cleartext { secret: Cleartext::Md5(secret.clone()) })
        }
        (Password::Password, secret) => {
            // A role that is not there costs the same time as one that is.
            let verifier = match secret {
                Some(Secret::Scram(verifier)) => verifier.clone(),
                _ => mock(),
            };
            (Authentication::CleartextPassword, Awaits::Cleartext { secret: Cleartext::Scram(verifier) })
        }
        (Password::Md5, Some(Secret::Md5(secret))) => md5_question(secret.clone(), random),
        (Password::Md5, None | Some(Secret::None | Secret::Unknown)) if pretence.prefers_md5 => {
            let nobody = mock();
            md5_question(Md5Secret::of_password(nobody.salt().as_bytes(), user), random)
        }
        (Password::ScramSha256 | Password::Md5, Some(Secret::Scram(verifier))) => {
            return offer(verifier.clone(), flaw, applicant, random);
        }
        (Password::ScramSha256 | Password::Md5, _) => {
            flaw = flaw.or_else(|| Some(format!("User \"{user}\" does not have a valid SCRAM secret.")));
            return offer(mock(), flaw, applicant, random);
        }
    };
    case_of(applicant, flaw).ask(&message, awaits)
}

fn md5_question(secret: Md5Secret, random: Random) -> (Authentication<'static>, Awaits) {
    let salt = random.salt;
    (Authentication::Md5Password { salt }, Awaits::Md5 { secret, salt })
}

fn offer(verifier: Verifier, flaw: Option<String>, applicant: &Applicant<'_>, random: Random) -> Step {
    let offer = Offer::new(verifier, flaw.is_some(), applicant.end_point.map(<[u8]>::to_vec));
    let mechanisms = offer.mechanisms();
    let awaits = Awaits::SaslChoice { offer, nonce: random.nonce };
    case_of(applicant, flaw).ask(&Authentication::Sasl { mechanisms }, awaits)
}

fn case_of(applicant: &Applicant<'_>, flaw: Option<String>) -> Case {
    Case {
        user: applicant.user.to_owned(),
        flaw,
        can_login: applicant.role.is_some_and(|role| role.can_login),
    }
}

/// The answer to a server's `AuthenticationMD5Password` or `AuthenticationCleartextPassword`, as a whole message.
pub fn password_message(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut message = Vec::with_capacity(password.len() + 6);
    messages::put_password(&mut message, password);
    Zeroizing::new(message)
}
