//! The statements of a migration, as far as they can be told apart without a parser.

/// Statements and where they begin. What is quoted ends none, nor does a comment.
#[must_use]
pub fn statements(text: &str) -> Vec<(usize, &str)> {
    let mut statements = Vec::new();
    let (mut begin, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        let skipped = if rest.starts_with("--") {
            rest.find('\n')
        } else if rest.starts_with("/*") {
            rest.find("*/").map(|end| end + 2)
        } else if rest.starts_with(['\'', '"']) {
            let quote = &rest[..1];
            rest[1..].find(quote).map(|end| end + 2)
        } else if let Some(tag) = dollar(rest) {
            rest[tag.len()..].find(tag).map(|end| end + 2 * tag.len())
        } else {
            let length = rest.chars().next().map_or(1, char::len_utf8);
            if rest.starts_with(';') {
                statements.push((begin, &text[begin..at]));
                begin = at + length;
            } else if begin == at && rest.starts_with(char::is_whitespace) {
                begin = at + length;
            }
            Some(length)
        };
        // A comment in front is no part of a statement.
        if begin == at && (rest.starts_with("--") || rest.starts_with("/*")) {
            begin = at + skipped.unwrap_or(rest.len());
        }
        at += skipped.unwrap_or(rest.len());
    }
    if !text[begin.min(text.len())..].trim().is_empty() {
        statements.push((begin, &text[begin..]));
    }
    statements
}

/// The tag that a dollar-quoted text begins with.
fn dollar(rest: &str) -> Option<&str> {
    let name = rest.strip_prefix('$')?;
    let end = name.find('$')?;
    let is_tag =
        name[..end].chars().all(|c| c.is_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit());
    is_tag.then(|| &rest[..end + 2])
}

/// Whether a migration ends the transaction it is run in.
#[must_use]
pub fn ends_transaction(text: &str) -> bool {
    // In a body of this kind `end` ends the body.
    let atomic = text.to_lowercase().contains("begin atomic");
    statements(text).iter().any(|(_, statement)| {
        let first = statement.split_whitespace().next().unwrap_or_default().to_lowercase();
        matches!(first.as_str(), "commit" | "rollback" | "abort") || (first == "end" && !atomic)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_semicolon_that_is_quoted_ends_no_statement() {
        let text =
            "-- a; b\nselect ';' /* ; */;\ndo $x$ begin; $$;$$ end; $x$;\n  create table \"a;b\" (x int); select 2";
        let found: Vec<_> =
            statements(text).iter().map(|(begin, statement)| (&text[*begin..begin + 2], *statement)).collect();
        assert_eq!(
            found,
            [
                ("se", "select ';' /* ; */"),
                ("do", "do $x$ begin; $$;$$ end; $x$"),
                ("cr", "create table \"a;b\" (x int)"),
                ("se", "select 2"),
            ]
        );
    }

    #[test]
    fn a_commit_of_its_own_is_seen_and_one_in_a_body_is_not() {
        assert!(ends_transaction("select 1; COMMIT; select 2"));
        assert!(ends_transaction("begin; select 1; end;"));
        assert!(!ends_transaction("do $$ begin commit; end $$; -- commit;\n"));
        assert!(!ends_transaction("create function f() returns int language sql begin atomic select 1; end;"));
    }
}
