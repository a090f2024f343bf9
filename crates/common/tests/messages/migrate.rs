//! Processes that migrate a database take turns, and no turn depends on who waits for the next one.

use common::crash;
use common::host::MIGRATIONS;
use diesel_async::SimpleAsyncConnection;

use crate::scenario::Scenario;

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_built_concurrently_while_another_process_waits_for_its_turn() {
    let scenario = Scenario::new("turn").await;
    let mut migrating = scenario.db.dedicated().await.unwrap();
    // The index waits for the transactions of other tests, however long they take.
    migrating.batch_execute("set statement_timeout = 0; set lock_timeout = 0").await.unwrap();
    migrating.batch_execute("select pg_advisory_lock(hashtext('stampede migrations'))").await.unwrap();

    let next = scenario.another_db().await;
    let schema = next.schema().to_owned();
    let mut waits = crash::pause(&schema, "migrate.waits");
    let waiting = tokio::spawn(async move { next.migrate([MIGRATIONS]).await });
    waits.reached().await;
    waits.resume();
    let index = "create index concurrently accounts_version on accounts (version)";
    migrating.batch_execute(index).await.expect("it does not wait for who waits for it");
    assert!(!waiting.is_finished(), "it migrates only when the other one is done");
    drop(migrating);
    waiting.await.unwrap().unwrap();
}
