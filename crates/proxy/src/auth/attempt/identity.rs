//! Methods that ask for no password: trust, and what others say of who the client is.

use super::super::denial::Denial;
use super::super::messages::Authentication;
use super::{Applicant, Means, Step};

/// As somebody whom nothing more is asked of. `VALID UNTIL` is of the password and does not matter.
pub fn granted(applicant: &Applicant<'_>) -> Step {
    match applicant.role {
        None => Step::Denied(Denial::no_role(applicant.user)),
        Some(role) if !role.can_login => Step::Denied(Denial::no_login(applicant.user)),
        Some(_) => {
            let mut send = Vec::new();
            Authentication::Ok.encode(&mut send);
            Step::Granted { send, means: Means::None }
        }
    }
}

/// The certificate speaks for the user of its common name.
pub fn certificate(applicant: &Applicant<'_>, common_name: Option<&str>) -> Step {
    let user = applicant.user;
    match common_name {
        None => Step::Denied(Denial::no_certificate()),
        Some("") => Step::Denied(Denial::certificate(
            user,
            "The client certificate contains no user name.".to_owned(),
        )),
        Some(name) if name == user => granted(applicant),
        Some(name) => {
            let reason =
                format!("Provided user name ({user}) and authenticated user name ({name}) do not match.");
            Step::Denied(Denial::certificate(user, reason))
        }
    }
}

/// The kernel says who is at the other end of a Unix socket.
pub fn peer(applicant: &Applicant<'_>, os_user: Option<&str>) -> Step {
    let user = applicant.user;
    match os_user {
        Some(name) if !name.is_empty() && name == user => granted(applicant),
        Some(name) => {
            let reason =
                format!("Provided user name ({user}) and authenticated user name ({name}) do not match.");
            Step::Denied(Denial::peer(user, reason))
        }
        None => Step::Denied(Denial::peer(user, "The client's process has no user name.".to_owned())),
    }
}
