//! E-mail over SMTP, to a real mail server: aiosmtpd of Debian's `python3-aiosmtpd`.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use testkit::eventually;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::hub::{USER, all_ended, delivery, ended, is, publish_order, start, state, user};
use crate::senders::send;

/// A mail server that ends with the test.
pub struct MailServer {
    pub url: String,
    folder: PathBuf,
    _process: Child,
}

impl MailServer {
    async fn start(name: &str) -> MailServer {
        MailServer::start_slow(name, 0).await
    }

    /// One that needs so many seconds for each message.
    pub async fn start_slow(name: &str, seconds: u32) -> MailServer {
        let folder = testkit::servers::folder(name);
        std::fs::create_dir_all(&folder).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/smtp_server.py");
        let mut process = Command::new("/usr/bin/python3")
            .args([script, folder.to_str().unwrap(), &seconds.to_string()])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Debian's Python starts; ./stampede installs it");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.next_line().await.unwrap().expect("aiosmtpd starts; ./stampede installs it");
        MailServer { url: format!("smtp://127.0.0.1:{port}"), folder, _process: process }
    }

    /// The messages that it has taken, once there are `count`.
    pub async fn has(&self, count: usize) -> Vec<String> {
        eventually(&format!("{count} e-mails arrive"), async || {
            let entries = std::fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path());
            let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|kind| kind == "eml")).collect();
            files.sort();
            let texts = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect::<Vec<_>>();
            (texts.len() >= count).then_some(texts)
        })
        .await
    }
}

/// A message to `address`.
fn to(address: &str) -> Value {
    json!({
        "type": "INVITATION",
        "recipient": { "email": address },
        "channels": [{ "channel": "EMAIL" }],
        "subject": "초대합니다 / Come in",
        "body": "안녕하세요.\n.\nHello.",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_arrives_whole_under_the_id_of_its_delivery() {
    let server = MailServer::start("smtp-arrives").await;
    let (site, _) = start(&[("notification_hub.email.smtp_url", &server.url)]).await;
    send(&site.admin(), "k", &to("ann@example.com")).await.expect(201);
    let found = all_ended(&site.admin(), 1).await.remove(0);
    assert_eq!(state(delivery(&found, "EMAIL")), is("SUCCESS", 1, None));
    let received = server.has(1).await.remove(0);
    let id = delivery(&found, "EMAIL")["deliveryId"].as_str().unwrap();
    let (head, body) = received.split_once("\r\n\r\n").or_else(|| received.split_once("\n\n")).unwrap();
    assert!(head.contains(&format!("Message-ID: <{id}@")), "{head}");
    assert!(head.contains("To: ann@example.com") && head.contains("Subject: =?utf-8?"), "{head}");
    // Korean text travels encoded; the line with a full stop does not end the message.
    let encoded = |text: &str| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let plain = body.replace(['\r', '\n'], "");
    assert!(plain.contains("Hello.") || plain.contains(&encoded("안녕하세요.\r\n.\r\nHello.")), "{received}");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_goes_to_the_address_that_account_has() {
    let server = MailServer::start("smtp-account").await;
    let (site, _) = start(&[("notification_hub.email.smtp_url", &server.url)]).await;
    publish_order(&site, "one", USER).await;
    assert_eq!(ended(&user(&site)).await["status"], "COMPLETED");
    assert!(server.has(1).await[0].contains(&format!("To: {USER}@example.com")));
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_tried_again_under_the_same_id_and_what_does_not_is_a_dead_letter() {
    let server = MailServer::start("smtp-refusals").await;
    let settings = [
        ("notification_hub.email.smtp_url", server.url.as_str()),
        ("notification_hub.email.retry_delays_seconds", "0"),
    ];
    let (site, _) = start(&settings).await;
    let admin = site.admin();
    for (address, expected) in [
        ("later-a@example.com", is("SUCCESS", 2, Some("REJECTED"))),
        ("450-a@example.com", is("FAILED", 2, Some("REJECTED"))),
        ("550-a@example.com", is("FAILED", 1, Some("MESSAGE_REFUSED"))),
    ] {
        let sent = send(&admin, address, &to(address)).await.expect(201).json();
        let path = format!("/notifications/{}", sent["notificationId"].as_str().unwrap());
        let found = eventually("it ends", async || {
            let found = admin.get(&path).await.expect(200).json();
            (found["status"] != "IN_PROGRESS").then_some(found)
        })
        .await;
        assert_eq!(state(delivery(&found, "EMAIL")), expected, "{address}");
    }
    assert_eq!(server.has(1).await.len(), 1);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn emails_wait_for_a_mail_server_that_is_away() {
    let settings = [
        // Nobody listens on port 1.
        ("notification_hub.email.smtp_url", "smtp://127.0.0.1:1"),
        ("notification_hub.email.retry_delays_seconds", "3600"),
    ];
    let (site, _) = start(&settings).await;
    send(&site.admin(), "k", &to("ann@example.com")).await.expect(201);
    let waits = "select count(*) from {notification_hub}.deliveries
                  where status = 'PENDING' and attempt = 1 and last_error = 'UNAVAILABLE'";
    site.until_number(waits, 1).await;
    site.stop().await;
}
