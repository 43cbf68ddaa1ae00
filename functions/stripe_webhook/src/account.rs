//! People begin to pay, and change how: through pages of Stripe's, so that no card ever comes here.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::{
    audit,
    auth::Caller,
    clients::stripe::StripeError,
    db::CallerTx,
    http::{self, ApiError, HttpRequest, Reply},
    store::{
        access::{self, Member},
        billing::{self, Checkout},
        idempotency,
    },
};
use uuid::Uuid;

use crate::{
    facts::is_id,
    fetch,
    request::{NewCheckout, NewCheckoutBody, NewPortalBody},
    state::State,
    view::PageView,
};

/// What a person may ask for.
const PERMISSION: &str = "billing:manage";

/// `POST /v1/billing/checkout`: opens a page on which to subscribe.
///
/// What is about to be opened is written down before Stripe is asked, under an id that Stripe repeats as `client_reference_id`: only
/// the completion of such a checkout makes a customer the organisation's. Replaying an `Idempotency-Key` gives the same page, and
/// another one for the same price while it can be paid gives it too: nobody should pay twice.
pub(crate) async fn checkout(state: &State, request: &HttpRequest) -> Result<Reply<PageView>, ApiError> {
    let now = (state.clock)();
    let caller = state.auth.authenticate(&request.headers, now).await?;
    let wanted = http::json::<NewCheckoutBody>(request)?.parse(&state.return_origins)?;
    let keyed = http::idempotency(request, "POST /v1/billing/checkout")?;

    let begin = async |tx: &mut CallerTx| begin_checkout(tx, &wanted, keyed.as_ref()).await;
    let (member, mut checkout, overtaken) = state.db.caller(&caller, begin).await?;
    if !overtaken.is_empty() {
        for older in &overtaken {
            expire(state, &caller, member, older).await?;
        }
        checkout = state.db.caller(&caller, begin).await?.1;
    }
    if let (Some(_), Some(url)) = (&checkout.session_id, &checkout.url) {
        return Ok(Reply::ok(PageView::of_checkout(&checkout, url.clone())));
    }

    let id = checkout.id.to_string();
    // As it was written down: the same key must come with the same form, whoever asks again.
    let mut form = vec![
        ("mode", "subscription"),
        ("line_items[0][price]", checkout.stripe_price_id.as_str()),
        ("line_items[0][quantity]", "1"),
        ("client_reference_id", &id),
        ("success_url", &checkout.success_url),
        ("cancel_url", &checkout.cancel_url),
    ];
    if let Some(customer) = &checkout.customer_id {
        form.push(("customer", customer));
    }
    let session = match state.stripe.post("/v1/checkout/sessions", &form, &format!("checkout-{id}")).await {
        Ok(session) => session,
        Err(error) => {
            if !error.passes() {
                // It would be refused again under this key: the next wish begins anew.
                forget(state, &caller, member, checkout.id).await?;
            }
            return Err(refused(error));
        }
    };
    let malformed = || refused(StripeError::Malformed);
    let session_id = session["id"].as_str().filter(|id| is_id(id)).ok_or_else(malformed)?;
    let url = session["url"].as_str().filter(|url| url.len() <= 4000).ok_or_else(malformed)?.to_owned();
    let expires_at = session["expires_at"].as_i64().and_then(|at| DateTime::from_timestamp(at, 0));
    let expires_at = expires_at.unwrap_or(now + TimeDelta::hours(24));

    let stored = state.db.caller(&caller, async |tx| {
        // Told by the first to write it down: another may have asked at the same time, and was given the same page.
        if billing::update_checkout_session(tx, member, checkout.id, session_id, &url, expires_at).await? {
            let entry = audit::Entry {
                action: "billing.checkout_opened",
                resource_type: "billing_checkouts",
                record_id: id.clone(),
                input: json!({ "price": wanted.price }),
                decision: json!({ "customer_known": checkout.customer_id.is_some() }),
                output: json!({ "session_id": session_id }),
                metadata: json!({}),
                request_id: Some(&request.request_id),
                ..audit::Entry::default()
            };
            audit::append(tx, &entry).await?;
        }
        Ok::<_, ApiError>(())
    });
    stored.await?;
    Ok(Reply::created(PageView::of_checkout(&Checkout { expires_at, ..checkout }, url)))
}

type Begun = (Member, Checkout, Vec<Checkout>);

/// The checkout to open, or older ones for another price that must be ended before. One person of an organisation at a time.
async fn begin_checkout(
    tx: &mut CallerTx,
    wanted: &NewCheckout,
    keyed: Option<&idempotency::KeyedRequest>,
) -> Result<Begun, ApiError> {
    let member = access::enter(tx, PERMISSION).await?;
    if member.user_id.is_none() {
        return Err(ApiError::unprocessable("person_required", "Only a person can open a checkout, not an agent."));
    }
    billing::lock_checkouts(tx, member).await?;
    if let Some(keyed) = keyed {
        // Another request under the key is refused before a checkout is ended for it.
        idempotency::find(tx, member, keyed).await?;
    }
    let account = billing::get_account(tx, member, &wanted.price).await?;
    if account.plan.is_none() {
        return Err(ApiError::unprocessable(
            "price_unknown",
            "No plan is sold at this price; plan_prices lists those that are.",
        ));
    }
    if account.subscribed {
        return Err(ApiError::conflict(
            "subscription_exists",
            "The organisation has a subscription; change it with POST /v1/billing/portal.",
        ));
    }
    let (same, others): (Vec<Checkout>, Vec<Checkout>) =
        billing::open_checkouts(tx, member).await?.into_iter().partition(|open| open.stripe_price_id == wanted.price);
    // The same wish, whoever has it and under whatever key: two pages could both be paid.
    let checkout = same.into_iter().next();
    if let (None, [first, ..]) = (&checkout, others.as_slice()) {
        return Ok((member, first.clone(), others));
    }
    let begun = checkout.is_none();
    let checkout = checkout.unwrap_or_else(|| Checkout {
        id: Uuid::new_v4(),
        stripe_price_id: wanted.price.clone(),
        success_url: wanted.success.clone(),
        cancel_url: wanted.cancel.clone(),
        customer_id: account.stripe_customer_id,
        session_id: None,
        url: None,
        status: "creating".to_owned(),
        expires_at: DateTime::<Utc>::default(),
    });
    if let Some(keyed) = keyed
        && let Some(earlier) = idempotency::remember(tx, member, keyed, checkout.id).await?
        && earlier != checkout.id
        && billing::get_checkout(tx, member, earlier).await?.status == "complete"
    {
        return Err(completed());
    }
    if begun {
        billing::insert_checkout(tx, member, &checkout).await?;
        return Ok((member, billing::get_checkout(tx, member, checkout.id).await?, others));
    }
    Ok((member, checkout, others))
}

fn completed() -> ApiError {
    ApiError::conflict("checkout_completed", "This checkout was completed; the subscription will show in a moment.")
}

/// Ends a checkout for another price, so that not both can be paid. One that was just paid stays, and nothing is opened beside it.
async fn expire(state: &State, caller: &Caller, member: Member, checkout: &Checkout) -> Result<(), ApiError> {
    if let Some(session) = &checkout.session_id {
        let path = format!("/v1/checkout/sessions/{session}");
        match state.stripe.post(&format!("{path}/expire"), &[], &format!("expire-{}", checkout.id)).await {
            Ok(_) | Err(StripeError::Missing) => {}
            Err(error @ StripeError::Refused { .. }) => {
                let (now, _) = fetch::get(state, &path, &[]).await.map_err(refused)?;
                match now["status"].as_str() {
                    Some("expired") => {}
                    Some("complete") => return Err(completed()),
                    // It can still be paid, whatever Stripe has against ending it.
                    _ => return Err(refused(error)),
                }
            }
            Err(error) => return Err(refused(error)),
        }
    }
    forget(state, caller, member, checkout.id).await
}

async fn forget(state: &State, caller: &Caller, member: Member, id: Uuid) -> Result<(), ApiError> {
    Ok(state.db.caller(caller, async |tx| billing::expire_checkout(tx, member, id).await).await?)
}

/// `POST /v1/billing/portal`: opens a page on which to change card, plan and address, or to cancel.
pub(crate) async fn portal(state: &State, request: &HttpRequest) -> Result<Reply<PageView>, ApiError> {
    let now = (state.clock)();
    let caller = state.auth.authenticate(&request.headers, now).await?;
    let back = http::json::<NewPortalBody>(request)?.parse(&state.return_origins)?;
    let keyed = http::idempotency(request, "POST /v1/billing/portal")?;

    let found = state.db.caller(&caller, async |tx| {
        let member = access::enter(tx, PERMISSION).await?;
        let new = Uuid::new_v4();
        let earlier = match &keyed {
            Some(keyed) => idempotency::remember(tx, member, keyed, new).await?,
            None => None,
        };
        let account = billing::get_account(tx, member, "").await?;
        let customer = account.stripe_customer_id.ok_or_else(|| {
            ApiError::conflict(
                "customer_missing",
                "The organisation has not paid yet; begin with POST /v1/billing/checkout.",
            )
        })?;
        let entry = audit::Entry {
            action: "billing.portal_opened",
            resource_type: "organizations",
            record_id: member.org_id.to_string(),
            input: json!({}),
            decision: json!({}),
            output: json!({}),
            metadata: json!({}),
            request_id: Some(&request.request_id),
            ..audit::Entry::default()
        };
        if earlier.is_none() {
            audit::append(tx, &entry).await?;
        }
        Ok::<_, ApiError>((earlier.unwrap_or(new), customer))
    });
    let (key, customer) = found.await?;

    // To Stripe a repetition has the key of the first, so that it gives the same page.
    let form = [("customer", customer.as_str()), ("return_url", back.as_str())];
    let session: Value =
        state.stripe.post("/v1/billing_portal/sessions", &form, &format!("portal-{key}")).await.map_err(refused)?;
    let url = session["url"].as_str().filter(|url| url.len() <= 4000);
    let url = url.ok_or_else(|| refused(StripeError::Malformed))?.to_owned();
    Ok(Reply::created(PageView::of_portal(url)))
}

fn refused(error: StripeError) -> ApiError {
    match error {
        StripeError::Refused { .. } | StripeError::Missing | StripeError::Malformed => {
            ApiError::bad_gateway("stripe_refused", "Stripe did not take the request; an operator can see why.")
                .because(error)
        }
        StripeError::Unavailable(_) | StripeError::WrongMode | StripeError::Secret(_) => {
            ApiError::unavailable("stripe_unavailable", "Stripe cannot be reached; try again shortly.", 10)
                .because(error)
        }
    }
}
