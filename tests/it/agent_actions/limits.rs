//! Limits.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn forty_at_once_against_a_limit_of_fifteen_record_fifteen() {
    for scope in ["user", "agent"] {
        let (app, token) = start().await;
        limit(&app, "blogger", scope, 15).await;
        let body = with("cost", json!({ "cost_micro_usd": 7 }));
        let answers: Vec<_> = stream::iter(0..40)
            .map(|_| async { app.post(PATH, &token, &body).await })
            .buffer_unordered(20)
            .collect()
            .await;
        let (mut recorded, mut refused) = (0, 0);
        for answer in answers {
            if answer.status == 201 {
                recorded += 1;
                continue;
            }
            refused += 1;
            assert_eq!(answer.expect_error(429, "limit_reached")["scope"], scope);
        }
        assert_eq!((recorded, refused), (15, 25), "{scope}");
        let rows = left(&app).await;
        assert_eq!(
            rows,
            json!({ "entries": 15, "documents": 15, "assets": 0, "deploys": 0, "charges": 15, "keys": 0, "used": 15, "reserved": 0 })
        );
        // Once each for the window.
        let logged = "select jsonb_object_agg(action, n) from (select action, count(*) as n from audit_log where action like 'limit.%' group by 1) x";
        assert_eq!(one(&app, logged).await, json!({ "limit.near": 1, "limit.reached": 1 }), "{scope}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_its_limit_an_action_is_refused_until_there_is_room_and_the_key_stays_free() {
    let (app, token) = start().await;
    limit(&app, "blogger", "agent", 1).await;
    app.post(PATH, &token, &draft()).await.expect(201);
    let before = left(&app).await;
    let refused = keyed(&app, &token, &draft(), "later").await;
    let seconds: i64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    let problem = refused.expect_error(429, "limit_reached");
    let until: chrono::DateTime<chrono::Utc> = problem["until"].as_str().unwrap().parse().unwrap();
    let opens: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("select date_trunc('month', now(), 'UTC') + interval '1 month'")
            .fetch_one(&mut app.db.admin().await)
            .await
            .unwrap();
    assert_eq!((until, problem["scope"].as_str()), (opens, Some("agent")));
    let away = (opens - chrono::Utc::now()).num_seconds();
    assert!((away..=away + 60).contains(&seconds), "{seconds} to {opens}");
    assert_eq!(left(&app).await, before, "only the entry of the limit is new");
    let logged =
        "select jsonb_agg(jsonb_build_array(actor, agent_id, record_id)) from audit_log where action = 'limit.reached'";
    assert_eq!(one(&app, logged).await, json!([["agent", BLOGGER.id, format!("blogger/agent/{NORD}/month")]]));
    // Another body under the same key is no repetition, since nothing was recorded.
    keyed(&app, &token, &with("output", json!({})), "later").await.expect_error(429, "limit_reached");

    app.db.run("update agent_limits set max_requests = 2 where agent = 'blogger'").await;
    let recorded = keyed(&app, &token, &draft(), "later").await.expect(201);
    // A repetition is answered where there is no room for another.
    assert_eq!(keyed(&app, &token, &draft(), "later").await.expect(201), recorded);
    keyed(&app, &token, &draft(), "more").await.expect_error(429, "limit_reached");
    assert_eq!(left(&app).await["used"], 2);
    // Its own limit is no other agent's.
    app.post(PATH, &app.agent_token(&RENATA).await, &draft()).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_alone_is_larger_than_a_limit_is_refused_for_good() {
    let (app, token) = start().await;
    app.db
        .run(&format!(
            "insert into agent_limits (org_id, agent, scope, period, max_requests, max_tokens, max_cost_micro_usd)
             values ('{NORD}', 'blogger', 'project', 'day', 5, 100, 1000)"
        ))
        .await;
    let still = app.db.still().await;
    for cost in [json!({ "requests": 6 }), json!({ "tokens": 101 }), json!({ "cost_micro_usd": 1001 })] {
        let mut body = with("cost", cost);
        body["project_id"] = json!(LAKESIDE);
        app.post(PATH, &token, &body).await.expect_error(422, "limit_too_small");
    }
    still.unchanged().await;
    let mut body = with("cost", json!({ "requests": 5, "tokens": 100, "cost_micro_usd": 1000 }));
    app.post(PATH, &token, &body).await.expect(201);
    body["project_id"] = json!(LAKESIDE);
    app.post(PATH, &token, &body).await.expect(201);
    assert_eq!(app.post(PATH, &token, &body).await.expect_error(429, "limit_reached")["scope"], "project");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_limiter_cannot_answer_nothing_is_recorded() {
    let (app, token) = start().await;
    app.post(PATH, &token, &draft()).await.expect(201);
    let before = left(&app).await;
    let mut holder = app.db.admin().await;
    holder.execute("begin; update agent_usage set used_tokens = used_tokens").await.unwrap();
    let refused = async |key: String| {
        let answer = keyed(&app, &token, &draft(), &key).await;
        assert_eq!(answer.headers["retry-after"], "5");
        answer.expect_error(503, "limiter_unavailable");
    };
    refused("k".to_owned()).await;
    crate::alarms::is_silent(&app, "limiter-unavailable", Some(1.0));
    futures::future::join_all((0..4).map(|number| refused(format!("k{number}")))).await;
    crate::alarms::rings(&app, "limiter-unavailable", 5.0);
    holder.execute("rollback").await.unwrap();
    assert_eq!(left(&app).await, before);
    keyed(&app, &token, &draft(), "k").await.expect(201);
}
