//! Modules of the functions and of what they share need each other in one direction only, so that each can be read by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use local::home;

/// A module by its path within its crate.
type Module = Vec<String>;

/// The modules that each module of a crate names.
type Needs = BTreeMap<Module, BTreeSet<Module>>;

/// Code alone: no texts, no comments, no tests.
fn code(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let mut kept = String::new();
    let (mut quoted, mut escaped) = (false, false);
    for line in source.lines() {
        let mut characters = line.chars().peekable();
        while let Some(c) = characters.next() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' if !kept.ends_with('\'') => quoted = !quoted,
                '/' if !quoted && characters.peek() == Some(&'/') => break,
                _ if !quoted => kept.push(c),
                _ => {}
            }
        }
        escaped = false;
        kept.push('\n');
    }
    kept
}

/// The words of code: names and marks.
fn words(code: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut in_name = false;
    for c in code.chars() {
        let names = c.is_alphanumeric() || c == '_';
        match words.last_mut() {
            Some(last) if names && in_name => last.push(c),
            _ if !c.is_whitespace() => words.push(c.to_string()),
            _ => {}
        }
        in_name = names;
    }
    words
}

/// Follows a path or a tree of them, as in `a::{b, c::d}`, from `at`. Where it ends.
fn follow(words: &[String], mut at: usize, before: &[String], found: &mut Vec<Module>) -> usize {
    let word = |at: usize| words.get(at).map_or("", String::as_str);
    if word(at) == "{" {
        at += 1;
        while !matches!(word(at), "}" | "") {
            let next = follow(words, at, before, found);
            at = next.max(at + 1);
            while !matches!(word(at), "," | "}" | "") {
                at += 1;
            }
            at += usize::from(word(at) == ",");
        }
        return at + 1;
    }
    let mut path = before.to_vec();
    path.push(word(at).to_owned());
    if word(at + 1) == ":" && word(at + 2) == ":" {
        return follow(words, at + 3, &path, found);
    }
    found.push(path);
    at + 1
}

fn read(directory: &Path, within: &[String], sources: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        let module = |name: &str| [within, &[name.to_owned()]].concat();
        if path.is_dir() {
            read(&path, &module(&name), sources);
        } else if let Some(name) = name.strip_suffix(".rs").filter(|name| *name != "main") {
            let module = match name {
                "lib" => Vec::new(),
                "mod" => within.to_vec(),
                name => module(name),
            };
            sources.insert(module, code(&fs::read_to_string(&path).unwrap()));
        }
    }
}

/// What the modules of a crate need of each other. The crate's root only lists them.
fn needs(sources: &BTreeMap<Module, String>) -> Needs {
    let mut needs = Needs::new();
    for (module, source) in sources.iter().filter(|(module, _)| !module.is_empty()) {
        let words = words(source);
        let mut named = Vec::new();
        for (at, word) in words.iter().enumerate() {
            let path =
                |word: &str| words.get(at + 1..at + 3).is_some_and(|colons| colons == [":", ":"]) && !word.is_empty();
            let begins = at.checked_sub(1).is_none_or(|before| words[before] != ":");
            let child = [module.as_slice(), std::slice::from_ref(word)].concat();
            let before = match word.as_str() {
                "crate" => Vec::new(),
                "super" => module[..module.len() - 1].to_vec(),
                _ if begins && sources.contains_key(&child) => child,
                _ => continue,
            };
            if path(word) {
                follow(&words, at + 3, &before, &mut named);
            }
        }
        let known = |path: &Module| {
            (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|path| sources.contains_key(path))
        };
        let others = named.iter().filter_map(known).filter(|other| other != module);
        needs.insert(module.clone(), others.collect());
    }
    needs
}

/// All that a module needs, directly or through others.
fn reached(needs: &Needs, from: &Module) -> BTreeSet<Module> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(module) = next.pop() {
        next.extend(needs.get(module).into_iter().flatten().filter(|other| reached.insert((*other).clone())));
    }
    reached
}

/// Modules that need themselves through others.
fn cycles(sources: &BTreeMap<Module, String>) -> BTreeSet<BTreeSet<String>> {
    let needs = needs(sources);
    let all: BTreeMap<&Module, BTreeSet<Module>> =
        needs.keys().map(|module| (module, reached(&needs, module))).collect();
    let mut cycles = BTreeSet::new();
    for (module, reached) in all.iter().filter(|(module, reached)| reached.contains(**module)) {
        let together = reached.iter().filter(|other| all[other].contains(*module));
        cycles.insert(together.map(|other| other.join("::")).collect());
    }
    cycles
}

#[test]
fn no_module_needs_itself_through_others() {
    let root = home::root();
    let functions = fs::read_dir(root.join("functions")).unwrap().flatten().map(|entry| entry.path());
    let crates: Vec<_> = functions.filter(|path| path.is_dir()).chain([root.join("shared")]).collect();
    assert!(crates.len() > 6);
    for path in crates {
        let mut sources = BTreeMap::new();
        read(&path.join("src"), &[], &mut sources);
        assert_eq!(cycles(&sources), BTreeSet::new(), "{}", path.display());
    }
}

#[test]
fn a_cycle_is_found_through_trees_parents_and_children() {
    let crate_of = |files: &[(&str, &str)]| -> BTreeMap<Module, String> {
        let module = |name: &str| name.split("::").map(str::to_owned).collect();
        files.iter().map(|(name, source)| (module(name), code(source))).collect()
    };
    for (first, second) in [
        ("use crate::{state::State, b::{c, D}};", "fn f() { crate::a::f() }"),
        ("use crate::b; // crate::a", "use super::a::f;"),
    ] {
        let found = cycles(&crate_of(&[("a", first), ("b", second), ("state", "pub struct State;")]));
        assert_eq!(found, BTreeSet::from([["a".to_owned(), "b".to_owned()].into()]), "{first}");
    }
    let nested = cycles(&crate_of(&[("a", "mod b; use b::f;"), ("a::b", "use super::g;")]));
    assert_eq!(nested, BTreeSet::from([["a".to_owned(), "a::b".to_owned()].into()]));
    let none = [
        ("a", "use crate::b::f; // crate::a::g\n#[cfg(test)]\nmod tests { use super::*; }"),
        ("b", "const B: &str = \"crate::a\";"),
    ];
    assert_eq!(cycles(&crate_of(&none)), BTreeSet::new());
}
