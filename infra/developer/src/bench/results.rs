//! Measures beside their budgets.

use serde_json::json;

use crate::report;

/// A limit on a measure.
#[derive(Debug, Clone, Copy)]
pub(super) enum Budget {
    AtMost(f64),
    AtLeast(f64),
    None,
}

/// Prints each measure as it is made.
pub(super) struct Results {
    pub(super) json: bool,
    pub(super) missed: Vec<String>,
}

impl Results {
    pub(super) fn measure(&mut self, measure: &str, value: f64, unit: &str, budget: Budget) {
        let (limit, met) = match budget {
            Budget::AtMost(most) => (Some(most), Some(value <= most)),
            Budget::AtLeast(least) => (Some(least), Some(value >= least)),
            Budget::None => (None, None),
        };
        if met == Some(false) {
            self.missed.push(measure.to_owned());
        }
        if self.json {
            let value = (value * 1000.0).round() / 1000.0;
            let line = json!({ "measure": measure, "value": value, "unit": unit, "budget": limit, "met": met });
            report::out(&line.to_string());
            return;
        }
        let sign = if matches!(budget, Budget::AtLeast(_)) { ">=" } else { "<=" };
        let limit = limit.map_or_else(String::new, |limit| format!("{sign} {limit}"));
        let verdict = match met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        report::out(&format!("{measure:<58} {value:>10.2} {unit:<12} {limit:<10} {verdict}"));
    }
}
