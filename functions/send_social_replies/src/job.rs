//! What jobs of this function are about.

use serde::Deserialize;
use shared::worker;
use uuid::Uuid;

/// The kill switch in `system_settings`.
pub(crate) const SWITCH: &str = "social.enabled";

/// Which reply is to be sent.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Payload {
    pub(crate) reply_id: Uuid,
}

/// A job that this worker holds.
pub(crate) type Held = worker::Held<Payload>;
