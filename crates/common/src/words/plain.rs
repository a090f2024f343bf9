//! What serde says of a request, in words for somebody who knows JSON and HTTP, and not Rust.

use super::{fill, parts};
use crate::id;

/// A value that is told to its sender is cut after so many characters.
const SHOWN_MAX: usize = 40;

const TIME: &str = "a time such as 2026-01-01T00:00:00Z";

/// Of numbers and the like that are written as text, and of whole texts. `{}` stands for what is left out.
const OF_VALUES: &[(&str, &str)] = &[
    ("invalid digit found in string", "must be a whole number"),
    ("cannot parse integer from empty string", "must be a whole number"),
    ("can not parse {} to a {}", "must be a whole number"),
    ("number too large to fit in target type", "must be a smaller number"),
    ("number too small to fit in target type", "must be a larger number"),
    ("provided string was not `true` or `false`", "must be true or false"),
];

/// chrono's, of a text that is no time.
const NO_TIME: [&str; 6] = [
    "input contains invalid characters",
    "input is not enough for unique date and time",
    "input is out of range",
    "no possible date and time matching input",
    "premature end of input",
    "trailing input",
];

/// serde_json's, of a text that is no JSON.
const OF_JSON: &[(&str, &str)] = &[
    ("expected ident", "true, false or null is expected"),
    ("expected value", "a value is expected"),
    ("expected {}", "{} is expected"),
    ("EOF while parsing {}", "it ends within {}"),
    ("key must be a string", "a name in double quotes is expected"),
    ("trailing comma", "there is a comma too many"),
    ("trailing characters", "there is more text after the object"),
    ("invalid number", "a number is misspelt"),
    ("number out of range", "a number is too large"),
    ("invalid escape", "a backslash is followed by a letter that means nothing"),
    ("control character {}", "a text has a line break or another control character, which must be escaped"),
    ("lone leading surrogate {}", "half a character is escaped"),
    ("unexpected end of hex escape", "half a character is escaped"),
    ("invalid unicode code point", "a text is not UTF-8"),
    ("recursion limit exceeded", "its objects and lists are nested too deeply"),
];

/// Of what cannot be read as JSON.
pub fn of_json(cause: &str) -> String {
    told(OF_JSON, cause).unwrap_or_else(|| cause.to_owned())
}

/// Of a parameter behind the path.
pub fn of_parameter(cause: &str) -> String {
    const TAKES: [&str; 2] = ["unknown field `{}`, expected one of {}", "unknown field `{}`, expected {}"];
    if let Some([name, known]) = TAKES.iter().find_map(|template| two(template, cause)) {
        return format!("unknown parameter `{}`; this request takes {}", shortened(name), known.replace(" or ", ", "));
    }
    const OF_NAMES: &[(&str, &str)] = &[
        ("unknown field `{}`, there are no fields", "unknown parameter `{}`; this request has no parameters"),
        ("missing field `{}`", "missing parameter `{}`"),
        ("duplicate field `{}`", "parameter `{}` is sent twice"),
    ];
    told(OF_NAMES, cause).unwrap_or_else(|| of_value(cause))
}

/// Of the value of a member, a parameter, or a part of a path.
pub fn of_value(cause: &str) -> String {
    if let Some([found, expected]) = two("invalid type: {}, expected {}", cause) {
        return format!("must be {}, not {}", kind(expected), value(found));
    }
    if let Some([found, expected]) = two("invalid value: {}, expected {}", cause) {
        let expected = range(expected).unwrap_or_else(|| kind(expected).to_owned());
        return format!("must be {expected}, not {}", value(found));
    }
    const CHOICES: [&str; 2] = ["unknown variant `{}`, expected one of {}", "unknown variant `{}`, expected {}"];
    if let Some([found, known]) = CHOICES.iter().find_map(|template| two(template, cause)) {
        return format!("must be one of {}, not `{}`", known.replace(" or ", ", "), shortened(found));
    }
    if cause.starts_with("UUID parsing failed") {
        return format!("must be a UUID with hyphens, such as {}", id::EXAMPLE);
    }
    if NO_TIME.contains(&cause) {
        return format!("must be {TIME}");
    }
    told(OF_VALUES, cause).unwrap_or_else(|| cause.to_owned())
}

/// What serde wants, as JSON names it.
fn kind(expected: &str) -> &str {
    match expected {
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a JSON object",
        "string or map" | "a borrowed string" => "a string",
        "an RFC 3339 formatted date and time string" => TIME,
        other => other,
    }
}

/// The range of a type of Rust's.
fn range(expected: &str) -> Option<String> {
    let (min, max) = match expected {
        "i8" => (i128::from(i8::MIN), i128::from(i8::MAX)),
        "i16" => (i128::from(i16::MIN), i128::from(i16::MAX)),
        "i32" => (i128::from(i32::MIN), i128::from(i32::MAX)),
        "i64" => (i128::from(i64::MIN), i128::from(i64::MAX)),
        "u8" => (0, i128::from(u8::MAX)),
        "u16" => (0, i128::from(u16::MAX)),
        "u32" => (0, i128::from(u32::MAX)),
        "u64" => (0, i128::from(u64::MAX)),
        _ => return None,
    };
    Some(format!("a whole number from {min} to {max}"))
}

/// What serde has found, as it stands in JSON.
fn value(found: &str) -> String {
    match found {
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        "unit value" | "Option value" => "null".to_owned(),
        _ => match found.strip_prefix("string ") {
            Some(text) => shortened(text),
            None => shortened(found.split('`').nth(1).unwrap_or(found)),
        },
    }
}

/// A quote that is cut keeps its end.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) if text.starts_with('"') => format!("{}…\"", &text[..end]),
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn two<'t>(template: &str, text: &'t str) -> Option<[&'t str; 2]> {
    parts(template, text)?.try_into().ok()
}

fn told(texts: &[(&str, &str)], cause: &str) -> Option<String> {
    texts.iter().find_map(|(serde, plain)| Some(fill(plain, &parts(serde, cause)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_to_know_rust_to_understand_what_is_wrong() {
        for (cause, plain) in [
            ("invalid type: string \"x\", expected i64", "must be a whole number, not \"x\""),
            ("invalid type: floating point `1.5`, expected u32", "must be a whole number, not 1.5"),
            ("invalid type: null, expected a string", "must be a string, not null"),
            ("invalid type: map, expected a sequence", "must be a list, not an object"),
            ("invalid value: integer `-1`, expected u32", "must be a whole number from 0 to 4294967295, not -1"),
            ("unknown variant `USD`, expected `KRW`", "must be one of `KRW`, not `USD`"),
            ("unknown variant `x`, expected `a` or `b`", "must be one of `a`, `b`, not `x`"),
            (
                "UUID parsing failed: invalid length: found 1",
                "must be a UUID with hyphens, such as 01936f2e-52f0-7a41-9d0c-5b8f0c2d4e66",
            ),
            ("premature end of input", "must be a time such as 2026-01-01T00:00:00Z"),
            ("can not parse \"x\" to a i64", "must be a whole number"),
            ("missing field `size`", "missing field `size`"),
        ] {
            assert_eq!(of_value(cause), plain, "{cause}");
        }
        let long = format!("invalid type: string \"{}\", expected i64", "x".repeat(5000));
        assert_eq!(of_value(&long), format!("must be a whole number, not \"{}…\"", "x".repeat(SHOWN_MAX - 1)));
        assert_eq!(of_json("EOF while parsing an object"), "it ends within an object");
        assert_eq!(of_json("expected `,` or `}`"), "`,` or `}` is expected");
    }
}
