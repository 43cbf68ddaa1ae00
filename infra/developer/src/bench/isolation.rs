//! What isolation takes: pages and counts under row-level security beside the same without, and search among vectors.
//!
//! In a database of its own, filled by `rows.sql`. Each query is prepared, warm, and run in turn with those it is compared with, each on
//! a connection whose transaction is open: measured is the query as a client waits for it, not how its caller came to be known.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use local::{
    database,
    home::Home,
    servers::{Postgres, Version},
};
use operator::vectors;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};
use uuid::Uuid;

use super::{Budget, Results, median, milliseconds};
use crate::report::Timed;

const ROWS: &str = include_str!("rows.sql");
/// How often each query is run.
const TIMES: usize = 400;
const SEARCHES: usize = 40;
/// The organisations of `rows.sql`, by size.
const LARGE: u128 = 1;
const SMALL: u128 = 500;
/// Some of each organisation's people there.
const ADMIN: u128 = 1;
const SALES: u128 = 5;
const DESIGNER: u128 = 22;
const CONSULTANT: u128 = 27;
const CLIENT_USER: u128 = 31;

/// As `rows.sql` makes ids.
pub(super) const fn id(kind: u128, a: u128, b: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 | kind << 96 | a << 24 | b)
}

/// A list as an app shows it. `$1` is the organisation and `$2` the person.
struct List {
    name: &'static str,
    table: &'static str,
    org: u128,
    person: u128,
    by: &'static str,
    /// What the policies mean for this person, said as a condition.
    means: &'static str,
    /// What the app itself asks for, besides the newest fifty.
    asks: &'static str,
}

const fn list(name: &'static str, table: &'static str, person: u128) -> List {
    List { name, table, org: LARGE, person, by: "created_at", means: "true", asks: "true" }
}

/// The client of `CLIENT_USER`, as an app knows it.
const OWN_CLIENT: &str = "client_id = '01900003-0000-7000-8000-000001000001'";
const SHARED: &str = "status = 'shared' and client_id = '01900003-0000-7000-8000-000001000001'";
const OWN_CLIENTS: &str = "client_id = any (array(select client_id from public.client_consultants where user_id = $2)) \
                           and (status <> 'draft' or created_by = $2)";

const LISTS: [List; 16] = [
    list("leads, admin", "leads", ADMIN),
    List { org: SMALL, ..list("leads, small tenant, admin", "leads", ADMIN) },
    List {
        means: "assigned_to = $2",
        asks: "assigned_to = $2",
        ..list("leads, sales, asking for own", "leads", SALES)
    },
    List { means: "assigned_to = $2", ..list("leads, sales, asking for all", "leads", SALES) },
    list("renders, designer", "render_requests", DESIGNER),
    List {
        means: "user_id = $2",
        asks: "user_id = $2",
        ..list("renders, client, asking for own", "render_requests", CLIENT_USER)
    },
    List { means: "user_id = $2", ..list("renders, client, asking for all", "render_requests", CLIENT_USER) },
    list("submissions, admin", "submissions", ADMIN),
    List { means: OWN_CLIENTS, ..list("submissions, consultant", "submissions", CONSULTANT) },
    List {
        means: OWN_CLIENT,
        asks: OWN_CLIENT,
        ..list("submissions, client, asking for own", "submissions", CLIENT_USER)
    },
    List { means: OWN_CLIENT, ..list("submissions, client, asking for all", "submissions", CLIENT_USER) },
    List { by: "received_at", ..list("messages, 12 months, admin", "social_messages", ADMIN) },
    List { by: "occurred_at", ..list("audit log, admin", "audit_log", ADMIN) },
    list("projects, designer", "projects", DESIGNER),
    List { means: SHARED, asks: OWN_CLIENT, ..list("projects, client, asking for own", "projects", CLIENT_USER) },
    List { means: SHARED, ..list("projects, client, asking for all", "projects", CLIENT_USER) },
];

impl List {
    /// Unrestricted, naming everything; under policies, naming the organisation; under policies, as through the Data API.
    fn conditions(&self) -> [String; 3] {
        let Self { means, asks, .. } = self;
        [format!("org_id = $1 and {means}"), format!("org_id = $1 and {asks}"), (*asks).to_owned()]
    }

    fn page(&self, condition: &str) -> String {
        // Both parameters have to be somewhere.
        format!(
            "select * from public.{} where {condition} and ($1::uuid, $2::uuid) is not null order by {} desc limit 50",
            self.table, self.by
        )
    }
}

pub(super) async fn measure(home: &Home, results: &mut Results) -> Result<()> {
    let server = Postgres::start(home, Version::V18, None).await?;
    let url = database::create(&server.admin_url, "isolation", None).await?;
    database::migrate(&home.root, &url).await?;
    let mut admin = database::connect(&url).await?;
    let timed = Timed::start("six million rows and 100,000 vectors of a thousand tenants");
    admin.execute(ROWS).await.context("rows.sql failed")?;
    admin.execute("vacuum analyze").await?;
    timed.done();
    let functions_url = database::functions_url(&url).await?;
    for list in &LISTS {
        pages(results, &url, &functions_url, list).await?;
    }
    searches(results, &url, &functions_url).await?;
    open_leads(results, &mut admin).await
}

/// How long it takes to find which of fifty thousand open leads are to be assigned. Adds them, so it comes last.
async fn open_leads(results: &mut Results, admin: &mut PgConnection) -> Result<()> {
    let org = id(1, 500, 0);
    sqlx::raw_sql(AssertSqlSafe(format!(
        "set session_replication_role = replica;
         insert into public.lead_capacity (org_id, user_id, max_open) select org_id, user_id, 500 from public.org_members where org_id = '{org}';
         insert into public.leads (org_id, client_name, assigned_to, assigned_at, created_at, updated_at)
         select '{org}', 'Open', case when n % 10 > 0 then m.people[1 + n % cardinality(m.people)] end, at, at, at
           from generate_series(1, 50000) n
          cross join lateral (select now() - n * interval '2 minutes') t (at)
          cross join (select array_agg(user_id) from public.org_members where org_id = '{org}') m (people);
         insert into public.lead_notes (org_id, lead_id, note, created_at)
         select org_id, id, 'note', created_at + interval '1 hour' from public.leads where client_name = 'Open';
         reset session_replication_role"
    )))
    .execute(&mut *admin)
    .await?;
    for table in ["leads", "lead_notes", "lead_capacity"] {
        admin.execute(AssertSqlSafe(format!("vacuum analyze public.{table}"))).await?;
    }
    let mut times = Vec::new();
    for round in 0..45 {
        let begun = Instant::now();
        let found: i64 = sqlx::query_scalar("select count(*) from app.leads_to_assign($1, null, 48)")
            .bind(org)
            .fetch_one(&mut *admin)
            .await?;
        ensure!(found > 0, "no lead is to be assigned");
        if round >= 5 {
            times.push(milliseconds(begun));
        }
    }
    results.measure("leads to assign among 50,000 open", median(times), "ms", Budget::AtMost(100.0));
    Ok(())
}

/// A transaction as this person, with the claims of a token.
pub(super) async fn acting(url: &str, role: &str, org: u128, person: u128) -> Result<PgConnection> {
    let mut conn = database::connect(url).await?;
    // Functions are cut off when they idle in a transaction, and here each waits for the others.
    conn.execute("set idle_in_transaction_session_timeout = 0; begin").await?;
    let claims = json!({
        "sub": id(2, org, person), "org_id": id(1, org, 0), "session_id": id(13, org, person), "role": "authenticated", "aud": "authenticated",
        "email": "somebody@bench.example", "iss": "https://bench.example/auth/v1", "iat": 1_700_000_000, "exp": 1_900_000_000, "aal": "aal1",
        "app_metadata": { "provider": "email", "providers": ["email"] }, "user_metadata": {}, "is_anonymous": false,
    });
    sqlx::query("select set_config('request.jwt.claims', $1, true), set_config('role', $2, true)")
        .bind(claims.to_string())
        .bind(role)
        .execute(&mut conn)
        .await?;
    Ok(conn)
}

async fn pages(results: &mut Results, url: &str, functions_url: &str, list: &List) -> Result<()> {
    let (org, person) = (id(1, list.org, 0), id(2, list.org, list.person));
    let mut conns = [
        database::connect(url).await?,
        acting(functions_url, "spine_caller", list.org, list.person).await?,
        acting(url, "authenticated", list.org, list.person).await?,
    ];
    conns[0].execute("begin").await?;
    let queries = list.conditions().map(|condition| list.page(&condition));
    let mut times = [const { Vec::new() }; 3];
    let mut found = [const { Vec::new() }; 3];
    for round in 0..TIMES + 20 {
        for (index, conn) in conns.iter_mut().enumerate() {
            let query = || sqlx::query(AssertSqlSafe(queries[index].clone())).bind(org).bind(person);
            if round == 0 {
                let rows = query().fetch_all(&mut *conn).await?;
                found[index] = rows.iter().map(|row| row.try_get::<Uuid, _>("id")).collect::<Result<_, _>>()?;
            }
            let begun = Instant::now();
            query().execute(&mut *conn).await?;
            if round >= 20 {
                times[index].push(milliseconds(begun));
            }
        }
    }
    ensure!(!found[0].is_empty() && found[0] == found[1] && found[0] == found[2], "{}: the pages differ", list.name);
    let mut kept = true;
    for (conn, query) in conns.iter_mut().zip(&queries).skip(1) {
        let literal = query.replace("$1", &format!("'{org}'")).replace("$2", &format!("'{person}'"));
        let plan: Value =
            sqlx::query_scalar(AssertSqlSafe(format!("explain (format json) {literal}"))).fetch_one(conn).await?;
        kept &= !sorts(&plan);
    }
    let [bare, named, api] = times.map(median);
    results.measure(&format!("{}: explicit filter", list.name), bare, "ms", Budget::None);
    results.measure(&format!("{}: policies, org named", list.name), named / bare, "x", Budget::AtMost(1.25));
    results.measure(&format!("{}: policies alone", list.name), api / bare, "x", Budget::AtMost(1.25));
    results.measure(&format!("{}: order kept", list.name), f64::from(u8::from(kept)), "", Budget::AtLeast(1.0));
    Ok(())
}

/// Whether a plan sorts anywhere.
fn sorts(plan: &Value) -> bool {
    match plan {
        Value::Object(node) => {
            node.get("Node Type").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("Sort"))
                || node.values().any(sorts)
        }
        Value::Array(nodes) => nodes.iter().any(sorts),
        _ => false,
    }
}

/// Who searches, with what, and what there is to be found.
struct Searches {
    org: Uuid,
    member: PgConnection,
    queries: Vec<String>,
    nearest: Vec<Vec<Uuid>>,
    exact: f64,
}

// The vector is a sub-select, or its text would be read for every row.
const EXACT: &str = "select id, content_type, content_text, (embedding operator(extensions.<=>) (select $1::extensions.vector))::double precision \
                     from public.org_brain where org_id = $2 order by embedding operator(extensions.<=>) (select $1::extensions.vector) limit 10";

impl Searches {
    /// Looks for what lies beside the tenant's own pieces, while there is no index yet.
    async fn prepare(url: &str, functions_url: &str, tenant: u128) -> Result<Self> {
        let mut admin = database::connect(url).await?;
        let org = id(1, tenant, 0);
        let queries: Vec<String> = sqlx::query_scalar(
            "select (b.embedding operator(extensions.+) n.noise)::text
               from (select embedding, row_number() over (order by id) as k from public.org_brain where org_id = $1 order by id limit $2) b
               cross join lateral (select array_agg((sin(b.k * 12.9898 + d * 78.233) * 0.2)::real)::extensions.vector as noise
                                     from generate_series(1, 1536) d) n",
        )
        .bind(org)
        .bind(i64::try_from(SEARCHES)?)
        .fetch_all(&mut admin)
        .await?;
        let (mut nearest, mut times) = (Vec::new(), Vec::new());
        for query in &queries {
            let begun = Instant::now();
            nearest.push(ids(sqlx::query(EXACT).bind(query).bind(org).fetch_all(&mut admin).await?)?);
            times.push(milliseconds(begun));
        }
        let member = acting(functions_url, "spine_caller", tenant, ADMIN).await?;
        Ok(Self { org, member, queries, nearest, exact: median(times) })
    }

    /// Median time, and the share of what is nearest that is found.
    async fn search(&mut self) -> Result<(f64, f64)> {
        let (mut times, mut hits, mut all) = (Vec::new(), 0, 0);
        for (query, nearest) in self.queries.iter().zip(&self.nearest) {
            let begun = Instant::now();
            let rows = sqlx::query("select * from public.search_org_brain($1::extensions.vector)")
                .bind(query)
                .fetch_all(&mut self.member)
                .await?;
            times.push(milliseconds(begun));
            let found = ids(rows)?;
            hits += nearest.iter().filter(|id| found.contains(id)).count();
            all += nearest.len();
        }
        ensure!(all > 0, "{} has no vectors", self.org);
        Ok((median(times), hits as f64 / all as f64))
    }
}

fn ids(rows: Vec<sqlx::postgres::PgRow>) -> Result<Vec<Uuid>> {
    Ok(rows.iter().map(|row| row.try_get("id")).collect::<Result<_, _>>()?)
}

async fn searches(results: &mut Results, url: &str, functions_url: &str) -> Result<()> {
    let mut small = Searches::prepare(url, functions_url, SMALL).await?;
    let mut large = Searches::prepare(url, functions_url, LARGE).await?;
    for (name, searches) in [("100 of 100,000", &mut small), ("20,000 of 100,000", &mut large)] {
        let (took, recall) = searches.search().await?;
        results.measure(&format!("vector search, {name}: unrestricted"), searches.exact, "ms", Budget::None);
        results.measure(&format!("vector search, {name}: a member"), took, "ms", Budget::None);
        results.measure(
            &format!("vector search, {name}: member beside it"),
            took / searches.exact,
            "x",
            Budget::AtMost(1.25),
        );
        results.measure(&format!("vector search, {name}: recall@10"), recall, "", Budget::AtLeast(1.0));
    }
    // An open transaction may still want to see what an index would leave out, so a build waits for it.
    small.member.execute("commit").await?;
    large.member.execute("commit").await?;
    let begun = Instant::now();
    vectors::make(url, &format!("bench-{LARGE}"), false, &mut |_| ()).await?;
    results.measure("vector index of 20,000, built in", begun.elapsed().as_secs_f64(), "s", Budget::None);
    small.member = acting(functions_url, "spine_caller", SMALL, ADMIN).await?;
    large.member = acting(functions_url, "spine_caller", LARGE, ADMIN).await?;
    let (took, recall) = large.search().await?;
    results.measure("vector search, 20,000 with an index: a member", took, "ms", Budget::None);
    results.measure("vector search, 20,000 with an index: recall@10", recall, "", Budget::AtLeast(0.95));
    let (took, recall) = small.search().await?;
    results.measure("vector search, 100 beside that index: a member", took, "ms", Budget::None);
    results.measure("vector search, 100 beside that index: recall@10", recall, "", Budget::AtLeast(1.0));
    Ok(())
}
