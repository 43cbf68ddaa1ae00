//! The documents: every link between them leads somewhere, and the front page stays short.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The most lines that README.md may have.
const FRONT_PAGE: usize = 130;

/// Every Markdown file of the checkout, without what is installed or built.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && !name.starts_with('.') {
                pages(&entry.path(), found);
            }
        } else if name.ends_with(".md") {
            found.push(entry.path());
        }
    }
}

fn without_code_blocks(text: &str) -> String {
    let mut in_block = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// Where the links of a page lead. A span of code holds none, and ends with its paragraph at the latest.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    for paragraph in without_code_blocks(text).split("\n\n") {
        let prose: String = paragraph.split('`').step_by(2).collect();
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        links.extend(targets.map(|(target, _)| target.to_owned()));
    }
    links
}

/// The names under which a page's headings can be linked to, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let anchor = |heading: &str| {
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    let text = without_code_blocks(text);
    text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut found = Vec::new();
    pages(Path::new(ROOT), &mut found);
    let mut known = BTreeMap::<PathBuf, BTreeSet<String>>::new();
    let (mut followed, mut dead) = (0, Vec::new());
    for page in &found {
        let text = fs::read_to_string(page).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            followed += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link.as_str(), ""));
            let to = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let leads = to.exists()
                && (heading.is_empty()
                    || known
                        .entry(to.clone())
                        .or_insert_with(|| anchors(&fs::read_to_string(&to).unwrap()))
                        .contains(heading));
            if !leads {
                dead.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(followed > 100, "only {followed} links were found");
    assert!(dead.is_empty(), "links that lead nowhere:\n{}", dead.join("\n"));
}

#[test]
fn the_front_page_is_short() {
    let lines = fs::read_to_string(format!("{ROOT}/README.md")).unwrap().lines().count();
    assert!(lines <= FRONT_PAGE, "README.md has {lines} lines, more than {FRONT_PAGE}: move what few need to docs/");
}
