//! `pgherd history`: each timeline that was left, where, why and for whom.

use std::fmt::Write;

use clap::Args;
use wire::Lsn;

use super::client::Client;
use super::failure::Failure;
use super::target::TargetArgs;
use super::{OutputArgs, print, print_json};

#[derive(Args, Debug)]
pub struct HistoryArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// As `/history` has it: timeline, where it was left, why, when, and who began the next.
type Left = (u32, u64, String, Option<String>, Option<String>);

pub fn history(args: &HistoryArgs) -> Result<(), Failure> {
    let left: Vec<Left> = Client::new(&args.target)?.ask("/history")?;
    match () {
        () if args.output.is_json() => print_json(&left),
        () if left.is_empty() => print("no timeline was left yet: there was no takeover\n"),
        () => print(&table(&left)),
    }
}

fn table(left: &[Left]) -> String {
    let mut text =
        format!("{:>8}  {:<14}  {:<12}  {:<22}  {}\n", "TIMELINE", "LEFT AT", "FOR", "WHEN", "NEXT PRIMARY");
    for (timeline, end, reason, when, next) in left {
        let or = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{timeline:>8}  {:<14}  {reason:<12}  {:<22}  {}",
            Lsn(*end).to_string(),
            or(when),
            or(next)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_timeline() {
        let left = [
            (
                1,
                0x300_0148,
                "term 2".to_owned(),
                Some("2026-01-02T03:04:05Z".to_owned()),
                Some("n2".to_owned()),
            ),
            (3, 0x500_0000, "no recorded term".to_owned(), None, None),
        ];
        let text = table(&left);
        assert_eq!(text.lines().count(), 3);
        assert!(
            text.lines()
                .nth(1)
                .unwrap()
                .ends_with("0/3000148       term 2        2026-01-02T03:04:05Z    n2"),
            "{text}"
        );
        assert!(text.lines().nth(2).unwrap().ends_with("-                       -"), "{text}");
    }
}
