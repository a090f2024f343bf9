//! The HTTP server of a host: what is around every route of every service.

use std::any::Any;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_web::dev::Server;
#[cfg(target_os = "linux")]
use actix_web::rt::net::TcpStream;
use actix_web::{App, HttpServer, middleware, web};
use serde_json::Value;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use utoipa_actix_web::AppExt;

use super::HostSettings;
use crate::auth::Verifier;
use crate::health;
use crate::http::{self, Direct, HttpSettings, RouteTable, TrustedProxies};
use crate::openapi::{Configure, Mounted, mount_routes};

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
    (routes, roots, directs): (Vec<Mounted>, Vec<Configure>, Vec<Direct>),
    document: &Value,
) -> anyhow::Result<Server> {
    let Edge { settings: HttpSettings { allowed_origins, trusted_proxies, forwarded_header }, verifier, state } = edge;
    let text = web::Bytes::from(serde_json::to_string_pretty(document)?);
    let table = RouteTable::new(document, &health::PATHS, routes.iter().map(Mounted::paths), directs)?;
    let trusted = TrustedProxies { count: trusted_proxies, header: forwarded_header };
    let write_max = Duration::from_secs(own.http_write_seconds);
    let server = HttpServer::new(move || {
        let (app, _) = App::new()
            .into_utoipa_app()
            .map(|app| {
                app.wrap(http::cors(&allowed_origins))
                    .wrap(middleware::from_fn(http::request_middleware))
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
    // Whoever has gone away must not keep the place of a stream. What changes anything is detached from its connection.
    .h1_allow_half_closed(false)
    .on_connect(move |connection, _| limit_writes(connection, write_max))
    .workers(own.http_workers)
    // A process that has more to do than it can is late in reading: that is no fault of its clients.
    .client_request_timeout(Duration::from_secs(own.http_request_seconds))
    .keep_alive(Duration::from_secs(own.http_keep_alive_seconds))
    .shutdown_timeout(own.shutdown_seconds)
    .disable_signals()
    .listen(listener)?;
    Ok(server.run())
}

/// Lets the kernel end a connection whose client takes nothing of what waits for it for so long. The server itself would
/// wait for ever: it asks for the next part of an answer only when the last one was taken.
fn limit_writes(connection: &dyn Any, write_max: Duration) {
    #[cfg(target_os = "linux")]
    if let Some(connection) = connection.downcast_ref::<TcpStream>()
        && let Err(error) = SockRef::from(connection).set_tcp_user_timeout(Some(write_max))
    {
        tracing::debug!(%error, "A connection has no limit for clients that take nothing");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (connection, write_max);
}

/// An address that was bound to "any" is reached over loopback.
pub fn reachable(bound: SocketAddr) -> SocketAddr {
    match bound {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v6.port())),
        other => other,
    }
}
