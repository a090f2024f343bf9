//! Makes the first signing key and then the next ones, removes retired ones, and keeps those in memory up to date.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use common::db::{Db, Tx};
use common::{Error, Result};
use diesel::{ExpressionMethods, QueryDsl, SelectableHelper};
use diesel_async::RunQueryDsl;

use crate::App;
use crate::schema::signing_keys;
use crate::signing_key::{Rotation, SigningKey};

/// Run every minute by every replica; the lock makes them agree on one next key.
pub async fn rotate_keys(app: &App) -> Result<()> {
    app.signer.replace(up_to_date_keys(&app.db, app.rotation).await?);
    Ok(())
}

/// The keys in force, after making and removing what is due.
pub async fn up_to_date_keys(db: &Db, rotation: Rotation) -> Result<Vec<SigningKey>> {
    db.tx("rotate_keys", async |tx| {
        diesel::sql_query(include_str!("rotate_keys_lock.sql")).execute(tx).await?;
        let now = chrono::Utc::now();
        diesel::delete(signing_keys::table.filter(signing_keys::retire_at.lt(now))).execute(tx).await?;
        let keys = load(tx).await?;
        let Some(use_at) = rotation.next_use_at(&keys, now) else { return Ok(keys) };
        let pair = Ed25519KeyPair::generate().map_err(Error::fault)?;
        let private = pair.to_pkcs8().map_err(Error::fault)?;
        let next = SigningKey::new(pair.public_key().as_ref(), private.as_ref(), use_at);
        tracing::info!(kid = next.kid, %use_at, "Made a signing key");
        diesel::update(signing_keys::table.filter(signing_keys::retire_at.is_null()))
            .set(signing_keys::retire_at.eq(use_at + rotation.accept_after))
            .execute(tx)
            .await?;
        diesel::insert_into(signing_keys::table).values(next).execute(tx).await?;
        load(tx).await
    })
    .await
}

async fn load(tx: &mut Tx) -> Result<Vec<SigningKey>> {
    Ok(signing_keys::table.select(SigningKey::as_select()).load(tx).await?)
}
