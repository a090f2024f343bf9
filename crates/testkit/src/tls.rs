//! Servers that speak TLS: an authority of the test's own, the certificates that it signs, and who asks whom for one.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use sandbox::{External, Extras, KafkaListener, Options, Sandbox};

use crate::servers;

/// A database whose connections need a certificate.
pub const CERTIFIED: &str = "certified";
/// Who Kafka knows by a password.
pub const KAFKA_USER: &str = "shop";
pub const KAFKA_PASSWORD: &str = "hunter2kafka";

/// An authority. Its certificates are files in its folder.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    /// The file of its own certificate.
    pub file: String,
}

/// The files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub file: String,
    pub key: String,
}

impl Authority {
    pub fn new(folder: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it signs its own certificate");
        let file = write(folder, &format!("{name}.pem"), &issuer.pem());
        Authority { issuer, folder: folder.to_owned(), file }
    }

    /// A certificate for the host `host`.
    pub fn sign(&self, name: &str, host: &str) -> Certificate {
        self.sign_for(name, &[host])
    }

    /// A certificate for all of these hosts.
    pub fn sign_for(&self, name: &str, hosts: &[&str]) -> Certificate {
        self.write(name, certificate_for(hosts))
    }

    /// The same, and its time is up.
    pub fn sign_expired(&self, name: &str, hosts: &[&str]) -> Certificate {
        let mut params = certificate_for(hosts);
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        self.write(name, params)
    }

    fn write(&self, name: &str, mut params: CertificateParams) -> Certificate {
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        Certificate {
            file: write(&self.folder, &format!("{name}.crt"), &certificate.pem()),
            key: write(&self.folder, &format!("{name}.key"), &key.serialize_pem()),
        }
    }
}

fn certificate_for(hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    CertificateParams::new(hosts).expect("these are hosts")
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, text).expect("the folder can be written");
    // PostgreSQL takes no key that others may read.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    path.display().to_string()
}

/// PostgreSQL, Redis and Kafka, which show a certificate for `localhost`. Without TLS they answer too, at the addresses of
/// the sandbox.
pub struct TlsServers {
    pub sandbox: Sandbox,
    pub authority: Authority,
    /// One that the servers do not know, and that has not signed their certificates.
    pub stranger: Authority,
    pub redis_port: u16,
    /// A Redis of its own, which asks for a certificate.
    pub redis_certified_port: u16,
    _redis_certified: Sandbox,
    /// Kafka asks for nothing here, ...
    pub kafka_port: u16,
    /// ... here for a certificate, ...
    pub kafka_certified_port: u16,
    /// ... and here for [`KAFKA_USER`]'s password.
    pub kafka_sasl_port: u16,
}

impl TlsServers {
    /// Starts them. Their data is removed with them.
    pub async fn start(purpose: &str) -> TlsServers {
        let folder = servers::folder(&format!("{purpose}-certificates"));
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        let (authority, stranger) = (Authority::new(&folder, "authority"), Authority::new(&folder, "stranger"));
        let certificate = authority.sign("server", "localhost");
        let [redis_port, redis_certified_port, kafka_port, kafka_certified_port, kafka_sasl_port] =
            [(); 5].map(|()| servers::port());
        let rules = format!(
            "hostssl {CERTIFIED} all all scram-sha-256 clientcert=verify-ca\n\
             host {CERTIFIED} all all reject\n\
             host all all all scram-sha-256\n"
        );
        let rules = write(&folder, "pg_hba.conf", &rules);
        let mut options = servers::options(purpose);
        options.kafka_properties.extend(kafka_properties(&folder, &authority, &certificate));
        let listener = |name: &str, protocol: &str, port| KafkaListener {
            name: name.to_owned(),
            protocol: protocol.to_owned(),
            port,
        };
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let extras = Extras {
            postgres_settings: pairs(&[
                ("ssl", "on"),
                ("ssl_cert_file", &certificate.file),
                ("ssl_key_file", &certificate.key),
                ("ssl_ca_file", &authority.file),
                ("hba_file", &rules),
            ]),
            redis_arguments: redis_arguments(&authority, &certificate, redis_port, "no"),
            kafka_listeners: vec![
                listener("TLS", "SSL", kafka_port),
                listener("CERTIFIED", "SSL", kafka_certified_port),
                listener("SASL", "SASL_SSL", kafka_sasl_port),
            ],
            kafka_users: pairs(&[(KAFKA_USER, KAFKA_PASSWORD)]),
        };
        sandbox::give_to_servers(&folder).expect("the servers can read their certificates");
        let sandbox = Sandbox::start(Options { extras, ..options }).await.expect("the servers start with TLS");
        let redis_arguments = redis_arguments(&authority, &certificate, redis_certified_port, "yes");
        let others = External {
            postgres_url: Some(sandbox.postgres_url()),
            redis_url: None,
            kafka_brokers: Some(sandbox.kafka_brokers()),
        };
        let alone = Options {
            external: others,
            extras: Extras { redis_arguments, ..Extras::default() },
            ..servers::options(&format!("{purpose}-redis"))
        };
        TlsServers {
            sandbox,
            authority,
            stranger,
            redis_port,
            redis_certified_port,
            _redis_certified: Sandbox::start(alone).await.expect("Redis starts with TLS"),
            kafka_port,
            kafka_certified_port,
            kafka_sasl_port,
        }
    }
}

fn redis_arguments(authority: &Authority, certificate: &Certificate, port: u16, asks: &str) -> Vec<String> {
    [
        ("--tls-port", port.to_string().as_str()),
        ("--tls-cert-file", &certificate.file),
        ("--tls-key-file", &certificate.key),
        ("--tls-ca-cert-file", &authority.file),
        ("--tls-auth-clients", asks),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.to_owned(), value.to_owned()])
    .collect()
}

fn kafka_properties(folder: &Path, authority: &Authority, certificate: &Certificate) -> Vec<(String, String)> {
    let read = |file: &str| std::fs::read_to_string(file).expect("it was just written");
    let both = write(folder, "server.pem", &(read(&certificate.key) + &read(&certificate.file)));
    let modules = "org.apache.kafka.common.security";
    let knows = format!("{modules}.plain.PlainLoginModule required user_{KAFKA_USER}=\"{KAFKA_PASSWORD}\";");
    let scram = format!("{modules}.scram.ScramLoginModule required;");
    [
        ("ssl.keystore.type", "PEM"),
        ("ssl.keystore.location", &both),
        ("ssl.truststore.type", "PEM"),
        ("ssl.truststore.location", &authority.file),
        ("listener.name.certified.ssl.client.auth", "required"),
        ("listener.name.sasl.sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"),
        ("listener.name.sasl.plain.sasl.jaas.config", &knows),
        ("listener.name.sasl.scram-sha-256.sasl.jaas.config", &scram),
        ("listener.name.sasl.scram-sha-512.sasl.jaas.config", &scram),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}
