//! `pgherd explain`: what would happen if a node died now, and what holds it back.

use std::fmt::Write;

use clap::Args;

use super::client::Client;
use super::failure::Failure;
use super::target::TargetArgs;
use super::{OutputArgs, print, print_json};
use crate::api::Explanation;

#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The node that dies; each in turn when none is named
    node: Option<String>,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let path = match &args.node {
        Some(node) => format!("/api/v1/explain/{node}"),
        None => "/api/v1/explain".to_owned(),
    };
    let explanations: Vec<Explanation> = Client::new(&args.target)?.ask(&path)?;
    if args.output.is_json() { print_json(&explanations) } else { print(&text(&explanations)) }
}

fn text(explanations: &[Explanation]) -> String {
    let mut text = String::new();
    for explanation in explanations {
        let outcome = match &explanation.takes_over {
            Some(node) => format!("{node} takes over"),
            None if explanation.blockers.is_empty() => "nobody needs to take over".to_owned(),
            None => "nobody can take over".to_owned(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "if {} died now: {outcome}  [{}]", explanation.node, explanation.rule);
        for reason in &explanation.why {
            let _ = writeln!(text, "  because {reason}");
        }
        for blocker in &explanation.blockers {
            let _ = writeln!(text, "  held back: {blocker}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_gets_outcome_reasons_and_blockers() {
        let explanation = |node: &str, takes_over: Option<&str>, blockers: &[&str]| Explanation {
            node: node.into(),
            takes_over: takes_over.map(Into::into),
            rule: "takeover".into(),
            why: vec!["n2 has the longest log".into()],
            blockers: blockers.iter().map(|&blocker| blocker.into()).collect(),
        };
        let explanations = [
            explanation("n1", Some("n2"), &[]),
            explanation("n2", None, &[]),
            explanation("n3", None, &["1 of 2 answers"]),
        ];
        assert_eq!(
            text(&explanations),
            "if n1 died now: n2 takes over  [takeover]\n  because n2 has the longest log\n\
             if n2 died now: nobody needs to take over  [takeover]\n  because n2 has the longest log\n\
             if n3 died now: nobody can take over  [takeover]\n  because n2 has the longest log\n  held back: 1 of 2 answers\n"
        );
    }
}
