//! Words for clients in their language: the texts that tell what is wrong with a request, in Korean.
//!
//! A refusal carries its English text. What has no line here is told in general words: its field and its code say the rest.

/// English and Korean. `{}` stands for what differs, in the same order in both.
const TEXTS: &[(&str, &str)] = &[
    // --- serde's
    ("missing field `{}`", "필수 항목 `{}`이(가) 없습니다."),
    ("duplicate field `{}`", "항목 `{}`이(가) 두 번 있습니다."),
    ("unknown field `{}`, expected one of {}", "알 수 없는 항목 `{}`입니다. 사용할 수 있는 항목: {}"),
    ("unknown field `{}`, expected {}", "알 수 없는 항목 `{}`입니다. 사용할 수 있는 항목: {}"),
    ("unknown field `{}`, there are no fields", "알 수 없는 항목 `{}`입니다."),
    ("unknown variant `{}`, expected one of {}", "`{}`은(는) 사용할 수 없는 값입니다. 사용할 수 있는 값: {}"),
    ("unknown variant `{}`, expected {}", "`{}`은(는) 사용할 수 없는 값입니다. 사용할 수 있는 값: {}"),
    ("invalid type: {}, expected a string", "{} 대신 문자열이어야 합니다."),
    ("invalid type: {}, expected a JSON object", "{} 대신 JSON 객체여야 합니다."),
    ("invalid type: {}, expected a sequence", "{} 대신 목록이어야 합니다."),
    ("invalid type: {}, expected a boolean", "{} 대신 true 또는 false여야 합니다."),
    ("invalid type: {}, expected {}", "형식이 올바르지 않습니다. 받은 값: {}, 필요한 형식: {}"),
    ("invalid value: {}, expected {}", "값이 올바르지 않습니다. 받은 값: {}, 필요한 값: {}"),
    ("invalid digit found in string", "숫자여야 합니다."),
    ("number too large to fit in target type", "숫자가 너무 큽니다."),
    ("number too small to fit in target type", "숫자가 너무 작습니다."),
    ("cannot parse integer from empty string", "숫자여야 합니다."),
    ("EOF while parsing {}", "JSON이 중간에 끝났습니다."),
    ("expected {} at line {}", "올바른 JSON이 아닙니다."),
    ("trailing characters at line {}", "JSON 뒤에 다른 내용이 있습니다."),
    // --- ours
    ("not a valid {} id", "올바른 ID(UUID)가 아닙니다."),
    ("Topics are {}.", "사용할 수 있는 토픽은 다음과 같습니다: {}"),
    ("Not a cursor of this list.", "이 목록의 커서가 아닙니다."),
    ("Not a time of this world.", "사용할 수 없는 시각입니다."),
    ("must be {} to {} characters long", "{}자에서 {}자 사이여야 합니다."),
    ("must be at most {} characters long", "최대 {}자까지 가능합니다."),
    ("must be 1 to {} visible ASCII characters", "1자에서 {}자 사이의 ASCII 문자여야 합니다."),
    ("must be {} to {} products", "상품은 {}개에서 {}개 사이여야 합니다."),
    ("must be {} to {}, and not 0", "{}에서 {} 사이의 0이 아닌 값이어야 합니다."),
    ("must be {} to {}", "{}에서 {} 사이여야 합니다."),
    ("must be at least {}, or null for no limit", "{} 이상이거나 null이어야 합니다."),
    ("must not contain invisible characters", "보이지 않는 문자를 포함할 수 없습니다."),
    ("must not contain control characters", "제어 문자를 포함할 수 없습니다."),
    ("must not contain {}", "허용되지 않는 문자가 있습니다."),
    ("must be an e-mail address", "이메일 주소여야 합니다."),
    ("must be sent once", "한 번만 보내야 합니다."),
    ("must be after {}", "{} 이후여야 합니다."),
    ("must be before {}", "{} 이전이어야 합니다."),
    ("An order has {} to {} lines.", "주문에는 {}개에서 {}개의 항목이 있어야 합니다."),
    ("One line for each product; add up the quantities.", "상품마다 한 줄이어야 합니다. 수량을 합치세요."),
    ("Send the ETag of {} as you read it.", "읽은 ETag를 그대로 보내세요."),
    ("The body is larger than {} bytes.", "본문이 {}바이트보다 큽니다."),
    ("The body cannot be read.", "본문을 읽을 수 없습니다."),
    ("The body begins with a byte order mark; send it without.", "본문이 BOM으로 시작합니다. BOM 없이 보내세요."),
    ("The request cannot be read.", "요청을 읽을 수 없습니다."),
    ("Send the body as application/json.", "본문은 application/json으로 보내세요."),
    (
        "Send the body as it is; Content-Encoding {} is not supported.",
        "본문을 압축하지 말고 보내세요. Content-Encoding {}은(는) 지원하지 않습니다.",
    ),
    ("This origin may not call from a browser.", "이 출처에서는 브라우저로 호출할 수 없습니다."),
];

/// What a Korean reader is told in place of `message`, which is about `field`.
pub fn in_korean(field: &str, message: &str) -> String {
    // Some texts begin with the field's name, which is told beside them.
    let bare = message.strip_prefix(field).map(str::trim_start).unwrap_or(message);
    let found = TEXTS.iter().find_map(|(english, korean)| Some(fill(korean, &parts(english, bare)?)));
    found.unwrap_or_else(|| "허용되지 않는 값입니다.".to_owned())
}

/// The name in serde's text about something that is missing.
pub fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

/// Without the line and column that serde_json adds to what is well-formed and wrong: a field says where it is.
pub fn without_position(message: &str) -> &str {
    let is_about_form = ["expected", "EOF", "trailing", "control character", "invalid number", "lone", "key must"];
    match message.rsplit_once(" at line ") {
        Some((text, _)) if !is_about_form.iter().any(|begin| message.starts_with(begin)) => text,
        _ => message,
    }
}

/// What stands in `text` where `template` has `{}`; None if it is another text. Case and a full stop make no difference.
fn parts<'t>(template: &str, text: &'t str) -> Option<Vec<&'t str>> {
    let (template, mut rest) = (template.trim_end_matches('.'), text.trim_end_matches('.'));
    let mut literals = template.split("{}");
    let first = literals.next().unwrap_or_default();
    let begin = rest.get(..first.len())?;
    if !begin.eq_ignore_ascii_case(first) {
        return None;
    }
    rest = &rest[first.len()..];
    let mut found = Vec::new();
    let mut literals = literals.peekable();
    while let Some(literal) = literals.next() {
        let at = if literal.is_empty() && literals.peek().is_none() { rest.len() } else { rest.find(literal)? };
        found.push(&rest[..at]);
        rest = &rest[at + literal.len()..];
    }
    rest.is_empty().then_some(found)
}

fn fill(template: &str, parts: &[&str]) -> String {
    let mut parts = parts.iter();
    let mut literals = template.split("{}");
    let mut text = literals.next().unwrap_or_default().to_owned();
    for literal in literals {
        text.push_str(parts.next().copied().unwrap_or_default());
        text.push_str(literal);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_told_in_korean_with_what_it_names() {
        for (field, english, korean) in [
            ("password", "password must be 8 to 128 characters long", "8자에서 128자 사이여야 합니다."),
            ("limit", "Must be 1 to 100.", "1에서 100 사이여야 합니다."),
            ("limit", "limit is odd", "허용되지 않는 값입니다."),
            ("name", "missing field `name`", "필수 항목 `name`이(가) 없습니다."),
            (
                "sort",
                "unknown variant `x`, expected one of `newest`, `name`",
                "`x`은(는) 사용할 수 없는 값입니다. 사용할 수 있는 값: `newest`, `name`",
            ),
            ("name", "invalid type: integer `7`, expected a string", "integer `7` 대신 문자열이어야 합니다."),
            ("", "EOF while parsing an object at line 1 column 3", "JSON이 중간에 끝났습니다."),
        ] {
            assert_eq!(in_korean(field, english), korean, "{english}");
        }
    }

    #[test]
    fn every_korean_text_names_no_more_than_its_english_one() {
        for (english, korean) in TEXTS {
            assert!(korean.matches("{}").count() <= english.matches("{}").count(), "{korean}");
        }
    }

    #[test]
    fn only_what_has_a_field_loses_its_position() {
        assert_eq!(without_position("missing field `a` at line 1 column 2"), "missing field `a`");
        assert_eq!(without_position("expected value at line 1 column 1"), "expected value at line 1 column 1");
    }
}
