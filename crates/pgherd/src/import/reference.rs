//! The page `docs/reference/import.md`, made from the tables.

use super::table::{Becomes, Row};
use super::{Format, tables};

const HEAD: &str = "\
# What becomes of other tools' settings

<!-- Made from crates/pgherd/src/import. To renew: UPDATE_DOCS=1 cargo test -p pgherd --lib -- import:: -->

`pgherd import FILE…` reads the configuration of these tools and writes pgherd's; for each line it says what became of it. This is the
table it goes by. `*` stands for any name, `**` for all below, `[]` for an item of a list, `#` for a number.

What is *off* in the source needs nothing, whatever stands here of its having no counterpart. Passwords are never written or shown.
";

/// The whole page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for format in Format::ALL {
        page.push_str(&format!("\n## {}\n\n| key | in pgherd |\n|---|---|\n", format.tool()));
        for row in tables(format).iter().flat_map(|table| table.iter()) {
            page.push_str(&line(row));
        }
    }
    page
}

fn line(row: &Row) -> String {
    let keys: Vec<String> = row.key.split('|').map(|key| format!("`{}`", key.replace(".[]", "[]"))).collect();
    let told = match row.becomes {
        Becomes::Setting { to, note: "", .. } => format!("→ `{to}`"),
        Becomes::Setting { to, note, .. } => format!("→ `{to}`: {note}"),
        Becomes::Several { to, .. } => format!("→ {to}"),
        Becomes::Needless(why) => format!("needs nothing: {why}"),
        Becomes::Absent(instead) | Becomes::AbsentAlways(instead) => format!("no counterpart: {instead}"),
        Becomes::Secret(goes) => format!("a secret, not taken over: {goes}"),
    };
    format!("| {} | {} |\n", keys.join(", "), told.replace('|', "\\|"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_page_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/import.md");
        let page = super::page();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == page,
            "docs/reference/import.md is not what the tables say; type: UPDATE_DOCS=1 cargo test -p pgherd --lib -- import::"
        );
    }
}
