//! What CloudWatch makes of measurements: the alarms of template.yaml over what functions logged and what AWS counts by itself.

use std::collections::BTreeMap;

use integration_tests::TestApp;
use serde_json::{Value, json};

use crate::template::{of_type, template};

/// One measurement.
#[derive(Debug, Clone)]
struct Datum {
    namespace: Value,
    name: String,
    dimensions: BTreeMap<String, Value>,
    value: f64,
}

/// Alarms, and the measurements of one period after another.
#[derive(Debug)]
pub(crate) struct Watch {
    template: Value,
    /// How much of each function's log belongs to earlier periods.
    read: BTreeMap<String, usize>,
    periods: Vec<Vec<Datum>>,
}

impl Watch {
    /// Before the first period.
    pub(crate) fn new() -> Self {
        Self { template: template(), read: BTreeMap::new(), periods: Vec::new() }
    }

    /// Ends a period, with what functions logged in it.
    pub(crate) fn period(&mut self, app: &TestApp) {
        let mut data = Vec::new();
        let mut files: Vec<_> = std::fs::read_dir(&app.stack.logs).unwrap().flatten().collect();
        files.sort_by_key(std::fs::DirEntry::path);
        for file in files {
            let path = file.path();
            let Some(function) = path.file_stem().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let from = self.read.insert(function.clone(), text.len()).unwrap_or_default();
            for line in text[from..].lines().filter_map(|line| serde_json::from_str(line).ok()) {
                self.embedded(&line, &mut data);
                self.filtered(&function, &line, &mut data);
            }
        }
        self.periods.push(data);
    }

    /// Ends a period in which AWS counted this, and nothing else.
    pub(crate) fn counted(&mut self, measured: &[(&str, &str, Value, f64)]) {
        let datum = |(namespace, name, dimension, value): &(&str, &str, Value, f64)| Datum {
            namespace: json!(namespace),
            name: (*name).to_owned(),
            dimensions: dimension
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, of)| (name.clone(), of.clone()))
                .collect(),
            value: *value,
        };
        self.periods.push(measured.iter().map(datum).collect());
    }

    /// A measurement in the embedded format.
    fn embedded(&self, line: &Value, data: &mut Vec<Datum>) {
        for said in line["_aws"]["CloudWatchMetrics"].as_array().into_iter().flatten() {
            for names in said["Dimensions"].as_array().into_iter().flatten() {
                let names = names.as_array().into_iter().flatten().filter_map(Value::as_str);
                let dimensions: BTreeMap<_, _> = names.map(|name| (name.to_owned(), line[name].clone())).collect();
                for metric in said["Metrics"].as_array().into_iter().flatten() {
                    let name = metric["Name"].as_str().unwrap().to_owned();
                    let value = line[&name].as_f64().unwrap();
                    data.push(Datum {
                        namespace: said["Namespace"].clone(),
                        name,
                        dimensions: dimensions.clone(),
                        value,
                    });
                }
            }
        }
    }

    /// What metric filters make of a line in a function's log.
    fn filtered(&self, function: &str, line: &Value, data: &mut Vec<Datum>) {
        for (_, filter) in of_type(&self.template, "AWS::Logs::MetricFilter") {
            if filter["LogGroupName"] != json!({ "Ref": format!("{function}Logs") })
                || !matches(filter["FilterPattern"].as_str().unwrap(), line)
            {
                continue;
            }
            for made in filter["MetricTransformations"].as_array().unwrap() {
                let value = made["MetricValue"].as_str().unwrap();
                let value = match value.strip_prefix("$.") {
                    Some(field) => line[field].as_f64().unwrap(),
                    None => value.parse().unwrap(),
                };
                let name = made["MetricName"].as_str().unwrap().to_owned();
                let namespace = made["MetricNamespace"].clone();
                data.push(Datum { namespace, name, dimensions: BTreeMap::new(), value });
            }
        }
    }

    /// The alarm of this name, without the stack's.
    fn alarm(&self, name: &str) -> &Value {
        let named = json!({ "Fn::Sub": format!("${{AWS::StackName}}-{name}") });
        let alarms = of_type(&self.template, "AWS::CloudWatch::Alarm");
        let found = alarms.into_iter().find(|(_, alarm)| alarm["AlarmName"] == named);
        found.unwrap_or_else(|| panic!("template.yaml has no alarm {name}")).1
    }

    /// The value that the alarm compares, in the last period; `None` where nothing was measured.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        value(self.alarm(name), self.periods.last().unwrap())
    }

    /// Whether the alarm rings: its value crossed the threshold in each of the last periods that it looks at.
    pub(crate) fn rings(&self, name: &str) -> bool {
        let alarm = self.alarm(name);
        let wanted = usize::try_from(alarm["EvaluationPeriods"].as_u64().unwrap()).unwrap();
        let threshold = alarm["Threshold"].as_f64().unwrap();
        let crosses = |data: &Vec<Datum>| match (value(alarm, data), alarm["ComparisonOperator"].as_str().unwrap()) {
            (None, _) => alarm["TreatMissingData"] == "breaching",
            (Some(value), "GreaterThanOrEqualToThreshold") => value >= threshold,
            (Some(value), "LessThanThreshold") => value < threshold,
            (_, other) => panic!("{name}: {other}"),
        };
        self.periods.len() >= wanted && self.periods.iter().rev().take(wanted).all(crosses)
    }
}

/// Whether a line of JSON matches a pattern: clauses with `&&` between, of the kinds that the template has.
fn matches(pattern: &str, line: &Value) -> bool {
    let inner =
        pattern.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_else(|| panic!("{pattern}"));
    inner.split("&&").all(|clause| {
        let clause = clause.trim();
        let clause = clause.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(clause);
        let (field, rest) = clause.strip_prefix("$.").unwrap().split_once(' ').unwrap();
        let field = &line[field];
        match rest {
            "NOT EXISTS" => field.is_null(),
            "= *" | "= \"*\"" => !field.is_null(),
            other => {
                let wanted = other.strip_prefix("= ").unwrap_or_else(|| panic!("{pattern}"));
                *field == serde_json::from_str::<Value>(wanted).unwrap()
            }
        }
    })
}

fn statistic(kind: &str, values: &[f64]) -> Option<f64> {
    match (values.is_empty(), kind) {
        (true, _) => None,
        (_, "Sum") => Some(values.iter().sum()),
        (_, "Maximum") => values.iter().copied().reduce(f64::max),
        (_, "Minimum") => values.iter().copied().reduce(f64::min),
        (_, other) => panic!("{other}"),
    }
}

/// The value of one metric in a period.
fn metric(metric: &Value, kind: &str, data: &[Datum]) -> Option<f64> {
    let given = metric["Dimensions"].as_array().into_iter().flatten();
    let wanted: BTreeMap<String, Value> =
        given.map(|one| (one["Name"].as_str().unwrap().to_owned(), one["Value"].clone())).collect();
    let found = data.iter().filter(|datum| {
        datum.namespace == metric["Namespace"] && metric["MetricName"] == datum.name && datum.dimensions == wanted
    });
    statistic(kind, &found.map(|datum| datum.value).collect::<Vec<_>>())
}

/// The value of an alarm in a period.
fn value(alarm: &Value, data: &[Datum]) -> Option<f64> {
    let Some(all) = alarm["Metrics"].as_array() else {
        return metric(alarm, alarm["Statistic"].as_str().unwrap(), data);
    };
    let (first, others) = all.split_first().unwrap();
    let parts: BTreeMap<&str, Option<f64>> = others
        .iter()
        .map(|part| {
            let of = &part["MetricStat"];
            (part["Id"].as_str().unwrap(), metric(&of["Metric"], of["Stat"].as_str().unwrap(), data))
        })
        .collect();
    match first["Expression"].as_str().unwrap() {
        "SUM(METRICS())" => statistic("Sum", &parts.into_values().flatten().collect::<Vec<_>>()),
        "IF(errors >= 3, 100 * errors / requests, 0)" => {
            let (errors, requests) = (parts["errors"]?, parts["requests"]?);
            Some(if errors >= 3.0 { 100.0 * errors / requests } else { 0.0 })
        }
        query => select(query, data),
    }
}

/// A query of Metrics Insights, of the one kind that the template has: a sum, and conditions with `AND` between.
fn select(query: &str, data: &[Datum]) -> Option<f64> {
    let rest = query.strip_prefix("SELECT SUM(\"").unwrap_or_else(|| panic!("{query}"));
    let (name, rest) = rest.split_once("\") FROM SCHEMA(").unwrap();
    let (schema, conditions) = rest.split_once(')').unwrap();
    let mut schema = schema.split(", ").map(|name| name.trim_matches('"').to_owned());
    let namespace = json!(schema.next().unwrap());
    let dimensions: Vec<String> = schema.collect();
    let conditions = conditions.trim().strip_prefix("WHERE ").unwrap_or_default();
    let holds = |datum: &Datum, condition: &str| {
        let (name, wanted, equal) = match condition.split_once(" != ") {
            Some((name, wanted)) => (name, wanted, false),
            None => condition.split_once(" = ").map(|(name, wanted)| (name, wanted, true)).unwrap(),
        };
        (datum.dimensions[name.trim_matches('"')] == wanted.trim_matches('\'')) == equal
    };
    let found = data.iter().filter(|datum| {
        datum.namespace == namespace
            && datum.name == name
            && datum.dimensions.len() == dimensions.len()
            && dimensions.iter().all(|name| datum.dimensions.contains_key(name))
            && conditions.split(" AND ").filter(|condition| !condition.is_empty()).all(|one| holds(datum, one))
    });
    statistic("Sum", &found.map(|datum| datum.value).collect::<Vec<_>>())
}
