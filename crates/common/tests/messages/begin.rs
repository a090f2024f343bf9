//! A transaction begins without waiting for PostgreSQL's answer. What happens when the begin fails.

use common::Error;
use common::db::Tx;
use diesel::sql_query;
use diesel_async::RunQueryDsl;
use testkit::servers;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

use crate::scenario::Scenario;

const BEGIN: &[u8] = b"BEGIN READ WRITE";
/// As long, and an error that leaves the connection as it is.
const FAILS: &[u8] = b"BEGIN NO SUCH  X";

/// The way to PostgreSQL for one connection after the other, on which every begin of a transaction fails.
///
/// A begin is passed on together with what follows it. So its answer never comes before its first statement is sent.
async fn failing_begins(server: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            let ((mut asked, mut to_client), (mut answered, mut to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move { copy(&mut answered, &mut to_client).await });
            tokio::spawn(async move {
                let mut bytes = Vec::with_capacity(64 * 1024);
                while let Ok(1..) = asked.read_buf(&mut bytes).await {
                    let found = bytes.windows(BEGIN.len()).position(|window| window == BEGIN);
                    if let Some(place) = found {
                        bytes[place..place + BEGIN.len()].copy_from_slice(FAILS);
                    }
                    if bytes.strip_suffix(b"\0").is_some_and(|asked| asked.ends_with(FAILS)) {
                        continue;
                    }
                    if to_server.write_all(&bytes).await.is_err() {
                        return;
                    }
                    bytes.clear();
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_begin_fails_on_a_connection_that_lives_changes_nothing() {
    let scenario = Scenario::new("begin").await;
    let url = servers::shared().await.postgres_url();
    let (before, server) = url.split_once('@').unwrap();
    let (server, database) = server.split_once('/').unwrap();
    let failing = failing_begins(server.to_owned()).await;
    let db = scenario.db_at(format!("{before}@{failing}/{database}")).await;
    Scenario::execute(&scenario, "insert into accounts values ('known', 1)").await;

    let statements = [
        "insert into accounts values ('new', 1)",
        "update accounts set version = 2",
        "with raised as (update accounts set version = 2 returning account) select account from raised",
        "select account from accounts for update",
    ];
    for statement in statements {
        let refused: Error =
            db.tx("test", async |tx: &mut Tx| Ok(sql_query(statement).execute(tx).await?)).await.expect_err(statement);
        assert!(refused.is_transient(), "{statement}: {refused}");
        assert!(refused.to_string().contains("read-only transaction"), "{statement}: {refused}");
    }
    assert_eq!(scenario.number("select count(*) from accounts where version = 1 and account = 'known'").await, 1);
    assert_eq!(scenario.number("select count(*) from accounts").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_a_transaction_a_pool_writes_nothing() {
    let scenario = Scenario::new("begin").await;
    let mut conn = scenario.db.read().await.unwrap();
    let refused = sql_query("insert into accounts values ('new', 1)").execute(&mut conn).await.unwrap_err();
    assert!(refused.to_string().contains("read-only transaction"), "{refused}");
    assert_eq!(scenario.number("select count(*) from accounts").await, 0);
}
