//! What a script of a room answers: a list of words.

use common::{Error, Result};

pub struct Words(pub Vec<String>);

impl Words {
    pub fn word(&self, place: usize) -> Result<&str> {
        self.0.get(place).map(String::as_str).ok_or_else(|| self.unexpected())
    }

    pub fn number(&self, place: usize) -> Result<i64> {
        self.word(place)?.parse().map_err(Error::fault)
    }

    /// All words from `place` on.
    pub fn numbers_from(&self, place: usize) -> Result<Vec<i64>> {
        (place..self.0.len()).map(|place| self.number(place)).collect()
    }

    pub fn unexpected(&self) -> Error {
        Error::fault(anyhow::anyhow!("a script of the room answered {:?}", self.0))
    }
}
