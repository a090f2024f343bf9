//! A hub beside an inventory that the test plays, and what its users and operators see of restocking.

use common::auth::Role;
use contract::inventory::stock_service_server::StockServiceServer;
use reqwest::Method;
use serde_json::Value;
use testkit::{Answer, Client, Site};
use uuid::Uuid;

use crate::fake_account::FakeAccount;
use crate::fake_inventory::FakeInventory;
use crate::hub::builder;

/// The product of most tests.
pub const SNEAKER: Uuid = Uuid::from_u128(0x5eaf);

pub struct Shop {
    pub site: Site,
    pub inventory: FakeInventory,
}

impl Shop {
    /// A shop in which [`SNEAKER`] is known and sold out.
    pub async fn open(settings: &[(&str, &str)]) -> Shop {
        let (account, inventory) = (FakeAccount::new(), FakeInventory::new());
        inventory.set(SNEAKER, 0);
        let service = StockServiceServer::new(inventory.clone());
        let site = builder(&account, settings).with(|host| host.grpc(service)).start().await;
        Shop { site, inventory }
    }

    pub fn user(&self, number: u128) -> Client {
        self.site.user(Uuid::from_u128(number), Role::User)
    }
}

fn path(product: Uuid) -> String {
    format!("/products/{product}/restock-subscriptions")
}

pub async fn subscribe(user: &Client, product: Uuid) -> Answer {
    user.send(user.request(Method::POST, &path(product))).await
}

pub async fn unsubscribe(user: &Client, product: Uuid) -> Answer {
    user.send(user.request(Method::DELETE, &path(product))).await
}

/// What `user` is subscribed to: the page at `query`.
pub async fn subscriptions(user: &Client, query: &str) -> Value {
    user.get(&format!("/me/restock-subscriptions{query}")).await.expect(200).json()
}
