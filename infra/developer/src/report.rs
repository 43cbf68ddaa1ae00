//! What a person watches: progress on standard error, results on standard output.

use std::time::Instant;

pub(crate) use operator::report::{line, out};

/// Says how long something took.
pub(crate) struct Timed {
    what: String,
    begun: Instant,
}

impl Timed {
    pub(crate) fn start(what: &str) -> Self {
        Self { what: what.to_owned(), begun: Instant::now() }
    }

    pub(crate) fn done(self) {
        line(&format!("  {:<52} {:>6.2} s", self.what, self.begun.elapsed().as_secs_f64()));
    }
}
