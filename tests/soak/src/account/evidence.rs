//! What the account compares the rows with, and how it comes into the session that asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use mongodb::{
    Client,
    bson::{Document, deserialize_from_document},
};
use sandbox::{
    Sandbox,
    stripe::{InvoiceFacts, SubscriptionFacts},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::documents::Collection;
use sqlx::{Executor, PgConnection};
use uuid::Uuid;

use crate::ledger::Accepted;

/// Answers by route, status (0: none came) and code.
pub type Answers = BTreeMap<(String, u16, String), usize>;

/// Why work may fail here, by name: photos, prices and rows are as they should be, so nothing may be said to be wrong with those.
const FAILURES: [&str; 25] = [
    "answer_malformed",
    "answer_truncated",
    "answer_without_image",
    "attempts_exhausted",
    "dependency_unavailable",
    "lead_closed",
    "limit_reached",
    "limit_too_small",
    "limiter_unavailable",
    "model_refused",
    "prompt_blocked",
    "provider_key_refused",
    "provider_model_unknown",
    "provider_overloaded",
    "provider_quota_spent",
    "provider_rate_limited",
    "provider_request_invalid",
    "provider_spend_cap",
    "provider_timeout",
    "provider_unreachable",
    "render_not_a_picture",
    "render_wrong_shape",
    "secret_unavailable",
    "storage_unavailable",
    "time_out",
];

const TABLES: &str = "
    create temp table soak_accepted (kind text, org_id uuid, id uuid, key text, actor_id uuid);
    create temp table soak_failures (code text);
    create temp table soak_personal (value text);
    create temp table soak_people (id uuid, org_id uuid);
    create temp table soak_files (path text, bytes bigint, sha256 bytea);
    create temp table soak_documents (collection text, id text, body jsonb);
    create temp table soak_asked (provider text, requests bigint);
    create temp table soak_customers (customer text, org_id uuid);
    create temp table soak_events (id text, delivered boolean, body jsonb);
    create temp table soak_subscriptions (id text, org_id uuid, status text, prices text[], quantity bigint, period_start bigint,
        period_end bigint, cancel_at_period_end boolean, ended_at bigint, latest_invoice text);
    create temp table soak_invoices (id text, org_id uuid, status text, amount bigint, due bigint, paid bigint, remaining bigint,
        attempts integer, subscription text);
    create temp table soak_metered (identifier text, value bigint);";

/// What the outside was told and the sandbox did.
#[derive(Debug, Default)]
pub struct Evidence {
    accepted: Vec<Accepted>,
    personal: Vec<String>,
    people: Vec<(Uuid, Uuid)>,
    /// Stored files: path, bytes and SHA-256.
    files: Vec<Value>,
    /// Documents in MongoDB.
    documents: Vec<Value>,
    /// Requests that each provider counted.
    asked: Vec<Value>,
    /// Customers of organisations.
    customers: BTreeMap<String, Uuid>,
    events: Vec<Value>,
    subscriptions: Vec<Value>,
    invoices: Vec<Value>,
    metered: Vec<Value>,
}

impl Evidence {
    /// What was `accepted`; values that must be readable nowhere; and people and agents, each with the one organisation they work in.
    #[must_use]
    pub fn new(accepted: Vec<Accepted>, personal: Vec<String>, people: Vec<(Uuid, Uuid)>) -> Self {
        Self { accepted, personal, people, ..Self::default() }
    }

    /// Gathers what the sandbox did. `customers` are those whose checkouts were organisations', `delivered` the events answered with 2xx.
    #[must_use]
    pub fn of_sandbox(
        mut self,
        sandbox: &Sandbox,
        customers: &BTreeMap<String, Uuid>,
        delivered: &BTreeSet<String>,
    ) -> Self {
        self.asked = [("anthropic", &sandbox.anthropic), ("gemini", &sandbox.gemini)]
            .map(|(provider, script)| json!({ "provider": provider, "requests": script.count() }))
            .into();
        self.customers = customers.clone();
        let (mut subscriptions, mut invoices) = (BTreeSet::new(), BTreeSet::new());
        for event in sandbox.stripe.events() {
            let Some(id) = event["id"].as_str() else { continue };
            let object = &event["data"]["object"];
            if let Some(id) = object["id"].as_str() {
                match object["object"].as_str() {
                    Some("subscription") => drop(subscriptions.insert(id.to_owned())),
                    Some("invoice") => drop(invoices.insert(id.to_owned())),
                    _ => {}
                }
            }
            self.events.push(json!({ "id": id, "delivered": delivered.contains(id), "body": event }));
        }
        for found in subscriptions.iter().filter_map(|id| sandbox.stripe.subscription(id)) {
            self.subscriptions.extend(customers.get(&found.customer).map(|org| subscription(&found, *org)));
        }
        for found in invoices.iter().filter_map(|id| sandbox.stripe.invoice(id)) {
            self.invoices.extend(customers.get(&found.customer).map(|org| invoice(&found, *org)));
        }
        self.metered = sandbox
            .stripe
            .meter_events()
            .iter()
            .map(|told| json!({ "identifier": told.identifier, "value": told.value() }))
            .collect();
        self
    }

    /// Gathers every stored file below `directory`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_files(mut self, directory: &Path) -> Result<Self> {
        let mut folders = vec![directory.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let bytes = std::fs::read(&path)?;
                let name = path.strip_prefix(directory)?.to_string_lossy().into_owned();
                let sha256 = format!("\\x{}", hex::encode(Sha256::digest(&bytes)));
                self.files.push(json!({ "path": name, "bytes": bytes.len(), "sha256": sha256 }));
            }
        }
        Ok(self)
    }

    /// Gathers every document of every collection.
    ///
    /// # Errors
    /// If MongoDB does not answer.
    pub async fn of_documents(mut self, uri: &str, database: &str) -> Result<Self> {
        let client = Client::with_uri_str(uri).await?;
        for collection in Collection::ALL {
            let documents = client.database(database).collection::<Document>(collection.name());
            let mut found = documents.find(Document::new()).await?;
            while let Some(document) = found.try_next().await? {
                let body: Value = deserialize_from_document(document)?;
                self.documents.push(json!({ "collection": collection.name(), "id": body["_id"], "body": body }));
            }
        }
        Ok(self)
    }

    /// Puts it into temporary tables of this connection, which it makes.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn load(&self, conn: &mut PgConnection) -> Result<()> {
        conn.execute(TABLES).await?;
        let accepted = self.accepted.iter().map(|accepted| {
            json!({ "kind": accepted.kind, "org_id": accepted.org, "id": accepted.id, "key": accepted.key, "actor_id": accepted.actor })
        });
        let people = self.people.iter().map(|(id, org)| json!({ "id": id, "org_id": org }));
        let customers = self.customers.iter().map(|(customer, org)| json!({ "customer": customer, "org_id": org }));
        for (table, rows) in [
            ("soak_accepted", accepted.collect::<Vec<_>>()),
            ("soak_failures", FAILURES.map(|code| json!({ "code": code })).into()),
            ("soak_personal", self.personal.iter().map(|value| json!({ "value": value })).collect()),
            ("soak_people", people.collect()),
            ("soak_files", self.files.clone()),
            ("soak_documents", self.documents.clone()),
            ("soak_asked", self.asked.clone()),
            ("soak_customers", customers.collect()),
            ("soak_events", self.events.clone()),
            ("soak_subscriptions", self.subscriptions.clone()),
            ("soak_invoices", self.invoices.clone()),
            ("soak_metered", self.metered.clone()),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(format!(
                "insert into {table} select * from jsonb_populate_recordset(null::{table}, $1)"
            )))
            .bind(Value::from(rows))
            .execute(&mut *conn)
            .await
            .with_context(|| format!("{table} cannot be filled"))?;
        }
        // Joined on every side, and never looked at by autovacuum.
        conn.execute("analyze").await?;
        Ok(())
    }
}

fn subscription(found: &SubscriptionFacts, org: Uuid) -> Value {
    let (start, end) = found.current_period();
    let prices: Vec<&str> = found.items.iter().map(|item| item.price.id.as_str()).collect();
    json!({
        "id": found.id, "org_id": org, "status": found.status, "prices": prices,
        "quantity": found.items.first().map_or(1, |item| item.quantity), "period_start": start, "period_end": end,
        "cancel_at_period_end": found.cancel_at_period_end, "ended_at": found.ended_at, "latest_invoice": found.latest_invoice,
    })
}

fn invoice(found: &InvoiceFacts, org: Uuid) -> Value {
    json!({
        "id": found.id, "org_id": org, "status": if found.deleted { json!("deleted") } else { json!(found.status) },
        "amount": found.total(), "due": found.amount_due(), "paid": found.amount_paid, "remaining": found.amount_remaining(),
        "attempts": found.attempt_count, "subscription": found.subscription,
    })
}
