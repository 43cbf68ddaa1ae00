//! Understands what people write to an organisation's social accounts: how it sounds, and what could be answered.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")
)]

pub mod rules;
