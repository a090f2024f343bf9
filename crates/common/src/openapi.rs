//! The routes of a process, and the OpenAPI 3.1 description that comes out of mounting them.

use std::sync::Arc;

use actix_web::App;
use serde_json::Value;
use utoipa::openapi::OpenApi;
use utoipa_actix_web::AppExt;
use utoipa_actix_web::service_config::ServiceConfig;

mod complete;

use complete::complete;

/// Adds routes to one worker's application.
pub type Configure = Arc<dyn Fn(&mut ServiceConfig<'_>) + Send + Sync>;

/// Describes what `routes` (below `/api/v1`) and `roots` mount.
pub fn describe(routes: &[Configure], roots: &[Configure]) -> anyhow::Result<Value> {
    let app = App::new().into_utoipa_app().openapi(document());
    let mounted = app.configure(|config| mount_routes(config, routes, roots)).split_for_parts().1;
    let mut described = serde_json::to_value(&mounted)?;
    complete(&mut described);
    Ok(described)
}

/// Adds all routes to one worker's application.
pub fn mount_routes(config: &mut ServiceConfig<'_>, routes: &[Configure], roots: &[Configure]) {
    config.service(utoipa_actix_web::scope("/api/v1").configure(|below| {
        for configure in routes {
            configure(below);
        }
    }));
    for configure in roots {
        configure(config);
    }
}

fn document() -> OpenApi {
    use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
    use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApiBuilder};
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Stampede")
                .version("v1")
                .description(Some("The commerce backend for the minute everybody arrives at once."))
                .build(),
        )
        .components(Some(ComponentsBuilder::new().security_scheme("bearer", SecurityScheme::Http(bearer)).build()))
        .build()
}
