//! What a person watches: progress on standard error, results on standard output.

use std::io::Write;

/// Progress.
pub fn line(text: &str) {
    // Nobody listening is no reason to stop.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A result.
pub fn out(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
