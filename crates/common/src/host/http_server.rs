//! The HTTP server of a host: what is around every route of every service.

use std::net::TcpListener;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::{App, HttpServer, middleware, web};
use serde_json::Value;
use utoipa_actix_web::AppExt;

use super::HostSettings;
use crate::auth::Verifier;
use crate::health;
use crate::http::{self, HttpSettings, RouteTable, TrustedProxies};
use crate::openapi::{Configure, mount_routes};

/// What all requests share.
pub struct Edge {
    pub settings: HttpSettings,
    pub verifier: Verifier,
    pub state: health::State,
}

/// A server on `listener` of the routes below `/api/v1` and those beside it, which `document` describes.
pub fn run(
    listener: TcpListener,
    own: &HostSettings,
    edge: Edge,
    (routes, roots): (Vec<Configure>, Vec<Configure>),
    document: &Value,
) -> anyhow::Result<Server> {
    let Edge { settings: HttpSettings { allowed_origins, trusted_proxies, forwarded_header }, verifier, state } = edge;
    let text = web::Bytes::from(serde_json::to_string_pretty(document)?);
    let table = RouteTable::new(document, &health::PATHS)?;
    let trusted = TrustedProxies { count: trusted_proxies, header: forwarded_header };
    let server = HttpServer::new(move || {
        let (app, _) = App::new()
            .into_utoipa_app()
            .map(|app| {
                app.wrap(http::cors(&allowed_origins))
                    .wrap(middleware::from_fn(http::request_middleware))
                    .wrap(middleware::from_fn(health::close_when_draining))
                    .app_data(web::Data::new(verifier.clone()))
                    .app_data(web::Data::new(state.clone()))
                    .app_data(web::Data::new(text.clone()))
                    .app_data(web::Data::new(trusted))
                    .app_data(web::Data::new(table.clone()))
                    .configure(http::configure_extractors)
                    .configure(health::routes)
                    .default_service(web::to(http::unmatched))
            })
            .configure(|config| mount_routes(config, &routes, &roots))
            .split_for_parts();
        app
    })
    .workers(own.http_workers)
    .keep_alive(Duration::from_secs(own.http_keep_alive_seconds))
    .shutdown_timeout(own.shutdown_seconds)
    .disable_signals()
    .listen(listener)?;
    Ok(server.run())
}
