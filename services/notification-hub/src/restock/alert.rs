//! What a restock alert says, in Korean and in English, the Korean first.

use contract::ids::ProductId;
use serde_json::{Value, json};

use crate::channel::Message;

/// The `type` of the notifications.
pub const KIND: &str = "RESTOCK";

/// The same for all recipients of a round.
#[derive(Debug, Clone)]
pub struct Alert {
    pub message: Message,
    /// For whoever reads it over the API.
    pub data: Value,
}

pub fn alert(product: ProductId, name: &str, round: i64) -> Alert {
    let message = Message {
        subject: format!("[Stampede] 재입고 알림 / Back in stock: {name}"),
        body: format!(
            "기다리시던 상품이 다시 들어왔습니다.\n\n\
             상품: {name}\n\
             상품 번호: {product}\n\
             수량이 한정되어 있어 곧 품절될 수 있습니다.\n\
             알림을 그만 받으려면 재입고 알림을 해제해 주세요.\n\n\
             --\n\n\
             What you were waiting for is back.\n\n\
             Product: {name}\n\
             Product number: {product}\n\
             There are not many: it may sell out soon.\n\
             To hear of it no more, take your subscription back.\n"
        ),
    };
    Alert { message, data: json!({ "productId": product, "name": name, "restockRound": round }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_names_the_product_and_its_subject_is_one_line() {
        let product = ProductId::derive(&[b"sneaker"]);
        let Alert { message, data } = alert(product, "한정판 스니커즈", 3);
        assert!(message.subject.contains("한정판 스니커즈") && !message.subject.contains('\n'));
        assert!(message.body.contains("상품: 한정판 스니커즈") && message.body.contains("Product: 한정판 스니커즈"));
        assert_eq!(data, json!({ "productId": product, "name": "한정판 스니커즈", "restockRound": 3 }));
    }
}
