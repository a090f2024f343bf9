//! What a restock alert is about. Its text is the template of this name.

use contract::ids::{AccountId, ProductId};
use serde_json::{Value, json};

use crate::channel::{Channel, Message};
use crate::find_templates::Texts;

/// The `type` of the notifications, and the name of their text.
pub const KIND: &str = "RESTOCK";

/// How alerts go out.
pub const CHANNEL: Channel = Channel::Email;

/// The same for all recipients of a round.
pub fn alert(product: ProductId, name: &str, round: i64) -> Value {
    json!({ "productId": product, "name": name, "restockRound": round })
}

/// What `user` is told, in their language.
pub fn message(texts: &Texts, user: AccountId, alert: &Value) -> common::Result<Message> {
    texts.message_of_event(KIND, CHANNEL, Some(user), alert)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::builtin::tests::{assert_contains, both};

    #[test]
    fn an_alert_names_the_product_and_its_subject_is_one_line() {
        let product = ProductId::derive(&[b"sneaker"]);
        let alert = alert(product, "한정판 스니커즈", 3);
        let [korean, english] = both(KIND, CHANNEL, &alert);
        assert_contains(&korean, &["재입고 알림: 한정판 스니커즈", "상품: 한정판 스니커즈"]);
        assert_contains(&english, &["Back in stock: 한정판 스니커즈", "Product: 한정판 스니커즈"]);
        assert!(!korean.subject.contains('\n') && !korean.subject.contains("Back"));
    }
}
