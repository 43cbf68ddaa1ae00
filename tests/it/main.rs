//! Tests of behaviour, against real servers and the very binaries that are deployed. Run with `./spine test`.

// A test awaits a whole stack, whose futures nest deeper than the compiler looks by itself.
#![recursion_limit = "256"]
#![allow(clippy::disallowed_methods, reason = "tests connect to servers of their own, on this machine")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")]

mod access;
mod agent_actions;
mod alarms;
mod approvals;
mod assign;
mod attacks;
mod audit;
mod aws;
mod browser;
mod commands;
mod crashes;
mod database;
mod docs;
mod documents;
mod edges;
mod errors;
mod faults;
mod features;
mod fortnox;
mod input;
mod insights;
mod isolation;
mod jobs;
mod ladder;
mod launcher;
mod limits;
mod lint;
mod marks;
mod migrations;
mod models;
mod modules;
mod mutants;
mod mutations;
mod names;
mod notifications;
mod operator;
mod outbox;
mod photos;
mod plans;
mod pooler;
mod privileges;
mod rebuild;
mod release;
mod renders;
mod renewals;
mod requests;
mod restore;
mod rotation;
mod routes;
mod rules;
mod schedules;
mod schema;
mod social;
mod social_ai;
mod social_fetch;
mod social_files;
mod social_inbox;
mod social_lead;
mod social_oauth;
mod social_replies;
mod social_webhook;
mod stripe;
mod supabase;
mod template;
mod tls;
mod tokens;
mod unreported;
mod vectors;
mod waits;
mod worker;
mod workflows;
mod zones;

/// The oldest and the newest Postgres.
const SERVERS: [integration_tests::Server; 2] =
    [integration_tests::Server::Postgres16, integration_tests::Server::Postgres18];
