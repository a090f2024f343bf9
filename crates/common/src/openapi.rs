//! The routes of a process, and the OpenAPI 3.1 description that comes out of mounting them.

use std::sync::Arc;

use actix_web::App;
use actix_web::guard::fn_guard;
use serde_json::Value;
use utoipa::openapi::OpenApi;
use utoipa_actix_web::AppExt;
use utoipa_actix_web::service_config::ServiceConfig;

mod complete;
pub mod examples;

use complete::complete;

use crate::http::Route;

/// Adds routes to one worker's application.
pub type Configure = Arc<dyn Fn(&mut ServiceConfig<'_>) + Send + Sync>;

/// The routes of one service below `/api/v1`.
#[derive(Clone)]
pub struct Mounted {
    configure: Configure,
    /// Of its routes, from the root.
    paths: Vec<String>,
}

impl Mounted {
    pub fn new(configure: Configure) -> Mounted {
        let below = |config: &mut ServiceConfig<'_>| {
            config.service(utoipa_actix_web::scope(BASE).configure(|below| configure(below)));
        };
        let described = App::new().into_utoipa_app().configure(below).split_for_parts().1;
        Mounted { configure, paths: described.paths.paths.into_keys().collect() }
    }

    pub fn paths(&self) -> &[String] {
        &self.paths
    }
}

const BASE: &str = "/api/v1";

/// Describes what `routes` (below `/api/v1`) and `roots` mount. `names` say what fields look like.
pub fn describe(routes: &[Mounted], roots: &[Configure], names: &examples::Names) -> anyhow::Result<Value> {
    let app = App::new().into_utoipa_app().openapi(document());
    let mounted = app.configure(|config| mount_routes(config, routes, roots)).split_for_parts().1;
    let mut described = serde_json::to_value(&mounted)?;
    complete(&mut described);
    examples::add(&mut described, names);
    Ok(described)
}

/// Adds all routes to one worker's application. A request is looked for among the routes of the service that it is for alone,
/// and only if its path has its method.
pub fn mount_routes(config: &mut ServiceConfig<'_>, routes: &[Mounted], roots: &[Configure]) {
    config.service(utoipa_actix_web::scope(BASE).configure(|below| {
        for (place, Mounted { configure, .. }) in routes.iter().enumerate() {
            let is_for_it = fn_guard(move |context| {
                let method = &context.head().method;
                let is_handled = |route: &Arc<Route>| route.service == Some(place) && route.handles(method);
                context.req_data().get::<Arc<Route>>().is_some_and(is_handled)
            });
            below.service(utoipa_actix_web::scope("").guard(is_for_it).configure(|config| configure(config)));
        }
    }));
    for configure in roots {
        configure(config);
    }
}

const ACCESS_TOKEN: &str =
    "An access token of a log-in. An operation lists the roles that it demands; none: any account.";
const API_KEY: &str =
    "The key of a program, in place of an access token. An operation lists the scopes that it demands.";

fn document() -> OpenApi {
    use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
    use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApiBuilder};
    let http = |format: &str, meaning: &str| {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format(format);
        SecurityScheme::Http(bearer.description(Some(meaning)).build())
    };
    let schemes = ComponentsBuilder::new()
        .security_scheme("bearer", http("JWT", ACCESS_TOKEN))
        .security_scheme("apiKey", http("nh_live_<id>_<secret>", API_KEY));
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Stampede")
                .version("v1")
                .description(Some("The commerce backend for the minute everybody arrives at once."))
                .build(),
        )
        .components(Some(schemes.build()))
        .build()
}
