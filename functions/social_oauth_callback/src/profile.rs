//! Whose account it is.

use serde_json::Value;
use shared::clients::{
    oauth::Issued,
    social::{id, text},
    social_apps::Api,
};

use crate::{outcome::Why, state::State};

/// The longest name that is kept, in characters.
const MAX_NAME: usize = 200;

/// An account, as the platform describes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    /// Its id, which the platform's deliveries name.
    pub(crate) platform_id: String,
    /// Its id towards this application, where that is another.
    pub(crate) app_scoped_id: Option<String>,
    pub(crate) username: String,
}

/// Reads the profile with tokens that were just issued. They and it must be of the same account.
pub(crate) async fn read(state: &State, api: Api, issued: &Issued) -> Result<Profile, Why> {
    let token = issued.access_token.as_str();
    let subject = issued.subject.as_deref();
    let profile = match api {
        Api::Instagram => {
            let query = [("fields", "user_id,id,username,name,account_type")];
            of_instagram(&state.instagram.get(token, "me", &query).await?.body, subject)
        }
        Api::TikTokDisplay => {
            // Asking for a field of a scope that was not granted fails the whole call.
            let has_profile = issued.scopes.iter().any(|scope| scope == "user.info.profile");
            let fields = if has_profile { "open_id,display_name,username" } else { "open_id,display_name" };
            let user = &state.tiktok.user(token, fields).await?.body["user"];
            id(&user["open_id"])
                .filter(|id| subject.is_none_or(|subject| subject == id))
                .map(|open_id| named(open_id, None, user))
        }
        Api::TikTokBusiness => {
            // Its profile does not say whose it is: the tokens do, and it is given for that account alone.
            let subject = subject.ok_or(Why::AccountUnclear)?;
            let query = [("business_id", subject), ("fields", r#"["username","display_name"]"#)];
            let account = state.tiktok.business(token, "business/get", &query).await?.body;
            Some(named(subject.to_owned(), None, &account))
        }
    };
    profile.ok_or_else(|| {
        tracing::error!(api = api.name(), "a profile is not of the account that consented");
        Why::AccountUnclear
    })
}

/// `user_id` is the account's, and `id` that towards this application. The tokens may name either.
fn of_instagram(me: &Value, subject: Option<&str>) -> Option<Profile> {
    let (platform_id, scoped) = (id(&me["user_id"])?, id(&me["id"]));
    let is_meant = |subject: &str| subject == platform_id || scoped.as_deref() == Some(subject);
    subject.is_none_or(is_meant).then(|| named(platform_id.clone(), scoped.clone(), me))
}

fn named(platform_id: String, app_scoped_id: Option<String>, profile: &Value) -> Profile {
    let name = [&profile["username"], &profile["display_name"], &profile["name"]].into_iter().find_map(text);
    let username = name.unwrap_or(&platform_id).replace('\0', "").chars().take(MAX_NAME).collect();
    Profile { platform_id, app_scoped_id, username }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_profile_of_another_account_than_the_tokens_is_none() {
        let me = json!({ "user_id": "1784", "id": "26", "username": "nord", "account_type": "SOMETHING_NEW" });
        let profile = Profile {
            platform_id: "1784".to_owned(),
            app_scoped_id: Some("26".to_owned()),
            username: "nord".to_owned(),
        };
        for subject in [None, Some("1784"), Some("26")] {
            assert_eq!(of_instagram(&me, subject).as_ref(), Some(&profile), "{subject:?}");
        }
        assert_eq!(of_instagram(&me, Some("27")), None);
        assert_eq!(of_instagram(&json!({ "id": "26", "username": "nord" }), Some("26")), None);
    }

    #[test]
    fn an_account_is_called_something_whatever_is_said_of_it() {
        let called = |profile: Value| named("7".to_owned(), None, &profile).username;
        assert_eq!(called(json!({ "username": "a", "display_name": "b" })), "a");
        assert_eq!(called(json!({ "username": "", "display_name": "b" })), "b");
        assert_eq!(called(json!({})), "7");
        assert_eq!(called(json!({ "name": "é".repeat(300) })).chars().count(), 200);
    }
}
