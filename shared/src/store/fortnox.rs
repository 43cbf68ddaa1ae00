//! What was read of an organisation's Fortnox, how far the reading is, and clients that customers become.

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::StoreError;
use crate::{
    books::{Account, CostCenter, Customer, Series, Year},
    db::{CallerTx, DirectoryTx, ServiceTx, Tx},
};

/// How far the reading is.
#[derive(Debug, Clone, Default)]
pub struct SyncState {
    /// The pass that is not at its end.
    pub pass: Option<Value>,
    /// Whether the next pass is to read everything.
    pub full_wanted: bool,
    /// When the last complete reading of customers began.
    pub customers_since: Option<DateTime<Utc>>,
    /// The same for accounts.
    pub accounts_since: Option<DateTime<Utc>>,
    /// When the last pass ended.
    pub read_at: Option<DateTime<Utc>>,
    /// When the last full pass ended.
    pub full_at: Option<DateTime<Utc>>,
    /// Up to this day nothing can be booked.
    pub locked_until: Option<NaiveDate>,
    /// What the last pass came to.
    pub result: Value,
}

/// Queues the reading of the organisation's Fortnox, or finds the job that is open. For a person in their own name, or the system. None
/// where Fortnox is not connected.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn admit_sync(tx: &mut Tx, full: bool) -> Result<Option<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!("select app.admit_fortnox_sync($1)", full).fetch_one(tx.conn()?).await?)
}

/// The state of the organisation's reading of `tenant`, locked. What was read of another company is marked as deleted, and belongs to no
/// client any more.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn begin_sync(tx: &mut ServiceTx, org_id: Uuid, tenant: &str) -> Result<SyncState, StoreError> {
    sqlx::query!(
        "insert into public.fortnox_sync_state (org_id, tenant) values ($1, $2) on conflict (org_id) do nothing",
        org_id,
        tenant
    )
    .execute(tx.conn()?)
    .await?;
    let moved = sqlx::query!(
        "update public.fortnox_sync_state
            set tenant = $2, pass = null, customers_since = null, accounts_since = null, read_at = null, full_at = null, locked_until = null,
                result = '{}'
          where org_id = $1 and tenant <> $2",
        org_id,
        tenant
    )
    .execute(tx.conn()?)
    .await?;
    if moved.rows_affected() == 1 {
        sqlx::query!(
            "update public.fortnox_customers set deleted_at = coalesce(deleted_at, now()), client_id = null where org_id = $1",
            org_id
        )
        .execute(tx.conn()?)
        .await?;
    }
    let state = sqlx::query_as!(
        SyncState,
        "select pass, full_wanted, customers_since, accounts_since, read_at, full_at, locked_until, result
           from public.fortnox_sync_state where org_id = $1 for update",
        org_id
    );
    Ok(state.fetch_one(tx.conn()?).await?)
}

/// The state that the caller may see.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn sync_state(tx: &mut CallerTx, org_id: Uuid) -> Result<Option<SyncState>, StoreError> {
    let state = sqlx::query_as!(
        SyncState,
        "select pass, full_wanted, customers_since, accounts_since, read_at, full_at, locked_until, result
           from public.fortnox_sync_state where org_id = $1",
        org_id
    );
    Ok(state.fetch_optional(tx.conn()?).await?)
}

/// How many rows of each kind there are now, of those that the caller may see.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Customers that Fortnox has.
    pub customers: i64,
    /// Customers that it has no more.
    pub deleted_customers: i64,
    /// Financial years.
    pub years: i64,
    /// Series of vouchers, of all years.
    pub voucher_series: i64,
    /// Accounts, of all years.
    pub accounts: i64,
    /// Cost centres.
    pub cost_centers: i64,
}

/// Counts.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn counts(tx: &mut CallerTx, org_id: Uuid) -> Result<Counts, StoreError> {
    let counts = sqlx::query_as!(
        Counts,
        r#"select c.live as "customers!", c.deleted as "deleted_customers!",
                  (select count(*) from public.fortnox_years where org_id = $1) as "years!",
                  (select count(*) from public.fortnox_voucher_series where org_id = $1) as "voucher_series!",
                  (select count(*) from public.fortnox_accounts where org_id = $1) as "accounts!",
                  (select count(*) from public.fortnox_cost_centers where org_id = $1) as "cost_centers!"
             from (select count(*) filter (where deleted_at is null) as live, count(*) filter (where deleted_at is not null) as deleted
                     from public.fortnox_customers where org_id = $1) c"#,
        org_id
    );
    Ok(counts.fetch_one(tx.conn()?).await?)
}

/// Writes down how far a pass is.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn keep_pass(tx: &mut ServiceTx, org_id: Uuid, pass: &Value) -> Result<(), StoreError> {
    sqlx::query!("update public.fortnox_sync_state set pass = $2 where org_id = $1", org_id, pass)
        .execute(tx.conn()?)
        .await?;
    Ok(())
}

/// What a pass came to.
#[derive(Debug)]
pub struct Ended<'a> {
    /// When it began.
    pub began_at: DateTime<Utc>,
    /// Whether it read everything.
    pub full: bool,
    /// Whether customers were read to their end.
    pub customers: bool,
    /// Whether accounts were.
    pub accounts: bool,
    /// For people to see.
    pub result: &'a Value,
}

/// Ends a pass. The next is due in an hour.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn end_pass(tx: &mut ServiceTx, org_id: Uuid, ended: &Ended<'_>) -> Result<(), StoreError> {
    sqlx::query!(
        "update public.fortnox_sync_state
            set pass = null, read_at = now(), result = $6,
                full_at = case when $3 then now() else full_at end, full_wanted = full_wanted and not $3,
                customers_since = case when $4 then $2 else customers_since end,
                accounts_since = case when $5 then $2 else accounts_since end
          where org_id = $1",
        org_id,
        ended.began_at,
        ended.full,
        ended.customers,
        ended.accounts,
        ended.result
    )
    .execute(tx.conn()?)
    .await?;
    // At once, if everything was wanted meanwhile.
    sqlx::query!(
        "update public.org_integrations
            set sync_after = case when (select full_wanted from public.fortnox_sync_state where org_id = $1) then now()
                                  else now() + interval '1 hour' end
          where org_id = $1 and provider = 'fortnox'",
        org_id
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Writes down customers as they were listed. One that was deleted is there again. With a pass it is known which of them are `inactive`.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn keep_customers(
    tx: &mut ServiceTx,
    org_id: Uuid,
    pass_id: Option<Uuid>,
    customers: &[Customer],
    inactive: &[String],
) -> Result<u64, StoreError> {
    let numbers: Vec<String> = customers.iter().map(|customer| customer.number.clone()).collect();
    let data: Vec<Value> = customers.iter().map(|customer| customer.data.clone()).collect();
    let kept = sqlx::query!(
        "insert into public.fortnox_customers as c (org_id, customer_number, data, pass_id, active)
         select $1, x.number, x.data, $4::uuid, case when $4::uuid is not null then x.number <> all ($5::text[]) end
           from unnest($2::text[], $3::jsonb[]) x (number, data)
         on conflict (org_id, customer_number) do update
            set data = excluded.data, synced_at = now(), deleted_at = null, pass_id = coalesce(excluded.pass_id, c.pass_id),
                active = coalesce(excluded.active, c.active)",
        org_id,
        &numbers,
        &data,
        pass_id,
        inactive
    );
    Ok(kept.execute(tx.conn()?).await?.rows_affected())
}

/// Customers that a full pass did not see, though they were not known to be deleted. Numbers, the most `most`.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn unseen_customers(
    tx: &mut ServiceTx,
    org_id: Uuid,
    pass_id: Uuid,
    most: i64,
) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar!(
        "select customer_number from public.fortnox_customers
          where org_id = $1 and deleted_at is null and pass_id is distinct from $2
          order by customer_number limit $3",
        org_id,
        pass_id,
        most
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// Customers whose number is a person's, while it is not known whether they are one or trade in their own name. The most `most`.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn unclear_customers(tx: &mut ServiceTx, org_id: Uuid, most: i64) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar!(
        "select customer_number from public.fortnox_customers
          where org_id = $1 and deleted_at is null and kind is null
            and app.is_persons_number(app.org_number(data ->> 'OrganisationNumber'))
          order by customer_number limit $2",
        org_id,
        most
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// What was found of a customer by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is there.
    There {
        /// Whether it is in use.
        active: Option<bool>,
        /// `PRIVATE` or `COMPANY`.
        kind: Option<String>,
    },
    /// Fortnox has none of this number.
    Deleted,
}

/// Writes down what was found of a customer by its number.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn keep_found(
    tx: &mut ServiceTx,
    org_id: Uuid,
    pass_id: Uuid,
    number: &str,
    found: &Found,
) -> Result<(), StoreError> {
    let (deleted, active, kind) = match found {
        Found::There { active, kind } => (false, *active, kind.as_deref()),
        Found::Deleted => (true, None, None),
    };
    sqlx::query!(
        "update public.fortnox_customers
            set pass_id = case when $4 then pass_id else $3 end, deleted_at = case when $4 then now() end,
                active = coalesce($5, active), kind = coalesce($6, kind), synced_at = now()
          where org_id = $1 and customer_number = $2",
        org_id,
        number,
        pass_id,
        deleted,
        active,
        kind
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Writes down all financial years there are. Another one is gone, with its series and accounts.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn keep_years(tx: &mut ServiceTx, org_id: Uuid, years: &[Year]) -> Result<(), StoreError> {
    let ids: Vec<i64> = years.iter().map(|year| year.id).collect();
    let (from, to): (Vec<NaiveDate>, Vec<NaiveDate>) = years.iter().map(|year| (year.from, year.to)).unzip();
    let methods: Vec<Option<String>> = years.iter().map(|year| year.method.clone()).collect();
    sqlx::query!("delete from public.fortnox_years where org_id = $1 and year_id <> all ($2)", org_id, &ids)
        .execute(tx.conn()?)
        .await?;
    sqlx::query!(
        "insert into public.fortnox_years (org_id, year_id, from_date, to_date, method)
         select $1, x.* from unnest($2::bigint[], $3::date[], $4::date[], $5::text[]) x
         on conflict (org_id, year_id) do update
            set from_date = excluded.from_date, to_date = excluded.to_date, method = excluded.method, synced_at = now()",
        org_id,
        &ids,
        &from,
        &to,
        &methods as &[Option<String>]
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Writes down up to which day nothing can be booked.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn keep_locked_until(
    tx: &mut ServiceTx,
    org_id: Uuid,
    locked_until: Option<NaiveDate>,
) -> Result<(), StoreError> {
    sqlx::query!("update public.fortnox_sync_state set locked_until = $2 where org_id = $1", org_id, locked_until)
        .execute(tx.conn()?)
        .await?;
    Ok(())
}

/// Writes down all series of a year.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn keep_series(tx: &mut ServiceTx, org_id: Uuid, year_id: i64, series: &[Series]) -> Result<(), StoreError> {
    let codes: Vec<String> = series.iter().map(|series| series.code.clone()).collect();
    let descriptions: Vec<String> = series.iter().map(|series| series.description.clone()).collect();
    let manual: Vec<bool> = series.iter().map(|series| series.manual).collect();
    sqlx::query!(
        "delete from public.fortnox_voucher_series where org_id = $1 and year_id = $2 and code <> all ($3)",
        org_id,
        year_id,
        &codes
    )
    .execute(tx.conn()?)
    .await?;
    sqlx::query!(
        "insert into public.fortnox_voucher_series (org_id, year_id, code, description, manual)
         select $1, $2, x.* from unnest($3::text[], $4::text[], $5::boolean[]) x
         on conflict (org_id, year_id, code) do update
            set description = excluded.description, manual = excluded.manual, synced_at = now()",
        org_id,
        year_id,
        &codes,
        &descriptions,
        &manual
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Writes down accounts of a year.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn keep_accounts(
    tx: &mut ServiceTx,
    org_id: Uuid,
    year_id: i64,
    pass_id: Uuid,
    accounts: &[Account],
) -> Result<(), StoreError> {
    let numbers: Vec<i32> = accounts.iter().map(|account| account.number).collect();
    let descriptions: Vec<String> = accounts.iter().map(|account| account.description.clone()).collect();
    let active: Vec<bool> = accounts.iter().map(|account| account.active).collect();
    let vat: Vec<Option<String>> = accounts.iter().map(|account| account.vat_code.clone()).collect();
    let centers: Vec<Option<String>> = accounts.iter().map(|account| account.cost_center_settings.clone()).collect();
    let projects: Vec<Option<String>> = accounts.iter().map(|account| account.project_settings.clone()).collect();
    sqlx::query!(
        "insert into public.fortnox_accounts
             (org_id, year_id, pass_id, number, description, active, vat_code, cost_center_settings, project_settings)
         select $1, $2, $3, x.* from unnest($4::integer[], $5::text[], $6::boolean[], $7::text[], $8::text[], $9::text[]) x
         on conflict (org_id, year_id, number) do update
            set pass_id = excluded.pass_id, description = excluded.description, active = excluded.active, vat_code = excluded.vat_code,
                cost_center_settings = excluded.cost_center_settings, project_settings = excluded.project_settings, synced_at = now()",
        org_id,
        year_id,
        pass_id,
        &numbers,
        &descriptions,
        &active,
        &vat as &[Option<String>],
        &centers as &[Option<String>],
        &projects as &[Option<String>]
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Drops the accounts of a year that a full pass did not see.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn drop_unseen_accounts(
    tx: &mut ServiceTx,
    org_id: Uuid,
    year_id: i64,
    pass_id: Uuid,
) -> Result<(), StoreError> {
    sqlx::query!(
        "delete from public.fortnox_accounts where org_id = $1 and year_id = $2 and pass_id <> $3",
        org_id,
        year_id,
        pass_id
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// Writes down all cost centres there are.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn keep_cost_centers(tx: &mut ServiceTx, org_id: Uuid, centers: &[CostCenter]) -> Result<(), StoreError> {
    let codes: Vec<String> = centers.iter().map(|center| center.code.clone()).collect();
    let descriptions: Vec<String> = centers.iter().map(|center| center.description.clone()).collect();
    let active: Vec<bool> = centers.iter().map(|center| center.active).collect();
    sqlx::query!("delete from public.fortnox_cost_centers where org_id = $1 and code <> all ($2)", org_id, &codes)
        .execute(tx.conn()?)
        .await?;
    sqlx::query!(
        "insert into public.fortnox_cost_centers (org_id, code, description, active)
         select $1, x.* from unnest($2::text[], $3::text[], $4::boolean[]) x
         on conflict (org_id, code) do update
            set description = excluded.description, active = excluded.active, synced_at = now()",
        org_id,
        &codes,
        &descriptions,
        &active
    )
    .execute(tx.conn()?)
    .await?;
    Ok(())
}

/// A customer, as people see it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its number.
    pub customer_number: String,
    /// Its name.
    pub name: Option<String>,
    /// Its organisation number, as it is written in Fortnox.
    pub organisation_number: Option<String>,
    /// Whether it is in use, if that is known.
    pub active: Option<bool>,
    /// Since when Fortnox has it no more.
    pub deleted_at: Option<DateTime<Utc>>,
    /// When it was read last.
    pub synced_at: DateTime<Utc>,
    /// The client that it is linked to.
    pub client_id: Option<Uuid>,
    /// The client's name.
    pub client_name: Option<String>,
}

/// Customers that the caller may see, by number after `after`, the most `most`.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn list_customers(
    tx: &mut CallerTx,
    org_id: Uuid,
    after: &str,
    most: i64,
) -> Result<Vec<Listed>, StoreError> {
    Ok(sqlx::query_as!(
        Listed,
        r#"select c.customer_number, nullif(c.data ->> 'Name', '') as name,
                  nullif(c.data ->> 'OrganisationNumber', '') as organisation_number, c.active, c.deleted_at, c.synced_at,
                  c.client_id, k.name as "client_name?"
             from public.fortnox_customers c
             left join public.clients k on k.org_id = c.org_id and k.id = c.client_id
            where c.org_id = $1 and c.customer_number collate "C" > $2
            order by c.customer_number collate "C" limit $3"#,
        org_id,
        after,
        most
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// Makes clients of customers: of those that are named, or of the `most` that come after a number. What became of each.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn import_customers(
    tx: &mut CallerTx,
    numbers: Option<&[String]>,
    after: Option<&str>,
    most: i32,
) -> Result<Value, StoreError> {
    let report =
        sqlx::query_scalar!(r#"select app.import_fortnox_customers($1, $2, $3) as "report!""#, numbers, after, most);
    Ok(report.fetch_one(tx.conn()?).await?)
}

/// An organisation whose Fortnox is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueSync {
    /// The organisation.
    pub org_id: Uuid,
    /// Whether everything is to be read.
    pub full: bool,
}

/// Organisations whose Fortnox is to be read now, the most `most`.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn due_syncs(tx: &mut DirectoryTx, now: DateTime<Utc>, most: i32) -> Result<Vec<DueSync>, StoreError> {
    Ok(sqlx::query_as!(
        DueSync,
        r#"select org_id as "org_id!", is_full as "full!" from app.due_fortnox_syncs($1, $2)"#,
        now,
        most
    )
    .fetch_all(tx.conn()?)
    .await?)
}

/// How old refresh tokens are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenAges {
    /// The oldest, in days.
    pub oldest_days: f64,
    /// How many connections wait for a person.
    pub to_reconnect: i64,
}

/// How old refresh tokens are, of all organisations.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn token_ages(tx: &mut DirectoryTx, now: DateTime<Utc>) -> Result<TokenAges, StoreError> {
    Ok(sqlx::query_as!(
        TokenAges,
        r#"select oldest_days as "oldest_days!", to_reconnect as "to_reconnect!" from app.fortnox_token_ages($1)"#,
        now
    )
    .fetch_one(tx.conn()?)
    .await?)
}

/// Organisations whose refresh token has not been used for twenty days, the most `most`.
///
/// # Errors
/// [`StoreError::Database`].
pub async fn idle_tokens(tx: &mut DirectoryTx, now: DateTime<Utc>, most: i32) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(r#"select org_id as "org_id!" from app.idle_fortnox_tokens($1, $2)"#, now, most)
        .fetch_all(tx.conn()?)
        .await?)
}
