//! Of tests with more cases than a run has time for, a sample; all of them with `./spine test --full`.

use std::sync::OnceLock;

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

/// Whether every case is gone through.
pub fn full() -> bool {
    std::env::var_os("SPINE_TEST_FULL").is_some()
}

/// What samples are drawn with: `SPINE_TEST_SEED`, else the same each time, so that a run that fails can be repeated.
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| match std::env::var("SPINE_TEST_SEED") {
        Ok(seed) => seed.parse().expect("SPINE_TEST_SEED is a number"),
        Err(_) => 1,
    })
}

/// `count` of `cases`, in their order; all of them in a full run.
pub fn sample<T>(cases: Vec<T>, count: usize) -> Vec<T> {
    if full() || cases.len() <= count {
        return cases;
    }
    let mut chosen: Vec<usize> = (0..cases.len()).collect();
    chosen.shuffle(&mut StdRng::seed_from_u64(seed()));
    chosen.truncate(count);
    let cases = cases.into_iter().enumerate();
    cases.filter(|(place, _)| chosen.contains(place)).map(|(_, case)| case).collect()
}
