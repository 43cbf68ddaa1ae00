//! What Fortnox demands of a voucher: first of the body alone ([`parse`]), then of the body beside the company's books ([`check`]).
//!
//! Lengths are those of the OpenAPI document, characters those of the guide "Formats and encoding". Where no code is published the
//! refusal says so by [`super::UNDOCUMENTED`]; its words are the sandbox's.

use serde_json::{Map, Value};

use super::{
    books::{Account, Rule, Voucher, VoucherRow},
    fields,
    params::date,
    refusal::Refusal,
    world::Company,
};

/// What a body may say of a voucher. All else can only be read, or is not there.
const VOUCHER: [&str; 7] =
    ["Description", "TransactionDate", "VoucherSeries", "Comments", "CostCenter", "Project", "VoucherRows"];
/// What a body may say of a row.
const ROW: [&str; 7] = ["Account", "Debit", "Credit", "CostCenter", "Project", "TransactionInformation", "Quantity"];

const DESCRIPTION: usize = 200;
const COMMENTS: usize = 1000;
const TRANSACTION_INFORMATION: usize = 100;
/// How long the code of a series may be.
pub(super) const SERIES: usize = 10;
/// How long the code of a cost center may be.
const COST_CENTER: usize = 6;
/// The most digits of an amount, the two decimals included.
const DIGITS: i64 = 99_999_999_999_999;

/// A voucher without the year and number that it is about to get.
pub(super) fn parse(body: &[u8]) -> Result<Voucher, Refusal> {
    let voucher = fields::wrapped(body, "Voucher")?;
    fields::only(&voucher, &VOUCHER)?;
    let description = fields::required(&voucher, "Description", DESCRIPTION)?;
    let day = fields::required(&voucher, "TransactionDate", 10)?;
    let transaction_date = date(&day).ok_or_else(|| Refusal::uncoded(format!("Ogiltigt datum ({day})")))?;
    let series = fields::required(&voucher, "VoucherSeries", SERIES)?;
    if !series.chars().all(char::is_alphanumeric) {
        return Err(Refusal::not_alphanumeric(&series));
    }
    let comments = fields::text(&voucher, "Comments", COMMENTS)?;
    let cost_center = fields::text(&voucher, "CostCenter", COST_CENTER)?;
    no_project(&voucher)?;
    let rows = match voucher.get("VoucherRows") {
        None | Some(Value::Null) => return Err(Refusal::required("VoucherRows")),
        Some(Value::Array(rows)) if rows.is_empty() => return Err(Refusal::required("VoucherRows")),
        Some(Value::Array(rows)) => rows.iter().map(row).collect::<Result<Vec<_>, _>>()?,
        Some(_) => return Err(Refusal::body()),
    };
    Ok(Voucher { year: 0, series, number: 0, description, transaction_date, comments, cost_center, rows })
}

fn row(row: &Value) -> Result<VoucherRow, Refusal> {
    let Value::Object(row) = row else { return Err(Refusal::body()) };
    fields::only(row, &ROW)?;
    let account = match row.get("Account") {
        None | Some(Value::Null) => return Err(Refusal::required("Account")),
        Some(account) => fields::number(account)?,
    };
    let account = account.parse().ok().filter(|number| (1000..=9999).contains(number));
    let account = account.ok_or_else(|| Refusal::account(&row["Account"]))?;
    let (debit, credit) = (amount(row, "Debit")?, amount(row, "Credit")?);
    if debit != 0 && credit != 0 {
        return Err(Refusal::uncoded("En rad kan inte ha både debet och kredit."));
    }
    if let Some(quantity) = row.get("Quantity").filter(|quantity| !quantity.is_null()) {
        fields::number(quantity)?;
    }
    no_project(row)?;
    Ok(VoucherRow {
        account,
        debit,
        credit,
        cost_center: fields::text(row, "CostCenter", COST_CENTER)?,
        transaction_information: fields::text(row, "TransactionInformation", TRANSACTION_INFORMATION)?,
    })
}

/// Companies have no projects here.
fn no_project(object: &Map<String, Value>) -> Result<(), Refusal> {
    match fields::text(object, "Project", 20)? {
        None => Ok(()),
        Some(_) => Err(Refusal::invalid(2_001_161, "Kan inte hitta projektet.")),
    }
}

/// An amount in öre. What is not there is nothing.
fn amount(row: &Map<String, Value>, field: &str) -> Result<i64, Refusal> {
    let Some(value) = row.get(field).filter(|value| !value.is_null()) else { return Ok(0) };
    let mut text = fields::number(value)?;
    if text.contains(['e', 'E']) {
        // A double is displayed without an exponent.
        text = text.parse::<f64>().map(|number| number.to_string()).unwrap_or_default();
    }
    let (negative, digits) = text.strip_prefix('-').map_or((false, text.as_str()), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 2 {
        return Err(Refusal::uncoded(format!("Beloppet har fler än två decimaler ({text})")));
    }
    let ore = format!("{whole}{fraction:0<2}").parse::<i64>().ok().filter(|ore| *ore <= DIGITS);
    match ore {
        None => Err(Refusal::uncoded(format!("Beloppet är för stort, högst 14 siffror ({text})"))),
        Some(ore) if negative && ore != 0 => Err(Refusal::uncoded(format!("Beloppet får inte vara negativt ({text})"))),
        Some(ore) => Ok(ore),
    }
}

/// The id of the year that a voucher belongs to, if the books allow it there.
pub(super) fn check(company: &Company, year: Option<i64>, voucher: &Voucher) -> Result<i64, Refusal> {
    let day = voucher.transaction_date;
    let year = company.chosen(year)?;
    if company.year_of(day).is_none() {
        return Err(Refusal::uncoded(format!("Räkenskapsår för datumet {day} har inte skapats.")));
    }
    if !year.holds(day) {
        return Err(Refusal::uncoded(format!(
            "Datumet {day} ligger utanför räkenskapsåret {} - {}.",
            year.from, year.to
        )));
    }
    let series = year.series.get(&voucher.series);
    let series = series.ok_or_else(|| Refusal::uncoded("Ogiltig verifikationsserie angiven"))?;
    if !series.manual {
        return Err(Refusal::uncoded(format!("Verifikationsserien är inte manuell ({})", series.code)));
    }
    if let Some(end) = company.locked_until.filter(|end| day <= *end) {
        let message = format!("{} har låst perioden t.o.m. {end}. Lås upp perioden för att fortsätta.", company.name);
        return Err(Refusal::invalid(2_000_401, message));
    }
    if let Some(code) = &voucher.cost_center {
        known_cost_center(company, code)?;
    }
    for row in &voucher.rows {
        let account = year.accounts.get(&row.account).ok_or_else(|| Refusal::account(row.account))?;
        if !account.active {
            return Err(Refusal::uncoded(format!("Konto \"{}\" är inte aktivt.", account.number)));
        }
        check_account(company, account, row)?;
    }
    balance(voucher)?;
    Ok(year.id)
}

/// What an account demands of its rows, and forbids. A cost center of the whole voucher does not stand in for that of a row; whether it
/// does at Fortnox is not documented.
fn check_account(company: &Company, account: &Account, row: &VoucherRow) -> Result<(), Refusal> {
    let number = account.number;
    match (account.cost_center, &row.cost_center) {
        (Rule::Mandatory, None) => {
            let message = format!("Kostnadsställe är obligatoriskt på konto {number}.");
            return Err(Refusal::invalid(2_000_946, message));
        }
        (Rule::NotAllowed, Some(_)) => {
            return Err(Refusal::uncoded(format!("Kostnadsställe är inte tillåtet på konto {number}.")));
        }
        (_, Some(code)) => known_cost_center(company, code)?,
        (_, None) => {}
    }
    // A row cannot have one here.
    if account.project == Rule::Mandatory {
        return Err(Refusal::uncoded(format!("Projekt är obligatoriskt på konto {number}.")));
    }
    match (account.transaction_information, &row.transaction_information) {
        (Rule::Mandatory, None) => {
            Err(Refusal::uncoded(format!("Transaktionsinformation är obligatorisk på konto {number}.")))
        }
        (Rule::NotAllowed, Some(_)) => {
            Err(Refusal::uncoded(format!("Transaktionsinformation är inte tillåten på konto {number}.")))
        }
        _ => Ok(()),
    }
}

fn known_cost_center(company: &Company, code: &str) -> Result<(), Refusal> {
    match company.cost_centers.iter().find(|center| center.code == code) {
        None => Err(Refusal::uncoded(format!("Kunde inte hämta/hitta kostnadsställe ({code})"))),
        Some(center) if !center.active => {
            Err(Refusal::invalid(2_000_947, format!("Kostnadsstället {code} är inte aktivt.")))
        }
        Some(_) => Ok(()),
    }
}

fn balance(voucher: &Voucher) -> Result<(), Refusal> {
    let off: i64 = voucher.rows.iter().map(|row| row.debit - row.credit).sum();
    if off == 0 {
        return Ok(());
    }
    let (sign, off) = (if off < 0 { "-" } else { "" }, off.abs());
    Err(Refusal::uncoded(format!("Verifikationen balanserar inte, differens {sign}{}.{:02}", off / 100, off % 100)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_amount_is_read_to_the_ore_from_numbers_and_texts() {
        let check = |value: Value, ore: i64| {
            let row = Map::from_iter([("Debit".to_owned(), value)]);
            assert_eq!(amount(&row, "Debit").unwrap(), ore);
        };
        check(json!(15000), 1_500_000);
        check(json!(0.1), 10);
        check(json!(0.29), 29);
        check(json!("1.50"), 150);
        check(json!(-0.0), 0);
        check(json!(1e3), 100_000);
        check(json!(999_999_999_999.99), 99_999_999_999_999);
        check(Value::Null, 0);
    }
}
