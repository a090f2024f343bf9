//! What the role of `postgres.url` may do with the schemas of services. In a cluster each service has a role that owns its own
//! schema and can touch no other, and one role reads and changes all of them: that of operators.

use anyhow::bail;
use common::host::schema;
use common::manifest::ServiceSpec;
use diesel::{QueryableByName, sql_query, sql_types};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

/// Where the role of operators is explained.
pub const OPERATORS: &str = "docs/operations.md, Operators' commands in a cluster";

/// What a command does with the schemas that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Read,
    Change,
}

/// What our role may do in one schema.
#[derive(Debug, QueryableByName)]
pub struct Access {
    #[diesel(sql_type = sql_types::Text)]
    pub schema: String,
    #[diesel(sql_type = sql_types::Text)]
    pub role: String,
    #[diesel(sql_type = sql_types::Bool)]
    pub is_there: bool,
    #[diesel(sql_type = sql_types::Bool)]
    pub may_read: bool,
    #[diesel(sql_type = sql_types::Bool)]
    pub may_change: bool,
}

impl Access {
    /// Whether the schema is there and closed to our role.
    pub fn is_forbidden(&self, need: Need) -> bool {
        self.is_there && !(self.may_read && (need == Need::Read || self.may_change))
    }
}

/// What our role may do in the schema of each of these services, in their order.
pub async fn of(
    connection: &mut AsyncPgConnection,
    namespace: &str,
    services: &[ServiceSpec],
) -> diesel::QueryResult<Vec<Access>> {
    let schemas: Vec<String> = services.iter().map(|service| schema(namespace, service.name)).collect();
    sql_query(include_str!("access.sql")).bind::<sql_types::Array<sql_types::Text>, _>(schemas).load(connection).await
}

/// Fails when a schema of these services is not there, or is closed to our role. So a command that would fail in the middle does
/// nothing at all.
pub async fn require(
    connection: &mut AsyncPgConnection,
    namespace: &str,
    services: &[ServiceSpec],
    need: Need,
) -> anyhow::Result<()> {
    judge(&of(connection, namespace, services).await?, need)
}

fn judge(found: &[Access], need: Need) -> anyhow::Result<()> {
    let named = |is_wanted: &dyn Fn(&Access) -> bool| {
        found.iter().filter(|access| is_wanted(access)).map(|access| access.schema.as_str()).collect::<Vec<_>>()
    };
    let (missing, forbidden) = (named(&|access| !access.is_there), named(&|access| access.is_forbidden(need)));
    if !forbidden.is_empty() {
        let role = found.first().map_or("", |access| access.role.as_str());
        let verb = if need == Need::Read { "read" } else { "change" };
        bail!(
            "the role {role} may not {verb} {}: use the role of operators ({OPERATORS}), or, where the command has \
             --service, name the services whose schemas are open to {role}",
            forbidden.join(", ")
        );
    }
    if !missing.is_empty() {
        bail!(
            "the database of postgres.url has no schema {}: look at postgres.url and host.namespace, or run `stampede \
             migrate`; a service with a database of its own is asked there, with --service where the command has it",
            missing.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(schema: &str, is_there: bool, may_read: bool, may_change: bool) -> Access {
        Access { schema: schema.to_owned(), role: "clerk".to_owned(), is_there, may_read, may_change }
    }

    fn refusal(found: &[Access], need: Need) -> String {
        judge(found, need).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn what_is_closed_or_missing_is_named_and_nothing_else() {
        let own = access("own", true, true, true);
        let seen = access("seen", true, true, false);
        let foreign = access("foreign", true, false, false);
        let elsewhere = access("elsewhere", false, false, false);
        assert_eq!(refusal(&[own, seen], Need::Read), "");
        let all = [access("own", true, true, true), access("seen", true, true, false), foreign, elsewhere];
        let told = refusal(&all, Need::Read);
        assert!(told.starts_with("the role clerk may not read foreign:"), "{told}");
        let told = refusal(&all, Need::Change);
        assert!(told.starts_with("the role clerk may not change seen, foreign:"), "{told}");
        let told = refusal(&all[3..], Need::Change);
        assert!(told.contains("has no schema elsewhere:"), "{told}");
    }
}
