//! The gateway's configuration as text: one template for sandboxes and for containers, so that what the tests run is what
//! is deployed.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Result, bail};

/// Everything but the routes; the words in braces are filled in.
const TEMPLATE: &str = include_str!("../nginx.conf");

/// Where a container of the gateway listens, and where those of services do.
pub const CONTAINER_PORT: u16 = 8080;

/// No page of others shows an answer of ours in a frame.
const PAGE_POLICY: &str = "frame-ancestors 'none'";

/// What every answer tells browsers: its type is not to be guessed, it is shown in no frame, and where it leads to is
/// not told where the reader comes from.
pub const RESPONSE_HEADERS: [(&str, &str); 4] = [
    ("Content-Security-Policy", PAGE_POLICY),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
];

/// What of the configuration depends on where the gateway runs.
struct Place<'a> {
    title: &'a str,
    process: &'a str,
    /// A folder that it may write to.
    temp: &'a str,
    listen: &'a str,
    limits: &'a str,
    /// None: it shows no documentation.
    documents: Option<Documents<'a>>,
}

/// The description of the whole API, which no service by itself has, and who shows it.
struct Documents<'a> {
    /// The file with it.
    description: &'a str,
    /// Of its pages, which every service has.
    upstream: &'a str,
}

/// Where the requests for a service go.
struct Upstream {
    name: String,
    /// The directives that name its servers.
    servers: String,
}

/// An error that the gateway answers by itself, in the words that services have for it.
struct Failure {
    name: &'static str,
    /// What nginx calls it.
    raised_by: &'static str,
    status: u16,
    code: &'static str,
    english: &'static str,
    korean: &'static str,
    /// Whether the same request may be sent again in a second.
    again: bool,
}

const FAILURES: [Failure; 7] = [
    Failure {
        name: "bad_request",
        raised_by: "400 414 494 505",
        status: 400,
        code: "VALIDATION_ERROR",
        english: "The request cannot be read.",
        korean: "요청이 올바르지 않습니다.",
        again: false,
    },
    Failure {
        name: "not_found",
        raised_by: "403 404",
        status: 404,
        code: "NOT_FOUND",
        english: "No service answers to this path.",
        korean: "찾을 수 없습니다.",
        again: false,
    },
    Failure {
        name: "method_not_allowed",
        raised_by: "405",
        status: 405,
        code: "METHOD_NOT_ALLOWED",
        english: "This path does not have this method.",
        korean: "허용되지 않는 메서드입니다.",
        again: false,
    },
    Failure {
        name: "too_large",
        raised_by: "413",
        status: 413,
        code: "PAYLOAD_TOO_LARGE",
        english: "The body is larger than 65536 bytes.",
        korean: "요청 본문이 너무 큽니다.",
        again: false,
    },
    Failure {
        name: "rate_limited",
        raised_by: "429",
        status: 429,
        code: "RATE_LIMITED",
        english: "Too many requests from this address.",
        korean: "요청이 너무 많습니다. 잠시 후 다시 시도하세요.",
        again: true,
    },
    Failure {
        name: "internal_error",
        raised_by: "500",
        status: 500,
        code: "INTERNAL_ERROR",
        english: "The gateway has failed.",
        korean: "서버 오류가 발생했습니다.",
        again: false,
    },
    Failure {
        name: "unavailable",
        raised_by: "502 503 504",
        status: 503,
        code: "SERVICE_UNAVAILABLE",
        english: "The service cannot be reached right now.",
        korean: "일시적으로 처리할 수 없습니다. 잠시 후 다시 시도하세요.",
        again: true,
    },
];

/// The gateway of a sandbox: on loopback, in front of services on ports of loopback, one for each of its replicas.
///
/// It shows the description in the file `description`, if there is one.
pub(super) fn for_sandbox(
    temp: &Path,
    port: u16,
    routes: &[(String, Vec<u16>)],
    description: Option<&Path>,
) -> Result<String> {
    let description = description.map(|file| file.display().to_string());
    let upstream = routes.first().map(|(_, ports)| name_of(ports));
    let documents = description.as_deref().zip(upstream.as_deref());
    let place = Place {
        title: "The gateway of a sandbox.",
        // One process, so that killing it kills all of it.
        process: "daemon off;\nmaster_process off;\nworker_processes 1;",
        temp: &temp.display().to_string(),
        listen: &format!("127.0.0.1:{port}"),
        limits: "",
        documents: documents.map(|(description, upstream)| Documents { description, upstream }),
    };
    let mut replicas: Vec<&Vec<u16>> = routes.iter().map(|(_, ports)| ports).collect();
    replicas.sort_unstable();
    replicas.dedup();
    let server = |port: &u16| format!("        server 127.0.0.1:{port} max_fails=0;\n");
    let upstreams = replicas
        .into_iter()
        .map(|ports| Upstream { name: name_of(ports), servers: ports.iter().map(server).collect() });
    let routes: Vec<_> = routes.iter().map(|(prefix, ports)| (prefix.clone(), name_of(ports))).collect();
    render(&place, upstreams, &routes)
}

/// Of an upstream with these ports.
fn name_of(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join("_")
}

/// The gateway as a container, in front of containers that have the services' names. `routes` are path prefixes, each
/// with the service that it belongs to.
pub fn for_containers(title: &str, routes: &[(String, String)]) -> Result<String> {
    let place = Place {
        title,
        process: "worker_processes auto;",
        temp: "/tmp",
        listen: &CONTAINER_PORT.to_string(),
        limits: LIMITS,
        documents: routes
            .first()
            .map(|(_, upstream)| Documents { description: "/etc/nginx/openapi.json", upstream: upstream.as_str() }),
    };
    let mut hosts: Vec<&String> = routes.iter().map(|(_, host)| host).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let upstreams = hosts.into_iter().map(|host| Upstream {
        name: host.clone(),
        // The address is looked up while it runs: a container that was made anew has another one.
        servers: format!(
            "        zone upstream_{host} 64k;\n        server {host}:{CONTAINER_PORT} resolve max_fails=0;\n"
        ),
    });
    render(&place, upstreams, routes)
}

/// What only a gateway that meets strangers has.
const LIMITS: &str = r"
    # Docker's name server.
    resolver 127.0.0.11 valid=5s;
    # Coarse: they stop a single machine that floods, and no office behind one address. Services limit each account.
    limit_req_zone $binary_remote_addr zone=requests:10m rate=100r/s;
    limit_req zone=requests burst=200 nodelay;
    limit_req_status 429;
    limit_conn_zone $binary_remote_addr zone=connections:10m;
    limit_conn connections 200;
    limit_conn_status 429;
";

fn render(place: &Place<'_>, upstreams: impl Iterator<Item = Upstream>, routes: &[(String, String)]) -> Result<String> {
    let mut blocks = String::new();
    for Upstream { name, servers } in upstreams {
        // max_fails=0: a service that comes back must not stay banned because it was away.
        // Idle connections are closed long before the services close them, so that no request meets a closing one.
        write!(
            blocks,
            "    upstream upstream_{name} {{\n{servers}        keepalive 64;\n        keepalive_timeout 4s;\n    }}\n"
        )?;
    }
    let (messages, errors) = failures()?;
    Ok(TEMPLATE
        .replace("{title}", place.title)
        .replace("{process}", place.process)
        .replace("{temp}", place.temp)
        .replace("{listen}", place.listen)
        .replace("{limits}", place.limits)
        .replace("{messages}", &messages)
        .replace("{page_policy}", PAGE_POLICY)
        .replace("{headers}", &response_headers("    "))
        .replace("{upstreams}", &blocks)
        .replace("{locations}", &(locations(routes)? + &documents(place)))
        .replace("{errors}", &errors))
}

/// The longest prefix decides; a prefix with `*` comes before those without.
fn locations(routes: &[(String, String)]) -> Result<String> {
    let mut locations = String::new();
    for (prefix, upstream) in routes {
        let is_plain = prefix.starts_with('/')
            && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~*".contains(&byte));
        if !is_plain {
            bail!("{prefix:?} is not a plain path prefix");
        }
        let proxy = format!("{{ proxy_pass http://upstream_{upstream}; }}");
        if prefix.contains('*') {
            let pattern = prefix.replace('.', r"\.").replace('*', "[^/]+");
            writeln!(locations, "        location ~ ^{pattern}(/|$) {proxy}")?;
            continue;
        }
        let stem = prefix.trim_end_matches('/');
        if stem == prefix {
            writeln!(locations, "        location = {stem} {proxy}")?;
        }
        writeln!(locations, "        location {stem}/ {proxy}")?;
    }
    if !routes.iter().any(|(prefix, _)| prefix == "/") {
        locations.push_str("        location / { return 404; }\n");
    }
    Ok(locations)
}

/// The front door leads to the documentation.
fn documents(place: &Place<'_>) -> String {
    let Some(Documents { description, upstream }) = &place.documents else { return String::new() };
    format!(
        "        location = / {{ return 302 /docs/; }}\n        location = /docs {{ return 302 /docs/; }}\n        \
         location /docs/ {{ proxy_pass http://upstream_{upstream}; }}\n        location = /openapi.json {{\n            \
         default_type application/json;\n            alias \"{description}\";\n        }}\n"
    )
}

/// The directives of [`RESPONSE_HEADERS`]. A place that adds a header of its own inherits none, and has them again.
fn response_headers(indent: &str) -> String {
    let value = |name: &str, value: &str| match name {
        // Pages load what belongs to them; nothing else loads anything.
        "Content-Security-Policy" => "$content_policy".to_owned(),
        _ => format!("\"{value}\""),
    };
    let line = |(name, given): &(&str, &str)| format!("{indent}add_header {name} {} always;\n", value(name, given));
    RESPONSE_HEADERS.iter().map(line).collect()
}

/// The texts of the gateway's own errors, and where they are answered.
///
/// Not by named locations: a request line that cannot be read has no path, and without one nginx cannot go to them.
fn failures() -> Result<(String, String)> {
    let (mut messages, mut errors, mut answers) = (String::new(), String::new(), String::new());
    let headers = response_headers("            ");
    for Failure { name, raised_by, status, code, english, korean, again } in &FAILURES {
        writeln!(
            messages,
            "    map $language $message_{name} {{\n        ko \"{korean}\";\n        default \"{english}\";\n    }}"
        )?;
        writeln!(errors, "        error_page {raised_by} = /-/gateway/{name};")?;
        let retry = if *again { "            add_header Retry-After 1 always;\n" } else { "" };
        write!(
            answers,
            "\n        location = /-/gateway/{name} {{\n            internal;\n            \
             default_type application/problem+json;\n{headers}{retry}            \
             add_header X-Request-Id $safe_request_id always;\n            return {status} '{{\
             \"timestamp\":\"$time_iso8601\",\"path\":\"$safe_path\",\"code\":\"{code}\",\
             \"message\":\"$message_{name}\",\"details\":[],\"type\":\"urn:stampede:error:{code}\",\
             \"title\":\"{code}\",\"status\":{status},\"detail\":\"{english}\",\"instance\":\"$safe_path\",\
             \"requestId\":\"$safe_request_id\"}}';\n        }}\n"
        )?;
    }
    Ok((messages, errors + &answers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_at_slashes() {
        let routes = [
            ("/api/v1/orders".to_owned(), vec![7001]),
            ("/".to_owned(), vec![7002]),
            ("/api/v1/orders/*/payments".to_owned(), vec![7003, 7004]),
        ];
        let text = for_sandbox(Path::new("/tmp"), 7000, &routes, None).unwrap();
        assert!(text.contains("location = /api/v1/orders { proxy_pass http://upstream_7001; }"));
        assert!(text.contains("location /api/v1/orders/ { proxy_pass http://upstream_7001; }"));
        assert!(text.contains("location / { proxy_pass http://upstream_7002; }"));
        assert!(
            text.contains("location ~ ^/api/v1/orders/[^/]+/payments(/|$) { proxy_pass http://upstream_7003_7004; }")
        );
        assert!(text.contains(
            "upstream upstream_7003_7004 {\n        server 127.0.0.1:7003 max_fails=0;\n        server 127.0.0.1:7004 max_fails=0;"
        ));
        assert!(!text.contains("return 404;"));
    }

    #[test]
    fn configuration_cannot_be_injected() {
        assert!(for_sandbox(Path::new("/tmp"), 1, &[("/a; }".to_owned(), vec![2])], None).is_err());
    }
}
