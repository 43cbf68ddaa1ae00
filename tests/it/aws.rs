//! The AWS services as moto has them, through the SDKs that functions use.

use std::sync::Arc;

use integration_tests::{
    TestApp, aws_url,
    people::{DORA, LAKESIDE, NORD},
};
use serde_json::{Value, json};
use shared::{
    config::Env,
    objects::{ObjectError, ObjectPath, Objects},
    queue::Queue,
    secrets::{Secret, Secrets},
};
use uuid::Uuid;

const REGION: &str = "eu-north-1";

/// What moto tells its services apart by; it checks no signature.
fn authorization(service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=test/20261121/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=none"
    )
}

fn client() -> reqwest::Client {
    shared::http_client(std::time::Duration::from_secs(30)).unwrap()
}

async fn ask(target: &str, service: &str, body: Value) -> Value {
    let response = client()
        .post(aws_url())
        .header("authorization", authorization(service))
        .header("x-amz-target", target)
        .header("content-type", "application/x-amz-json-1.1")
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    assert!(response.status().is_success(), "{target}: {}", response.text().await.unwrap());
    response.json().await.unwrap_or_default()
}

async fn make_bucket(name: &str) {
    let made = client()
        .put(format!("{}/{name}", aws_url()))
        .header("authorization", authorization("s3"))
        .body(format!(
            "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>{REGION}\
             </LocationConstraint></CreateBucketConfiguration>"
        ))
        .send()
        .await
        .unwrap();
    let (status, told) = (made.status(), made.text().await.unwrap());
    assert!(status.is_success() || told.contains("BucketAlready"), "{status} {told}");
}

fn env(extra: &[(&str, &str)]) -> Env {
    let url = aws_url();
    let mut all = vec![
        ("AWS_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_ENDPOINT_URL", url.as_str()),
        ("STORAGE_S3_ENDPOINT", url.as_str()),
        ("STORAGE_S3_REGION", REGION),
        ("STORAGE_S3_ACCESS_KEY_ID", "test"),
        ("STORAGE_S3_SECRET_ACCESS_KEY", "test"),
    ];
    all.extend_from_slice(extra);
    Env::from_iter(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_rotated_in_secrets_manager_is_found_when_the_old_one_is_refused() {
    let name = format!("spine-{}", Uuid::new_v4());
    let document = |key: &str| json!({ "gemini_api_key": key, "audit_key": key }).to_string();
    let made =
        ask("secretsmanager.CreateSecret", "secretsmanager", json!({ "Name": name, "SecretString": document("one") }))
            .await;
    let arn = made["ARN"].as_str().unwrap();
    let secrets = Secrets::from_env(&env(&[("SECRETS_ARN", arn)])).unwrap();
    let old = secrets.get(Secret::GeminiApiKey).await.unwrap();
    assert_eq!(old.expose(), "one");
    assert!(secrets.previous(Secret::AuditKey).await.unwrap().is_none());

    let put = json!({ "SecretId": arn, "SecretString": document("two") });
    ask("secretsmanager.PutSecretValue", "secretsmanager", put).await;
    assert_eq!(secrets.get(Secret::GeminiApiKey).await.unwrap().expose(), "one");
    assert_eq!(secrets.refetch(Secret::GeminiApiKey, &old).await.unwrap().expose(), "two");
    assert_eq!(secrets.previous(Secret::AuditKey).await.unwrap().unwrap().expose(), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_woken_through_sqs_and_a_queue_that_is_gone_harms_nothing() {
    let made = ask("AmazonSQS.CreateQueue", "sqs", json!({ "QueueName": format!("renders-{}", Uuid::new_v4()) })).await;
    let url = made["QueueUrl"].as_str().unwrap();
    let queue = Queue::from_env(&env(&[("RENDER_QUEUE_URL", url)]), "RENDER_QUEUE_URL").unwrap();
    let (job, org) = (Uuid::now_v7(), Uuid::now_v7());
    assert!(queue.wake(job, org).await);
    let received = ask("AmazonSQS.ReceiveMessage", "sqs", json!({ "QueueUrl": url })).await;
    let body: Value = serde_json::from_str(received["Messages"][0]["Body"].as_str().unwrap()).unwrap();
    assert_eq!(body, json!({ "job_id": job, "org_id": org }));

    let gone = Queue::from_env(&env(&[("RENDER_QUEUE_URL", &format!("{url}-gone"))]), "RENDER_QUEUE_URL").unwrap();
    assert!(!gone.wake(job, org).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_in_s3_are_put_found_read_and_bounded() {
    make_bucket("renders").await;
    let env = env(&[]);
    let objects = Objects::from_env(&env, Arc::new(Secrets::from_env(&env).unwrap())).unwrap();
    let (mine, other) = (Uuid::now_v7(), Uuid::now_v7());
    let path = ObjectPath::render(mine, Uuid::now_v7(), Uuid::now_v7(), "png");
    let door = objects.for_org(mine);
    assert!(matches!(door.head(&path).await, Err(ObjectError::NotFound)));
    door.put(&path, vec![7; 5000].into(), "image/png").await.unwrap();
    assert_eq!(door.head(&path).await.unwrap(), 5000);
    assert_eq!(door.get(&path, 5000).await.unwrap().len(), 5000);
    assert!(matches!(door.get(&path, 4999).await, Err(ObjectError::TooLarge { bytes: 5000 })));
    assert!(matches!(objects.for_org(other).get(&path, 5000).await, Err(ObjectError::Path)));
    let signed = door.download_url(&path, chrono::Utc::now()).await.unwrap();
    let read = client().get(signed.url.as_str()).send().await.unwrap();
    assert_eq!(read.headers()["content-type"], "image/png");
    assert_eq!(read.bytes().await.unwrap().len(), 5000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_photo_becomes_a_render_with_its_files_in_s3() {
    make_bucket("renders").await;
    make_bucket("project-media").await;
    let url = aws_url();
    let app = TestApp::with(&[("STORAGE_S3_ENDPOINT", &url)]).await;
    let token = app.token(&DORA);
    let render = app.request_render(&token, LAKESIDE).await.expect(202);
    let id = render["id"].as_str().unwrap();
    let shown = app.finished(&token, id).await;
    assert_eq!(shown["status"], "completed", "{}", app.logs());
    assert!(!app.download(shown["results"][0]["url"].as_str().unwrap()).await.is_empty());
    app.a_minute_passes().await;
    app.made_exactly_once(NORD, id).await.unwrap();
}
