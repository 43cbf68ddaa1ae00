//! The list of errors that clients may get: it is complete, and its texts tell a person what to do.

use std::{collections::BTreeSet, fs, path::Path};

use integration_tests::errors::{self, Known};
use local::home;

/// Files of a folder and below that end so, without those of tests.
fn files(folder: &Path, end: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.to_string_lossy().ends_with(end) && !path.ends_with("tests.rs") {
            found.push(fs::read_to_string(&path).unwrap());
        }
    }
    found
}

/// The words in quotes right behind each of these.
fn quoted<'a>(text: &'a str, before: &str, quote: char) -> impl Iterator<Item = &'a str> {
    text.split(before).skip(1).filter_map(move |rest| rest.trim_start().strip_prefix(quote)?.split(quote).next())
}

#[test]
fn every_error_in_the_source_is_on_the_list_with_its_status() {
    let known: BTreeSet<(u16, &str)> = errors::all().map(|known| (known.status, known.code)).collect();
    let root = home::root();
    let mut written = BTreeSet::new();
    let source = ["shared/src", "functions"].iter().flat_map(|folder| files(&root.join(folder), ".rs"));
    let source: Vec<String> =
        source.map(|text| text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned()).collect();
    for text in &source {
        for (made, status) in [
            ("ApiError::bad_request(", 400),
            ("ApiError::forbidden(", 403),
            ("ApiError::unknown(", 404),
            ("ApiError::conflict(", 409),
            ("ApiError::unprocessable(", 422),
            ("ApiError::too_many(", 429),
            ("ApiError::bad_gateway(", 502),
            ("ApiError::unavailable(", 503),
        ] {
            written.extend(quoted(text, made, '"').map(|code| (status, code.to_owned())));
        }
        for entity in quoted(text, "NotFound { entity: ", '"').chain(quoted(text, "ApiError::not_found(", '"')) {
            written.insert((404, format!("{entity}_not_found")));
        }
    }
    let migrations = files(&root.join("migrations"), ".sql");
    for text in &migrations {
        for (status, code) in text.split("refuse('PT").skip(1).filter_map(|rest| rest.split_once("', ")) {
            if let Some(code) = code.trim_start().strip_prefix('\'').and_then(|code| code.split('\'').next()) {
                written.insert((status.parse().unwrap(), code.to_owned()));
            }
        }
    }
    assert!(written.len() > 150, "only {} were found", written.len());
    let missing: Vec<_> = written.iter().filter(|(status, code)| !known.contains(&(*status, code.as_str()))).collect();
    assert!(missing.is_empty(), "tests/src/errors.txt lacks {missing:?}");
    // What stands there and nowhere else is an error no more.
    let all = source.concat() + &migrations.concat();
    for Known { code, .. } in errors::all() {
        let entity = code.strip_suffix("_not_found").map(|entity| format!("\"{entity}\""));
        let there = all.contains(&format!("\"{code}\"")) || all.contains(&format!("'{code}'"));
        assert!(there || entity.is_some_and(|entity| all.contains(&entity)), "nothing gives {code}");
    }
}

#[test]
fn the_list_is_in_order_and_each_text_is_a_sentence() {
    let all: Vec<Known> = errors::all().collect();
    assert!(all.is_sorted_by(|one, next| one < next), "tests/src/errors.txt is not sorted, or has a line twice");
    for Known { code, detail, .. } in all {
        assert!(detail.len() > 10 && detail.ends_with('.'), "{code}: {detail}");
        let lasting = detail.replace("{}", "");
        assert!(lasting.split_whitespace().count() >= 4, "{code}: {detail} may be anything");
    }
}

#[test]
fn a_text_is_known_by_all_that_does_not_vary() {
    let known = |detail: &'static str| Known { status: 400, code: "x", detail };
    let plain = known("There is no such job.");
    assert!(plain.says("There is no such job."));
    for other in ["There is no such job", "There is no such job..", "There is such a job.", ""] {
        assert!(!plain.says(other), "{other}");
    }
    let varies = known("{} must be {}.");
    assert!(varies.says("days must be 1 to 92."));
    for other in [" must be 1.", "days must be .", "days must be 1 to 92", "days may be 1."] {
        assert!(!varies.says(other), "{other}");
    }
}
