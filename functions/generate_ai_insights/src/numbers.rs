//! The numbers a text speaks of, however it writes them.

use std::fmt;

/// A number as a text writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Number {
    /// Digits without commas.
    value: String,
    pub(crate) negative: bool,
    /// Whether a sign was written; without one, a fall by 12 and a rise by 12 are both 12.
    pub(crate) signed: bool,
    percent: bool,
    /// `SEK`, if such a code follows.
    currency: Option<String>,
    /// Which character of the text it begins with.
    pub(crate) at: usize,
}

impl Number {
    /// Whether it is nothing, which neither rises nor falls.
    pub(crate) fn is_zero(&self) -> bool {
        self.value.chars().all(|c| "0.".contains(c))
    }

    /// Whether a text that writes `self` may mean `figure`.
    pub(crate) fn tells(&self, figure: &Self) -> bool {
        self.value == figure.value
            && self.percent == figure.percent
            && (!self.signed || self.negative == figure.negative)
            && self.currency == figure.currency
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.negative { "-" } else { "" };
        let percent = if self.percent { "%" } else { "" };
        write!(f, "{sign}{}{percent}", self.value)
    }
}

/// Something in a text that counts, and is no number as figures are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable(pub(crate) String);

/// Words that are taken for their number.
const WORDS: [&str; 13] =
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];

/// Words that count and stand for no figure, in any form.
const COUNTING: &str = "half halved halves halving third thirds quarter quarters fifth fifths sixth sixths seventh sevenths eighth
    eighths ninth ninths tenth tenths eleventh twelfth double doubled doubles doubling twice triple tripled triples tripling thrice
    quadruple quadrupled quadruples quadrupling quintuple quintupled couple pair pairs trio dozen dozens thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands
    million millions billion billions trillion trillions fold";

/// Words that make another number of the one before them, or another unit.
const AFTER: &str = "k m b bn mn mm tn times x points point pts pct pp percentage basis bps euro euros dollar dollars pound pounds yen kr
    krona kronor crown crowns cent cents usd eur sek nok dkk gbp chf jpy";

/// Words that make another number of the one after them.
const BEFORE: &str = "minus plus negative positive";

/// ISO 4217.
const CURRENCIES: &str = "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP
    CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR
    ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN
    NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP
    SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG";

fn among(list: &str, word: &str) -> bool {
    list.split_ascii_whitespace().any(|known| known == word)
}

/// The text with one kind of space and one kind of hyphen, character by character.
fn normal(text: &str) -> Vec<char> {
    text.chars()
        .map(|c| match c {
            '\u{a0}' | '\u{2002}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => ' ',
            '\u{2010}' | '\u{2011}' | '\u{2212}' | '\u{fe63}' | '\u{ff0d}' => '-',
            other => other,
        })
        .collect()
}

/// Whether a character counts, hides something, or belongs to a script in which numbers are not looked for.
fn is_foreign(c: char) -> bool {
    (c.is_numeric() && !c.is_ascii_digit())
        || (c.is_alphabetic() && c > '\u{24f}')
        || "$¢£¤¥‰‱×÷±％﹪".contains(c)
        || matches!(
            c,
            '\u{58f}' | '\u{60b}' | '\u{9f2}' | '\u{9f3}' | '\u{9fb}' | '\u{af1}' | '\u{bf9}' | '\u{e3f}' | '\u{17db}'
        )
        || matches!(c, '\u{20a0}'..='\u{20cf}' | '\u{fdfc}' | '\u{fe69}' | '\u{ff04}' | '\u{ffe0}'..='\u{ffe6}')
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// All numbers of a text, in digits or as words up to twelve.
///
/// # Errors
/// [`Unreadable`] for the first thing that counts otherwise: a word for more than twelve or for a share, a digit of another script, a
/// number with letters on it (`10k`, `Q3`), commas out of place, a unit that no figure has, or a currency's sign or name, where figures
/// have its code.
pub(crate) fn numbers(text: &str) -> Result<Vec<Number>, Unreadable> {
    let chars = normal(text);
    let mut found = Vec::new();
    let (mut at, mut before) = (0, String::new());
    while let Some(&c) = chars.get(at) {
        if is_foreign(c) {
            return Err(Unreadable(c.to_string()));
        } else if c.is_ascii_digit() {
            if among(BEFORE, &before.to_lowercase()) || among(CURRENCIES, &before) {
                return Err(Unreadable(format!("{before} {c}")));
            }
            let (number, after) = in_digits(&chars, at)?;
            found.push(number);
            (at, before) = (after, String::new());
        } else if c.is_alphabetic() {
            let word = word_at(&chars, at);
            if word.chars().any(char::is_numeric) {
                return Err(Unreadable(word));
            }
            found.extend(as_word(&word, &before, at)?);
            at += word.chars().count();
            before = word;
        } else {
            if !" -".contains(c) {
                before.clear();
            }
            at += 1;
        }
    }
    Ok(found)
}

/// The letters and digits from `at` on.
fn word_at(chars: &[char], at: usize) -> String {
    chars[at..].iter().take_while(|c| c.is_alphanumeric()).collect()
}

fn as_word(word: &str, before: &str, at: usize) -> Result<Option<Number>, Unreadable> {
    let lower = word.to_lowercase();
    let multiplies = lower.ends_with("fold") && !["unfold", "manifold", "scaffold"].contains(&lower.as_str());
    let roman = word.len() > 1 && word.chars().all(|c| "IVXLCDM".contains(c)) && !among(CURRENCIES, word);
    if among(COUNTING, &lower) || multiplies || roman {
        return Err(Unreadable(word.to_owned()));
    }
    // `no one` is nobody.
    if lower == "one" && before.eq_ignore_ascii_case("no") {
        return Ok(None);
    }
    let number = |value: usize| Number {
        value: value.to_string(),
        negative: false,
        signed: false,
        percent: false,
        currency: None,
        at,
    };
    Ok(WORDS.iter().position(|known| *known == lower).map(number))
}

/// The number that begins at `from`, and where the text goes on.
fn in_digits(chars: &[char], from: usize) -> Result<(Number, usize), Unreadable> {
    let digit = |at: usize| chars.get(at).is_some_and(char::is_ascii_digit);
    let before = |many: usize| from.checked_sub(many).map(|at| chars[at]);
    let mut at = from;
    let mut value = String::new();
    while digit(at) {
        value.push(chars[at]);
        at += 1;
    }
    while chars.get(at) == Some(&',') && digit(at + 1) {
        let whole = value.len() <= 3 || at - from > 3;
        if !(whole && digit(at + 2) && digit(at + 3) && !digit(at + 4)) {
            return Err(Unreadable(chars[from..=at].iter().collect()));
        }
        value.extend(&chars[at + 1..at + 4]);
        at += 4;
    }
    if chars.get(at) == Some(&'.') && digit(at + 1) {
        value.push('.');
        at += 1;
        while digit(at) {
            value.push(chars[at]);
            at += 1;
        }
    }
    let goes_on = |at: usize| chars.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_');
    if before(1) == Some('.') || goes_on(at) || (chars.get(at).is_some_and(|c| ".,".contains(*c)) && digit(at + 1)) {
        return Err(Unreadable(chars[from..=at.min(chars.len() - 1)].iter().collect()));
    }
    let sign = before(1).filter(|c| "+-–—".contains(*c));
    // A dash between two numbers or words is none.
    let sign = sign.filter(|_| !before(2).is_some_and(char::is_alphanumeric));
    let rest: String = chars[at..].iter().take(32).collect::<String>().to_lowercase();
    let rest = rest.trim_start_matches([' ', '-']);
    let after = ["%", "percent", "per cent", "per-cent"].iter().find_map(|word| rest.strip_prefix(word));
    let percent = after.is_some_and(|after| !after.starts_with(char::is_alphanumeric));
    // A difference of percentages is no percentage; and what stands in brackets may belong to anything.
    let points = after.is_some_and(|after| after.trim_start_matches([' ', '-']).starts_with("point"));
    if points || ["(%", "(per"].iter().any(|word| rest.starts_with(word)) {
        return Err(Unreadable(format!("{value} {rest}")));
    }
    let next = chars[at..].iter().position(|c| !" -".contains(*c)).map(|skipped| word_at(chars, at + skipped));
    let next = next.unwrap_or_default();
    if among(AFTER, &next.to_lowercase()) && !among(CURRENCIES, &next) {
        return Err(Unreadable(format!("{value} {next}")));
    }
    let number = Number {
        value,
        negative: sign.is_some_and(|sign| sign != '+'),
        signed: sign.is_some(),
        percent,
        currency: Some(next).filter(|next| among(CURRENCIES, next)),
        at: from,
    };
    Ok((number, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, told: &[&str]) {
        let found: Vec<String> = numbers(text).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found, told, "{text}");
    }

    #[test]
    fn numbers_are_found_however_they_are_written() {
        check("Leads rose to 1,234 from 987.", &["1234", "987"]);
        check("Down 12.5% (-12.5 percent), +3 %.", &["12.5%", "-12.5%", "3%"]);
        check("12\u{a0}% of 1\u{2011}3, no one of 12 CRM leads", &["12%", "1", "3", "12"]);
        check("Twelve won, three lost, none open.", &["12", "3"]);
        check("2,640.00 SEK, -122,000 JPY and 7-day", &["2640.00", "-122000", "7"]);
        check("a 12-percent rise, 3  percent, 5 per cent, 7 per week", &["12%", "3%", "5%", "7"]);
        check("1,200.00 MDL", &["1200.00"]);
        for code in CURRENCIES.split_ascii_whitespace() {
            assert!(numbers(&format!("1,200.00 {code}")).is_ok_and(|told| told.len() == 1), "{code}");
        }
        check("No numbers at all, nobody.", &[]);
        check("3-5", &["3", "5"]);
    }

    #[test]
    fn what_counts_otherwise_is_refused() {
        for text in [
            "about 10k",
            "in Q3",
            "half of them",
            "It doubled.",
            "twenty-five leads",
            "½ of it",
            "１２ leads",
            "$12",
            "1,23",
            "12,3456",
            "1.2.3",
            "3x",
            "a million",
            "a Third",
            "٣",
            "1e6",
            "x²",
            "EUR 1,200",
            "1,200 euros",
            "1,200 EURO each is 3 kr",
            "₹1,200",
            "12 billion",
            "12 M",
            "12 times as many",
            "12×",
            "12-fold",
            "twelvefold",
            ".5%",
            "minus 12",
            "12％",
            "12 pct",
            "12 basis points",
            "12 percentage points",
            "12% points",
            "12 (percent)",
            "a fifth",
            "quadrupled",
            "a couple of",
            "XII",
            "三十",
            "1\u{200b}2",
        ] {
            assert!(numbers(text).is_err(), "{text}: {:?}", numbers(text));
        }
    }

    #[test]
    fn a_sign_a_percent_and_a_currency_must_agree() {
        let one = |text: &str| numbers(text).unwrap().remove(0);
        assert!(one("12").tells(&one("-12")));
        assert!(!one("5.000").tells(&one("5")), "it may be five thousand");
        assert!(one("\u{2011}12").negative && one("－12").negative && one("—12").negative);
        assert!(!one("+12").tells(&one("-12")));
        assert!(!one("12%").tells(&one("12")));
        assert!(!one("12 EUR").tells(&one("12 SEK")) && !one("12").tells(&one("12 SEK")));
        assert!(one("1200.00 SEK").tells(&one("1,200.00 SEK")));
    }
}
