//! Which model is called: the one that was named or is the agent's own, unless it has ended, is unknown to its provider, or has no price.

use std::{cmp::Ordering, collections::BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::{Charge, Usage};
use crate::{
    db::Tx,
    store::{
        StoreError,
        models::{self, Model},
    },
};

/// How long a model goes after others once its provider did not know it.
pub const MISSED_FOR: TimeDelta = TimeDelta::hours(1);

/// The models of one agent, as they are set now. They are read with the work that they are for: a row that is changed counts from the
/// next job or request on.
#[derive(Debug, Clone)]
pub struct Models {
    models: Vec<Model>,
    now: DateTime<Utc>,
}

/// The models that may be called for a purpose, in the order in which they are taken.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The first is called. Each of the others follows where the provider does not know the one before it. Each has a price.
    pub models: Vec<Model>,
    /// Why the first is not the one that was wanted: `model_retired`, `provider_model_unknown`, `model_price_unknown` or
    /// `model_disabled`.
    pub instead: Option<&'static str>,
    now: DateTime<Utc>,
}

impl Choice {
    /// The one that is called first. `None` if there is no model with a price.
    #[must_use]
    pub fn first(&self) -> Option<&Model> {
        self.models.first()
    }

    /// The one for when `spent` has no quota, or no room under a limit. `None` if there is no other.
    #[must_use]
    pub fn cheaper(&self, spent: &Model) -> Option<&Model> {
        let there = |model: &Model| !is_retired(model, self.now) && !is_missed(model, self.now);
        self.models.iter().find(|model| model.role == "cheaper" && model.model != spent.model && there(model))
    }
}

impl Models {
    /// Reads the models of `agent`, in one round trip.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn read(tx: &mut Tx, agent: &str, now: DateTime<Utc>) -> Result<Self, StoreError> {
        Ok(Self { models: models::list(tx, agent, now).await?, now })
    }

    /// The ids of the models for a purpose, the default first.
    #[must_use]
    pub fn names(&self, purpose: &str) -> Vec<&str> {
        let mut found: Vec<&Model> = self.models.iter().filter(|model| model.purpose == purpose).collect();
        found.sort_by_key(|model| (rank(model), model.model.as_str()));
        let mut names: Vec<&str> = found.into_iter().map(|model| model.model.as_str()).collect();
        // Names come in order of their roles, so that the same one may stand apart from itself.
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(*name));
        names
    }

    /// The models for a purpose that have a price for what each is `expected` to use: first those that are there, then those that have
    /// ended, then those that the provider did not know within the hour; among them the one that is `named`, or else by their roles.
    pub fn choose(&self, purpose: &str, named: Option<&str>, expected: impl Fn(&Model) -> Usage) -> Choice {
        let mut priced: Vec<(&Model, i64)> = self
            .models
            .iter()
            .filter(|model| model.purpose == purpose)
            .filter_map(|model| Some((model, Charge::reserved(&expected(model), &model.prices).ok()?.cost_micro_usd)))
            .collect();
        priced.sort_by(|(one, its), (other, others)| self.order(named, one, other).then(its.cmp(others)));
        let mut models: Vec<Model> = Vec::new();
        for (model, _) in priced {
            // One model may have two roles.
            if !models.iter().any(|other| other.model == model.model) {
                models.push(model.clone());
            }
        }
        let instead = self.instead(purpose, named, models.first());
        Choice { models, instead, now: self.now }
    }

    fn order(&self, named: Option<&str>, one: &Model, other: &Model) -> Ordering {
        let key = |model: &Model| {
            let is_named = named.is_some_and(|named| named == model.model);
            (is_missed(model, self.now), is_retired(model, self.now), !is_named, rank(model))
        };
        key(one).cmp(&key(other))
    }

    fn instead(&self, purpose: &str, named: Option<&str>, first: Option<&Model>) -> Option<&'static str> {
        let mut of_purpose = self.models.iter().filter(|model| model.purpose == purpose);
        let wanted = match named {
            Some(named) => of_purpose.find(|model| model.model == named),
            None => of_purpose.find(|model| model.role == "default"),
        };
        match (wanted, first) {
            (Some(wanted), Some(first)) if wanted.model == first.model => None,
            (Some(wanted), _) if is_missed(wanted, self.now) => Some("provider_model_unknown"),
            (Some(wanted), _) if is_retired(wanted, self.now) => Some("model_retired"),
            (Some(_), _) => Some("model_price_unknown"),
            (None, _) => Some("model_disabled"),
        }
    }
}

/// From the moment of its end on.
fn is_retired(model: &Model, now: DateTime<Utc>) -> bool {
    model.retires_at.is_some_and(|end| end <= now)
}

/// The provider did not know it, less than [`MISSED_FOR`] ago.
fn is_missed(model: &Model, now: DateTime<Utc>) -> bool {
    model.missed_at.is_some_and(|missed| now - missed < MISSED_FOR)
}

fn rank(model: &Model) -> u8 {
    match model.role.as_str() {
        "default" => 0,
        "cheaper" => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::models::ModelPrice;

    const STEP: TimeDelta = TimeDelta::microseconds(1);

    fn now() -> DateTime<Utc> {
        "2027-05-01T12:00:00Z".parse().unwrap()
    }

    fn model(name: &str, role: &str) -> Model {
        let price = ModelPrice { unit: "input".to_owned(), tier: 0, micro_usd_per_million: 1_000_000 };
        Model {
            purpose: "p".to_owned(),
            role: role.to_owned(),
            provider: "gemini".to_owned(),
            model: name.to_owned(),
            retires_at: None,
            missed_at: None,
            thinks: true,
            picture_tokens: None,
            image_size: None,
            prices: vec![price],
        }
    }

    /// `dear` by default, `cheap` as the cheaper one, and two more, with one of them changed.
    fn models(changed: &str, change: impl Fn(&mut Model)) -> Models {
        let mut models =
            vec![model("other", "spare"), model("cheap", "cheaper"), model("dear", "default"), model("best", "spare")];
        models.iter_mut().filter(|model| model.model == changed).for_each(change);
        Models { models, now: now() }
    }

    fn order(models: &Models, named: Option<&str>) -> (Vec<String>, Option<&'static str>) {
        let choice = models.choose("p", named, |_| Usage { input: 1, ..Usage::default() });
        (choice.models.into_iter().map(|model| model.model).collect(), choice.instead)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_was_named_comes_first_then_the_default_the_cheaper_one_and_the_others() {
        let all = models("", |_| {});
        assert_eq!(order(&all, None), (names(&["dear", "cheap", "other", "best"]), None));
        assert_eq!(order(&all, Some("best")), (names(&["best", "dear", "cheap", "other"]), None));
        assert_eq!(order(&all, Some("none")).1, Some("model_disabled"));
        assert_eq!(all.names("p"), ["dear", "cheap", "best", "other"]);
        assert_eq!(order(&Models { models: Vec::new(), now: now() }, None), (Vec::new(), Some("model_disabled")));
    }

    #[test]
    fn a_model_has_ended_from_the_moment_of_its_end_on_and_is_taken_if_there_is_no_other() {
        let ends = |end| models("dear", |model| model.retires_at = Some(end));
        assert_eq!(order(&ends(now() + STEP), None), (names(&["dear", "cheap", "other", "best"]), None));
        for end in [now(), now() - STEP] {
            let ended = (names(&["cheap", "other", "best", "dear"]), Some("model_retired"));
            assert_eq!(order(&ends(end), None), ended);
            assert_eq!(order(&ends(end), Some("dear")), ended);
        }
        let alone = Models { models: vec![Model { retires_at: Some(now()), ..model("dear", "default") }], now: now() };
        assert_eq!(order(&alone, None), (names(&["dear"]), None));
    }

    #[test]
    fn a_model_that_its_provider_did_not_know_goes_last_for_an_hour() {
        let missed = |at| models("dear", |model| model.missed_at = Some(at));
        let last = (names(&["cheap", "other", "best", "dear"]), Some("provider_model_unknown"));
        assert_eq!(order(&missed(now()), None), last);
        assert_eq!(order(&missed(now() - MISSED_FOR + STEP), None), last);
        assert_eq!(order(&missed(now() - MISSED_FOR), None).1, None);
        // One that has ended may be there all the same, and this one was not a moment ago.
        let mut both = missed(now());
        both.models[1].retires_at = Some(now());
        assert_eq!(order(&both, None).0, names(&["other", "best", "cheap", "dear"]));
    }

    #[test]
    fn a_model_without_a_price_is_no_choice_and_never_free() {
        let unpriced = models("dear", |model| model.prices.clear());
        assert_eq!(order(&unpriced, None), (names(&["cheap", "other", "best"]), Some("model_price_unknown")));
        let unit = models("dear", |model| model.prices[0].unit = "output".to_owned());
        assert_eq!(order(&unit, Some("dear")).0, names(&["cheap", "other", "best"]));
        let none = Models { models: vec![Model { prices: Vec::new(), ..model("dear", "default") }], now: now() };
        assert_eq!(order(&none, None), (Vec::new(), Some("model_price_unknown")));
    }

    #[test]
    fn the_cheaper_model_is_another_one_that_is_there() {
        let cheaper = |models: &Models, named: Option<&str>| {
            let choice = models.choose("p", named, |_| Usage { input: 1, ..Usage::default() });
            choice.cheaper(choice.first().unwrap()).map(|model| model.model.clone())
        };
        assert_eq!(cheaper(&models("", |_| {}), None).as_deref(), Some("cheap"));
        assert_eq!(cheaper(&models("", |_| {}), Some("best")).as_deref(), Some("cheap"));
        assert_eq!(cheaper(&models("", |_| {}), Some("cheap")), None);
        assert_eq!(cheaper(&models("cheap", |model| model.retires_at = Some(now())), None), None);
        assert_eq!(cheaper(&models("cheap", |model| model.missed_at = Some(now())), None), None);
        // Both roles, one model.
        assert_eq!(cheaper(&models("cheap", |model| model.model = "dear".to_owned()), None), None);
    }
}
