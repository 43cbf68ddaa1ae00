//! Personal values.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn personal_values_are_sealed_in_both_databases_and_erased_with_their_key() {
    let (app, token) = start().await;
    let mut body = draft();
    body["subjects"] = json!([UMA.id, DORA.id]);
    body["input"] = json!({ "asked_by": { "personal": "Greta Lind", "subject": UMA.id }, "topic": "plaster" });
    body["decision"] = json!({ "why": [{ "deep": { "personal": "Greta likes lime", "subject": UMA.id } }] });
    body["output"] = json!({ "signed": { "personal": "Dora Designer", "subject": DORA.id } });
    let answered = keyed(&app, &token, &body, "k").await.expect(201);
    let entry = one(&app, &format!("select to_jsonb(a) from audit_log a where id = '{}'", id(&answered))).await;
    let document = app.document(NORD, &id(&answered)).await.unwrap();
    let stored: String = sqlx::query_scalar(
        "select (select string_agg(to_jsonb(a)::text, ' ') from audit_log a) || (select string_agg(to_jsonb(o)::text, ' ') from outbox o)",
    )
    .fetch_one(&mut app.db.admin().await)
    .await
    .unwrap();
    for text in [stored, document.to_string(), app.logs()] {
        for personal in ["Greta", "Dora Designer", "likes lime"] {
            assert!(!text.contains(personal), "{personal} is readable: {text}");
        }
    }
    assert_eq!(entry["subject_ids"], json!([UMA.id, DORA.id]));
    assert_eq!(entry["input"]["topic"], "plaster");

    let master = SealingKey::from_secret(&SecretValue::from(app.stack.audit_key.clone())).unwrap();
    let opened = async |subject: Uuid, column: &'static str, sealed: &Value| -> Option<String> {
        let wrapped: Option<String> = sqlx::query_scalar("select wrapped_key from subject_keys where subject_id = $1")
            .bind(subject)
            .fetch_one(&mut app.db.admin().await)
            .await
            .unwrap();
        let key = SubjectKey::unwrap(&wrapped?, &master, None, NORD, subject).unwrap();
        let aad = Aad { org_id: NORD, table: "audit_log", column, key_version: 1 };
        assert_eq!(sealed["subject"], json!(subject));
        Some(String::from_utf8(key.open(&aad, sealed["sealed"].as_str().unwrap()).unwrap()).unwrap())
    };
    for held in [&entry, &document] {
        assert_eq!(opened(UMA.id, "input", &held["input"]["asked_by"]).await.as_deref(), Some("Greta Lind"));
        assert_eq!(
            opened(UMA.id, "decision", &held["decision"]["why"][0]["deep"]).await.as_deref(),
            Some("Greta likes lime")
        );
        assert_eq!(opened(DORA.id, "output", &held["output"]["signed"]).await.as_deref(), Some("Dora Designer"));
    }
    // The list shows them as they are.
    let listed = app.get(PATH, &app.token(&OLGA)).await.expect(200);
    assert_eq!(listed["actions"][0]["input"], entry["input"]);

    // Erased: what was sealed opens with nothing any more, and what comes later is not kept.
    let erased = format!("select app.destroy_subject_key('{}')", UMA.id);
    app.db.ask(&Actor::service(NORD), &erased).await.unwrap();
    assert_eq!(opened(UMA.id, "input", &entry["input"]["asked_by"]).await, None);
    assert_eq!(opened(DORA.id, "output", &entry["output"]["signed"]).await.as_deref(), Some("Dora Designer"));
    let later = app.post(PATH, &token, &body).await.expect(201);
    let entry = one(&app, &format!("select to_jsonb(a) from audit_log a where id = '{}'", id(&later))).await;
    assert_eq!(entry["input"], json!({ "asked_by": null, "topic": "plaster" }));
    assert_eq!(app.document(NORD, &id(&later)).await.unwrap()["input"], entry["input"]);
    assert_eq!(app.db.count("select count(*) from audit_log where digest <> app.audit_digest(audit_log)").await, 0);
}
