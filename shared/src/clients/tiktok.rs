//! TikTok's two interfaces: the Display API (open.tiktokapis.com) and the API for Business (business-api.tiktok.com). Their envelopes, headers
//! and codes differ. Source: developers.tiktok.com (error handling, rate limits, display API) and business-api.tiktok.com/portal/docs.

use serde_json::{Value, json};
use url::form_urlencoded;

use super::social::{Answer, Exchange, Lazy, SocialError, TIMEOUT, Usage, count, exchange};
use crate::config::{ConfigError, Env};

/// A client that is built on first use.
#[derive(Debug)]
pub struct TikTok {
    display: String,
    business: String,
    http: Lazy,
}

impl TikTok {
    /// Reads `TIKTOK_API_URL`, `TIKTOK_BUSINESS_URL` and `TIKTOK_TIMEOUT_MS` (10 seconds for one call unless set).
    ///
    /// # Errors
    /// [`ConfigError`] for a value that is malformed.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let base = |name: &str, default: &str| {
            Ok::<_, ConfigError>(env.url(name, Some(default))?.as_str().trim_end_matches('/').to_owned())
        };
        Ok(Self {
            display: base("TIKTOK_API_URL", "https://open.tiktokapis.com")?,
            business: base("TIKTOK_BUSINESS_URL", "https://business-api.tiktok.com")?,
            http: Lazy::new(env.duration_ms("TIKTOK_TIMEOUT_MS", TIMEOUT)?),
        })
    }

    /// The account's profile. Its fields stand below `user` of the answer.
    ///
    /// # Errors
    /// [`SocialError`].
    pub async fn user(&self, access_token: &str, fields: &str) -> Result<Answer, SocialError> {
        let url = format!("{}/v2/user/info/?{}", self.display, encode(&[("fields", fields)]));
        displayed(&exchange(self.http.client().await?.get(url).bearer_auth(access_token)).await?)
    }

    /// A page of the account's videos: `videos`, `cursor` and `has_more`. Fields are a parameter, and the page is in the body.
    ///
    /// # Errors
    /// [`SocialError`].
    pub async fn videos(&self, access_token: &str, fields: &str, cursor: Option<i64>) -> Result<Answer, SocialError> {
        let url = format!("{}/v2/video/list/?{}", self.display, encode(&[("fields", fields)]));
        let mut page = json!({ "max_count": 20 });
        if let Some(cursor) = cursor {
            page["cursor"] = json!(cursor);
        }
        displayed(&exchange(self.http.client().await?.post(url).bearer_auth(access_token).json(&page)).await?)
    }

    /// Those of these videos that the account has, at most twenty: `videos`.
    ///
    /// # Errors
    /// [`SocialError`].
    pub async fn videos_by_id(&self, access_token: &str, fields: &str, ids: &[String]) -> Result<Answer, SocialError> {
        let url = format!("{}/v2/video/query/?{}", self.display, encode(&[("fields", fields)]));
        let asked = json!({ "filters": { "video_ids": ids } });
        displayed(&exchange(self.http.client().await?.post(url).bearer_auth(access_token).json(&asked)).await?)
    }

    /// Reads what `path` of the API for Business names, such as `business/video/list`.
    ///
    /// # Errors
    /// [`SocialError`].
    pub async fn business(
        &self,
        access_token: &str,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Answer, SocialError> {
        let url = format!("{}/open_api/v1.3/{path}/?{}", self.business, encode(query));
        let request = self.http.client().await?.get(url).header("Access-Token", access_token);
        managed(&exchange(request).await?)
    }

    /// Does what `path` of the API for Business names, such as `business/message/send`. It is done once for each call.
    ///
    /// # Errors
    /// [`SocialError`]. After [`SocialError::Away`], [`SocialError::Transient`] and [`SocialError::Malformed`] it may have been done.
    pub async fn business_post(&self, access_token: &str, path: &str, body: &Value) -> Result<Answer, SocialError> {
        let url = format!("{}/open_api/v1.3/{path}/", self.business);
        let request = self.http.client().await?.post(url).header("Access-Token", access_token).json(body);
        managed(&exchange(request).await?)
    }
}

fn encode(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

fn answer(exchanged: &Exchange, data: &Value) -> Answer {
    Answer { body: data.clone(), at: exchanged.at(), usage: Usage::default() }
}

/// `{"data", "error": {"code": "ok"}}`: success has an error too.
fn displayed(exchanged: &Exchange) -> Result<Answer, SocialError> {
    let body = exchanged.body.as_ref().ok_or(SocialError::Malformed)?;
    let status = exchanged.status;
    match body["error"]["code"].as_str() {
        Some("ok") => Ok(answer(exchanged, &body["data"])),
        Some("access_token_invalid") => Err(SocialError::Token { code: i64::from(status) }),
        Some("scope_not_authorized" | "scope_permission_missed") => {
            Err(SocialError::Forbidden { code: i64::from(status), subcode: 0 })
        }
        Some("rate_limit_exceeded") => Err(SocialError::Limited { app: false, code: 429, wait: None }),
        Some("internal_error") => Err(SocialError::Transient { code: i64::from(status) }),
        Some("invalid_params") => Err(SocialError::Parameter { code: i64::from(status), subcode: 0 }),
        _ => Err(of_status(status)),
    }
}

/// `{"code": 0, "message", "data"}`, with HTTP 200 for errors as well.
fn managed(exchanged: &Exchange) -> Result<Answer, SocialError> {
    let body = exchanged.body.as_ref().ok_or(SocialError::Malformed)?;
    let Some(code) = count(&body["code"]) else { return Err(of_status(exchanged.status)) };
    Err(match code {
        0 => return Ok(answer(exchanged, &body["data"])),
        40_102 | 40_104 | 40_105 | 40_110 => SocialError::Token { code },
        40_016 | 40_100 | 40_133 => SocialError::Limited { app: false, code, wait: None },
        40_001 | 40_003 => SocialError::Forbidden { code, subcode: 0 },
        40_002 => SocialError::Parameter { code, subcode: 0 },
        50_000.. => SocialError::Transient { code },
        _ => SocialError::Refused { status: exchanged.status, code },
    })
}

fn of_status(status: u16) -> SocialError {
    match status {
        200..=299 => SocialError::Malformed,
        401 => SocialError::Token { code: 401 },
        429 => SocialError::Limited { app: false, code: 429, wait: None },
        500..=599 => SocialError::Transient { code: i64::from(status) },
        _ => SocialError::Refused { status, code: 0 },
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn exchanged(status: u16, body: Value) -> Exchange {
        Exchange { status, headers: HeaderMap::new(), body: Some(body) }
    }

    #[test]
    fn success_has_an_error_of_its_own() {
        let ok = json!({ "data": { "user": { "likes_count": 7 } }, "error": { "code": "ok", "message": "" } });
        assert_eq!(displayed(&exchanged(200, ok)).unwrap().body["user"]["likes_count"], 7);
        let of = |status, code: &str| displayed(&exchanged(status, json!({ "error": { "code": code } }))).unwrap_err();
        assert_eq!(of(401, "access_token_invalid"), SocialError::Token { code: 401 });
        assert_eq!(of(401, "scope_not_authorized"), SocialError::Forbidden { code: 401, subcode: 0 });
        assert_eq!(of(429, "rate_limit_exceeded"), SocialError::Limited { app: false, code: 429, wait: None });
        assert_eq!(of(500, "internal_error"), SocialError::Transient { code: 500 });
    }

    #[test]
    fn a_code_other_than_zero_is_an_error_whatever_the_status_is() {
        assert_eq!(managed(&exchanged(200, json!({ "code": 0, "data": { "x": 1 } }))).unwrap().body["x"], 1);
        let of = |code: i64| managed(&exchanged(200, json!({ "code": code, "message": "no" }))).unwrap_err();
        assert_eq!(of(40_105), SocialError::Token { code: 40_105 });
        assert_eq!(of(40_100), SocialError::Limited { app: false, code: 40_100, wait: None });
        assert_eq!(
            (of(40_001), of(40_002)),
            (SocialError::Forbidden { code: 40_001, subcode: 0 }, SocialError::Parameter { code: 40_002, subcode: 0 })
        );
        assert_eq!(of(50_000), SocialError::Transient { code: 50_000 });
        assert_eq!(managed(&exchanged(200, json!({}))).unwrap_err(), SocialError::Malformed);
    }
}
