//! Files that messages come with: which are fetched and kept, which are refused, and who may read them.

mod server;

use chrono::Utc;
use integration_tests::{
    Server, TestApp, TestDatabase,
    acting::{Actor, attempt},
    people::{BRICK, DORA, NORD, OLGA, OSCAR, SVEN},
    small_photo,
};
use sandbox::{
    Delivery,
    instagram::{self as events, NewMessage},
    tiktok,
};
use serde_json::{Value, json};
use sqlx::Executor;

use self::server::Files;
use crate::{
    social_fetch,
    social_webhook::{connect, merged, meta},
};

const OWN: &str = "17841400000000001";

/// A back office that may fetch from this server, and from nothing else that is private.
async fn beside(files: &Files) -> TestApp {
    TestApp::with(&[("DOWNLOAD_ALLOWED_HOSTS", &files.address.to_string())]).await
}

/// Delivers a message with these attachments, `(type, url)`, `after` milliseconds from now.
async fn deliver(app: &TestApp, mid: &str, parts: &[(&str, &str)], after: i64) {
    let at = Utc::now().timestamp_millis() + after;
    let parts: Vec<Value> =
        parts.iter().map(|(kind, url)| json!({ "type": kind, "payload": { "url": url } })).collect();
    let said = events::messaging("9001", OWN, at, json!({ "message": { "mid": mid, "attachments": parts } }));
    meta(app, &events::body(&[events::messaging_entry(OWN, at, said)], sandbox::Written::Escaped)).await.expect(200);
    merged(app).await;
}

/// Deletes a message at the platform.
async fn unsend(app: &TestApp, mid: &str) {
    let at = Utc::now().timestamp_millis() + 60_000;
    let said = events::messaging("9001", OWN, at, json!({ "message": { "mid": mid, "is_deleted": true } }));
    meta(app, &events::body(&[events::messaging_entry(OWN, at, said)], sandbox::Written::Escaped)).await.expect(200);
    merged(app).await;
}

/// Waits until no file is left to be worked on at once.
async fn settled(app: &TestApp) {
    app.stack.queue("social-attachments").unwrap().drained().await;
}

/// Has what waits worked on as if its time had come.
async fn go_on(app: &TestApp) {
    app.db
        .run("update social_attachments set next_at = now() where status in ('waiting', 'deleting'); update jobs set run_after = now() where status = 'queued'")
        .await;
    app.stack.sweep().await.unwrap();
    settled(app).await;
}

/// What became of the files of each message: `status`, or `status code`.
async fn states(app: &TestApp) -> Value {
    let states = app
        .db
        .text(
            "select coalesce(jsonb_object_agg(platform_id, states), '{}')::text from (
                select k.platform_id, jsonb_agg(a.status || coalesce(' ' || a.code, '') order by a.created_at, a.id) as states
                  from social_attachments a join social_message_keys k on k.org_id = a.org_id and k.message_id = a.message_id group by 1) x",
        )
        .await;
    serde_json::from_str(&states).unwrap()
}

/// The paths of all objects of the bucket, below its name.
fn objects(app: &TestApp) -> Vec<String> {
    let root = app.stack.logs.parent().unwrap().join("storage/social-uploads");
    let (mut folders, mut found) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_kept_once_under_its_organisation_as_what_its_content_says() {
    let files = Files::start().await;
    let app = beside(&files).await;
    connect(&app, NORD, "instagram", OWN).await;
    connect(&app, BRICK, "instagram", OWN).await;
    let photo = small_photo();
    // Its server lies about what it is.
    let signed = |signature: &str| files.put(&format!("/photo?asset_id=1&signature={signature}"), "text/html", &photo);
    deliver(&app, "m1", &[("image", &signed("a")), ("ig_post", "https://www.instagram.com/p/1")], 0).await;
    settled(&app).await;
    // Delivered again under another signature, and once more as it was.
    deliver(&app, "m1", &[("image", &signed("b"))], 1000).await;
    deliver(&app, "m1", &[("image", &signed("b"))], 2000).await;
    settled(&app).await;
    assert_eq!(files.asked(), ["/photo?asset_id=1&signature=a"; 2], "once for each organisation: {}", app.logs());

    let rows = app
        .db
        .text("select string_agg(concat_ws(' ', org_id, path, content_type, bytes, status), ',' order by path) from social_attachments")
        .await;
    let kept = objects(&app);
    assert_eq!(kept.len(), 2);
    for (org, row) in
        [NORD, BRICK].iter().map(|org| (org, rows.split(',').find(|row| row.starts_with(&org.to_string())).unwrap()))
    {
        let path = kept.iter().find(|path| path.starts_with(&format!("{org}/messages/"))).unwrap();
        assert!(path.ends_with(".jpg"), "{path}");
        assert_eq!(row, format!("{org} {path} image/jpeg {} kept", photo.len()));
        let stored = app.stack.logs.parent().unwrap().join("storage/social-uploads").join(path);
        assert_eq!(std::fs::read(stored).unwrap(), photo);
    }

    // People see it beside the message.
    let token = app.token(&OLGA);
    let thread = app.db.text(&format!("select id::text from social_threads where org_id = '{NORD}'")).await;
    let shown = app.get(&format!("/v1/inbox/threads/{thread}"), &token).await.expect(200);
    let shown = &shown["messages"][0]["files"];
    let path = kept.iter().find(|path| path.starts_with(&NORD.to_string())).unwrap();
    assert_eq!(
        *shown,
        json!([{ "id": shown[0]["id"], "type": "image", "status": "kept", "code": null, "bucket": "social-uploads", "path": path,
                 "content_type": "image/jpeg", "bytes": photo.len() }])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_private_is_asked_for_in_whatever_notation_or_by_whatever_redirect() {
    let (files, inside) = (Files::start().await, Files::start().await);
    let app = beside(&files).await;
    connect(&app, NORD, "instagram", OWN).await;
    let port = inside.address.port();
    inside.put("/", "image/jpeg", &small_photo());
    let leads = |path: &str, to: &str| files.set(path, 302, &format!("location: {to}\r\n"), b"");
    let good = files.put("/good.jpg", "image/jpeg", &small_photo());
    let cases = [
        (format!("http://127.0.0.1:{port}/"), "not_https"),
        (format!("https://127.0.0.1:{port}/"), "address_private"),
        (format!("https://2130706433:{port}/"), "address_private"),
        (format!("https://0x7f000001:{port}/"), "address_private"),
        (format!("https://0177.0.0.1:{port}/"), "address_private"),
        (format!("https://127.1:{port}/"), "address_private"),
        (format!("https://[::1]:{port}/"), "address_private"),
        (format!("https://[::ffff:127.0.0.1]:{port}/"), "address_private"),
        (format!("https://0.0.0.0:{port}/"), "address_private"),
        ("https://169.254.169.254/latest/meta-data/".to_owned(), "address_private"),
        ("https://10.0.0.1/".to_owned(), "address_private"),
        ("https://[fd00::1]/".to_owned(), "address_private"),
        ("https://localhost/".to_owned(), "address_private"),
        (format!("https://someone@127.0.0.1:{port}/"), "url_invalid"),
        (leads("/to-http", &format!("http://127.0.0.1:{port}/")), "not_https"),
        (leads("/to-https", &format!("https://127.0.0.1:{port}/")), "address_private"),
        (leads("/to-number", &format!("//2130706433:{port}/")), "not_https"),
        (leads("/to-metadata", "https://169.254.169.254/"), "address_private"),
        (leads("/round", "/round"), "too_many_redirects"),
    ];
    for (number, (url, _)) in cases.iter().enumerate() {
        deliver(&app, &format!("m{number:02}"), &[("image", url), ("image", &good)], 0).await;
    }
    settled(&app).await;
    go_on(&app).await;
    let states = states(&app).await;
    for (number, (url, code)) in cases.iter().enumerate() {
        let mut found: Vec<&str> =
            states[format!("m{number:02}")].as_array().unwrap().iter().map(|state| state.as_str().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, ["kept", &format!("refused {code}")], "{url}");
    }
    assert_eq!(inside.asked(), Vec::<String>::new());
    assert_eq!(objects(&app).len(), cases.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_or_could_run_as_a_page_is_refused_and_says_why() {
    let files = Files::start().await;
    let app = beside(&files).await;
    connect(&app, NORD, "instagram", OWN).await;
    let mut large = small_photo();
    large.resize(25 * 1024 * 1024 + 1, 0);
    for (mid, body, kind) in [
        ("large", large.as_slice(), "image/jpeg"),
        ("html", b"<!doctype html><script>1</script>".as_slice(), "image/jpeg"),
        ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>", "image/svg+xml"),
        ("nothing", b"", "image/png"),
        ("fits", &large[..25 * 1024 * 1024], "application/octet-stream"),
    ] {
        deliver(&app, mid, &[("file", &files.put(&format!("/{mid}"), kind, body))], 0).await;
    }
    settled(&app).await;
    go_on(&app).await;
    assert_eq!(
        states(&app).await,
        json!({
            "large": ["refused too_large"], "html": ["refused kind_refused"], "svg": ["refused kind_refused"],
            "nothing": ["refused kind_refused"], "fits": ["kept"],
        }),
        "{}",
        app.logs()
    );
    assert_eq!(objects(&app).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_deleted_before_or_while_its_file_is_fetched_or_after_keeps_none() {
    let files = Files::start().await;
    let app = beside(&files).await;
    connect(&app, NORD, "instagram", OWN).await;
    let url = files.put("/photo", "image/jpeg", &small_photo());
    deliver(&app, "after", &[("image", &url)], 0).await;
    settled(&app).await;
    assert_eq!(objects(&app).len(), 1);
    unsend(&app, "after").await;
    settled(&app).await;
    assert_eq!((states(&app).await, objects(&app)), (json!({ "after": ["deleted"] }), vec![]), "{}", app.logs());

    files.came().await;
    files.hold();
    deliver(&app, "while", &[("image", &url)], 0).await;
    files.came().await;
    unsend(&app, "while").await;
    files.release();
    settled(&app).await;
    go_on(&app).await;
    let deleted = json!({ "after": ["deleted"], "while": ["deleted"] });
    assert_eq!((states(&app).await, objects(&app)), (deleted, vec![]), "{}", app.logs());
    assert_eq!(app.db.count("select count(*) from social_attachments where path is not null").await, 0);

    // Nothing of a message that is gone is asked for.
    let asked = files.asked().len();
    unsend(&app, "before").await;
    deliver(&app, "before", &[("image", &url)], 0).await;
    settled(&app).await;
    assert_eq!(files.asked().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_is_asked_again_later_and_given_up_in_the_end() {
    let files = Files::start().await;
    let app = beside(&files).await;
    connect(&app, NORD, "instagram", OWN).await;
    let fails = files.set("/fails", 503, "", b"");
    let mends = files.set("/mends", 503, "", b"");
    deliver(&app, "fails", &[("image", &fails)], 0).await;
    deliver(&app, "mends", &[("image", &mends)], 0).await;
    settled(&app).await;
    let waiting = json!({ "fails": ["waiting unavailable"], "mends": ["waiting unavailable"] });
    assert_eq!(states(&app).await, waiting, "{}", app.logs());
    assert_eq!(
        app.db.count("select count(*) from social_attachments where next_at > now() + interval '20 seconds'").await,
        2
    );
    files.put("/mends", "image/jpeg", &small_photo());
    for _ in 0..9 {
        go_on(&app).await;
    }
    assert_eq!(states(&app).await, json!({ "fails": ["failed unavailable"], "mends": ["kept"] }));
    assert_eq!(files.asked().iter().filter(|path| *path == "/fails").count(), 8);
    let job = "select status from jobs where job_type = 'social_attachments'";
    assert_eq!(app.db.text(job).await, "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_has_expired_is_asked_for_once_more() {
    let files = Files::start().await;
    let app = beside(&files).await;
    let (_, account) = social_fetch::instagram(&app).await;
    let instagram = &app.stack.sandbox.instagram;
    let greta = instagram.add_person("greta", Some("Greta"));
    let fresh = files.put("/fresh", "image/jpeg", &small_photo());
    let mid = instagram.message(&account.id, &greta, NewMessage::attachment("image", &fresh)).unwrap();
    let gone = instagram.message(&account.id, &greta, NewMessage::attachment("video", "https://x.example/v")).unwrap();
    // What was delivered has addresses that no longer lead anywhere.
    let at = Utc::now().timestamp_millis();
    for (mid, kind) in [(&mid, "image"), (&gone, "image")] {
        let part = json!([{ "type": kind, "payload": { "url": format!("http://{}/expired", files.address) } }]);
        let said =
            events::messaging(&greta, &account.id, at, json!({ "message": { "mid": mid, "attachments": part } }));
        let entry = events::messaging_entry(&account.id, at, said);
        meta(&app, &events::body(&[entry], sandbox::Written::Escaped)).await.expect(200);
        merged(&app).await;
    }
    settled(&app).await;
    assert_eq!(states(&app).await, json!({ mid: ["kept"], gone: ["gone gone"] }), "{}", app.logs());
    assert_eq!(files.asked(), ["/expired", "/fresh", "/expired"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tiktok_is_asked_where_a_picture_is() {
    let app = TestApp::start().await;
    let (_, account) = social_fetch::business(&app).await;
    let platform = &app.stack.sandbox.tiktok;
    platform.set_media("pic-1", "image/jpeg", &small_photo()).unwrap();
    let person = platform.add_person("greta");
    let with = platform.message(&account.open_id, &person, tiktok::NewMessage::image("pic-1")).unwrap();
    let without = platform.message(&account.open_id, &person, tiktok::NewMessage::image("pic-2")).unwrap();
    platform.message(&account.open_id, &person, tiktok::NewMessage::sticker()).unwrap();
    platform.deliver_with(Delivery::default()).await;
    merged(&app).await;
    settled(&app).await;
    let wanted = json!({ with: ["kept"], without: ["refused platform_refused"] });
    assert_eq!(states(&app).await, wanted, "{}", app.logs());
    assert_eq!(objects(&app).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_message_is_read_by_who_reads_messages_and_written_by_nobody() {
    for server in [Server::Postgres16, Server::Postgres18] {
        let db = TestDatabase::new(server).await;
        let (theirs, other) = (format!("{NORD}/messages/m/a.jpg"), format!("{NORD}/posts/a.jpg"));
        for name in [&theirs, &other] {
            db.run(&format!(
                "insert into storage.objects (bucket_id, name, owner_id) values ('social-uploads', '{name}', '{}')",
                DORA.id
            ))
            .await;
        }
        let names = async |actor: &Actor| {
            let seen =
                db.ask(actor, "select name from storage.objects where bucket_id = 'social-uploads' order by 1").await;
            seen.map(|rows| {
                rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
            })
        };
        assert_eq!(names(&Actor::person(&OLGA)).await, Ok(vec![theirs.clone(), other.clone()]));
        // They read media and not messages, and one of them is its owner.
        assert_eq!(names(&Actor::person(&DORA)).await, Ok(vec![other.clone()]));
        assert_eq!(names(&Actor::person(&SVEN)).await, Ok(vec![other.clone()]));
        assert_eq!(names(&Actor::person(&OSCAR)).await, Ok(Vec::<String>::new()));
        assert_eq!(names(&Actor::role("anon")).await, Ok(Vec::<String>::new()));
        for person in [&OLGA, &DORA] {
            let mut conn = db.begin_as(&Actor::person(person)).await;
            for (what, wanted) in [
                (format!("update storage.objects set metadata = '{{}}' where name = '{theirs}'"), false),
                (format!("update storage.objects set name = '{NORD}/taken.jpg' where name = '{theirs}'"), false),
                (format!("update storage.objects set name = '{NORD}/messages/m/b.jpg' where name = '{other}'"), false),
                (format!("delete from storage.objects where name = '{theirs}'"), false),
                (
                    format!(
                        "insert into storage.objects (bucket_id, name, owner_id) values ('social-uploads', '{NORD}/messages/x.jpg', '{}')",
                        person.id
                    ),
                    false,
                ),
                (format!("update storage.objects set metadata = '{{}}' where name = '{other}'"), true),
            ] {
                conn.execute("savepoint one").await.unwrap();
                let done = attempt(&mut conn, &what).await;
                assert_eq!(done.as_ref().is_ok_and(|rows| *rows > 0), wanted, "{} {what}: {done:?}", person.email);
                conn.execute("rollback to savepoint one").await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_no_job_is_about_are_found_by_the_schedule() {
    let files = Files::start().await;
    let app = beside(&files).await;
    connect(&app, NORD, "instagram", OWN).await;
    let url = files.set("/late", 503, "", b"");
    deliver(&app, "late", &[("image", &url)], 0).await;
    settled(&app).await;
    // As where its last attempt failed.
    app.db
        .run(
            "update jobs set status = 'failed', finished_at = now() where job_type = 'social_attachments';
             update social_attachments set next_at = now() - interval '2 minutes'",
        )
        .await;
    files.put("/late", "image/jpeg", &small_photo());
    app.stack.look_after_social().await.unwrap();
    app.stack.sweep().await.unwrap();
    settled(&app).await;
    assert_eq!(states(&app).await, json!({ "late": ["kept"] }), "{}", app.logs());
}

/// Every statement that files have.
pub(crate) async fn scenario(app: &TestApp) {
    // Another scenario has connected it, and disconnected it.
    app.db.run(&format!("update social_accounts set status = 'active' where platform_id = '{OWN}'")).await;
    let tiktok = &app.stack.sandbox.tiktok;
    tiktok.set_media("plain", "image/jpeg", &small_photo()).unwrap();
    let at = app.stack.sandbox.addresses.tiktok;
    let (good, gone) = (format!("http://{at}/media/?id=plain"), format!("http://{at}/media/?id=none"));
    deliver(app, "f1", &[("image", &good), ("image", "https://10.0.0.1/")], 0).await;
    deliver(app, "f2", &[("image", &gone)], 0).await;
    settled(app).await;
    // Shown at another address before it was fetched.
    deliver(app, "f2", &[("image", "https://10.0.0.2/")], 1000).await;
    unsend(app, "f1").await;
    settled(app).await;
    go_on(app).await;
    app.stack.look_after_social().await.unwrap();
}
