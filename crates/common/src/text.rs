//! `Text<MIN, MAX>`: text from outside that is safe to store and to show.

use std::borrow::Cow;
use std::fmt;

use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The text in which composed and decomposed letters are the same bytes (NFC).
pub fn nfc(text: &str) -> Cow<'_, str> {
    ComposingNormalizerBorrowed::new_nfc().normalize(text)
}

/// The text in which also letters of other widths and forms are the same (NFKC): what people type again and again, such as
/// an address and a password (NIST SP 800-63B, section 3.1.1.2).
pub fn nfkc(text: &str) -> Cow<'_, str> {
    ComposingNormalizerBorrowed::new_nfkc().normalize(text)
}

/// Whether nobody can see `c`, or it moves what others see: control and format characters, those that turn the direction
/// of writing, fillers and separators of lines.
pub fn is_invisible(c: char) -> bool {
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
        || matches!(
            category,
            GeneralCategory::Control
                | GeneralCategory::Format
                | GeneralCategory::LineSeparator
                | GeneralCategory::ParagraphSeparator
                | GeneralCategory::PrivateUse
                | GeneralCategory::Unassigned
        )
}

/// Joiners and variation selectors: invisible, and part of letters of some languages and of emoji.
fn is_part_of_a_letter(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}')
}

/// Between `MIN` and `MAX` characters in NFC, trimmed, without characters that nobody can see.
///
/// PostgreSQL refuses NUL in text with an error that would become a 500, and line breaks in names forge log lines and
/// mail headers; both are stopped where the text comes in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Text<const MIN: usize, const MAX: usize>(String);

impl<const MIN: usize, const MAX: usize> Text<MIN, MAX> {
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = nfc(text);
        let text = text.trim();
        if text.chars().any(char::is_control) {
            return Err("must not contain control characters".to_owned());
        }
        if text.chars().any(|c| is_invisible(c) && !is_part_of_a_letter(c))
            || (!text.is_empty() && text.chars().all(is_invisible))
        {
            return Err("must not contain invisible characters".to_owned());
        }
        let length = text.chars().take(MAX + 1).count();
        if length < MIN || length > MAX {
            return Err(format!("must be {MIN} to {MAX} characters long"));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

impl<const MIN: usize, const MAX: usize> fmt::Display for Text<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<const MIN: usize, const MAX: usize> Serialize for Text<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for Text<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl<const MIN: usize, const MAX: usize> utoipa::PartialSchema for Text<MIN, MAX> {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, Type};
        ObjectBuilder::new().schema_type(Type::String).min_length(Some(MIN)).max_length(Some(MAX)).into()
    }
}

impl<const MIN: usize, const MAX: usize> utoipa::ToSchema for Text<MIN, MAX> {
    /// Each with its own bounds.
    fn name() -> Cow<'static, str> {
        format!("Text{MIN}To{MAX}").into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_counted_in_characters_after_trimming() {
        assert_eq!(Text::<1, 3>::parse(" 무선이 ").unwrap().as_str(), "무선이");
        for bad in ["", "   ", "abcd", "a\0b", "a\nb", "\u{7f}"] {
            assert!(Text::<1, 3>::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_letter_is_one_text_however_it_is_composed() {
        let decomposed = "\u{1112}\u{1161}\u{11ab}\u{110c}\u{1165}\u{11bc}\u{1111}\u{1161}\u{11ab}";
        assert_eq!(Text::<1, 3>::parse(decomposed).unwrap().as_str(), "한정판");
        assert_eq!(nfkc("ａｎｎ＠ｅｘａｍｐｌｅ.com"), "ann@example.com");
    }

    #[test]
    fn what_nobody_can_see_is_refused() {
        for bad in
            ["\u{200b}", "a\u{202e}b", "a\u{feff}", "\u{3164}", "a\u{2066}b", "a\u{2028}b", "\u{200d}", "a\u{ad}b"]
        {
            assert!(Text::<1, 100>::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["👩\u{200d}👧", "❤\u{fe0f}", "نامه\u{200c}ای", "Café 한정판 №1"] {
            Text::<1, 100>::parse(good).unwrap_or_else(|why| panic!("{good:?} {why}"));
        }
    }
}
