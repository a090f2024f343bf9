//! Pages of lists: how many rows a request asks for, where its page begins, and what the next one begins after.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::error::Refused;

/// How many items a page has at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(i64);

impl Limit {
    /// `asked`, or `default` where the client does not say. Refuses with `VALIDATION_ERROR` what is not in 1 to `max`.
    pub fn parse(asked: Option<i64>, default: i64, max: i64) -> Result<Limit, Refused> {
        let limit = asked.unwrap_or(default);
        if !(1..=max).contains(&limit) {
            return Err(Refused::invalid("limit", format!("Must be 1 to {max}.")));
        }
        Ok(Limit(limit))
    }

    /// What the query is limited to: one row more than the page has, which tells whether there is another page.
    pub fn rows(self) -> i64 {
        self.0 + 1
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Send it as `cursor` to go on; null on the last page.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// The page of `rows`, which a query limited to [`Limit::rows`] returned. `cursor` names the place of a row.
    pub fn new<C: fmt::Display>(mut rows: Vec<T>, limit: Limit, cursor: impl Fn(&T) -> C) -> Page<T> {
        let is_last = rows.len() as i64 <= limit.0;
        rows.truncate(limit.0 as usize);
        let next_cursor = rows.last().filter(|_| !is_last).map(|last| cursor(last).to_string());
        Page { items: rows, next_cursor }
    }

    /// The same page of what `change` makes of each item.
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(change).collect(), next_cursor: self.next_cursor }
    }
}

/// A cursor is not longer, however it is written.
pub const CURSOR_BYTES_MAX: usize = 255;

/// The query parameter `cursor`, as a [`Cursor`] or as the id of a row. Refuses with `VALIDATION_ERROR` what is neither.
pub fn parse_cursor<C: FromStr>(text: Option<&str>) -> Result<Option<C>, Refused> {
    let refused = || Refused::invalid("cursor", "Not a cursor of this list.");
    if text.is_some_and(|text| text.len() > CURSOR_BYTES_MAX) {
        return Err(refused());
    }
    text.map(str::parse).transpose().map_err(|_| refused())
}

/// The place of a row in a list that runs from the newest to the oldest: its time and, because times may be equal, its
/// id. Clients see it as opaque text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub at: DateTime<Utc>,
    pub id: Uuid,
}

/// The text was not made by the `Display` of a [`Cursor`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor")]
pub struct NotACursor;

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Cursor, NotACursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| NotACursor)?;
        let (at, id) = bytes.split_first_chunk::<8>().ok_or(NotACursor)?;
        let at = DateTime::from_timestamp_micros(i64::from_be_bytes(*at)).filter(is_storable).ok_or(NotACursor)?;
        Ok(Cursor { at, id: Uuid::from_slice(id).map_err(|_| NotACursor)? })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.at.timestamp_micros().to_be_bytes().to_vec();
        bytes.extend_from_slice(self.id.as_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// Whether PostgreSQL can store a time that a client sent: its calendar is shorter than chrono's.
pub fn is_storable(at: &DateTime<Utc>) -> bool {
    (1..=9999).contains(&at.year())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_the_way_to_the_client_and_back() {
        let cursor = Cursor { at: DateTime::from_timestamp_micros(1_763_712_000_123_456).unwrap(), id: Uuid::now_v7() };
        assert_eq!(parse_cursor(Some(&cursor.to_string())).unwrap(), Some(cursor));
        assert_eq!(parse_cursor::<Cursor>(None).unwrap(), None);
        for garbage in ["", "a", "AAAAAAAA", "!!!", &"A".repeat(500), &URL_SAFE_NO_PAD.encode([0xfe; 24])] {
            assert!(parse_cursor::<Cursor>(Some(garbage)).is_err(), "{garbage}");
        }
        assert_eq!(parse_cursor::<i64>(Some(&format!("{:0>255}", 7))).unwrap(), Some(7));
        assert!(parse_cursor::<i64>(Some(&format!("{:0>256}", 7))).is_err(), "a number may be long, a cursor may not");
    }

    #[test]
    fn a_page_has_a_next_cursor_unless_it_is_the_last() {
        let limit = Limit::parse(Some(2), 50, 100).unwrap();
        let page = |rows: &[i64]| Page::new(rows.to_vec(), limit, |row| *row).map(|row| row * 10);
        assert_eq!(limit.rows(), 3);
        assert_eq!(page(&[9, 8, 7]), Page { items: vec![90, 80], next_cursor: Some("8".to_owned()) });
        assert_eq!(page(&[7, 6]), Page { items: vec![70, 60], next_cursor: None });
        assert_eq!(page(&[]), Page { items: vec![], next_cursor: None });
    }

    #[test]
    fn a_limit_out_of_bounds_is_refused() {
        assert_eq!(Limit::parse(None, 50, 100).unwrap().rows(), 51);
        assert_eq!(Limit::parse(Some(100), 50, 100).unwrap().rows(), 101);
        for asked in [0, -1, 101, i64::MAX] {
            assert!(Limit::parse(Some(asked), 50, 100).is_err(), "{asked}");
        }
    }
}
