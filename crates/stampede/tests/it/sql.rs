//! SQL against the migrated database: `schema.rs` of each service is what is there, and every statement can be prepared.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use testkit::Site;

use diesel::{QueryableByName, sql_query, sql_types};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

use stampede::audit::Ledger;
use stampede::services::SERVICES;

use crate::site::system;
use crate::tidy;

/// Migrates all schemas without starting the services.
async fn migrated() -> (Site, AsyncPgConnection) {
    let site = system().migrate().await;
    let connection = site.db(SERVICES[0].name).await.dedicated().await.expect("PostgreSQL accepts us");
    (site, connection)
}

#[derive(QueryableByName)]
struct Column {
    #[diesel(sql_type = sql_types::Text)]
    table_name: String,
    #[diesel(sql_type = sql_types::Text)]
    column_name: String,
    #[diesel(sql_type = sql_types::Text)]
    udt_name: String,
    #[diesel(sql_type = sql_types::Bool)]
    is_nullable: bool,
    /// Its place in the primary key; 0 for the others.
    #[diesel(sql_type = sql_types::Integer)]
    key_place: i32,
}

#[derive(QueryableByName)]
struct ForeignKey {
    #[diesel(sql_type = sql_types::Text)]
    child: String,
    #[diesel(sql_type = sql_types::Text)]
    parent: String,
    #[diesel(sql_type = sql_types::Text)]
    column_name: String,
}

/// The tables that every schema has; `common` asks about them in SQL.
const OF_COMMON: &str = "'__diesel_schema_migrations', 'outbox_events', 'outbox_broker', 'inbox', 'parked'";

/// `crates/entry` reads and writes a table of the service that it is part of.
#[test]
fn the_table_of_sale_events_is_the_same_in_each_service_that_lets_buyers_in() {
    let read = |path: &str| fs::read_to_string(tidy::root().join(path)).expect("it is there");
    let shared = read("crates/entry/src/schema.rs");
    let table = shared.find("diesel::table!").map(|at| shared[at..].trim()).expect("it has a table");
    let lets_in = |name: &str| read(&format!("services/{name}/Cargo.toml")).contains("\nentry.workspace");
    let services: Vec<&str> = SERVICES.iter().map(|service| service.name).filter(|name| lets_in(name)).collect();
    assert!(services.len() > 1, "order and inventory were not found: {services:?}");
    for name in services {
        let own = read(&format!("services/{name}/src/schema.rs"));
        assert!(own.contains(table), "services/{name}/src/schema.rs has another table of sale events");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_of_each_service_is_what_its_migrations_make() {
    let (site, mut connection) = migrated().await;
    let mut stale = Vec::new();
    for service in SERVICES {
        let schema = site.schema(service.name);
        let columns: Vec<Column> = sql_query(format!(
            "select columns.table_name::text, columns.column_name::text, columns.udt_name::text,
                    columns.is_nullable = 'YES' as is_nullable,
                    coalesce(array_position(index.indkey::int[], attribute.attnum::int), -1)::int + 1 as key_place
               from information_schema.columns
               join pg_class as class on class.relname = columns.table_name and class.relkind = 'r'
                and class.relnamespace = '\"{schema}\"'::regnamespace
               join pg_attribute as attribute
                 on attribute.attrelid = class.oid and attribute.attname = columns.column_name
               left join pg_index as index on index.indrelid = class.oid and index.indisprimary
              where columns.table_schema = '{schema}' and columns.table_name not in ({OF_COMMON})
              order by columns.table_name, columns.ordinal_position"
        ))
        .load(&mut connection)
        .await
        .expect("the catalogue answers");
        let keys: Vec<ForeignKey> = sql_query(format!(
            "select child.relname::text as child, parent.relname::text as parent, attribute.attname::text as column_name
               from pg_constraint as key
               join pg_class as child on child.oid = key.conrelid
               join pg_class as parent on parent.oid = key.confrelid
               join pg_attribute as attribute on attribute.attrelid = key.conrelid and attribute.attnum = key.conkey[1]
              where key.contype = 'f' and cardinality(key.conkey) = 1 and child.oid <> parent.oid
                and child.relnamespace = '\"{schema}\"'::regnamespace
              order by 1, 2, 3"
        ))
        .load(&mut connection)
        .await
        .expect("the catalogue answers");
        let expected = schema_file(service.name, &columns, &keys);
        let path = tidy::root().join(format!("services/{}/src/schema.rs", service.name));
        if fs::read_to_string(&path).unwrap_or_default() != expected {
            let new = testkit::servers::folder(&format!("{}-schema.rs", service.name));
            fs::write(&new, expected).expect("the temporary folder can be written");
            stale.push(format!("cp {} {}", new.display(), path.display()));
        }
    }
    assert!(stale.is_empty(), "these files are not what the migrations make; to mend them:\n{}", stale.join("\n"));
}

/// `schema.rs` as Diesel's own `print-schema` writes it, but that arrays have no nulls and `type` is called `kind`.
fn schema_file(service: &str, columns: &[Column], keys: &[ForeignKey]) -> String {
    let mut tables: BTreeMap<&str, Vec<&Column>> = BTreeMap::new();
    for column in columns {
        tables.entry(&column.table_name).or_default().push(column);
    }
    let mut text = format!("//! The tables of schema `{service}`, made from its migrations; a test compares them.\n");
    for (table, columns) in &tables {
        let mut key: Vec<_> = columns.iter().filter(|column| column.key_place > 0).collect();
        key.sort_by_key(|column| column.key_place);
        let key: Vec<&str> = key.iter().map(|column| rust_name(&column.column_name)).collect();
        let _ = write!(text, "\ndiesel::table! {{\n    {table} ({}) {{\n", key.join(", "));
        for Column { column_name, udt_name, is_nullable, .. } in columns {
            let name = rust_name(column_name);
            if name != column_name {
                let _ = writeln!(text, "        #[sql_name = \"{column_name}\"]");
            }
            let plain = diesel_type(udt_name);
            let kind = if *is_nullable { format!("Nullable<{plain}>") } else { plain };
            let _ = writeln!(text, "        {name} -> {kind},");
        }
        text.push_str("    }\n}\n");
    }
    let parents: BTreeMap<(&str, &str), BTreeSet<&str>> = keys.iter().fold(BTreeMap::new(), |mut parents, key| {
        parents.entry((key.child.as_str(), key.parent.as_str())).or_insert_with(BTreeSet::new).insert(&key.column_name);
        parents
    });
    let single: Vec<_> = parents.iter().filter(|(_, columns)| columns.len() == 1).collect();
    if !single.is_empty() {
        text.push('\n');
    }
    for ((child, parent), columns) in single {
        let column = columns.first().expect("there is one");
        let _ = writeln!(text, "diesel::joinable!({child} -> {parent} ({column}));");
    }
    let names: Vec<&str> = tables.keys().copied().collect();
    if names.len() > 1 {
        let one_line = format!("\ndiesel::allow_tables_to_appear_in_same_query!({});\n", names.join(", "));
        let lines: String = names.iter().map(|name| format!("    {name},\n")).collect();
        let many = format!("\ndiesel::allow_tables_to_appear_in_same_query!(\n{lines});\n");
        text.push_str(if one_line.len() <= 122 { &one_line } else { &many });
    }
    text
}

fn rust_name(column: &str) -> &str {
    if column == "type" { "kind" } else { column }
}

fn diesel_type(udt: &str) -> String {
    let plain = match udt.trim_start_matches('_') {
        "uuid" => "Uuid",
        "text" => "Text",
        "int8" => "BigInt",
        "int4" => "Integer",
        "int2" => "SmallInt",
        "float8" => "Double",
        "bool" => "Bool",
        "bytea" => "Bytea",
        "jsonb" => "Jsonb",
        "date" => "Date",
        "timestamptz" => "Timestamptz",
        other => panic!("add the type {other} to this list"),
    };
    if udt.starts_with('_') { format!("Array<{plain}>") } else { plain.to_owned() }
}

/// A statement of ours, and how many parameters the code around it binds where that can be seen.
struct Statement {
    place: String,
    text: String,
    bound: Option<usize>,
}

#[derive(QueryableByName)]
struct Parameters {
    #[diesel(sql_type = sql_types::Integer)]
    parameters: i32,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_can_be_prepared_and_gets_as_many_parameters_as_it_has() {
    let (site, mut connection) = migrated().await;
    let ledger = Ledger::open(&site.settings()).await.expect("PostgreSQL accepts us");
    let statements = statements();
    assert!(statements.len() > 100, "only {} statements were found", statements.len());
    let mut broken = Vec::new();
    for (number, Statement { place, text, bound }) in statements.iter().enumerate() {
        let owner = SERVICES.iter().find(|service| place.starts_with(&format!("services/{}/", service.name)));
        // Statements of `common` fit every schema; those of the stampede crate say which one, or need the accounts.
        let default = if place.starts_with("crates/stampede/") { "account" } else { "order" };
        let schema = site.schema(owner.map_or(default, |service| service.name));
        let text = ledger.spelt(text);
        let prepare =
            format!("set search_path = \"{schema}\"; prepare s{number} as {}", text.trim().trim_end_matches(';'));
        if let Err(error) = connection.batch_execute(&prepare).await {
            broken.push(format!("{place}: {error}"));
            continue;
        }
        let found: Parameters = sql_query(format!(
            "select cardinality(parameter_types) as parameters from pg_prepared_statements where name = 's{number}'"
        ))
        .get_result(&mut connection)
        .await
        .expect("it was just prepared");
        let found = usize::try_from(found.parameters).expect("a count");
        if bound.is_some_and(|bound| bound != found) {
            broken.push(format!("{place}: {found} parameters, {} values are bound", bound.unwrap_or_default()));
        }
    }
    tidy::holds("Every statement fits the migrated schemas.", broken);
}

/// All statements: each `.sql` file beside a flow, and each text that the code gives to `sql_query`.
fn statements() -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut binds: BTreeMap<String, usize> = BTreeMap::new();
    for source in tidy::sources() {
        let code = source.code();
        for (start, _) in code.match_indices("sql_query(") {
            let rest = code[start + "sql_query(".len()..].trim_start();
            let line = code[..start].lines().count();
            let place = format!("{}:{line}", source.path);
            if let Some(file) = rest.strip_prefix("include_str!(\"") {
                let name = file.split('"').next().expect("split yields at least one part");
                if let Some(bound) = bound_in(rest) {
                    binds.insert(format!("{}/{name}", source.folder()), bound);
                }
            } else if let Some(text) = literal(rest).filter(|text| is_preparable(text)) {
                statements.push(Statement { place, text, bound: bound_in(rest) });
            }
        }
    }
    let files = tidy::files("sql").into_iter().filter(|file| !file.path.starts_with("migrations/"));
    for file in files.filter(|file| !TRIED_BY_BENCHES.contains(&file.path.as_str())) {
        let bound = binds.get(&file.path).copied();
        statements.push(Statement { place: file.path.clone(), text: file.text.clone(), bound });
    }
    statements
}

/// What the benches give to pgbench has several statements in a file, and one statement needs an extension. A run of the
/// benches tries them.
const TRIED_BY_BENCHES: [&str; 8] = [
    "crates/stampede/src/bench/coupons_scratch.sql",
    "crates/stampede/src/bench/hub_scratch.sql",
    "crates/stampede/src/bench/naive_coupon.sql",
    "crates/stampede/src/bench/naive_notification.sql",
    "crates/stampede/src/bench/naive_hot_row.sql",
    "crates/stampede/src/bench/no_hot_row.sql",
    "crates/stampede/src/bench/scratch.sql",
    "crates/stampede/src/bench/statements.sql",
];

/// Settings of a session cannot be prepared.
fn is_preparable(text: &str) -> bool {
    !text.trim_start().starts_with("set ")
}

/// The string literal that `rest` begins with, as the compiler reads it. None if it begins with something else.
fn literal(rest: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = rest.strip_prefix('"')?.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' => return Some(text),
            '\\' => match characters.next()? {
                'n' => text.push('\n'),
                '\n' => while characters.next_if(|next| next.is_whitespace()).is_some() {},
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
    None
}

/// How many values the expression that `rest` begins with binds before it runs. None if it is run elsewhere.
fn bound_in(rest: &str) -> Option<usize> {
    const RUNS: [&str; 5] = [".execute(", ".load(", ".load::<", ".get_result(", ".get_results("];
    let end = rest.find(';').unwrap_or(rest.len());
    let expression = &rest[..end];
    let runs = RUNS.iter().filter_map(|run| expression.find(run)).min()?;
    Some(expression[..runs].matches(".bind::<").count())
}
