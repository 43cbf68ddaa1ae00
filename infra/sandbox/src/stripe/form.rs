//! Parameters as Stripe takes them: form-encoded, with brackets.

use std::collections::BTreeMap;

use url::form_urlencoded::parse;

use super::{objects::Metadata, refusal::Refusal};

/// The parameters of one request, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Form(pub(super) Vec<(String, String)>);

impl Form {
    pub(super) fn parse(encoded: &[u8]) -> Self {
        Self(parse(encoded).into_owned().collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        // The last one counts; an empty one unsets.
        let found = self.0.iter().rev().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    pub(super) fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| Refusal::required(name))
    }

    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let parsed = self.get(name).map(|value| value.parse().map_err(|_| value));
        parsed.transpose().map_err(|value| Refusal::invalid(name, format!("Invalid integer: {value}")))
    }

    /// `name[]=a&name[]=b`, or numbered.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        let of = |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('[') && rest.ends_with(']'));
        self.0.iter().filter(|(key, _)| of(key)).map(|(_, value)| value.as_str()).collect()
    }

    /// `name[key]=value`, as a map.
    pub(super) fn map(&self, name: &str) -> Metadata {
        let pairs = self.0.iter().filter_map(|(key, value)| {
            let key = key.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')?;
            (!key.contains('[')).then(|| (key.to_owned(), value.clone()))
        });
        pairs.collect::<BTreeMap<_, _>>()
    }

    /// Refuses parameters that are none of these.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        let root = |key: &'_ str| key.split('[').next().unwrap_or_default().to_owned();
        match self.0.iter().map(|(key, _)| root(key)).find(|root| root != "expand" && !known.contains(&root.as_str())) {
            Some(unknown) => Err(Refusal {
                code: Some("parameter_unknown"),
                ..Refusal::invalid(&unknown, format!("Received unknown parameter: {unknown}"))
            }),
            None => Ok(()),
        }
    }
}
