//! What is wrong with a request is told with its place and with what is expected.

use actix_web::test::TestRequest;

use super::*;
use crate::id::{EXAMPLE, Id, Kind};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only reading it is tried")]
struct Asked {
    page: Option<i64>,
    size: i64,
}

enum Thing {}

impl Kind for Thing {
    const NAME: &'static str = "thing";
}

fn refused(error: Error) -> Refused {
    let Error::Refused(refused) = error else { panic!("{error}") };
    *refused
}

/// The field and the text of the only detail.
fn told(error: Error) -> (String, String) {
    let refused = refused(error);
    let member = |name: &str| refused.details[0][name].as_str().unwrap().to_owned();
    (member("field"), member("message"))
}

#[tokio::test]
async fn a_wrong_parameter_is_told_by_its_name() {
    for (query, field, message) in [
        ("size=1&page=x", "page", "must be a whole number"),
        ("page=1", "size", "missing parameter `size`"),
        ("size=1&q=2", "q", "unknown parameter `q`; this request takes `page`, `size`"),
    ] {
        let request = TestRequest::with_uri(&format!("/?{query}")).to_http_request();
        let error = Query::<Asked>::extract(&request).await.unwrap_err();
        assert_eq!(told(error), (field.to_owned(), message.to_owned()), "{query}");
    }
    let request = TestRequest::with_uri("/?limit=1").to_http_request();
    let (field, message) = told(Query::<NoParameters>::extract(&request).await.unwrap_err());
    assert_eq!((&*field, &*message), ("limit", "unknown parameter `limit`; this request has no parameters"));
}

#[tokio::test]
async fn a_wrong_part_of_a_path_is_told_by_its_name_and_with_what_is_wanted() {
    let request = TestRequest::default().param("orderId", "7").param("round", "x").to_http_request();
    let error = Path::<(u8, u8)>::extract(&request).await.unwrap_err();
    assert_eq!(refused(error).message, "round must be a whole number");
    let request = TestRequest::default().param("thingId", "x").to_http_request();
    let error = refused(Path::<Id<Thing>>::extract(&request).await.unwrap_err());
    let wanted = format!("not a valid thing id; a UUID with hyphens is expected, such as {EXAMPLE}");
    assert_eq!(error.message, format!("thingId: {wanted}"));
    assert_eq!(told(error.into()), ("thingId".to_owned(), wanted));
    let error = Path::<uuid::Uuid>::extract(&request).await.unwrap_err();
    assert_eq!(refused(error).message, format!("thingId must be a UUID with hyphens, such as {EXAMPLE}"));
}

#[test]
fn a_wrong_member_of_a_body_is_told_by_its_place() {
    for (body, field, message) in [
        (r#"{"size":1,"page":"x"}"#, "page", "must be a whole number, not \"x\""),
        (r#"{"page":1}"#, "size", "missing field `size`"),
        (r#"{"size":1,"sort":1}"#, "sort", "unknown field `sort`, expected `page` or `size`"),
        ("[]", "", "must be a JSON object, not a list"),
        ("\u{feff}{}", "", "The body begins with a byte order mark; send it without."),
        ("", "", "The body is empty; send a JSON object."),
    ] {
        let (told_field, told_message) = told(read::<Asked>(body.as_bytes()).unwrap_err());
        assert_eq!((told_field.as_str(), told_message.as_str()), (field, message), "{body}");
    }
}

#[test]
fn a_value_that_is_none_of_the_words_is_told_by_its_place() {
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "UPPERCASE")]
    enum Word {
        Krw,
    }
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only reading it is tried")]
    struct Price {
        currencies: Vec<Word>,
    }
    for value in ["410", "null", "[]", "true"] {
        let body = format!(r#"{{"currencies":[{value}]}}"#);
        let (field, message) = told(read::<Price>(body.as_bytes()).unwrap_err());
        assert_eq!(field, "currencies[0]", "{body}: {message}");
        assert!(message.starts_with("must be"), "{body}: {message}");
    }
}

#[test]
fn a_body_that_is_no_json_is_told_so_with_the_line_and_column() {
    for (body, place, cause) in [
        (r#"{"size": nope}"#, "line 1, column 11", "true, false or null is expected"),
        ("{\n  \"size\": 1,\n}", "line 3, column 1", "there is a comma too many"),
        (r#"{"size": 1"#, "line 1, column 10", "it ends within an object"),
        ("{'size': 1}", "line 1, column 2", "a name in double quotes is expected"),
        (r#"{"size": 1} x"#, "line 1, column 13", "there is more text after the object"),
    ] {
        let (field, message) = told(read::<Asked>(body.as_bytes()).unwrap_err());
        assert_eq!((&*field, message), ("", format!("The body is not valid JSON at {place}: {cause}.")), "{body}");
    }
}
