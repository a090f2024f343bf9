//! TLS between services: caller and callee each show a certificate of one authority. A certificate that has the DNS name
//! `order` is that of the service order.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use parking_lot::RwLock;
use rustls::client::{ResolvesClientCert, Resumption, verify_server_name};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::server::{Connected, TcpIncoming};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::tls;

#[cfg(test)]
mod tests;

/// HTTP/2, as gRPC needs it.
const PROTOCOL: &[u8] = b"h2";

/// Whoever connects and then says nothing is cut off after this.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// So many may be at it at the same time; the next one waits.
const HANDSHAKES_MAX: usize = 1024;

/// A certificate that was renewed is used for new connections after this at the latest.
const READ_AGAIN: Duration = Duration::from_mins(1);

/// Section `[rpc.tls]`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(Default))]
#[serde(deny_unknown_fields)]
pub struct RpcTlsSettings {
    pub ca_file: String,
    pub cert_file: String,
    pub key_file: String,
}

impl RpcTlsSettings {
    pub fn is_on(&self) -> bool {
        !self.ca_file.is_empty()
    }
}

/// What is wrong with the section.
pub(super) fn problems(settings: &RpcTlsSettings) -> Vec<String> {
    let files = [&settings.ca_file, &settings.cert_file, &settings.key_file].map(String::as_str);
    match files.iter().filter(|file| file.is_empty()).count() {
        0 => tls::file_problems("rpc.tls", files),
        3 => Vec::new(),
        _ => vec![
            "rpc.tls.ca_file, rpc.tls.cert_file and rpc.tls.key_file go together: set all of them, or none".to_owned(),
        ],
    }
}

/// Our own certificate. Its files are read again from time to time: certificates live shorter than processes may.
#[derive(Debug)]
struct OwnCertificate {
    certificate: PathBuf,
    key: PathBuf,
    /// With the moment from which on the files are read again.
    current: RwLock<(Arc<CertifiedKey>, Instant)>,
}

impl OwnCertificate {
    fn open(settings: &RpcTlsSettings) -> anyhow::Result<Arc<OwnCertificate>> {
        let (certificate, key) = (PathBuf::from(&settings.cert_file), PathBuf::from(&settings.key_file));
        let current = RwLock::new((tls::certified_key(&certificate, &key)?, Instant::now() + READ_AGAIN));
        Ok(Arc::new(OwnCertificate { certificate, key, current }))
    }

    fn current(&self) -> Arc<CertifiedKey> {
        let (known, read_again_at) = self.current.read().clone();
        if Instant::now() < read_again_at {
            return known;
        }
        let read = tls::certified_key(&self.certificate, &self.key).unwrap_or_else(|error| {
            tracing::warn!("The certificate of gRPC cannot be read again, and the old one is used: {error:#}");
            known
        });
        *self.current.write() = (read.clone(), Instant::now() + READ_AGAIN);
        read
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// How callers reach callees over TLS. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connector(TlsConnector);

impl Connector {
    pub fn open(settings: &RpcTlsSettings) -> anyhow::Result<Connector> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(&[&TLS13])?;
        let builder = builder.with_root_certificates(tls::roots(Path::new(&settings.ca_file))?);
        let mut config = builder.with_client_cert_resolver(OwnCertificate::open(settings)?);
        config.alpn_protocols.push(PROTOCOL.to_owned());
        // A new connection proves everything anew.
        config.resumption = Resumption::disabled();
        Ok(Connector(TlsConnector::from(Arc::new(config))))
    }

    /// A channel to `endpoint`, whose certificate has to be for `name`.
    pub fn channel(&self, endpoint: &Endpoint, name: ServerName<'static>) -> Channel {
        let tls = self.0.clone();
        endpoint.connect_with_connector_lazy(tower::service_fn(move |address: Uri| {
            let (tls, name) = (tls.clone(), name.clone());
            async move {
                let (host, port) = (address.host().unwrap_or_default(), address.port_u16().unwrap_or_default());
                let tcp = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
                tcp.set_nodelay(true)?;
                Ok::<_, io::Error>(TokioIo::new(tls.connect(name, tcp).await?))
            }
        }))
    }
}

/// What the server takes connections with.
pub(crate) fn acceptor(settings: &RpcTlsSettings) -> anyhow::Result<TlsAcceptor> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = tls::roots(Path::new(&settings.ca_file))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
    let builder = builder.with_client_cert_verifier(verifier);
    let mut config = builder.with_cert_resolver(OwnCertificate::open(settings)?);
    config.alpn_protocols.push(PROTOCOL.to_owned());
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The connections of those who have a certificate. `callers` are the services that may call.
pub(crate) fn accept(
    incoming: TcpIncoming,
    acceptor: TlsAcceptor,
    callers: Vec<&'static str>,
) -> impl Stream<Item = io::Result<Secured>> + Send {
    let callers: Arc<[&'static str]> = callers.into();
    let handshakes = incoming.map(move |tcp| {
        let (acceptor, callers) = (acceptor.clone(), callers.clone());
        async move {
            let tcp = tcp?;
            let peer = tcp.peer_addr().ok();
            let outcome = tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await;
            let why = match outcome {
                Ok(Ok(stream)) => {
                    let chain = stream.get_ref().1.peer_certificates();
                    let services = chain.and_then(<[_]>::first).map(|own| services_of(own, &callers));
                    return Ok(Some(Secured { stream, services: CertifiedAs(services.unwrap_or_default()) }));
                }
                Ok(Err(why)) => why.to_string(),
                Err(_) => format!("nothing was said for {HANDSHAKE:?}"),
            };
            metrics::counter!("stampede_service_calls_refused_total", "reason" => "certificate").increment(1);
            tracing::debug!(?peer, "Refused a connection to the gRPC port: {why}");
            Ok(None)
        }
    });
    handshakes.buffer_unordered(HANDSHAKES_MAX).filter_map(|done| std::future::ready(done.transpose()))
}

/// Those of `known` that `certificate` is for.
fn services_of(certificate: &CertificateDer<'_>, known: &[&'static str]) -> Arc<[&'static str]> {
    let Ok(parsed) = ParsedCertificate::try_from(certificate) else { return Arc::default() };
    let is_for = |service: &&&'static str| {
        ServerName::try_from(**service).is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
    };
    known.iter().filter(is_for).copied().collect()
}

/// The services whose certificate the caller has shown: an extension of each request of a connection.
#[derive(Debug, Clone)]
pub(crate) struct CertifiedAs(pub Arc<[&'static str]>);

/// A connection over TLS.
pub(crate) struct Secured {
    stream: TlsStream<TcpStream>,
    services: CertifiedAs,
}

impl Connected for Secured {
    type ConnectInfo = CertifiedAs;

    fn connect_info(&self) -> CertifiedAs {
        self.services.clone()
    }
}

impl AsyncRead for Secured {
    fn poll_read(self: Pin<&mut Self>, task: &mut TaskContext<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(task, into)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(self: Pin<&mut Self>, task: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(task, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(task)
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(task)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(task, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
