//! The audit log: what was done, on what grounds, with what result. Entries commit with what they speak of.
//!
//! Who acts is taken from the transaction. Personal values enter only sealed under their subject's key, so that erasing a person
//! means destroying one key while every digest stays valid.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    db::Tx,
    seal::{Aad, SealError, SealingKey, SubjectKey},
    secrets::{Secret, SecretError, Secrets},
    store::StoreError,
};

/// Why an entry could not be written. Nothing may then be committed.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The database failed.
    #[error("the audit entry was not stored")]
    Store(#[from] StoreError),
    /// The key that wraps subject keys is not to be had.
    #[error("the audit key is not available")]
    Secret(#[from] SecretError),
    /// A subject key could not be opened or used.
    #[error("a personal value could not be sealed")]
    Seal(#[from] SealError),
}

/// The key that wraps subject keys; secret `AUDIT_KEY`, with `AUDIT_KEY_PREVIOUS` accepted while it is rotated.
#[derive(Debug, Clone)]
pub struct AuditKeys {
    current: SealingKey,
    previous: Option<SealingKey>,
}

impl AuditKeys {
    /// Fetches the key. Call it before the transaction: nothing calls the network inside one.
    ///
    /// # Errors
    /// [`AuditError::Secret`] or [`AuditError::Seal`] if it is missing or not 32 bytes of base64.
    pub async fn fetch(secrets: &Arc<Secrets>) -> Result<Self, AuditError> {
        let current = SealingKey::from_secret(&secrets.get(Secret::AuditKey).await?)?;
        let previous = match secrets.previous(Secret::AuditKey).await? {
            Some(value) => Some(SealingKey::from_secret(&value)?),
            None => None,
        };
        Ok(Self { current, previous })
    }

    /// A person whose values can be sealed in this transaction. One round trip.
    ///
    /// # Errors
    /// [`AuditError`] if the key cannot be read or opened.
    pub async fn subject(&self, tx: &mut Tx, org_id: Uuid, subject_id: Uuid) -> Result<Subject, AuditError> {
        let fresh = SubjectKey::generate().wrap(&self.current, org_id, subject_id)?;
        let wrapped = sqlx::query_scalar!("select app.subject_key($1, $2)", subject_id, fresh)
            .fetch_one(tx.conn().map_err(StoreError::from)?)
            .await
            .map_err(StoreError::from)?;
        let key = match wrapped {
            Some(wrapped) => {
                Some(SubjectKey::unwrap(&wrapped, &self.current, self.previous.as_ref(), org_id, subject_id)?)
            }
            None => None,
        };
        Ok(Subject { org_id, id: subject_id, key })
    }
}

/// Somebody whose personal values an entry carries.
#[derive(Debug)]
pub struct Subject {
    org_id: Uuid,
    id: Uuid,
    /// None once it was destroyed: then nothing more is recorded of them.
    key: Option<SubjectKey>,
}

impl Subject {
    /// Whose values these are.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The value, sealed for the audit log's `field`: `{"sealed": "v1…", "subject": id}`; null if the person was erased.
    ///
    /// # Errors
    /// [`SealError`] if the cipher refuses, which it does for no input this small.
    pub fn seal(&self, field: &'static str, value: &str) -> Result<Value, SealError> {
        Ok(match self.seal_text(field, value)? {
            Some(sealed) => json!({ "sealed": sealed, "subject": self.id }),
            None => Value::Null,
        })
    }

    /// As [`Subject::seal`], for a text column.
    ///
    /// # Errors
    /// As [`Subject::seal`].
    pub fn seal_text(&self, field: &'static str, value: &str) -> Result<Option<String>, SealError> {
        let aad = Aad { org_id: self.org_id, table: "audit_log", column: field, key_version: 1 };
        self.key.as_ref().map(|key| key.seal(&aad, value.as_bytes())).transpose()
    }
}

/// One entry. Personal values in it must have been sealed by a [`Subject`].
#[derive(Debug, Clone, Default)]
pub struct Entry<'a> {
    /// What was done, as in `render.completed`.
    pub action: &'a str,
    /// The table it was done to.
    pub resource_type: &'a str,
    /// The row it was done to.
    pub record_id: String,
    /// What went in.
    pub input: Value,
    /// What was decided, and why.
    pub decision: Value,
    /// What came out.
    pub output: Value,
    /// Anything else.
    pub metadata: Value,
    /// Where from, sealed.
    pub ip: Option<String>,
    /// With what, sealed.
    pub user_agent: Option<String>,
    /// The request it belongs to.
    pub request_id: Option<&'a str>,
    /// Whose personal data it touches.
    pub subject_ids: Vec<Uuid>,
}

/// Appends an entry to the log, in this transaction's name.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn append(tx: &mut Tx, entry: &Entry<'_>) -> Result<(), StoreError> {
    sqlx::query_scalar!(
        "select app.append_audit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        entry.action,
        entry.resource_type,
        entry.record_id,
        entry.input,
        entry.decision,
        entry.output,
        entry.metadata,
        entry.ip,
        entry.user_agent,
        entry.request_id,
        &entry.subject_ids
    )
    .fetch_one(tx.conn()?)
    .await?;
    Ok(())
}
