//! The opaque cursor of lists that run from the newest to the oldest.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike, Utc};
use uuid::Uuid;

use crate::error::Refused;

/// The last row of a page: its time and, because times may be equal, its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub at: DateTime<Utc>,
    pub id: Uuid,
}

impl Cursor {
    /// Refuses with `VALIDATION_ERROR` what was not made by `Display`.
    pub fn parse(text: &str) -> Result<Cursor, Refused> {
        let invalid = || Refused::invalid("cursor", "Not a cursor of this list.");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
        let (at, id) = bytes.split_first_chunk::<8>().ok_or_else(invalid)?;
        let at = DateTime::from_timestamp_micros(i64::from_be_bytes(*at)).filter(is_storable).ok_or_else(invalid)?;
        Ok(Cursor { at, id: Uuid::from_slice(id).map_err(|_| invalid())? })
    }
}

/// Whether a time from outside is one that our rows can have: PostgreSQL's calendar begins and ends earlier than chrono's.
pub fn is_storable(at: &DateTime<Utc>) -> bool {
    (1..=9999).contains(&at.year())
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.at.timestamp_micros().to_be_bytes().to_vec();
        bytes.extend_from_slice(self.id.as_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_the_way_to_the_client_and_back() {
        let cursor = Cursor { at: DateTime::from_timestamp_micros(1_763_712_000_123_456).unwrap(), id: Uuid::now_v7() };
        assert_eq!(Cursor::parse(&cursor.to_string()).unwrap(), cursor);
        for garbage in ["", "a", "AAAAAAAA", "!!!", &"A".repeat(500), &URL_SAFE_NO_PAD.encode([0xfe; 24])] {
            assert!(Cursor::parse(garbage).is_err(), "{garbage}");
        }
    }
}
