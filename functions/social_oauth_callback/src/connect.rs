//! From the code that a platform gave to an account that is written down; and the end of a connection.

use serde_json::{Value, json};
use shared::{
    audit,
    clients::{oauth::Issued, social_apps::Api},
    consent::{Failed, Given, unsealed},
    http::ApiError,
    store::{
        StoreError,
        integrations::SealedTokens,
        social,
        social_tokens::{self, NewAccount},
    },
    tokens::{Holder, TokenError, TokenKeys},
};
use url::Url;
use uuid::Uuid;

use crate::{flow::Flow, outcome::Why, profile, state::State};

/// Exchanges the code, reads whose account it is and writes it down; then has it read, from where it was read last.
pub(crate) async fn connect(
    state: &State,
    flow: &Flow,
    redirect_url: &Url,
    given: &Given,
    request_id: &str,
) -> Result<(), Failed> {
    // Before the code is used up: without the key nothing could be stored.
    let keys = TokenKeys::fetch(&state.secrets).await.map_err(unsealed)?;
    // Where a browser has taken the fragment for a part of the code.
    let code = given.code.strip_suffix("#_").unwrap_or(&given.code);
    let issued = state.apps.exchange(flow.api, code, redirect_url.as_str()).await.map_err(Why::from)?;
    let kept = keep(state, flow, given, &keys, &issued, request_id).await;
    // Not where the database did not say whether it is kept.
    if matches!(kept, Err(Failed::NotConnected(_))) {
        give_back(state, flow.api, given.org_id, &issued).await;
    }
    let account_id = kept?;
    let admitted = state.db.service(given.org_id, async |tx| social::admit_fetch(tx, account_id).await).await;
    match admitted {
        Ok(Some(job)) => {
            state.readings.wake(job, given.org_id).await; // best effort: the sweep finds what this loses
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "the reading of an account was not queued; the schedule does it"),
    }
    Ok(())
}

async fn keep(
    state: &State,
    flow: &Flow,
    given: &Given,
    keys: &TokenKeys,
    issued: &Issued,
    request_id: &str,
) -> Result<Uuid, Failed> {
    let Given { org_id, user_id, .. } = *given;
    if !issued.scopes.iter().any(|scope| scope == flow.basic_scope) {
        return Err(Why::ScopeMissing.into());
    }
    if issued.refresh_token.is_none() && flow.api != Api::Instagram {
        tracing::error!(api = flow.api.name(), "no refresh token was issued");
        return Err(Why::SetUpWrong.into());
    }
    let profile = profile::read(state, flow.api, issued).await?;
    // The seal is of the organisation and the column; which account it is, the row says.
    let seal = |column, token: &str| {
        keys.seal(org_id, Holder::Account(Uuid::nil()), column, token).map_err(ApiError::internal)
    };
    let access_token = seal("access_token", &issued.access_token)?;
    let refresh_token = issued.refresh_token.as_deref().map(|token| seal("refresh_token", token)).transpose()?;
    let new = NewAccount {
        platform: flow.api.platform(),
        api: flow.api.name(),
        platform_id: &profile.platform_id,
        app_scoped_id: profile.app_scoped_id.as_deref(),
        username: &profile.username,
        scopes: &issued.scopes,
        connected_by: user_id,
        tokens: SealedTokens::of(issued, &access_token, refresh_token.as_deref(), (state.clock)()),
    };
    let written = state.db.service(org_id, async |tx| {
        let id = social_tokens::connect(tx, org_id, &new).await?;
        let entry = audit::Entry {
            action: "social_account.connected",
            resource_type: "social_accounts",
            record_id: id.to_string(),
            input: Value::Null,
            decision: json!({ "scopes": issued.scopes, "api": new.api }),
            output: json!({ "platform": new.platform, "account": new.platform_id }),
            metadata: json!({ "on_behalf_of": user_id }),
            request_id: Some(request_id),
            subject_ids: vec![user_id],
            ..audit::Entry::default()
        };
        audit::append(tx, &entry).await?;
        Ok::<_, StoreError>(id)
    });
    Ok(written.await?)
}

/// Takes a consent back that is not kept, unless an organisation holds the account already: the platform would end that with it.
async fn give_back(state: &State, api: Api, org_id: Uuid, issued: &Issued) {
    // Instagram has no call for it.
    if api == Api::Instagram {
        return;
    }
    if let Some(subject) = &issued.subject {
        let held = state.db.service(org_id, async |tx| {
            let here = social::hold_account_of(tx, org_id, api.platform(), subject).await?;
            let elsewhere = social_tokens::connected_elsewhere(tx, api.name(), subject).await?;
            Ok::<_, StoreError>(elsewhere || here.is_some_and(|account| account.status != "disconnected"))
        });
        if !matches!(held.await, Ok(false)) {
            return;
        }
    }
    if let Err(error) = state.apps.revoke(api, &issued.access_token).await {
        tracing::warn!(%error, "a consent that is not kept was not taken back");
    }
}

/// Ends a connection here, and at the platform where no other organisation has one to the account. What was read through it stays.
pub(crate) async fn disconnect(
    state: &State,
    org_id: Uuid,
    user_id: Uuid,
    account_id: Uuid,
    request_id: &str,
) -> Result<(), ApiError> {
    let found = state.db.service(org_id, async |tx| {
        let Some(found) = social_tokens::connected(tx, org_id, account_id).await? else {
            return Ok::<_, StoreError>(None);
        };
        let elsewhere = social_tokens::connected_elsewhere(tx, &found.api, &found.platform_id).await?;
        Ok(Some((found, elsewhere)))
    });
    let (found, elsewhere) = found.await?.ok_or_else(|| ApiError::not_found("social_account"))?;
    // The platform would end another organisation's consent with it.
    if found.status == "active"
        && !elsewhere
        && let Some(flow) = Flow::of(&found.api)
        && flow.api != Api::Instagram
    {
        // Ended here even if the platform cannot be reached: the tokens go, and die by themselves.
        match state.tokens.access(org_id, account_id).await {
            Ok(token) => {
                if let Err(error) = state.apps.revoke(flow.api, token.expose()).await {
                    tracing::warn!(%error, "a consent was not taken back at the platform");
                }
            }
            Err(error @ TokenError::Secret(_)) => return Err(unsealed(error)),
            Err(error) => tracing::warn!(%error, "there is no token to take a consent back with"),
        }
    }
    let ended = state.db.service(org_id, async |tx| {
        if social_tokens::disconnect(tx, org_id, account_id).await? {
            let entry = audit::Entry {
                action: "social_account.disconnected",
                resource_type: "social_accounts",
                record_id: account_id.to_string(),
                metadata: json!({ "on_behalf_of": user_id }),
                request_id: Some(request_id),
                subject_ids: vec![user_id],
                ..audit::Entry::default()
            };
            audit::append(tx, &entry).await?;
        }
        Ok::<_, StoreError>(())
    });
    Ok(ended.await?)
}
