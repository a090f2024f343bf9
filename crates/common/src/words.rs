//! Words for clients in their language: the texts that tell what is wrong with a request, in Korean.
//!
//! A refusal carries its English text. What has no line here is told in general words: its field and its code say the rest.

mod plain;

pub use plain::{of_json, of_parameter, of_value};

/// English and Korean. `{}` stands for what differs, in the same order in both.
const TEXTS: &[(&str, &str)] = &[
    // --- serde's, after `plain`
    ("missing field `{}`", "필수 항목 `{}`이(가) 없습니다."),
    ("duplicate field `{}`", "항목 `{}`이(가) 두 번 있습니다."),
    ("unknown field `{}`, expected one of {}", "알 수 없는 항목 `{}`입니다. 사용할 수 있는 항목: {}"),
    ("unknown field `{}`, expected {}", "알 수 없는 항목 `{}`입니다. 사용할 수 있는 항목: {}"),
    ("unknown field `{}`, there are no fields", "알 수 없는 항목 `{}`입니다."),
    ("missing parameter `{}`", "필수 매개변수 `{}`이(가) 없습니다."),
    ("parameter `{}` is sent twice", "매개변수 `{}`이(가) 두 번 있습니다."),
    ("unknown parameter `{}`; this request takes {}", "알 수 없는 매개변수 `{}`입니다. 사용할 수 있는 매개변수: {}"),
    ("unknown parameter `{}`; this request has no parameters", "알 수 없는 매개변수 `{}`입니다."),
    ("must be one of {}, not `{}`", "다음 값 중 하나여야 합니다: {}"),
    ("must be a string, not {}", "{} 대신 문자열이어야 합니다."),
    ("must be a JSON object, not {}", "{} 대신 JSON 객체여야 합니다."),
    ("must be a list, not {}", "{} 대신 목록이어야 합니다."),
    ("must be true or false, not {}", "{} 대신 true 또는 false여야 합니다."),
    ("must be true or false", "true 또는 false여야 합니다."),
    ("must be a whole number from {} to {}, not {}", "{}에서 {} 사이의 정수여야 합니다."),
    ("must be a whole number, not {}", "{} 대신 정수여야 합니다."),
    ("must be a whole number", "정수여야 합니다."),
    ("must be a smaller number", "숫자가 너무 큽니다."),
    ("must be a larger number", "숫자가 너무 작습니다."),
    ("must be a time such as {}, not {}", "{} 형식의 시각이어야 합니다."),
    ("must be a time such as {}", "{} 형식의 시각이어야 합니다."),
    ("must be a UUID with hyphens, such as {}", "하이픈이 있는 UUID여야 합니다. 예: {}"),
    ("must be {}, not {}", "형식이 올바르지 않습니다. 필요한 형식: {}, 받은 값: {}"),
    (
        "The body is not valid JSON at line {}, column {}: {}",
        "본문이 올바른 JSON이 아닙니다. {}번째 줄, {}번째 열을 확인하세요.",
    ),
    ("The body is empty; send a JSON object.", "본문이 비어 있습니다. JSON 객체를 보내세요."),
    // --- ours
    ("not a valid {} id; {}", "올바른 ID(UUID)가 아닙니다."),
    ("Topics are {}.", "사용할 수 있는 토픽은 다음과 같습니다: {}"),
    ("Not a cursor of this list.", "이 목록의 커서가 아닙니다."),
    ("must be in the years {} to {}", "{}년에서 {}년 사이여야 합니다."),
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

/// `message` for somebody who is not told beside it that it is about `field`.
pub fn with_field(field: &str, message: &str) -> String {
    if field.is_empty() || message.starts_with(field) || message.contains(&format!("`{field}`")) {
        return message.to_owned();
    }
    match ["must ", "Must "].iter().find_map(|begin| message.strip_prefix(begin)) {
        Some(rule) => format!("{field} must {rule}"),
        None => format!("{field}: {message}"),
    }
}

/// The name in serde's text about something that is missing.
pub fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
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
            ("sort", "must be one of `newest`, `name`, not `x`", "다음 값 중 하나여야 합니다: `newest`, `name`"),
            ("name", "must be a string, not 7", "7 대신 문자열이어야 합니다."),
            ("quantity", "must be a whole number from 0 to 255, not 256", "0에서 255 사이의 정수여야 합니다."),
            ("quantity", "must be 1 to 9", "1에서 9 사이여야 합니다."),
            (
                "",
                "The body is not valid JSON at line 2, column 3: a value is expected.",
                "본문이 올바른 JSON이 아닙니다. 2번째 줄, 3번째 열을 확인하세요.",
            ),
        ] {
            assert_eq!(in_korean(field, english), korean, "{english}");
        }
    }

    #[test]
    fn a_message_that_stands_alone_names_its_field_once() {
        for (field, message, alone) in [
            ("limit", "Must be 1 to 100.", "limit must be 1 to 100."),
            ("items[0].quantity", "must be 1 to 9", "items[0].quantity must be 1 to 9"),
            ("cursor", "Not a cursor of this list.", "cursor: Not a cursor of this list."),
            ("password", "password must be 8 to 128 characters long", "password must be 8 to 128 characters long"),
            (
                "q",
                "unknown parameter `q`; this request takes `size`",
                "unknown parameter `q`; this request takes `size`",
            ),
            ("", "The body cannot be read.", "The body cannot be read."),
        ] {
            assert_eq!(with_field(field, message), alone);
        }
    }

    #[test]
    fn every_korean_text_names_no_more_than_its_english_one() {
        for (english, korean) in TEXTS {
            assert!(korean.matches("{}").count() <= english.matches("{}").count(), "{korean}");
        }
    }
}
