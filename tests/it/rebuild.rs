//! An operator makes billing anew from the events that are stored.

use integration_tests::TestApp;
use operator::rebuild::rebuild;

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_mends_what_was_altered_and_tells_of_it() {
    let app = TestApp::start().await;
    let stripe = &app.stack.sandbox.stripe;
    // Linked by hand, as operators do: what is told of the customer is the organisation's from here on.
    let customer = stripe.create_customer(None, sandbox::stripe::Metadata::new()).id;
    app.db
        .run(&format!("update organizations set stripe_customer_id = '{customer}' where slug = 'atelier-nord'"))
        .await;
    stripe.trigger("customer.subscription.created", None).unwrap();
    let attempts = stripe.deliver_all().await;
    assert!(attempts.iter().all(sandbox::stripe::Attempt::succeeded), "{attempts:?} {}", app.logs());

    let done = rebuild(&app.db.url, "atelier-nord").await.unwrap();
    assert_eq!((done.events, done.changes), (attempts.len(), Vec::new()));

    app.db
        .run(
            "update invoices set amount = 1; update organizations set plan = 'free' where slug = 'atelier-nord';
             insert into invoices (org_id, stripe_invoice_id, amount, currency, status)
             select id, 'in_nobody', 1, 'SEK', 'open' from organizations where slug = 'atelier-nord'",
        )
        .await;
    let invoice = stripe.subscription(&subscription(&app).await).unwrap().latest_invoice.unwrap();
    let done = rebuild(&app.db.url, "atelier-nord").await.unwrap();
    let told = [
        "invoice in_nobody: removed".to_owned(),
        format!("invoice {invoice}: changed"),
        "plan: \"free\" before, now \"studio\"".to_owned(),
    ];
    assert_eq!(done.changes, told);
    assert_eq!(app.db.count("select count(*) from invoices where amount = 12500 and status = 'paid'").await, 1);
    assert_eq!(app.db.count("select count(*) from invoices").await, 1);

    let unknown = rebuild(&app.db.url, "nobody").await.unwrap_err();
    assert!(unknown.to_string().contains("no organisation is called nobody"), "{unknown}");
}

async fn subscription(app: &TestApp) -> String {
    sqlx::query_scalar("select stripe_subscription_id from subscriptions")
        .fetch_one(&mut app.db.admin().await)
        .await
        .unwrap()
}
