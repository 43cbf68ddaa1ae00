//! A walk through the pages of a list that changes while it is read.
//!
//! A row that goes away moves all that follow it, so that the next page would begin after rows that nobody read. So pages overlap: each begins
//! some rows before the end of the one before. As long as it holds a row of that one, nothing that was between them is lost, however the list
//! is sorted. If it holds none, the walk goes back until one does.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use shared::books::PAGE;

/// How many rows two pages share, if nothing moves.
const OVERLAP: usize = 20;

/// Where a walk is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Walk {
    /// How many rows the next page skips.
    pub(crate) offset: usize,
    /// The page before.
    last: Vec<String>,
}

/// What a page was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It joins the one before; so many of its rows are new, and more may follow.
    Joined(usize),
    /// The same, and it is the last.
    End(usize),
    /// Rows are missing before it: it is to be asked for from further back.
    Back,
}

impl Walk {
    /// Looks at the keys of the page that was asked for.
    pub(crate) fn step(&mut self, keys: Vec<String>) -> Step {
        let known: HashSet<&String> = self.last.iter().collect();
        let new = keys.iter().filter(|key| !known.contains(key)).count();
        if self.offset > 0 && new == keys.len() {
            self.offset = self.offset.saturating_sub(PAGE - OVERLAP);
            return Step::Back;
        }
        let is_last = keys.len() < PAGE;
        self.last = keys;
        if is_last {
            return Step::End(new);
        }
        self.offset += PAGE - OVERLAP;
        Step::Joined(new)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Walks through a list that `change` changes before each page but the first.
    fn walked(rows: usize, change: impl Fn(usize, &mut Vec<usize>)) -> (Vec<usize>, BTreeSet<String>, usize) {
        let mut list: Vec<usize> = (0..rows).collect();
        let (mut walk, mut read, mut pages) = (Walk::default(), BTreeSet::new(), 0);
        loop {
            if pages > 0 {
                change(pages, &mut list);
            }
            pages += 1;
            let keys: Vec<String> = list.iter().skip(walk.offset).take(PAGE).map(ToString::to_string).collect();
            let step = walk.step(keys.clone());
            if step != Step::Back {
                read.extend(keys);
            }
            if matches!(step, Step::End(_)) {
                return (list, read, pages);
            }
        }
    }

    fn none_lost(rows: usize, change: impl Fn(usize, &mut Vec<usize>)) -> usize {
        let (list, read, pages) = walked(rows, change);
        for row in list {
            assert!(read.contains(&row.to_string()), "{row} is lost");
        }
        pages
    }

    #[test]
    fn ten_thousand_rows_are_21_pages() {
        assert_eq!(none_lost(10_000, |_, _| {}), 21);
        assert_eq!(none_lost(0, |_, _| {}), 1);
        assert_eq!(none_lost(500, |_, _| {}), 2);
    }

    #[test]
    fn no_row_is_lost_when_rows_that_were_read_go_away() {
        // As many as two pages share at most: nothing is asked for twice.
        assert_eq!(none_lost(10_000, |_, list| drop(list.drain(..19))), 21);
        // More than that, also all that the page before had.
        assert!(
            none_lost(5000, |page, list| if page == 3 {
                drop(list.drain(..900))
            }) > 9
        );
        assert!(
            none_lost(5000, |page, list| if page == 2 {
                drop(list.drain(480..980))
            }) > 10
        );
        none_lost(5000, |page, list| {
            if page == 4 {
                list.truncate(3)
            }
        });
        none_lost(5000, |page, list| {
            if page == 4 {
                list.clear()
            }
        });
    }

    #[test]
    fn rows_that_come_between_are_no_reason_to_go_back() {
        assert_eq!(none_lost(5000, |page, list| list.push(100_000 + page)), 11);
        let (_, read, _) = walked(5000, |page, list| list.insert(0, 100_000 + page));
        assert!((0..5000).all(|row| read.contains(&row.to_string())));
    }
}
