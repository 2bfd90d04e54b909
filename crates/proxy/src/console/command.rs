//! What can be typed into the console.
//!
//! What it is: PgBouncer's commands, by their first words and in any case, as its exporters and scripts send them. What it is not: SQL.

/// One command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    Show(Show),
    /// A setting that drivers ask for when they connect; any name.
    ShowParameter(String),
    Pause(Option<String>),
    Resume(Option<String>),
    Reconnect(Option<String>),
    Kill(Option<String>),
    KillClient(u64),
    Reload,
    /// Drivers set this and that when they connect; nothing comes of it.
    Set,
    Nothing,
}

macro_rules! shows {
    ($($name:ident $word:literal;)*) => {
        /// A table that can be shown.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Show { $($name),* }

        impl Show {
            pub const ALL: &'static [(&'static str, Show)] = &[$(($word, Show::$name)),*];
        }
    };
}

shows! {
    ActiveSockets "ACTIVE_SOCKETS";
    Clients "CLIENTS";
    Config "CONFIG";
    Databases "DATABASES";
    DnsHosts "DNS_HOSTS";
    DnsZones "DNS_ZONES";
    Help "HELP";
    Lists "LISTS";
    Mem "MEM";
    PoolNodes "POOL_NODES";
    Pools "POOLS";
    Servers "SERVERS";
    Sockets "SOCKETS";
    State "STATE";
    Stats "STATS";
    StatsAverages "STATS_AVERAGES";
    StatsTotals "STATS_TOTALS";
    Totals "TOTALS";
    Users "USERS";
    Version "VERSION";
}

/// PgBouncer's commands that mean something else here, each with what to do instead.
const ELSEWHERE: &[(&str, &str)] = &[
    ("SHUTDOWN", "stop the node's pgherd: it lets transactions end"),
    ("SUSPEND", "use PAUSE"),
    ("WAIT_CLOSE", "use RECONNECT, and SHOW SERVERS until the old ones have gone"),
    ("DISABLE", "use PAUSE, or revoke CONNECT"),
    ("ENABLE", "use RESUME, or grant CONNECT"),
];

/// The error names what may be typed.
pub fn parse(text: &str) -> Result<Command, String> {
    let text = text.trim().trim_end_matches(';').trim();
    let mut words = text.split_whitespace();
    let Some(first) = words.next() else { return Ok(Command::Nothing) };
    let rest: Vec<&str> = words.collect();
    let database = || match rest[..] {
        [] => Ok(None),
        [name] => Ok(Some(unquoted(name))),
        _ => Err(format!("{} takes one database at most", first.to_uppercase())),
    };
    match first.to_uppercase().as_str() {
        "SHOW" | "SELECT" => show(&rest),
        "PAUSE" => database().map(Command::Pause),
        "RESUME" => database().map(Command::Resume),
        "RECONNECT" => database().map(Command::Reconnect),
        "KILL" => database().map(Command::Kill),
        "RELOAD" if rest.is_empty() => Ok(Command::Reload),
        "KILL_CLIENT" => match rest[..] {
            [id] => id.parse().map(Command::KillClient).map_err(|_| {
                format!(
                    "{id:?} is no client: KILL_CLIENT takes a number of the column \"id\" of SHOW CLIENTS"
                )
            }),
            _ => Err("KILL_CLIENT takes one number of the column \"id\" of SHOW CLIENTS".to_owned()),
        },
        "SET" => Ok(Command::Set),
        other => match ELSEWHERE.iter().find(|(word, _)| *word == other) {
            Some((word, instead)) => Err(format!("{word} is not for this console: {instead}")),
            None => Err(format!("unknown command {first:?}; SHOW HELP lists what can be typed")),
        },
    }
}

fn show(rest: &[&str]) -> Result<Command, String> {
    let upper = rest.iter().map(|word| word.to_uppercase()).collect::<Vec<_>>();
    let words: Vec<&str> = upper.iter().map(String::as_str).collect();
    let name = match words[..] {
        [name] => name,
        // As older PgBouncers took it, and as a query by name.
        ["*", "FROM", name] => name,
        [name, "STATUS"] => name,
        [] => return Err("SHOW what? SHOW HELP lists it".to_owned()),
        _ => return Err(format!("unknown table {:?}; SHOW HELP lists them", rest.join(" "))),
    };
    match Show::ALL.iter().find(|(word, _)| *word == name) {
        Some((_, show)) => Ok(Command::Show(*show)),
        None if PARAMETERS.contains(&name) => Ok(Command::ShowParameter(name.to_lowercase())),
        None => Err(format!("unknown table {:?}; SHOW HELP lists them", rest.join(" "))),
    }
}

/// What drivers ask for.
const PARAMETERS: &[&str] = &[
    "CLIENT_ENCODING",
    "DATESTYLE",
    "TIMEZONE",
    "STANDARD_CONFORMING_STRINGS",
    "DEFAULT_TRANSACTION_READ_ONLY",
    "TRANSACTION_READ_ONLY",
    "APPLICATION_NAME",
    "SERVER_VERSION",
];

fn unquoted(name: &str) -> String {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(name) => name.replace("\"\"", "\""),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_known_in_any_case_and_spelling() {
        let show = |show| Ok(Command::Show(show));
        let cases = [
            ("show pools", show(Show::Pools)),
            ("  SHOW\tPools ;", show(Show::Pools)),
            ("select * from stats;", show(Show::Stats)),
            ("SHOW VERSION", show(Show::Version)),
            ("show client_encoding", Ok(Command::ShowParameter("client_encoding".to_owned()))),
            ("PAUSE", Ok(Command::Pause(None))),
            ("pause \"My db\"", Err("PAUSE takes one database at most".to_owned())),
            ("resume \"a\"\"b\"", Ok(Command::Resume(Some("a\"b".to_owned())))),
            ("RECONNECT app", Ok(Command::Reconnect(Some("app".to_owned())))),
            ("kill_client 7", Ok(Command::KillClient(7))),
            ("reload;", Ok(Command::Reload)),
            ("set extra_float_digits = 3", Ok(Command::Set)),
            (";", Ok(Command::Nothing)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text}");
        }
        for (text, hint) in [
            ("drop table t", "SHOW HELP"),
            ("reload x", "SHOW HELP"),
            ("kill_client x", "SHOW CLIENTS"),
            ("show nothing", "SHOW HELP"),
            ("show", "SHOW HELP"),
            ("suspend", "PAUSE"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
