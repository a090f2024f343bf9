//! Accounts that exist from the start because the settings say so: for a demonstration, for a first administrator.

use anyhow::Context;
use common::auth::Role;
use common::text::Text;
use contract::ids::AccountId;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::App;
use crate::account::{Email, check_new_password};
use crate::register::{create, is_taken};

/// An item of `account.demo_accounts`: a table, or where a text is needed (environment) `ROLE:email:name:password`.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Item")]
pub struct DemoAccount(Result<Parts, String>);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    email: String,
    password: SecretString,
    name: Text<1, 100>,
    role: Role,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Item {
    Table(Parts),
    Line(SecretString),
}

impl From<Item> for DemoAccount {
    fn from(item: Item) -> Self {
        match item {
            Item::Table(parts) => DemoAccount(Ok(parts)),
            Item::Line(line) => DemoAccount(parse(line.expose_secret())),
        }
    }
}

/// The password comes last, so that it may contain colons.
fn parse(line: &str) -> Result<Parts, String> {
    let parts: Vec<&str> = line.splitn(4, ':').collect();
    let [role, email, name, password] = parts[..] else { return Err("must be ROLE:email:name:password".to_owned()) };
    Ok(Parts {
        email: email.to_owned(),
        password: password.to_owned().into(),
        name: Text::parse(name).map_err(|error| format!("name {error}"))?,
        role: Role::from_name(role).ok_or("role must be USER or ADMIN")?,
    })
}

/// Creates those that are missing. An account that is there stays as it is, its password included.
pub async fn create_demo_accounts(app: &App, accounts: Vec<DemoAccount>) -> anyhow::Result<()> {
    for (index, DemoAccount(parts)) in accounts.into_iter().enumerate() {
        let named = || format!("account.demo_accounts[{index}]");
        let Parts { email, password, name, role } = parts.map_err(anyhow::Error::msg).with_context(named)?;
        let email = Email::parse(&email).map_err(|refused| anyhow::anyhow!(refused.message)).with_context(named)?;
        let password_fits = check_new_password(password.expose_secret());
        password_fits.map_err(|refused| anyhow::anyhow!(refused.message)).with_context(named)?;
        if is_taken(app, &email).await? {
            continue;
        }
        let account = AccountId::generate();
        if create(app, account, &email, name.as_str(), password, role).await? {
            tracing::info!(userId = %account, role = role.name(), "Created a demo account");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_and_a_table_say_the_same() {
        let table = serde_json::json!({ "email": "a@b", "password": "pass:word", "name": "Ann", "role": "ADMIN" });
        for item in [table, serde_json::json!("ADMIN:a@b:Ann:pass:word")] {
            let DemoAccount(parts) = serde_json::from_value(item).unwrap();
            let parts = parts.unwrap();
            assert_eq!((&*parts.email, parts.name.as_str(), parts.role), ("a@b", "Ann", Role::Admin));
            assert_eq!(parts.password.expose_secret(), "pass:word");
        }
    }

    #[test]
    fn a_line_that_is_not_an_account_says_why() {
        for line in ["", "ADMIN", "ROOT:a@b:Ann:password", "USER:a@b::password"] {
            let DemoAccount(parts) = serde_json::from_value(serde_json::json!(line)).unwrap();
            assert!(parts.is_err(), "{line}");
        }
    }
}
