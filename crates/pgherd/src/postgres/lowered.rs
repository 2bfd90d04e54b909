//! A promotion that takes smaller values of the five settings of `floors` with it: the only way to lower them.
//!
//! A standby refuses values smaller than its primary's, and a running server does not change them; so a server that starts
//! as a standby, as ours all do, would hand the larger values on for ever. Here the server that is about to be promoted is
//! stopped and started once more in archive recovery without hot standby, which knows no such bound: it replays what lies
//! on its own disk and ends recovery by itself, on the timeline that was recorded for it. From there on it is what any
//! promotion makes of a server; its first record says the new values, and standbys take them over when they replay it.
//! Should this process die meanwhile, the server comes up as the recorded primary, quarantined, in its sync set.
//!
//! Invariant: it starts only in the place of a promotion, after the position was answered and the term recorded, and takes
//! WAL from its own disk alone.

use std::time::Duration;

use wire::Timeline;

use super::error::{Error, Result};
use super::files;
use super::lifecycle::StopMode;
use super::observe::Observation;
use super::promote::{Promoted, as_primary};
use super::server::Server;
use super::settings::Dynamic;

/// A standby of nobody has little to write back: the checkpoint ahead of the restart, and the stop, have done it.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Reading pg_wal once more, from the last checkpoint.
const READ_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

impl Server {
    /// As [`Server::promote`], with what is configured where that is smaller than what this data directory's primary had.
    /// Where PostgreSQL refuses that, the promotion goes on without, and the second answer is what it said.
    pub async fn promote_lowering(
        &self,
        timeline: Timeline,
        synchronous_standby_names: &str,
        member_slots: &[String],
        deadline: Duration,
    ) -> Result<(Promoted, Option<String>)> {
        let below = self.below_bounds().await?;
        let mut refused = None;
        if !below.is_empty() {
            tracing::info!(?below, "the settings are lowered with this promotion");
            let current = self.detached_timeline(timeline).await?;
            self.stop(StopMode::Fast, STOP_DEADLINE).await?;
            let edit = as_primary(synchronous_standby_names, member_slots);
            match self.start_promoting(current, timeline, edit, deadline).await {
                Ok(promoted) => return Ok((promoted, None)),
                Err(error) => {
                    tracing::warn!(%error, "the settings could not be lowered; the promotion goes on without");
                    self.stop(StopMode::Immediate, STOP_DEADLINE).await?;
                    self.back_to_standby(deadline).await?;
                    refused = Some(error.to_string());
                }
            }
        }
        // Where the attempt got as far as the new timeline, this one is refused: another term decides.
        let promoted = self.promote(timeline, synchronous_standby_names, member_slots, deadline).await?;
        Ok((promoted, refused))
    }

    /// On `wanted`, with the values that are configured.
    async fn start_promoting(
        &self,
        current: Timeline,
        wanted: Timeline,
        edit: impl FnOnce(&mut Dynamic),
        deadline: Duration,
    ) -> Result<Promoted> {
        self.prepare_start(edit).await?;
        self.skip_to(current, wanted)?;
        files::remove(&self.layout.data.join("standby.signal"))?;
        files::write(&self.layout.data.join("recovery.signal"), b"", &self.account)?;
        let mut options = self.fixed_settings();
        // The last one counts. Nothing comes from an archive: what was answered is what lies here. The timeline is given
        // by its number, as the newest in pg_wal may be an id that is only being skipped.
        options.extend([
            ("hot_standby", "off".to_owned()),
            ("restore_command", "false".to_owned()),
            ("recovery_end_command", String::new()),
            ("recovery_target_timeline", current.0.to_string()),
        ]);
        self.spawn(options, deadline).await?;
        self.await_promoted(wanted).await
    }

    /// A standby of nobody again, which has read all of its WAL.
    async fn back_to_standby(&self, deadline: Duration) -> Result<()> {
        self.start_detached(deadline).await?;
        let begun = tokio::time::Instant::now();
        loop {
            match self.observe().await? {
                Observation::Standby(standby) if standby.complete => return Ok(()),
                Observation::Primary(_) => return Err(Error::Role { wanted: "standby" }),
                _ if begun.elapsed() > READ_DEADLINE => {
                    let what = "reading pg_wal".into();
                    return Err(Error::Deadline { what, deadline: READ_DEADLINE });
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }
}
