//! Mails in the outbox: what is due, with the address it goes to now, and what became of it.

use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::db::{DirectoryTx, ServiceTx};

/// A mail that was taken for delivery.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimedMail {
    /// The outbox' row.
    pub id: Uuid,
    /// How often delivery was tried, this time included.
    pub attempts: i32,
    /// The kind of the notification.
    pub kind: String,
    /// Its subject: ids and plain facts.
    pub subject: Value,
    /// The notification's id, or that of the invitation.
    pub message_id: Option<Uuid>,
    /// Where it goes; none if it must not be sent.
    pub address: Option<String>,
    /// `en`, `sv`, or none where the person has not said.
    pub language: Option<String>,
    /// What the organisation is called.
    pub organization: String,
    /// What lets one in, of an invitation. Made for this attempt, and kept nowhere.
    pub token: Option<String>,
    /// Why it must not be sent, if so: a word of `app.claim_mails`.
    pub dropped: Option<String>,
}

/// Organisations that have mail to deliver, the one whose mail has been due the longest first.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn due_orgs(tx: &mut DirectoryTx, most: i32) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(r#"select app.due_mail_orgs($1) as "org!""#, most).fetch_all(tx.conn()?).await?)
}

/// Takes up to `most` due mails of the transaction's organisation; nobody else takes them for two minutes.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn claim(tx: &mut ServiceTx, most: i32) -> Result<Vec<ClaimedMail>, StoreError> {
    Ok(sqlx::query_as!(
        ClaimedMail,
        r#"select id as "id!", attempts as "attempts!", kind as "kind!", subject as "subject!", message_id, address, language,
                  organization as "organization!", token, dropped
             from app.claim_mails($1)"#,
        most
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// Puts a mail off by minutes, longer each time, up to an hour.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn update_put_off(tx: &mut ServiceTx, id: Uuid, error: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.outbox
            set last_error = $2, next_attempt_at = now() + least(interval '1 hour', interval '1 minute' * power(2, least(attempts, 6) - 1))
          where id = $1",
        id,
        error
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Ends a mail that is not sent, and says why.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn update_dropped(tx: &mut ServiceTx, id: Uuid, why: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.outbox set dropped_at = now(), last_error = $2 where id = $1 and kind = 'mail'",
        id,
        why
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}
