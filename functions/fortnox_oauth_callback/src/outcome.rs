//! How an attempt to connect ends: each way has a code for the app and a text for a page.

use shared::{books::ReadError, clients::fortnox::FortnoxError};

/// Why an organisation is not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotConnected {
    /// The state was never made here.
    StateUnknown,
    /// More than ten minutes have passed.
    StateExpired,
    /// It was used before.
    StateReplayed,
    /// Another browser brings it.
    StateForeign,
    /// Who began may not connect any more.
    PermissionMissing,
    /// The person said no.
    ConsentRefused,
    /// Fortnox does not know what it was asked to let the app do.
    ScopeUnknown,
    /// Fortnox ended the consent for another reason.
    ConsentFailed,
    /// The code was used or is too old.
    CodeRefused,
    /// The company's Fortnox lacks a licence.
    LicenceMissing,
    /// The consent does not cover what is needed.
    ScopeMissing,
    /// Another organisation has connected the company.
    CompanyConnectedElsewhere,
    /// The app's own registration at Fortnox is wrong.
    SetUpWrong,
    /// Fortnox did not answer.
    FortnoxUnavailable,
}

impl NotConnected {
    /// Stable, for programs.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::StateUnknown => "state_unknown",
            Self::StateExpired => "state_expired",
            Self::StateReplayed => "state_replayed",
            Self::StateForeign => "state_foreign",
            Self::PermissionMissing => "permission_missing",
            Self::ConsentRefused => "consent_refused",
            Self::ScopeUnknown => "scope_unknown",
            Self::ConsentFailed => "consent_failed",
            Self::CodeRefused => "code_refused",
            Self::LicenceMissing => "licence_missing",
            Self::ScopeMissing => "scope_missing",
            Self::CompanyConnectedElsewhere => "company_connected_elsewhere",
            Self::SetUpWrong => "set_up_wrong",
            Self::FortnoxUnavailable => "fortnox_unavailable",
        }
    }

    /// For people. Has no character that HTML would need to escape.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::StateUnknown => "This link is not one that we made. Go back to the app and connect Fortnox again.",
            Self::StateExpired => "This took longer than ten minutes. Go back to the app and connect Fortnox again.",
            Self::StateReplayed => "This link was used before. Go back to the app to see whether Fortnox is connected.",
            Self::StateForeign => {
                "Connecting was begun in another browser. Finish it there, or go back to the app and begin again here."
            }
            Self::PermissionMissing => {
                "You may not connect Fortnox for this organisation any more. Ask an owner or admin."
            }
            Self::ConsentRefused => "You did not allow the connection in Fortnox. Nothing was connected.",
            Self::ScopeUnknown => {
                "The app asks Fortnox for something that it is not registered for. Tell its operator."
            }
            Self::ConsentFailed => {
                "Fortnox ended this without a connection. Try again, and tell the operator of the app if it stays so."
            }
            Self::CodeRefused => "Fortnox did not accept the confirmation, which lasts ten minutes. Connect again.",
            Self::LicenceMissing => {
                "The company lacks a licence in Fortnox that the connection needs. Order it in Fortnox, then connect again."
            }
            Self::ScopeMissing => {
                "The consent does not cover all that is needed. Connect again and allow everything that is listed."
            }
            Self::CompanyConnectedElsewhere => {
                "Another organisation has connected this company. It must be disconnected there first."
            }
            Self::SetUpWrong => "The app is not set up for Fortnox as it should be. Tell its operator.",
            Self::FortnoxUnavailable => "Fortnox did not answer. Nothing was connected; try again in a few minutes.",
        }
    }

    /// What the database said of a state; `None` if it may be used.
    pub(crate) fn of_state(outcome: &str) -> Option<Self> {
        match outcome {
            "ok" => None,
            "expired" => Some(Self::StateExpired),
            "replayed" => Some(Self::StateReplayed),
            "foreign" => Some(Self::StateForeign),
            "revoked" => Some(Self::PermissionMissing),
            _ => Some(Self::StateUnknown),
        }
    }

    /// What `error` means that comes back instead of a code.
    pub(crate) fn of_refusal(error: &str) -> Self {
        match error {
            "access_denied" => Self::ConsentRefused,
            "invalid_scope" => Self::ScopeUnknown,
            _ => Self::ConsentFailed,
        }
    }
}

impl From<FortnoxError> for NotConnected {
    fn from(error: FortnoxError) -> Self {
        tracing::warn!(%error, "Fortnox was not connected");
        match error {
            FortnoxError::GrantRefused => Self::CodeRefused,
            FortnoxError::NotSetUp | FortnoxError::ClientRefused | FortnoxError::Secret(_) => Self::SetUpWrong,
            // Codes of fortnox.se/developer, guide "errors": no licence for the scope, no licence for the API; scope missing.
            FortnoxError::Refused { code: 2_001_101 | 2_001_103, .. } => Self::LicenceMissing,
            FortnoxError::Refused { code: 2_000_663 | 2_000_664, .. } | FortnoxError::Refused { status: 403, .. } => {
                Self::ScopeMissing
            }
            FortnoxError::Unsent(_)
            | FortnoxError::Unanswered(_)
            | FortnoxError::Busy { .. }
            | FortnoxError::Unauthorized
            | FortnoxError::Refused { .. }
            | FortnoxError::Malformed => Self::FortnoxUnavailable,
        }
    }
}

impl From<ReadError> for NotConnected {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Fortnox(error) => error.into(),
            ReadError::Pace(error) => {
                tracing::warn!(%error, "Fortnox was not connected");
                Self::FortnoxUnavailable
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [NotConnected; 14] = [
        NotConnected::StateUnknown,
        NotConnected::StateExpired,
        NotConnected::StateReplayed,
        NotConnected::StateForeign,
        NotConnected::PermissionMissing,
        NotConnected::ConsentRefused,
        NotConnected::ScopeUnknown,
        NotConnected::ConsentFailed,
        NotConnected::CodeRefused,
        NotConnected::LicenceMissing,
        NotConnected::ScopeMissing,
        NotConnected::CompanyConnectedElsewhere,
        NotConnected::SetUpWrong,
        NotConnected::FortnoxUnavailable,
    ];

    #[test]
    fn each_way_has_a_code_of_its_own_and_a_text_that_needs_no_escaping() {
        let codes: std::collections::BTreeSet<_> = ALL.map(NotConnected::code).into();
        assert_eq!(codes.len(), ALL.len());
        for way in ALL {
            assert!(way.text().ends_with('.') && !way.text().contains(['<', '>', '&', '"', '\'']), "{}", way.text());
        }
    }
}
