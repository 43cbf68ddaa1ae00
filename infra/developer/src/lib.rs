//! Developers' tasks that tests use too: the lints of migrations and schema, the page that describes the schema, release builds.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

pub mod lint;
pub mod mutants;
pub mod release;
pub mod schema;
