//! The list.

use super::*;

async fn listed(app: &TestApp, token: &str, query: &str) -> (Vec<String>, Value) {
    let answer = app.get(&format!("{PATH}?{query}"), token).await.expect(200);
    let ids = answer["actions"].as_array().unwrap().iter().map(id).collect();
    (ids, answer["next"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_are_listed_newest_first_in_pages_by_agent_action_and_time() {
    let (app, token) = start().await;
    let renata = app.agent_token(&RENATA).await;
    let mut made = Vec::new();
    for number in 0..7 {
        let mut body = with("action", json!(if number % 3 == 0 { "blog_post.published" } else { "blog_post.drafted" }));
        body["output"] = json!({ "number": number });
        let by = if number % 2 == 0 { &token } else { &renata };
        made.push(id(&app.post(PATH, by, &body).await.expect(201)));
    }
    // Somebody else's, which nobody here sees.
    app.post(PATH, &app.agent_token(&PAINTER).await, &draft()).await.expect(201);
    let olga = app.token(&OLGA);
    let newest: Vec<String> = made.iter().rev().cloned().collect();
    let of = |numbers: &[usize]| -> Vec<String> { numbers.iter().map(|number| made[*number].clone()).collect() };
    assert_eq!(listed(&app, &olga, "").await, (newest.clone(), Value::Null));
    assert_eq!(listed(&app, &olga, "limit=7").await, (newest.clone(), Value::Null));
    let (first, next) = listed(&app, &olga, "limit=3").await;
    assert_eq!((first, &next), (of(&[6, 5, 4]), &json!(made[4])));
    let (second, next) = listed(&app, &olga, &format!("limit=3&after={}", next.as_str().unwrap())).await;
    assert_eq!((second, &next), (of(&[3, 2, 1]), &json!(made[1])));
    assert_eq!(listed(&app, &olga, &format!("limit=3&after={}", made[1])).await, (of(&[0]), Value::Null));
    assert_eq!(listed(&app, &olga, "agent=blogger").await.0, of(&[6, 4, 2, 0]));
    assert_eq!(listed(&app, &olga, "agent=renderer&limit=2").await, (of(&[5, 3]), json!(made[3])));
    assert_eq!(
        listed(&app, &olga, &format!("agent=renderer&limit=2&after={}", made[3])).await,
        (of(&[1]), Value::Null)
    );
    assert_eq!(listed(&app, &olga, "action=blog_post.published").await.0, of(&[6, 3, 0]));
    assert_eq!(listed(&app, &olga, "agent=blogger&action=blog_post.published").await.0, of(&[6, 0]));
    assert!(listed(&app, &olga, "agent=painter").await.0.is_empty());
    // From a moment on, and before one.
    let all = app.get(PATH, &olga).await.expect(200);
    let at = |number: usize| all["actions"][6 - number]["at"].as_str().unwrap().to_owned();
    assert_eq!(listed(&app, &olga, &format!("from={}", at(5))).await.0, of(&[6, 5]));
    assert_eq!(listed(&app, &olga, &format!("to={}", at(2))).await.0, of(&[1, 0]));
    assert_eq!(listed(&app, &olga, &format!("from={}&to={}&agent=blogger", at(1), at(5))).await.0, of(&[4, 2]));
    let shown = &all["actions"][0];
    assert_eq!(
        json!([shown["agent"], shown["actor"], shown["action"], shown["resource"], shown["output"]]),
        json!(["blogger", { "type": "agent", "id": BLOGGER.id }, "blog_post.published", draft()["resource"], { "number": 6 }])
    );

    for (query, code) in [
        ("limit=0", "query_invalid"),
        ("limit=101", "query_invalid"),
        ("from=yesterday", "query_invalid"),
        ("after=x", "query_invalid"),
        ("order=asc", "query_invalid"),
        ("limit=1&limit=2", "query_invalid"),
        ("agent=%00", "query_invalid"),
    ] {
        app.get(&format!("{PATH}?{query}"), &olga).await.expect_error(400, code);
    }
    // An action of another organisation is no place in this list, and none that nobody made.
    let theirs =
        one(&app, &format!("select to_jsonb(id) from audit_log where org_id = '{BRICK}' and agent is not null")).await;
    for after in [theirs.as_str().unwrap().to_owned(), Uuid::new_v4().to_string()] {
        app.get(&format!("{PATH}?after={after}"), &olga).await.expect_error(404, "agent_action_not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_for_those_who_may_read_the_audit_log() {
    let (app, token) = start().await;
    let answered = app.post(PATH, &token, &draft()).await.expect(201);
    for person in [OLGA, ADAM] {
        assert_eq!(listed(&app, &app.token(&person), "").await.0, [id(&answered)]);
    }
    assert!(listed(&app, &app.token(&OSCAR), "").await.0.is_empty());
    for person in [DORA, SVEN, CLEO, UMA, DAN] {
        app.get(PATH, &app.token(&person)).await.expect_error(403, "permission_missing");
    }
    app.get(PATH, &token).await.expect_error(403, "people_only");
    app.get(PATH, "spine_agent_0000000000000000000000000000000000000000000")
        .await
        .expect_error(401, "agent_token_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_one_agents_actions_is_found_by_its_index_under_policies() {
    let (app, _) = start().await;
    app.db
        .run(&format!(
            "insert into audit_log (org_id, actor, action, resource_type, metadata)
             select case n % 4 when 0 then '{BRICK}'::uuid else '{NORD}' end, 'system', 'a.b', 'c',
                    case n % 3 when 0 then '{{}}' else jsonb_build_object('agent', 'agent-' || n % 50) end
               from generate_series(1, 20000) n; analyze audit_log"
        ))
        .await;
    let page = "where org_id = '01900000-0000-7000-8000-000000000001' and {} and occurred_at >= 'epoch'
                  and (occurred_at, id) < ('2100-01-01', '00000000-0000-0000-0000-000000000000') order by occurred_at desc, id desc limit 51";
    for (condition, index) in
        [("agent = 'agent-7'", "audit_log_org_id_agent_idx"), ("agent is not null", "audit_log_org_id_acted_idx")]
    {
        let mut conn = app.db.begin_as(&Actor::person(&OLGA).in_function()).await;
        let explain = format!("explain (format json) select * from public.audit_log {}", page.replace("{}", condition));
        let plan: Value = sqlx::query_scalar(AssertSqlSafe(explain)).fetch_one(&mut conn).await.unwrap();
        let plan = plan.to_string();
        assert!(
            plan.contains(index) && !plan.contains("\"Sort\"") && !plan.contains("Seq Scan"),
            "{condition}: {plan}"
        );
    }
}
