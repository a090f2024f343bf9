//! What a script of a room answers: a list of words.

use common::{Error, Result};

pub struct Words(pub Vec<String>);

impl Words {
    pub fn word(&self, place: usize) -> Result<&str> {
        let word = self.0.get(place).map(String::as_str);
        word.ok_or_else(|| Error::fault(anyhow::anyhow!("a script of the room answered {:?}", self.0)))
    }

    pub fn number(&self, place: usize) -> Result<i64> {
        self.word(place)?.parse().map_err(Error::fault)
    }
}
