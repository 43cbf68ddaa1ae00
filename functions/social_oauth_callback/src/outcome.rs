//! How an attempt to connect ends once the person has consented: each way has a code for the app and a text for a page.

use shared::{
    clients::{social::SocialError, social_apps::AppError},
    consent::{Failed, NotConnected},
};

/// Why an account is not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The code was used or is too old.
    CodeRefused,
    /// The consent does not say whose account it is.
    ScopeMissing,
    /// The tokens and the profile are of different accounts, or of none.
    AccountUnclear,
    /// The app's own registration at the platform is wrong.
    SetUpWrong,
    /// The platform did not answer.
    PlatformUnavailable,
}

impl Why {
    /// Stable, for programs.
    const fn code(self) -> &'static str {
        match self {
            Self::CodeRefused => "code_refused",
            Self::ScopeMissing => "scope_missing",
            Self::AccountUnclear => "account_unclear",
            Self::SetUpWrong => "set_up_wrong",
            Self::PlatformUnavailable => "platform_unavailable",
        }
    }

    /// For people. Has no character that HTML would need to escape.
    const fn text(self) -> &'static str {
        match self {
            Self::CodeRefused => "The platform did not accept the confirmation, which can be used once. Connect again.",
            Self::ScopeMissing => {
                "The consent does not let the app see which account this is. Connect again and allow at least the profile."
            }
            Self::AccountUnclear => {
                "The platform did not say clearly which account this is. Nothing was connected; connect again."
            }
            Self::SetUpWrong => "The app is not set up at the platform as it should be. Tell its operator.",
            Self::PlatformUnavailable => {
                "The platform did not answer. Nothing was connected; try again in a few minutes."
            }
        }
    }
}

impl From<Why> for Failed {
    fn from(why: Why) -> Self {
        Self::NotConnected(NotConnected { code: why.code(), text: why.text().into() })
    }
}

impl From<AppError> for Why {
    fn from(error: AppError) -> Self {
        tracing::warn!(%error, "an account was not connected");
        match error {
            AppError::GrantRefused { .. } => Self::CodeRefused,
            AppError::NotSetUp | AppError::ClientRefused | AppError::Secret(_) => Self::SetUpWrong,
            // At Instagram a token without the basic scope cannot be exchanged for one that lasts.
            AppError::Refused { code: 10 | 200..=299, .. } => Self::ScopeMissing,
            AppError::Unsent(_)
            | AppError::Unanswered(_)
            | AppError::Busy { .. }
            | AppError::Refused { .. }
            | AppError::Malformed => Self::PlatformUnavailable,
        }
    }
}

impl From<SocialError> for Why {
    fn from(error: SocialError) -> Self {
        tracing::warn!(%error, "the profile of an account was not read");
        match error {
            SocialError::Forbidden { .. } => Self::ScopeMissing,
            _ => Self::PlatformUnavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_has_a_code_of_its_own_and_a_text_that_needs_no_escaping() {
        let all = [Why::CodeRefused, Why::ScopeMissing, Why::AccountUnclear, Why::SetUpWrong, Why::PlatformUnavailable];
        let codes: std::collections::BTreeSet<_> = all.map(Why::code).into();
        assert_eq!(codes.len(), all.len());
        for way in all {
            assert!(way.text().ends_with('.') && !way.text().contains(['<', '>', '&', '"', '\'']), "{}", way.text());
        }
    }
}
