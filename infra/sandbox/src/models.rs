//! Which models a provider serves, as it can be told to retire some.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The models that a provider serves. Every other one is unknown to it.
#[derive(Debug, Clone)]
pub struct Models(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    served: BTreeSet<String>,
    retired: BTreeSet<String>,
}

impl Models {
    pub(crate) fn new(models: &[&str]) -> Self {
        let served = models.iter().map(|model| (*model).to_owned()).collect();
        Self(Arc::new(Mutex::new(State { served, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a model no more. Whether it did.
    pub fn retire(&self, model: &str) -> bool {
        let mut state = self.state();
        let served = state.served.remove(model);
        if served {
            state.retired.insert(model.to_owned());
        }
        served
    }

    /// Serves again what was retired.
    pub fn restore(&self) {
        let mut state = self.state();
        let retired = std::mem::take(&mut state.retired);
        state.served.extend(retired);
    }

    /// What is served, in the order of the ids.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        self.state().served.iter().cloned().collect()
    }

    pub(crate) fn has(&self, model: &str) -> bool {
        self.state().served.contains(model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retired_model_is_not_served_until_it_is_again() {
        let models = Models::new(&["b", "a"]);
        assert!(models.retire("a") && !models.retire("a") && !models.retire("c"));
        assert!(!models.has("a") && models.has("b"));
        models.restore();
        assert_eq!(models.list(), ["a", "b"]);
    }
}
