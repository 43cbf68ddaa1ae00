//! Calls in the expressions of policies, as `pg_get_expr` spells them.

/// A call of a helper.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) function: String,
    /// Whether it stands alone in a scalar sub-select, and so is asked once per statement.
    pub(super) alone: bool,
    /// Whether it is given a column, and so must be asked for every row, sub-select or not.
    pub(super) of_row: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// A literal, which holds no call.
    Text,
    Sign(char),
}

/// Calls of functions in schemas `app` and `auth`; `table` and `columns` are those that the policy is for.
pub(super) fn calls(expression: &str, table: &str, columns: &[String]) -> Vec<Call> {
    let tokens = tokens(expression);
    let sign = |at: usize, sign: char| tokens.get(at) == Some(&Token::Sign(sign));
    let word = |at: usize, word: &str| tokens.get(at) == Some(&Token::Word(word));
    let mut calls = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Token::Word(function) = token else { continue };
        if !(function.starts_with("app.") || function.starts_with("auth.")) || !sign(at + 1, '(') {
            continue;
        }
        let end = closing(&tokens, at + 1);
        let alone = at >= 2
            && word(at - 1, "SELECT")
            && sign(at - 2, '(')
            && (sign(end + 1, ')') || (word(end + 1, "AS") && sign(end + 3, ')')));
        let of_row = (at + 2..end).any(|argument| match tokens[argument] {
            // A type after a cast, the name of a function, and what a sub-select calls its result are words too.
            Token::Word(name) if !sign(argument - 1, ':') && !word(argument - 1, "AS") && !sign(argument + 1, '(') => {
                name.contains('.') || name == table || columns.iter().any(|column| column == name)
            }
            _ => false,
        });
        calls.push(Call { function: (*function).to_owned(), alone, of_row });
    }
    calls
}

/// Where the parenthesis that opens at `open` closes.
fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token {
            Token::Sign('(') => depth += 1,
            Token::Sign(')') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

fn tokens(expression: &str) -> Vec<Token<'_>> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '.' | '"');
    let mut tokens = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let length = if first == '\'' {
            tokens.push(Token::Text);
            // A doubled quote begins the next literal, which is as good.
            rest[1..].find('\'').map_or(rest.len(), |end| end + 2)
        } else if is_word(first) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(&rest[..end]));
            end
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Sign(first));
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expression: &str, expected: &[(&str, bool, bool)]) {
        let columns = ["org_id".to_owned(), "role_id".to_owned(), "resource".to_owned()];
        let found = calls(expression, "members", &columns);
        let found: Vec<_> = found.iter().map(|call| (call.function.as_str(), call.alone, call.of_row)).collect();
        assert_eq!(found, expected, "{expression}");
    }

    #[test]
    fn a_call_is_asked_once_only_alone_in_a_sub_select_and_without_a_column() {
        check("(org_id = ( SELECT app.active_org_id() AS active_org_id))", &[("app.active_org_id", true, false)]);
        check("(org_id = app.active_org_id())", &[("app.active_org_id", false, false)]);
        check("( SELECT app.may('a:b'::text) AS may)", &[("app.may", true, false)]);
        check("(org_id = ANY ((( SELECT app.ids() AS ids))::uuid[]))", &[("app.ids", true, false)]);
        check("app.may_grant(role_id)", &[("app.may_grant", false, true)]);
        check("( SELECT app.may_grant(members.role_id) AS may_grant)", &[("app.may_grant", true, true)]);
        check("app.may(((resource || ':'::text) || 'org_id'::text))", &[("app.may", false, true)]);
        check("( SELECT app.sees(members.*) AS sees)", &[("app.sees", true, true)]);
        check("( SELECT app.hears(( SELECT x.resource() AS resource)) AS hears)", &[("app.hears", true, false)]);
        check("(org_id = (auth.uid())::uuid)", &[("auth.uid", false, false)]);
        check(
            "(EXISTS ( SELECT FROM public.roles r WHERE (app.may(r.name) AND (r.org_id = ( SELECT app.org() AS org)))))",
            &[("app.may", false, true), ("app.org", true, false)],
        );
    }

    #[test]
    fn a_sub_select_that_does_more_than_ask_is_not_the_plain_form() {
        check("( SELECT (app.f() = 1))", &[("app.f", false, false)]);
    }

    #[test]
    fn a_literal_calls_nothing() {
        check("(resource = 'app.may('::text)", &[]);
        check("(resource = 'it''s app.may('::text)", &[]);
    }
}
