//! `Id<K>`: a UUID that knows what it identifies, so that an order id cannot be passed where an account id is wanted.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// What an [`Id`] identifies. `contract::ids` holds the one registry of kinds.
pub trait Kind: Send + Sync + 'static {
    /// The noun in lower case, as it appears in error texts: `order`, `account`.
    const NAME: &'static str;
}

/// A UUID of kind `K`. Written as a plain hyphenated UUID everywhere: JSON, SQL, logs and protobuf.
#[derive(AsExpression, FromSqlRow)]
#[diesel(sql_type = sql_types::Uuid)]
pub struct Id<K>(Uuid, PhantomData<fn() -> K>);

impl<K: Kind> Id<K> {
    /// A new id, ordered by creation time (UUIDv7).
    pub fn generate() -> Self {
        Self::from(Uuid::now_v7())
    }

    /// The id that `parts` always lead to (UUIDv5), so that a retry names the same thing.
    ///
    /// Each part is hashed with its length, so `["ab", "c"]` and `["a", "bc"]` differ.
    pub fn derive(parts: &[&[u8]]) -> Self {
        Self::from(derive_uuid(K::NAME, parts))
    }

    pub fn uuid(self) -> Uuid {
        self.0
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// UUIDv5 over `kind` and `parts`; see [`Id::derive`].
pub fn derive_uuid(kind: &str, parts: &[&[u8]]) -> Uuid {
    let mut name = Vec::with_capacity(64);
    name.extend_from_slice(kind.as_bytes());
    for part in parts {
        name.extend_from_slice(&(part.len() as u64).to_be_bytes());
        name.extend_from_slice(part);
    }
    // The namespace is arbitrary but must never change: every derived id in every database depends on it.
    const NAMESPACE: Uuid = Uuid::from_u128(0x5374_616d_7065_6465_8000_7374_616d_7065);
    Uuid::new_v5(&NAMESPACE, &name)
}

impl<K> From<Uuid> for Id<K> {
    fn from(uuid: Uuid) -> Self {
        Self(uuid, PhantomData)
    }
}

impl<K> From<Id<K>> for Uuid {
    fn from(id: Id<K>) -> Self {
        id.0
    }
}

/// What a UUID looks like, for texts.
pub const EXAMPLE: &str = "01936f2e-52f0-7a41-9d0c-5b8f0c2d4e66";

/// The text is not a UUID.
#[derive(Debug, thiserror::Error)]
#[error("not a valid {0} id; a UUID with hyphens is expected, such as {example}", example = EXAMPLE)]
pub struct NotAnId(pub &'static str);

impl<K: Kind> FromStr for Id<K> {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        // Only the hyphenated form: braces, URNs and bare hex would be second spellings of one thing.
        if text.len() != 36 {
            return Err(NotAnId(K::NAME));
        }
        Uuid::try_parse(text).map(Self::from).map_err(|_| NotAnId(K::NAME))
    }
}

impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Id<K> {}

impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<K> Eq for Id<K> {}

impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<K> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, K: Kind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl<K> FromSql<sql_types::Uuid, Pg> for Id<K> {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        <Uuid as FromSql<sql_types::Uuid, Pg>>::from_sql(value).map(Self::from)
    }
}

impl<K> ToSql<sql_types::Uuid, Pg> for Id<K> {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <Uuid as ToSql<sql_types::Uuid, Pg>>::to_sql(&self.0, out)
    }
}

impl<K> utoipa::PartialSchema for Id<K> {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
        ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid))).into()
    }
}

impl<K> utoipa::ToSchema for Id<K> {}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing;
    impl Kind for Thing {
        const NAME: &'static str = "thing";
    }

    #[test]
    fn the_same_parts_lead_to_the_same_id_and_shifted_parts_do_not() {
        let id = Id::<Thing>::derive(&[b"ab", b"c"]);
        assert_eq!(id, Id::derive(&[b"ab", b"c"]));
        assert_ne!(id, Id::derive(&[b"a", b"bc"]));
        assert_ne!(id, Id::derive(&[b"abc"]));
    }

    #[test]
    fn only_the_hyphenated_spelling_is_an_id() {
        let id = Id::<Thing>::generate();
        assert_eq!(id.to_string().parse::<Id<Thing>>().unwrap(), id);
        for text in
            ["", "1", &format!("{{{id}}}"), &id.uuid().simple().to_string(), "zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz"]
        {
            assert!(text.parse::<Id<Thing>>().is_err(), "{text}");
        }
    }
}
