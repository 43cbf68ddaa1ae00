//! Takes a photo of a room to a finished render: admits the request, has Claude write the brief and Gemini make the picture,
//! stores it, and accounts for it.

mod handler;
mod outcome;
pub mod photo;
mod request;
mod state;
mod view;
mod work;

pub use handler::handle;
pub use state::State;
