//! The template as it was reviewed: every statement, queue, alarm, setting and parameter. A change shows as a difference to read, and
//! `INSTA_UPDATE=always` keeps it. The rules that no kept page changes are in `rules`.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::template;

/// The most columns that a value takes on one line.
const WIDTH: usize = 140;

/// A value on one line, with intrinsic functions as the template writes them.
fn line(value: &Value) -> String {
    match value {
        Value::Object(fields) if fields.len() == 1 => {
            let (name, inner) = fields.iter().next().unwrap();
            match (name.as_str(), inner) {
                ("Ref" | "Condition", Value::String(text)) => format!("!{name} {text}"),
                ("Fn::GetAtt", Value::Array(path)) => {
                    format!("!GetAtt {}", path.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("."))
                }
                (name, inner) => match name.strip_prefix("Fn::") {
                    Some(function) => format!("!{function} {}", line(inner)),
                    None => format!("{{ {name}: {} }}", line(inner)),
                },
            }
        }
        Value::Object(fields) => {
            let fields: Vec<String> =
                sorted(fields).into_iter().map(|(name, value)| format!("{name}: {}", line(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::Array(values) => format!("[{}]", values.iter().map(line).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Fields by name, with the names of statements and metrics in front.
fn sorted(fields: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(name, _)| (!matches!(name.as_str(), "Type" | "Sid" | "Id" | "Effect"), *name));
    fields
}

/// Writes a value: on one line if it fits, else a line for each of its parts.
fn write(out: &mut String, indent: usize, name: &str, value: &Value) {
    let pad = " ".repeat(indent);
    let whole = format!("{pad}{name} {}", line(value));
    match value {
        Value::Object(fields) if whole.len() > WIDTH => {
            writeln!(out, "{pad}{name}").unwrap();
            for (name, value) in sorted(fields) {
                write(out, indent + 2, &format!("{name}:"), value);
            }
        }
        Value::Array(values) if whole.len() > WIDTH => {
            writeln!(out, "{pad}{name}").unwrap();
            for value in values {
                write(out, indent + 2, "-", value);
            }
        }
        _ => writeln!(out, "{whole}").unwrap(),
    }
}

/// Leaves out what is prose.
fn without_prose(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let prose = ["Description", "AlarmDescription", "ConstraintDescription", "AssertDescription"];
            let kept = fields.iter().filter(|(name, value)| !(prose.contains(&name.as_str()) && value.is_string()));
            kept.map(|(name, value)| (name.clone(), without_prose(value))).collect()
        }
        Value::Array(values) => values.iter().map(without_prose).collect(),
        other => other.clone(),
    }
}

#[test]
fn every_resource_and_setting_is_as_it_was_reviewed() {
    let template = without_prose(&template());
    let resources = template["Resources"].as_object().unwrap();
    let mut pages: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
    for (name, resource) in sorted(resources) {
        let kind = resource["Type"].as_str().unwrap();
        let page = pages.entry(kind.replace("::", "-")).or_default();
        writeln!(page, "{name}").unwrap();
        for (name, value) in sorted(resource.as_object().unwrap()).into_iter().filter(|(name, _)| *name != "Type") {
            match value {
                Value::Object(properties) if name == "Properties" => {
                    for (name, value) in sorted(properties) {
                        write(page, 2, &format!("{name}:"), value);
                    }
                }
                _ => write(page, 2, &format!("{name}:"), value),
            }
        }
        page.push('\n');
    }
    let page = pages.entry("parameters".to_owned()).or_default();
    for (part, value) in sorted(template.as_object().unwrap()) {
        if part != "Resources" && part != "Metadata" {
            writeln!(page, "{part}").unwrap();
            match value {
                Value::Object(fields) => {
                    sorted(fields).into_iter().for_each(|(name, value)| write(page, 2, &format!("{name}:"), value))
                }
                _ => writeln!(page, "  {}", line(value)).unwrap(),
            }
            page.push('\n');
        }
    }
    for (name, page) in pages {
        insta::assert_snapshot!(name, page);
    }
}
