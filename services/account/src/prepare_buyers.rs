//! Buyers for load tests, by the thousand. Not reachable from outside: it needs the database itself.

use chrono::Utc;
use common::Result;
use common::auth::{AuthSettings, Role};
use common::db::Db;
use contract::ids::AccountId;
use diesel::{QueryDsl, SelectableHelper, sql_types};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::account::NO_PASSWORD;
use crate::schema::signing_keys;
use crate::signing_key::{SigningKey, TokenSigner};

/// Users of one statement: large enough for the disk, small enough for the statement time-out.
const CHUNK: usize = 5000;

/// Somebody who can buy at once.
#[derive(Debug, Clone)]
pub struct PreparedBuyer {
    pub account: AccountId,
    /// Valid for `auth.access_token_minutes` from when it was prepared.
    pub access_token: String,
}

/// Makes `count` new buyers and their access tokens. They have no password: nobody can log in as one of them.
///
/// For operators with access to the database of `account`, whose signing key this reads; a transient fault if the
/// account service has never been started on it. Registering as many over HTTP would measure argon2 and nothing else.
pub async fn prepare_buyers(db: &Db, auth: &AuthSettings, count: usize) -> Result<Vec<PreparedBuyer>> {
    let keys: Vec<SigningKey> = {
        let mut conn = db.read().await?;
        signing_keys::table.select(SigningKey::as_select()).load(&mut *conn).await?
    };
    let signer = TokenSigner::new(auth, keys);
    let mut buyers = Vec::with_capacity(count);
    while buyers.len() < count {
        let accounts: Vec<Uuid> = (buyers.len()..count).take(CHUNK).map(|_| Uuid::now_v7()).collect();
        let insert = diesel::sql_query(include_str!("prepare_buyers.sql"))
            .bind::<sql_types::Text, _>(NO_PASSWORD)
            .bind::<sql_types::Array<sql_types::Uuid>, _>(accounts.clone());
        db.tx("prepare_buyers", async |tx| Ok(insert.execute(tx).await?)).await?;
        for account in accounts.into_iter().map(AccountId::from) {
            let access_token = signer.mint(account, Role::User, Uuid::new_v4(), Utc::now())?;
            buyers.push(PreparedBuyer { account, access_token });
        }
    }
    Ok(buyers)
}
