//! Plans as a server logs them under `debug_print_plan`: of every statement that it plans, also inside functions, triggers, policies and
//! foreign keys, with the very literals and parameter types that it was sent. `auto_explain` would say the same, and the embedded server
//! has no such module.

use std::collections::{BTreeMap, BTreeSet};

/// What was planned for one database.
#[derive(Debug, Default)]
pub(super) struct Planned {
    /// Every statement that was sent, as one line.
    pub(super) sent: BTreeSet<String>,
    /// What is read from end to end, and by which statements.
    pub(super) scans: BTreeMap<Scan, BTreeSet<String>>,
}

/// A table or an index that is read from end to end, by its oid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scan {
    Table(u32),
    /// No condition names the first column of the index.
    Index {
        table: u32,
        index: u32,
    },
}

/// Reads what was planned for the functions' login in this database.
pub(super) fn read(log: &str, database: &str) -> Planned {
    let who = format!(" <spine_functions@{database}> ");
    let mut planned = Planned::default();
    for (begin, _) in log.match_indices(&format!("{who}LOG:  plan:\n")) {
        // One message is written at once. Its parts begin like it, and go on in lines that are indented.
        let mut parts = [("DETAIL", ""), ("CONTEXT", ""), ("STATEMENT", "")];
        let mut rest = after(&log[begin..], "\n");
        while let Some((name, text)) = rest.split_once(&who).and_then(|(_, part)| part.split_once(":  ")) {
            let Some((_, part)) = parts.iter_mut().find(|(known, _)| *known == name) else { break };
            // A time begins the next.
            let end = text.find("\n2").unwrap_or(text.len());
            (*part, rest) = (&text[..end], &text[end..]);
            if name == "STATEMENT" {
                break;
            }
        }
        let [detail, context, statement] = parts.map(|(_, text)| text);
        let sent = words(statement);
        let within = words(context);
        for scan in scans(detail) {
            planned.scans.entry(scan).or_default().insert(if within.is_empty() {
                sent.clone()
            } else {
                within.clone()
            });
        }
        planned.sent.insert(sent);
    }
    planned
}

/// The text with single spaces.
pub(super) fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a plan reads from end to end. It is broken into lines at spaces.
fn scans(plan: &str) -> Vec<Scan> {
    let mut found = Vec::new();
    for (node, indexed) in
        [("{SEQSCAN", false), ("{INDEXSCAN", true), ("{INDEXONLYSCAN", true), ("{BITMAPINDEXSCAN", true)]
    {
        for (at, _) in plan.match_indices(node) {
            let fields = after(&plan[at..], ":scan.scanrelid");
            let place: usize = number(fields);
            if !indexed {
                found.push(Scan::Table(relation(plan, place)));
                continue;
            }
            let condition = after(fields, ":indexqual").trim_start();
            let condition = if condition.starts_with('(') { words(list(condition)) } else { String::new() };
            // As columns of the index, which are numbered from 1.
            if !condition.contains(":varno -3 :varattno 1 ") {
                let index = number(after(fields, ":indexid"));
                found.push(Scan::Index { table: relation(plan, place), index });
            }
        }
    }
    found
}

/// The oid of the relation at this place of the plan's range table, from 1.
fn relation(plan: &str, place: usize) -> u32 {
    let mut rest = list(after(plan, ":rtable").trim_start());
    for _ in 1..place {
        rest = rest[list_end(rest)..].trim_start();
    }
    number(after(&rest[..list_end(rest)], ":relid"))
}

fn after<'t>(text: &'t str, mark: &str) -> &'t str {
    let at = text.find(mark).unwrap_or_else(|| panic!("a plan without {mark}: {}", &text[..text.len().min(400)]));
    &text[at + mark.len()..]
}

fn number<N: std::str::FromStr>(text: &str) -> N {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok().unwrap_or_else(|| panic!("no number: {}", &text[..text.len().min(80)]))
}

/// What stands between the bracket that `text` begins with and its other half.
fn list(text: &str) -> &str {
    &text[1..list_end(text) - 1]
}

/// Where the bracket that `text` begins with is closed. What names contain is escaped.
fn list_end(text: &str) -> usize {
    let (mut depth, mut escaped) = (0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' | b'{' => depth += 1,
            b')' | b'}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    panic!("a plan that does not end: {}", &text[..text.len().min(400)])
}
