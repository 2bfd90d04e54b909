//! Whether PostgreSQL would take a parameter's value, and when: asked of the program and of the server, nothing is changed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::{Error, Result};
use super::server::Server;
use super::session::{QUERY_DEADLINE, literal};

/// PostgreSQL reads its command line and prints a value: some 10 ms, and more on a busy machine.
const TRIAL_DEADLINE: Duration = Duration::from_secs(10);

impl Server {
    /// What PostgreSQL says against these values, a sentence for each that it refuses. `None`, its own value, is never wrong.
    pub async fn try_parameters(&self, parameters: &BTreeMap<String, Option<String>>) -> Result<Vec<String>> {
        let mut refused = Vec::new();
        for (name, value) in parameters {
            let Some(value) = value else { continue };
            match self.try_parameter(name, value).await {
                Ok(()) => {}
                Err(Error::Tool { tail, .. }) => refused.push(first_complaint(&tail)),
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    /// The program looks at its command line as it looks at its files, and at no lock: a running server is not disturbed.
    async fn try_parameter(&self, name: &str, value: &str) -> Result<()> {
        let (data, setting) = (self.layout.data.to_string_lossy(), format!("{name}={value}"));
        let arguments =
            ["-D", &data, "-c", "config_file=/dev/null", "-c", setting.as_str(), "-C", "server_version"];
        let postgres = self.installation.tool("postgres");
        self.account.run(&postgres, &arguments, &[], TRIAL_DEADLINE).await.map(drop)
    }

    /// `pg_settings.context` of those that the server knows.
    pub async fn parameter_contexts(
        &self,
        names: impl Iterator<Item = &String>,
    ) -> Result<BTreeMap<String, String>> {
        let names: Vec<String> = names.map(|name| literal(name)).collect();
        let sql =
            format!("SELECT name, context FROM pg_settings WHERE lower(name) IN ({})", names.join(", "));
        let mut admin = self.admin.lock().await;
        let session = admin.session(&self.layout, self.config.port).await?;
        let rows = session.rows("look parameters up", &sql, QUERY_DEADLINE).await?;
        let text = |row: &super::session::Row, index| row.get(index).unwrap_or_default().to_lowercase();
        Ok(rows.iter().map(|row| (text(row, 0), text(row, 1))).collect())
    }
}

/// The first line that complains, without its severity; with what PostgreSQL proposes.
fn first_complaint(said: &str) -> String {
    let after = |line: &str, word: &str| line.split_once(word).map(|(_, rest)| rest.trim().to_owned());
    let complaint = said.lines().find_map(|line| after(line, "FATAL:").or_else(|| after(line, "ERROR:")));
    let hint = said.lines().find_map(|line| after(line, "HINT:"));
    let complaint = complaint.unwrap_or_else(|| said.trim().to_owned());
    hint.map_or_else(|| complaint.clone(), |hint| format!("{complaint} ({hint})"))
}
