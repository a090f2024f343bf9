//! Every benchmark that the README shows, as short as it can be: it runs, and prints a figure of each kind.

use crate::commands::Place;

/// 64 clients are too many for a build without optimisation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bench_orders_prints_figures_for_all_three_kinds() {
    let place = Place::new("orders").await.unset("postgres.url");
    place.stampede("bench orders --buyers 500 --seconds 1 --rounds 1 --clients 1,4 --data-dir {data}").await.expect(
        0,
        &[
            "naive hot row (pgbench)        4",
            "no hot row (pgbench)           4",
            "Stampede over HTTP             4",
            "With 4 clients: ",
            "as it should be",
        ],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bench_payments_prints_figures_for_both_kinds() {
    let place = Place::new("payments").await.unset("postgres.url");
    place
        .stampede("bench payments --buyers 500 --seconds 1 --rounds 1 --clients 4 --data-dir {data}")
        .await
        .expect(0, &["placed alone                   4", "placed, paid, confirmed        4", "as it should be"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bench_hub_prints_figures_for_both_kinds() {
    let place = Place::new("bench_hub").await.unset("postgres.url");
    place.stampede("bench hub --seconds 1 --rounds 1 --clients 4 --data-dir {data}").await.expect(
        0,
        &["one commit each (pgbench)       4", "POST /notifications             4", "delivered: as it should be"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bench_archive_prints_figures_of_orders_alone_and_beside_the_archive() {
    let place = Place::new("bench_archive").await.unset("postgres.url");
    let ended = place
        .stampede("bench archive --buyers 500 --seconds 1 --rounds 1 --clients 4 --old-orders 700 --data-dir {data}")
        .await;
    ended.expect(
        0,
        &[
            "orders alone                             4",
            "orders beside the archive                4",
            "orders moved to the archive              4",
            "700 orders were moved, 700 are archived, 0 are in both places.",
            "All is as it should be",
        ],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bench_coupons_prints_figures_of_ours_and_of_each_bound() {
    let place = Place::new("bench_coupons").await.unset("postgres.url").unset("redis.url");
    place.stampede("bench coupons --buyers 2000 --seconds 1 --rounds 1 --clients 4 --data-dir {data}").await.expect(
        0,
        &[
            "hello world, the same server             4",
            "raw EVALSHA of the script                4",
            "one commit each (pgbench)                4",
            "orders placed                            4",
            "coupons issued                           4",
            "coupons refused, sold out                4",
            "All is as it should be",
        ],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bench_queue_prints_figures_of_ours_and_of_each_bound() {
    let place = Place::new("bench_queue").await.unset("postgres.url").unset("redis.url");
    place.stampede("bench queue --buyers 2000 --seconds 1 --rounds 1 --clients 4 --data-dir {data}").await.expect(
        0,
        &[
            "hello world, the same server             4",
            "raw EVALSHA of entering                  4",
            "raw EVALSHA of asking                    4",
            "entering the line                        4",
            "asking, far from the front               4",
            "A waiting person is ",
            "All is as it should be",
        ],
    );
}
