//! Planted bugs: the list of them, and how each gets into a text. `tests/mutants/README.md` says what a line of the list means.
//!
//! The product has no switches: a bug is written into a copy of the sources, or into a database function as it stands in a template.

use std::{collections::BTreeMap, fs, ops::Range, path::Path};

use anyhow::{Context, Result, bail, ensure};
use local::lambda::MUTANT;
use sqlx::PgConnection;

/// Where the list is.
pub const LIST: &str = "tests/mutants";

/// What a `+` line of several statements has where the bug is switched.
const SWITCH: &str = "{mutant}";

/// Where a bug is planted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In this file of Rust, as an expression that a variable switches.
    Rust(String),
    /// In the current definition of this database function.
    Sql(String),
    /// In this file, for as long as its tests run.
    File(String),
}

/// A planted bug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutant {
    /// Says the bug.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// What is there now.
    pub original: String,
    /// What is there with the bug.
    pub replacement: String,
    /// The tests that must notice it: a path in `tests/it`, or `package/path` of a unit test.
    pub tests: Vec<String>,
    /// Why no test can notice it.
    pub survives: Option<String>,
    /// Whether its tests take longer than a sample has time for.
    pub is_slow: bool,
    /// The file and line of the list that it begins on.
    pub listed: String,
}

/// The list, by the names of its files and in their order.
///
/// # Errors
/// Names the line that is wrong.
pub fn list(root: &Path) -> Result<Vec<Mutant>> {
    let folder = root.join(LIST);
    let mut files: Vec<_> = fs::read_dir(&folder).with_context(|| format!("there is no {LIST}"))?.flatten().collect();
    files.sort_by_key(fs::DirEntry::file_name);
    let mut mutants: Vec<Mutant> = Vec::new();
    for file in files.iter().map(fs::DirEntry::path).filter(|file| file.extension().is_some_and(|end| end == "txt")) {
        let name = format!("{LIST}/{}", file.file_name().unwrap_or_default().display());
        mutants.extend(read(&name, &fs::read_to_string(&file)?)?);
    }
    for (place, mutant) in mutants.iter().enumerate() {
        if let Some(other) = mutants.iter().take(place).find(|other| other.name == mutant.name) {
            bail!("{}: {} has this name too", mutant.listed, other.listed);
        }
    }
    Ok(mutants)
}

/// The bugs in one file of the list.
///
/// # Errors
/// Names the line that is wrong.
pub fn read(file: &str, text: &str) -> Result<Vec<Mutant>> {
    let mut mutants: Vec<Mutant> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let at = format!("{file}:{}", number + 1);
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            ensure!(!name.is_empty() && name.chars().all(is_plain), "{at}: a name has small letters, digits and _");
            mutants.push(Mutant {
                name: name.to_owned(),
                place: Place::File(String::new()),
                original: String::new(),
                replacement: String::new(),
                tests: Vec::new(),
                survives: None,
                is_slow: false,
                listed: at,
            });
            continue;
        }
        let mutant = mutants.last_mut().with_context(|| format!("{at}: a bug begins with its [name]"))?;
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let add = |text: &mut String| {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(rest);
        };
        match word {
            "rust" => mutant.place = Place::Rust(rest.to_owned()),
            "sql" => mutant.place = Place::Sql(rest.to_owned()),
            "file" => mutant.place = Place::File(rest.to_owned()),
            "-" => add(&mut mutant.original),
            "+" => add(&mut mutant.replacement),
            "test" => mutant.tests.push(rest.to_owned()),
            "slow" => mutant.is_slow = true,
            "survives" => mutant.survives = Some(rest.to_owned()),
            other => bail!("{at}: {other:?} begins no line of a bug"),
        }
    }
    for mutant in &mutants {
        let at = &mutant.listed;
        let (Place::Rust(place) | Place::Sql(place) | Place::File(place)) = &mutant.place;
        ensure!(!place.is_empty(), "{at}: rust, sql or file says where the bug is");
        ensure!(!mutant.original.trim().is_empty(), "{at}: a line with - says what is there now");
        ensure!(mutant.original != mutant.replacement, "{at}: the bug changes nothing");
    }
    Ok(mutants)
}

/// Whether each bug in Rust or in a file fits the checkout: what it replaces is there exactly once, and no part of what another replaces.
///
/// # Errors
/// Names each that does not.
pub fn check(root: &Path, mutants: &[Mutant]) -> Result<()> {
    let mut misfits = Vec::new();
    let mut in_rust: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants {
        let (Place::Rust(file) | Place::File(file)) = &mutant.place else { continue };
        let Ok(text) = fs::read_to_string(root.join(file)) else {
            misfits.push(format!("mend the list: {} plants in {file}, which is no file", mutant.listed));
            continue;
        };
        match mutant.find(&text) {
            Err(misfit) => misfits.push(misfit.to_string()),
            Ok(_) if matches!(mutant.place, Place::Rust(_)) => in_rust.entry(file).or_default().push(mutant),
            Ok(_) => {}
        }
    }
    for (file, mutants) in in_rust {
        misfits
            .extend(switched(&fs::read_to_string(root.join(file))?, &mutants).err().map(|misfit| misfit.to_string()));
    }
    ensure!(misfits.is_empty(), "{}", misfits.join("\n"));
    Ok(())
}

impl Mutant {
    /// `text` with the bug.
    ///
    /// # Errors
    /// If what it replaces is not there exactly once.
    pub fn plant(&self, text: &str) -> Result<String> {
        let range = self.find(text)?;
        let mut planted = text.to_owned();
        planted.replace_range(range, &self.replacement);
        Ok(planted)
    }

    /// Where in `text` the bug goes.
    fn find(&self, text: &str) -> Result<Range<usize>> {
        let found = match self.place {
            // Its lines mean something by where they begin.
            Place::File(_) => text.match_indices(&self.original).map(|(at, found)| at..at + found.len()).collect(),
            Place::Rust(_) | Place::Sql(_) => occurrences(text, &self.original),
        };
        let (Place::Rust(place) | Place::Sql(place) | Place::File(place)) = &self.place;
        match found.as_slice() {
            [range] => Ok(range.clone()),
            other => bail!(
                "mend the list: {} plants {} where this is in {place} {} times, and not once:\n{}",
                self.listed,
                self.name,
                other.len(),
                self.original
            ),
        }
    }

    fn condition(&self) -> String {
        format!("::std::env::var_os({MUTANT:?}).is_some_and(|named| named == {:?})", self.name)
    }
}

/// The current definition of a database function, named as in `app.may` or, where there are several, `app.may(text)`.
///
/// # Errors
/// If there is none, or more than one.
pub async fn definition(conn: &mut PgConnection, function: &str) -> Result<String> {
    let found =
        "select pg_get_functiondef(case when $1 like '%(%' then to_regprocedure($1)::oid else to_regproc($1)::oid end)";
    let definition: Option<String> = sqlx::query_scalar(found).bind(function).fetch_one(conn).await?;
    definition.with_context(|| format!("mend the list: there is no one function {function}"))
}

/// Where `wanted` stands in `text`; any space between its words is as good as any other, so that formatting moves no bug.
fn occurrences(text: &str, wanted: &str) -> Vec<Range<usize>> {
    let words: Vec<&str> = wanted.split_whitespace().collect();
    let Some(first) = words.first() else { return Vec::new() };
    let ends = |start: usize| {
        let mut at = start;
        for (place, word) in words.iter().enumerate() {
            if place > 0 {
                let rest = text.get(at..)?;
                let spaces = rest.len() - rest.trim_start().len();
                if spaces == 0 {
                    return None;
                }
                at += spaces;
            }
            if !text.get(at..)?.starts_with(word) {
                return None;
            }
            at += word.len();
        }
        Some(at)
    };
    text.match_indices(first).filter_map(|(start, _)| Some(start..ends(start)?)).collect()
}

/// A Rust file with each of its bugs behind a switch: without the variable it does what it did.
///
/// # Errors
/// If what a bug replaces is not there exactly once, or is a part of what another replaces.
pub fn switched(text: &str, mutants: &[&Mutant]) -> Result<String> {
    let mut pieces: BTreeMap<(usize, usize), Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants {
        let range = mutant.find(text)?;
        pieces.entry((range.start, range.end)).or_default().push(mutant);
    }
    let mut written = String::new();
    let mut done = 0;
    for ((start, end), planted) in &pieces {
        let named = || planted.iter().map(|mutant| mutant.name.as_str()).collect::<Vec<_>>().join(", ");
        let (Some(before), Some(original)) = (text.get(done..*start), text.get(*start..*end)) else {
            bail!("mend the list: {} and the bug before it replace parts of one text", named());
        };
        written += before;
        written += &match planted.as_slice() {
            [mutant] if mutant.replacement.contains(SWITCH) => mutant.replacement.replace(SWITCH, &mutant.condition()),
            several if several.iter().any(|mutant| mutant.replacement.contains(SWITCH)) => {
                bail!("mend the list: {} replace one text, and one of them says itself where it is switched", named())
            }
            several => {
                let bugs: String = several
                    .iter()
                    .map(|one| format!("if {} {{ {} }} else ", one.condition(), one.replacement))
                    .collect();
                let piece = format!("{bugs}{{ {original} }}");
                // A statement stands alone; an expression may be a part of another.
                if original.ends_with(';') { piece } else { format!("({piece})") }
            }
        };
        done = *end;
    }
    written += text.get(done..).unwrap_or_default();
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "# Of fruit.\n\
        [an_apple_is_a_pear]\n\
        rust shared/src/fruit.rs\n\
        - apple <\n\
        -     ripe\n\
        + pear <= ripe\n\
        test fruit::an_apple_is_an_apple\n\
        test shared/fruit::tests::a_pear_is_none\n\
        slow\n\
        \n\
        [fruit_is_free]\n\
        sql app.price\n\
        - price > 0\n\
        + true\n\
        survives Fruit is not sold.\n";

    fn bug(place: Place, original: &str, replacement: &str) -> Mutant {
        Mutant {
            name: "a_bug".to_owned(),
            place,
            original: original.to_owned(),
            replacement: replacement.to_owned(),
            tests: Vec::new(),
            survives: None,
            is_slow: false,
            listed: "list:1".to_owned(),
        }
    }

    fn in_rust(original: &str, replacement: &str) -> Mutant {
        bug(Place::Rust("a.rs".to_owned()), original, replacement)
    }

    #[test]
    fn a_list_is_read_as_it_is_written() {
        let [apple, free] = read("fruit.txt", LISTED).unwrap().try_into().unwrap();
        assert_eq!(
            apple,
            Mutant {
                name: "an_apple_is_a_pear".to_owned(),
                place: Place::Rust("shared/src/fruit.rs".to_owned()),
                original: "apple <\n    ripe".to_owned(),
                replacement: "pear <= ripe".to_owned(),
                tests: vec!["fruit::an_apple_is_an_apple".to_owned(), "shared/fruit::tests::a_pear_is_none".to_owned()],
                survives: None,
                is_slow: true,
                listed: "fruit.txt:2".to_owned(),
            }
        );
        assert_eq!(
            (free.place, free.survives),
            (Place::Sql("app.price".to_owned()), Some("Fruit is not sold.".to_owned()))
        );
        assert_eq!((free.tests, free.is_slow), (Vec::new(), false));
    }

    #[test]
    fn a_line_of_the_list_that_is_wrong_is_named() {
        for (text, wrong) in [
            ("- apple\n", "f:1: a bug begins with its [name]"),
            ("[An apple]\n", "f:1: a name has small letters, digits and _"),
            ("[a]\nrust x.rs\n* apple\n", "f:3: \"*\" begins no line of a bug"),
            ("\n[a]\n- apple\n+ pear\n", "f:2: rust, sql or file says where the bug is"),
            ("[a]\nrust x.rs\n+ pear\n", "f:1: a line with - says what is there now"),
            ("[a]\nrust x.rs\n- apple\n+ apple\n", "f:1: the bug changes nothing"),
        ] {
            assert_eq!(read("f", text).unwrap_err().to_string(), wrong);
        }
    }

    #[test]
    fn a_text_that_is_not_there_exactly_once_is_an_error() {
        for (text, times) in [("pear < ripe", "0 times"), ("apple < ripe, apple  < ripe", "2 times")] {
            for place in [Place::Rust("a".to_owned()), Place::Sql("a".to_owned())] {
                let error = bug(place, "apple < ripe", "pear").plant(text).unwrap_err().to_string();
                assert!(error.starts_with("mend the list: list:1") && error.contains(times), "{error}");
            }
            assert!(switched(text, &[&in_rust("apple < ripe", "pear")]).is_err(), "{text}");
        }
    }

    #[test]
    fn formatting_moves_no_bug_except_in_files_whose_space_means_something() {
        let text = "if apple\n        < ripe {}";
        let planted = in_rust("apple < ripe", "pear").plant(text).unwrap();
        assert_eq!(planted, "if pear {}");
        // Words that are only a part of others are others.
        assert!(in_rust("apple <ripe", "pear").plant(text).is_err());
        let in_file =
            |original| bug(Place::File("a.yaml".to_owned()), original, "  b: 2").plant("x:\n  a: 1\n  c: 3\n");
        assert_eq!(in_file("  a: 1").unwrap(), "x:\n  b: 2\n  c: 3\n");
        assert!(in_file("a:  1").is_err());
    }

    #[test]
    fn a_bug_in_rust_is_an_expression_that_its_name_switches() {
        let text = "fn ripe(days: u32) -> bool { !(days < 7) && sold(); }";
        let on = |name: &str| format!("::std::env::var_os(\"SPINE_MUTANT\").is_some_and(|named| named == \"{name}\")");
        let one = in_rust("days < 7", "days <= 7");
        let other = Mutant { name: "other".to_owned(), ..in_rust("days  <  7", "days > 7") };
        let statement = Mutant { name: "third".to_owned(), ..in_rust("sold();", "") };
        assert_eq!(
            switched(text, &[&statement, &one, &other]).unwrap(),
            format!(
                "fn ripe(days: u32) -> bool {{ !((if {} {{ days <= 7 }} else if {} {{ days > 7 }} else {{ days < 7 }})) && \
                 if {} {{  }} else {{ sold(); }} }}",
                on("a_bug"),
                on("other"),
                on("third")
            )
        );
        let itself = in_rust("days < 7", "days < if {mutant} { 8 } else { 7 }");
        assert_eq!(
            switched("days < 7", &[&itself]).unwrap(),
            format!("days < if {} {{ 8 }} else {{ 7 }}", on("a_bug"))
        );
        assert_eq!(switched(text, &[]).unwrap(), text);
    }

    #[test]
    fn bugs_that_replace_parts_of_one_text_are_an_error() {
        let (whole, part) = (in_rust("days < 7", "true"), in_rust("7", "8"));
        let error = switched("days < 7", &[&whole, &part]).unwrap_err().to_string();
        assert!(error.contains("replace parts of one text"), "{error}");
        let itself = in_rust("days < 7", "{mutant}");
        assert!(switched("days < 7", &[&whole, &itself]).is_err());
    }
}
