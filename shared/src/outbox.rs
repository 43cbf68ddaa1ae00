//! Delivers what was written for MongoDB, after commit. The writer drains its own organisation's rows before it answers; what
//! it could not deliver, the sweep finds.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::{
    db::Database,
    documents::{Collection, DocumentError, Documents},
    store::{
        StoreError,
        outbox::{self, OutboxItem},
    },
};

/// How many documents a writer delivers before it answers.
const OWN: i64 = 50;
/// How many documents of one organisation are delivered before it is another's turn.
const TURN: i64 = 100;
/// How many organisations have a turn in one round.
const ROUND: i32 = 500;
/// How long one turn may wait for MongoDB: half of what a claim holds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a batch was not delivered.
#[derive(Debug, thiserror::Error)]
enum Undelivered {
    /// MongoDB does not answer, or serves nobody.
    #[error("MongoDB is away: {0}")]
    Outage(String),
    /// The outbox could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Delivers due documents of `org_id` for at most `limit`. How many arrived. Never fails: what is left is due again later.
pub async fn deliver(db: &Database, documents: &Documents, org_id: Uuid, limit: Duration) -> usize {
    match tokio::time::timeout(limit, turn(db, documents, org_id, OWN, limit)).await {
        Ok(Ok(delivered)) => delivered,
        Ok(Err(error)) => {
            tracing::warn!(%error, "documents are left to the sweep");
            0
        }
        Err(_) => {
            tracing::warn!("MongoDB did not answer in time; the sweep will deliver");
            0
        }
    }
}

/// Delivers due documents of every organisation until `deadline`, each a batch in turn, so that nobody waits for another's backlog. How
/// many arrived. Stops when MongoDB fails once: each further document would wait for it as long.
///
/// # Errors
/// [`StoreError`] if the outbox cannot be read or written.
pub async fn deliver_all(db: &Database, documents: &Documents, deadline: Instant) -> Result<usize, StoreError> {
    let mut delivered = 0;
    loop {
        let orgs = db.directory(async |tx| outbox::due_orgs(tx, ROUND).await).await?;
        let before = delivered;
        for org in orgs {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(delivered);
            }
            match turn(db, documents, org, TURN, left.min(PATIENCE)).await {
                Ok(arrived) => delivered += arrived,
                Err(Undelivered::Store(error)) => return Err(error),
                Err(error @ Undelivered::Outage(_)) => {
                    tracing::warn!(%error, delivered, "nothing more is delivered for now");
                    return Ok(delivered);
                }
            }
        }
        // What is due after a round without any that arrived was put off for a moment only: it has its turn in the next sweep.
        if delivered == before {
            return Ok(delivered);
        }
    }
}

/// Delivers up to `most` due documents of an organisation, if MongoDB takes them within `limit`. How many arrived.
async fn turn(
    db: &Database,
    documents: &Documents,
    org_id: Uuid,
    most: i64,
    limit: Duration,
) -> Result<usize, Undelivered> {
    let items = db.service(org_id, async |tx| outbox::claim_documents(tx, org_id, most).await).await?;
    if items.is_empty() {
        return Ok(0);
    }
    let ids: Vec<Uuid> = items.iter().map(|item| item.id).collect();
    let put = tokio::time::timeout(limit, put(documents, org_id, items)).await;
    let outage = match put {
        Ok(Ok(failed)) => {
            let delivered: Vec<Uuid> =
                ids.into_iter().filter(|id| failed.iter().all(|(failed, _)| failed != id)).collect();
            let written = db.service(org_id, async |tx| {
                outbox::update_delivered(tx, &delivered).await?;
                for (id, error) in &failed {
                    tracing::warn!(outbox.id = %id, error, "a document was not delivered");
                    outbox::update_failed(tx, *id, error).await?;
                }
                Ok::<_, StoreError>(())
            });
            written.await?;
            return Ok(delivered.len());
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it did not answer in time".to_owned(),
    };
    // Some may have arrived; they arrive again, under the same ids.
    db.service(org_id, async |tx| outbox::release(tx, &ids, &outage).await).await?;
    Err(Undelivered::Outage(outage))
}

/// Puts items where they belong. Those that cannot be kept, each with why.
async fn put(
    documents: &Documents,
    org_id: Uuid,
    items: Vec<OutboxItem>,
) -> Result<Vec<(Uuid, String)>, DocumentError> {
    let door = documents.for_org(org_id);
    let mut failed = Vec::new();
    let mut by_collection: Vec<(Collection, Vec<_>)> =
        Collection::ALL.map(|collection| (collection, Vec::new())).into();
    for item in items {
        let wanted = Collection::parse(&item.destination);
        match by_collection.iter_mut().find(|(collection, _)| Some(*collection) == wanted) {
            Some((_, documents)) => documents.push((item.id, item.payload)),
            None => failed.push((item.id, format!("no collection is named {}", item.destination))),
        }
    }
    for (collection, documents) in by_collection {
        let outcomes = door.put_many(collection, &documents).await?;
        let refused = documents.iter().zip(outcomes).filter_map(|((id, _), outcome)| Some((*id, outcome.err()?)));
        failed.extend(refused.map(|(id, error)| (id, error.to_string())));
    }
    Ok(failed)
}
