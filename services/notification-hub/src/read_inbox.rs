//! `GET /me/inbox`: the messages that a user reads here, the newest first.

use actix_web::{HttpResponse, get};
use chrono::{DateTime, SubsecRound, Utc};
use common::Result;
use common::auth::Caller;
use common::http::{Data, Problem, Query};
use common::page::{Cursor, Limit, Page, parse_cursor};
use contract::ids::{AccountId, NotificationId};
use diesel::{BoolExpressionMethods, ExpressionMethods, JoinOnDsl, QueryDsl};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::channel::Channel;
use crate::notification::DeliveryStatus;
use crate::schema::{deliveries, notifications};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReadInbox {
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// 1 to 100; 50 unless told.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InboxMessage {
    notification_id: NotificationId,
    #[serde(rename = "type")]
    kind: String,
    subject: String,
    body: String,
    data: Value,
    created_at: DateTime<Utc>,
}

type Row = (NotificationId, String, String, String, Value, DateTime<Utc>);

/// The caller's messages.
#[utoipa::path(
    tag = "notifications",
    params(ReadInbox),
    responses((status = 200, body = Page<InboxMessage>), (status = 400, body = Problem, description = "VALIDATION_ERROR")),
    security(("bearer" = []))
)]
#[get("/me/inbox")]
pub async fn read_inbox(app: Data<App>, caller: Caller, query: Query<ReadInbox>) -> Result<HttpResponse> {
    let limit = Limit::parse(query.limit, app.settings.page_default.into(), app.settings.page_max.into())?;
    let after = parse_cursor::<Cursor>(query.cursor.as_deref())?;
    let mut rows = notifications::table
        .inner_join(deliveries::table.on(deliveries::notification_id.eq(notifications::id)))
        .filter(notifications::user_id.eq(AccountId::from(caller.account)))
        .filter(deliveries::channel.eq(Channel::Inapp))
        .filter(deliveries::status.eq(DeliveryStatus::Success))
        .order((notifications::created_at.desc(), notifications::id.desc()))
        .select((
            notifications::id,
            notifications::kind,
            deliveries::subject,
            deliveries::body,
            notifications::data,
            notifications::created_at,
        ))
        .limit(limit.rows())
        .into_boxed();
    if let Some(Cursor { at, id }) = after {
        // The first condition alone is what the index can use.
        rows = rows.filter(notifications::created_at.le(at));
        rows = rows.filter(notifications::created_at.lt(at).or(notifications::id.lt(NotificationId::from(id))));
    }
    let rows: Vec<Row> = rows.load(&mut *app.db.read().await?).await?;
    let page = Page::new(rows, limit, |row| Cursor { at: row.5, id: row.0.uuid() });
    let page = page.map(|(notification_id, kind, subject, body, data, created_at)| InboxMessage {
        notification_id,
        kind,
        subject,
        body,
        data,
        created_at: created_at.trunc_subsecs(3),
    });
    Ok(HttpResponse::Ok().json(page))
}
