//! The gate, by HTTP against a server of its own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::http::HeaderValue;

use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

fn add(path: &Path, name: &str, role: UserRole, password: &str) {
    let new = NewUser { name, role, password: password.as_bytes(), salt: [7; 16] };
    Users::add(path, &new).unwrap();
}

fn http(users: Option<&Path>, trusts_loopback: bool) -> Http {
    Http { listen: "127.0.0.1".into(), port: 0, tls: None, users: users.map(Path::to_owned), trusts_loopback }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
}

fn basic_header(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn caller(access: &Access, from: IpAddr, pairs: &[(&'static str, &str)]) -> Result<Caller, Denied> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(access.caller(from, &headers(pairs)))
}

#[test]
fn a_user_is_who_knows_the_password_and_may_what_his_role_may() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    add(&file, "anna", UserRole::Operator, "correct horse");
    let access = Access::new(&http(Some(&file), true)).unwrap();
    let as_anna =
        |password: &str| caller(&access, ELSEWHERE, &[("authorization", &basic_header("anna", password))]);
    for _ in 0..2 {
        let anna = as_anna("correct horse").unwrap();
        assert_eq!(
            (anna.user.as_deref(), anna.role, anna.by),
            (Some("anna"), UserRole::Operator, By::Password)
        );
        assert!(anna.may(UserRole::Operator).is_ok());
        assert!(matches!(anna.may(UserRole::Admin), Err(Denied::Role { .. })));
        assert_eq!(as_anna("correct horse "), Err(Denied::Password));
    }
    let stranger = caller(&access, ELSEWHERE, &[("authorization", &basic_header("carl", "correct horse"))]);
    assert_eq!(stranger, Err(Denied::Password));
    for odd in ["Bearer x", "Basic ???", "Basic eA==", ""] {
        assert_eq!(caller(&access, LOOPBACK, &[("authorization", odd)]), Err(Denied::Malformed), "{odd}");
    }
}

#[test]
fn who_is_taken_out_of_the_file_is_out_at_once_and_a_broken_file_lets_nobody_in() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    add(&file, "anna", UserRole::Admin, "correct horse");
    add(&file, "bert", UserRole::Viewer, "battery staple");
    let users = Users::open(&file).unwrap();
    let role = |name: &str, password: &str| users.role(name, password.as_bytes());
    assert_eq!(role("anna", "correct horse").unwrap(), Some(UserRole::Admin));
    assert!(Users::remove(&file, "anna").unwrap());
    assert_eq!(role("anna", "correct horse").unwrap(), None);
    assert_eq!(role("bert", "battery staple").unwrap(), Some(UserRole::Viewer));
    add(&file, "bert", UserRole::Operator, "another one");
    assert_eq!(role("bert", "battery staple").unwrap(), None);
    assert_eq!(role("bert", "another one").unwrap(), Some(UserRole::Operator));
    fs::write(&file, "bert operator nonsense\n").unwrap();
    for _ in 0..2 {
        assert!(role("bert", "another one").unwrap_err().to_string().contains("line 1"));
    }
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    add(&file, "anna", UserRole::Admin, "correct horse");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("horse"), "{text}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Users::open(&file), Err(UsersError::Exposed { mode: 0o644, .. })));
}

#[test]
fn names_and_passwords_have_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    for (name, password) in
        [("", "long enough"), ("a b", "long enough"), ("anna", "short"), (&"x".repeat(64), "long enough")]
    {
        let new = NewUser { name, role: UserRole::Viewer, password: password.as_bytes(), salt: [0; 16] };
        assert!(matches!(Users::add(&file, &new), Err(UsersError::Unfit(_))), "{name} {password}");
    }
    assert!(!file.exists());
}

#[test]
fn this_machine_is_trusted_where_that_is_wanted_and_only_by_its_address() {
    let trusting = Access::new(&http(None, true)).unwrap();
    let role = |access: &Access, from, host: &str| caller(access, from, &[("host", host)]).unwrap().role;
    for host in ["127.0.0.1:8432", "localhost:8432", "localhost", "[::1]:8432", "[::1]"] {
        assert_eq!(role(&trusting, LOOPBACK, host), UserRole::Admin, "{host}");
    }
    for host in ["attacker.example:8432", "localhost.attacker.example"] {
        assert_eq!(role(&trusting, LOOPBACK, host), UserRole::Viewer, "{host}");
    }
    assert_eq!(role(&trusting, ELSEWHERE, "127.0.0.1:8432"), UserRole::Viewer);
    let passed_on = caller(&trusting, LOOPBACK, &[("host", "127.0.0.1"), ("x-forwarded-for", "10.0.0.9")]);
    assert_eq!(passed_on.unwrap().role, UserRole::Viewer);
    let strict = Access::new(&http(None, false)).unwrap();
    assert_eq!(role(&strict, LOOPBACK, "127.0.0.1:8432"), UserRole::Viewer);
}

#[test]
fn a_page_of_another_origin_is_told_from_programs_and_from_our_own() {
    let own = |pairs| is_from_own_page(&headers(pairs));
    assert!(own(&[("host", "n1:8432")]));
    assert!(own(&[("host", "n1:8432"), ("origin", "http://n1:8432"), ("sec-fetch-site", "same-origin")]));
    assert!(!own(&[("host", "n1:8432"), ("origin", "http://n1:9999")]));
    assert!(!own(&[("host", "n1:8432"), ("origin", "null")]));
    assert!(!own(&[("host", "n1:8432"), ("sec-fetch-site", "cross-site")]));
}
