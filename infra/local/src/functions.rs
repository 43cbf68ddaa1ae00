//! Which functions there are, and what wakes them: [`shared::functions`].

pub use shared::functions::{FUNCTIONS, Function, INSIGHTS, LEADS, QUEUES, Queue, RENDERS, Schedule};
