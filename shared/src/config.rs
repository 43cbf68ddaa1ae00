//! What a function is told by its environment.
//!
//! The only reader of the process environment: everything else is handed an [`Env`], so that a test can state its own.

use std::{collections::HashMap, fmt, str::FromStr, time::Duration};

use url::Url;

/// A snapshot of environment variables, with readers that say what is wrong in the words of who must mend it.
///
/// A variable set to nothing counts as unset: that is how deployment templates spell an absent parameter.
#[derive(Clone)]
pub struct Env(HashMap<String, String>);

/// A variable that is missing or malformed. Names the variable and its shape, never its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is not set.
    #[error("{name} is not set; expected {expected}")]
    Missing {
        /// The variable.
        name: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// It is set to something else.
    #[error("{name} is malformed; expected {expected}")]
    Malformed {
        /// The variable.
        name: String,
        /// What belongs there.
        expected: &'static str,
    },
}

impl Env {
    /// The environment of this process, as it is now. Variables that are not UTF-8 are left out.
    pub fn from_process() -> Self {
        Self::from_iter(
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        )
    }

    /// The value of `name`, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value of `name`.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] saying that `expected` belongs there, for example "the name of a bucket".
    pub fn required(&self, name: &str, expected: &'static str) -> Result<&str, ConfigError> {
        self.get(name).ok_or_else(|| ConfigError::Missing { name: name.to_owned(), expected })
    }

    /// The value of `name`, or `default` where it is not set.
    pub fn or<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.get(name).unwrap_or(default)
    }

    /// The value of `name` parsed as `T`, if it is set.
    ///
    /// # Errors
    /// [`ConfigError::Malformed`] if it does not parse.
    pub fn parsed<T: FromStr>(&self, name: &str, expected: &'static str) -> Result<Option<T>, ConfigError> {
        let malformed = |_| ConfigError::Malformed { name: name.to_owned(), expected };
        self.get(name).map(|value| value.parse().map_err(malformed)).transpose()
    }

    /// A duration in milliseconds, or `default`.
    ///
    /// # Errors
    /// [`ConfigError::Malformed`] if it is not a whole number of milliseconds above zero.
    pub fn duration_ms(&self, name: &str, default: Duration) -> Result<Duration, ConfigError> {
        let expected = "a whole number of milliseconds above zero, such as 30000";
        match self.parsed::<u64>(name, expected)? {
            Some(0) => Err(ConfigError::Malformed { name: name.to_owned(), expected }),
            Some(ms) => Ok(Duration::from_millis(ms)),
            None => Ok(default),
        }
    }

    /// A URL, or `default` where it is not set and there is one.
    ///
    /// # Errors
    /// [`ConfigError`] if it is absent without a default, or is not an absolute URL.
    pub fn url(&self, name: &str, default: Option<&str>) -> Result<Url, ConfigError> {
        let expected = "an absolute URL, such as https://example.com";
        let text = match default {
            Some(default) => self.or(name, default),
            None => self.required(name, expected)?,
        };
        text.parse().map_err(|_| ConfigError::Malformed { name: name.to_owned(), expected })
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self(variables.filter(|(_, value): &(String, String)| !value.is_empty()).collect())
    }
}

/// Names only: half of the values are secrets.
impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Env {
        Env::from_iter([
            ("MS", "1500"),
            ("ZERO", "0"),
            ("WORD", "hunter2"),
            ("BASE", "http://localhost:1/x"),
            ("EMPTY", ""),
        ])
    }

    #[test]
    fn an_empty_variable_is_unset() {
        let missing = ConfigError::Missing { name: "EMPTY".to_owned(), expected: "a word" };
        assert_eq!(env().required("EMPTY", "a word"), Err(missing));
        assert_eq!(env().or("EMPTY", "d"), "d");
    }

    #[test]
    fn durations_and_urls_are_checked() {
        let default = Duration::from_secs(1);
        assert_eq!(env().duration_ms("MS", default), Ok(Duration::from_millis(1500)));
        assert_eq!(env().duration_ms("NONE", default), Ok(default));
        assert!(env().duration_ms("ZERO", default).is_err());
        assert!(env().url("WORD", None).is_err());
        assert_eq!(env().url("BASE", None).map(String::from), Ok("http://localhost:1/x".to_owned()));
    }

    #[test]
    fn neither_errors_nor_debug_output_show_values() {
        let error = env().duration_ms("WORD", Duration::ZERO).unwrap_err();
        assert!(error.to_string().starts_with("WORD is malformed"));
        assert!(!format!("{error:?} {error} {:?}", env()).contains("hunter2"));
    }
}
