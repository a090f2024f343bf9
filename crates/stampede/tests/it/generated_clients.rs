//! Clients that generators make from the description log in, read products, order and cancel.

use std::fs;
use std::path::{Path, PathBuf};

use reqwest::Method;
use testkit::Site;
use testkit::site::PASSWORD;
use tokio::process::Command;

use crate::ledger::Ledger;
use crate::site::system;
use crate::tidy::root;

/// What a client of one language is made and run in.
struct Workshop {
    site: Site,
    folder: PathBuf,
}

impl Workshop {
    /// A folder with the description of a running site and these files of `tests/clients`.
    async fn open(language: &str, files: &[&str]) -> Workshop {
        let site = system().start().await;
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(language);
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).expect("the folder can be made");
        for file in files {
            let from = root().join("crates/stampede/tests/clients").join(file);
            fs::copy(&from, folder.join(file)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        }
        let anyone = site.anyone();
        let served = anyone.send(anyone.request_root(Method::GET, "/openapi.json")).await.expect(200);
        fs::write(folder.join("openapi.json"), served.body).expect("it can be written");
        Workshop { site, folder }
    }

    /// Runs a program in the folder.
    async fn run(&self, program: &str, arguments: &[&str]) -> String {
        let buyer = self.site.buyer().await;
        let sku = uuid::Uuid::new_v4().to_string();
        self.site.product_with(serde_json::json!({ "sku": sku, "initialStock": 10 })).await;
        let output = Command::new(program)
            .args(arguments)
            .current_dir(&self.folder)
            .envs([("API", &self.site.api), ("EMAIL", &buyer.email), ("SKU", &sku)])
            .envs([("PASSWORD", PASSWORD), ("NO_PROXY", "127.0.0.1")])
            .output()
            .await
            .unwrap_or_else(|error| panic!("{program}: {error}; ./stampede soak installs it"));
        let [out, error] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "{program} {arguments:?}: {}\n{out}\n{error}", output.status);
        assert!(!out.to_lowercase().contains("warning"), "{program} {arguments:?} warns: {out}");
        out
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: installs and runs a generator and a compiler"]
async fn a_typescript_client_that_was_generated_orders_and_cancels() {
    let files = ["package.json", "package-lock.json", "tsconfig.json", "buy.ts"];
    let workshop = Workshop::open("typescript", &files).await;
    workshop.run("npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).await;
    workshop.run("node_modules/.bin/openapi-typescript", &["openapi.json", "--output", "api.ts"]).await;
    workshop.run("node_modules/.bin/tsc", &["--project", "."]).await;
    let said = workshop.run("node", &["out/buy.js"]).await;
    assert!(said.starts_with("ordered and cancelled "), "{said}");
    workshop.site.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: installs and runs a generator"]
async fn a_python_client_that_was_generated_orders_and_cancels() {
    let workshop = Workshop::open("python", &["requirements.txt", "buy.py"]).await;
    let pinned = root().join("crates/testkit/pinned.py").display().to_string();
    let generate = ["-m", "openapi_python_client", "generate", "--path", "openapi.json", "--meta", "none"];
    let python = [pinned.as_str(), "requirements.txt"];
    let into = ["--output-path", "stampede_client", "--fail-on-warning"];
    workshop.run("/usr/bin/python3", &[&python[..], &generate, &into].concat()).await;
    let said = workshop.run("/usr/bin/python3", &[&python[..], &["buy.py"]].concat()).await;
    assert!(said.starts_with("ordered and cancelled "), "{said}");
    workshop.site.assert_consistent().await;
}
