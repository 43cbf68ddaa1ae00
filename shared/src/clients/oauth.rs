//! What providers issue.

/// Tokens, as the provider issued them.
#[derive(Clone)]
pub struct Issued {
    /// Lets read and write for `expires_in_s` seconds.
    pub access_token: String,
    /// Gets the next pair, once. None for client credentials, and at Instagram.
    pub refresh_token: Option<String>,
    /// What was consented to.
    pub scopes: Vec<String>,
    /// How long the access token lasts, in seconds.
    pub expires_in_s: i64,
    /// In how many seconds a person must consent again, unless tokens are renewed before. None where the provider does not say.
    pub consent_ends_in_s: Option<i64>,
    /// Whose they are, where the provider says so with them.
    pub subject: Option<String>,
}

/// Neither token.
impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("scopes", &self.scopes)
            .field("expires_in_s", &self.expires_in_s)
            .finish_non_exhaustive()
    }
}
