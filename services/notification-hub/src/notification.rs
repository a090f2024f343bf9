//! Rules: the status of a delivery, the overall status that follows for its notification, and why the hub says no.

use common::{Code, Refusal};
use contract::codes;
use contract::ids::{DeliveryId, NotificationId, ProductId};
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Text;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strum::{EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use crate::channel::Channel;
use crate::template::{Language, TemplateKey};

use Group::{Failed, Open, Succeeded};

/// The state of one delivery: `PENDING → PROCESSING → SUCCESS | FAILED`, and back to `PENDING` to be tried again.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    VariantArray,
    IntoStaticStr,
    EnumString,
    AsExpression,
    FromSqlRow,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[diesel(sql_type = Text)]
#[strum(serialize_all = "UPPERCASE")]
#[serde(rename_all = "UPPERCASE")]
pub enum DeliveryStatus {
    Pending,
    Processing,
    Success,
    Failed,
}

impl DeliveryStatus {
    pub fn name(self) -> &'static str {
        self.into()
    }

    pub const fn group(self) -> Group {
        match self {
            DeliveryStatus::Pending | DeliveryStatus::Processing => Open,
            DeliveryStatus::Success => Succeeded,
            DeliveryStatus::Failed => Failed,
        }
    }
}

impl FromSql<Text, Pg> for DeliveryStatus {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let name = <String as FromSql<Text, Pg>>::from_sql(value)?;
        name.parse().map_err(|_| format!("unknown delivery status {name:?}").into())
    }
}

impl ToSql<Text, Pg> for DeliveryStatus {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.name(), out)
    }
}

/// What matters about a delivery for the overall status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Open,
    Succeeded,
    Failed,
}

impl Group {
    pub fn statuses(self) -> Vec<DeliveryStatus> {
        DeliveryStatus::VARIANTS.iter().copied().filter(|status| status.group() == self).collect()
    }
}

/// How a notification is doing as a whole. Never stored: always computed from its deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, VariantArray, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = NotificationStatus)]
pub enum Status {
    /// Something is still to be sent.
    InProgress,
    Completed,
    Failed,
    PartiallyFailed,
    /// Nothing was to be sent: the recipient wants nothing over any channel.
    Suppressed,
}

impl Status {
    pub fn of(deliveries: impl IntoIterator<Item = DeliveryStatus>) -> Status {
        let (mut open, mut succeeded, mut failed) = (false, false, false);
        for delivery in deliveries {
            match delivery.group() {
                Open => open = true,
                Succeeded => succeeded = true,
                Failed => failed = true,
            }
        }
        match (open, succeeded, failed) {
            (true, _, _) => Status::InProgress,
            (false, true, true) => Status::PartiallyFailed,
            (false, true, false) => Status::Completed,
            (false, false, true) => Status::Failed,
            (false, false, false) => Status::Suppressed,
        }
    }

    /// The same rule for a query: which groups of deliveries a notification of this status has, and which it lacks.
    pub const fn requires(self) -> &'static [(Group, bool)] {
        match self {
            Status::InProgress => &[(Open, true)],
            Status::PartiallyFailed => &[(Open, false), (Succeeded, true), (Failed, true)],
            Status::Completed => &[(Open, false), (Succeeded, true), (Failed, false)],
            Status::Failed => &[(Open, false), (Succeeded, false), (Failed, true)],
            Status::Suppressed => &[(Open, false), (Succeeded, false), (Failed, false)],
        }
    }
}

/// Why the hub says no.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("There is no notification {0}.")]
    NotificationNotFound(NotificationId),
    #[error("There is no delivery {0} of this notification.")]
    DeliveryNotFound(DeliveryId),
    #[error("Delivery {delivery} cannot be retried: it is {}.", status.name())]
    NotRetryable { delivery: DeliveryId, status: DeliveryStatus },
    #[error("There is no channel {0}.")]
    UnknownChannel(String),
    #[error("There is no webhook endpoint {0}.")]
    EndpointNotFound(String),
    #[error("There is no template {name} over {}{}.", channel.name(), language.map(|language| format!(" in {}", language.name())).unwrap_or_default())]
    TemplateNotFound { name: String, channel: Channel, language: Option<Language> },
    #[error("There is no version {version} of the template {} over {} in {}.", key.name, key.channel.name(), key.language.name())]
    TemplateVersionNotFound { key: TemplateKey, version: i32 },
    #[error("The template cannot be rendered: {text}.")]
    TemplateInvalid { text: String, detail: Value },
    #[error("Product {0} is in stock.")]
    ProductInStock(ProductId),
    #[error("Restock round {round} of product {product} is in progress.")]
    RoundInProgress { product: ProductId, round: i64 },
    #[error("There is no restock round {round} of product {product}.")]
    RoundNotFound { product: ProductId, round: i64 },
    #[error("Restock round {round} of product {product} cannot be resumed: it is {status}, or a later one has begun.")]
    RoundNotResumable { product: ProductId, round: i64, status: &'static str },
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Refused::NotificationNotFound(_) => codes::NOTIFICATION_NOT_FOUND,
            Refused::DeliveryNotFound(_) => codes::DELIVERY_NOT_FOUND,
            Refused::NotRetryable { .. } => codes::DELIVERY_NOT_RETRYABLE,
            Refused::UnknownChannel(_) => codes::UNKNOWN_CHANNEL,
            Refused::EndpointNotFound(_) => codes::WEBHOOK_ENDPOINT_NOT_FOUND,
            Refused::TemplateNotFound { .. } | Refused::TemplateVersionNotFound { .. } => codes::TEMPLATE_NOT_FOUND,
            Refused::TemplateInvalid { .. } => codes::TEMPLATE_INVALID,
            Refused::ProductInStock(_) => codes::PRODUCT_IN_STOCK,
            Refused::RoundInProgress { .. } => codes::ROUND_IN_PROGRESS,
            Refused::RoundNotFound { .. } => codes::ROUND_NOT_FOUND,
            Refused::RoundNotResumable { .. } => codes::ROUND_NOT_RESUMABLE,
        }
    }

    fn details(&self) -> Vec<Value> {
        match self {
            Refused::NotificationNotFound(_) | Refused::DeliveryNotFound(_) => Vec::new(),
            Refused::NotRetryable { delivery, status } => vec![json!({ "deliveryId": delivery, "status": status })],
            Refused::EndpointNotFound(endpoint) => vec![json!({ "endpoint": endpoint })],
            Refused::UnknownChannel(channel) => vec![json!({ "channel": channel })],
            Refused::TemplateNotFound { name, channel, language } => {
                vec![json!({ "template": name, "channel": channel, "language": language })]
            }
            Refused::TemplateVersionNotFound { key: TemplateKey { name, channel, language }, version } => {
                vec![json!({ "template": name, "channel": channel, "language": language, "version": version })]
            }
            Refused::TemplateInvalid { detail, .. } => vec![detail.clone()],
            Refused::ProductInStock(product) => vec![json!({ "productId": product })],
            Refused::RoundInProgress { product, round } | Refused::RoundNotFound { product, round } => {
                vec![json!({ "productId": product, "round": round })]
            }
            Refused::RoundNotResumable { product, round, status } => {
                vec![json!({ "productId": product, "round": round, "status": status })]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overall_status_follows_from_the_deliveries() {
        use DeliveryStatus::{Failed, Pending, Processing, Success};
        for (deliveries, expected) in [
            (&[][..], Status::Suppressed),
            (&[Pending], Status::InProgress),
            (&[Processing], Status::InProgress),
            (&[Success, Failed, Pending], Status::InProgress),
            (&[Success], Status::Completed),
            (&[Success, Success], Status::Completed),
            (&[Failed, Failed], Status::Failed),
            (&[Failed, Success], Status::PartiallyFailed),
        ] {
            assert_eq!(Status::of(deliveries.iter().copied()), expected, "{deliveries:?}");
        }
    }

    #[test]
    fn a_query_for_a_status_finds_exactly_what_computes_to_it() {
        for present in 0..1_u8 << DeliveryStatus::VARIANTS.len() {
            let bits = DeliveryStatus::VARIANTS.iter().enumerate();
            let mix: Vec<_> = bits.filter(|(bit, _)| present & (1 << bit) != 0).map(|(_, status)| *status).collect();
            let has = |group: Group| mix.iter().any(|status| status.group() == group);
            let found = Status::VARIANTS
                .iter()
                .filter(|status| status.requires().iter().all(|(group, wanted)| has(*group) == *wanted));
            assert_eq!(found.copied().collect::<Vec<_>>(), [Status::of(mix.iter().copied())], "{mix:?}");
        }
    }

    #[test]
    fn a_delivery_status_has_the_same_name_in_the_database_and_in_json() {
        for status in DeliveryStatus::VARIANTS {
            assert_eq!(serde_json::to_value(status).unwrap(), status.name());
            assert_eq!(status.name().parse(), Ok(*status));
        }
    }
}
