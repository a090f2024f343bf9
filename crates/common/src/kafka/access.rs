//! Who the brokers are and who we are: TLS, SASL, and what is told at start when they do not fit.

use std::time::{Duration, Instant};

use anyhow::bail;
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use secrecy::ExposeSecret;
use tokio::task::spawn_blocking;

use super::librdkafka::{ClosedElsewhere, log_debug};
use super::{Kafka, KafkaSettings};
use crate::tls;

/// In the reason of an error: the broker ends TLS. Since TLS 1.3 a broker that does not take our certificate says so after
/// the handshake, when librdkafka has only the code of a lost connection for it.
const ALERT: &str = "SSL alert number";

/// The first question is repeated after so long while no broker has answered ...
const ASK_PERIOD: Duration = Duration::from_millis(200);
/// ... and in between errors are looked at for so long.
const LISTEN_PERIOD: Duration = Duration::from_millis(50);

impl KafkaSettings {
    fn has_tls(&self) -> bool {
        ["ssl", "sasl_ssl"].contains(&self.security.as_str())
    }

    fn has_sasl(&self) -> bool {
        ["sasl_plaintext", "sasl_ssl"].contains(&self.security.as_str())
    }
}

/// What every client is made with: where the brokers are, and how we are let in.
pub fn client_config(settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.brokers)
        // A connection on which no answer comes ends after this. The default is a minute.
        .set("socket.timeout.ms", "10000")
        // A small message does not wait for the TCP acknowledgement of those before it.
        .set("socket.nagle.disable", "true")
        // A broker that is back is found soon.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set_log_level(RDKafkaLogLevel::Warning);
    configure(&mut config, settings);
    config
}

/// Adds what a client needs to be let in.
fn configure(config: &mut ClientConfig, settings: &KafkaSettings) {
    config.set("security.protocol", &settings.security);
    if settings.has_tls() {
        let roots = if settings.ca_file.is_empty() { "probe" } else { &settings.ca_file };
        config
            .set("ssl.ca.location", roots)
            .set("enable.ssl.certificate.verification", "true")
            // The certificate has to be for the name that we call the broker by.
            .set("ssl.endpoint.identification.algorithm", "https");
        if !settings.cert_file.is_empty() {
            config.set("ssl.certificate.location", &settings.cert_file).set("ssl.key.location", &settings.key_file);
        }
    }
    if settings.has_sasl() {
        config
            .set("sasl.mechanisms", &settings.sasl_mechanism)
            .set("sasl.username", &settings.username)
            .set("sasl.password", settings.password.expose_secret());
    }
}

/// What is wrong with the settings for TLS and SASL.
pub(crate) fn problems(settings: &KafkaSettings) -> Vec<String> {
    let KafkaSettings { security, username, password, ca_file, cert_file, key_file, .. } = settings;
    let mut problems = Vec::new();
    for (key, is_empty) in [("username", username.is_empty()), ("password", password.expose_secret().is_empty())] {
        match (settings.has_sasl(), is_empty) {
            (true, true) => problems.push(format!("kafka.{key} is needed by kafka.security = {security:?}")),
            (false, false) => problems.push(format!("kafka.{key} is not used with kafka.security = {security:?}")),
            _ => {}
        }
    }
    let files = [("ca_file", ca_file), ("cert_file", cert_file), ("key_file", key_file)];
    if !settings.has_tls() {
        let unused = files.iter().filter(|(_, file)| !file.is_empty());
        problems.extend(unused.map(|(key, _)| format!("kafka.{key} is not used with kafka.security = {security:?}")));
    }
    problems.extend(tls::file_problems("kafka", [ca_file, cert_file, key_file]));
    problems
}

impl Kafka {
    /// Fails when the brokers are not who they should be, or do not let us in: no waiting mends that. Brokers that are away
    /// are no error: events wait in the outboxes.
    pub async fn check_access(&self) -> anyhow::Result<()> {
        let settings = self.settings().clone();
        if settings.security == "plaintext" {
            return Ok(());
        }
        let limit = self.request_timeout();
        spawn_blocking(move || check(&settings, limit)).await?
    }
}

/// Asks for metadata until a broker answers or refuses, or the time is up. Blocks.
fn check(settings: &KafkaSettings, limit: Duration) -> anyhow::Result<()> {
    let client: BaseProducer<Refusals> = client_config(settings).create_with_context(Refusals::default())?;
    let started = Instant::now();
    let outcome = loop {
        if client.client().fetch_metadata(None, ASK_PERIOD).is_ok() || started.elapsed() > limit {
            break Ok(());
        }
        client.poll(LISTEN_PERIOD);
        if let Some((code, reason)) = client.context().0.lock().take() {
            break Err((code, reason));
        }
    };
    // Closing it waits for connections that are being made.
    drop(ClosedElsewhere::new(client));
    let Err((code, reason)) = outcome else { return Ok(()) };
    let keys = match code {
        RDKafkaErrorCode::Authentication => "kafka.sasl_mechanism, kafka.username and kafka.password",
        _ => "kafka.security, kafka.ca_file, kafka.cert_file and kafka.key_file",
    };
    bail!("Kafka at {} cannot be used: {reason}; see {keys}", settings.brokers)
}

/// Keeps the first error that says more than that a broker is away.
#[derive(Default)]
struct Refusals(Mutex<Option<(RDKafkaErrorCode, String)>>);

impl ClientContext for Refusals {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_debug(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log_debug(&error.to_string(), reason);
        use RDKafkaErrorCode::{Authentication, BrokerTransportFailure, SSL};
        let refusal = match error.rdkafka_error_code() {
            Some(code @ (SSL | Authentication)) => code,
            Some(BrokerTransportFailure) if reason.contains(ALERT) => SSL,
            _ => return,
        };
        self.0.lock().get_or_insert_with(|| (refusal, reason.to_owned()));
    }
}

impl ProducerContext for Refusals {
    type DeliveryOpaque = ();

    fn delivery(&self, _result: &DeliveryResult<'_>, _opaque: ()) {}
}
