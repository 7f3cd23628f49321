//! That no row is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const ROWS: &str = include_str!("rows.txt");

/// Names of the tests in this folder.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/catalogue");
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut test = false;
        for line in text.lines() {
            let code = line.strip_prefix("pub(crate) ").unwrap_or(line);
            if let (true, Some(rest)) = (test, code.strip_prefix("fn ")) {
                let name = rest.split('(').next().unwrap_or_default();
                assert!(found.insert(name.to_string()), "two tests named {name}");
            }
            test = line == "#[test]" || test && line.starts_with("#[");
        }
    }
    found
}

/// Rows listed in a chapter of the document, as "- `row`: what about it", with the text.
fn listed(chapter: &str) -> BTreeMap<String, String> {
    let text = include_str!("../../../../docs/scenarios.md");
    let mut inside = false;
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            inside = title.to_lowercase().starts_with(chapter);
        } else if let (true, Some(rest)) = (inside, line.strip_prefix("- `")) {
            let (row, what) = rest.split_once('`').unwrap();
            let what = what.trim_start_matches(':').trim().to_string();
            assert!(!what.is_empty(), "row {row} is listed without a reason");
            assert!(found.insert(row.into(), what).is_none(), "{row} twice");
        }
    }
    found
}

#[test]
fn every_row_is_here() {
    let (tests, elsewhere, not_yet) = (tests(), listed("elsewhere"), listed("not yet"));
    let rows: BTreeSet<&str> = ROWS.lines().collect();
    assert_eq!(rows.len(), 143);
    for row in &rows {
        let test = tests.contains(&row.replace('-', "_"));
        let lists = [elsewhere.contains_key(*row), not_yet.contains_key(*row)];
        let places = usize::from(test) + lists.iter().filter(|x| **x).count();
        assert_eq!(
            places, 1,
            "row {row}: a test here: {test}; listed as elsewhere, not yet: {lists:?}"
        );
    }
    for row in elsewhere.keys().chain(not_yet.keys()) {
        assert!(rows.contains(row.as_str()), "{row} is no row");
    }
}
