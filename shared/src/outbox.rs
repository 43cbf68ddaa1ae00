//! Delivers what was written for MongoDB, after commit. The writer drains its own organisation's rows before it answers; what
//! it could not deliver, the sweep finds.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    db::Database,
    documents::{Collection, Documents},
    store::{StoreError, outbox},
};

/// How many documents are delivered in one go.
const BATCH: i64 = 50;

/// Delivers due documents of `org_id` for at most `limit`. How many arrived. Never fails: what is left is due again later.
pub async fn deliver(db: &Database, documents: &Documents, org_id: Uuid, limit: Duration) -> usize {
    match tokio::time::timeout(limit, deliver_batch(db, documents, org_id)).await {
        Ok(Ok(delivered)) => delivered,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the outbox could not be read");
            0
        }
        Err(_) => {
            tracing::warn!("MongoDB did not answer in time; the sweep will deliver");
            0
        }
    }
}

async fn deliver_batch(db: &Database, documents: &Documents, org_id: Uuid) -> Result<usize, StoreError> {
    let mut tx = db.service_tx(org_id).await?;
    let items = outbox::claim_documents(&mut tx, org_id, BATCH).await?;
    tx.commit().await?;
    if items.is_empty() {
        return Ok(0);
    }

    let door = documents.for_org(org_id);
    let (mut delivered, mut failed) = (Vec::new(), Vec::new());
    for item in items {
        let outcome = match Collection::parse(&item.destination) {
            Some(collection) => door.put(collection, item.id, item.payload).await.map_err(|error| error.to_string()),
            None => Err(format!("no collection is named {}", item.destination)),
        };
        match outcome {
            Ok(()) => delivered.push(item.id),
            Err(error) => {
                tracing::warn!(outbox.id = %item.id, attempts = item.attempts, error, "a document was not delivered");
                failed.push((item.id, error));
            }
        }
    }

    let mut tx = db.service_tx(org_id).await?;
    outbox::update_delivered(&mut tx, &delivered).await?;
    for (id, error) in &failed {
        outbox::update_failed(&mut tx, *id, error).await?;
    }
    tx.commit().await?;
    Ok(delivered.len())
}
