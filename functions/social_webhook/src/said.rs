//! What one delivered entry says, once it is read.

use shared::{social::Observation, store::social_figures::Figure};

/// What one entry says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Read {
    /// What was so of items.
    pub observations: Vec<Observation>,
    /// Figures of posts.
    pub figures: Vec<Figure>,
    /// Whether the account is to be read: the entry says that something changed, but not what.
    pub fetch: bool,
    /// When the platform took the account's consent back, in milliseconds.
    pub removed: Option<i64>,
    /// How many parts are of no known shape.
    pub unparsed: usize,
    /// How many parts are of a kind that nothing is done about.
    pub ignored: usize,
}

impl Read {
    /// As `webhook_events.status` has it.
    #[must_use]
    pub fn status(&self) -> &'static str {
        let effect = !self.observations.is_empty() || !self.figures.is_empty() || self.fetch || self.removed.is_some();
        match self.unparsed {
            0 if effect => "applied",
            0 => "ignored",
            _ => "unparsed",
        }
    }
}
