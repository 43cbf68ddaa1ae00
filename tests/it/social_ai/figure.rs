//! How often the rules are right about messages that were labelled without knowing them.

use std::collections::BTreeMap;

use shared::social::sentiment_label;
use understand_social_messages::rules;

const MESSAGES: &str = include_str!("../../fixtures/sentiment.tsv");
const PUBLISHED: &str = include_str!("../../../docs/BENCHMARKS.md");
const LABELS: [&str; 3] = ["positive", "neutral", "negative"];

/// The lines of docs/BENCHMARKS.md that say how often the rules are right.
fn measured() -> Vec<String> {
    let mut counts: BTreeMap<(&str, &str, &str), u32> = BTreeMap::new();
    for line in MESSAGES.lines().skip(1) {
        let mut columns = line.splitn(3, '\t');
        let (language, label, text) = (columns.next().unwrap(), columns.next().unwrap(), columns.next().unwrap());
        *counts.entry((language, label, sentiment_label(rules::score(text)))).or_default() += 1;
    }
    let count = |wanted: &dyn Fn(&str, &str, &str) -> bool| -> u32 {
        counts.iter().filter(|((language, label, said), _)| wanted(language, label, said)).map(|(_, count)| count).sum()
    };
    let mut lines = Vec::new();
    for (name, code) in [("Swedish", "sv"), ("English", "en"), ("both", "")] {
        let of = |language: &str| code.is_empty() || language == code;
        let all = count(&|language, _, _| of(language));
        let right = count(&|language, label, said| of(language) && label == said);
        let percent = f64::from(right) * 100.0 / f64::from(all);
        lines.push(format!("| {name} | {all} | {right} | {percent:.1} % |"));
    }
    for label in LABELS {
        let said = LABELS.map(|said| count(&|_, is, by_rules| is == label && by_rules == said).to_string());
        lines.push(format!("| {label} | {} |", said.join(" | ")));
    }
    lines
}

#[test]
#[allow(clippy::print_stdout, reason = "the figures are what it is run for")]
fn the_published_figures_of_the_rules_are_those_that_are_measured() {
    for line in measured() {
        println!("{line}");
        assert!(PUBLISHED.contains(&line), "docs/BENCHMARKS.md has no line: {line}");
    }
}
