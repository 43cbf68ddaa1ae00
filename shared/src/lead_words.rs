//! Words and phrases that a text is searched for, in any case.
//!
//! This is not the database's work: under the locale C, which a server may have, its `lower` and its `simple` dictionary leave Å, Ä and Ö as
//! they are.

use unicode_normalization::UnicodeNormalization;

/// A text, as its words are compared: each between two spaces, in lower case, with accents composed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(String);

impl Words {
    /// Of a text. A word is a run of letters and digits.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let text: String = text.nfc().collect::<String>().to_lowercase();
        let mut words = String::with_capacity(text.len() + 2);
        words.push(' ');
        for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            words.push_str(word);
            words.push(' ');
        }
        Self(words)
    }

    /// Whether `phrase` is in here: its words, whole and one after the other. A phrase without words is in no text.
    #[must_use]
    pub fn contain(&self, phrase: &Self) -> bool {
        phrase.0.len() > 1 && self.0.contains(&phrase.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phrase_is_found_as_whole_words_in_any_case() {
        for (text, phrase, found) in [
            ("Vi vill ha en OFFERT!", "offert", true),
            ("VI ÖVERVÄGER ETT KÖK PÅ ÅSÖGATAN", "överväger", true),
            ("vi överväger", "ÖVERVÄGER", true),
            ("på åsögatan", "Åsögatan", true),
            // The same letters, written as a letter and a mark.
            ("ett nytt ko\u{308}k", "KÖK", true),
            ("ett nytt kök", "KO\u{308}K", true),
            ("Vad kostar köket?", "kostar", true),
            ("köksoffert", "offert", false),
            ("offerten", "offert", false),
            ("öoffert", "offert", false),
            ("#offert", "offert", true),
            ("boka   ett\nmöte", "Boka ett möte", true),
            ("boka ett nytt möte", "boka ett möte", false),
            ("möte boka ett", "boka ett möte", false),
            ("skicka e-post", "e post", true),
            ("", "offert", false),
            ("!!", "!!", false),
            ("3D-ritning", "3d", true),
        ] {
            assert_eq!(Words::of(text).contain(&Words::of(phrase)), found, "{phrase:?} in {text:?}");
        }
    }
}
