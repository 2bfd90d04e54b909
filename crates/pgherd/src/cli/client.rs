//! Asks the nodes over HTTP and takes the best answer.
//!
//! Each question has a deadline, and all nodes are asked at once: a frozen one must not hold up the others.

use std::time::Duration;

use serde::de::DeserializeOwned;

use super::credentials::CredentialArgs;
use super::failure::{Exit, Failure};
use super::target::{Address, TargetArgs};
use crate::api::StatusReport;

/// The whole question and answer. A node answers from memory in a few milliseconds; the rest is for a busy machine
/// and one lost packet (TCP sends again after a second).
const QUESTION_TIMEOUT: Duration = Duration::from_millis(1_500);

/// A change waits for the store, which may be choosing a leader: some seconds.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A request that changes something.
pub enum Change<'a> {
    Post(&'a serde_json::Value),
    Delete,
}

pub struct Client {
    agent: ureq::Agent,
    addresses: Vec<Address>,
    authorization: Option<String>,
}

/// The best view of the cluster, with the nodes that gave none.
pub struct Answered {
    pub report: StatusReport,
    /// `name: why` of each address that did not answer this command.
    pub silent: Vec<String>,
}

/// Why a node gave no answer.
#[derive(Debug)]
enum NoAnswer {
    /// It could not be reached in time, or spoke nonsense: ask the next.
    Silent(String),
    /// It answered that the question is wrong: no other node will know better.
    Refused(String),
}

impl Client {
    pub fn new(target: &TargetArgs) -> Result<Client, Failure> {
        Client::with(target.addresses()?, &target.credentials, QUESTION_TIMEOUT)
    }

    /// With another deadline for each question than a look at a node's memory needs.
    pub fn patient(
        addresses: Vec<Address>,
        credentials: &CredentialArgs,
        patience: Duration,
    ) -> Result<Client, Failure> {
        Client::with(addresses, credentials, patience)
    }

    /// As nobody in particular.
    pub fn of(addresses: Vec<Address>) -> Result<Client, Failure> {
        Client::with(addresses, &CredentialArgs::default(), QUESTION_TIMEOUT)
    }

    fn with(
        addresses: Vec<Address>,
        credentials: &CredentialArgs,
        patience: Duration,
    ) -> Result<Client, Failure> {
        let own = addresses.iter().find_map(|address| address.cert.as_deref());
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(patience))
            .http_status_as_error(false)
            .tls_config(credentials.tls(own)?)
            // Commands ask seldom; a connection kept open would hold up a node's shutdown.
            .max_idle_connections(0);
        Ok(Client { agent: config.build().into(), addresses, authorization: credentials.authorization()? })
    }

    /// The header with the user, or one that says nothing.
    fn authorization(&self) -> (&'static str, &str) {
        self.authorization.as_deref().map_or(("accept", "application/json"), |text| ("authorization", text))
    }

    /// The answer of the first address that has one.
    pub fn ask<T: DeserializeOwned + Send>(&self, path: &str) -> Result<T, Failure> {
        let mut silent = Vec::new();
        for (address, answer) in self.addresses.iter().zip(self.ask_all(|_| path.to_owned())) {
            match answer {
                Ok(answer) => return Ok(answer),
                Err(NoAnswer::Refused(reason)) => return Err(Failure::new(Exit::General, reason)),
                Err(NoAnswer::Silent(reason)) => silent.push(format!("{}: {reason}", address.url)),
            }
        }
        Err(unreachable(&silent))
    }

    /// Asks for a change at the first address that can take it; a refusal ends the search.
    pub fn change<T: DeserializeOwned>(&self, change: Change<'_>, path: &str) -> Result<T, Failure> {
        let mut silent = Vec::new();
        for address in &self.addresses {
            match self.change_at(address, &change, path) {
                Ok(answer) => return Ok(answer),
                Err(NoAnswer::Refused(reason)) => return Err(Failure::new(Exit::Precondition, reason)),
                Err(NoAnswer::Silent(reason)) => silent.push(format!("{}: {reason}", address.url)),
            }
        }
        Err(unreachable(&silent))
    }

    fn change_at<T: DeserializeOwned>(
        &self,
        address: &Address,
        change: &Change<'_>,
        path: &str,
    ) -> Result<T, NoAnswer> {
        let url = format!("{}{path}", address.url);
        let (name, value) = self.authorization();
        let limit = Some(CHANGE_TIMEOUT);
        let answer = match change {
            Change::Post(body) => {
                let request = self.agent.post(url).header(name, value);
                request.config().timeout_global(limit).build().send_json(body)
            }
            Change::Delete => {
                self.agent.delete(url).header(name, value).config().timeout_global(limit).build().call()
            }
        };
        read(answer)
    }

    /// What each address answers to the path that `path_of` gives for its index; `None` from those that are silent.
    /// An error only when nobody answers.
    pub fn ask_each<T: DeserializeOwned + Send>(
        &self,
        path_of: impl Fn(usize) -> String + Sync,
    ) -> Result<Vec<Option<T>>, Failure> {
        let mut answers = Vec::new();
        let mut silent = Vec::new();
        for (address, answer) in self.addresses.iter().zip(self.ask_all(path_of)) {
            if let Err(NoAnswer::Silent(reason) | NoAnswer::Refused(reason)) = &answer {
                silent.push(format!("{}: {reason}", address.url));
            }
            answers.push(answer.ok());
        }
        if silent.len() == self.addresses.len() { Err(unreachable(&silent)) } else { Ok(answers) }
    }

    /// What each address answers, in their order, or why it gives none.
    pub fn answers<T: DeserializeOwned + Send>(&self, path: &str) -> Vec<Result<T, String>> {
        let answers = self.ask_all(|_| path.to_owned()).into_iter();
        let reason = |no: NoAnswer| match no {
            NoAnswer::Silent(reason) | NoAnswer::Refused(reason) => reason,
        };
        answers.map(|answer| answer.map_err(reason)).collect()
    }

    pub fn address_count(&self) -> usize {
        self.addresses.len()
    }

    /// The view of the node that knows the highest term, and who did not answer.
    pub fn status(&self) -> Result<Answered, Failure> {
        let mut best: Option<StatusReport> = None;
        let mut silent = Vec::new();
        for (address, answer) in
            self.addresses.iter().zip(self.ask_all::<StatusReport>(|_| "/api/v1/status".to_owned()))
        {
            match answer {
                Ok(report) if best.as_ref().is_none_or(|best| rank(&report) > rank(best)) => {
                    best = Some(report)
                }
                Ok(_) => {}
                Err(NoAnswer::Silent(reason) | NoAnswer::Refused(reason)) => {
                    silent.push(format!("{}: {reason}", address.node.as_deref().unwrap_or(&address.url)));
                }
            }
        }
        let report = best.ok_or_else(|| unreachable(&silent))?;
        Ok(Answered { report, silent })
    }

    /// All addresses at the same time: one that is frozen costs its deadline once.
    fn ask_all<T: DeserializeOwned + Send>(
        &self,
        path_of: impl Fn(usize) -> String + Sync,
    ) -> Vec<Result<T, NoAnswer>> {
        let path_of = &path_of;
        std::thread::scope(|scope| {
            let ask = |(index, address)| scope.spawn(move || self.ask_one(address, &path_of(index)));
            let asking: Vec<_> = self.addresses.iter().enumerate().map(ask).collect();
            let lost = |_| Err(NoAnswer::Silent("the question panicked".to_owned()));
            asking.into_iter().map(|thread| thread.join().unwrap_or_else(lost)).collect()
        })
    }

    fn ask_one<T: DeserializeOwned>(&self, address: &Address, path: &str) -> Result<T, NoAnswer> {
        let (name, value) = self.authorization();
        read(self.agent.get(format!("{}{path}", address.url)).header(name, value).call())
    }
}

/// The body of a good answer, or why there is none.
fn read<T: DeserializeOwned>(
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Result<T, NoAnswer> {
    let silent = |error: ureq::Error| NoAnswer::Silent(in_words(&error.to_string()));
    let mut answer = answer.map_err(silent)?;
    let code = answer.status();
    if code.is_success() {
        return answer.body_mut().read_json().map_err(silent);
    }
    let body: serde_json::Value = answer.body_mut().read_json().unwrap_or_default();
    let reason = body["error"].as_str().map_or_else(|| format!("HTTP {code}"), str::to_owned);
    if code.is_client_error() { Err(NoAnswer::Refused(reason)) } else { Err(NoAnswer::Silent(reason)) }
}

/// What people meet when they make their own certificates.
fn in_words(error: &str) -> String {
    let hint = match () {
        () if error.contains("CaUsedAsEndEntity") => {
            "the node shows an authority's certificate as its own, as openssl req -x509 makes it; make it with \
             -addext basicConstraints=critical,CA:FALSE"
        }
        () if error.contains("UnknownIssuer") => {
            "name its authority, or the certificate itself, with --ca FILE"
        }
        () if error.contains("NotValidForName") => {
            "the host that was asked is none of the names in the certificate; ask by one of them"
        }
        () => return error.to_owned(),
    };
    format!("{error}: {hint}")
}

/// A later term knows more; within a term, so does a view with an open primary.
fn rank(report: &StatusReport) -> (u64, bool) {
    (report.term, report.primary.is_some())
}

fn unreachable(silent: &[String]) -> Failure {
    Failure::new(Exit::Unreachable, "no node of the cluster answered")
        .why(silent.join("; "))
        .next("start a node with pgherd run --config FILE; a demo with pgherd demo --dir DIR")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_silent_cluster_names_each_address_and_the_exit_code() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let client = Client::of(vec![Address { node: Some("n1".into()), url, cert: None }]).unwrap();
        let failure = client.status().err().unwrap();
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.why.unwrap().starts_with("n1: "));
    }

    #[test]
    fn a_listener_that_never_answers_costs_its_deadline_only() {
        let frozen = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", frozen.local_addr().unwrap());
        let address = Address { node: None, url, cert: None };
        let started = std::time::Instant::now();
        let client = Client::of(vec![address.clone(), address]).unwrap();
        let failure = client.ask::<StatusReport>("/x").err().unwrap();
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(started.elapsed() < 2 * QUESTION_TIMEOUT, "two addresses are asked at the same time");
    }
}
