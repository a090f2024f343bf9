//! The roles that `stampede roles` makes: each does all that its service does in its own schema, and nothing in another.

use common::host::schema;
use diesel::QueryableByName;
use diesel::sql_types::Text;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use stampede::services::SERVICES;
use testkit::servers;

use super::Place;

/// Somebody who has logged in as the role of a service. The role is called as its schema is.
struct Role {
    name: String,
    conn: AsyncPgConnection,
}

#[derive(QueryableByName)]
struct Table {
    #[diesel(sql_type = Text)]
    schema: String,
    #[diesel(sql_type = Text)]
    name: String,
    /// The first that may be written.
    #[diesel(sql_type = Text)]
    column_name: String,
}

const TABLES: &str = "
    select nspname::text as schema, format('%s', pg_class.oid::regclass) as name, (
             select quote_ident(attname) from pg_attribute
              where attrelid = pg_class.oid and attnum > 0 and not attisdropped
                    and attidentity = '' and attgenerated = ''
              order by attnum limit 1
           ) as column_name
      from pg_class join pg_namespace on pg_namespace.oid = relnamespace
     where relkind in ('r', 'p') and starts_with(nspname, $1)
     order by schema, name";

impl Table {
    /// What a service does with a table. None of it changes anything.
    fn statements(&self) -> [String; 4] {
        let Table { name, column_name, .. } = self;
        [
            format!("select {column_name} from {name} limit 1"),
            format!("insert into {name} ({column_name}) select {column_name} from {name} where false"),
            format!("update {name} set {column_name} = {column_name} where false"),
            format!("delete from {name} where false"),
        ]
    }
}

impl Role {
    /// Makes the schema of the service, as the role of the service.
    async fn with_tables(admin: &mut AsyncPgConnection, server: &str, namespace: &str, service: &str) -> Role {
        let name = schema(namespace, service);
        admin.batch_execute(&format!("alter role {name} password '{name}'")).await.expect("the role is there");
        let url = format!("postgres://{name}:{name}@{server}");
        let place = Place::new(&name).await.set("host.namespace", namespace).set("postgres.url", &url);
        place.stampede(&format!("migrate {service}")).await.expect(0, &["Up to date"]);
        let conn = AsyncPgConnection::establish(&url).await.expect("it may log in");
        Role { name, conn }
    }

    /// None: it may do that.
    async fn refusal(&mut self, statement: &str) -> Option<String> {
        self.conn.batch_execute(statement).await.err().map(|error| error.to_string())
    }

    /// What it may do of what it must not, and the other way round.
    async fn flaws(&mut self, tables: &[Table]) -> Vec<String> {
        let mut flaws = Vec::new();
        for table in tables {
            let forbidden = format!("permission denied for schema {}", table.schema);
            for statement in table.statements() {
                let refusal = self.refusal(&statement).await;
                // A trigger of the service may refuse what the role may do.
                let is_right = match refusal.as_deref() {
                    refusal if table.schema == self.name => {
                        refusal.is_none_or(|refusal| !refusal.starts_with("permission denied"))
                    }
                    refusal => refusal == Some(forbidden.as_str()),
                };
                if !is_right {
                    flaws.push(format!("{}: {statement}: {refusal:?}", self.name));
                }
            }
        }
        flaws
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_of_each_service_reads_and_writes_its_own_tables_and_no_others() {
    let namespace = format!("pairs_{}_", std::process::id());
    let postgres = servers::shared().await.postgres_url();
    let (_, server) = postgres.split_once('@').expect("the address has a user");
    let mut admin = AsyncPgConnection::establish(&postgres).await.expect("PostgreSQL is there");
    let place = Place::new("pairs").await.set("host.namespace", &namespace);
    let make = place.stampede("roles").await.expect(0, &[]).out;
    admin.batch_execute(&make).await.expect("the roles can be made");
    let mut roles = Vec::new();
    for service in SERVICES {
        roles.push(Role::with_tables(&mut admin, server, &namespace, service.name).await);
    }
    let tables: Vec<Table> =
        diesel::sql_query(TABLES).bind::<Text, _>(&namespace).load(&mut admin).await.expect("the catalogue is there");
    let mut flaws = Vec::new();
    let names: Vec<String> = roles.iter().map(|role| role.name.clone()).collect();
    for role in &mut roles {
        assert!(tables.iter().any(|table| table.schema == role.name), "{} has no tables", role.name);
        flaws.extend(role.flaws(&tables).await);
        for other in &names {
            if *other == role.name {
                continue;
            }
            let refusal = role.refusal(&format!("set role {other}")).await;
            let refused = format!("permission denied to set role \"{other}\"");
            if refusal.as_ref() != Some(&refused) {
                flaws.push(format!("{} becomes {other}: {refusal:?}", role.name));
            }
        }
    }
    assert!(flaws.is_empty(), "{flaws:#?}");
    // One right too many is found.
    let (table, role) = (&tables[0], roles.last_mut().expect("there are services"));
    assert_ne!(table.schema, role.name);
    let grant =
        format!("grant usage on schema {} to {}; grant select on {} to {1}", table.schema, role.name, table.name);
    admin.batch_execute(&grant).await.expect("it can be granted");
    // Reading succeeds, and writing is refused by the table instead of the schema.
    assert_eq!(role.flaws(&tables[..1]).await.len(), 4);
}
