use super::*;

#[tokio::test]
async fn without_a_good_token_the_gateway_answers() {
    let app = App::start().await;
    let token = app.connect().await;
    for given in ["", "nonsense", &token[1..]] {
        let answer = app.get(given, "/3/customers").await;
        assert_eq!((answer.status, &answer.body), (401, &json!({ "message": "unauthorized" })));
        assert_eq!(answer.headers["content-type"], "application/json");
    }
    let legacy = [("authorization", ""), ("access-token", token.as_str())];
    assert_eq!(app.ask(&token, "GET", "/3/customers", &legacy, "").await.status, 401);
    app.fortnox.revoke_consent(app.tenant);
    assert_eq!(app.get(&token, "/3/customers").await.status, 401);
}

#[tokio::test]
async fn each_resource_needs_its_scope_and_its_licence() {
    let app = App::start().await;
    let token = app.connect().await;
    for (scope, path) in [
        ("companyinformation", "/3/companyinformation"),
        ("settings", "/3/settings/company"),
        ("settings", "/3/settings/lockedperiod"),
        ("customer", "/3/customers"),
        ("customer", "/3/customers/1"),
        ("bookkeeping", "/3/accounts"),
        ("bookkeeping", "/3/voucherseries"),
        ("bookkeeping", "/3/financialyears"),
        ("bookkeeping", "/3/vouchers"),
        ("costcenter", "/3/costcenters"),
        ("invoice", "/3/invoices"),
    ] {
        let others: Vec<&str> = ALL.split(' ').filter(|other| *other != scope).collect();
        let narrow = app.connect_with(app.tenant, &others.join(" ")).await;
        app.get(&narrow, path).await.refused(403, 2_000_663, "Har inte behörighet för scope.");
        app.fortnox.set_licence(app.tenant, scope, false).unwrap();
        app.get(&token, path).await.refused(403, 2_001_101, "Det finns ingen aktiv licens för önskat scope.");
        app.fortnox.set_licence(app.tenant, scope, true).unwrap();
        assert_eq!(app.get(&token, path).await.status, 200);
    }
    app.fortnox.set_api_licence(app.tenant, false).unwrap();
    app.get(&token, "/3/customers").await.refused(403, 2_001_103, "Api-licens saknas.");
}

#[tokio::test]
async fn a_token_opens_one_company() {
    let app = App::start().await;
    let other = app.fortnox.create_company("Annat AB", "5590001111");
    app.fortnox.create_customers(other, 2).unwrap();
    let token = app.connect_with(other, ALL).await;
    assert_eq!(app.get(&token, "/3/customers").await.meta()[0], 5);
    assert_eq!(app.get(&app.connect().await, "/3/customers").await.meta()[0], 3);
    assert_eq!(app.get(&token, "/3/companyinformation").await.ok()["CompanyInformation"]["DatabaseNumber"], other);
}

#[tokio::test]
async fn a_path_that_is_not_there_is_a_capitalised_404() {
    let app = App::start().await;
    let token = app.connect().await;
    for path in ["/3/lockedperiod", "/3/nothing", "/3/settings/other", "/3/vouchers/SP", "/3/customers/1/2"] {
        app.get(&token, path).await.missing(2_000_729, "A valid identifier was not provided.");
    }
    assert_eq!(app.get(&token, "/4/customers").await.status, 404);
}

#[tokio::test]
async fn a_method_that_a_path_does_not_have_is_refused() {
    let app = App::start().await;
    let token = app.connect().await;
    for (method, path) in
        [("DELETE", "/3/customers/1"), ("POST", "/3/accounts"), ("PUT", "/3/invoices/1"), ("POST", "/3/customers/1")]
    {
        let answer = app.ask(&token, method, path, &[], "{}").await;
        answer.refused(405, UNDOCUMENTED, "Metoden är inte tillåten.");
    }
    assert_eq!(app.fortnox.customers(app.tenant).len(), 3);
}

#[tokio::test]
async fn parameters_that_a_resource_does_not_know_are_refused() {
    let app = App::start().await;
    let token = app.connect().await;
    for path in [
        "/3/customers?nickname=x",
        "/3/customers?Limit=5",
        "/3/customers?limit=501",
        "/3/customers?limit=0",
        "/3/customers?limit=x",
        "/3/customers?page=0",
        "/3/customers?page=-1",
        "/3/customers?page=1&offset=1",
        "/3/customers?page=1&page=2",
        "/3/customers?name=a&city=b",
        "/3/customers?sortby=city",
        "/3/customers?sortorder=down",
        "/3/customers?lastmodified=yesterday",
        "/3/customers?lastmodified=2026-06-15T10:00:00Z",
        "/3/customers?fromdate=2026-01-01",
        "/3/customers/1?page=1",
        "/3/companyinformation?page=1",
        "/3/accounts?sortby=name",
        "/3/accounts?financialyear=1&financialyeardate=2026-01-01",
        "/3/costcenters?lastmodified=2026-01-01",
        "/3/financialyears?date=2026",
        "/3/vouchers?lastmodified=2026-01-01",
        "/3/vouchers?description=x",
        "/3/invoices?sent=maybe",
        "/3/invoices?customernumber=1&customername=x",
    ] {
        app.get(&token, path).await.refused(400, 2_000_588, "Ogiltig parameter i anropet.");
    }
    let filter = app.get(&token, "/3/customers?filter=deleted").await;
    filter.refused(400, 2_000_587, "Ett ogiltigt filter har använts.");
    for path in ["/3/accounts?financialyear=2026", "/3/vouchers?financialyeardate=2031-01-01"] {
        app.get(&token, path).await.uncoded("Kan inte hitta räkenskapsåret.");
    }
}

#[tokio::test]
async fn reads_ask_for_json_as_well() {
    let app = App::start().await;
    let token = app.connect().await;
    let answer = app.ask(&token, "GET", "/3/customers", &[("accept", "application/xml")], "").await;
    answer.refused(400, 1_000_030, "Invalid response type");
}
