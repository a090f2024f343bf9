//! The states of a payment, and who takes its money.

use common::sql::from_name;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Text;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

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
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = PaymentStatus)]
pub enum Status {
    /// Prepared; nothing has been taken.
    Pending,
    /// The provider is being asked.
    Approving,
    /// It is not known yet whether the money was taken; the resolver asks the provider.
    Unknown,
    /// Not known after a day: an operator has to look.
    NeedsReview,
    Paid,
    PartiallyRefunded,
    Refunded,
    /// Nothing was taken, and the order cannot be paid any more.
    Failed,
    /// Nothing was taken, and the order was cancelled.
    Cancelled,
    /// Nothing was taken, and the order expired.
    Expired,
}

impl Status {
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether a provider was asked for the money and its answer is not known.
    pub fn is_open(self) -> bool {
        matches!(self, Status::Approving | Status::Unknown | Status::NeedsReview)
    }

    /// Whether the money was taken, refunded or not.
    pub fn is_captured(self) -> bool {
        matches!(self, Status::Paid | Status::PartiallyRefunded | Status::Refunded)
    }
}

/// Who takes the money.
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
pub enum Method {
    /// Naver Pay, after the buyer has authorised the payment in its window.
    NaverPay,
    /// The buyer's points, all of the amount.
    Points,
}

impl Method {
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The name in events and webhook paths.
    pub const fn provider(self) -> &'static str {
        match self {
            Method::NaverPay => "naverpay",
            Method::Points => "points",
        }
    }
}

impl FromSql<Text, Pg> for Status {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        from_name(value)
    }
}

impl ToSql<Text, Pg> for Status {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.name(), out)
    }
}

impl FromSql<Text, Pg> for Method {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        from_name(value)
    }
}

impl ToSql<Text, Pg> for Method {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.name(), out)
    }
}
