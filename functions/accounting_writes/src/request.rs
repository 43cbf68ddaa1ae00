//! What requests say, parsed once.

use serde::Deserialize;
use serde_json::{Value, json};
use shared::{http::ApiError, store::approvals::Wanted};
use uuid::Uuid;

/// How many approvals a page has at most.
const MOST: i64 = 200;
const STATUSES: [&str; 9] =
    ["proposed", "refused", "expired", "approved", "overdue", "executing", "unknown", "executed", "failed"];

/// `GET /v1/approvals`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    status: Option<String>,
    client_id: Option<Uuid>,
    before: Option<Uuid>,
    limit: Option<String>,
}

impl ListQuery {
    pub(crate) fn parse(self) -> Result<Wanted, ApiError> {
        if let Some(status) = &self.status
            && !STATUSES.contains(&status.as_str())
        {
            let detail = format!("`status` is one of {}.", STATUSES.join(", "));
            return Err(ApiError::unprocessable("status_unknown", detail));
        }
        let most = match self.limit.as_deref().map(str::parse) {
            None => 50,
            Some(Ok(most)) if (1..=MOST).contains(&most) => most,
            Some(_) => return Err(ApiError::unprocessable("limit_invalid", format!("`limit` is from 1 to {MOST}."))),
        };
        Ok(Wanted { status: self.status, client_id: self.client_id, before: self.before, most })
    }
}

/// Postgres takes no NUL in a text.
fn without_nul<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<(), ApiError> {
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(ApiError::unprocessable("text_invalid", "A text holds a NUL, which cannot be stored."));
    }
    Ok(())
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}

/// `POST /v1/approvals/{id}/approve`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApproveBody {
    digest: String,
}

impl ApproveBody {
    pub(crate) fn parse(self) -> Result<String, ApiError> {
        without_nul([self.digest.as_str()])?;
        Ok(self.digest)
    }
}

/// `POST /v1/approvals/{id}/refuse`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefuseBody {
    reason: Option<String>,
}

impl RefuseBody {
    pub(crate) fn parse(self) -> Result<Option<String>, ApiError> {
        without_nul(self.reason.as_deref())?;
        Ok(self.reason)
    }
}

/// `POST /v1/approvals/decisions`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DecisionsBody {
    decisions: Vec<DecisionBody>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionBody {
    id: Uuid,
    decision: String,
    digest: Option<String>,
    reason: Option<String>,
}

impl DecisionsBody {
    /// Which approvals they are about.
    pub(crate) fn ids(&self) -> Vec<Uuid> {
        self.decisions.iter().map(|decision| decision.id).collect()
    }

    /// As the database takes them.
    pub(crate) fn to_json(&self) -> Result<Value, ApiError> {
        without_nul(self.decisions.iter().flat_map(|decision| {
            [Some(decision.decision.as_str()), decision.digest.as_deref(), decision.reason.as_deref()]
                .into_iter()
                .flatten()
        }))?;
        let one = |decision: &DecisionBody| json!({ "id": decision.id, "decision": decision.decision, "digest": decision.digest, "reason": decision.reason });
        Ok(self.decisions.iter().map(one).collect())
    }
}

/// `POST /v1/approvals/settings`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettingsBody {
    pub(crate) own_proposals: bool,
}

/// `POST /v1/accounting/vouchers`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProposeBody {
    pub(crate) client_id: Uuid,
    /// `{"series","date","description","rows":[{"account","debit","credit","cost_center","text"}]}`, amounts in öre.
    voucher: Value,
    lasts_hours: Option<f64>,
}

impl ProposeBody {
    /// The voucher, whose fields the database checks.
    pub(crate) fn voucher(&self) -> Result<&Value, ApiError> {
        if has_nul(&self.voucher) {
            return Err(ApiError::unprocessable("text_invalid", "A text holds a NUL, which cannot be stored."));
        }
        Ok(&self.voucher)
    }

    /// For how many seconds it can be decided: a week, unless said otherwise. The database has the bounds.
    pub(crate) fn lasts_s(&self) -> f64 {
        self.lasts_hours.unwrap_or(168.0).clamp(0.0, 1e6) * 3600.0
    }
}
