//! Field expansion: `id,messages.limit(20){id,from}`.

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// One field that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) limit: Option<usize>,
    pub(super) after: Option<String>,
    pub(super) sub: Vec<Self>,
}

impl Field {
    pub(super) fn plain(name: &str) -> Self {
        Self { name: name.to_owned(), limit: None, after: None, sub: Vec::new() }
    }

    /// These fields, of nothing below them.
    pub(super) fn plains(names: &[&str]) -> Vec<Self> {
        names.iter().map(|name| Self::plain(name)).collect()
    }
}

/// What `fields` says.
pub(super) fn parse(text: &str) -> Result<Vec<Field>, Refusal> {
    let mut rest = text;
    let fields = list(&mut rest)?;
    if rest.is_empty() { Ok(fields) } else { Err(syntax(rest)) }
}

/// The same, written again.
pub(super) fn written(fields: &[Field]) -> String {
    let one = |field: &Field| {
        let limit = field.limit.map(|limit| format!(".limit({limit})")).unwrap_or_default();
        let below = if field.sub.is_empty() { String::new() } else { format!("{{{}}}", written(&field.sub)) };
        format!("{}{limit}{below}", field.name)
    };
    fields.iter().map(one).collect::<Vec<_>>().join(",")
}

fn syntax(rest: &str) -> Refusal {
    let at: String = rest.chars().take(20).collect();
    Refusal::parameter(format!("Syntax error \"Expected end of string instead of {at}\" in the parameter fields"))
}

fn list(rest: &mut &str) -> Result<Vec<Field>, Refusal> {
    let mut fields: Vec<Field> = Vec::new();
    loop {
        let field = one(rest)?;
        if fields.iter().any(|known| known.name == field.name) {
            return Err(Refusal::parameter(format!("Field {} specified more than once", field.name)));
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(after) => *rest = after,
            None => return Ok(fields),
        }
    }
}

fn one(rest: &mut &str) -> Result<Field, Refusal> {
    let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    if name.is_empty() {
        return Err(syntax(rest));
    }
    *rest = after;
    let mut field = Field::plain(name);
    while let Some(modifier) = rest.strip_prefix('.') {
        let (name, argument) = modifier.split_once('(').ok_or_else(|| syntax(modifier))?;
        let (argument, after) = argument.split_once(')').ok_or_else(|| syntax(modifier))?;
        match name {
            "limit" => field.limit = Some(argument.parse().map_err(|_| syntax(argument))?),
            "after" => field.after = Some(argument.to_owned()),
            "as" => return Err(Refusal::parameter("Field aliases are not available to this app")),
            _ => return Err(syntax(modifier)),
        }
        *rest = after;
    }
    if let Some(below) = rest.strip_prefix('{') {
        *rest = below;
        field.sub = list(rest)?;
        *rest = rest.strip_prefix('}').ok_or_else(|| syntax(rest))?;
    }
    Ok(field)
}

/// An object of these fields, and its id with them. What has no value is left out.
pub(super) fn object(
    node: &str,
    known: &[&str],
    fields: &[Field],
    value: impl Fn(&Field) -> Result<Option<Value>, Refusal>,
) -> Result<Value, Refusal> {
    let mut object = Map::new();
    let id = Field::plain("id");
    for field in fields.iter().chain([&id]) {
        if !known.contains(&field.name.as_str()) {
            return Err(Refusal::field(node, &field.name));
        }
        if let Some(value) = value(field)? {
            object.insert(field.name.clone(), value);
        }
    }
    Ok(Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_written_again() {
        let text = "id,updated_time,messages.limit(20){id,from,replies{id}},participants";
        let fields = parse(text).unwrap();
        assert_eq!(fields[2].limit, Some(20));
        assert_eq!(fields[2].sub.len(), 3);
        assert_eq!(written(&fields), text);
    }

    #[test]
    fn what_is_no_list_of_fields_is_refused() {
        for wrong in
            ["", ",", "id,", "id,id", "a{b", "a}", "a{}", "a.limit(x)", "a.limit(1", "a.as(b)", "a b", "a.order(x)"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
