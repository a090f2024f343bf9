//! A buyer pays for the order that was just placed: prepares, agrees in the provider's window, approves.

use std::io::Write;

use anyhow::Context;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Connection, Job};

/// What the provider answers at once and without doing anything.
const PROVIDER_FIRST_PATH: &str = "/faults";

/// A buyer's way to the provider; opened with the first payment.
#[derive(Default)]
pub struct Till {
    window: Option<(String, Connection)>,
    request: Vec<u8>,
}

impl Till {
    /// Pays for the order that `connection` has just been answered. Returns how it was refused, if it was.
    pub async fn pay(&mut self, job: &Job, connection: &mut Connection, token: &str) -> anyhow::Result<Option<String>> {
        let order = connection.body();
        let amount = &order["totals"]["amount"];
        let prepare = json!({ "orderId": order["orderId"], "method": "NAVERPAY", "amount": amount });
        self.post(&job.address, "/api/v1/payments/prepare", Some(token), &prepare)?;
        let status = connection.ask(&self.request).await?;
        if status != 201 {
            return Ok(Some(connection.refusal(status)));
        }
        let prepared = connection.body();
        let payment = prepared["paymentId"].as_str().context("a payment without an id")?;
        let redirect = prepared["pg"]["redirectUrl"].as_str().context("a payment without a window")?;

        let (address, path) = place(redirect)?;
        let checkout = json!({ "merchantPayKey": payment, "amount": amount["amount"] });
        self.post(&address, &path, None, &checkout)?;
        let window = match &mut self.window {
            Some((open, window)) if *open == address => window,
            window => {
                let connection = Connection::open(&address, PROVIDER_FIRST_PATH).await?;
                &mut window.insert((address, connection)).1
            }
        };
        let status = window.ask(&self.request).await?;
        if status != 200 {
            return Ok(Some(format!("{status} of the provider's window")));
        }
        let authorised = window.body();

        let approve = json!({ "pgPaymentId": authorised["paymentId"], "amount": amount });
        self.post(&job.address, &format!("/api/v1/payments/{payment}/approve"), Some(token), &approve)?;
        let status = connection.ask(&self.request).await?;
        let is_paid = status == 200 && connection.body()["status"] == "PAID";
        Ok(if is_paid { None } else { Some(connection.refusal(status)) })
    }

    fn post(&mut self, host: &str, path: &str, token: Option<&str>, body: &Value) -> anyhow::Result<()> {
        self.request.clear();
        let body = body.to_string();
        write!(self.request, "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n")?;
        if let Some(token) = token {
            write!(self.request, "authorization: Bearer {token}\r\nidempotency-key: {}\r\n", Uuid::new_v4())?;
        }
        write!(self.request, "content-length: {}\r\n\r\n{body}", body.len())?;
        Ok(())
    }
}

/// `host:port` and path of `http://host:port/path?query`.
fn place(url: &str) -> anyhow::Result<(String, String)> {
    let rest = url.strip_prefix("http://").context("the provider's window speaks no plain HTTP")?;
    let (address, path) = rest.split_once('/').context("the provider's window has no path")?;
    Ok((address.to_owned(), format!("/{}", path.split('?').next().unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_a_place_and_a_path() {
        let expected = ("127.0.0.1:9".to_owned(), "/a/checkout".to_owned());
        assert_eq!(place("http://127.0.0.1:9/a/checkout?merchantPayKey=x&amount=1").unwrap(), expected);
        assert!(place("https://127.0.0.1:9/checkout").is_err());
        assert!(place("http://127.0.0.1:9").is_err());
    }

    #[test]
    fn a_request_says_how_long_it_is() {
        let mut till = Till::default();
        till.post("h:1", "/p", Some("t"), &json!({ "a": 1 })).unwrap();
        let text = String::from_utf8(till.request).unwrap();
        assert!(text.starts_with("POST /p HTTP/1.1\r\nhost: h:1\r\n"), "{text}");
        assert!(
            text.contains("authorization: Bearer t\r\n") && text.ends_with("content-length: 7\r\n\r\n{\"a\":1}"),
            "{text}"
        );
    }
}
