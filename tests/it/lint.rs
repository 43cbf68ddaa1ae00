//! The lint of migrations and of the schema they make: what there is passes, and every rule can refuse.

use std::collections::BTreeSet;

use developer::lint::{self, Finding};
use integration_tests::TestDatabase;
use local::home;
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::SERVERS;

/// A table that nothing is wrong with, as a migration would make it.
const GOOD: &str = "
    set local role spine_owner;
    create table public.widgets (
        id uuid primary key, org_id uuid not null references public.organizations (id), role_id uuid,
        project_id uuid, made_on date not null default now());
    comment on table public.widgets is 'A widget.';
    create index widgets_org_id_idx on public.widgets (org_id);
    alter table public.widgets enable row level security;
    alter table public.widgets force row level security;
    create policy widgets_select on public.widgets for select to authenticated using (org_id = (select app.active_org_id()));
    create policy widgets_insert on public.widgets for insert to authenticated
        with check (org_id = (select app.active_org_id()) and app.may_grant(role_id));
    grant select, insert (org_id, role_id, project_id, made_on) on public.widgets to authenticated;
    alter table public.data_ownership no force row level security;
    insert into public.data_ownership (table_name, owner) values ('widgets', 'human');
    alter table public.data_ownership force row level security;
    create function app.widget() returns uuid language sql stable security definer set search_path = '' as 'select null::uuid';
    reset role;";

/// What is done to it, and which rule then refuses what.
const BAD: [(&str, &str, &str, &str); 31] = [
    ("row-security", "public.widgets", "", "alter table public.widgets no force row level security"),
    ("row-security", "public.widgets", "", "alter table public.widgets disable row level security"),
    (
        "row-security",
        "public.parts_2026",
        "",
        "create table public.parts (on_day date) partition by range (on_day);
         create table public.parts_2026 partition of public.parts for values from ('2026-01-01') to ('2027-01-01')",
    ),
    (
        "no-policy",
        "public.widgets",
        "",
        "drop policy widgets_select on public.widgets; drop policy widgets_insert on public.widgets",
    ),
    (
        "partition-door",
        "public.parts_2026",
        "",
        "set local role spine_owner;
         create table public.parts (on_day date) partition by range (on_day);
         create table public.parts_2026 partition of public.parts for values from ('2026-01-01') to ('2027-01-01');
         grant select (on_day) on public.parts_2026 to authenticated",
    ),
    (
        "bookkeeping",
        "public._sqlx_migrations",
        "",
        "grant select on public._sqlx_migrations to anon",
    ),
    ("view", "public.seen", "rights of its owner", "create view public.seen as select * from public.widgets"),
    ("view", "public.seen", "no row-level", "create materialized view public.seen as select * from public.widgets"),
    ("owner", "public.widgets", "owned by postgres", "alter table public.widgets owner to postgres"),
    ("function-owner", "app.widget()", "owned by postgres", "alter function app.widget() owner to postgres"),
    ("comment", "public.widgets", "", "comment on table public.widgets is null"),
    ("ownership", "public.widgets", "", "delete from public.data_ownership where table_name = 'widgets'"),
    (
        "ownership-of-nothing",
        "public.widgets.colour",
        "",
        "insert into public.data_ownership (table_name, column_name, owner) values ('widgets', 'colour', 'agent')",
    ),
    (
        "policy-to-public",
        "public.widgets",
        "widgets_update",
        "create policy widgets_update on public.widgets for update using (org_id = (select app.active_org_id()))",
    ),
    (
        "policy-to-public",
        "storage.objects",
        "widget_files",
        "create policy widget_files on storage.objects for select using (bucket_id = 'widgets')",
    ),
    (
        "policy-doubled",
        "public.widgets",
        "to authenticated for select: widgets_all, widgets_select",
        "create policy widgets_all on public.widgets to authenticated using (true)",
    ),
    (
        "policy-doubled",
        "public.widgets",
        "to spine_caller for select: widgets_caller_select, widgets_select",
        "create policy widgets_caller_select on public.widgets for select to spine_caller using (true)",
    ),
    ("definer-path", "app.widget()", "", "alter function app.widget() reset search_path"),
    ("definer-path", "app.widget()", "", "alter function app.widget() set search_path = public"),
    ("definer-public", "app.widget()", "", "grant execute on function app.widget() to public"),
    (
        "definer-public",
        "public.widget()",
        "",
        "create function public.widget() returns int language sql security definer set search_path = '' as 'select 1'",
    ),
    (
        "foreign-key-index",
        "public.widgets",
        "widgets_role_id_fkey",
        "alter table public.widgets add constraint widgets_role_id_fkey foreign key (role_id) references public.roles (id)",
    ),
    (
        "foreign-key-index",
        "public.widgets",
        "widgets_role_id_fkey",
        "alter table public.widgets add constraint widgets_role_id_fkey foreign key (role_id) references public.roles (id);
         create index widgets_role_id_idx on public.widgets (role_id) where made_on > '2026-01-01'",
    ),
    (
        "foreign-key-index",
        "public.widgets",
        "widgets_project_fkey",
        "alter table public.widgets add constraint widgets_project_fkey
             foreign key (org_id, project_id) references public.projects (org_id, id);
         create index widgets_project_idx on public.widgets (org_id, made_on, project_id)",
    ),
    ("organisation", "public.widgets", "", "drop index public.widgets_org_id_idx"),
    ("key-order", "public.widgets", "widgets_pkey", "grant insert on public.widgets to authenticated"),
    (
        "key-order",
        "public.widgets",
        "widgets_key",
        "alter table public.widgets add constraint widgets_key unique (project_id, role_id, org_id)",
    ),
    (
        "call-per-row",
        "public.widgets",
        "app.active_org_id",
        "alter policy widgets_select on public.widgets using (org_id = app.active_org_id())",
    ),
    (
        "call-per-row",
        "public.widgets",
        "app.may_grant",
        "alter policy widgets_select on public.widgets using (app.may_grant(role_id))",
    ),
    (
        "call-per-row",
        "public.widgets",
        "app.may_grant",
        "alter policy widgets_select on public.widgets using ((select app.may_grant(role_id)))",
    ),
    (
        "call-per-row",
        "storage.objects",
        "auth.uid",
        "create policy widget_files on storage.objects for insert to authenticated with check (owner_id = auth.uid()::text)",
    ),
];

/// What nothing is wrong with, although it comes near.
const FINE: [&str; 6] = [
    "create function app.widget_told() returns trigger language plpgsql set search_path = '' as 'begin end'",
    "alter table public.widgets add constraint widgets_project_fkey
         foreign key (org_id, project_id) references public.projects (org_id, id);
     create index widgets_project_idx on public.widgets (project_id, org_id, made_on) where project_id is not null",
    "set local role spine_owner; create view public.seen with (security_invoker = true) as select * from public.widgets",
    "set local role spine_owner;
     create function app.widget_changed() returns trigger language plpgsql security definer set search_path = '' as 'begin end';
     grant execute on function app.widget_changed() to public",
    "alter table public.widgets add constraint widgets_key unique (org_id, project_id, role_id)",
    "create policy widgets_narrow on public.widgets as restrictive for select to authenticated using (role_id is not null)",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_is_as_it_should_be_on_every_server() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        assert_eq!(lint::schema(&mut db.admin().await).await.unwrap(), [], "{server:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rule_of_the_schema_refuses_what_it_is_for() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let mut conn = db.admin().await;
        for (rule, at, wrong, sql) in BAD {
            let mut tx = conn.begin().await.unwrap();
            tx.execute(AssertSqlSafe(format!("{GOOD} {sql}; reset role"))).await.unwrap();
            let findings = lint::schema(&mut tx).await.unwrap();
            tx.rollback().await.unwrap();
            let found = findings.iter().any(|f| f.rule == rule && f.at == at && f.wrong.contains(wrong));
            assert!(found, "{rule} on {server:?} passes {sql}: {findings:#?}");
        }
        for sql in FINE {
            let mut tx = conn.begin().await.unwrap();
            tx.execute(AssertSqlSafe(format!("{GOOD} {sql}; reset role"))).await.unwrap();
            assert_eq!(lint::schema(&mut tx).await.unwrap(), [], "{server:?}: {sql}");
            tx.rollback().await.unwrap();
        }
    }
    let tried: BTreeSet<&str> = BAD.iter().map(|(rule, ..)| *rule).collect();
    assert_eq!(tried, BTreeSet::from(lint::RULES), "a rule that is never seen to refuse may never refuse");
}

/// What the lint says of a file with this text, as rule and line.
fn linted(text: &str) -> Vec<(&'static str, String)> {
    let name = "20300101000000_change_leads.sql";
    let findings: Vec<Finding> = lint::file(&home::root(), name, text).unwrap();
    let place = |at: &str| at.rsplit_once(':').map(|(_, line)| line.to_owned()).unwrap_or_default();
    findings.iter().map(|finding| (finding.rule, place(&finding.at))).collect()
}

/// One statement under a header that says this of locks; the statement is line 7.
fn under(locks: &str, statement: &str) -> Vec<(&'static str, String)> {
    linted(&format!(
        "-- Change leads.\n--\n-- Locks:   {locks}\n-- Rollout: expand.\n-- Undo:    none.\n\n{statement};\n"
    ))
}

#[test]
fn the_migrations_are_as_they_should_be() {
    assert_eq!(lint::migrations(&home::root()).unwrap(), []);
}

#[test]
fn a_lock_on_a_table_that_others_use_needs_a_plan() {
    for statement in [
        "create index leads_x_idx on public.leads (x)",
        "alter table public.leads add constraint leads_x_check check (x > 0)",
        "alter table public.leads add constraint leads_x_fkey foreign key (x) references public.clients (id)",
        "alter table public.leads add constraint leads_x_key unique (x)",
        "alter table public.leads alter column x set not null",
        "alter table public.leads alter column x type bigint",
        "alter table public.leads add column x text not null",
        "alter table public.leads add column x uuid default app.uuidv7()",
        "alter table public.leads drop column x",
        "alter table public.leads rename column x to y",
        "alter table public.leads rename to people",
        "drop table public.leads",
        "drop index public.leads_x_idx",
        "reindex table public.leads",
    ] {
        assert_eq!(under("none.", statement), [("lock", "7".to_owned())], "{statement}");
        assert_eq!(under("none on clients, nor on lead.", statement).len(), 1, "{statement}");
        assert_eq!(under("leads, for a moment: it is small.", statement), [], "{statement}");
    }
}

#[test]
fn what_waits_for_nobody_needs_none() {
    for statement in [
        "create table public.things (id uuid primary key, x int);
         create index things_x_idx on public.things (x);
         alter table public.things add constraint things_x_check check (x > 0)",
        "alter table public.leads add constraint leads_x_check check (x > 0) not valid",
        "alter table public.leads add column x text, add column y boolean not null default false",
        "create trigger leads_touch before update on public.leads for each row execute function app.touch_updated_at()",
    ] {
        assert_eq!(under("none.", statement), [], "{statement}");
    }
    let concurrently = "-- Add an index.\n-- Locks: none.\n-- Rollout: expand.\n-- Undo: drop it.\nset role spine_owner;\n\
                        create index concurrently leads_x_idx on public.leads (x);\n";
    assert_eq!(linted(&format!("-- no-transaction\n{concurrently}")), []);
    assert_eq!(linted(concurrently), [("statement", "6".to_owned())]);
}

#[test]
fn a_migration_leaves_its_transaction_alone_and_can_be_read() {
    assert_eq!(under("leads.", "select 1;\ncommit"), [("statement", "8".to_owned())]);
    assert!(under("leads.", "alter tabel public.leads drop x").iter().all(|(rule, _)| *rule == "statement"));
    assert!(!under("leads.", "alter tabel public.leads drop x").is_empty());
}

#[test]
fn a_file_has_a_name_and_a_header() {
    let findings = lint::file(&home::root(), "add_leads.sql", "select 1;").unwrap();
    let rules: Vec<&str> = findings.iter().map(|finding| finding.rule).collect();
    assert_eq!(rules, ["name", "header", "header", "header", "header"]);
    let told = findings[0].to_string();
    assert!(told.starts_with("migrations/add_leads.sql is not named"), "{told}");
}
