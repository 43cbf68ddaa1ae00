//! The files: their names, their headers, and what they lock.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use chrono::NaiveDateTime;
use local::home;
use operator::statements::statements;
use serde::Deserialize;

use super::Finding;

/// Findings of squawk that stand for a lock others wait for, or for code that breaks meanwhile. A header may answer for them.
const LOCKS: [&str; 19] = [
    "adding-field-with-default",
    "adding-foreign-key-constraint",
    "adding-not-nullable-field",
    "adding-required-field",
    "adding-serial-primary-key-field",
    "ban-drop-column",
    "ban-drop-constraint",
    "ban-drop-not-null",
    "ban-drop-table",
    "ban-truncate-cascade",
    "changing-column-type",
    "constraint-missing-not-valid",
    "disallowed-unique-constraint",
    "renaming-column",
    "renaming-table",
    "require-concurrent-index-creation",
    "require-concurrent-index-deletion",
    "require-concurrent-partition-detach",
    "require-concurrent-reindex",
];

/// What a header says under these, in this order.
const LABELS: [&str; 3] = ["Locks", "Rollout", "Undo"];

/// Checks every file in `migrations/`.
///
/// # Errors
/// If a file cannot be read, or squawk is not installed.
pub fn migrations(root: &Path) -> Result<Vec<Finding>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join("migrations"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| name != "README.md");
    names.sort();
    let mut findings = Vec::new();
    for pair in names.windows(2) {
        if pair[0].get(..14) == pair[1].get(..14) {
            findings.push(Finding {
                rule: "name",
                at: format!("migrations/{}", pair[1]),
                wrong: format!("has the time of {}, and one of them would not be applied", pair[0]),
                remedy: "Give it a later time".to_owned(),
            });
        }
    }
    for name in &names {
        let text = std::fs::read_to_string(root.join("migrations").join(name))?;
        findings.extend(file(root, name, &text)?);
    }
    Ok(findings)
}

/// Checks one file.
///
/// # Errors
/// If squawk is not installed, or cannot be understood.
pub fn file(root: &Path, name: &str, text: &str) -> Result<Vec<Finding>> {
    let at = format!("migrations/{name}");
    let mut findings = Vec::new();
    if !is_name(name) {
        findings.push(Finding {
            rule: "name",
            at: at.clone(),
            wrong: "is not named as migrations are, and one that is named wrong is passed over".to_owned(),
            remedy: "Name it YYYYMMDDHHMMSS_verb_object.sql".to_owned(),
        });
    }
    let header = Header::of(text);
    findings.extend(header.missing().into_iter().map(|wrong| {
        Finding {
            rule: "header",
            at: at.clone(),
            wrong,
            remedy:
                "Begin with a line that says what it does, then `Locks:`, `Rollout:` and `Undo:`, as the other files do"
                    .to_owned(),
        }
    }));
    findings.extend(locks(&at, text, &header, &squawk(root, name, text, header.in_transaction)?));
    Ok(findings)
}

fn is_name(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".sql") else { return false };
    let mut parts = stem.split('_');
    let time = parts.next().unwrap_or_default();
    let words: Vec<&str> = parts.collect();
    time.len() == 14
        && NaiveDateTime::parse_from_str(time, "%Y%m%d%H%M%S").is_ok()
        && words.len() >= 2
        && words
            .iter()
            .all(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()))
}

/// The comment that a file begins with.
#[derive(Debug, Default)]
struct Header {
    in_transaction: bool,
    does: String,
    /// Under each label, in the order of `LABELS`.
    said: [String; 3],
}

impl Header {
    fn of(text: &str) -> Self {
        let mut lines = text.lines().peekable();
        // What sqlx looks for, at the very beginning.
        let in_transaction = !text.starts_with("-- no-transaction");
        if !in_transaction {
            lines.next();
        }
        let mut header = Self { in_transaction, ..Self::default() };
        let mut under = None;
        for line in lines.map_while(|line| line.strip_prefix("--")).map(str::trim) {
            let labelled =
                LABELS.iter().position(|label| line.strip_prefix(label).is_some_and(|rest| rest.starts_with(':')));
            let line = if let Some(label) = labelled {
                under = labelled;
                line[LABELS[label].len() + 1..].trim()
            } else {
                line
            };
            let said = under.map_or(&mut header.does, |label| &mut header.said[label]);
            said.push_str(line);
            said.push(' ');
        }
        header
    }

    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if self.does.trim().is_empty() {
            missing.push("does not begin by saying what it does".to_owned());
        }
        for (label, said) in LABELS.iter().zip(&self.said) {
            if said.trim().is_empty() {
                missing.push(format!("says nothing under `{label}:`"));
            }
        }
        missing
    }

    /// Whether `Locks:` speaks of a table; an index is spoken of by its table, whose name it begins with.
    fn answers_for(&self, target: &Target) -> bool {
        self.said[0].split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).any(|word| match target {
            Target::Table(name) => word == name,
            Target::Index(name) => {
                word == name || name.strip_prefix(word).is_some_and(|rest| !word.is_empty() && rest.starts_with('_'))
            }
        })
    }
}

/// What squawk tells of a statement.
#[derive(Debug, Deserialize)]
struct Told {
    line: usize,
    column: usize,
    message: String,
    help: Option<String>,
    rule_name: String,
}

/// Has squawk read a file; it knows which tables the file makes itself, and that nobody waits for those.
fn squawk(root: &Path, name: &str, text: &str, in_transaction: bool) -> Result<Vec<Told>> {
    let mut child = Command::new(home::installed(root, "tools")?.join("bin/squawk"))
        .arg("--config")
        .arg(root.join(".squawk.toml"))
        .args(["--reporter", "json", "--stdin-filepath", name])
        .args((!in_transaction).then_some("--no-assume-in-transaction"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("squawk cannot be run")?;
    // It reads to the end before it writes, so neither waits for the other.
    child.stdin.take().context("squawk has no input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    match serde_json::from_slice(&output.stdout) {
        Ok(told) => Ok(told),
        // Nothing to tell is nothing at all.
        Err(_) if output.stdout.is_empty() && output.status.success() => Ok(Vec::new()),
        Err(_) => bail!("squawk did not check {name}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn locks(at: &str, text: &str, header: &Header, told: &[Told]) -> Vec<Finding> {
    let statements = statements(text);
    let mut findings: Vec<Finding> = Vec::new();
    let mut named = None;
    for told in told {
        let offset = text.split_inclusive('\n').take(told.line).map(str::len).sum::<usize>() + told.column;
        let statement =
            statements.iter().find(|(begin, statement)| (*begin..=begin + statement.len()).contains(&offset));
        let target = statement.and_then(|(_, statement)| Target::of(statement));
        let remedy = told.help.as_deref().unwrap_or("Do it another way").trim_end_matches('.').to_owned();
        if !LOCKS.contains(&told.rule_name.as_str()) {
            findings.push(Finding {
                rule: "statement",
                at: format!("{at}:{}", told.line + 1),
                wrong: format!("is refused by squawk ({}): {}", told.rule_name, told.message.trim_end_matches('.')),
                remedy,
            });
            continue;
        }
        if target.as_ref().is_some_and(|target| header.answers_for(target)) {
            continue;
        }
        // One statement may be wrong in several ways; one plan answers for them all.
        let begin = statement.map(|(begin, _)| *begin);
        if begin.is_some() && named == begin {
            continue;
        }
        named = begin;
        let of = target.map(|target| format!(" on {}", target.name())).unwrap_or_default();
        findings.push(Finding {
            rule: "lock",
            at: format!("{at}:{}", told.line + 1),
            wrong: format!(
                "locks out others{of}, and `Locks:` does not say so ({}): {}",
                told.rule_name,
                told.message.trim_end_matches('.')
            ),
            remedy: format!("{remedy}. Or name the table under `Locks:`, with why nobody waits for long"),
        });
    }
    findings
}

/// What a statement locks.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Table(String),
    Index(String),
}

impl Target {
    /// By the words that lead to it; `None` for a statement that locks in another way.
    fn of(statement: &str) -> Option<Self> {
        let words: Vec<String> = statement
            .lines()
            .map(|line| line.split("--").next().unwrap_or_default())
            .flat_map(|line| line.split(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ',')))
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let after = |lead: &[&str]| {
            let mut rest = words.iter().skip(lead.len());
            let name = rest.find(|word| !matches!(**word, "if" | "exists" | "only" | "concurrently" | "table"))?;
            Some(name.rsplit('.').next()?.trim_matches('"').to_owned())
        };
        match words.as_slice() {
            ["alter" | "drop", "table", ..] => after(&["alter", "table"]).map(Self::Table),
            ["truncate", ..] => after(&["truncate"]).map(Self::Table),
            ["reindex", "table", ..] => after(&["reindex", "table"]).map(Self::Table),
            ["drop" | "reindex", "index", ..] => after(&["drop", "index"]).map(Self::Index),
            ["create", "index", ..] | ["create", "unique", "index", ..] => {
                let on = words.iter().position(|word| *word == "on")?;
                after(&words[..=on]).map(Self::Table)
            }
            _ => None,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Table(name) | Self::Index(name) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_time_a_verb_and_an_object() {
        for name in ["20261121000100_create_roles.sql", "20261121235959_add_2_columns_to_leads.sql"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "20261121000100_roles.sql",
            "20261121_create_roles.sql",
            "20261321000100_create_roles.sql",
            "20261121000100-create-roles.sql",
            "20261121000100_Create_roles.sql",
            "20261121000100_create__roles.sql",
            "20261121000100_create_roles.up.sql",
            "20261121000100_create_roles.txt",
        ] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[track_caller]
    fn check_header(text: &str, missing: &[&str]) {
        assert_eq!(Header::of(text).missing(), missing, "{text}");
    }

    #[test]
    fn a_header_says_what_is_locked_how_it_rolls_out_and_how_it_is_undone() {
        let whole = "-- Create x.\n--\n-- Locks:   none.\n-- Rollout: expand.\n-- Undo:    drop it.\n\nselect 1;";
        check_header(whole, &[]);
        check_header(&format!("-- no-transaction\n{whole}"), &[]);
        check_header("-- Create x.\n-- Locks: none.\n-- Rollout:\n--    expand.\n-- Undo: none.\n", &[]);
        let nothing = ["says nothing under `Locks:`", "says nothing under `Rollout:`", "says nothing under `Undo:`"];
        check_header("-- Create x.\n\n-- Locks: none.\n-- Rollout: expand.\n-- Undo: drop it.\n", &nothing);
        check_header("-- Create x.\n-- Locks: none.\n-- Rollout: expand.\n-- Undo:\n", &nothing[2..]);
        check_header("-- Locks: none.\n-- Rollout: x.\n-- Undo: x.\n", &["does not begin by saying what it does"]);
        check_header("select 1;", &["does not begin by saying what it does", nothing[0], nothing[1], nothing[2]]);
    }

    #[track_caller]
    fn check_target(statement: &str, target: Option<Target>) {
        assert_eq!(Target::of(statement), target, "{statement}");
    }

    #[test]
    fn a_statement_tells_what_it_locks() {
        let table = |name: &str| Some(Target::Table(name.to_owned()));
        check_target("alter table public.leads add column x int", table("leads"));
        check_target("ALTER TABLE IF EXISTS ONLY \"leads\"\n  drop column x", table("leads"));
        check_target("create unique index x on only public.leads(id)", table("leads"));
        check_target("create index if not exists x -- on y\n on public.leads using gin (id)", table("leads"));
        check_target("truncate table leads, others", table("leads"));
        check_target(
            "drop index concurrently if exists public.leads_x_idx",
            Some(Target::Index("leads_x_idx".to_owned())),
        );
        check_target("select 1", None);
    }

    #[test]
    fn locks_speaks_of_a_table_by_its_whole_name() {
        let header =
            Header::of("-- X.\n-- Locks: leads for a moment,\n--   and public.clients.\n-- Rollout: x.\n-- Undo: x.");
        for (target, answered) in [
            (Target::Table("leads".to_owned()), true),
            (Target::Table("clients".to_owned()), true),
            (Target::Table("lead".to_owned()), false),
            (Target::Table("client_users".to_owned()), false),
            (Target::Table("x".to_owned()), false),
            (Target::Index("leads_org_id_idx".to_owned()), true),
            (Target::Index("lead_notes_org_id_idx".to_owned()), false),
        ] {
            assert_eq!(header.answers_for(&target), answered, "{target:?}");
        }
    }
}
