//! What a person watches: progress on standard error, results on standard output.

use std::{io::Write, time::Instant};

/// Progress.
pub(crate) fn line(text: &str) {
    // Nobody listening is no reason to stop.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A result.
pub(crate) fn out(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Tells how long something took.
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
