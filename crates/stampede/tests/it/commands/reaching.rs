//! Where commands look for the servers, and what they say when PostgreSQL gives no connection.

use serde_json::json;

use super::Place;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_gives_no_connection_is_named_with_what_to_do_by_each_command() {
    let place = Place::new("reach").await.set("postgres.url", "postgres://ann:hunter2@127.0.0.1:1/shop");
    let order = "trace order 0192f0c1-0000-7000-8000-000000000000 --data-dir {data}";
    let shown = [
        "PostgreSQL at 127.0.0.1:1 (database shop) gives no connection: ",
        "start ./stampede dev, name the data folder",
    ];
    for (command, code) in [
        ("events stats --data-dir {data}", 3),
        (order, 3),
        ("audit --servers", 3),
        ("doctor --service order --data-dir {data}", 1),
    ] {
        let ended = place.stampede(command).await.expect(code, &shown);
        let ended = ended.expect(code, &["with --data-dir, or set postgres.url (STAMPEDE__POSTGRES__URL)"]);
        assert!(!ended.to_string().contains("hunter2"), "{ended}");
    }
    let folder = place.data.display().to_string();
    let looked = format!("no running system is known in {folder}, so the settings name this server");
    place.stampede(order).await.expect(3, &[&looked]);

    // As a system leaves it that was killed.
    let file = json!({
        "api": "http://127.0.0.1:3",
        "overrides": [["postgres.url", "postgres://ann:hunter2@127.0.0.1:2/shop"]],
        "keys": {},
    });
    std::fs::write(place.data.join("site.json"), file.to_string()).expect("the file can be written");
    let named = format!("{folder}/site.json names this server, and the system that has written it may have ended");
    let shown = ["PostgreSQL at 127.0.0.1:2 (database shop)", named.as_str()];
    for command in ["events stats --data-dir {data}", order] {
        place.stampede(command).await.expect(3, &shown);
    }
    place
        .stampede("audit --data-dir {data}")
        .await
        .expect(3, &["nothing answers at http://127.0.0.1:3 (", "); start ./stampede dev"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_help_of_commands_says_where_they_look_for_servers_first() {
    let place = Place::new("help").await;
    for command in ["events stats", "trace order", "doctor"] {
        let help = place.stampede(&format!("{command} --help")).await.expect(0, &[]).out;
        let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("{text} is missing: {help}"));
        assert!(at("in this order") < at("site.json") && at("site.json") < at("STAMPEDE__POSTGRES__URL"), "{help}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_argument_of_the_wrong_form_is_answered_with_the_form_that_is_wanted() {
    let place = Place::new("forms").await;
    let orders = ["nonsense", "the id of an order is wanted, which is a UUID"];
    place.stampede("trace order nonsense --data-dir {data}").await.expect(2, &orders);
    let moments = ["yesterday", "a moment is wanted as RFC 3339 has it, such as 2026-11-21T09:00:00Z"];
    place.stampede("events --data-dir {data} replay --since yesterday").await.expect(2, &moments);
}
