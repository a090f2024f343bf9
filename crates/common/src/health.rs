//! Health, metrics and the API description: `/livez`, `/readyz`, `/metrics`, `/openapi.json`, `/docs`, and the
//! `/actuator` and `/v3/api-docs` names that operators of other stacks look for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use diesel_async::SimpleAsyncConnection;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::db::Db;
use crate::telemetry;

/// A probe that takes longer counts as failed; orchestrators give up after a second by default.
const PROBE_TIMEOUT: Duration = Duration::from_millis(900);

/// What the probes look at.
#[derive(Clone)]
pub struct State {
    dbs: Arc<[Db]>,
    draining: Arc<AtomicBool>,
    stopping: CancellationToken,
}

impl State {
    pub fn new(dbs: Vec<Db>, stopping: CancellationToken) -> Self {
        Self { dbs: dbs.into(), draining: Arc::default(), stopping }
    }

    /// From now on not ready, so that no new traffic is sent here.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Ready means PostgreSQL answers. Not Redis and not Kafka: without them we keep our promises, and a pod that left
    /// the rotation for them would turn a slow day into an outage.
    async fn ready(&self) -> Result<(), String> {
        if self.is_draining() || self.stopping.is_cancelled() {
            return Err("draining".to_owned());
        }
        // One query tells: all schemas live in one cluster, and each further pool only repeats it.
        let Some(db) = self.dbs.first() else { return Ok(()) };
        let probe = async { Ok::<_, crate::Error>(db.read().await?.batch_execute("select 1").await?) };
        match tokio::time::timeout(PROBE_TIMEOUT, probe).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("postgres: {error}")),
            Err(_) => Err("postgres: no answer in time".to_owned()),
        }
    }
}

/// Whether the process that answers `request` drains.
pub fn is_draining(request: &HttpRequest) -> bool {
    request.app_data::<web::Data<State>>().is_some_and(|state| state.is_draining())
}

/// The paths of [`routes`]. They are not part of the API, so its description does not name them.
pub const PATHS: [&str; 14] = [
    "/",
    "/livez",
    "/actuator/health/liveness",
    "/readyz",
    "/actuator/health/readiness",
    "/actuator/health",
    "/metrics",
    "/actuator/prometheus",
    "/actuator/metrics",
    "/openapi.json",
    "/v3/api-docs",
    "/docs",
    "/swagger-ui",
    "/docs/{file}*",
];

/// Registers the operational routes.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/", web::get().to(to_docs))
        .route("/livez", web::get().to(live))
        .route("/actuator/health/liveness", web::get().to(live))
        .route("/readyz", web::get().to(ready))
        .route("/actuator/health/readiness", web::get().to(ready))
        .route("/actuator/health", web::get().to(ready))
        .route("/metrics", web::get().to(metrics))
        .route("/actuator/prometheus", web::get().to(metrics))
        .route("/actuator/metrics", web::get().to(metric_names))
        .route("/openapi.json", web::get().to(openapi))
        .route("/v3/api-docs", web::get().to(openapi))
        .route("/docs", web::get().to(to_docs))
        .route("/swagger-ui", web::get().to(to_docs))
        .service(
            utoipa_swagger_ui::SwaggerUi::new("/docs/{_:.*}").config(utoipa_swagger_ui::Config::from("/openapi.json")),
        );
}

async fn live() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "UP" }))
}

async fn ready(state: web::Data<State>) -> HttpResponse {
    match state.ready().await {
        Ok(()) => HttpResponse::Ok().json(json!({ "status": "UP" })),
        Err(reason) => HttpResponse::ServiceUnavailable().json(json!({ "status": "DOWN", "reason": reason })),
    }
}

async fn metrics() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(telemetry::metrics_text())
}

async fn metric_names() -> HttpResponse {
    let text = telemetry::metrics_text();
    let names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    HttpResponse::Ok().json(json!({ "names": names }))
}

async fn openapi(document: web::Data<web::Bytes>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(document.get_ref().clone())
}

async fn to_docs() -> HttpResponse {
    HttpResponse::Found().insert_header(("Location", "/docs/")).finish()
}
