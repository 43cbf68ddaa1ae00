//! The gate: who is this, in which organisation, and may they?

use uuid::Uuid;

use super::StoreError;
use crate::{db::CallerTx, telemetry};

/// Somebody who belongs to an organisation and may do what they asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The organisation this transaction works in.
    pub org_id: Uuid,
    /// The person or agent.
    pub actor_id: Uuid,
    /// The person, unless it is an agent.
    pub user_id: Option<Uuid>,
    /// The agent, unless it is a person.
    pub agent_id: Option<Uuid>,
}

/// Checks that the caller may do `permission` (`resource:action`) in the organisation they work in.
///
/// The policies check again; this gives the good error.
///
/// # Errors
/// [`StoreError::NoOrganisation`], [`StoreError::Forbidden`], [`StoreError::Database`].
pub async fn enter(tx: &mut CallerTx, permission: &'static str) -> Result<Member, StoreError> {
    let (member, allowed) = identify(tx, permission).await?;
    if allowed { Ok(member) } else { Err(StoreError::Forbidden { permission }) }
}

/// Who the caller is, where the policies alone decide what they may do.
///
/// # Errors
/// [`StoreError::NoOrganisation`], [`StoreError::Database`].
pub async fn member(tx: &mut CallerTx) -> Result<Member, StoreError> {
    Ok(identify(tx, "").await?.0)
}

async fn identify(tx: &mut CallerTx, permission: &str) -> Result<(Member, bool), StoreError> {
    let row = sqlx::query!(
        r#"select org_id, user_id, agent_id, coalesce(allowed, false) as "allowed!" from app.enter($1)"#,
        permission
    )
    .fetch_one(tx.conn()?)
    .await?;
    let (Some(org_id), Some(actor_id)) = (row.org_id, row.user_id.or(row.agent_id)) else {
        return Err(StoreError::NoOrganisation);
    };
    telemetry::works_for(org_id, Some(actor_id));
    Ok((Member { org_id, actor_id, user_id: row.user_id, agent_id: row.agent_id }, row.allowed))
}
