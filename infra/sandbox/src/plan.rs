//! Which of the coming calls goes wrong, and how.

use std::collections::{BTreeMap, VecDeque};

/// Which calls a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// So many of the next ones that no other fault is for.
    Next(usize),
    /// The one of this number alone, counted from now, beginning with 1.
    Number(usize),
    /// Every one, until told otherwise.
    Every,
}

/// What was arranged for one server.
#[derive(Debug)]
pub(crate) struct Plan<F> {
    seen: usize,
    numbered: BTreeMap<usize, F>,
    next: VecDeque<F>,
    every: Option<F>,
    met: usize,
}

impl<F> Default for Plan<F> {
    fn default() -> Self {
        Self { seen: 0, numbered: BTreeMap::new(), next: VecDeque::new(), every: None, met: 0 }
    }
}

impl<F: Clone> Plan<F> {
    pub(crate) fn arrange(&mut self, fault: F, calls: Calls) {
        match calls {
            Calls::Next(count) => self.next.extend(std::iter::repeat_n(fault, count)),
            Calls::Number(number) => {
                self.numbered.insert(self.seen + number, fault);
            }
            Calls::Every => self.every = Some(fault),
        }
    }

    /// Counts a call, and tells what is to go wrong with it.
    pub(crate) fn meet(&mut self) -> Option<F> {
        self.seen += 1;
        let fault = self.numbered.remove(&self.seen).or_else(|| self.next.pop_front()).or_else(|| self.every.clone());
        self.met += usize::from(fault.is_some());
        fault
    }

    /// How many calls met a fault so far.
    pub(crate) fn met(&self) -> usize {
        self.met
    }

    pub(crate) fn every(&self) -> Option<&F> {
        self.every.as_ref()
    }

    pub(crate) fn clear(&mut self) {
        self.numbered.clear();
        self.next.clear();
        self.every = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbered_call_goes_before_the_next_and_both_before_every() {
        let mut plan = Plan::default();
        plan.meet();
        plan.arrange("every", Calls::Every);
        plan.arrange("next", Calls::Next(2));
        plan.arrange("second", Calls::Number(2));
        let met: Vec<_> = (0..5).map(|_| plan.meet()).collect();
        assert_eq!(met, [Some("next"), Some("second"), Some("next"), Some("every"), Some("every")]);
        plan.clear();
        assert_eq!(plan.meet(), None);
    }
}
