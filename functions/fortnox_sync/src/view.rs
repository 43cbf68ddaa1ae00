//! What clients get to see.

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::store::fortnox::{Counts, Listed, SyncState};
use uuid::Uuid;

use crate::pass::Pass;

/// What was last read, and how far the reading is.
#[derive(Debug, Serialize)]
pub(crate) struct SyncView {
    /// When a pass ended last.
    read_at: Option<DateTime<Utc>>,
    /// When one ended that read everything.
    full_at: Option<DateTime<Utc>>,
    /// Up to this day nothing can be booked.
    locked_until: Option<NaiveDate>,
    /// How many there are now.
    counts: Value,
    /// What the last pass came to.
    last: Option<Value>,
    /// How far the pass is that goes on.
    progress: Option<Value>,
}

impl SyncView {
    pub(crate) fn of(state: Option<SyncState>, counts: &Counts) -> Self {
        let state = state.unwrap_or_default();
        let progress = state.pass.as_ref().and_then(|pass| Pass::deserialize(pass).ok()).map(|pass| pass.progress());
        Self {
            read_at: state.read_at,
            full_at: state.full_at,
            locked_until: state.locked_until,
            counts: json!({
                "customers": counts.customers, "deleted_customers": counts.deleted_customers, "years": counts.years,
                "voucher_series": counts.voucher_series, "accounts": counts.accounts, "cost_centers": counts.cost_centers,
            }),
            last: state.read_at.map(|_| state.result),
            progress,
        }
    }
}

/// A page of customers.
#[derive(Debug, Serialize)]
pub(crate) struct CustomersView {
    customers: Vec<CustomerView>,
    /// The number to ask for what comes `after`, if there may be more.
    next: Option<String>,
}

#[derive(Debug, Serialize)]
struct CustomerView {
    customer_number: String,
    name: Option<String>,
    organisation_number: Option<String>,
    active: Option<bool>,
    deleted_at: Option<DateTime<Utc>>,
    synced_at: DateTime<Utc>,
    client: Option<ClientView>,
}

#[derive(Debug, Serialize)]
struct ClientView {
    id: Uuid,
    /// None for a client that the caller may not see.
    name: Option<String>,
}

impl CustomersView {
    pub(crate) fn of(listed: Vec<Listed>, most: i64) -> Self {
        let is_full = i64::try_from(listed.len()).is_ok_and(|rows| rows >= most);
        let next = listed.last().filter(|_| is_full).map(|last| last.customer_number.clone());
        let customers = listed.into_iter().map(|row| CustomerView {
            customer_number: row.customer_number,
            name: row.name,
            organisation_number: row.organisation_number,
            active: row.active,
            deleted_at: row.deleted_at,
            synced_at: row.synced_at,
            client: row.client_id.map(|id| ClientView { id, name: row.client_name }),
        });
        Self { customers: customers.collect(), next }
    }
}
