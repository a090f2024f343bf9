//! The status of an order, and its name in JSON, in SQL and in texts.

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, AsExpression, FromSqlRow, utoipa::ToSchema)]
#[diesel(sql_type = sql_types::Text)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = OrderStatus)]
pub enum Status {
    /// Stored; its units are held until `holdExpiresAt`.
    Created,
    /// A payment has been prepared; the units are held until `holdExpiresAt`.
    PendingPayment,
    /// The money is there.
    Paid,
    /// Cancelled after it was paid; the money is on its way back.
    RefundPending,
    /// All of the money is back with the buyer.
    Refunded,
    /// Ended by its owner or by an operator before it was paid.
    Cancelled,
    /// Nobody paid in time.
    Expired,
}

impl Status {
    pub const ALL: [Status; 7] = [
        Status::Created,
        Status::PendingPayment,
        Status::Paid,
        Status::RefundPending,
        Status::Refunded,
        Status::Cancelled,
        Status::Expired,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Status::Created => "CREATED",
            Status::PendingPayment => "PENDING_PAYMENT",
            Status::Paid => "PAID",
            Status::RefundPending => "REFUND_PENDING",
            Status::Refunded => "REFUNDED",
            Status::Cancelled => "CANCELLED",
            Status::Expired => "EXPIRED",
        }
    }

    pub fn parse(text: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|status| status.as_str() == text)
    }
}

impl ToSql<sql_types::Text, Pg> for Status {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<sql_types::Text, Pg>>::to_sql(self.as_str(), out)
    }
}

impl FromSql<sql_types::Text, Pg> for Status {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let text = std::str::from_utf8(value.as_bytes())?;
        Status::parse(text).ok_or_else(|| format!("{text} is not the status of an order").into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_has_one_name_everywhere() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
            assert_eq!(json!(status), json!(status.as_str()));
        }
        assert_eq!(Status::parse("COMPLETED"), None);
    }
}
