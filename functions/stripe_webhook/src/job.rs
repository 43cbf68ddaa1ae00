//! Jobs of billing: what deliveries and changes of plans leave to be done.

use serde::Deserialize;
use shared::worker;

/// Asks Stripe for an object of which two observations of one second differ.
pub(crate) const SETTLE: &str = "stripe_settle";
/// Applies events that waited for their owner, or for the rest of an object.
pub(crate) const CLAIM: &str = "stripe_claim";
/// Gives the organisation the plan it pays for.
pub(crate) const PLAN: &str = "stripe_plan";

/// What the job is about.
#[derive(Debug, Deserialize)]
pub(crate) struct Payload {
    /// The object to ask for; for [`SETTLE`] alone.
    pub(crate) object_id: Option<String>,
}

/// A job that a worker holds.
pub(crate) type Held = worker::Held<Payload>;
