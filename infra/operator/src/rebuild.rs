//! `./spine rebuild-billing`: an organisation's billing anew, from what is stored of Stripe's events.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, ensure};
use chrono::Utc;
use shared::{config::Env, db::Database, secrets::Secrets};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::database;

/// What became of an organisation's billing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// How many events were applied.
    pub events: usize,
    /// What is other than before, a line each; nothing if billing was as its events have it.
    pub changes: Vec<String>,
}

/// Rows by what they are called, such as `invoice in_1`, as they compare.
type Rows = BTreeMap<String, String>;

/// Rebuilds the billing of the organisation of this slug, in one transaction. Logs in as who migrates.
///
/// # Errors
/// If there is no such organisation, the login may not act as the system, or an event cannot be applied; then nothing has changed.
pub async fn rebuild(url: &str, slug: &str) -> Result<Rebuilt> {
    let mut conn = database::connect(url).await?;
    let org: Option<Uuid> = sqlx::query_scalar("select id from public.organizations where slug = $1")
        .bind(slug)
        .fetch_optional(&mut conn)
        .await?;
    let org = org.with_context(|| {
        format!("no organisation is called {slug}, or this login sees none: it must be the one that migrates")
    })?;
    let may: bool = sqlx::query_scalar(
        "select case when current_setting('server_version_num')::integer >= 160000 then pg_has_role('spine_service', 'SET')
                     else pg_has_role('spine_service', 'MEMBER') end",
    )
    .fetch_one(&mut conn)
    .await?;
    ensure!(
        may,
        "this login may not act as the system; once: grant spine_service to <login> with inherit false, set true"
    );

    let before = rows(&mut conn, org).await?;
    let env = Env::from_iter([("DATABASE_URL", url)]);
    let database = Database::from_env(&env, Arc::new(Secrets::from_env(&env)?))?;
    let events = stripe_webhook::rebuild(&database, org, Utc::now().timestamp()).await?;
    let after = rows(&mut conn, org).await?;
    conn.close().await?;
    Ok(Rebuilt { events, changes: changes(&before, &after) })
}

/// Everything that is made from events, without what tells of the making.
async fn rows(conn: &mut PgConnection, org: Uuid) -> Result<Rows> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select 'plan', to_jsonb(o.plan)::text from public.organizations o where o.id = $1
         union all
         select 'invoice ' || i.stripe_invoice_id, (to_jsonb(i) - 'updated_at')::text from public.invoices i where i.org_id = $1
         union all
         select 'subscription ' || s.stripe_subscription_id, (to_jsonb(s) - 'updated_at')::text from public.subscriptions s where s.org_id = $1
         union all
         select 'what is known of ' || x.stripe_id, (to_jsonb(x) - '{told_by,created_at,updated_at,compared_at}'::text[])::text
           from public.stripe_objects x where x.org_id = $1",
    )
    .bind(org)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().collect())
}

fn changes(before: &Rows, after: &Rows) -> Vec<String> {
    let gone = before.keys().filter(|name| !after.contains_key(*name)).map(|name| format!("{name}: removed"));
    let other = after.iter().filter_map(|(name, row)| match before.get(name) {
        None => Some(format!("{name}: added")),
        Some(was) if was != row && name == "plan" => Some(format!("plan: {was} before, now {row}")),
        Some(was) if was != row => Some(format!("{name}: changed")),
        Some(_) => None,
    });
    gone.chain(other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(pairs: &[(&str, &str)]) -> Rows {
        pairs.iter().map(|(name, row)| ((*name).to_owned(), (*row).to_owned())).collect()
    }

    #[test]
    fn only_what_differs_is_told() {
        let before =
            made(&[("invoice in_1", "a"), ("invoice in_2", "b"), ("plan", "\"free\""), ("subscription sub_1", "c")]);
        let after =
            made(&[("invoice in_1", "a"), ("invoice in_3", "d"), ("plan", "\"studio\""), ("subscription sub_1", "e")]);
        assert_eq!(changes(&before, &before), Vec::<String>::new());
        let told = [
            "invoice in_2: removed",
            "invoice in_3: added",
            "plan: \"free\" before, now \"studio\"",
            "subscription sub_1: changed",
        ];
        assert_eq!(changes(&before, &after), told);
    }
}
