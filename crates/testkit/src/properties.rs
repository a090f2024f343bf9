//! How many cases a property test tries: few and always the same in the quick tier, many and random ones in the soak.

use proptest::test_runner::{Config, RngSeed};

/// For the quick tier.
pub fn quick(cases: u32) -> Config {
    Config { cases, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..Config::default() }
}

/// For the soak. A failing test prints the smallest case that it has found.
pub fn soak(cases: u32) -> Config {
    Config { cases, rng_seed: RngSeed::Random, failure_persistence: None, ..Config::default() }
}
