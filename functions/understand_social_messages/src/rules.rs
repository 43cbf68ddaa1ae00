//! How a message sounds by rules alone: a lexicon of Swedish and English with negation, intensifiers, emoji and a few phrases.
//!
//! It serves where no model does. It reads a bounded part of a text, needs nothing but the text, and gives the same score each time.

mod lexicon;

use lexicon::{
    CONTRASTS, DIMINISHERS, EMOJI, ENGLISH, ENGLISH_FUNCTION, FALSE_FRIENDS, INTENSIFIERS, NEGATORS, PHRASES, PREFIXES,
    SWEDISH, SWEDISH_FUNCTION, VERBS,
};

/// What rows of these scores say that they were made with.
pub const MODEL: &str = "rules";
/// The most characters that are read.
const LONGEST: usize = 2000;
/// How slowly a score nears 1: the square of the weight at which it is 0.71.
const SLOWNESS: f64 = 6.0;
/// How many words before a word are looked at for a negation.
const REACH: usize = 3;

/// How a text sounds, from -1 to 1, to three decimals. 0 where it says nothing that the lexicon knows.
#[must_use]
pub fn score(text: &str) -> f64 {
    let text: String = text.chars().take(LONGEST).collect();
    let (mut clauses, pictures) = clauses(&text);
    let swedish = is_swedish(&clauses);
    let mut total = 0.0;
    for clause in &mut clauses {
        if clause.words.first().is_some_and(|first| listed(CONTRASTS, &first.text)) {
            // What follows a "but" is what is meant.
            total *= 0.6;
            total += 1.3 * of_clause(&mut clause.words, swedish) * clause.stress();
        } else {
            total += of_clause(&mut clause.words, swedish) * clause.stress();
        }
    }
    // A question asks, and says less.
    if clauses.iter().any(|clause| clause.end == Some('?')) {
        total *= 0.5;
    }
    total += pictures;
    let bounded = total / (total * total + SLOWNESS).sqrt();
    (bounded * 1000.0).round() / 1000.0
}

/// A word as it is looked up, and whether it was shouted.
#[derive(Debug)]
struct Word {
    text: String,
    shouted: bool,
    /// Whether a phrase took it.
    taken: bool,
}

/// Words up to a mark.
#[derive(Debug, Default)]
struct Clause {
    words: Vec<Word>,
    end: Option<char>,
    exclamations: u8,
}

impl Clause {
    fn stress(&self) -> f64 {
        1.0 + 0.1 * f64::from(self.exclamations.min(3))
    }
}

/// The clauses of a text, and what its emoji weigh. A contrast begins a clause.
fn clauses(text: &str) -> (Vec<Clause>, f64) {
    let (mut all, mut clause, mut word) = (Vec::new(), Clause::default(), String::new());
    let mut pictures: Vec<f64> = Vec::new();
    let end_word = |word: &mut String, clause: &mut Clause, all: &mut Vec<Clause>| {
        let found = std::mem::take(word);
        let found = found.trim_matches('\'');
        if found.is_empty() {
            return;
        }
        let shouted = found.chars().count() > 2 && found.chars().all(char::is_uppercase);
        let text = found.to_lowercase();
        if listed(CONTRASTS, &text) && !clause.words.is_empty() {
            all.push(std::mem::take(clause));
        }
        clause.words.push(Word { text, shouted, taken: false });
    };
    for c in text.chars() {
        let c = if c == '\u{2019}' || c == '\u{b4}' { '\'' } else { c };
        if c.is_alphanumeric() || c == '\'' {
            word.push(c);
            continue;
        }
        end_word(&mut word, &mut clause, &mut all);
        if let Some((weight, _)) = EMOJI.iter().find(|(_, emoji)| emoji.contains(c)) {
            pictures.push(*weight);
        }
        if ".,;:!?\n()".contains(c) {
            if c == '!' {
                // Marks that follow one another belong to the same clause.
                let last = if clause.words.is_empty() { all.last_mut() } else { Some(&mut clause) };
                if let Some(last) = last {
                    last.exclamations = last.exclamations.saturating_add(1);
                }
            }
            if !clause.words.is_empty() {
                clause.end = Some(c);
                all.push(std::mem::take(&mut clause));
            }
        }
    }
    end_word(&mut word, &mut clause, &mut all);
    if !clause.words.is_empty() {
        all.push(clause);
    }
    // Ten hearts say little more than two.
    let weight = pictures.iter().take(2).sum();
    (all, weight)
}

/// Whether a text is Swedish rather than English, by its commonest words and its letters.
fn is_swedish(clauses: &[Clause]) -> bool {
    let words = clauses.iter().flat_map(|clause| &clause.words);
    let (mut swedish, mut english) = (0, 0);
    for word in words {
        let text = word.text.as_str();
        swedish += usize::from(listed(SWEDISH_FUNCTION, text)) + usize::from(text.contains(['å', 'ä', 'ö']));
        english += usize::from(listed(ENGLISH_FUNCTION, text)) + usize::from(text.contains('\''));
    }
    swedish > english
}

/// What the words of a clause weigh together.
fn of_clause(words: &mut [Word], swedish: bool) -> f64 {
    let mut total = phrases(words);
    for at in 0..words.len() {
        if words[at].taken {
            continue;
        }
        let Some(mut weight) = weight(&words[at].text, swedish) else { continue };
        let before = &words[at.saturating_sub(REACH)..at];
        for near in before.iter().rev().take(2) {
            if listed(INTENSIFIERS, &near.text) {
                weight *= 1.35;
            } else if listed(DIMINISHERS, &near.text) {
                weight *= 0.6;
            }
        }
        if words[at].shouted {
            weight *= 1.25;
        }
        if negated(words, at) {
            // "Not bad" is no praise, and "not good" is a complaint.
            weight *= if weight > 0.0 { -0.9 } else { -0.4 };
        }
        total += weight;
    }
    total
}

/// Whether a word is negated: by one of the words before it, or, as Swedish verbs are, by one right after it. A negation that a verb before it
/// has is that verb's alone.
fn negated(words: &[Word], at: usize) -> bool {
    let is_negator = |text: &str| listed(NEGATORS, text) || text.ends_with("n't");
    let is_verb = |at: usize| VERBS.split_ascii_whitespace().any(|verb| words[at].text.starts_with(verb));
    // "fungerar inte", "gillar verkligen inte"
    let after = |at: usize| {
        (at + 1..words.len().min(at + 3))
            .find(|next| ["inte", "aldrig", "ej", "icke"].contains(&words[*next].text.as_str()))
    };
    if is_verb(at) && after(at).is_some() {
        return true;
    }
    (at.saturating_sub(REACH)..at).any(|before| {
        is_negator(&words[before].text)
            && !words[before].taken
            && !(before.saturating_sub(2)..before).any(|verb| is_verb(verb) && after(verb) == Some(before))
    })
}

/// What phrases weigh; their words count no more.
fn phrases(words: &mut [Word]) -> f64 {
    let mut total = 0.0;
    for (weight, phrase) in
        PHRASES.iter().flat_map(|(weight, phrases)| phrases.split(',').map(move |phrase| (weight, phrase)))
    {
        let phrase: Vec<&str> = phrase.split_ascii_whitespace().collect();
        for at in 0..(words.len() + 1).saturating_sub(phrase.len()) {
            let found = &mut words[at..at + phrase.len()];
            if found.iter().zip(&phrase).all(|(word, wanted)| word.text == *wanted && !word.taken) {
                found.iter_mut().for_each(|word| word.taken = true);
                total += weight;
            }
        }
    }
    total
}

/// What a word weighs: as it stands, without letters drawn out, or without a Swedish prefix that stresses it.
fn weight(word: &str, swedish: bool) -> Option<f64> {
    let forms = [word.to_owned(), drawn_in(word, 2), drawn_in(word, 1)];
    for form in &forms {
        if let Some(weight) = look_up(form, swedish) {
            return Some(weight);
        }
    }
    for form in &forms {
        for prefix in PREFIXES.split_ascii_whitespace() {
            let rest = form.strip_prefix(prefix).filter(|rest| rest.chars().count() > 2);
            if let Some(weight) = rest.and_then(|rest| look_up(rest, swedish)) {
                return Some(weight * 1.4);
            }
        }
    }
    None
}

/// The word with no letter more than so often in a row, if it has one three times.
fn drawn_in(word: &str, most: usize) -> String {
    let chars: Vec<char> = word.chars().collect();
    if !chars.windows(3).any(|three| three[0] == three[1] && three[1] == three[2]) {
        return word.to_owned();
    }
    let mut kept: Vec<char> = Vec::new();
    for c in chars {
        if kept.iter().rev().take_while(|before| **before == c).count() < most {
            kept.push(c);
        }
    }
    kept.into_iter().collect()
}

fn listed(list: &str, word: &str) -> bool {
    list.split_ascii_whitespace().any(|known| known == word)
}

fn entries(lexicon: &'static [(f64, &'static str)]) -> impl Iterator<Item = (&'static str, f64)> {
    lexicon.iter().flat_map(|(weight, words)| words.split_ascii_whitespace().map(move |word| (word, *weight)))
}

fn look_up(word: &str, swedish: bool) -> Option<f64> {
    let (first, second) = if swedish { (SWEDISH, ENGLISH) } else { (ENGLISH, SWEDISH) };
    // The longest that fits: a whole word, else its stem.
    let among = |lexicon| {
        let fits = |entry: &str| entry == word || entry.strip_suffix('*').is_some_and(|stem| word.starts_with(stem));
        let fitting = entries(lexicon).filter(|(entry, _)| fits(entry));
        fitting.max_by_key(|(entry, _)| (*entry == word, entry.len())).map(|(_, weight)| weight)
    };
    among(first).or_else(|| if listed(FALSE_FRIENDS, word) { None } else { among(second) })
}

#[cfg(test)]
mod tests {
    use shared::social::sentiment_label as label;

    use super::*;

    #[test]
    fn words_weigh_and_what_stands_beside_them_changes_that() {
        let rising = ["inte bra", "", "bra", "väldigt bra", "skitbra och väldigt fint!!"];
        assert!(rising.windows(2).all(|pair| score(pair[0]) < score(pair[1])), "{:?}", rising.map(score));
        let rising = ["very bad", "bad", "not bad", "good", "very good", "VERY GOOD and lovely!!"];
        assert!(rising.windows(2).all(|pair| score(pair[0]) < score(pair[1])), "{:?}", rising.map(score));
    }

    #[test]
    fn a_negation_holds_for_its_clause_and_a_swedish_one_for_the_verb_before_it() {
        for (text, expected) in [
            ("Det fungerar inte", "negative"),
            ("Jag gillar verkligen inte det", "negative"),
            ("I don't like it", "negative"),
            ("I don\u{2019}t like it", "negative"),
            ("Not there yet, great work", "positive"),
            ("Det fungerar", "positive"),
            ("Vad kostar det?", "neutral"),
            ("Fint, men personalen var otrevlig", "negative"),
            ("Braaaaa", "positive"),
            ("❤️", "positive"),
        ] {
            assert_eq!(label(score(text)), expected, "{text}: {}", score(text));
        }
    }

    #[test]
    fn a_score_is_in_range_and_the_same_each_time_however_long_the_text() {
        for text in ["love ".repeat(100_000), "\u{0}\u{fffd}'''!!!".to_owned(), "å".repeat(5000)] {
            assert!((-1.0..=1.0).contains(&score(&text)));
            assert!((score(&text) - score(&text)).abs() < f64::EPSILON);
        }
    }

    #[test]
    fn no_word_is_in_a_lexicon_twice() {
        for lexicon in [SWEDISH, ENGLISH] {
            let words: Vec<_> = entries(lexicon).collect();
            for (at, (word, weight)) in words.iter().enumerate() {
                assert!(!words[..at].iter().any(|(other, _)| other == word), "{word}");
                assert!((-3.0..=3.0).contains(weight), "{word}");
            }
        }
    }
}
