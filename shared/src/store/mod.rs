//! All SQL of the functions, one module per thing it is about. Every query runs inside a transaction that runs as somebody;
//! row-level security is the guard, and an `org_id` in a query is there for the planner.

pub mod access;
pub mod accounting;
pub mod agent_actions;
pub mod approvals;
pub mod billing;
pub mod cache;
pub mod error_logs;
pub mod fortnox;
pub mod idempotency;
pub mod inbox;
pub mod insights;
pub mod integrations;
pub mod leads;
pub mod mails;
pub mod models;
pub mod outbox;
pub mod pace;
pub mod provider_calls;
pub mod renders;
pub mod settings;
pub mod social;
pub mod social_accounts;
pub mod social_ai;
pub mod social_attachments;
pub mod social_events;
pub mod social_figures;
pub mod social_pace;
pub mod social_posts;
pub mod social_reading;
pub mod social_replies;
pub mod social_tokens;
pub mod templates;

use sqlx::postgres::PgDatabaseError;

use crate::db::DbError;

/// Why a store call failed. Knows nothing about HTTP.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is not there, or not for this caller to see.
    #[error("{entity} not found")]
    NotFound {
        /// What was looked for, as in `render_request`.
        entity: &'static str,
    },
    /// The caller belongs to no organisation, or may not do this in it.
    #[error("not allowed: {permission}")]
    Forbidden {
        /// The `resource:action` that is missing.
        permission: &'static str,
    },
    /// Who calls works in no organisation: a session that was ended, a stranger, an organisation that is not theirs.
    #[error("the caller is in no organisation")]
    NoOrganisation,
    /// The same idempotency key came with another request.
    #[error("idempotency key used for another request")]
    KeyReused,
    /// What is stored is not of the shape that this code knows.
    #[error("{what} cannot be read")]
    Unreadable {
        /// What it is.
        what: &'static str,
        /// Where it departs.
        #[source]
        error: serde_json::Error,
    },
    /// The database failed.
    #[error("database call failed")]
    Database(#[from] sqlx::Error),
    /// No transaction could be begun or ended.
    #[error("no transaction")]
    Transaction(#[from] DbError),
}

/// What a function of the database refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status that says so.
    pub status: u16,
    /// Stable code.
    pub code: String,
    /// What to do about it.
    pub detail: String,
}

impl StoreError {
    /// The database's own code of what it refused (SQLSTATE), if it answered.
    #[must_use]
    pub fn database_code(&self) -> Option<String> {
        let Self::Database(error) = self else { return None };
        Some(error.as_database_error()?.code()?.into_owned())
    }

    /// What a function of the database refused in its own words: SQLSTATE `PT` with the HTTP status, the code as message.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        let Self::Database(error) = self else { return None };
        let refused = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
        let status = refused.code().strip_prefix("PT")?.parse().ok()?;
        let detail = refused.detail().unwrap_or_default().to_owned();
        Some(Refusal { status, code: refused.message().to_owned(), detail })
    }
}
