//! What differs between the ways to connect.

use shared::{clients::social_apps::Api, http::ApiError};
use url::Url;

use crate::state::State;

/// A way to connect an account.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) api: Api,
    /// As `oauth_states.provider` has it.
    pub(crate) provider: &'static str,
    /// Its segment of paths.
    segment: &'static str,
    /// What people call it.
    pub(crate) name: &'static str,
    /// Without it, it is not known whose account it is.
    pub(crate) basic_scope: &'static str,
}

const FLOWS: [Flow; 3] = [
    Flow {
        api: Api::Instagram,
        provider: "instagram",
        segment: "instagram",
        name: "Instagram",
        basic_scope: "instagram_business_basic",
    },
    Flow {
        api: Api::TikTokDisplay,
        provider: "tiktok",
        segment: "tiktok",
        name: "TikTok",
        basic_scope: "user.info.basic",
    },
    Flow {
        api: Api::TikTokBusiness,
        provider: "tiktok_business",
        segment: "tiktok-business",
        name: "TikTok",
        basic_scope: "user.info.basic",
    },
];

impl Flow {
    /// The way whose paths have this segment.
    pub(crate) fn at(segment: &str) -> Option<&'static Self> {
        const ALL: &[Flow] = &FLOWS;
        ALL.iter().find(|flow| flow.segment == segment)
    }

    /// The way to what `social_accounts.api` names.
    pub(crate) fn of(api: &str) -> Option<&'static Self> {
        const ALL: &[Flow] = &FLOWS;
        ALL.iter().find(|flow| flow.api.name() == api)
    }

    /// Where the platform leads people back to, as it is registered there.
    pub(crate) fn redirect_url(&self, base: &Url) -> Result<Url, ApiError> {
        let base = base.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}/oauth/{}/callback", self.segment)).map_err(ApiError::internal)
    }
}

/// What addresses of ours begin with, where any platform is set up.
pub(crate) fn set_up(state: &State) -> Result<&Url, ApiError> {
    state.redirect_base.as_ref().ok_or_else(not_set_up)
}

/// The answer where a platform is not set up.
pub(crate) fn not_set_up() -> ApiError {
    ApiError::unprocessable(
        "social_not_set_up",
        "This installation is not registered at the platform; its operator sets SOCIAL_REDIRECT_BASE_URL and the platform's client id.",
    )
}
