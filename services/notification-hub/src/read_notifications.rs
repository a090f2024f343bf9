//! `GET /notifications` and `GET /notifications/{id}`: people see their own, operators see all: administrators, and
//! programs whose key allows it.
//!
//! Only operators see what went to operators: for everybody else it neither exists nor counts for the status.

use std::collections::HashMap;

use actix_web::{HttpResponse, get};
use chrono::{DateTime, SubsecRound, Utc};
use common::Result;
use common::http::{Data, Path, Problem, Query};
use common::page::{Cursor, is_storable, parse_cursor};
use common::text::Text;
use contract::ids::{AccountId, DeliveryId, NotificationId};
use diesel::dsl::{exists, not};
use diesel::pg::Pg;
use diesel::{BoolExpressionMethods, ExpressionMethods, OptionalExtension, QueryDsl, SelectableHelper};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::VariantArray;
use utoipa::{IntoParams, ToSchema};

use crate::App;
use crate::caller::Reader;
use crate::channel::Channel;
use crate::notification::{DeliveryStatus, Refused, Status};
use crate::schema::{deliveries, delivery_attempts, notifications};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListNotifications {
    /// The overall status.
    status: Option<Status>,
    /// Has a delivery over this channel.
    channel: Option<Channel>,
    /// E.g. `ORDER_CREATED`.
    #[serde(rename = "type")]
    kind: Option<Text<1, 100>>,
    user_id: Option<AccountId>,
    /// Created at this instant or later.
    from: Option<DateTime<Utc>>,
    /// Created before this instant.
    to: Option<DateTime<Utc>>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    limit: Option<u32>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationPage {
    /// The newest first.
    items: Vec<NotificationView>,
    /// Null on the last page.
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationView {
    notification_id: NotificationId,
    #[serde(rename = "type")]
    kind: String,
    /// Null: for operators only.
    user_id: Option<AccountId>,
    /// Computed from the deliveries.
    status: Status,
    data: Value,
    created_at: DateTime<Utc>,
    deliveries: Vec<DeliveryView>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryView {
    delivery_id: DeliveryId,
    channel: Channel,
    status: DeliveryStatus,
    /// Attempts so far.
    attempts: i32,
    /// When it is tried next; null unless it waits.
    next_attempt_at: Option<DateTime<Utc>>,
    /// Why the last failed attempt failed: `ADDRESS_REFUSED`, `ADDRESS_UNAVAILABLE`, `DIGEST_REFUSED`, `ENDPOINT_UNKNOWN`,
    /// `LEASE_LOST`, `MESSAGE_REFUSED`, `NO_ANSWER`, `RECIPIENT_UNKNOWN`, `REJECTED`, `THROTTLED`, `UNAVAILABLE` or
    /// `WEBHOOK_REFUSED`.
    last_error: Option<String>,
    /// Since when it is a dead letter: only an operator has it tried again.
    dead_lettered_at: Option<DateTime<Utc>>,
    subject: String,
    body: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// Every attempt, the oldest first.
    history: Vec<DeliveryAttemptView>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryAttemptView {
    ended_at: DateTime<Utc>,
    /// As in `lastError`; null: it was sent.
    error: Option<String>,
}

#[utoipa::path(
    tag = "notifications",
    params(ListNotifications),
    responses((status = 200, body = NotificationPage), (status = 400, body = Problem, description = "VALIDATION_ERROR")),
    security(("bearer" = []), ("apiKey" = ["notifications:read"]))
)]
#[get("/notifications")]
pub async fn list_notifications(
    app: Data<App>,
    reader: Reader,
    query: Query<ListNotifications>,
) -> Result<HttpResponse> {
    let limit = query.limit.unwrap_or(app.settings.page_default);
    if !(1..=app.settings.page_max).contains(&limit) {
        return Err(common::Refused::invalid("limit", format!("Must be 1 to {}.", app.settings.page_max)).into());
    }
    let after = parse_cursor::<Cursor>(query.cursor.as_deref())?;
    for (field, at) in [("from", query.from), ("to", query.to)] {
        if at.is_some_and(|at| !is_storable(&at)) {
            return Err(common::Refused::invalid(field, "Must be in the years 1 to 9999.").into());
        }
    }
    let mut conn = app.db.read().await?;
    // One more than asked for, to learn whether there is a next page.
    let mut rows = load_page(&mut conn, owner(reader), &query, after, i64::from(limit) + 1).await?;
    let is_last = rows.len() <= limit as usize;
    rows.truncate(limit as usize);
    let next_cursor =
        rows.last().filter(|_| !is_last).map(|row| Cursor { at: row.created_at, id: row.id.uuid() }.to_string());
    let items = with_deliveries(&mut conn, rows, &visible(owner(reader))).await?;
    Ok(HttpResponse::Ok().json(NotificationPage { items, next_cursor }))
}

#[utoipa::path(
    tag = "notifications",
    params(("id" = NotificationId, Path)),
    responses((status = 200, body = NotificationView), (status = 404, body = Problem, description = "NOTIFICATION_NOT_FOUND")),
    security(("bearer" = []), ("apiKey" = ["notifications:read"]))
)]
#[get("/notifications/{id}")]
pub async fn read_notification(app: Data<App>, reader: Reader, id: Path<NotificationId>) -> Result<HttpResponse> {
    let mut conn = app.db.read().await?;
    let mut query =
        notifications::table.filter(notifications::id.eq(*id)).select(NotificationRow::as_select()).into_boxed();
    if let Some(owner) = owner(reader) {
        query = query.filter(notifications::user_id.eq(owner));
    }
    let row = query.first(&mut *conn).await.optional()?.ok_or(Refused::NotificationNotFound(*id))?;
    let found = with_deliveries(&mut conn, vec![row], &visible(owner(reader))).await?.pop();
    Ok(HttpResponse::Ok().json(found))
}

/// Whose notifications the reader may see; none means everybody's.
fn owner(reader: Reader) -> Option<AccountId> {
    match reader {
        Reader::Operator => None,
        Reader::User(user) => Some(user),
    }
}

/// The channels whose deliveries `owner` may see.
fn visible(owner: Option<AccountId>) -> Vec<Channel> {
    let is_visible = |channel: &Channel| owner.is_none() || !channel.is_for_operators();
    Channel::VARIANTS.iter().copied().filter(is_visible).collect()
}

#[derive(diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = notifications, check_for_backend(Pg))]
struct NotificationRow {
    id: NotificationId,
    kind: String,
    user_id: Option<AccountId>,
    data: Value,
    created_at: DateTime<Utc>,
}

async fn load_page(
    conn: &mut AsyncPgConnection,
    owner: Option<AccountId>,
    filter: &ListNotifications,
    after: Option<Cursor>,
    limit: i64,
) -> Result<Vec<NotificationRow>> {
    let mut query = notifications::table
        .select(NotificationRow::as_select())
        .order((notifications::created_at.desc(), notifications::id.desc()))
        .limit(limit)
        .into_boxed();
    for user in [owner, filter.user_id].into_iter().flatten() {
        query = query.filter(notifications::user_id.eq(user));
    }
    if let Some(kind) = &filter.kind {
        query = query.filter(notifications::kind.eq(kind.as_str()));
    }
    if let Some(from) = filter.from {
        query = query.filter(notifications::created_at.ge(from));
    }
    if let Some(to) = filter.to {
        query = query.filter(notifications::created_at.lt(to));
    }
    if let Some(Cursor { at: created_at, id }) = after {
        let id = NotificationId::from(id);
        // The first condition alone is what the index can use.
        query = query.filter(notifications::created_at.le(created_at));
        query = query.filter(notifications::created_at.lt(created_at).or(notifications::id.lt(id)));
    }
    let own = || {
        deliveries::table
            .filter(deliveries::notification_id.eq(notifications::id))
            .filter(deliveries::channel.eq_any(visible(owner)))
    };
    if let Some(channel) = filter.channel {
        query = query.filter(exists(own().filter(deliveries::channel.eq(channel))));
    }
    for (group, wanted) in filter.status.into_iter().flat_map(Status::requires) {
        let present = exists(own().filter(deliveries::status.eq_any(group.statuses())));
        query = if *wanted { query.filter(present) } else { query.filter(not(present)) };
    }
    Ok(query.load(conn).await?)
}

#[derive(diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = deliveries, check_for_backend(Pg))]
struct DeliveryRow {
    id: DeliveryId,
    notification_id: NotificationId,
    channel: Channel,
    status: DeliveryStatus,
    attempt: i32,
    next_attempt_at: DateTime<Utc>,
    last_error: Option<String>,
    dead_lettered_at: Option<DateTime<Utc>>,
    subject: String,
    body: String,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

async fn with_deliveries(
    conn: &mut AsyncPgConnection,
    rows: Vec<NotificationRow>,
    visible: &[Channel],
) -> Result<Vec<NotificationView>> {
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    let found: Vec<DeliveryRow> = deliveries::table
        .filter(deliveries::notification_id.eq_any(ids))
        .filter(deliveries::channel.eq_any(visible))
        .select(DeliveryRow::as_select())
        .order((deliveries::created_at, deliveries::id))
        .load(conn)
        .await?;
    let mut histories = histories(conn, found.iter().map(|row| row.id).collect()).await?;
    let mut grouped: HashMap<NotificationId, Vec<(DeliveryRow, Vec<DeliveryAttemptView>)>> = HashMap::new();
    for row in found {
        let history = histories.remove(&row.id).unwrap_or_default();
        grouped.entry(row.notification_id).or_default().push((row, history));
    }
    let views = rows.into_iter().map(|row| {
        let deliveries = grouped.remove(&row.id).unwrap_or_default();
        NotificationView {
            notification_id: row.id,
            kind: row.kind,
            user_id: row.user_id,
            status: Status::of(deliveries.iter().map(|(delivery, _)| delivery.status)),
            data: row.data,
            created_at: row.created_at.trunc_subsecs(3),
            deliveries: deliveries.into_iter().map(|(row, history)| row.view(history)).collect(),
        }
    });
    Ok(views.collect())
}

/// The attempts of deliveries, the oldest first.
async fn histories(
    conn: &mut AsyncPgConnection,
    ids: Vec<DeliveryId>,
) -> Result<HashMap<DeliveryId, Vec<DeliveryAttemptView>>> {
    let rows: Vec<(DeliveryId, Option<String>, DateTime<Utc>)> = delivery_attempts::table
        .filter(delivery_attempts::delivery_id.eq_any(ids))
        .order((delivery_attempts::delivery_id, delivery_attempts::lock_token))
        .select((delivery_attempts::delivery_id, delivery_attempts::error, delivery_attempts::ended_at))
        .load(conn)
        .await?;
    let mut histories: HashMap<DeliveryId, Vec<DeliveryAttemptView>> = HashMap::new();
    for (id, error, ended_at) in rows {
        histories.entry(id).or_default().push(DeliveryAttemptView { ended_at: ended_at.trunc_subsecs(3), error });
    }
    Ok(histories)
}

impl DeliveryRow {
    fn view(self, history: Vec<DeliveryAttemptView>) -> DeliveryView {
        let row = self;
        let waits = row.status == DeliveryStatus::Pending;
        DeliveryView {
            history,
            delivery_id: row.id,
            channel: row.channel,
            status: row.status,
            attempts: row.attempt,
            next_attempt_at: waits.then(|| row.next_attempt_at.trunc_subsecs(3)),
            last_error: row.last_error,
            dead_lettered_at: row.dead_lettered_at.map(|instant| instant.trunc_subsecs(3)),
            subject: row.subject,
            body: row.body,
            created_at: row.created_at.trunc_subsecs(3),
            updated_at: row.updated_at.trunc_subsecs(3),
        }
    }
}
