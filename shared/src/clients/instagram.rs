//! Instagram's API with Instagram Login, version 27 of the Graph API. Source: developers.facebook.com (instagram-platform, graph-api: errors,
//! rate limiting).
//!
//! Plain calls of one object or list each: version 27 has no `?ids=` and no aliases. No call is repeated here.

use std::time::Duration;

use serde_json::Value;
use url::form_urlencoded;

use super::social::{Answer, Exchange, Lazy, SocialError, TIMEOUT, Usage, count, exchange, id, segment, text};
use crate::{
    config::{ConfigError, Env},
    social::Attachment,
};

/// What is delivered of an account by each scope.
const DELIVERED: [(&str, &str); 2] = [
    (
        "instagram_business_manage_messages",
        "messages,message_edit,message_reactions,messaging_postbacks,messaging_referral,messaging_seen",
    ),
    ("instagram_business_manage_comments", "comments,live_comments"),
];

/// A client that is built on first use.
#[derive(Debug)]
pub struct Instagram {
    base: String,
    http: Lazy,
}

impl Instagram {
    /// Reads `INSTAGRAM_GRAPH_URL`, `INSTAGRAM_GRAPH_VERSION` (`v27.0` unless set) and `INSTAGRAM_TIMEOUT_MS` (10 seconds for one call unless set).
    ///
    /// # Errors
    /// [`ConfigError`] for a value that is malformed.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let url = env.url("INSTAGRAM_GRAPH_URL", Some("https://graph.instagram.com"))?;
        let version = env.or("INSTAGRAM_GRAPH_VERSION", "v27.0");
        let base = format!("{}/{version}", url.as_str().trim_end_matches('/'));
        Ok(Self { base, http: Lazy::new(env.duration_ms("INSTAGRAM_TIMEOUT_MS", TIMEOUT)?) })
    }

    /// Reads what `path` names, such as `me/conversations`. Its segments must be such as [`super::social::segment`] makes.
    ///
    /// # Errors
    /// [`SocialError`].
    pub async fn get(&self, access_token: &str, path: &str, query: &[(&str, &str)]) -> Result<Answer, SocialError> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let request = self.http.client().await?.get(format!("{}/{path}?{query}", self.base)).bearer_auth(access_token);
        read(&exchange(request).await?)
    }

    /// Asks for deliveries of what happens to the account, as far as the scopes that were granted cover it. Asked again, it replaces what was asked
    /// before; after each consent it must be, or what was granted since is not delivered.
    ///
    /// # Errors
    /// [`SocialError`].
    pub async fn subscribe(&self, access_token: &str, platform_id: &str, scopes: &[String]) -> Result<(), SocialError> {
        let fields: Vec<&str> = DELIVERED
            .into_iter()
            .filter(|(scope, _)| scopes.iter().any(|granted| granted == scope))
            .map(|(_, fields)| fields)
            .collect();
        if fields.is_empty() {
            return Ok(());
        }
        let path = format!("{}/subscribed_apps", segment(platform_id));
        let answer = self.post(access_token, &path, &[("subscribed_fields", &fields.join(","))], None).await?;
        if answer.body["success"] == true { Ok(()) } else { Err(SocialError::Malformed) }
    }

    /// Does what `path` names, with parameters in the query or, where it takes one, a body. It is done once for each call: there is no key by
    /// which a repeated call is the same.
    ///
    /// # Errors
    /// [`SocialError`]. After [`SocialError::Away`], [`SocialError::Transient`] and [`SocialError::Malformed`] it may have been done.
    pub async fn post(
        &self,
        access_token: &str,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, SocialError> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let request = self.http.client().await?.post(format!("{}/{path}?{query}", self.base)).bearer_auth(access_token);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        read(&exchange(request).await?)
    }
}

/// What a message of Instagram has besides its text, as a read shows it. None where it shows nothing: it leaves out much that was delivered, as
/// voice and reels.
#[must_use]
pub fn attachments(message: &Value) -> Option<Vec<Attachment>> {
    let made =
        |kind: &str, url: &Value| Attachment { kind: kind.to_owned(), url: text(url).map(str::to_owned), id: None };
    let mut all = Vec::new();
    for attachment in message["attachments"]["data"].as_array().into_iter().flatten() {
        all.push(if attachment["image_data"].is_object() {
            made("image", &attachment["image_data"]["url"])
        } else if attachment["video_data"].is_object() {
            made("video", &attachment["video_data"]["url"])
        } else {
            made("file", &attachment["file_url"])
        });
    }
    for share in message["shares"]["data"].as_array().into_iter().flatten() {
        all.push(made("share", &share["link"]));
    }
    for (kind, story) in [("story", &message["story"]["reply_to"]), ("story_mention", &message["story"]["mention"])] {
        if story.is_object() {
            all.push(Attachment { id: id(&story["id"]), ..made(kind, &story["link"]) });
        }
    }
    (!all.is_empty()).then_some(all)
}

fn read(exchanged: &Exchange) -> Result<Answer, SocialError> {
    let usage = usage(exchanged);
    let body = exchanged.body.as_ref().ok_or(SocialError::Malformed)?;
    if body["error"].is_object() || exchanged.status >= 400 {
        return Err(refusal(exchanged.status, &body["error"], usage));
    }
    Ok(Answer { body: body.clone(), at: exchanged.at(), usage })
}

/// `X-App-Usage` has the application's percentages, and `X-Business-Use-Case-Usage` those of one account, with the MINUTES until it is heard again.
fn usage(exchanged: &Exchange) -> Usage {
    let most = |usage: &Value| {
        let shares = ["call_count", "total_time", "total_cputime"].map(|name| count(&usage[name]).unwrap_or_default());
        shares.into_iter().max().unwrap_or_default()
    };
    let business = exchanged.header("x-business-use-case-usage");
    let rows: Vec<&Value> =
        business.as_object().into_iter().flat_map(|ids| ids.values()).filter_map(Value::as_array).flatten().collect();
    let minutes = rows.iter().filter_map(|row| count(&row["estimated_time_to_regain_access"])).max();
    Usage {
        app: most(&exchanged.header("x-app-usage")),
        account: rows.iter().map(|row| most(row)).max().unwrap_or_default(),
        regain: minutes
            .and_then(|minutes| u64::try_from(minutes).ok())
            .filter(|minutes| *minutes > 0)
            .map(|minutes| Duration::from_secs(minutes.min(24 * 60) * 60)),
    }
}

fn refusal(status: u16, error: &Value, usage: Usage) -> SocialError {
    let code = count(&error["code"]).unwrap_or_default();
    let subcode = count(&error["error_subcode"]).unwrap_or_default();
    let words = error["message"].as_str().unwrap_or_default();
    match (code, subcode) {
        (190 | 102, _) => SocialError::Token { code },
        (4, _) => SocialError::Limited { app: true, code, wait: usage.regain },
        (17 | 32 | 613 | 80_001..=80_004, _) => SocialError::Limited { app: false, code, wait: usage.regain },
        (1 | 2, _) => SocialError::Transient { code },
        (100, 33) => SocialError::Missing,
        (100, _) => SocialError::Parameter { code, subcode },
        // Its code is that of a missing permission: only the words differ.
        (10, _) if words.contains("Not enough viewers") => SocialError::FewViewers,
        (10 | 200..=299, _) => SocialError::Forbidden { code, subcode },
        _ if status == 429 => SocialError::Limited { app: false, code: 429, wait: usage.regain },
        _ if status >= 500 || error["is_transient"] == true => SocialError::Transient { code: i64::from(status) },
        _ => SocialError::Refused { status, code },
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use serde_json::json;

    use super::*;

    fn answered(status: u16, body: Value, headers: &[(&'static str, &'static str)]) -> Result<Answer, SocialError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        read(&Exchange { status, headers: map, body: Some(body) })
    }

    #[test]
    fn errors_are_classified_by_code_whatever_the_status_is() {
        let of = |code: i64, subcode: i64| {
            answered(400, json!({ "error": { "code": code, "error_subcode": subcode } }), &[]).unwrap_err()
        };
        assert_eq!(of(190, 463), SocialError::Token { code: 190 });
        assert_eq!(of(102, 0), SocialError::Token { code: 102 });
        assert_eq!(of(4, 0), SocialError::Limited { app: true, code: 4, wait: None });
        for code in [17, 32, 613, 80_002] {
            assert_eq!(of(code, 0), SocialError::Limited { app: false, code, wait: None });
        }
        assert_eq!(of(2, 0), SocialError::Transient { code: 2 });
        assert_eq!((of(100, 33), of(100, 0)), (SocialError::Missing, SocialError::Parameter { code: 100, subcode: 0 }));
        for (code, subcode) in [(10, 0), (10, 2_534_022), (200, 2_534_041)] {
            assert_eq!(of(code, subcode), SocialError::Forbidden { code, subcode });
        }
        assert_eq!(of(368, 0), SocialError::Refused { status: 400, code: 368 });
        let few =
            json!({ "error": { "code": 10, "message": "(#10) Not enough viewers for the media to show insights" } });
        assert_eq!(answered(400, few, &[]).unwrap_err(), SocialError::FewViewers);
        assert_eq!(answered(503, json!({}), &[]).unwrap_err(), SocialError::Transient { code: 503 });
    }

    #[test]
    fn usage_and_time_are_read_from_headers_and_the_wait_is_in_minutes() {
        let business =
            r#"{"1784":[{"type":"instagram","call_count":91,"total_time":5,"estimated_time_to_regain_access":7}]}"#;
        let headers = [
            ("x-app-usage", r#"{"call_count":28,"total_time":25,"total_cputime":95}"#),
            ("x-business-use-case-usage", business),
            ("date", "Mon, 30 Nov 2026 11:12:13 GMT"),
        ];
        let answer = answered(200, json!({ "data": [] }), &headers).unwrap();
        assert_eq!(answer.usage, Usage { app: 95, account: 91, regain: Some(Duration::from_secs(420)) });
        assert_eq!(answer.at, Some(1_796_037_133_000));
        let limited = answered(400, json!({ "error": { "code": 80_002 } }), &headers[1..2]).unwrap_err();
        let wait = Some(Duration::from_secs(420));
        assert_eq!(limited, SocialError::Limited { app: false, code: 80_002, wait });
        assert_eq!(answered(200, json!({}), &[]).unwrap().usage, Usage::default());
    }
}
