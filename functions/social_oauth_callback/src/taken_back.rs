//! Consents that Meta says are over: a person removed the application, or wants their data deleted.

use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::{
    http::{self, ApiError, HttpRequest, HttpResponse, Reply},
    store::social_tokens::{self, Lost},
    tokens,
};

use crate::{
    flow::set_up,
    signed::{self, Said},
    state::State,
};

const CODE: usize = 32;

/// What Meta shows the person who asked.
#[derive(Debug, Serialize)]
struct DeletionView {
    /// Where they can see what became of it.
    url: String,
    confirmation_code: String,
}

#[derive(Debug, Deserialize)]
struct StatusQuery {
    code: String,
}

/// `POST /oauth/instagram/deauthorized`.
pub(crate) async fn deauthorized(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let said = signed::read(state, request).await?;
    lose(state, &said, Lost::Deauthorized, &request.request_id).await?;
    Reply::ok(json!({ "received": true })).into_response()
}

/// `POST /oauth/instagram/deletion`. One who is not known is answered as one who is.
pub(crate) async fn deletion_asked(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let base = set_up(state)?;
    let said = signed::read(state, request).await?;
    let code = said.deletion_code();
    lose(state, &said, Lost::DeletionAsked { code: &code }, &request.request_id).await?;
    let url = format!("{}/oauth/instagram/deletion?code={code}", base.as_str().trim_end_matches('/'));
    Reply::ok(DeletionView { url, confirmation_code: code }).into_response()
}

/// `GET /oauth/instagram/deletion`: what became of a request for deletion, for the person who made it.
pub(crate) async fn deletion_shown(state: &State, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let StatusQuery { code } = http::query(request)?;
    let is_code = code.len() == CODE && code.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_code || !state.db.directory(async |tx| social_tokens::knows_deletion(tx, &code).await).await? {
        return Err(ApiError::not_found("deletion"));
    }
    let text = "The access that you gave to your account was deleted: the app cannot read it or write to it any more. \
                What people wrote to the account belongs to the organisation that received it, which keeps and deletes it by its own policy; \
                ask it to delete that as well.";
    Ok(HttpResponse::page("Deletion", text, "deleted"))
}

/// Has every account that Meta means wait for a person, in whichever organisation it is. One that was connected again since goes on.
async fn lose(state: &State, said: &Said, lost: Lost<'_>, request_id: &str) -> Result<(), ApiError> {
    let meant = state.db.directory(async |tx| social_tokens::accounts_of(tx, &said.user_id, said.at).await).await?;
    for (org_id, account_id) in meant {
        let lost = state.db.service(org_id, async |tx| {
            tokens::lose_consent(tx, org_id, account_id, lost, said.at, Some(request_id)).await
        });
        lost.await?;
    }
    tracing::info!(why = lost.why(), "Meta took a consent back");
    Ok(())
}
