//! Disables endpoints whose receivers have answered 410 Gone, and tells the operators, once each time.

use std::collections::BTreeMap;

use common::Result;
use common::db::Tx;
use common::id::derive_uuid;
use diesel::dsl::now;
use diesel::{BoolExpressionMethods, ExpressionMethods};
use diesel_async::RunQueryDsl;
use serde_json::json;

use crate::App;
use crate::claims::Attempt;
use crate::schema::webhook_endpoints;

/// The `type` of the notification, and the name of its text.
const KIND: &str = "WEBHOOK_ENDPOINT_DISABLED";

/// `gone`: endpoints by name, the address that was called, and the attempt that was answered.
pub async fn disable_gone(app: &App, gone: Vec<(String, String, Attempt)>) {
    // One attempt for each: the others were answered alike.
    let gone: BTreeMap<String, (String, Attempt)> =
        gone.into_iter().map(|(name, url, attempt)| (name, (url, attempt))).collect();
    for (name, (url, attempt)) in gone {
        let disabled =
            app.db.tx("disable_webhook_endpoint", async |tx| disable(app, tx, &name, &url, &attempt).await).await;
        match disabled {
            Ok(true) => tracing::warn!(
                endpoint = name,
                "Webhook endpoint {name} answered 410 Gone; nothing is sent to it until its address is entered again"
            ),
            Ok(false) => {}
            Err(error) => tracing::warn!(
                endpoint = name, %error,
                "Webhook endpoint {name} answered 410 Gone and cannot be disabled ({error}); it is with the next such answer"
            ),
        }
    }
}

/// False: it is disabled already, was removed, or has got another address meanwhile.
async fn disable(app: &App, tx: &mut Tx, name: &str, url: &str, attempt: &Attempt) -> Result<bool> {
    use webhook_endpoints as e;
    let same = e::name.eq(name).and(e::url.eq(url)).and(e::disabled_at.is_null());
    let disabled = diesel::update(e::table).filter(same).set((e::disabled_at.eq(now), e::updated_at.eq(now)));
    if disabled.execute(tx).await? == 0 {
        return Ok(false);
    }
    let token = attempt.lock_token.to_be_bytes();
    let cause: [&[u8]; 2] = [attempt.delivery.as_bytes(), &token];
    app.tell_operators(tx, KIND, derive_uuid("endpoint gone", &cause), json!({ "endpoint": name })).await?;
    Ok(true)
}
