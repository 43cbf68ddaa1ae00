//! What Stripe said, and what of it billing shows.

use chrono::{DateTime, Duration, Utc};
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{StoreError, access::Member};
use crate::db::{CallerTx, DirectoryTx, ServiceTx, Tx};

/// One verified delivery, or one object fetched: what a row of the ledger and its effect are made from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Observation {
    /// The event's id, or one of our own for what has none.
    pub event_id: String,
    /// As in `invoice.paid`.
    pub event_type: Option<String>,
    /// The version its object is written in.
    pub api_version: Option<String>,
    /// When it was so, in Unix seconds by Stripe's clock.
    pub occurred_at: i64,
    /// The object it is about, if it has one with an id.
    pub object_id: Option<String>,
    /// Ids that the object names, each once.
    pub refs: Vec<String>,
    /// The state to apply, if it is of a kind that billing needs.
    #[serde(flatten)]
    pub state: Option<State>,
    /// `ignored`, `unparsed`, `received` or `failed`, where there is no state to apply.
    pub status: Option<&'static str>,
    /// Why it could not be read or applied: names of fields, never their values.
    pub error: Option<String>,
    /// Whether a list in its object was cut short. Then it has no state, and waits until the object was fetched in full.
    pub partial: bool,
    /// Whether to apply it although it was before, as when tables are rebuilt.
    pub again: bool,
}

/// The state of one object.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct State {
    /// As `stripe_objects.kind` has it.
    pub kind: &'static str,
    /// What billing needs of it, without personal data.
    pub facts: Map<String, Value>,
    /// Whether it can change no more.
    pub terminal: bool,
    /// How far along it is, for observations of one second.
    pub rank: i32,
}

/// What came of recording an observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// `applied`, `superseded`, `duplicate`, `ignored`, `unowned`, `unparsed`, `received` or `failed`.
    pub outcome: String,
    /// Whether something waits to be claimed, for which a job was queued: events whose owner is known now, or the rest of what this one
    /// shows in part.
    pub claims: bool,
    /// Whose it is.
    pub org_id: Option<Uuid>,
}

/// Records an observation with its effect and its audit entry. One round trip.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn record(tx: &mut Tx, observation: &Observation, raw: &[u8]) -> Result<Recorded, StoreError> {
    let told = serde_json::to_value(observation).map_err(|error| sqlx::Error::Encode(error.into()))?;
    Ok(sqlx::query_as!(
        Recorded,
        r#"select outcome as "outcome!", claims as "claims!", org_id from app.record_stripe_event($1, $2)"#,
        told,
        raw
    )
    .fetch_one(tx.conn()?)
    .await?)
}

/// An event as it was received.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    /// Its row.
    pub id: Uuid,
    /// Byte for byte.
    pub raw: Vec<u8>,
    /// What came of it.
    pub status: String,
}

/// Makes events that waited for this organisation its own, and lists those of its events that still have no effect, oldest first: those
/// that wait for something of Stripe's, and have an error that says so, after the others.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn claim_events(tx: &mut ServiceTx, org_id: Uuid, most: i32) -> Result<Vec<StoredEvent>, StoreError> {
    sqlx::query!("select count(*) from app.claim_stripe_events($1)", most).fetch_one(tx.conn()?).await?;
    Ok(sqlx::query_as!(
        StoredEvent,
        "select id, raw, status from public.webhook_events
          where org_id = $1 and provider = 'stripe' and status = 'received'
          order by error is not null, occurred_at, id limit $2",
        org_id,
        i64::from(most)
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// The organisation's events after `after`, in the order they came.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn list_events(
    tx: &mut ServiceTx,
    org_id: Uuid,
    after: Option<Uuid>,
    most: i64,
) -> Result<Vec<StoredEvent>, StoreError> {
    Ok(sqlx::query_as!(
        StoredEvent,
        "select id, raw, status from public.webhook_events
          where org_id = $1 and provider = 'stripe' and ($2::uuid is null or id > $2) order by id limit $3",
        org_id,
        after,
        most
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// Keeps deliveries waiting and forgets the state of the organisation's objects, so that its events can be applied anew.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn begin_rebuild(tx: &mut ServiceTx, org_id: Uuid) -> Result<(), StoreError> {
    sqlx::query_scalar!("select app.begin_rebuild($1)", org_id).fetch_one(tx.conn()?).await?;
    Ok(())
}

/// Organisations with events of theirs that have no effect yet, a minute after they came.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn left_events(tx: &mut DirectoryTx, most: i32) -> Result<Vec<Uuid>, StoreError> {
    let orgs = sqlx::query_scalar!("select app.left_stripe_events($1)", most).fetch_all(tx.conn()?).await?;
    Ok(orgs.into_iter().flatten().collect())
}

/// The status that is stored of an object of the organisation's, which is written down as asked about now.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn compare_object(tx: &mut ServiceTx, object_id: &str) -> Result<Option<String>, StoreError> {
    let status = sqlx::query_scalar!(
        "update public.stripe_objects set compared_at = now() where stripe_id = $1 returning facts ->> 'status'",
        object_id
    )
    .fetch_optional(tx.conn()?)
    .await?;
    Ok(status.flatten())
}

/// Removes invoices and subscriptions of which no event tells. How many.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn remove_untold(tx: &mut ServiceTx, org_id: Uuid) -> Result<i64, StoreError> {
    let gone = sqlx::query_scalar!("select app.remove_untold_billing()").fetch_one(tx.conn()?).await?;
    settle_plan(tx, org_id).await?;
    Ok(gone.unwrap_or_default())
}

/// Gives the organisation the plan it pays for. The plan, unless it never had a subscription.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn settle_plan(tx: &mut ServiceTx, org_id: Uuid) -> Result<Option<String>, StoreError> {
    Ok(sqlx::query_scalar!("select app.settle_plan($1)", org_id).fetch_one(tx.conn()?).await?)
}

/// An event of which too little is known to say whose it is.
#[derive(Debug, Clone)]
pub struct UnclearEvent {
    /// Its row.
    pub id: Uuid,
    /// Stripe's id of it.
    pub event_id: String,
    /// Its type.
    pub event_type: Option<String>,
    /// The object it is about.
    pub object_id: Option<String>,
}

/// Thin events, and events whose object names no customer, that Stripe was not asked about yet.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn unclear_events(tx: &mut DirectoryTx, most: i32) -> Result<Vec<UnclearEvent>, StoreError> {
    Ok(sqlx::query_as!(
        UnclearEvent,
        r#"select id as "id!", event_id as "event_id!", event_type, object_id from app.unclear_stripe_events($1)"#,
        most
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// Writes down what Stripe answered about such an event. Whose it is known to be now.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn tell_event(
    tx: &mut DirectoryTx,
    id: Uuid,
    refs: &[String],
    status: &str,
) -> Result<Option<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!("select app.tell_stripe_event($1, $2, $3)", id, refs, status).fetch_one(tx.conn()?).await?)
}

/// Which of these events are not in the ledger.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn unknown_events(tx: &mut DirectoryTx, ids: &[String]) -> Result<Vec<String>, StoreError> {
    let unknown = sqlx::query_scalar!("select app.unknown_stripe_events($1)", ids).fetch_all(tx.conn()?).await?;
    Ok(unknown.into_iter().flatten().collect())
}

/// Which of these objects are an organisation's and not as they are stored.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn adrift(tx: &mut DirectoryTx, objects: &[Observation]) -> Result<Vec<(Uuid, String)>, StoreError> {
    let told: Vec<Value> = objects
        .iter()
        .filter_map(|object| {
            Some(json!({ "id": object.object_id, "refs": object.refs, "facts": object.state.as_ref()?.facts }))
        })
        .collect();
    let rows = sqlx::query!(
        r#"select org_id as "org_id!", object_id as "object_id!" from app.stripe_adrift($1)"#,
        Value::Array(told)
    )
    .fetch_all(tx.conn()?)
    .await?;
    Ok(rows.into_iter().map(|row| (row.org_id, row.object_id)).collect())
}

/// Invoices and subscriptions that may still change, of which nothing was heard for a day.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn stale_objects(tx: &mut DirectoryTx, most: i32) -> Result<Vec<(Uuid, String)>, StoreError> {
    let rows = sqlx::query!(
        r#"select org_id as "org_id!", object_id as "object_id!" from app.stale_stripe_objects($1)"#,
        most
    )
    .fetch_all(tx.conn()?)
    .await?;
    Ok(rows.into_iter().map(|row| (row.org_id, row.object_id)).collect())
}

/// A run of the reconciliation.
#[derive(Debug, Clone)]
pub struct Reconciliation {
    /// Its row.
    pub id: Uuid,
    /// From when on events are compared.
    pub since: DateTime<Utc>,
    /// Until when.
    pub until: DateTime<Utc>,
}

/// What a run found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Events that Stripe listed.
    pub listed: i32,
    /// Those that were not in the ledger.
    pub missed: i32,
    /// Objects that Stripe listed.
    pub compared: i32,
    /// Those that were not as stored.
    pub drifted: i32,
}

/// Begins a run, unless one began within `every`.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn begin_reconciliation(
    tx: &mut DirectoryTx,
    every: Duration,
    now: DateTime<Utc>,
) -> Result<Option<Reconciliation>, StoreError> {
    let row = sqlx::query!(
        "select id, since, until from app.begin_reconciliation(make_interval(secs => $1), $2)",
        every.as_seconds_f64(),
        now
    )
    .fetch_one(tx.conn()?)
    .await?;
    Ok(match (row.id, row.since, row.until) {
        (Some(id), Some(since), Some(until)) => Some(Reconciliation { id, since, until }),
        _ => None,
    })
}

/// Ends a run; with an error it is made again from where it began.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn end_reconciliation(
    tx: &mut DirectoryTx,
    id: Uuid,
    found: Found,
    error: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "select app.end_reconciliation($1, $2, $3, $4, $5, $6)",
        id,
        found.listed,
        found.missed,
        found.compared,
        found.drifted,
        error
    )
    .fetch_one(tx.conn()?)
    .await?;
    Ok(())
}

/// A session of Stripe Checkout, as it was opened.
#[derive(Debug, Clone)]
pub struct Checkout {
    /// Its id, and Stripe's `client_reference_id`.
    pub id: Uuid,
    /// The price that is bought.
    pub stripe_price_id: String,
    /// Where Stripe sends whoever paid.
    pub success_url: String,
    /// Where it sends whoever did not.
    pub cancel_url: String,
    /// The customer it was opened for, if there was one.
    pub customer_id: Option<String>,
    /// Stripe's id, once it is known.
    pub session_id: Option<String>,
    /// Where to send the person.
    pub url: Option<String>,
    /// `creating`, `open`, `complete` or `expired`.
    pub status: String,
    /// Until when it can be paid.
    pub expires_at: DateTime<Utc>,
}

/// Who pays, and what they have.
#[derive(Debug, Clone)]
pub struct Account {
    /// The organisation's customer at Stripe.
    pub stripe_customer_id: Option<String>,
    /// Whether a subscription runs.
    pub subscribed: bool,
    /// The plan that the price is for, if it is for one.
    pub plan: Option<String>,
}

/// Who pays for the organisation, and whether `price` is one that may be bought.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn get_account(tx: &mut CallerTx, member: Member, price: &str) -> Result<Account, StoreError> {
    sqlx::query_as!(
        Account,
        r#"select (select o.stripe_customer_id where not exists (
                      select from public.stripe_objects c where c.stripe_id = o.stripe_customer_id and c.facts ->> 'status' = 'deleted'))
                      as stripe_customer_id,
                  exists (select from public.subscriptions s
                           where s.org_id = o.id and s.status in ('trialing', 'active', 'past_due', 'unpaid', 'paused')) as "subscribed!",
                  (select p.plan from public.plan_prices p where p.stripe_price_id = $2) as plan
             from public.organizations o where o.id = $1"#,
        member.org_id,
        price
    )
    .fetch_optional(tx.conn()?)
    .await?
    .ok_or(StoreError::NotFound { entity: "organization" })
}

/// Checkouts of the organisation that can still be paid, the newest first.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn open_checkouts(tx: &mut CallerTx, member: Member) -> Result<Vec<Checkout>, StoreError> {
    Ok(sqlx::query_as!(
        Checkout,
        "select id, stripe_price_id, success_url, cancel_url, customer_id, session_id, url, status, expires_at
           from public.billing_checkouts
          where org_id = $1 and status in ('creating', 'open') and expires_at > now() order by created_at desc, id limit 20",
        member.org_id
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// A checkout of the organisation.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn get_checkout(tx: &mut CallerTx, member: Member, id: Uuid) -> Result<Checkout, StoreError> {
    sqlx::query_as!(
        Checkout,
        "select id, stripe_price_id, success_url, cancel_url, customer_id, session_id, url, status, expires_at
           from public.billing_checkouts where org_id = $1 and id = $2",
        member.org_id,
        id
    )
    .fetch_optional(tx.conn()?)
    .await?
    .ok_or(StoreError::NotFound { entity: "checkout" })
}

/// Lets nobody else of the organisation begin a checkout before this transaction ends.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn lock_checkouts(tx: &mut CallerTx, member: Member) -> Result<(), StoreError> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('checkout:' || $1::uuid, 0))", member.org_id)
        .fetch_one(tx.conn()?)
        .await?;
    Ok(())
}

/// Writes down that a checkout is about to be opened, with all that Stripe will be told.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn insert_checkout(tx: &mut CallerTx, member: Member, checkout: &Checkout) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into public.billing_checkouts (id, org_id, stripe_price_id, success_url, cancel_url, customer_id, created_by)
         values ($1, $2, $3, $4, $5, $6, $7)",
        checkout.id,
        member.org_id,
        checkout.stripe_price_id,
        checkout.success_url,
        checkout.cancel_url,
        checkout.customer_id,
        member.actor_id
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Writes down the session that Stripe opened; one that has ended meanwhile stays so. False if another request has done so before.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn update_checkout_session(
    tx: &mut CallerTx,
    member: Member,
    id: Uuid,
    session_id: &str,
    url: &str,
    expires_at: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let opened = sqlx::query!(
        "update public.billing_checkouts
            set session_id = $3, url = $4, expires_at = $5, status = case when status = 'creating' then 'open' else status end
          where org_id = $1 and id = $2 and url is null",
        member.org_id,
        id,
        session_id,
        url,
        expires_at
    )
    .execute(tx.conn()?)
    .await?;
    Ok(opened.rows_affected() == 1)
}

/// Writes down that a checkout can be paid no more.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn expire_checkout(tx: &mut CallerTx, member: Member, id: Uuid) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.billing_checkouts set status = 'expired' where org_id = $1 and id = $2 and status in ('creating', 'open')",
        member.org_id,
        id
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// A report of costs to Stripe's meter.
#[derive(Debug, Clone)]
pub struct MeterReport {
    /// Its row, and the identifier Stripe knows it by.
    pub id: Uuid,
    /// The customer that is charged.
    pub customer_id: String,
    /// The end of the period it sums.
    pub period_end: DateTime<Utc>,
    /// What agents cost in it.
    pub cost_micro_usd: i64,
    /// When Stripe was first told.
    pub first_tried_at: Option<DateTime<Utc>>,
}

/// Organisations with a customer whose costs before `before` are in no report yet.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn unreported_costs(tx: &mut DirectoryTx, before: DateTime<Utc>, most: i32) -> Result<Vec<Uuid>, StoreError> {
    let orgs = sqlx::query_scalar!("select app.unreported_costs($1, $2)", before, most).fetch_all(tx.conn()?).await?;
    Ok(orgs.into_iter().flatten().collect())
}

/// Sums what is in no report into new ones, one for each day that has ended before `before`. Each billing event is in one.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn insert_meter_reports(tx: &mut ServiceTx, org_id: Uuid, before: DateTime<Utc>) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar!(r#"select app.insert_meter_reports($1, $2) as "made!""#, org_id, before)
        .fetch_one(tx.conn()?)
        .await?)
}

/// Reports that Stripe has not confirmed.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn open_meter_reports(tx: &mut DirectoryTx, most: i32) -> Result<Vec<(Uuid, Uuid)>, StoreError> {
    let rows =
        sqlx::query!(r#"select org_id as "org_id!", report_id as "report_id!" from app.open_meter_reports($1)"#, most)
            .fetch_all(tx.conn()?)
            .await?;
    Ok(rows.into_iter().map(|row| (row.org_id, row.report_id)).collect())
}

/// The report, written down as tried now, if it is still open.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn try_meter_report(tx: &mut ServiceTx, id: Uuid) -> Result<Option<MeterReport>, StoreError> {
    Ok(sqlx::query_as!(
        MeterReport,
        "with was as (select * from public.meter_reports where id = $1 and status = 'open' for update)
         update public.meter_reports m set first_tried_at = coalesce(m.first_tried_at, now()) from was
          where m.id = was.id
         returning m.id, m.customer_id, m.period_end, m.cost_micro_usd, was.first_tried_at",
        id
    )
    .fetch_optional(tx.conn()?)
    .await?)
}

/// Writes down how a report ended: `reported`, `uncertain` or `refused`.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn end_meter_report(
    tx: &mut ServiceTx,
    id: Uuid,
    status: &str,
    error: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.meter_reports
            set status = $2, error = $3, reported_at = case when $2 = 'reported' then now() end
          where id = $1 and status = 'open'",
        id,
        status,
        error
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}
