//! From the code that Fortnox gave to a connection that is written down.

use std::time::Duration;

use serde_json::{Value, json};
use shared::{
    audit,
    books::Reader,
    clients::oauth::Issued,
    consent::{Failed, Given, unsealed},
    http::ApiError,
    store::{
        StoreError, fortnox,
        integrations::{self, NewConnection, SealedTokens},
    },
    tokens::{Holder, TokenKeys},
};
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use crate::{
    company::{self, Company},
    outcome::NotConnected,
    state::State,
};

pub(crate) const PROVIDER: &str = "fortnox";
const HOLDER: Holder = Holder::Integration(PROVIDER);
/// How long the company's own calls are waited for, if there are many. A person waits in their browser.
const PATIENCE: Duration = Duration::from_secs(12);

/// Exchanges the code, reads the company and writes down the connection.
pub(crate) async fn connect(state: &State, redirect_url: &Url, given: &Given, request_id: &str) -> Result<(), Failed> {
    let Given { org_id, user_id, .. } = *given;
    // Before the code is used up: without the key nothing could be stored.
    let keys = TokenKeys::fetch(&state.secrets).await.map_err(unsealed)?;
    let issued = state.fortnox.exchange(&given.code, redirect_url.as_str()).await.map_err(NotConnected::from)?;
    let reader = Reader {
        fortnox: &state.fortnox,
        pace: &state.pace,
        access_token: &issued.access_token,
        org_id,
        deadline: Instant::now() + PATIENCE,
    };
    let outcome = match company::read(&reader).await {
        Ok(company) => keep(state, org_id, user_id, &keys, &issued, &company, request_id).await,
        Err(error) => Err(NotConnected::from(error).into()),
    };
    // What is not kept is given back; not where the database did not say whether it is.
    if matches!(outcome, Err(Failed::NotConnected(_)))
        && let Some(token) = &issued.refresh_token
        && let Err(error) = state.fortnox.revoke(token).await
    {
        tracing::warn!(%error, "a refresh token that nobody keeps was not revoked");
    }
    outcome
}

async fn keep(
    state: &State,
    org_id: Uuid,
    user_id: Uuid,
    keys: &TokenKeys,
    issued: &Issued,
    company: &Company,
    request_id: &str,
) -> Result<(), Failed> {
    let service = state.fortnox.service_accounts();
    let kept = issued.refresh_token.as_deref().filter(|_| !service);
    if kept.is_none() && !service {
        tracing::error!("Fortnox issued no refresh token");
        return Err(NotConnected::SetUpWrong.into());
    }
    let seal = |column, token: &str| keys.seal(org_id, HOLDER, column, token).map_err(ApiError::internal);
    let access_token = seal("access_token", &issued.access_token)?;
    let refresh_token = kept.map(|token| seal("refresh_token", token)).transpose()?;
    let new = NewConnection {
        tenant: &company.tenant,
        company: &company.shown,
        scopes: &issued.scopes,
        grant_type: if service { "client_credentials" } else { "refresh_token" },
        connected_by: user_id,
        tokens: SealedTokens::of(issued, &access_token, refresh_token.as_deref(), (state.clock)()),
    };
    let written = state.db.service(org_id, async |tx| {
        if integrations::connected_elsewhere(tx, PROVIDER, &company.tenant).await? {
            return Err(NotConnected::CompanyConnectedElsewhere.into());
        }
        let id = match integrations::connect(tx, org_id, PROVIDER, &new).await {
            Ok(id) => id,
            // Another organisation was faster.
            Err(error) if error.database_code().as_deref() == Some("23505") => {
                return Err(NotConnected::CompanyConnectedElsewhere.into());
            }
            Err(error) => return Err(error.into()),
        };
        fortnox::keep_customers(tx, org_id, None, &company.customers, &[]).await?;
        let entry = audit::Entry {
            action: "integration.connected",
            resource_type: "org_integrations",
            record_id: id.to_string(),
            input: Value::Null,
            decision: json!({ "scopes": issued.scopes, "grant_type": new.grant_type }),
            output: json!({ "provider": PROVIDER, "company": company.tenant, "customers": company.customers.len() }),
            metadata: json!({ "on_behalf_of": user_id }),
            request_id: Some(request_id),
            subject_ids: vec![user_id],
            ..audit::Entry::default()
        };
        audit::append(tx, &entry).await?;
        Ok::<_, Failed>(())
    });
    written.await
}

/// Ends the connection at Fortnox and here. What was read through it stays: bookkeeping is kept for seven years.
pub(crate) async fn disconnect(state: &State, org_id: Uuid, user_id: Uuid, request_id: &str) -> Result<bool, ApiError> {
    let keys = TokenKeys::fetch(&state.secrets).await.map_err(unsealed)?;
    let found = state.db.service(org_id, async |tx| integrations::find(tx, org_id, PROVIDER).await);
    if let Some(sealed) = found.await?.and_then(|found| found.refresh_token) {
        let token = keys.open(org_id, HOLDER, "refresh_token", &sealed).map_err(ApiError::internal)?;
        // Ended here even if Fortnox cannot be reached: the token goes, and dies by itself.
        if let Err(error) = state.fortnox.revoke(token.expose()).await {
            tracing::warn!(%error, "a refresh token was not revoked at Fortnox");
        }
    }
    let ended = state.db.service(org_id, async |tx| {
        let ended = integrations::disconnect(tx, org_id, PROVIDER).await?;
        if ended {
            let entry = audit::Entry {
                action: "integration.disconnected",
                resource_type: "org_integrations",
                record_id: PROVIDER.to_owned(),
                metadata: json!({ "on_behalf_of": user_id }),
                request_id: Some(request_id),
                subject_ids: vec![user_id],
                ..audit::Entry::default()
            };
            audit::append(tx, &entry).await?;
        }
        Ok::<_, StoreError>(ended)
    });
    Ok(ended.await?)
}
