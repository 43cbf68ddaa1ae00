//! The list of planted bugs: each fits the checkout, and its tests are there.

use std::{collections::BTreeSet, process::Command};

use developer::mutants::{self, Place};
use integration_tests::{Server, TestDatabase};
use local::home;

#[test]
fn every_bug_of_the_list_fits_the_sources_and_names_tests_that_there_are() {
    let root = home::root();
    let list = mutants::list(&root).unwrap();
    assert!(list.len() > 100, "{} bugs", list.len());
    mutants::check(&root, &list).unwrap();

    let listed = Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let known: BTreeSet<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    assert!(known.contains("mutants::every_bug_of_the_list_fits_the_sources_and_names_tests_that_there_are"));
    let tests = list.iter().flat_map(|mutant| mutant.tests.iter().map(move |test| (&mutant.listed, test)));
    let missing: Vec<String> = tests
        .filter(|(_, test)| !test.contains('/') && !known.contains(test.as_str()))
        .map(|(listed, test)| format!("{listed}: {test}"))
        .collect();
    assert!(missing.is_empty(), "tests that are not there:\n{}", missing.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bug_of_the_list_fits_the_database_functions() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let mut admin = db.admin().await;
    let mut misfits = Vec::new();
    for mutant in mutants::list(&home::root()).unwrap() {
        let Place::Sql(function) = &mutant.place else { continue };
        let definition = mutants::definition(&mut admin, function).await.unwrap();
        match mutant.plant(&definition) {
            Ok(planted) => assert_ne!(planted, definition),
            Err(misfit) => misfits.push(misfit.to_string()),
        }
    }
    assert!(misfits.is_empty(), "{}", misfits.join("\n"));
}
