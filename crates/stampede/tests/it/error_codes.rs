//! The page of errors has each code that a client or a service can be answered with, and no other.

use std::collections::BTreeMap;

use crate::tidy::{holds, root, sources};

/// HTTP status and gRPC code by code.
type Codes = BTreeMap<String, (String, String)>;

/// `FailedPrecondition` as clients are told it.
fn in_capitals(variant: &str) -> String {
    let mut name = String::new();
    for letter in variant.chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_uppercase());
    }
    name
}

/// Each `Code::new("OUT_OF_STOCK", 409, Grpc::ResourceExhausted, …)` of the sources.
fn of_the_code() -> Codes {
    let mut codes = Codes::new();
    for source in sources() {
        for call in source.code().split("Code::new(").skip(1) {
            let mut arguments = call.splitn(4, ',').map(str::trim);
            let [Some(name), Some(status), Some(grpc)] = [arguments.next(), arguments.next(), arguments.next()] else {
                continue;
            };
            let Some(name) = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) else { continue };
            let variant = grpc.rsplit("::").next().unwrap_or_default();
            codes.insert(name.to_owned(), (status.to_owned(), in_capitals(variant)));
        }
    }
    assert!(codes.len() > 60, "only {} codes were found", codes.len());
    codes
}

/// Each row of a table that begins with a code.
fn of_the_page(page: &str) -> Vec<(String, (String, String))> {
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.splitn(4, '|').map(str::trim);
        let name = cells.next()?.strip_suffix('`')?;
        Some((name.to_owned(), (cells.next()?.to_owned(), cells.next()?.to_owned())))
    });
    rows.collect()
}

#[test]
fn the_page_of_errors_has_exactly_the_codes_that_there_are() {
    let page = std::fs::read_to_string(root().join("docs/errors.md")).expect("it is there");
    let (declared, told) = (of_the_code(), of_the_page(&page));
    let mut wrong = Vec::new();
    for (name, is) in &declared {
        match told.iter().filter(|(told, _)| told == name).collect::<Vec<_>>()[..] {
            [(_, says)] if says == is => {}
            [(_, says)] => wrong.push(format!("{name} is {is:?}, and the page says {says:?}")),
            [] => wrong.push(format!("{name} has no row")),
            ref several => wrong.push(format!("{name} has {} rows", several.len())),
        }
    }
    let unknown = told.iter().filter(|(name, _)| !declared.contains_key(name));
    wrong.extend(unknown.map(|(name, _)| format!("{name} has a row, and nothing answers it")));
    holds("docs/errors.md", wrong);
}

/// The gateway answers by itself where no service is asked.
#[test]
fn the_gateway_answers_with_codes_that_services_answer_with() {
    let gateway = std::fs::read_to_string(root().join("gateway/nginx.conf")).expect("it is there");
    let declared = of_the_code();
    let answered: Vec<&str> = gateway.split("\"code\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(answered.len() > 5, "{answered:?}");
    let unknown = answered.into_iter().filter(|code| !declared.contains_key(*code)).map(str::to_owned);
    holds("gateway/nginx.conf", unknown.collect());
}
