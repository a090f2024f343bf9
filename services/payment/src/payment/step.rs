//! What follows at other services from what a payment has become.

use common::sql::from_name;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Text;

/// Something that is to be done at another service because of what a payment has become. Each may be done twice.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::IntoStaticStr,
    strum::EnumString,
    strum::VariantArray,
    AsExpression,
    FromSqlRow,
)]
#[diesel(sql_type = Text)]
#[strum(serialize_all = "SCREAMING_SNAKE_CASE")]
pub enum Step {
    /// The attempt came to nothing: its reservation of the order ends. While the order is reserved a late capture can pay
    /// it, and its units must still be pinned then, so this is done before [`Step::FreeHold`].
    FreeOrder,
    /// The attempt came to nothing: its pin of the hold ends.
    FreeHold,
    /// The attempt came to nothing: its pin of the coupon ends.
    FreeCoupon,
    /// The money is there: the order becomes paid with it, or the money goes back.
    PayOrder,
}

impl Step {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl FromSql<Text, Pg> for Step {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        from_name(value)
    }
}

impl ToSql<Text, Pg> for Step {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.name(), out)
    }
}

/// What follows from a capture.
pub const AFTER_CAPTURE: &[Step] = &[Step::PayOrder];

/// What follows when an attempt came to nothing, in this order: the compensations of what it may have reserved.
pub const fn after_failure(has_coupon: bool) -> &'static [Step] {
    if has_coupon { &[Step::FreeOrder, Step::FreeHold, Step::FreeCoupon] } else { &[Step::FreeOrder, Step::FreeHold] }
}
