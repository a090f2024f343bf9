//! Rules: the channels over which somebody can be reached, and the messages that go over them.

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
    Hash,
    PartialOrd,
    Ord,
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
pub enum Channel {
    Email,
    /// The operators' channel.
    Slack,
    /// A program at an address that an administrator has entered.
    Webhook,
    /// The inbox that users read here.
    Inapp,
}

impl Channel {
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Whether only operators may see what went over it: its messages contain what customers must not learn.
    pub const fn is_for_operators(self) -> bool {
        match self {
            Channel::Email | Channel::Inapp => false,
            Channel::Slack | Channel::Webhook => true,
        }
    }
}

impl FromSql<Text, Pg> for Channel {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let name = <String as FromSql<Text, Pg>>::from_sql(value)?;
        name.parse().map_err(|_| format!("unknown channel {name:?}").into())
    }
}

impl ToSql<Text, Pg> for Channel {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.name(), out)
    }
}

/// A message. The subject is one line of plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub subject: String,
    pub body: String,
    /// The body is the channel's own mark-up; else it is plain text.
    pub is_markup: bool,
}

impl Message {
    pub fn plain(subject: String, body: String) -> Message {
        Message { subject, body, is_markup: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_has_the_same_name_in_the_database_and_in_json() {
        for channel in Channel::VARIANTS {
            assert_eq!(serde_json::to_value(channel).unwrap(), channel.name());
            assert_eq!(channel.name().parse(), Ok(*channel));
        }
    }
}
