//! What is posted: Block Kit blocks, and the same as text for notifications and old clients. It is kept within Slack's
//! limits, so that nothing is refused for its length.

use contract::ids::{DeliveryId, NotificationId};
use serde_json::{Value, json};

/// Of one message.
const BLOCKS_MAX: usize = 50;
/// Of a header.
const HEADER_CHARS_MAX: usize = 150;
/// Of a section.
const SECTION_CHARS_MAX: usize = 3_000;
/// Of all blocks together. Slack does not document this limit; it was seen to refuse a little more than 13,000.
const MESSAGE_CHARS_MAX: usize = 12_000;
/// Of a context with two ids.
const CONTEXT_CHARS_MAX: usize = 120;
/// Of the text; Slack takes ten times as much and advises against it.
const TEXT_CHARS_MAX: usize = 4_000;

/// Notifications in one message: a header, and for each a section and a context.
pub const DIGEST_MAX: usize = (BLOCKS_MAX - 1) / 2;

/// One notification in a message.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    pub notification: NotificationId,
    pub delivery: DeliveryId,
    pub subject: &'a str,
    pub body: &'a str,
    /// The body is mark-up, and whatever is not is escaped already.
    pub is_markup: bool,
}

impl Item<'_> {
    /// The body as mark-up of no more than `chars_max` characters.
    fn body(&self, chars_max: usize) -> String {
        if self.is_markup { cut_markup(self.body.trim_end(), chars_max) } else { escaped(self.body, chars_max) }
    }
}

/// One message for all of `items`, of which there is at least one and at most [`DIGEST_MAX`].
pub fn message(items: &[Item<'_>]) -> Value {
    let (title, text) = match items {
        [item] => {
            let subject = escaped(item.subject, HEADER_CHARS_MAX);
            let text = format!("{subject}\n{}", item.body(TEXT_CHARS_MAX - subject.chars().count() - 1));
            (item.subject.to_owned(), text)
        }
        items => {
            let title = format!("알림 {}건", items.len());
            let text = items.iter().fold(title.clone(), |text, item| format!("{text}\n{}", item.subject));
            (title, escaped(&text, TEXT_CHARS_MAX))
        }
    };
    let share = (MESSAGE_CHARS_MAX - HEADER_CHARS_MAX) / items.len().max(1) - CONTEXT_CHARS_MAX;
    let header = json!({
        "type": "header",
        "text": { "type": "plain_text", "text": escaped(&title, HEADER_CHARS_MAX), "emoji": false },
    });
    let mut blocks = vec![header];
    for item in items {
        let chars_max = share.min(SECTION_CHARS_MAX);
        let section = match items {
            [_] => item.body(chars_max),
            _ => {
                let subject = escaped(item.subject, HEADER_CHARS_MAX.min(chars_max / 2));
                format!("{subject}\n{}", item.body(chars_max - subject.chars().count() - 1))
            }
        };
        blocks.push(json!({ "type": "section", "text": marked(section) }));
        let ids = format!("알림 {} · 전송 {}", item.notification, item.delivery);
        blocks.push(json!({ "type": "context", "elements": [marked(escaped(&ids, CONTEXT_CHARS_MAX))] }));
    }
    json!({ "text": text, "mrkdwn": false, "blocks": blocks })
}

/// Verbatim: names of channels and addresses in it do not become links.
fn marked(text: String) -> Value {
    json!({ "type": "mrkdwn", "text": text, "verbatim": true })
}

/// What a text is cut with.
const CUT: char = '…';

/// `markup`, cut where it would be longer than `chars_max`, and never within a link, a mention or an entity.
fn cut_markup(markup: &str, chars_max: usize) -> String {
    let (mut end, mut closed_by) = (0, None);
    for (chars, (at, c)) in markup.char_indices().enumerate() {
        if chars == chars_max {
            return format!("{}{CUT}", &markup[..end]);
        }
        closed_by = match (closed_by, c) {
            (None, '<') => Some('>'),
            (None, '&') => Some(';'),
            (Some(closing), c) if c == closing => None,
            (open, _) => open,
        };
        if closed_by.is_none() && chars + 1 < chars_max {
            end = at + c.len_utf8();
        }
    }
    markup.to_owned()
}

/// `text` with Slack's three control characters as entities, so that `<!channel>` is what one reads and calls nobody.
/// Cut where it would be longer than `chars_max`, and never within an entity.
fn escaped(text: &str, chars_max: usize) -> String {
    let (mut escaped, mut chars) = (String::with_capacity(text.len()), 0);
    // Where the text ends if it has to be cut.
    let mut end = 0;
    for c in text.chars() {
        let entity = match c {
            '&' => Some("&amp;"),
            '<' => Some("&lt;"),
            '>' => Some("&gt;"),
            _ => None,
        };
        chars += entity.map_or(1, str::len);
        if chars > chars_max {
            escaped.truncate(end);
            escaped.push(CUT);
            return escaped;
        }
        match entity {
            Some(entity) => escaped.push_str(entity),
            None => escaped.push(c),
        }
        if chars < chars_max {
            end = escaped.len();
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item<'a>(subject: &'a str, body: &'a str) -> Item<'a> {
        Item {
            notification: NotificationId::derive(&[subject.as_bytes()]),
            delivery: DeliveryId::derive(&[subject.as_bytes()]),
            subject,
            body,
            is_markup: false,
        }
    }

    #[test]
    fn one_notification_has_its_subject_above_its_body_and_its_ids_below() {
        let item = item("결제 실패: KRW 129,000", "주문: 1\n결제: 2");
        let posted = message(&[item]);
        assert_eq!(posted["text"], "결제 실패: KRW 129,000\n주문: 1\n결제: 2");
        let blocks = posted["blocks"].as_array().unwrap();
        let types: Vec<_> = blocks.iter().map(|block| block["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["header", "section", "context"]);
        assert_eq!(blocks[0]["text"]["text"], "결제 실패: KRW 129,000");
        assert_eq!(blocks[1]["text"]["text"], "주문: 1\n결제: 2");
        let ids = blocks[2]["elements"][0]["text"].as_str().unwrap();
        assert!(ids.contains(&item.delivery.to_string()) && ids.contains(&item.notification.to_string()));
        assert!(!ids.contains('…'), "both ids fit");
    }

    #[test]
    fn many_notifications_are_one_message_that_names_each() {
        let items = [item("A", "a"), item("B", "b"), item("C", "c")];
        let posted = message(&items);
        assert_eq!(posted["text"], "알림 3건\nA\nB\nC");
        assert_eq!(posted["blocks"].as_array().unwrap().len(), 7);
        assert_eq!(posted["blocks"][3]["text"]["text"], "B\nb");
    }

    #[test]
    fn control_characters_arrive_as_text() {
        let posted = message(&[item("<!channel> & co", "<@U1> <https://x|y>")]);
        assert_eq!(posted["blocks"][0]["text"]["text"], "&lt;!channel&gt; &amp; co");
        assert_eq!(posted["blocks"][1]["text"]["text"], "&lt;@U1&gt; &lt;https://x|y&gt;");
        assert!(!posted.to_string().contains('<') && !posted["text"].as_str().unwrap().contains('>'));
    }

    #[test]
    fn no_message_exceeds_what_slack_takes() {
        for filler in ["가", "&", "x"] {
            let long = filler.repeat(20_000);
            for count in [1, 2, DIGEST_MAX] {
                let posted = message(&vec![item(&long, &long); count]);
                let blocks = posted["blocks"].as_array().unwrap();
                let chars = |value: &Value| value.as_str().unwrap().chars().count();
                assert!(blocks.len() <= BLOCKS_MAX);
                assert!(chars(&posted["text"]) <= TEXT_CHARS_MAX);
                let mut sum = chars(&blocks[0]["text"]["text"]);
                assert!(sum <= HEADER_CHARS_MAX);
                for pair in blocks[1..].chunks(2) {
                    let section = chars(&pair[0]["text"]["text"]);
                    assert!(section <= SECTION_CHARS_MAX);
                    sum += section + chars(&pair[1]["elements"][0]["text"]);
                }
                assert!(sum <= MESSAGE_CHARS_MAX, "{count} x {filler}: {sum}");
            }
        }
    }

    #[test]
    fn mark_up_stays_mark_up_and_is_cut_between_its_parts() {
        let posted = message(&[Item { is_markup: true, ..item("A & B", "*bold* <https://x|y> &lt;\n") }]);
        assert_eq!(posted["blocks"][1]["text"]["text"], "*bold* <https://x|y> &lt;");
        assert_eq!(posted["text"], "A &amp; B\n*bold* <https://x|y> &lt;");
        for (markup, chars_max, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("a<b|c>d", 6, "a…"),
            ("a<b|c>d", 7, "a<b|c>d"),
            ("&amp;x", 5, "…"),
            ("&amp;xy", 6, "&amp;…"),
            ("가<나다", 3, "가…"),
        ] {
            assert_eq!(cut_markup(markup, chars_max), expected, "{markup} in {chars_max}");
        }
    }

    #[test]
    fn a_cut_is_seen_and_never_within_an_entity() {
        for (text, chars_max, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("ab&", 3, "ab…"),
            ("a&b", 6, "a…"),
            ("a&b", 7, "a&amp;b"),
            ("a&", 6, "a&amp;"),
            ("&&", 6, "&amp;…"),
            ("&&", 5, "…"),
            ("가나다라", 3, "가나…"),
            ("", 3, ""),
        ] {
            assert_eq!(escaped(text, chars_max), expected, "{text} in {chars_max}");
        }
    }
}
