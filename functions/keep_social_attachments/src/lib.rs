//! Keeps the files that social messages come with, before their addresses expire.

mod fetch;
mod handler;
mod state;
mod work;

pub use handler::handle;
pub use state::State;
