//! Who asks over HTTP, and what he may change.
//!
//! What it is: the gate before every route. Reading is open, as load balancers and scrapers want it; a change needs a caller of a
//! role: a user of the file (`users`) by HTTP Basic, or whoever comes from this machine, if that is trusted. What it is not: the
//! changes themselves. Invariants: no change without the role that it needs; a page of another origin changes nothing, neither
//! with the trust of this machine nor with a password that the browser kept; no log and no answer has a password.

mod users;

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, Extension, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::listener::Peer;
use crate::config::Http;

pub use users::{NewUser, Users, UsersError};

/// Passwords that are checked at once; each takes some milliseconds of a core.
const CHECKS_MAX: usize = 2;
/// For one's turn at that.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// A wrong password keeps one of these turns for so long: all who guess have four tries a second together.
const WRONG_PASSWORD_PAUSE: Duration = Duration::from_millis(500);
/// The dashboard asks for the password itself; without the challenge no browser does.
const OWN_LOGIN: &str = "x-requested-with";

/// What a user may do; each may what the one before may.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum UserRole {
    /// Read.
    Viewer,
    /// Whatever loses nothing: switchover, restart, reload, reinit, pause and resume.
    Operator,
    /// Also what may lose commits, and who belongs to the cluster.
    Admin,
}

impl UserRole {
    pub const ALL: [UserRole; 3] = [UserRole::Viewer, UserRole::Operator, UserRole::Admin];

    pub fn word(self) -> &'static str {
        match self {
            UserRole::Viewer => "viewer",
            UserRole::Operator => "operator",
            UserRole::Admin => "admin",
        }
    }
}

impl FromStr for UserRole {
    type Err = String;

    fn from_str(text: &str) -> Result<UserRole, String> {
        let known = UserRole::ALL.into_iter().find(|role| role.word() == text);
        known.ok_or_else(|| format!("{text:?} is no role; there are viewer, operator and admin"))
    }
}

/// By what a caller is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// He comes from this machine.
    Loopback,
    Password,
    /// He is not known.
    Nobody,
}

/// Who asks; `GET /api/v1/me`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Caller {
    pub user: Option<String>,
    pub role: UserRole,
    pub by: By,
}

impl Caller {
    /// An error unless he has the role.
    pub fn may(&self, needed: UserRole) -> Result<(), Denied> {
        match self.by {
            _ if self.role >= needed => Ok(()),
            By::Nobody => Err(Denied::Unknown),
            _ => Err(Denied::Role { has: self.role, needed }),
        }
    }
}

/// Why somebody is not let through.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denied {
    #[error(
        "a change from another machine needs a user: pgherd … --user NAME, or curl -u NAME; `pgherd user add` makes one, and \
         without [http] users run the command on the node itself"
    )]
    Unknown,
    #[error("user name or password is wrong")]
    Password,
    #[error("this needs the role {}, the user has {}", .needed.word(), .has.word())]
    Role { has: UserRole, needed: UserRole },
    #[error(
        "this comes from a web page of another origin, or by a name of this machine that is not localhost; changes are taken from \
         pgherd's own page and from programs"
    )]
    OtherOrigin,
    #[error("the header Authorization is not understood; HTTP Basic is")]
    Malformed,
    #[error("too many passwords are being checked; try again")]
    Busy,
    #[error("[http] users cannot be used, so nobody can log in: {0}")]
    Users(String),
}

impl Denied {
    fn code(&self) -> StatusCode {
        match self {
            Denied::Unknown | Denied::Password | Denied::Malformed => StatusCode::UNAUTHORIZED,
            Denied::Role { .. } | Denied::OtherOrigin => StatusCode::FORBIDDEN,
            Denied::Busy | Denied::Users(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn response(&self, challenges: bool) -> Response {
        let body = Json(serde_json::json!({ "error": self.to_string() }));
        let code = self.code();
        if code == StatusCode::UNAUTHORIZED && challenges {
            return (code, [(WWW_AUTHENTICATE, "Basic realm=\"pgherd\", charset=\"UTF-8\"")], body)
                .into_response();
        }
        (code, body).into_response()
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        self.response(true)
    }
}

/// The rules of one node.
pub struct Access {
    users: Option<Arc<Users>>,
    trusts_loopback: bool,
    checks: Arc<Semaphore>,
}

impl Access {
    /// Reads the file of users, so that a wrong one is known before the node runs.
    pub fn new(http: &Http) -> Result<Access, UsersError> {
        let users = http.users.as_deref().map(Users::open).transpose()?.map(Arc::new);
        Ok(Access {
            users,
            trusts_loopback: http.trusts_loopback,
            checks: Arc::new(Semaphore::new(CHECKS_MAX)),
        })
    }

    async fn caller(&self, from: IpAddr, headers: &HeaderMap) -> Result<Caller, Denied> {
        if let Some(credentials) = headers.get(AUTHORIZATION) {
            let (user, password) = basic(credentials.as_bytes()).ok_or(Denied::Malformed)?;
            let role = self.check(user.clone(), password).await?;
            return Ok(Caller { user: Some(user), role, by: By::Password });
        }
        let is_own =
            from.to_canonical().is_loopback() && !is_passed_on(headers) && is_called_by_address(headers);
        if self.trusts_loopback && is_own {
            return Ok(Caller { user: None, role: UserRole::Admin, by: By::Loopback });
        }
        Ok(Caller { user: None, role: UserRole::Viewer, by: By::Nobody })
    }

    async fn check(&self, user: String, password: Vec<u8>) -> Result<UserRole, Denied> {
        let Some(users) = self.users.clone() else { return Err(Denied::Unknown) };
        if let Some(role) = users.proven(&user, &password) {
            return Ok(role);
        }
        let permit = timeout(CHECK_TIMEOUT, Arc::clone(&self.checks).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(Denied::Busy) };
        // In a task of its own, with the permit: who goes away before he is answered makes no room for the next guess.
        let checked = tokio::spawn(async move {
            let name = user.clone();
            let role = tokio::task::spawn_blocking(move || users.role(&name, &password)).await;
            let role = role.map_err(|_| Denied::Busy)?;
            match role {
                Ok(Some(role)) => Ok(role),
                Ok(None) => {
                    tracing::warn!(user, "a password for the HTTP interface is wrong");
                    tokio::time::sleep(WRONG_PASSWORD_PAUSE).await;
                    drop(permit);
                    Err(Denied::Password)
                }
                Err(error) => {
                    tracing::error!(%error, "the users of the HTTP interface cannot be read");
                    Err(Denied::Users(error.to_string()))
                }
            }
        });
        checked.await.unwrap_or(Err(Denied::Busy))
    }
}

/// Lets through who may do what he asks for; handlers find the [`Caller`] among the request's extensions.
pub async fn gate(
    State(access): State<Arc<Access>>,
    ConnectInfo(Peer(from)): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let challenges = !request.headers().contains_key(OWN_LOGIN);
    let caller = match access.caller(from.ip(), request.headers()).await {
        Ok(caller) => caller,
        Err(denied) => return denied.response(challenges),
    };
    if !request.method().is_safe() {
        let allowed = match is_from_own_page(request.headers()) {
            true => caller.may(UserRole::Operator),
            false => Err(Denied::OtherOrigin),
        };
        if let Err(denied) = allowed {
            return denied.response(challenges);
        }
        let who = caller.user.as_deref().unwrap_or("this machine");
        tracing::info!(who, %from, method = %request.method(), path = request.uri().path(), "a change is asked for over HTTP");
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

pub async fn me(Extension(caller): Extension<Caller>) -> Json<Caller> {
    Json(caller)
}

/// User and password of `Basic base64(user:password)` (RFC 7617).
fn basic(header: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, text) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let pair = STANDARD.decode(text.trim_ascii()).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some((String::from_utf8(pair[..colon].to_vec()).ok()?, pair[colon + 1..].to_vec()))
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// Programs name no origin. A browser names that of the page (`Origin`), or how it is related (`Sec-Fetch-Site`).
fn is_from_own_page(headers: &HeaderMap) -> bool {
    let related = text(headers, "sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none"));
    let origin = text(headers, ORIGIN.as_str());
    let is_own = |origin: &str| {
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        host.is_some() && host == text(headers, HOST.as_str())
    };
    related && origin.is_none_or(is_own)
}

/// By a proxy on this machine, for somebody else.
fn is_passed_on(headers: &HeaderMap) -> bool {
    ["forwarded", "x-forwarded-for", "x-real-ip", "via"].iter().any(|name| headers.contains_key(*name))
}

/// A page of a stranger can have its own name resolved to this machine, and is of the same origin then; an address it cannot.
fn is_called_by_address(headers: &HeaderMap) -> bool {
    let Some(host) = text(headers, HOST.as_str()) else { return true };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let is_name = |name: &str| matches!(host.strip_prefix(name), Some(rest) if rest.is_empty() || rest.starts_with(':'));
    is_name("localhost") || bare.parse::<IpAddr>().is_ok() || host.parse::<SocketAddr>().is_ok()
}

#[cfg(test)]
mod tests;
