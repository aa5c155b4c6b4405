//! Choices at random, which a printed seed repeats.

use std::io::Write as _;

use anyhow::{Context, Result};

/// The seed of the environment, or another one each time. It is printed.
pub fn seed() -> Result<u64> {
    let seed: u64 = match std::env::var("TROVE_SEED") {
        Ok(text) => text.parse().context("TROVE_SEED")?,
        Err(_) => rand::random(),
    };
    writeln!(std::io::stdout(), "seed {seed}; the same again with TROVE_SEED={seed}")?;
    Ok(seed)
}

/// A small random generator. Its only state is the seed.
pub struct SplitMix(pub u64);

impl SplitMix {
    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// One of these.
    ///
    /// # Errors
    /// There is none.
    pub fn one_of<T: Clone>(&mut self, all: &[T]) -> Result<T> {
        let n = usize::try_from(self.number() % (all.len().max(1) as u64))?;
        all.get(n).cloned().context("nothing to choose from")
    }
}
