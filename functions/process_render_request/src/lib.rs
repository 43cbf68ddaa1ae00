//! Takes a photo of a room to a finished render: admits the request, has Claude write the brief and Gemini make the picture,
//! stores it, and accounts for it.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

mod call;
mod colour;
mod container;
mod fallback;
mod geometry;
mod handler;
mod header;
mod job;
mod jpeg;
pub mod mark;
mod outcome;
pub mod photo;
mod pictures;
mod request;
mod state;
mod view;
mod work;

pub use handler::handle;
pub use state::State;
