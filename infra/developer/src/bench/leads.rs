//! What scoring a lead and ranking the people who could take it takes, beside the same before names were folded.

use std::time::Instant;

use anyhow::{Context, Result};
use local::{
    database,
    home::Home,
    servers::{Postgres, Version},
};
use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::{Budget, Results, median, milliseconds};
use crate::report::Timed;

const ROWS: &str = include_str!("leads.sql");
/// A hundred thousand leads in rounds, each of which is scored in one way and then in the other.
const ROUNDS: usize = 100;

pub(super) async fn measure(home: &Home, results: &mut Results) -> Result<()> {
    let server = Postgres::start(home, Version::V18, None).await?;
    let url = database::create(&server.admin_url, "leads", None).await?;
    database::migrate(&home.root, &url).await?;
    let mut admin = database::connect(&url).await?;
    let timed = Timed::start("a hundred thousand leads");
    admin.execute(ROWS).await.context("leads.sql failed")?;
    admin.execute("vacuum analyze").await?;
    timed.done();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Turn and turn about, so that what the machine does meanwhile falls on both.
        let mut ways = [("app.rank_people_by_lower", &mut before), ("app.rank_people", &mut after)];
        if round % 2 == 1 {
            ways.reverse();
        }
        for (rank, times) in ways {
            times.push(score(&mut admin, rank, round).await?);
        }
    }
    let thousand = median(after.clone());
    results.measure("a lead scored and its people ranked", thousand, "ms/1,000", Budget::None);
    let ratios = before.iter().zip(&after).map(|(before, after)| after / before).collect();
    results.measure("the same beside names in lower case", median(ratios), "x", Budget::AtMost(1.1));
    Ok(())
}

/// Milliseconds that a thousand leads take.
async fn score(admin: &mut PgConnection, rank: &str, round: usize) -> Result<f64> {
    let many = 100_000 / ROUNDS;
    let query = format!(
        "select count(*) from (select l.org_id, l.id from public.leads l where l.status = 'new' order by l.id offset {} limit {many}) l
         cross join lateral app.lead_score(l.org_id, l.id, now()) s
         cross join lateral {rank}(l.org_id, l.id, s.score, '{{}}', '{{}}') r where s.score > 0 and r.place = 1",
        round * many
    );
    let begun = Instant::now();
    let ranked: i64 = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(admin).await?;
    anyhow::ensure!(ranked == i64::try_from(many)?, "{ranked} of {many} leads were ranked");
    Ok(milliseconds(begun))
}
