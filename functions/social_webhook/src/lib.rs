//! What Meta and TikTok deliver: verified as raw bytes, split into entries, stored for each organisation its own, and answered; then
//! merged into the inbox by a worker.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod body;
mod handler;
mod json;
mod meta;
mod read;
mod said;
mod state;
mod tiktok;
mod work;

pub use handler::handle;
pub use read::read;
pub use said::Read;
pub use state::State;
