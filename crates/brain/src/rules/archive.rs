//! `archive_command` and a planned stop, which waits for it: what is known before anybody is held.
//!
//! With `--force` a hand-over goes without: the files stay where they are until their node is primary again.

use crate::{Primary, Request, View};

/// A handful of files are seconds.
const UNARCHIVED_MAX: u32 = 8;

/// A shutdown has the archiver take what is left, and waits for it for as long as its fast stop may take.
const WAIT_MS_MAX: u64 = 5_000;

/// Why it is no good moment for a stop.
pub(super) fn lags(request: &Request, primary: &Primary) -> Option<String> {
    let files = primary.activity.unarchived;
    if files > UNARCHIVED_MAX && !request.is_forced() {
        return Some(format!(
            "{files} WAL files wait for archive_command, and a shutdown waits for them; mend the archive, wait until it has caught up, or add --force to leave them where they are"
        ));
    }
    hangs(request, primary)
}

/// The oldest file has waited for longer than a stop would wait for it.
pub(super) fn hangs(request: &Request, primary: &Primary) -> Option<String> {
    let waits_ms = primary.activity.archive_waits_ms.filter(|waits_ms| *waits_ms > WAIT_MS_MAX)?;
    let seconds = waits_ms / 1_000;
    (!request.is_forced()).then(|| {
        format!(
            "a WAL file has waited for archive_command for {seconds} s, and a shutdown waits for it; mend the archive (the server's log has what the command says), or add --force to leave it where it is"
        )
    })
}

/// The checkpoint ahead has ended a WAL file, and the archiver has taken it: at the stop there is another one for it.
pub(super) fn is_proven(view: &View, request: &Request, primary: &Primary) -> bool {
    let (Some(at), Some(waits_ms)) = (view.errands.checkpointed_at, primary.activity.archive_waits_ms) else {
        return true;
    };
    // What was seen before that file ended says nothing of it.
    let seen_after_ms =
        view.looked_at.filter(|looked_at| *looked_at > at).map(|looked_at| looked_at.since(at));
    let taken = |after_ms| primary.activity.unarchived == 0 || waits_ms < after_ms;
    seen_after_ms.is_some_and(taken) || request.is_forced()
}
