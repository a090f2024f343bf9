//! `stampede dev`: the whole product on this machine, with something in the shop and people to log in as.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use sandbox::KafkaChoice;
use serde_json::{Value, json};

use crate::site::{Site, SiteOptions};

#[derive(Args)]
pub struct DevArgs {
    /// Where everything is kept, so that a second start finds its data again.
    #[arg(long, default_value = ".stampede")]
    pub data_dir: PathBuf,
    /// Forget what an earlier run left first.
    #[arg(long)]
    pub fresh: bool,
    /// Remove all data at the end.
    #[arg(long)]
    pub ephemeral: bool,
    /// One process per service behind a gateway, as in Kubernetes.
    #[arg(long)]
    pub split: bool,
    /// The port that clients use.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// The broker: auto, apache or embedded. The setting sandbox.kafka unless told.
    #[arg(long)]
    pub kafka: Option<KafkaChoice>,
}

/// What is in the shop of a fresh site: sku, name, price in won, units, units for each buyer.
const PRODUCTS: [(&str, &str, i64, i64, Option<i32>); 3] = [
    ("HOT-DROP-1", "한정판 스니커즈 (Limited sneaker)", 129_000, 500, Some(2)),
    ("PLAIN-TEE-1", "무지 티셔츠 (Plain tee)", 19_000, 10_000, None),
    ("LAST-ONE-1", "마지막 하나 (The last one)", 990_000, 1, None),
];

pub async fn dev(args: DevArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let kafka = match args.kafka {
        Some(kafka) => kafka,
        None => crate::site::kafka_choice(config)?,
    };
    let data_dir = sandbox::reachable_data_dir(&std::path::absolute(&args.data_dir)?);
    eprintln!("Starting PostgreSQL, Redis, Kafka and the services …");
    let starting = Site::start(SiteOptions {
        data_dir,
        fresh: args.fresh,
        ephemeral: args.ephemeral,
        split: args.split,
        kafka,
        config: config.to_vec(),
        overrides: vec![
            ("host.http_listen".to_owned(), format!("127.0.0.1:{}", args.port)),
            ("host.grpc_listen".to_owned(), "127.0.0.1:0".to_owned()),
        ],
    });
    let site = tokio::select! {
        site = starting => site?,
        () = common::host::shutdown_signal() => return Ok(ExitCode::SUCCESS),
    };
    let shop = Shop::open(&site).await?;
    print_banner(&site, &shop);
    common::host::shutdown_signal().await;
    eprintln!("Stopping …");
    site.stop().await?;
    Ok(ExitCode::SUCCESS)
}

struct Shop {
    /// E-mail, role, password, access token.
    people: Vec<(String, String, String, String)>,
    hot_product: String,
}

impl Shop {
    async fn open(site: &Site) -> anyhow::Result<Shop> {
        let client = reqwest::Client::new();
        let accounts: Vec<Value> = site.settings().section("account.demo_accounts")?;
        let mut people = Vec::new();
        for account in &accounts {
            let text = |name: &str| account[name].as_str().unwrap_or_default().to_owned();
            let login = json!({ "email": text("email"), "password": text("password") });
            let answer = post(&client, site.api(), "/auth/login", None, None, &login).await?;
            let token = answer["accessToken"].as_str().context("the login answered without a token")?.to_owned();
            people.push((text("email"), text("role"), text("password"), token));
        }
        let admin = people.iter().find(|(_, role, ..)| role == "ADMIN").context("the demo has no admin")?;
        for (sku, name, price, stock, max_per_user) in PRODUCTS {
            let mut product = json!({
                "sku": sku, "name": name, "price": { "amount": price, "currency": "KRW" }, "initialStock": stock,
            });
            if let Some(max) = max_per_user {
                product["maxPerUser"] = max.into();
            }
            match post(&client, site.api(), "/admin/products", Some(&admin.3), Some(sku), &product).await {
                Err(error) if error.to_string().contains("SKU_ALREADY_EXISTS") => {}
                other => drop(other?),
            }
        }
        let listed = client.get(format!("{}/api/v1/products?q={}", site.api(), PRODUCTS[0].0)).send().await?;
        let listed: Value = listed.json().await?;
        let hot = listed["content"].as_array().and_then(|found| found.first()).context("the hot product is missing")?;
        let hot_product = hot["productId"].as_str().context("a product without an id")?.to_owned();
        Ok(Shop { people, hot_product })
    }
}

async fn post(
    client: &reqwest::Client,
    api: &str,
    path: &str,
    token: Option<&str>,
    key: Option<&str>,
    body: &Value,
) -> anyhow::Result<Value> {
    let mut request = client.post(format!("{api}/api/v1{path}")).json(body);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    let response = request.send().await?;
    let status = response.status();
    let answer: Value = response.json().await.unwrap_or_default();
    anyhow::ensure!(status.is_success(), "POST {path} answered {status}: {answer}");
    Ok(answer)
}

fn print_banner(site: &Site, shop: &Shop) {
    let api = site.api();
    println!("\nStampede is running. Not for production: everything is on this machine and the passwords are known.\n");
    println!("  API            {api}/api/v1");
    let services = site.services();
    if services.is_empty() {
        println!("  Documentation  {api}/docs/   (OpenAPI: {api}/openapi.json)");
        println!("  Metrics        {api}/metrics");
    }
    for (name, address) in services {
        println!("  {name:<16} {address}   with its own /docs/, /openapi.json, /metrics and /readyz");
    }
    for server in site.sandbox().iter().flat_map(|sandbox| sandbox.describe()) {
        let pid = server.pid.map(|pid| format!("pid {pid}")).unwrap_or_default();
        println!("  {:<14} {}  {pid}", server.name, hide_password(&server.url));
    }
    if let Some(sandbox) = site.sandbox() {
        println!("  {:<14} {}  (payment provider and Slack)", "Fakes", sandbox.fakes_url());
    }
    println!("  Data           {}", site.data_dir().display());
    if let Some(log_dir) = site.log_dir() {
        println!("  Logs           {}", log_dir.display());
    }
    println!("\n  Demo accounts (the tokens are good for a quarter of an hour; log in again for another):");
    for (email, role, password, token) in &shop.people {
        println!("    {role:<6} {email}  password {password}\n           {token}");
    }
    let buyer = shop.people.iter().find(|(_, role, ..)| role == "USER").map(|(.., token)| token.as_str());
    println!("\n  Look around, order, order again with the same key, and read it back:\n");
    println!("    curl -s {api}/api/v1/products/{}\n", shop.hot_product);
    println!(
        "    curl -si {api}/api/v1/orders -H 'Authorization: Bearer {}' \\\n      -H 'Idempotency-Key: my-first-order' -H 'Content-Type: application/json' \\\n      -d '{{\"items\":[{{\"productId\":\"{}\",\"quantity\":1}}]}}'\n",
        buyer.unwrap_or("TOKEN"),
        shop.hot_product
    );
    println!("    curl -s {api}/api/v1/notifications -H 'Authorization: Bearer {}'\n", buyer.unwrap_or("TOKEN"));
    println!("  In another terminal: ./stampede rush (20,000 buyers for 1,000 units), ./stampede audit.");
    println!("  Ctrl-C stops everything.\n");
}

fn hide_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, address))) => format!("{scheme}://…@{address}"),
        _ => url.to_owned(),
    }
}

/// Where a data folder is unless told.
pub fn data_dir(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let given = given.unwrap_or_else(|| Path::new(".stampede"));
    Ok(sandbox::reachable_data_dir(&std::path::absolute(given)?))
}
