//! Messages by month, what is broadcast of changes, and files: who reads and writes what, by its name.

use std::collections::BTreeSet;

use futures::future::join_all;
use integration_tests::{
    Server, TestDatabase,
    acting::{Actor, asked, attempt, pid},
    people::{
        ADAM, BRICK, CLEO, DAN, DORA, HARBOUR, LAKESIDE, LOFT, NORD, OLGA, OSCAR, Person, RENATA, RUFUS, SVEN, UMA,
    },
};
use local::{database, home};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use uuid::Uuid;

const SERVERS: [Server; 2] = [Server::Postgres16, Server::Postgres18];

const fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0007_0000 + number)
}
/// Accounts of the two organisations.
const ACCOUNT: Uuid = id(1);
const THEIR_ACCOUNT: Uuid = id(2);

async fn with_accounts(server: Server) -> TestDatabase {
    let db = TestDatabase::new(server).await;
    db.run(&format!(
        "insert into social_accounts (id, org_id, platform, platform_id, username) values
             ('{ACCOUNT}', '{NORD}', 'instagram', 'nord', 'nord'), ('{THEIR_ACCOUNT}', '{BRICK}', 'instagram', 'brick', 'brick')"
    ))
    .await;
    db
}

fn message(message: Uuid, org: Uuid, account: Uuid, at: &str) -> String {
    format!(
        "insert into public.social_messages (id, org_id, account_id, message_type, content, sender_id, received_at, platform_id)
         values ('{message}', '{org}', '{account}', 'comment', 'for Greta', 'greta', '{at}', '{message}')"
    )
}

fn month(at: &str) -> String {
    format!("app.ensure_social_month(({at})::timestamptz)")
}

async fn make_month(db: &TestDatabase, at: &str) -> Value {
    let made = db.ask(&Actor::service(NORD), &format!("select {} as it", month(&format!("'{at}'")))).await;
    made.unwrap()[0]["it"].clone()
}

// Months -------------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_month_is_made_when_it_is_first_needed_however_long_ago_it_was() {
    for server in SERVERS {
        let db = with_accounts(server).await;
        let months = "select count(*) from pg_inherits where inhparent = 'social_messages'::regclass";
        let service = Actor::service(NORD);
        // A month is one of UTC, wherever whoever asks is.
        let ask_from_afar = async |at: &str| {
            let mut conn = db.begin_as(&service).await;
            conn.execute("set local timezone = 'Asia/Kathmandu'").await.unwrap();
            let made = asked(&mut conn, &format!("select {} as it", month(&format!("'{at}'")))).await.unwrap();
            conn.execute("commit").await.unwrap();
            made[0]["it"].clone()
        };
        for (number, at, name) in [
            (0x10, "2004-01-01 00:00:00+00", "social_messages_2004_01"),
            (0x11, "2019-02-28 23:59:59.999999+00", "social_messages_2019_02"),
            (0x12, "2019-03-01 00:00:00+00", "social_messages_2019_03"),
            (0x13, "2024-12-31 23:30:00-05", "social_messages_2025_01"),
        ] {
            // Nothing is lost in silence.
            let refusal = db.change(&service, &message(id(number), NORD, ACCOUNT, at)).await.unwrap_err();
            assert_eq!(refusal.state, "23514", "{refusal:?}");
            let before = db.count(months).await;
            assert_eq!(ask_from_afar(at).await, json!(true), "{at}");
            assert_eq!(ask_from_afar(at).await, json!(false), "{at}");
            assert_eq!(db.count(months).await, before + 1);
            assert_eq!(db.change(&service, &message(id(number), NORD, ACCOUNT, at)).await, Ok(1), "{at}");
            let place =
                format!("select tableoid::regclass::text as it from social_messages where id = '{}'", id(number));
            let place = db.ask(&Actor::role("postgres"), &place).await.unwrap();
            assert_eq!(place, json!([{ "it": format!("app.{name}") }]));
        }
        let still = db.still().await;
        for at in [
            "null",
            "'2003-12-31 23:59:59+00'",
            "'-infinity'",
            "'infinity'",
            "now() + interval '25 hours'",
            "'9999-01-01'",
        ] {
            still.refused(&service, &month(at), "PT422", "received_at_out_of_range").await;
        }
        still.unchanged().await;
        for role in ["anon", "authenticated", "spine_caller", "spine_agent", "service_role", "spine_functions"] {
            let refusal = db.ask(&Actor::role(role), &format!("select {}", month("now()"))).await.unwrap_err();
            assert_eq!(refusal.state, "42501", "{role}: {refusal:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_at_once_make_a_month_once() {
    let db = with_accounts(Server::Postgres18).await;
    for (made_before, at) in (0_i64..).zip(["2021-05-05", "2021-06-05", "2021-07-05"]) {
        let made = join_all((0..20).map(|_| make_month(&db, at))).await;
        assert_eq!(made.iter().filter(|made| **made == json!(true)).count(), 1, "{made:?}");
        let months = db.count("select count(*) from pg_inherits where inhparent = 'social_messages'::regclass").await;
        assert_eq!(months, made_before + 1);
    }
    // Whoever found no month, and waited while another made it, finds it then.
    let mut first = db.begin_as(&Actor::service(NORD)).await;
    let call = format!("select {} as it", month("'2021-08-08'"));
    asked(&mut first, &call).await.unwrap();
    let mut second = db.begin_as(&Actor::service(BRICK)).await;
    let waiter = pid(&mut second).await;
    let found = tokio::spawn(async move { asked(&mut second, &call).await });
    db.until_blocked(waiter).await;
    first.execute("commit").await.unwrap();
    assert_eq!(found.await.unwrap(), Ok(json!([{ "it": false }])));
}

#[tokio::test(flavor = "multi_thread")]
async fn making_a_month_waits_for_nobody_in_other_months_and_keeps_nobody_there_waiting() {
    for server in SERVERS {
        let db = with_accounts(server).await;
        for at in ["2024-01-01", "2024-02-01"] {
            make_month(&db, at).await;
        }
        let service = Actor::service(NORD);
        db.change(&service, &message(id(0x20), NORD, ACCOUNT, "2024-02-02")).await.unwrap();
        // Whoever has to wait for a lock is told at once.
        let impatient = async |actor: &Actor| {
            let mut conn = db.begin_as(actor).await;
            conn.execute("set local lock_timeout = '1s'").await.unwrap();
            conn
        };
        let mut writer = impatient(&service).await;
        writer.execute(AssertSqlSafe(message(id(0x21), NORD, ACCOUNT, "2024-01-02"))).await.unwrap();
        let mut reader = impatient(&Actor::person(&OLGA)).await;
        asked(&mut reader, "select content from public.social_messages").await.unwrap();

        // Both transactions are open, and the month is made; then that one stays open.
        let mut maker = impatient(&service).await;
        let made = asked(&mut maker, &format!("select {} as it", month("'2024-03-03'"))).await;
        assert_eq!(made, Ok(json!([{ "it": true }])));
        maker.execute(AssertSqlSafe(message(id(0x22), NORD, ACCOUNT, "2024-03-03"))).await.unwrap();

        for (actor, statement) in [
            (&service, message(id(0x23), NORD, ACCOUNT, "2024-01-03")),
            (&service, message(id(0x24), NORD, ACCOUNT, "2024-02-03")),
            (
                &service,
                format!(
                    "update public.social_messages set content = 'x' where id = '{}' and received_at = '2024-02-02'",
                    id(0x20)
                ),
            ),
            (&Actor::service(BRICK), message(id(0x25), BRICK, THEIR_ACCOUNT, "2024-02-03")),
            (&Actor::person(&OLGA), "update public.social_messages set status = 'read'".to_owned()),
            (&Actor::person(&OLGA), "select from public.social_messages".to_owned()),
            (&service, "select from public.social_messages where received_at < '2024-02-01'".to_owned()),
        ] {
            let mut conn = impatient(actor).await;
            let done = attempt(&mut conn, &statement).await;
            assert!(
                done.as_ref().is_ok_and(|rows| *rows > 0 || statement.starts_with("select")),
                "{statement}: {done:?}"
            );
        }
        // A month that is there already is found without waiting.
        let mut other = impatient(&service).await;
        let found = asked(&mut other, &format!("select {} as it", month("'2024-01-09'"))).await;
        assert_eq!(found, Ok(json!([{ "it": false }])));

        // The writer goes on, and all three end well.
        writer.execute(AssertSqlSafe(message(id(0x26), NORD, ACCOUNT, "2024-02-04"))).await.unwrap();
        for conn in [&mut maker, &mut writer, &mut reader] {
            conn.execute("commit").await.unwrap();
        }
        assert_eq!(db.count("select count(*) from social_messages").await, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_is_no_door_and_messages_are_seen_through_the_root_under_policies() {
    for server in SERVERS {
        let db = with_accounts(server).await;
        for at in ["2024-01-01", "2024-02-01"] {
            make_month(&db, at).await;
        }
        for (number, at) in [(0x30, "2024-01-02"), (0x31, "2024-02-02")] {
            db.change(&Actor::service(NORD), &message(id(number), NORD, ACCOUNT, at)).await.unwrap();
            db.change(&Actor::service(BRICK), &message(id(number + 0x10), BRICK, THEIR_ACCOUNT, at)).await.unwrap();
        }
        let open = "select count(*) from pg_class c join pg_inherits i on i.inhrelid = c.oid
                     where i.inhparent = 'social_messages'::regclass
                       and not (c.relrowsecurity and c.relforcerowsecurity and pg_get_userbyid(c.relowner) = 'spine_owner'
                                and not exists (select from pg_policy p where p.polrelid = c.oid)
                                and not exists (select from aclexplode(c.relacl) a where a.grantee <> c.relowner)
                                and not exists (select from pg_attribute a where a.attrelid = c.oid and a.attacl is not null))";
        assert_eq!(db.count(open).await, 0);
        for role in [
            "anon",
            "authenticated",
            "authenticator",
            "service_role",
            "spine_caller",
            "spine_agent",
            "spine_service",
            "spine_functions",
            "spine_definer",
            "spine_owner",
        ] {
            let actor = Actor { service_org: Some(NORD), ..Actor { role, ..Actor::person(&OLGA) } };
            let mut conn = db.begin_as(&actor).await;
            for statement in [
                "select from app.social_messages_2024_01",
                "update app.social_messages_2024_01 set content = 'x'",
                "delete from app.social_messages_2024_01",
            ] {
                let done = attempt(&mut conn, statement).await;
                // Only its owner is not refused, and finds nothing.
                assert!(done.is_err() || role == "spine_owner" && done == Ok(0), "{role}: {statement}");
            }
        }
        let all = |actor: Actor, seen: usize| (actor, seen);
        for (actor, seen) in [
            all(Actor::person(&OLGA), 2),
            all(Actor::person(&ADAM), 2),
            all(Actor::person(&OSCAR), 2),
            all(Actor::person(&DORA), 0),
            all(Actor::person(&SVEN), 0),
            all(Actor::person(&CLEO), 0),
            all(Actor::person(&UMA), 0),
            all(Actor::person(&OSCAR).with("org_id", json!(NORD)), 0),
            all(db.agent(&RENATA).await, 2),
            all(db.agent(&RUFUS).await, 2),
            all(Actor::service(NORD), 2),
            all(Actor::role("spine_service"), 0),
        ] {
            let rows = db.ask(&actor, "select org_id from public.social_messages").await.unwrap();
            let rows = rows.as_array().unwrap();
            assert_eq!(rows.len(), seen, "{}", actor.name);
            assert!(rows.iter().all(|row| *row == rows[0]), "{}: of one organisation", actor.name);
        }
        assert_eq!(
            db.ask(&Actor::role("anon"), "select from public.social_messages").await.unwrap_err().state,
            "42501"
        );

        // An account goes with all that was said on it, in whatever month.
        db.run(&format!(
            "insert into social_message_keys select org_id, account_id, platform_id, id, received_at from social_messages;
             insert into social_sentiment (org_id, message_id, sentiment_score, model_used) select org_id, id, 0.5, 'm' from social_messages;
             insert into social_cursors (org_id, account_id, stream) values ('{NORD}', '{ACCOUNT}', 'comments')"
        ))
        .await;
        let remove = format!("delete from public.social_accounts where id = '{ACCOUNT}'");
        assert_eq!(db.change(&Actor::person(&OLGA), &remove).await.unwrap_err().state, "42501");
        db.run(&remove).await;
        for table in ["social_messages", "social_message_keys", "social_sentiment", "social_cursors"] {
            assert_eq!(db.count(&format!("select count(*) from {table} where org_id = '{NORD}'")).await, 0, "{table}");
        }
        assert_eq!(db.count("select count(*) from social_messages").await, 2);
    }
}

// Realtime -----------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn messages_have_no_partition_until_a_client_connects_and_what_is_sent_before_is_lost() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let insert = format!("insert into public.leads (org_id, client_name) values ('{NORD}', 'Greta')");
        let partitions = "select count(*) from pg_inherits where inhparent = 'realtime.messages'::regclass";
        let partitioned = "select count(*) from pg_class where oid = 'realtime.messages'::regclass and relkind = 'p'";
        assert_eq!((db.count(partitioned).await, db.count(partitions).await), (1, 0), "{server:?}");
        assert_eq!(db.change(&Actor::person(&ADAM), &insert).await, Ok(1));
        assert_eq!(db.count("select count(*) from realtime.messages").await, 0);

        db.connect_to_realtime().await;
        assert_eq!(db.change(&Actor::person(&ADAM), &insert).await, Ok(1));
        // One of the lead and one of its entry in the audit log; each carries its own id, as Supabase adds it.
        let sent = "select count(*) from realtime.messages where payload ->> 'id' = id::text and private and extension = 'broadcast'";
        assert_eq!(db.count(sent).await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_an_earlier_baseline_left_in_one_table_get_partitions_and_keep_their_policies() {
    let policies = "select policyname, permissive, roles::text, cmd, qual, with_check from pg_policies where tablename = 'messages' order by 1";
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let operator = Actor::role("postgres");
        db.run(
            "create table realtime.one (like realtime.messages including all);
             alter table realtime.one enable row level security;
             create policy spine_topics_select on realtime.one for select to authenticated
                 using (extension = 'broadcast' and topic = (select realtime.topic()) and (select app.may_hear((select realtime.topic()))));
             create policy others on realtime.one as restrictive to public using (false) with check (private);
             create policy writers on realtime.one for insert to service_role with check (true);
             drop table realtime.messages;
             alter table realtime.one rename to messages;",
        )
        .await;
        let before = db.ask(&operator, policies).await.unwrap();
        assert_eq!(before.as_array().unwrap().len(), 3);
        database::migrate(&home::root(), &db.url).await.unwrap();
        assert_eq!(db.ask(&operator, policies).await.unwrap(), before);
        let made = "select count(*) from pg_class where oid = 'realtime.messages'::regclass and relkind = 'p' and relrowsecurity";
        assert_eq!(db.count(made).await, 1);
        // Once it is partitioned it stays as it is, with what it holds.
        db.connect_to_realtime().await;
        db.run("select realtime.send('{}', 'e', 't')").await;
        database::migrate(&home::root(), &db.url).await.unwrap();
        assert_eq!(db.count("select count(*) from realtime.messages").await, 1);
    }
}

/// How Realtime can be of no use, and what brings each about, one after another.
const USELESS: [(&str, &str); 4] = [
    ("no client has connected", "select"),
    ("the table of messages is held", "begin; lock table realtime.messages in access exclusive mode"),
    (
        "sending is refused",
        "rollback; create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true)
             returns void language plpgsql as $$ begin raise 'not now'; end $$",
    ),
    ("there is nothing to send with", "drop schema realtime cascade"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_that_cannot_be_sent_fails_no_write() {
    let (lead, job, render, said) = (id(0x60), id(0x61), id(0x62), id(0x63));
    let writes = [
        format!(
            "insert into leads (id, org_id, client_name, assigned_to) values ('{lead}', '{NORD}', 'Greta', '{}')",
            SVEN.id
        ),
        format!(
            "insert into jobs (id, org_id, job_type, created_by) values ('{job}', '{NORD}', 'render', '{}')",
            DORA.id
        ),
        format!(
            "insert into render_requests (id, org_id, user_id, project_id, job_id, input_file_path, model)
             values ('{render}', '{NORD}', '{}', '{LAKESIDE}', '{job}', 'b/{NORD}/x', 'm')",
            DORA.id
        ),
        message(said, NORD, ACCOUNT, "2024-01-02"),
        format!("update leads set assigned_to = '{}' where id = '{lead}'", DORA.id),
        format!("update jobs set status = 'cancelled', finished_at = now() where id = '{job}'"),
        format!("update render_requests set status = 'cancelled', completed_at = now() where id = '{render}'"),
        format!("update social_messages set status = 'read' where id = '{said}'"),
        format!("delete from social_messages where id = '{said}'"),
        format!("delete from render_requests where id = '{render}'"),
        format!("delete from jobs where id = '{job}'"),
        format!("delete from leads where id = '{lead}'"),
    ];
    for server in SERVERS {
        let db = with_accounts(server).await;
        make_month(&db, "2024-01-01").await;
        let (mut other, mut writer) = (db.admin().await, db.admin().await);
        // What would wait for ever is cut off.
        writer.execute("set statement_timeout = '10s'").await.unwrap();
        for (why, how) in USELESS {
            other.execute(how).await.unwrap();
            let before = db.count("select count(*) from audit_log").await;
            for write in &writes {
                let done = writer.execute(AssertSqlSafe(write.clone())).await;
                let done = done.unwrap_or_else(|error| panic!("{server:?}, {why}: {write}: {error}"));
                assert_eq!(done.rows_affected(), 1, "{server:?}, {why}: {write}");
            }
            // The audit log has what was done to the lead, though its own broadcast failed as well.
            let entries = db.count("select count(*) from audit_log").await - before;
            assert_eq!(entries, 3, "{server:?}, {why}");
        }
    }
}

/// What was broadcast of a table, as topic, operation and ids; then forgotten.
async fn broadcast(db: &TestDatabase, table: &str) -> BTreeSet<(String, String, String)> {
    let rows = db
        .ask(&Actor::role("postgres"), "select topic, event, payload, private, extension from realtime.messages")
        .await
        .unwrap();
    db.run("delete from realtime.messages").await;
    assert!(!rows.to_string().contains("Greta") && !rows.to_string().contains('@'), "{rows}");
    let rows = rows.as_array().unwrap().iter();
    rows.filter(|row| row["payload"]["table"] == table)
        .map(|row| {
            assert_eq!((&row["private"], &row["extension"]), (&json!(true), &json!("broadcast")));
            let payload = row["payload"].as_object().unwrap();
            // Supabase adds the message's own id.
            assert_eq!(payload.keys().collect::<Vec<_>>(), ["count", "id", "ids", "operation", "table"]);
            let of = |name: &str| row[name].as_str().unwrap().to_owned();
            (of("topic"), of("event"), payload["ids"].to_string())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_to_the_organisation_and_to_whose_row_it_is_by_id_and_nothing_else() {
    for server in SERVERS {
        let db = with_accounts(server).await;
        db.connect_to_realtime().await;
        make_month(&db, "2024-01-01").await;
        let check = async |actor: &Actor, statement: String, table: &str, event: &str, topics: &[String], row: Uuid| {
            assert!(db.change(actor, &statement).await.unwrap() > 0, "{statement}");
            let wanted: BTreeSet<_> =
                topics.iter().map(|topic| (topic.clone(), event.to_owned(), format!("[\"{row}\"]"))).collect();
            assert_eq!(broadcast(&db, table).await, wanted, "{statement}");
        };
        let (adam, service, operator) = (Actor::person(&ADAM), Actor::service(NORD), Actor::role("postgres"));
        let topics = |table: &str, people: &[&Person]| {
            let all = format!("org:{NORD}:{table}");
            people.iter().map(|person| format!("{all}:{}", person.id)).chain([all.clone()]).collect::<Vec<_>>()
        };

        let lead = id(0x50);
        let insert = format!(
            "insert into public.leads (id, org_id, client_name, email) values ('{lead}', '{NORD}', 'Greta', 'greta@example.com')"
        );
        check(&service, insert, "leads", "insert", &topics("leads", &[]), lead).await;
        let assign = |to: &Person| {
            format!("update public.leads set assigned_to = '{}', assigned_at = now() where id = '{lead}'", to.id)
        };
        check(&service, assign(&SVEN), "leads", "update", &topics("leads", &[&SVEN]), lead).await;
        // Whoever it is taken from hears of it too.
        check(&service, assign(&DORA), "leads", "update", &topics("leads", &[&SVEN, &DORA]), lead).await;
        check(
            &adam,
            format!("delete from public.leads where id = '{lead}'"),
            "leads",
            "delete",
            &topics("leads", &[&DORA]),
            lead,
        )
        .await;

        let job = id(0x51);
        let insert = format!(
            "insert into jobs (id, org_id, job_type, created_by, payload) values ('{job}', '{NORD}', 'render', '{}', '{{\"for\": \"Greta\"}}')",
            DORA.id
        );
        check(&operator, insert, "jobs", "insert", &topics("jobs", &[&DORA]), job).await;
        check(
            &operator,
            "update jobs set status = 'running', lease_until = now(), lease_token = gen_random_uuid(), attempts = 1"
                .to_owned(),
            "jobs",
            "update",
            &topics("jobs", &[&DORA]),
            job,
        )
        .await;
        // A lease that is renewed is nobody's news.
        db.run("update jobs set lease_until = now()").await;
        assert!(broadcast(&db, "jobs").await.is_empty());

        let render = id(0x52);
        let insert = format!(
            "insert into render_requests (id, org_id, user_id, project_id, job_id, input_file_path, model)
             values ('{render}', '{NORD}', '{}', '{LAKESIDE}', '{job}', 'b/{NORD}/Greta', 'm')",
            UMA.id
        );
        check(&operator, insert, "render_requests", "insert", &topics("render_requests", &[&UMA]), render).await;
        let fail = "update render_requests set status = 'failed', completed_at = now()".to_owned();
        check(&operator, fail, "render_requests", "update", &topics("render_requests", &[&UMA]), render).await;

        let (said, table) = (id(0x53), "social_messages");
        check(&service, message(said, NORD, ACCOUNT, "2024-01-02"), table, "insert", &topics(table, &[]), said).await;
        let read = "update public.social_messages set status = 'read'".to_owned();
        check(&adam, read, table, "update", &topics(table, &[]), said).await;
        check(
            &operator,
            format!("delete from public.social_accounts where id = '{ACCOUNT}'"),
            table,
            "delete",
            &topics(table, &[]),
            said,
        )
        .await;

        db.run("delete from realtime.messages").await;
        db.change(&adam, "update public.organizations set name = 'Greta'").await.unwrap();
        let entry = db.ask(&operator, "select id from audit_log order by occurred_at desc limit 1").await.unwrap();
        let wanted = (format!("org:{NORD}:audit_log"), "insert".to_owned(), json!([entry[0]["id"]]).to_string());
        assert_eq!(broadcast(&db, "audit_log").await, [wanted].into());

        // Many at once are told as many, for each organisation of its own.
        db.run(&format!(
            "insert into leads (org_id, client_name) select o, 'Greta' from generate_series(1, 101), unnest(array['{NORD}', '{BRICK}']::uuid[]) o where generate_series > 1 or o = '{NORD}'"
        ))
        .await;
        let told = db
            .ask(&operator, "select topic, payload -> 'count' as count, jsonb_array_length(nullif(payload -> 'ids', 'null')) as ids from realtime.messages where payload ->> 'table' = 'leads' order by 1")
            .await
            .unwrap();
        assert_eq!(
            told,
            json!([
                { "topic": format!("org:{NORD}:leads"), "count": 101, "ids": null },
                { "topic": format!("org:{BRICK}:leads"), "count": 100, "ids": 100 },
            ])
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_topic_is_heard_by_those_it_is_declared_for_and_filled_by_nobody() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let tables = ["leads", "render_requests", "jobs", "social_messages", "audit_log"];
        let people = [&OLGA, &ADAM, &DORA, &SVEN, &CLEO, &UMA, &OSCAR, &DAN];
        let mut topics = BTreeSet::new();
        for org in [NORD, BRICK] {
            for table in tables {
                topics.insert(format!("org:{org}:{table}"));
                for person in people {
                    topics.insert(format!("org:{org}:{table}:{}", person.id));
                }
            }
            for odd in ["", ":", ":roles", ":leads:", ":leads:all", ":profiles", ":organizations"] {
                topics.insert(format!("org:{org}{odd}"));
            }
            topics.insert(format!("org:{org}:leads:{}:more", OLGA.id));
            topics.insert(format!("ORG:{org}:leads"));
            topics.insert(format!("xorg:{org}:leads"));
            topics.insert(format!("{org}:leads"));
        }
        topics.extend(["org::leads", "org:*:leads", "org", "leads", "%"].map(str::to_owned));
        db.connect_to_realtime().await;
        let mut admin = db.admin().await;
        for topic in &topics {
            sqlx::query("insert into realtime.messages (topic, extension, event, payload, private) values ($1, 'broadcast', 'x', '{}', true), ($1, 'presence', 'x', '{}', true)")
                .bind(topic)
                .execute(&mut admin)
                .await
                .unwrap();
        }
        let admins = tables.as_slice();
        let mut actors: Vec<(Actor, Option<&Person>, &[&str])> = Vec::new();
        for (person, whole) in [
            (&OLGA, admins),
            (&ADAM, admins),
            (&OSCAR, admins),
            (&DORA, &["render_requests"][..]),
            (&DAN, &["render_requests"][..]),
            (&SVEN, &[]),
            (&CLEO, &[]),
            (&UMA, &[]),
        ] {
            actors.push((Actor::person(person), Some(person), whole));
        }
        for nobody in [
            Actor::role("anon"),
            Actor::role("authenticated"),
            Actor::person(&OLGA).with("is_anonymous", json!(true)),
            Actor::person(&OSCAR).with("org_id", json!(NORD)),
        ] {
            actors.push((nobody, None, &[]));
        }
        for (actor, person, whole) in actors {
            let wanted: BTreeSet<_> = person.map_or_else(BTreeSet::new, |person| {
                let whole = whole.iter().map(|table| format!("org:{}:{table}", person.org));
                let own = ["leads", "render_requests", "jobs"]
                    .map(|table| format!("org:{}:{table}:{}", person.org, person.id));
                whole.chain(own).collect()
            });
            let mut conn = db.begin_as(&actor).await;
            let mut heard = BTreeSet::new();
            for topic in &topics {
                sqlx::query("select set_config('realtime.topic', $1, true)")
                    .bind(topic)
                    .execute(&mut conn)
                    .await
                    .unwrap();
                let rows = asked(&mut conn, "select topic, extension from realtime.messages").await.unwrap();
                if rows != json!([]) {
                    assert_eq!(rows, json!([{ "topic": topic, "extension": "broadcast" }]), "{}", actor.name);
                    heard.insert(topic.clone());
                }
                let said = format!("insert into realtime.messages (topic, extension) values ('{topic}', 'broadcast')");
                assert!(attempt(&mut conn, &said).await.is_err(), "{}: {said}", actor.name);
            }
            assert_eq!(heard, wanted, "{}", actor.name);
            // Without a topic there is nothing to hear.
            conn.execute("select set_config('realtime.topic', '', true)").await.unwrap();
            assert_eq!(asked(&mut conn, "select from realtime.messages").await, Ok(json!([])), "{}", actor.name);
        }
    }
}

// Files --------------------------------------------------------------------------------------------------------------------

const BUCKETS: [&str; 5] = ["project-media", "blog-media", "renders", "social-uploads", "elsewhere"];

/// Every path there is: of either organisation, and those that try to be of the other.
fn paths() -> Vec<String> {
    let mut paths = vec![String::new(), "x.jpg".to_owned(), "/".to_owned(), "..".to_owned()];
    for (org, other) in [(NORD, BRICK), (BRICK, NORD)] {
        paths.extend([
            format!("{org}/x.jpg"),
            format!("{org}/a/b/x..y.jpg"),
            format!("{org}/.hidden"),
            format!("{org}"),
            format!("{org}/"),
            format!("/{org}/x.jpg"),
            format!("{org}//x.jpg"),
            format!("{org}/./x.jpg"),
            format!("{org}/../{other}/x.jpg"),
            format!("../{org}/x.jpg"),
            format!("{org}/a/.."),
            format!("{other}/{org}/x.jpg"),
            format!("{org}x/x.jpg"),
            format!(" {org}/x.jpg"),
        ]);
    }
    paths.sort();
    paths.dedup();
    paths
}

/// Whether a path lies in the organisation's folder, and whether it may be written there.
fn lies_in(path: &str, org: Uuid) -> (bool, bool) {
    let segments: Vec<_> = path.split('/').collect();
    let inside = segments.len() > 1 && segments[0] == org.to_string();
    (inside, inside && segments.iter().all(|segment| !["", ".", ".."].contains(segment)))
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_and_written_in_the_folder_of_ones_organisation_and_nowhere_else() {
    let db = TestDatabase::new(Server::Postgres18).await;
    check_files(&db, &BUCKETS, &[&OLGA, &ADAM, &DORA, &SVEN, &CLEO, &UMA, &OSCAR]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_keep_to_their_folder_on_the_oldest_server_too() {
    let db = TestDatabase::new(Server::Postgres16).await;
    check_files(&db, &["project-media"], &[&DORA, &OSCAR]).await;
}

async fn check_files(db: &TestDatabase, buckets: &[&str], people: &[&Person]) {
    db.run("insert into storage.buckets (id, name) values ('elsewhere', 'elsewhere')").await;
    let paths = paths();
    // Each path twice: once the person's own, once somebody else's.
    for person in people {
        let (manages, creates) = (
            [OLGA.id, ADAM.id, OSCAR.id].contains(&person.id),
            [OLGA.id, ADAM.id, OSCAR.id, DORA.id, SVEN.id].contains(&person.id),
        );
        for own in [true, false] {
            let owner = if own { person.id } else { DAN.id };
            db.run("delete from storage.objects").await;
            let mut admin = db.admin().await;
            for bucket in buckets {
                for path in &paths {
                    sqlx::query("insert into storage.objects (bucket_id, name, owner_id) values ($1, $2, $3)")
                        .bind(bucket)
                        .bind(path)
                        .bind(owner.to_string())
                        .execute(&mut admin)
                        .await
                        .unwrap();
                }
            }
            let mut conn = db.begin_as(&Actor::person(person)).await;
            for bucket in buckets {
                for path in &paths {
                    let (inside, tidy) = lies_in(path, person.org);
                    let ours = *bucket != "elsewhere";
                    let uploads = ours && *bucket != "renders";
                    let it = format!("bucket_id = '{bucket}' and name = '{path}'");
                    let mut check = async |verb: &str, statement: String, wanted: bool| {
                        let done = attempt(&mut conn, &statement).await;
                        assert_eq!(
                            done.as_ref().is_ok_and(|rows| *rows > 0),
                            wanted,
                            "{} {verb}s {bucket} {path:?}, own: {own}: {done:?}",
                            person.email
                        );
                    };
                    check("read", format!("select from storage.objects where {it}"), ours && inside && creates).await;
                    let mine = manages || own && creates;
                    check(
                        "update",
                        format!("update storage.objects set metadata = '{{}}' where {it}"),
                        uploads && tidy && mine,
                    )
                    .await;
                    check(
                        "delete",
                        format!("delete from storage.objects where {it}"),
                        inside && (ours && manages || uploads && mine),
                    )
                    .await;
                    let insert = format!(
                        "insert into storage.objects (bucket_id, name, owner_id) values ('{bucket}', '{path}', '{owner}')"
                    );
                    // What is there is out of the way first, so that nothing but a policy can refuse.
                    let inserted = insert_instead(&mut conn, &it, &insert).await;
                    assert_eq!(
                        inserted,
                        uploads && tidy && creates && own,
                        "{} inserts {bucket} {path:?}, own: {own}",
                        person.email
                    );
                }
            }
            drop(conn);
            // Nothing of one's own is renamed into a place one may not write.
            if own && creates && buckets.contains(&"project-media") {
                let mut conn = db.begin_as(&Actor::person(person)).await;
                let from = format!("bucket_id = 'project-media' and name = '{}/x.jpg'", person.org);
                for path in &paths {
                    let free = format!(
                        "{path}{}",
                        if path.ends_with('/') || path.is_empty() || path.ends_with("..") { "" } else { ".2" }
                    );
                    if paths.contains(&free) {
                        continue;
                    }
                    let done =
                        attempt(&mut conn, &format!("update storage.objects set name = '{free}' where {from}")).await;
                    assert_eq!(
                        done == Ok(1),
                        lies_in(&free, person.org).1,
                        "{} renames to {free:?}: {done:?}",
                        person.email
                    );
                }
                for bucket in ["renders", "elsewhere"] {
                    let moved = format!(
                        "update storage.objects set bucket_id = '{bucket}', name = '{}/moved.jpg' where {from}",
                        person.org
                    );
                    assert!(attempt(&mut conn, &moved).await.is_err(), "{} moves to {bucket}", person.email);
                }
                let given = format!("update storage.objects set owner_id = '{}' where {from}", CLEO.id);
                assert_eq!(attempt(&mut conn, &given).await.is_ok(), manages, "{} gives away", person.email);
            }
        }
    }
}

/// Whether a row may be inserted where there is one of the same name: that one is renamed for the moment, inside the transaction.
async fn insert_instead(conn: &mut PgConnection, it: &str, insert: &str) -> bool {
    let role: String = sqlx::query_scalar("select current_setting('role')").fetch_one(&mut *conn).await.unwrap();
    conn.execute("savepoint instead").await.unwrap();
    conn.execute("set local role postgres").await.unwrap();
    conn.execute(AssertSqlSafe(format!("update storage.objects set name = gen_random_uuid()::text where {it}")))
        .await
        .unwrap();
    conn.execute(AssertSqlSafe(format!("set local role {role}"))).await.unwrap();
    let done = attempt(conn, insert).await;
    conn.execute("rollback to savepoint instead").await.unwrap();
    done == Ok(1)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_sees_the_files_of_approved_projects_and_published_posts_alone() {
    for server in SERVERS {
        let db = TestDatabase::new(server).await;
        let post = |number: u128, status: &str, published: &str| {
            format!(
                "insert into blog_posts (id, org_id, title, slug, status, published_at) values ('{0}', '{NORD}', 't', 's{number}', '{status}', {published});
                 insert into blog_media (org_id, post_id, file_path) values ('{NORD}', '{0}', '{NORD}/post-{number}');",
                id(0x600 + number)
            )
        };
        let project = |number: u128, published: &str, approved: &str, archived: &str| {
            format!(
                "insert into projects (id, org_id, title, published_at, approved_by, archived_at) values ('{0}', '{NORD}', 't', {published}, {approved}, {archived});
                 insert into project_images (org_id, project_id, file_path) values ('{NORD}', '{0}', '{NORD}/project-{number}');",
                id(0x700 + number)
            )
        };
        let adam = format!("'{}'", ADAM.id);
        db.run(
            &[
                post(1, "published", "now() - interval '1 second'"),
                post(2, "draft", "now() - interval '1 second'"),
                post(3, "published", "now() + interval '1 day'"),
                post(4, "archived", "now() - interval '1 second'"),
                project(1, "now() - interval '1 second'", &adam, "null"),
                project(2, "now() - interval '1 second'", "null", "null"),
                project(3, "null", &adam, "null"),
                project(4, "now() - interval '1 second'", &adam, "now()"),
            ]
            .concat(),
        )
        .await;
        let mut names: Vec<String> =
            (1..=4).flat_map(|n| [format!("{NORD}/post-{n}"), format!("{NORD}/project-{n}")]).collect();
        names.extend([
            format!("{NORD}/nobody-speaks-of-it"),
            format!("{BRICK}/post-1"),
            String::new(),
            format!("{NORD}/../{NORD}/post-1"),
        ]);
        let mut admin = db.admin().await;
        for bucket in &BUCKETS[..4] {
            for name in &names {
                sqlx::query("insert into storage.objects (bucket_id, name) values ($1, $2)")
                    .bind(bucket)
                    .bind(name)
                    .execute(&mut admin)
                    .await
                    .unwrap();
            }
        }
        let mut anon = db.begin_as(&Actor::role("anon")).await;
        let seen = asked(&mut anon, "select bucket_id, name from storage.objects order by 1").await.unwrap();
        assert_eq!(
            seen,
            json!([
                { "bucket_id": "blog-media", "name": format!("{NORD}/post-1") },
                { "bucket_id": "project-media", "name": format!("{NORD}/project-1") },
            ])
        );
        for statement in [
            "update storage.objects set metadata = '{}'".to_owned(),
            "delete from storage.objects".to_owned(),
            format!("insert into storage.objects (bucket_id, name) values ('blog-media', '{NORD}/new')"),
        ] {
            let done = attempt(&mut anon, &statement).await;
            assert!(!matches!(done, Ok(rows) if rows > 0), "{statement}");
        }
        // Seeded projects are nobody's portfolio.
        let public = db.ask(&Actor::role("anon"), "select id from public.projects").await.unwrap();
        assert_eq!(public, json!([{ "id": id(0x701) }]));
        for hidden in [LAKESIDE, LOFT, HARBOUR] {
            assert!(!public.to_string().contains(&hidden.to_string()));
        }
    }
}
