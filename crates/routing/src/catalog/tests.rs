//! Names, overrides and what passes from relation to relation.

use super::*;

fn rows(functions: &[[&str; 5]], relations: &[[&str; 5]], dependencies: &[[&str; 3]]) -> Rows {
    let mut rows = Rows::default();
    functions.iter().for_each(|columns| rows.take(Query::Functions, columns).unwrap());
    relations.iter().for_each(|columns| rows.take(Query::Relations, columns).unwrap());
    dependencies.iter().for_each(|columns| rows.take(Query::Dependencies, columns).unwrap());
    rows
}

#[test]
fn one_dangerous_overload_in_any_schema_decides_an_unqualified_name() {
    let rows = rows(
        &[["1", "pg_catalog", "f", "f", "f"], ["2", "app", "f", "f", "f"], ["3", "app", "f", "t", "f"]],
        &[],
        &[],
    );
    let catalog = Catalog::new(1, &rows, &Overrides::default());
    assert_eq!(catalog.function(None, "f"), Known::Dangerous(&Danger::Volatile));
    assert_eq!(catalog.function(Some("app"), "f"), Known::Dangerous(&Danger::Volatile));
    assert_eq!(catalog.function(Some("pg_catalog"), "f"), Known::Harmless);
    assert_eq!(catalog.function(Some("other"), "f"), Known::Not);
    assert_eq!(catalog.function(None, "F"), Known::Not);
}

#[test]
fn overrides_are_by_name_or_by_schema_and_primary_wins() {
    let functions = [
        ["1", "a", "f", "t", "f"],
        ["2", "b", "f", "t", "f"],
        ["3", "a", "g", "f", "f"],
        ["4", "b", "g", "t", "f"],
    ];
    let rows = rows(&functions, &[], &[]);
    let overrides = |replica: &[&str], primary: &[&str]| Overrides {
        always_replica: replica.iter().map(|name| (*name).into()).collect(),
        always_primary: primary.iter().map(|name| (*name).into()).collect(),
    };
    let harmless = |overrides: &Overrides, schema: Option<&str>, name: &str| {
        Catalog::new(1, &rows, overrides).function(schema, name) == Known::Harmless
    };
    assert!(harmless(&overrides(&["f"], &[]), None, "f"));
    assert!(!harmless(&overrides(&["a.f"], &[]), None, "f"));
    assert!(harmless(&overrides(&["a.f"], &[]), Some("a"), "f"));
    assert!(!harmless(&overrides(&[], &["a.g"]), Some("a"), "g"));
    assert!(!harmless(&overrides(&["f"], &["f"]), Some("b"), "f"));
}

#[test]
fn hazards_pass_through_any_depth_and_through_circles() {
    let relations = [
        ["11", "s", "unlogged", "r", "u"],
        ["12", "s", "one", "v", "p"],
        ["13", "s", "two", "v", "p"],
        ["14", "s", "three", "v", "p"],
        ["15", "s", "apart", "v", "p"],
        ["16", "s", "matter", "m", "p"],
    ];
    let dependencies = [
        ["12", "r", "11"],
        ["13", "r", "12"],
        ["14", "r", "13"],
        ["12", "r", "14"],
        ["15", "r", "15"],
        ["15", "f", "99"],
    ];
    let catalog = Catalog::new(1, &rows(&[], &relations, &dependencies), &Overrides::default());
    for name in ["unlogged", "one", "two", "three"] {
        let hazard = Hazard::Unlogged("s.unlogged".into());
        assert_eq!(catalog.relation(Some("s"), name), Known::Dangerous(&hazard), "{name}");
    }
    assert_eq!(catalog.relation(None, "apart"), Known::Harmless);
    assert_eq!(catalog.relation(None, "matter"), Known::Harmless);
}

#[test]
fn temporary_relations_are_no_ones_business() {
    let relations = [["11", "pg_temp_4", "users", "r", "t"], ["12", "public", "users", "r", "p"]];
    let catalog = Catalog::new(1, &rows(&[], &relations, &[]), &Overrides::default());
    assert_eq!(catalog.relation(None, "users"), Known::Harmless);
    assert_eq!(catalog.relation(Some("pg_temp_4"), "users"), Known::Not);
}

#[test]
fn rows_of_another_shape_are_refused() {
    let mut rows = Rows::default();
    for columns in [&[][..], &["1"], &["x", "s", "f", "t", "f"], &["1", "s", "f", "t", "f", "f"]] {
        assert_eq!(rows.take(Query::Functions, columns), Err(BadRow(Query::Functions)));
    }
    assert!(rows.take(Query::Operators, &["s", "+", "x"]).is_err());
    assert!(rows.take(Query::Relations, &["1", "s", "t", "", "p"]).is_err());
    assert!(rows.take(Query::Dependencies, &["1", "x", "2"]).is_err());
}
