//! What PostgreSQL itself says: versions, durability, archive, slots, passwords.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::process::Command;

use super::Subject;
use super::finding::{Finding, age, size};
use crate::postgres::binaries::{self, Installation};
use crate::postgres::{Archiver, Examination, ExaminedSlot};

/// A program that prints its version ends at once; longer means a file system that hangs.
const TOOL_DEADLINE: Duration = Duration::from_secs(3);

/// Of both the pages that a rewind compares and the names of what it calls.
const TOOLS: [&str; 2] = ["pg_rewind", "pg_basebackup"];

/// The archiver is told of each file, and looks by itself each minute. What waits for two of them is not taken: by an archive that
/// does not keep up, or a command that is not found, which ends the archiver before it has counted a failure (pgarch.c).
const ARCHIVE_AGE_MAX: i64 = 120;

/// Four WAL files of the usual size. A slot whose reader is away for a moment holds less.
const SLOT_BYTES_MAX: i64 = 64 << 20;

pub(super) fn answers(subject: &Subject) -> Vec<Finding> {
    match &subject.server {
        None => Vec::new(),
        Some(Ok(seen)) => {
            let role = if seen.in_recovery { "standby" } else { "primary" };
            vec![Finding::ok(format!("PostgreSQL {} answers, a {role}", version_text(seen.version)))]
        }
        Some(Err(reason)) => vec![Finding::error(
            format!("PostgreSQL gives no answer: {reason}"),
            "nothing that it could tell was examined, and the node takes no part in replication",
            "pgherd status, then log/postgres.log in [node] dir",
        )],
    }
}

/// `150018` as `15.18`.
pub(super) fn version_text(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}

pub(super) fn versions(subject: Arc<Subject>) -> BoxFuture<'static, Vec<Finding>> {
    Box::pin(async move {
        let Some(worker) = &subject.worker else { return Vec::new() };
        let bin_dir = &worker.server().installation.bin_dir;
        let installed = match binaries::inspect(bin_dir).await {
            Ok(installed) => installed,
            Err(reason) => return vec![judge_missing(bin_dir, &reason)],
        };
        let mut findings: Vec<Finding> =
            subject.examination().map(|seen| judge_running(seen.version, &installed)).into_iter().collect();
        for tool in TOOLS {
            findings.push(judge_tool(tool, &installed, version_of(&installed.tool(tool)).await.as_deref()));
        }
        findings
    })
}

/// The line that the program prints; `None` when it does not.
async fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").kill_on_drop(true).output();
    let output = tokio::time::timeout(TOOL_DEADLINE, output).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn judge_missing(bin_dir: &Path, reason: &str) -> Finding {
    Finding::error(
        format!("PostgreSQL's programs in {} are not whole: {reason}", bin_dir.display()),
        "the node could not start, copy or rewind its server",
        "install them again: apt-get install --reinstall postgresql-MAJOR",
    )
}

/// `running` is a `server_version_num`.
fn judge_running(running: u32, installed: &Installation) -> Finding {
    let (running, shown) = (version_text(running), &installed.version);
    let number = shown.split(' ').next().unwrap_or_default();
    if number == running {
        return Finding::ok(format!("PostgreSQL {running} runs, as installed"));
    }
    Finding::warning(
        format!("PostgreSQL {running} runs, {shown} is installed"),
        "what the update mends is not in force until a restart",
        "pgherd restart NODE, replicas first; the primary after a switchover",
    )
}

fn judge_tool(tool: &str, installed: &Installation, printed: Option<&str>) -> Finding {
    let of_major = |line: &&str| {
        let version = line.rsplit("(PostgreSQL) ").next().unwrap_or_default();
        version.split(['.', ' ']).next().and_then(|major| major.parse().ok()) == Some(installed.major)
    };
    match printed {
        Some(line) if of_major(&line) => Finding::ok(line),
        printed => {
            let what = printed
                .map_or_else(|| format!("{tool} does not run"), |line| format!("{line} is of another major"));
            Finding::error(
                format!("{what} ({})", installed.bin_dir.display()),
                "an old primary could not come back by a rewind, nor a node be copied",
                format!("apt-get install --reinstall postgresql-{}", installed.major),
            )
        }
    }
}

pub(super) fn durability(subject: &Subject) -> Vec<Finding> {
    subject.examination().map(judge_durability).unwrap_or_default()
}

/// PostgreSQL's manual on `fsync`, `full_page_writes` and pg_rewind ("requires … wal_log_hints or data checksums", and
/// `full_page_writes`).
fn judge_durability(seen: &Examination) -> Vec<Finding> {
    let on = |name: &str| seen.settings.get(name).is_some_and(|value| value == "on");
    let mut findings = Vec::new();
    for name in ["fsync", "full_page_writes"] {
        findings.push(match on(name) {
            true => Finding::ok(format!("{name} is on")),
            false => Finding::error(
                format!("{name} is off"),
                "a machine that loses power loses acknowledged commits, or its whole data directory",
                format!("pgherd config set postgres.parameters.{name}=on"),
            ),
        });
    }
    findings.push(match (on("data_checksums"), on("wal_log_hints")) {
        (false, false) => Finding::error(
            "neither data checksums nor wal_log_hints are on",
            "pg_rewind refuses such a server: an old primary would have to be copied anew",
            "pgherd restart NODE: pgherd starts PostgreSQL with wal_log_hints",
        ),
        (true, _) => Finding::ok("data checksums are on"),
        (false, true) => Finding::ok("wal_log_hints is on, data checksums are off"),
    });
    findings
}

pub(super) fn archive(subject: &Subject) -> Vec<Finding> {
    subject.examination().map(judge_archive).into_iter().collect()
}

fn judge_archive(seen: &Examination) -> Finding {
    let setting = |name: &str| seen.settings.get(name).map_or("", String::as_str);
    let mode = setting("archive_mode");
    if mode == "off" || mode.is_empty() {
        return Finding::ok("nothing is archived (archive_mode is off)");
    }
    if seen.in_recovery && mode != "always" {
        return Finding::ok("a standby archives nothing (archive_mode is on, not always)");
    }
    if setting("archive_command").is_empty() && setting("archive_library").is_empty() {
        return Finding::warning(
            "archive_mode is on, and there is neither an archive_command nor an archive_library",
            "WAL is kept until somebody archives it, and the disk fills",
            "pgherd config set postgres.parameters.archive_command=…, or archive_mode=off",
        );
    }
    let Archiver { archived_ago, last_archived, failed_ago, last_failed, ready, ready_age } = &seen.archiver;
    let waiting = format!("{ready} WAL files wait, the oldest for {}", age(*ready_age));
    let why = "WAL that is not archived is kept: the disk fills, and a restore ends where the archive ends";
    match (failed_ago, archived_ago) {
        (Some(failed), archived) if *ready > 0 && archived.is_none_or(|archived| *failed <= archived) => {
            let file = last_failed.as_deref().unwrap_or("a WAL file");
            Finding::error(
                format!("archiving fails: {file}, {} ago; {waiting}", age(*failed)),
                why,
                "see what the command says (grep archive log/postgres.log in [node] dir), and run it by hand as PostgreSQL's user",
            )
        }
        _ if *ready > 0 && *ready_age > ARCHIVE_AGE_MAX => {
            let next = "see what the archiver says (grep archive log/postgres.log in [node] dir) and does (ps -C postgres -o args)";
            Finding::warning(
                format!("archiving does not keep up, or its command is not found: {waiting}"),
                why,
                next,
            )
        }
        (_, Some(archived)) => {
            let file = last_archived.as_deref().unwrap_or("a WAL file");
            Finding::ok(format!("{file} was archived {} ago, {ready} wait", age(*archived)))
        }
        _ => Finding::ok("nothing had to be archived yet"),
    }
}

pub(super) fn slots(subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(seen) = subject.examination().filter(|seen| !seen.in_recovery) {
        let bound = seen.settings.get("max_slot_wal_keep_size").filter(|bound| *bound != "-1");
        let held = seen.slots.iter().filter(|slot| !slot.temporary);
        let bad: Vec<Finding> = held.filter_map(|slot| judge_slot(slot, bound.map(String::as_str))).collect();
        if bad.is_empty() {
            findings.push(Finding::ok(format!("{} slots, none holds WAL for nobody", seen.slots.len())));
        }
        findings.extend(bad);
    }
    if let Some(view) = subject.view().filter(|view| view.slots.looked) {
        findings.extend(judge_missing_slots(&view.slots.missing));
    }
    findings
}

/// `bound` is `max_slot_wal_keep_size`, `None` where there is none. PostgreSQL's manual on `pg_replication_slots.wal_status`.
fn judge_slot(slot: &ExaminedSlot, bound: Option<&str>) -> Option<Finding> {
    let ExaminedSlot { slot_name: name, slot_type, active, wal_status, invalidation_reason, held, .. } = slot;
    let drop = format!("drop it if nobody needs it: SELECT pg_drop_replication_slot('{name}')");
    let lost = wal_status.as_deref() == Some("lost");
    if lost || invalidation_reason.is_some() {
        let reason = invalidation_reason.as_deref().unwrap_or("its WAL is gone");
        return Some(Finding::error(
            format!("the {slot_type} slot {name} is lost ({reason})"),
            "its reader can never go on from it",
            format!("set the reader up anew, then drop the slot: SELECT pg_drop_replication_slot('{name}')"),
        ));
    }
    let held_text = size(u64::try_from(*held).unwrap_or_default());
    if wal_status.as_deref() == Some("unreserved") {
        return Some(Finding::error(
            format!("the {slot_type} slot {name} is about to be lost; it holds {held_text} of WAL"),
            "the next checkpoint may remove WAL that its reader has not read",
            format!("start its reader now, or raise max_slot_wal_keep_size; {drop}"),
        ));
    }
    if *active || *held < SLOT_BYTES_MAX {
        return None;
    }
    let until = bound.map_or_else(|| "until the disk is full".to_owned(), |bound| format!("up to {bound}"));
    Some(Finding::warning(
        format!("nobody reads the {slot_type} slot {name}, which holds {held_text} of WAL"),
        format!("it goes on holding WAL {until}"),
        format!("start its reader; {drop}"),
    ))
}

fn judge_missing_slots(missing: &[String]) -> Option<Finding> {
    if missing.is_empty() {
        return None;
    }
    Some(Finding::warning(
        format!("a takeover to this node would not keep every slot: {}", missing.join("; ")),
        "readers of those slots could not go on after it",
        "pgherd status shows the slots of each node; docs/concepts/slots.md says what makes one ready",
    ))
}

pub(super) fn passwords(subject: &Subject) -> Vec<Finding> {
    // Roles are the same everywhere; the primary tells.
    let seen = subject.examination().filter(|seen| !seen.in_recovery);
    seen.map(|seen| judge_passwords(seen.md5_roles, seen.settings.get("password_encryption")))
        .into_iter()
        .collect()
}

/// PostgreSQL's manual, "Password Authentication": MD5 is no longer secure and will be removed.
fn judge_passwords(md5_roles: u32, encryption: Option<&String>) -> Finding {
    match md5_roles {
        0 if encryption.is_some_and(|kind| kind == "md5") => Finding::warning(
            "password_encryption is md5",
            "new passwords are stored as MD5, which PostgreSQL is about to give up",
            "pgherd config set postgres.parameters.password_encryption=scram-sha-256",
        ),
        0 => Finding::ok("no password is stored as MD5"),
        count => Finding::warning(
            format!("{count} roles have a password stored as MD5"),
            "who gets hold of such a secret can log in with it, and PostgreSQL is about to give MD5 up",
            "SELECT rolname FROM pg_authid WHERE rolpassword LIKE 'md5%', then \\password ROLE in psql",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mark;
    use super::*;

    fn with(settings: &[(&str, &str)]) -> Examination {
        let settings =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Examination { settings, ..Examination::default() }
    }

    #[test]
    fn an_archive_is_judged_by_what_waits() {
        let archiving = with(&[("archive_mode", "on"), ("archive_command", "cp %p /a/%f")]);
        let mark = |archiver| judge_archive(&Examination { archiver, ..archiving.clone() }).mark;
        let quiet = Archiver::default();
        assert_eq!(mark(quiet.clone()), Mark::Ok);
        let failing = Archiver { failed_ago: Some(5), ready: 3, ..quiet.clone() };
        assert_eq!(mark(failing.clone()), Mark::Error);
        assert_eq!(mark(Archiver { archived_ago: Some(90), ..failing.clone() }), Mark::Error);
        assert_eq!(mark(Archiver { archived_ago: Some(2), ..failing.clone() }), Mark::Ok, "it went on");
        assert_eq!(mark(Archiver { ready: 0, ..failing }), Mark::Ok, "it has been mended");
        assert_eq!(
            mark(Archiver { archived_ago: Some(2), ready: 40, ready_age: 900, ..quiet }),
            Mark::Warning
        );
        assert_eq!(judge_archive(&with(&[("archive_mode", "off")])).mark, Mark::Ok);
        assert_eq!(judge_archive(&with(&[("archive_mode", "on")])).mark, Mark::Warning);
        let standby = Examination { in_recovery: true, ..with(&[("archive_mode", "on")]) };
        assert_eq!(judge_archive(&standby).mark, Mark::Ok);
    }

    #[test]
    fn a_slot_that_nobody_reads_is_told_by_what_it_holds() {
        let slot = |active, held, status: &str| ExaminedSlot {
            slot_name: "feed".into(),
            slot_type: "logical".into(),
            active,
            wal_status: Some(status.into()),
            held,
            ..ExaminedSlot::default()
        };
        let mark = |slot| judge_slot(&slot, None).map(|finding| finding.mark);
        assert_eq!(mark(slot(true, 1 << 40, "extended")), None);
        assert_eq!(mark(slot(false, 1 << 20, "reserved")), None);
        assert_eq!(mark(slot(false, 64 << 20, "reserved")), Some(Mark::Warning));
        assert_eq!(mark(slot(true, 1 << 20, "unreserved")), Some(Mark::Error));
        assert_eq!(mark(slot(false, 0, "lost")), Some(Mark::Error));
        let bounded = judge_slot(&slot(false, 80 << 20, "reserved"), Some("64MB")).unwrap();
        assert!(bounded.why.unwrap().contains("up to 64MB") && bounded.what.contains("80 MB"));
        assert_eq!(judge_missing_slots(&["feed is not there".into()]).unwrap().mark, Mark::Warning);
    }

    #[test]
    fn programs_are_of_the_servers_major_and_its_update_wants_a_restart() {
        let installed = Installation {
            major: 15,
            version: "15.18 (Debian 15.18-0+deb12u1)".into(),
            bin_dir: "/b".into(),
        };
        assert_eq!(judge_running(150_018, &installed).mark, Mark::Ok);
        assert_eq!(judge_running(150_017, &installed).mark, Mark::Warning);
        let tool = |line| judge_tool("pg_rewind", &installed, line).mark;
        assert_eq!(tool(Some("pg_rewind (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)")), Mark::Ok);
        assert_eq!(tool(Some("pg_rewind (PostgreSQL) 16.4")), Mark::Error);
        assert_eq!(tool(None), Mark::Error);
    }

    #[test]
    fn durability_and_passwords() {
        let marks = |settings: &[(&str, &str)]| -> Vec<Mark> {
            judge_durability(&with(settings)).into_iter().map(|finding| finding.mark).collect()
        };
        let sound =
            [("fsync", "on"), ("full_page_writes", "on"), ("wal_log_hints", "on"), ("data_checksums", "off")];
        assert_eq!(marks(&sound), [Mark::Ok; 3]);
        assert_eq!(marks(&[("fsync", "off")]), [Mark::Error; 3]);
        assert_eq!(judge_passwords(0, Some(&"scram-sha-256".to_owned())).mark, Mark::Ok);
        assert_eq!(judge_passwords(0, Some(&"md5".to_owned())).mark, Mark::Warning);
        assert_eq!(judge_passwords(2, None).mark, Mark::Warning);
    }
}
