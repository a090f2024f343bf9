//! The commands of operators where each service has a role of its own, as in a cluster: the role of operators reads and mends what is
//! of all services, and the role of a service what is its own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use serde_json::Value;
use stampede::doctor::{self, Level};
use stampede::services::{self, SERVICES};
use testkit::{Site, fresh_key, text};

use super::Place;
use crate::deployment::{name, of_kind, rendered, texts};
use crate::doctor::with;
use crate::ledger::Ledger as _;
use crate::site::system;
use crate::tidy::root;

/// The password of every role here.
const PASSWORD: &str = "only-for-tests";

/// Gives each schema of `site` to the role of its service, and makes the role of operators as the manifests for production have
/// it. The names begin with the namespace, since the server is everybody's.
async fn make_roles(site: &Site, place: &Place) {
    let own = place.stampede("roles").await.expect(0, &["The service order"]).out;
    let cluster = of_kind(&rendered().overlays["prod"], "Cluster").next().expect("production has a PostgreSQL");
    let roles = cluster["spec"]["managed"]["roles"].as_array().expect("it has roles");
    let role = roles.iter().find(|role| role["name"] == "operator").expect("operators have one");
    let rights = ["superuser", "createrole", "createdb", "bypassrls", "replication"];
    assert!(rights.iter().all(|right| role[right].is_null()) && role["login"] == true, "{role}");
    let groups = texts(&role["inRoles"]).join(", ");
    let space = site.namespace();
    site.execute(&format!(
        "{own}; create role \"{space}operator\" login password '{PASSWORD}' in role {groups};
         alter role \"{space}order\" password '{PASSWORD}'"
    ))
    .await;
}

fn url_of(site: &Site, role: &str) -> String {
    let postgres = site.servers.postgres_url();
    let (_, server) = postgres.split_once('@').expect("the address has a user");
    format!("postgres://{}{role}:{PASSWORD}@{server}", site.namespace())
}

/// A place whose commands have this role, and a payment provider that shows nobody its book, as a real one.
async fn place_of(site: &Site, role: &str) -> Place {
    Place::new(role)
        .await
        .set("host.namespace", site.namespace())
        .set("postgres.url", &url_of(site, role))
        .set("payment.naverpay.url", "https://127.0.0.1:1")
}

/// Has Kafka refuse the order's first event, as it seems.
async fn kill_event(site: &Site) {
    site.settled().await;
    site.execute("update {order}.outbox_events set status = 'DEAD' where topic = 'ORDER_CREATED'").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_mend_all_services_and_a_service_its_own_events_alone() {
    let site = system().start().await;
    make_roles(&site, &Place::new("roles").await.set("host.namespace", site.namespace())).await;
    let (product, buyer) = (site.product(1).await, site.buyer().await);
    let order = text(&buyer.order(&fresh_key(), &product, 1).await.expect(201).json()["orderId"]);
    kill_event(&site).await;
    the_role_of_a_service_is_told_what_it_may_not(&site, &order).await;

    kill_event(&site).await;
    let operator = place_of(&site, "operator").await;
    let story = [order.as_str(), "UNITS HELD", "EVENT ORDER_CREATED", "status DEAD"];
    operator.stampede(&format!("trace order {order} --data-dir {{data}}")).await.expect(0, &story);
    let stats = ["account: 0 pending, 0 dead", "order: 0 pending, 1 dead", "queue: 0 pending, 0 dead"];
    operator.stampede("events --data-dir {data} stats").await.expect(0, &stats);
    let audit = "audit --servers --settle-seconds 0 --output json";
    let found = operator.stampede(audit).await.expect(4, &[]).json();
    let violated = |report: &Value| -> Vec<String> {
        let findings = report["invariants"].as_array().expect("it lists them").iter();
        findings.filter(|finding| finding["value"] != 0).map(|finding| text(&finding["name"])).collect()
    };
    assert_eq!(violated(&found), ["I11"], "{found}");
    let mended = ["account: 0 dead events", "order: 1 dead events get another try"];
    operator.stampede("events --data-dir {data} redrive").await.expect(0, &mended);
    site.settled().await;
    let found = operator.stampede(audit).await.expect(0, &[]).json();
    assert_eq!((violated(&found), &found["verdict"]), (Vec::new(), &"PASS".into()), "{found}");
    operator.stampede("events --data-dir {data} parked").await.expect(0, &[]);
    let nothing = ["nothing is parked for a consumer notification-hub; `stampede events parked`"];
    operator.stampede("events --data-dir {data} unpark notification-hub").await.expect(0, &nothing);
    operator.stampede("events --data-dir {data} replay --since 2026-01-01T00:00:00Z").await.expect(0, &["order: "]);
    site.settled().await;
}

/// It reads and mends what is its own, and a command that would fail in the middle does nothing.
async fn the_role_of_a_service_is_told_what_it_may_not(site: &Site, order: &str) {
    let service = place_of(site, "order").await;
    let space = site.namespace();
    let closed =
        format!("the role {space}order may not read {space}account, {space}inventory, {space}coupon, {space}payment");
    let unchanged = format!("the role {space}order may not change {space}account");
    service.stampede("events --data-dir {data} stats").await.expect(1, &[&closed, "--service"]);
    service.stampede("events --data-dir {data} redrive").await.expect(1, &[&unchanged, "role of operators"]);
    service.stampede("events --data-dir {data} redrive --service account").await.expect(1, &[&unchanged]);
    service.stampede("events --data-dir {data} redrive --service order,account").await.expect(1, &[&unchanged]);
    service.stampede(&format!("trace order {order} --data-dir {{data}}")).await.expect(3, &[&closed]);
    service.stampede("audit --servers").await.expect(3, &[&closed]);
    service.stampede("events --data-dir {data} stats --service nobody").await.expect(2, &["the services are account"]);

    let stats = service.stampede("events --data-dir {data} --service order stats").await;
    assert_eq!(stats.expect(0, &["order: 0 pending, 1 dead"]).out.lines().count(), 1, "of one service");
    service.stampede("events --data-dir {data} parked --service order").await.expect(0, &[]);
    let mended = ["order: 1 dead events get another try"];
    service.stampede("events --data-dir {data} redrive --service order").await.expect(0, &mended);

    let left_out = format!("{closed}, {space}notification_hub, {space}queue: these services are left out");
    let looked_at = ["schemas     WARNING", &left_out, "-> name the service of this process with --service"];
    let examined = async |named: &[&str]| {
        let named: Vec<_> = named.iter().map(|name| services::find(name).expect("it is a service")).collect();
        let settings = with(site, &[("postgres.url", &url_of(site, "order"))]);
        doctor::examine(Ok(settings), &named, Duration::from_millis(50)).await
    };
    let (all, foreign) = (examined(&[]).await, examined(&["order", "payment"]).await);
    assert!(looked_at.iter().all(|text| all.text().contains(text)), "{}", all.text());
    assert_eq!(all.worst(), Level::Warning, "its own schema is as it should be");
    let refused = format!("schemas     ERROR    the role {space}order may not read {space}payment\n");
    assert!(foreign.text().contains(&refused), "{}", foreign.text());
    let sound = service.stampede("doctor --data-dir {data} --service order").await.expect(0, &["schemas     ok"]);
    assert!(!sound.out.contains("may not read"), "{sound}");
}

/// As docs/scaling.md says of databases that are divided by service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_need_no_common_database_and_what_compares_services_names_the_one_that_is_elsewhere() {
    let shared = testkit::servers::shared().await.postgres_url();
    let (server, _) = shared.rsplit_once('/').expect("the address names a database");
    let database = format!("divided_{}", std::process::id());
    let own = format!("{server}/{database}");
    let mut admin = AsyncPgConnection::establish(&shared).await.expect("PostgreSQL is there");
    admin.batch_execute(&format!("create database {database}")).await.expect("it can be made");
    let (inventory, others): (Vec<_>, Vec<_>) = SERVICES.iter().partition(|service| service.name == "inventory");
    let inventory = Site::builder(&inventory).caller("order").set("postgres.url", &own);
    // A product without a waiting room has nobody ask queue.
    let inventory = inventory.set("upstreams.queue", "http://127.0.0.1:1").start().await;
    let site = Site::builder(&others).namespace(inventory.namespace());
    let site = site.set("upstreams.inventory", &inventory.grpc).start().await;

    let (product, buyer) = (inventory.product(5).await, site.buyer().await);
    let order = text(&buyer.order(&fresh_key(), &product, 2).await.expect(201).json()["orderId"]);
    inventory.shows(&product, 3).await;
    buyer.send(buyer.request(reqwest::Method::POST, &format!("/orders/{order}/cancel"))).await.expect(200);
    inventory.shows(&product, 5).await;

    let place = Place::new("divided").await.set("host.namespace", site.namespace());
    let missing = format!("no schema {}inventory:", site.namespace());
    place.stampede("audit --servers").await.expect(3, &[&missing]);
    place.stampede(&format!("trace order {order} --data-dir {{data}}")).await.expect(3, &[&missing]);
    place.stampede("events --data-dir {data} stats").await.expect(1, &[&missing]);
    place.stampede("events --data-dir {data} stats --service order,queue").await.expect(0, &["order: ", "queue: 0"]);
    let place = place.set("postgres.url", &own);
    let mended = ["inventory: 0 dead events"];
    place.stampede("events --data-dir {data} redrive --service inventory").await.expect(0, &mended);
    site.stop().await;
    inventory.stop().await;
    admin.batch_execute(&format!("drop database {database} with (force)")).await.expect("nobody needs it any more");
}

/// Answers as a cluster does, writes down what it is asked to create, and leaves the patch to the real one. Whoever asks for a
/// container's end is told 4.
const CLUSTER: &str = r#"#!/bin/sh
echo "$@" >> calls
case "$*" in
    "create job "*) cat template.json ;;
    patch*) exec {kubectl} "$@" ;;
    "create -f -") cat > created.json ;;
    "get job "*) cat ended ;;
    "get pod"*) echo 4 ;;
    "logs "*) echo "order: 1 dead events get another try" ;;
    *) exit 9 ;;
esac
"#;

/// The `kubectl` that the tests of the manifests have installed.
fn kubectl() -> String {
    let pinned = root().join("crates/testkit/pinned.py");
    let asked = ["k8s/requirements.txt", "-c", "import shutil; print(shutil.which('kubectl'))"];
    let told =
        Command::new("/usr/bin/python3").arg(pinned).args(asked).current_dir(root()).output().expect("Python runs");
    String::from_utf8(told.stdout).expect("a path is text").trim().to_owned()
}

fn operate(folder: &Path, ended: &str, arguments: &[&str]) -> std::process::Output {
    std::fs::write(folder.join("ended"), ended).expect("it can be written");
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", folder.display());
    let mut command = Command::new(root().join("k8s/operate"));
    command.args(arguments).current_dir(folder).env("PATH", path).output().expect("it runs")
}

#[tokio::test]
async fn the_script_of_operators_makes_a_job_of_the_manifests_with_its_arguments_and_ends_as_it_does() {
    let folder = testkit::servers::folder("operate");
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let job = of_kind(&rendered().overlays["prod"], "CronJob").find(|object| name(object) == "operator");
    let mut template = job.expect("production has one")["spec"]["jobTemplate"].clone();
    template["apiVersion"] = "batch/v1".into();
    template["kind"] = "Job".into();
    template["metadata"]["name"] = "made-by-kubectl".into();
    std::fs::write(folder.join("template.json"), template.to_string()).expect("it can be written");
    let cluster = folder.join("kubectl");
    std::fs::write(&cluster, CLUSTER.replace("{kubectl}", &kubectl())).expect("it can be written");
    std::fs::set_permissions(&cluster, std::fs::Permissions::from_mode(0o755)).expect("it is ours");

    let done = operate(&folder, "1 ", &["events", "unpark", "notification-hub", "--key", r#"a "b\ c"#]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "order: 1 dead events get another try\n", "{done:?}");
    let created = std::fs::read_to_string(folder.join("created.json")).expect("a job was made");
    let mut created: Value = serde_json::from_str(&created).expect("it is JSON");
    let told = template["spec"]["template"]["spec"]["containers"][0]["args"].take();
    assert_eq!(texts(&told), ["events", "stats"], "what it does without arguments");
    let told = created["spec"]["template"]["spec"]["containers"][0]["args"].take();
    assert_eq!(texts(&told), ["events", "unpark", "notification-hub", "--key", r#"a "b\ c"#]);
    assert_eq!(created, template, "all else is as in the manifests");
    let calls = std::fs::read_to_string(folder.join("calls")).expect("it was called");
    assert!(calls.contains("--from=cronjob/operator") && calls.contains("-n stampede"), "{calls}");

    assert_eq!(operate(&folder, " 1", &["audit", "--servers"]).status.code(), Some(4), "the command's own code");
    let gone = operate(&folder, "", &["events", "stats"]);
    assert_eq!(gone.status.code(), Some(1), "the Job has been deleted: {gone:?}");
    assert!(String::from_utf8_lossy(&gone.stderr).contains("is gone; nobody knows how it ended"), "{gone:?}");
    for wrong in [&[] as &[&str], &["events", "unpark", "hub\n"], &["trace", "order\t1"]] {
        let usage = operate(&folder, "1 ", wrong);
        assert_eq!(usage.status.code(), Some(2), "{usage:?}");
    }
    std::fs::remove_dir_all(&folder).expect("it is ours");
}
