//! What every function stands on: configuration, secrets, verified callers, transactions that run as somebody, limits, jobs,
//! audit, and the doors to storage, documents and models.
//!
//! Modules are named for the question they answer. Heavy dependencies sit behind features, so that a function links only
//! what it uses.

#![warn(missing_docs)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

#[cfg(feature = "ai")]
pub mod ai;
pub mod audit;
pub mod auth;
mod aws;
pub mod books;
pub mod clients;
pub mod config;
pub mod consent;
pub mod db;
#[cfg(feature = "documents")]
pub mod documents;
pub mod download;
pub mod envelope;
pub mod functions;
pub mod http;
pub mod jobs;
pub mod lambda;
pub mod lead_words;
pub mod limits;
#[cfg(feature = "mail")]
pub mod mail;
#[cfg(feature = "objects")]
pub mod objects;
pub mod origins;
#[cfg(feature = "documents")]
pub mod outbox;
pub mod pace;
pub mod postgres;
#[cfg(feature = "queue")]
pub mod queue;
pub mod schedule;
pub mod seal;
pub mod secrets;
pub mod social;
pub mod state;
pub mod store;
pub mod telemetry;
pub mod tokens;
pub mod webhook;
pub mod worker;

pub use clients::http_client;
