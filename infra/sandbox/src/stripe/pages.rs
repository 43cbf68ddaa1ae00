//! The pages people are sent to: one to pay on, one to cancel on.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
};

use super::{Stripe, sessions::PortalSessionFacts};

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\
         <body><h1>{title}</h1>{body}</body></html>"
    );
    (status, Html(html)).into_response()
}

fn link(to: Option<&str>, text: &str) -> String {
    to.map(|to| format!("<p><a href=\"{}\">{text}</a></p>", escape(to))).unwrap_or_default()
}

/// To a page that is fetched, whatever this was.
fn see_other(to: Option<&str>) -> Response {
    match to {
        Some(to) => (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response(),
        None => page(StatusCode::OK, "Done", "<p>You can close this page.</p>"),
    }
}

fn gone() -> Response {
    page(StatusCode::NOT_FOUND, "Nothing here", "<p>This page is not there, or no longer.</p>")
}

/// What is to be paid, and the button.
pub(super) async fn checkout(State(stripe): State<Arc<Stripe>>, Path(session): Path<String>) -> Response {
    let Some(session) = stripe.checkout(&session).filter(|session| session.status == "open") else { return gone() };
    let (whole, cents) = (session.amount() / 100, session.amount() % 100);
    let lines = session.line_items.iter().map(|(price, quantity)| match &price.meter {
        Some(meter) => format!("<li>{} for {}</li>", escape(&price.id), escape(meter)),
        None => format!("<li>{quantity} × {}</li>", escape(&price.id)),
    });
    let body = format!(
        "<ul>{}</ul><p>{whole}.{cents:02} {}</p><form method=\"post\"><button>Subscribe</button></form>{}",
        lines.collect::<String>(),
        escape(&session.currency().to_uppercase()),
        link(session.cancel_url.as_deref(), "Back")
    );
    page(StatusCode::OK, "Sandbox checkout", &body)
}

/// The button.
pub(super) async fn pay(State(stripe): State<Arc<Stripe>>, Path(session): Path<String>) -> Response {
    if stripe.complete_checkout(&session).is_err() {
        return gone();
    }
    let success = stripe.checkout(&session).and_then(|session| session.success_url);
    see_other(success.map(|url| url.replace("{CHECKOUT_SESSION_ID}", &session)).as_deref())
}

fn portal_session(stripe: &Stripe, session: &str) -> Option<PortalSessionFacts> {
    stripe.world().portals.find(session).cloned()
}

/// The way back, and the way out.
pub(super) async fn portal(State(stripe): State<Arc<Stripe>>, Path(session): Path<String>) -> Response {
    let Some(session) = portal_session(&stripe, &session) else { return gone() };
    let body =
        format!("<form method=\"post\"><button>Cancel</button></form>{}", link(session.return_url.as_deref(), "Back"));
    page(StatusCode::OK, "Sandbox customer portal", &body)
}

/// Cancels what the customer has, each with its period.
pub(super) async fn leave(State(stripe): State<Arc<Stripe>>, Path(session): Path<String>) -> Response {
    let Some(session) = portal_session(&stripe, &session) else { return gone() };
    stripe.world().cancel_all(&session.customer);
    see_other(session.return_url.as_deref())
}
