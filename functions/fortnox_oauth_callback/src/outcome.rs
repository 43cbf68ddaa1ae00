//! How an attempt to connect ends once the person has consented: each way has a code for the app and a text for a page.

use shared::{
    books::ReadError,
    clients::fortnox::FortnoxError,
    consent::{self, Failed},
};

/// Why an organisation is not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotConnected {
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
}

impl From<NotConnected> for Failed {
    fn from(why: NotConnected) -> Self {
        Self::NotConnected(consent::NotConnected { code: why.code(), text: why.text().into() })
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

    const ALL: [NotConnected; 6] = [
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
