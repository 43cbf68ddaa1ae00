//! What is said of figures: by a model, whose every number is checked, or by a template.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::store::insights::Text;

use crate::{
    figures::Figures,
    numbers::{Number, Unreadable, numbers},
};

/// The most characters a sentence may have.
const LONGEST: usize = 400;
/// The most bullets.
const MOST: usize = 8;
/// How many of the larger parts the template tells of.
const PARTS: usize = 3;

/// A sentence and the figures it speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) figures: Vec<String>,
}

/// A text as a model gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Draft {
    pub(crate) headline: Said,
    pub(crate) bullets: Vec<Said>,
}

/// What a draft must look like.
pub(crate) fn schema() -> Value {
    let said = json!({
        "type": "object",
        "properties": { "text": { "type": "string" }, "figures": { "type": "array", "items": { "type": "string" } } },
        "required": ["text", "figures"],
        "additionalProperties": false,
    });
    json!({
        "type": "object",
        "properties": { "headline": said, "bullets": { "type": "array", "items": said } },
        "required": ["headline", "bullets"],
        "additionalProperties": false,
    })
}

/// Why a draft cannot be shown. Told to the model once, so it names what is wrong in the model's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// A number that none of the figures named beside it has.
    Number(String),
    /// Something that counts, and is not written as figures are.
    Unreadable(String),
    /// An id that no figure has.
    UnknownFigure(String),
    /// Nothing, too much, or what is no plain sentence.
    Shape,
}

impl Complaint {
    /// Stable code, for `provider_calls.outcome`.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Number(_) => "number_unknown",
            Self::Unreadable(_) => "number_unreadable",
            Self::UnknownFigure(_) => "figure_unknown",
            Self::Shape => "text_unusable",
        }
    }

    /// As the model is told.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Number(number) => {
                format!("It says {number}, which is not in the text of the figures named beside it. Write no number but theirs.")
            }
            Self::Unreadable(what) => {
                format!("It says \"{what}\". Write numbers only as the figures' text does, in digits, and no shares or sums.")
            }
            Self::UnknownFigure(id) => format!("It names the figure \"{id}\", and there is none of that id."),
            Self::Shape => "Write plain sentences of at most 400 characters: a headline and up to 8 bullets, without links or markup.".to_owned(),
        }
    }
}

/// Checks that every number of a draft is one of the figures named beside it, written as they are: commas aside, and a change without
/// its sign. No words beside a change say the contrary of it.
///
/// # Errors
/// [`Complaint`] about the first thing that is wrong.
pub(crate) fn check(draft: Draft, figures: &Figures) -> Result<Text, Complaint> {
    if draft.bullets.len() > MOST {
        return Err(Complaint::Shape);
    }
    let Draft { mut headline, mut bullets } = draft;
    for said in std::iter::once(&mut headline).chain(&mut bullets) {
        said.text = said.text.trim().to_owned();
        check_one(said, figures)?;
    }
    Ok(text(Draft { headline, bullets }))
}

fn check_one(said: &Said, figures: &Figures) -> Result<(), Complaint> {
    let length = said.text.chars().count();
    let lower = said.text.to_lowercase();
    let plain = !said.text.chars().any(|c| c.is_control() || "<>`@|{}[]".contains(c))
        && !["http", "www."].iter().any(|link| lower.contains(link));
    if !(1..=LONGEST).contains(&length) || !plain {
        return Err(Complaint::Shape);
    }
    let mut known: Vec<(Number, bool)> = Vec::new();
    for id in &said.figures {
        let figure = figures.find(id).ok_or_else(|| Complaint::UnknownFigure(id.chars().take(80).collect()))?;
        // A label may count as well, as in "3d": only what is told as the figure counts here.
        let moves = figure.id.ends_with(".change") || figure.id.ends_with(".change_percent");
        known.extend(numbers(&figure.text).unwrap_or_default().into_iter().map(|number| (number, moves)));
    }
    let told = numbers(&said.text).map_err(|Unreadable(what)| Complaint::Unreadable(what))?;
    let right = |number: &Number| {
        known.iter().any(|(figure, moves)| {
            if number.is_zero() {
                return number.tells(figure);
            }
            let words_fall = falls(&said.text, number.at);
            let agrees = if *moves {
                // The words say which way it went, and a sign beside them must not say the contrary.
                words_fall.is_none_or(|fall| fall == figure.negative)
            } else {
                // A level below zero is none above it, and things rise and fall by changes alone.
                (number.signed || !figure.negative) && !is_by(&said.text, number.at)
            };
            number.tells(figure) && agrees
        })
    };
    match told.iter().find(|number| !right(number)) {
        Some(number) => Err(Complaint::Number(number.to_string())),
        None => Ok(()),
    }
}

/// Whether the number at this character is one by which something changed.
fn is_by(text: &str, at: usize) -> bool {
    let before: String = text.chars().take(at).collect();
    let before = before.trim_end_matches(|c: char| c.is_whitespace() || "+-\u{2212}".contains(c)).to_lowercase();
    before.strip_suffix("by").is_some_and(|rest| !rest.ends_with(char::is_alphanumeric))
}

/// Words that say that something became more.
const RISES: &str = "rose rise rises risen rising up increase increased increases increasing grew grow grows growing grown growth gain gained
    gains climbed climbs climbing jumped jump jumps more higher surged surge soared soaring added";
/// Words that say that it became less.
const FALLS: &str = "fell fall falls fallen falling down decrease decreased decreases decreasing dropped drop drops dropping declined decline
    declines declining shrank shrinks fewer less lower slipped slid dipped dip dips plunged plunge sank slumped reduced";

/// Whether the words around this character say that something fell: the last of them before it in the same clause, else the first one
/// after it there. `None` without such a word.
fn falls(text: &str, at: usize) -> Option<bool> {
    let chars: Vec<char> = text.chars().collect();
    // A comma between digits is part of a number.
    let ends = |at: &usize| ",;:.".contains(chars[*at]) && !chars.get(at + 1).is_some_and(char::is_ascii_digit);
    let from = (0..at).rev().find(ends).map_or(0, |end| end + 1);
    let until = (at..chars.len()).find(ends).unwrap_or(chars.len());
    let told = |chars: &[char]| -> Vec<bool> {
        let text: String = chars.iter().collect::<String>().to_lowercase();
        let among = |list: &str, word: &str| list.split_ascii_whitespace().any(|known| known == word);
        text.split(|c: char| !c.is_alphabetic())
            .filter_map(|word| if among(FALLS, word) { Some(true) } else { among(RISES, word).then_some(false) })
            .collect()
    };
    let before = told(&chars[from..at]).pop();
    before.or_else(|| told(&chars[at..until]).first().copied())
}

fn text(draft: Draft) -> Text {
    let mut summary = draft.headline.text.clone();
    for bullet in &draft.bullets {
        summary.push_str("\n- ");
        summary.push_str(&bullet.text);
    }
    let bullets = draft.bullets.iter().map(|said| json!({ "text": said.text, "figures": said.figures }));
    Text { bullets: bullets.collect(), headline: draft.headline.text, summary }
}

/// What the figures say without anybody's help: the total and the one before, what is out of line, and the larger parts.
pub(crate) fn template(figures: &Figures) -> Text {
    text(template_draft(figures))
}

fn template_draft(figures: &Figures) -> Draft {
    let (noun, period) = (figures.noun(), &figures.period);
    let said = |text: String, ids: &[&str]| Said { text, figures: ids.iter().map(|id| (*id).to_owned()).collect() };
    let headline = match (figures.find("total.current"), figures.find("total.previous")) {
        (Some(now), Some(before)) => said(
            format!("{}: {} in the last {period}, {} in the {period} before.", capital(noun), now.text, before.text),
            &[&now.id, &before.id],
        ),
        (Some(now), None) => said(format!("{}: {} in the last {period}.", capital(noun), now.text), &[&now.id]),
        (None, _) => said(format!("{}: too few in the last {period} to tell of.", capital(noun)), &[]),
    };
    let mut bullets = Vec::new();
    if let (Some(change), Some(percent)) = (figures.find("total.change"), figures.find("total.change_percent")) {
        bullets.push(said(
            format!("A change of {} ({}) since the {period} before.", change.text, percent.text),
            &[&change.id, &percent.id],
        ));
    }
    if let (Some(unusual), Some(usual)) = (figures.find("total.unusual"), figures.find("total.usual")) {
        bullets.push(said(
            format!("That is {}: a {period} usually has {}.", unusual.text, usual.text),
            &[&unusual.id, &usual.id],
        ));
    }
    for split in &figures.breakdowns {
        let parts: Vec<_> = split
            .labels
            .iter()
            .zip(&split.points)
            .filter(|(label, point)| label.as_str() != "rest" && point.is_some())
            .filter_map(|(label, _)| Some((label, figures.find(&format!("{}.{label}.current", split.id))?)))
            .take(PARTS)
            .collect();
        if parts.is_empty() {
            continue;
        }
        let told: Vec<String> =
            parts.iter().map(|(label, figure)| format!("{} {}", label.replace('_', " "), figure.text)).collect();
        let ids: Vec<&str> = parts.iter().map(|(_, figure)| figure.id.as_str()).collect();
        bullets.push(said(format!("By {}: {}.", split.id.replace('_', " "), told.join(", ")), &ids));
    }
    bullets.truncate(MOST);
    Draft { headline, bullets }
}

fn capital(noun: &str) -> String {
    let mut chars = noun.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        serde_json::from_value(json!({
            "table": "leads", "period": "week", "period_start": "2026-11-09T00:00:00Z",
            "series": [{ "label": "new leads" }],
            "breakdowns": [{ "id": "status", "labels": ["won", "rest"], "points": [8, 20] }],
            "figures": [
                { "id": "total.current", "label": "new leads in the period", "unit": "count", "value": 1028, "text": "1,028" },
                { "id": "total.previous", "label": "before", "unit": "count", "value": 1040, "text": "1,040" },
                { "id": "total.change", "label": "change", "unit": "count", "value": -12, "text": "-12" },
                { "id": "total.change_percent", "label": "change", "unit": "percent", "value": -1.2, "text": "-1.2%" },
                { "id": "status.won.current", "label": "won", "unit": "count", "value": 8, "text": "8" },
            ],
        }))
        .unwrap()
    }

    fn draft(text: &str, ids: &[&str]) -> Draft {
        let figures = ids.iter().map(|id| (*id).to_owned()).collect();
        Draft { headline: Said { text: text.to_owned(), figures }, bullets: Vec::new() }
    }

    #[test]
    fn the_template_says_only_what_a_model_might() {
        let made = template_draft(&figures());
        assert_eq!(made.headline.text, "New leads: 1,028 in the last week, 1,040 in the week before.");
        assert_eq!(made.bullets.len(), 2);
        check(made, &figures()).unwrap();
        let few = Figures { figures: Vec::new(), breakdowns: Vec::new(), ..figures() };
        assert_eq!(template(&few).headline, "New leads: too few in the last week to tell of.");
    }

    #[test]
    fn a_number_must_be_one_of_the_figures_named_beside_it() {
        let all = ["total.current", "total.previous", "total.change", "total.change_percent"];
        for (text, ids, outcome) in [
            ("Leads fell by 12 to 1028.", &all[..], Ok(())),
            ("Leads fell 1.2%, to 1,028.", &all, Ok(())),
            ("Leads rose to 1,029.", &all, Err(Complaint::Number("1029".to_owned()))),
            ("Leads rose by +12.", &all, Err(Complaint::Number("12".to_owned()))),
            ("Leads rose by 12.", &all, Err(Complaint::Number("12".to_owned()))),
            ("A rise of 1.2% to 1,028.", &all, Err(Complaint::Number("1.2%".to_owned()))),
            ("A change of 12 from 1,040.", &all, Ok(())),
            ("More were won; leads fell by 12.", &all, Ok(())),
            ("Leads fell 12, more than usual.", &all, Ok(())),
            ("Leads declined by 12, up to no more.", &all, Ok(())),
            ("A 1.2% drop, with more won.", &all, Ok(())),
            ("Leads soared by 12, fewer than usual.", &all, Err(Complaint::Number("12".to_owned()))),
            ("Leads fell by 12%.", &all, Err(Complaint::Number("12%".to_owned()))),
            ("Leads were 1.03 of it.", &all, Err(Complaint::Number("1.03".to_owned()))),
            ("  Leads: 1,028.  ", &all, Ok(())),
            // Right, and of something else.
            ("Won leads: 1,028.", &["status.won.current"], Err(Complaint::Number("1028".to_owned()))),
            ("Leads: 8.", &[], Err(Complaint::Number("8".to_owned()))),
            ("Eight were won.", &["status.won.current"], Ok(())),
            ("Nine were won.", &["status.won.current"], Err(Complaint::Number("9".to_owned()))),
            ("Wins doubled.", &all, Err(Complaint::Unreadable("doubled".to_owned()))),
            ("All well.", &["total.none"], Err(Complaint::UnknownFigure("total.none".to_owned()))),
            ("See https://example.com", &all, Err(Complaint::Shape)),
            ("<b>Leads</b>", &all, Err(Complaint::Shape)),
            ("", &all, Err(Complaint::Shape)),
        ] {
            assert_eq!(check(draft(text, ids), &figures()).map(|_| ()), outcome, "{text}");
        }
    }

    /// Figures of a sum that was `before` and is `now`, as the database tells them.
    fn moved(before: i64, now: i64) -> Figures {
        let change = now - before;
        let mut figures = vec![
            json!({ "id": "amount.current", "label": "", "unit": "sek", "value": now, "text": format!("{now}.00 SEK") }),
            json!({ "id": "amount.previous", "label": "", "unit": "sek", "value": before, "text": format!("{before}.00 SEK") }),
            json!({ "id": "amount.change", "label": "", "unit": "sek", "value": change, "text": format!("{change}.00 SEK") }),
        ];
        if before != 0 {
            let percent = 100 * change / before.abs();
            let text = format!("{percent}%");
            figures.push(json!({ "id": "amount.change_percent", "label": "", "unit": "percent", "value": percent, "text": text }));
        }
        serde_json::from_value(json!({
            "table": "invoices", "period": "week", "period_start": "2026-11-09T00:00:00Z", "series": [], "breakdowns": [], "figures": figures,
        }))
        .unwrap()
    }

    proptest::proptest! {
        #[test]
        fn words_of_a_rise_or_a_fall_agree_with_figures_of_every_sign(before in -40_i64..40, now in -40_i64..40) {
            let (figures, change) = (moved(before, now), now - before);
            let all: Vec<&str> = figures.figures.iter().map(|figure| figure.id.as_str()).collect();
            let right = |text: &str| check(draft(text, &all), &figures).is_ok();
            let (size, signed) = (change.abs(), format!("{change:+}"));
            for (verb, fits) in [("rose", change >= 0), ("fell", change <= 0), ("changed", true)] {
                proptest::prop_assert_eq!(right(&format!("The amount {verb} by {size}.00 SEK.")), fits, "{} {} {}", verb, before, now);
                proptest::prop_assert_eq!(right(&format!("The amount {verb} by {signed}.00 SEK.")), fits, "{} {} {}", verb, before, now);
                if before != 0 {
                    let percent = (100 * change / before.abs()).abs();
                    let fits = fits || percent == 0;
                    proptest::prop_assert_eq!(right(&format!("The amount {verb} {percent}%.")), fits, "{} {} {}", verb, before, now);
                }
            }
            // A level has its own sign. Without it, it may be a change that is as large.
            let levels = format!("It was {before}.00 SEK, then {now}.00 SEK.");
            proptest::prop_assert!(right(&levels), "{}", levels);
            let bare = |level: i64| right(&format!("It is {}.00 SEK.", level.abs()));
            proptest::prop_assert_eq!(bare(now), now >= 0 || [before, change, -change].contains(&now.abs()), "{} {}", before, now);
        }
    }

    #[test]
    fn the_prompt_holds_figures_and_no_dates() {
        let prompt = figures().prompt();
        assert!(prompt.contains("total.current") && prompt.contains("1,028") && !prompt.contains("2026"));
    }
}
