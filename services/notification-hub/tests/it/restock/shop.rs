//! A hub beside an inventory that the test plays, and what its users and operators see of restocking.

use common::auth::Role;
use contract::events::{StockDepleted, StockReplenished};
use contract::inventory::StockLevel;
use contract::inventory::stock_service_server::StockServiceServer;
use reqwest::Method;
use sandbox::Sandbox;
use serde_json::{Value, json};
use testkit::{Answer, Builder, Client, Site, eventually};
use uuid::Uuid;

use crate::fake_account::FakeAccount;
use crate::fake_inventory::FakeInventory;
use crate::hub::builder;

/// The product of most tests.
pub const SNEAKER: Uuid = Uuid::from_u128(0x5eaf);

/// A round whose runner is gone is taken soon, and nobody waits for a permit.
const QUICK: [(&str, &str); 2] =
    [("notification_hub.restock.poll_ms", "50"), ("notification_hub.restock.per_second_max", "1000000")];

/// Nobody gets a permit for a while.
pub const USE_UP_THE_LIMIT: &str =
    "update {notification_hub}.restock_limit set rested_at = clock_timestamp() + interval '50 seconds'";

pub struct Shop {
    pub site: Site,
    pub account: FakeAccount,
    pub inventory: FakeInventory,
    settings: Vec<(String, String)>,
}

fn with_inventory(builder: Builder, inventory: &FakeInventory) -> Builder {
    let service = StockServiceServer::new(inventory.clone());
    builder.with(|host| host.grpc(service))
}

impl Shop {
    /// A shop in which [`SNEAKER`] is known and sold out.
    pub async fn open(settings: &[(&str, &str)]) -> Shop {
        Shop::new(settings, |builder| builder).await
    }

    /// The same on servers that the test may kill.
    pub async fn open_on(servers: &'static Sandbox, settings: &[(&str, &str)]) -> Shop {
        Shop::new(settings, |builder| builder.on(servers)).await
    }

    async fn new(settings: &[(&str, &str)], place: impl FnOnce(Builder) -> Builder) -> Shop {
        let (account, inventory) = (FakeAccount::new(), FakeInventory::new());
        inventory.set(SNEAKER, 0);
        let settings: Vec<(&str, &str)> = QUICK.iter().chain(settings).copied().collect();
        let site = place(with_inventory(builder(&account, &settings), &inventory)).start().await;
        let settings = settings.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Shop { site, account, inventory, settings }
    }

    /// One more process with the data of this shop.
    pub async fn replica(&self) -> Site {
        let builder = builder(&self.account, &[]).settings(&self.settings).namespace(self.site.namespace());
        with_inventory(builder.on(self.site.servers), &self.inventory).start().await
    }

    pub fn user(&self, number: u128) -> Client {
        self.site.user(Uuid::from_u128(number), Role::User)
    }

    /// Users 1 to `count` subscribe to [`SNEAKER`], one after the other.
    pub async fn subscribers(&self, count: i64) {
        self.subscribers_of(SNEAKER, count).await;
    }

    pub async fn subscribers_of(&self, product: Uuid, count: i64) {
        self.site
            .execute(&format!(
                "insert into {{notification_hub}}.product_user_notification (product_id, user_id)
                 select '{product}', lpad(to_hex(number), 32, '0')::uuid from generate_series(1, {count}) as number
                 order by number"
            ))
            .await;
    }

    /// [`SNEAKER`] is back, and the hub has heard of it.
    pub async fn restock(&self) -> StockLevel {
        self.restock_of(SNEAKER).await
    }

    pub async fn restock_of(&self, product: Uuid) -> StockLevel {
        let level = self.inventory.set(product, 100);
        self.site.deliver("notification-hub", &replenished(&level)).await;
        level
    }

    /// [`SNEAKER`] is gone, and the hub has heard of it.
    pub async fn sell_out(&self) -> StockLevel {
        let level = self.inventory.set(SNEAKER, 0);
        self.site.deliver("notification-hub", &depleted(&level)).await;
        level
    }

    /// What operators see of a round of [`SNEAKER`].
    pub async fn round(&self, round: i64) -> Value {
        self.site.admin().get(&rounds(&format!("/{round}"))).await.expect(200).json()
    }

    /// The round when it is not in progress any more.
    pub async fn ended(&self, round: i64) -> Value {
        eventually(&format!("round {round} ends"), async || {
            let found = self.round(round).await;
            (found["status"] != "IN_PROGRESS").then_some(found)
        })
        .await
    }

    pub async fn start_round(&self) -> Answer {
        let operator = self.site.admin();
        operator.send(operator.request(Method::POST, &rounds(""))).await
    }

    pub async fn resume(&self, round: i64) -> Answer {
        let operator = self.site.admin();
        operator.send(operator.request(Method::POST, &rounds(&format!("/{round}/resume")))).await
    }

    /// The users of a round in the order in which they were told; those who were told together in the order of their
    /// subscriptions. All of them have one alert that went out.
    pub async fn told(&self, round: i64) -> Vec<u64> {
        let told = self
            .site
            .rows(&format!(
                "select told.user_id, note.type, delivery.status
                   from {{notification_hub}}.product_user_notification_history as told
                   join {{notification_hub}}.notifications as note on note.id = told.notification_id
                   left join {{notification_hub}}.deliveries as delivery on delivery.notification_id = note.id
                  where told.product_id = '{SNEAKER}' and told.round = {round} and told.attempted_at is not null
                  order by told.attempted_at, told.subscription_id"
            ))
            .await;
        let is_sent = |row: &&Value| (&row["type"], &row["status"]) == (&json!("RESTOCK"), &json!("SUCCESS"));
        assert_eq!(told.iter().filter(is_sent).count(), told.len(), "{told:?}");
        told.iter().map(|row| row["user_id"].as_str().unwrap().parse::<Uuid>().unwrap().as_u64_pair().1).collect()
    }

    /// As if the runner of the round had not been heard of for a while.
    pub async fn end_lease(&self) {
        self.site
            .execute(
                "update {notification_hub}.product_notification_history
                 set lease_until = now() - interval '1 second' where status = 'IN_PROGRESS'",
            )
            .await;
    }
}

/// The path of [`SNEAKER`]'s rounds.
pub fn rounds(below: &str) -> String {
    format!("/admin/products/{SNEAKER}/restock-rounds{below}")
}

pub fn replenished(level: &StockLevel) -> StockReplenished {
    StockReplenished {
        product_id: level.product_id.clone(),
        stock_version: level.version,
        on_hand: level.on_hand,
        available: level.available,
        restock_round: level.restock_round,
    }
}

pub fn depleted(level: &StockLevel) -> StockDepleted {
    StockDepleted {
        product_id: level.product_id.clone(),
        stock_version: level.version,
        on_hand: level.on_hand,
        restock_round: level.restock_round,
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
