//! OpenTelemetry's own variables, as a process of a service takes them.

use super::*;

/// What the process is called, and what else its traces say of it.
const NAME: &str = "OTEL_SERVICE_NAME";
const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";

/// The traces that account sends with `variables`, after one request of no trace and one of a trace of the client's own.
async fn traced_with(variables: &[(&str, &str)]) -> (Trace, Collector) {
    let (collector, address) = Collector::start().await;
    let place = Place::new("variables").await;
    let listens = format!("127.0.0.1:{}", servers::port());
    let mut account = place.command("account");
    account.env(testkit::variable("host.http_listen"), &listens).env(SOON.0, SOON.1);
    account.env("OTEL_EXPORTER_OTLP_ENDPOINT", &address).envs(variables.iter().copied());
    let mut account = account.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let keys = format!("http://{listens}/.well-known/jwks.json");
    // The first that it answers is in no trace of a client.
    eventually("it answers", async || reqwest::get(&keys).await.ok().filter(|answer| answer.status() == 200)).await;
    let trace = Trace::new();
    let asked = reqwest::Client::new().get(&keys).header("traceparent", trace.traceparent()).send().await;
    assert_eq!(asked.expect("it answers").status(), 200);
    trace.spans(&collector, &["GET /.well-known/jwks.json"]).await;
    account.kill().await.expect("it is ours");
    (trace, collector)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_name_a_process_and_say_what_else_its_traces_tell_of_it() {
    let place = ("deployment.environment.name", "tests");
    let with_both = [(NAME, "shop-accounts"), (ATTRIBUTES, "service.name=other,deployment.environment.name=tests")];
    let attributes_alone = [(ATTRIBUTES, "service.name=other,deployment.environment.name=tests")];
    let cases: [(&[(&str, &str)], &str); 2] = [(&with_both, "shop-accounts"), (&attributes_alone, "other")];
    for (variables, name) in cases {
        let (_, collector) = traced_with(variables).await;
        let resources = collector.resources.lock().clone();
        assert!(!resources.is_empty(), "{variables:?}");
        for resource in resources {
            let told = ["service.name", place.0].map(|key| resource.get(key).map(String::as_str));
            assert_eq!(told, [Some(name), Some(place.1)], "{variables:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_variable_says_which_requests_are_traced() {
    let sampler = [("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0")];
    let (trace, collector) = traced_with(&sampler).await;
    // Spans are sent in the order in which they end: those of the first request would have come before.
    let others: Vec<String> = {
        let spans = collector.spans.lock();
        let others = spans.iter().filter(|(_, span)| span.trace_id != trace.0);
        others.map(|(_, span)| span.name.clone()).collect()
    };
    assert!(others.is_empty(), "no request is traced but that whose client traces it: {others:?}");
}
