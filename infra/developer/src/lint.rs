//! What a migration must be like, and the schema that migrations make.
//!
//! Both read what is there, the files and the catalogue, and know no table by name: a table made tomorrow is held to the same
//! rules.

mod catalogue;
mod expression;
mod files;

use std::fmt;

pub use catalogue::{RULES, schema};
pub use files::{file, migrations};

/// Something that must be otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which rule.
    pub rule: &'static str,
    /// The file, or the object in the database.
    pub at: String,
    /// What is wrong with it.
    pub wrong: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.\n    {}. [{}]", self.at, self.wrong, self.remedy, self.rule)
    }
}
