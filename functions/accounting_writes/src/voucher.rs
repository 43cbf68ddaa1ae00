//! A voucher as Fortnox takes it, from one as it was approved; and tokens in descriptions. Pure.

use serde::Deserialize;
use serde_json::{Value, json};

/// The most characters of a description.
const DESCRIPTION: usize = 200;

/// A voucher, as it was approved. Amounts in öre.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Voucher {
    pub(crate) series: String,
    /// `2026-11-30`.
    pub(crate) date: String,
    /// The id of the financial year.
    pub(crate) year_id: i64,
    pub(crate) description: String,
    pub(crate) rows: Vec<Row>,
}

/// A row of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Row {
    pub(crate) account: u16,
    #[serde(default)]
    pub(crate) debit: i64,
    #[serde(default)]
    pub(crate) credit: i64,
    #[serde(default)]
    pub(crate) cost_center: Option<String>,
    #[serde(default)]
    pub(crate) text: Option<String>,
}

impl Voucher {
    /// Whether debit and credit are the same, which was checked as it was proposed.
    pub(crate) fn balances(&self) -> bool {
        let sum = |side: fn(&Row) -> i64| self.rows.iter().map(|row| i128::from(side(row))).sum::<i128>();
        sum(|row| row.debit) == sum(|row| row.credit)
    }

    /// The body of a request. The token stands at the end of the description: accounts may forbid the text of a row.
    pub(crate) fn body(&self, token: &str) -> Value {
        let mark = format!("({token})");
        let kept: String = self.description.trim().chars().take(DESCRIPTION - mark.len() - 1).collect();
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let mut body =
                    json!({ "Account": row.account, "Debit": kronor(row.debit), "Credit": kronor(row.credit) });
                if let Some(code) = &row.cost_center {
                    body["CostCenter"] = json!(code);
                }
                if let Some(text) = &row.text {
                    body["TransactionInformation"] = json!(text);
                }
                body
            })
            .collect();
        json!({ "Voucher": {
            "Description": format!("{} {mark}", kept.trim_end()), "TransactionDate": self.date, "VoucherSeries": self.series,
            "VoucherRows": rows,
        } })
    }
}

/// An amount as Fortnox writes it: in kronor, with two decimals at most.
fn kronor(ore: i64) -> Value {
    if ore % 100 == 0 {
        return json!(ore / 100);
    }
    #[expect(clippy::cast_precision_loss, reason = "amounts have 14 digits at most, which a double holds")]
    let kronor = ore as f64 / 100.0;
    json!(kronor)
}

/// The token in a description, if it has one of ours.
pub(crate) fn token_in(description: &str) -> Option<&str> {
    let begin = description.rfind("(sp-")? + 1;
    let token = description.get(begin..begin + 15)?;
    let ours = token[3..].bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    (ours && description.get(begin + 15..)?.starts_with(')')).then_some(token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn voucher(description: &str, ore: i64) -> Voucher {
        let row = |account, debit, credit| Row { account, debit, credit, cost_center: None, text: None };
        Voucher {
            series: "SP".to_owned(),
            date: "2026-11-30".to_owned(),
            year_id: 2,
            description: description.to_owned(),
            rows: vec![row(5010, ore, 0), row(1930, 0, ore)],
        }
    }

    #[test]
    fn what_is_not_set_is_not_sent() {
        let mut voucher = voucher("Hyra", 150_000);
        voucher.rows[0].cost_center = Some("AVD1".to_owned());
        assert_eq!(
            voucher.body("sp-0123456789ab"),
            json!({ "Voucher": {
                "Description": "Hyra (sp-0123456789ab)", "TransactionDate": "2026-11-30", "VoucherSeries": "SP",
                "VoucherRows": [
                    { "Account": 5010, "Debit": 1500, "Credit": 0, "CostCenter": "AVD1" },
                    { "Account": 1930, "Debit": 0, "Credit": 1500 },
                ],
            } })
        );
    }

    #[test]
    fn only_a_token_of_ours_is_one() {
        for (description, token) in [
            ("Hyra (sp-0123456789ab)", Some("sp-0123456789ab")),
            ("(sp-aaaaaaaaaaaa) x (sp-0123456789ab)", Some("sp-0123456789ab")),
            ("Hyra (sp-0123456789AB)", None),
            ("Hyra (sp-0123456789a)", None),
            ("Hyra (sp-0123456789abc)", None),
            ("Hyra (sp-0123456789ab", None),
            ("Hyra sp-0123456789ab", None),
            ("(sp-ååååååå)", None),
            ("", None),
        ] {
            assert_eq!(token_in(description), token, "{description}");
        }
    }

    proptest! {
        /// However long a description is, its token is found again, and it is no longer than Fortnox takes.
        #[test]
        fn a_token_is_found_in_what_was_sent(description in "[a-zåäö (\\-)]{1,200}", bytes in any::<[u8; 6]>()) {
            let token: String = bytes.iter().fold("sp-".to_owned(), |text, byte| format!("{text}{byte:02x}"));
            let body = voucher(&description, 100).body(&token);
            let sent = body["Voucher"]["Description"].as_str().unwrap();
            prop_assert!(sent.chars().count() <= DESCRIPTION);
            prop_assert_eq!(token_in(sent), Some(token.as_str()));
        }

        /// No öre is lost on the wire, up to fourteen digits.
        #[test]
        fn an_amount_arrives_as_it_was(ore in 0_i64..=99_999_999_999_999) {
            let written = kronor(ore).to_string();
            let (whole, fraction) = written.split_once('.').unwrap_or((&written, ""));
            prop_assert!(fraction.len() <= 2, "{written}");
            prop_assert_eq!(format!("{whole}{fraction:0<2}").parse::<i64>().unwrap(), ore);
        }
    }
}
