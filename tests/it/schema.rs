//! The page that describes the schema.

use developer::schema;
use integration_tests::{Server, TestDatabase};

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_the_same_however_often_it_is_written() {
    let (one, other) = (TestDatabase::new(Server::Postgres18).await, TestDatabase::new(Server::Postgres18).await);
    // The order in which rows happen to lie is another then.
    for table in ["pg_class", "pg_constraint", "pg_policy"] {
        other.run(&format!("vacuum full {table}")).await;
    }
    let mut elsewhere = other.admin().await;
    sqlx::query("select set_config('timezone', 'Asia/Tokyo', false), set_config('search_path', 'app', false)")
        .execute(&mut elsewhere)
        .await
        .unwrap();
    let page = schema::page(&mut one.admin().await).await.unwrap();
    assert_eq!(page, schema::page(&mut elsewhere).await.unwrap());
    for line in [
        "### render_requests",
        "| `render_requests_org_id_job_id_fkey` | foreign key | `(org_id, job_id)` → [jobs](#jobs) `(org_id, id)` deferrable initially deferred |",
        "    jobs ||--o{ render_requests : \"job_id\"",
        "- authenticated: select (id, name, slug, plan, branding, created_at, updated_at, time_zone), update (name, slug, branding, time_zone)",
    ] {
        assert!(page.lines().any(|own| own == line), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_not_described() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run("select app.ensure_social_month('2026-01-15')").await;
    let page = schema::page(&mut db.admin().await).await.unwrap();
    assert!(page.contains("### social_messages\n") && !page.contains("social_messages_2026_01"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_domain_is_an_error_that_names_it() {
    let db = TestDatabase::new(Server::Postgres18).await;
    db.run("create table widgets (id uuid primary key)").await;
    let error = schema::page(&mut db.admin().await).await.unwrap_err().to_string();
    assert!(error.contains("no domain for widgets") && error.contains("DOMAINS"), "{error}");
}
