//! The very file that is deployed, before a Lambda runtime API.

use integration_tests::{
    TestApp, bootstrap,
    people::{DAN, DORA, LAKESIDE},
};
use local::{
    functions::FUNCTIONS,
    gateway,
    lambda::{InvokeError, Lambda},
};
use reqwest::{
    Method,
    header::{HeaderMap, HeaderValue},
};
use serde_json::{Value, json};

fn event(method: Method, path: &str, token: Option<&str>) -> Value {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    }
    gateway::to_event(&method, path, None, &headers, &bytes::Bytes::new(), ([127, 0, 0, 1], 9).into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployed_bootstrap_answers_and_survives_a_panic() {
    let app = TestApp::start().await;
    app.stack.renders.pause();
    let render = app.request_render(&app.token(&DORA), LAKESIDE).await.expect(202);
    let href = render["job"]["href"].as_str().unwrap();
    let function = FUNCTIONS.into_iter().find(|function| function.name == "Jobs").unwrap();
    let lambda = Lambda::new(function, bootstrap(), app.stack.environment.clone(), &app.stack.logs);
    let ask = async |method, path: &str, token: Option<&str>| {
        let answer =
            lambda.invoke(event(method, path, token)).await.unwrap_or_else(|error| panic!("{error} {}", app.logs()));
        let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        (answer["statusCode"].as_u64().unwrap(), body)
    };
    let (dora, dan) = (app.token(&DORA), app.token(&DAN));

    let (status, job) = ask(Method::GET, href, Some(&dora)).await;
    assert_eq!((status, job["status"].as_str()), (200, Some("queued")), "{job}");
    let (status, problem) = ask(Method::GET, href, Some(&dan)).await;
    assert_eq!((status, problem["code"].as_str()), (404, Some("job_not_found")));
    let (status, problem) = ask(Method::GET, href, None).await;
    assert_eq!((status, problem["code"].as_str()), (401, Some("token_missing")));
    assert_eq!(ask(Method::GET, "/nowhere", Some(&dora)).await.0, 404);

    // One failed invocation, and the next one fine, in the same process.
    for _ in 0..3 {
        let Err(InvokeError::Failed(told)) = lambda.invoke(json!({ "source": "spine.drill" })).await else {
            panic!("a drill should fail: {}", app.logs());
        };
        assert!(told["errorMessage"].as_str().unwrap().contains("this is a drill"), "{told}");
        let (status, job) = ask(Method::GET, href, Some(&dora)).await;
        assert_eq!((status, job["status"].as_str()), (200, Some("queued")));
    }
    let Err(InvokeError::Failed(told)) = lambda.invoke(json!({ "hello": "world" })).await else { panic!("taken") };
    assert!(told["errorMessage"].as_str().unwrap().contains("neither an HTTP API request"), "{told}");
    let (status, job) = ask(Method::POST, &format!("{href}/cancel"), Some(&dora)).await;
    assert_eq!((status, job["status"].as_str()), (200, Some("cancelled")));
    assert_eq!(lambda.started(), 1);
}
