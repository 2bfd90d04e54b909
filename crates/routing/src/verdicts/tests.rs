//! Bounds of the memory, what leaves it, and what it may never say.

use super::*;
use crate::classify::tests::catalog;

fn verdicts(entries: usize, bytes: usize) -> Verdicts {
    Verdicts::new(Limits { entries, bytes }, 7)
}

#[test]
fn the_second_time_is_a_hit_with_the_same_verdict() {
    let catalog = catalog(1);
    let mut verdicts = verdicts(10, 100_000);
    for text in ["SELECT 1", "SELECT nextval('s')", "BEGIN READ ONLY", "SELEC", ""] {
        let expected = classify(text.as_bytes(), &catalog);
        assert_eq!(*verdicts.of(text.as_bytes(), &catalog), expected);
        assert_eq!(*verdicts.of(text.as_bytes(), &catalog), expected);
    }
    assert_eq!(verdicts.hits_and_misses(), (5, 5));
}

#[test]
fn bounds_hold_and_answers_stay_right_while_texts_come_and_go() {
    let catalog = catalog(1);
    let mut verdicts = verdicts(50, 20_000);
    for round in 0u32..5_000 {
        let number = round.wrapping_mul(2_654_435_761) % 200;
        let text = match number % 2 {
            0 => format!("SELECT {number}{}", " ".repeat(number as usize)),
            _ => format!("DELETE FROM t WHERE a = {number}"),
        };
        assert_eq!(verdicts.of(text.as_bytes(), &catalog).is_replica(), number % 2 == 0, "{text}");
        let (entries, bytes) = verdicts.size();
        assert!(entries <= 50 && bytes <= 20_000);
        assert_eq!(entries, verdicts.places.len());
    }
    assert!(verdicts.size().0 > 20);
}

#[test]
fn what_is_asked_again_outlives_what_is_not() {
    let catalog = catalog(1);
    let mut verdicts = verdicts(50, 1_000_000);
    for round in 0..1_000 {
        verdicts.of(b"SELECT 'often'", &catalog);
        verdicts.of(format!("SELECT 1 AS a{round}").as_bytes(), &catalog);
    }
    assert_eq!(verdicts.hits_and_misses().0, 999);
}

#[test]
fn another_catalog_clears_it() {
    let (old, new) = (catalog(1), Catalog::empty());
    let mut verdicts = verdicts(10, 100_000);
    assert!(verdicts.of(b"SELECT count(*) FROM users", &old).is_replica());
    assert!(!verdicts.of(b"SELECT count(*) FROM users", &new).is_replica());
    assert_eq!(verdicts.size().0, 1);
}

#[test]
fn a_correction_lasts_until_the_catalog_changes() {
    let (old, new) = (catalog(1), catalog(2));
    let mut verdicts = verdicts(10, 100_000);
    let text = b"SELECT quiet(1)";
    assert!(verdicts.of(text, &old).is_replica());
    verdicts.correct(text, Reason::VolatileFunction("quiet".into()));
    assert!(!verdicts.of(text, &old).is_replica());
    assert!(verdicts.of(text, &new).is_replica());
    verdicts.correct(b"SELECT 'never met'", Reason::Unparsable);
    assert_eq!(verdicts.size().0, 1);
}

#[test]
fn long_texts_and_no_room_at_all_are_no_trouble() {
    let catalog = catalog(1);
    let long = format!("SELECT {}a FROM users", "a, ".repeat(3_000));
    let mut small = verdicts(10, 20_000);
    assert!(small.of(long.as_bytes(), &catalog).is_replica());
    assert_eq!(small.size(), (0, 0));
    let longer = long.repeat(10);
    assert_eq!(small.of(longer.as_bytes(), &catalog).route, Route::Primary(Reason::TooLong));
    for (entries, bytes) in [(0, 20_000), (10, 0), (0, 0)] {
        assert!(verdicts(entries, bytes).of(b"SELECT 1", &catalog).is_replica());
    }
}
