//! TLS to the servers: the certificates of a client, how it checks a server's, and failures that no waiting mends.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, ensure};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// What a server has to prove.
pub(crate) enum Verify {
    /// Nothing: the connection is encrypted, and nobody knows to whom.
    Nothing,
    /// That one of these has signed its certificate.
    Authority(Arc<RootCertStore>),
    /// That, and that the certificate is for the name that we call it by.
    AuthorityAndName(Arc<RootCertStore>),
}

/// A certificate of ours with those that lead to its root, and its key.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The certificates in the file `path`. The parser's own errors quote lines of the file, so they are not shown.
pub(crate) fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let text = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    ensure!(!found.is_empty(), "{} is no file of certificates in PEM format", path.display());
    Ok(found)
}

/// The authorities in the file `path`.
pub(crate) fn roots(path: &Path) -> anyhow::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).with_context(|| format!("{} has a certificate that is no authority", path.display()))?;
    }
    Ok(Arc::new(roots))
}

/// The authorities that this machine trusts, read once.
pub(crate) fn system_roots() -> anyhow::Result<Arc<RootCertStore>> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    ensure!(!roots.is_empty(), "this machine has no certificates of authorities (Debian's package is ca-certificates)");
    Ok(roots.clone())
}

/// The certificate in the file `certificate`, whose key is in the file `key`.
pub(crate) fn identity(certificate: &Path, key: &Path) -> anyhow::Result<Identity> {
    let text = std::fs::read(key).with_context(|| format!("{} cannot be read", key.display()))?;
    let found = PrivateKeyDer::from_pem_slice(&text).ok();
    let found = found.with_context(|| format!("{} has no unencrypted private key in PEM format", key.display()))?;
    let chain = certificates(certificate)?;
    let signs_for_it = client_config(&Verify::Nothing, Some((chain.clone(), found.clone_key()))).is_ok();
    ensure!(signs_for_it, "the key in {} is not that of the certificate in {}", key.display(), certificate.display());
    Ok((chain, found))
}

/// [`identity`], ready to sign with.
pub(crate) fn certified_key(certificate: &Path, key: &Path) -> anyhow::Result<Arc<CertifiedKey>> {
    let (chain, key) = identity(certificate, key)?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?))
}

/// What is wrong with `ca_file`, `cert_file` and `key_file` of a section.
pub(crate) fn file_problems(section: &str, [ca_file, cert_file, key_file]: [&str; 3]) -> Vec<String> {
    let mut problems = Vec::new();
    if !ca_file.is_empty()
        && let Err(wrong) = roots(Path::new(ca_file))
    {
        problems.push(format!("{section}.ca_file cannot be used: {wrong:#}"));
    }
    let names = ["cert_file", "key_file"].map(|file| format!("{section}.{file}"));
    problems.extend(identity_problem([&names[0], cert_file], [&names[1], key_file]));
    problems
}

/// What is wrong with the files of a client's certificate, by the names of the two settings.
fn identity_problem([certificate_setting, certificate]: [&str; 2], [key_setting, key]: [&str; 2]) -> Option<String> {
    match (certificate, key) {
        ("", "") => None,
        (_, "") => Some(format!("{certificate_setting} needs {key_setting}, the file of its key")),
        ("", _) => Some(format!("{key_setting} needs {certificate_setting}, the file of its certificate")),
        _ => {
            let wrong = identity(Path::new(certificate), Path::new(key)).err();
            wrong.map(|wrong| format!("{certificate_setting} and {key_setting} cannot be used: {wrong:#}"))
        }
    }
}

/// A client that checks servers as `verify` says, and proves itself with `identity` to those that ask.
pub(crate) fn client_config(verify: &Verify, identity: Option<Identity>) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?.dangerous();
    let authority = |roots: &Arc<RootCertStore>| {
        WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build()
    };
    let verifier: Arc<dyn ServerCertVerifier> = match verify {
        Verify::Nothing => Arc::new(NameIgnored { authority: None, provider }),
        Verify::Authority(roots) => Arc::new(NameIgnored { authority: Some(authority(roots)?), provider }),
        Verify::AuthorityAndName(roots) => authority(roots)?,
    };
    let builder = builder.with_custom_certificate_verifier(verifier);
    Ok(match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    })
}

/// Takes a server for whom it says it is: libpq's `verify-ca`, and without an authority its `require` and `prefer`.
#[derive(Debug)]
struct NameIgnored {
    authority: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for NameIgnored {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        match authority.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is looked at last, when all else is right.
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                Ok(ServerCertVerified::assertion())
            }
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The failure of TLS in `error`: this side does not take the server's certificate, the server does not take ours, or one
/// of the two does not speak TLS. None: the connection failed in another way, and may succeed soon.
pub(crate) fn failure<'error>(error: &'error (dyn Error + 'static)) -> Option<&'error rustls::Error> {
    let shared = error.downcast_ref::<Arc<dyn Error + Send + Sync>>();
    let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let next = match (shared, within) {
        (Some(shared), _) => Some(&**shared as &(dyn Error + 'static)),
        (None, Some(within)) => Some(within as &(dyn Error + 'static)),
        (None, None) => error.source(),
    };
    error.downcast_ref::<rustls::Error>().or_else(|| failure(next?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_tls_is_found_however_it_is_wrapped() {
        let wrong = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let io = || std::io::Error::new(std::io::ErrorKind::InvalidData, wrong());
        let of_redis = redis::RedisError::from(io());
        assert!(
            [&wrong() as &(dyn Error + 'static), &io(), &of_redis].into_iter().all(|error| failure(error).is_some())
        );
        assert!(failure(&std::io::Error::from(std::io::ErrorKind::ConnectionReset)).is_none());
    }

    #[test]
    fn a_file_that_is_no_certificate_is_named_and_not_quoted() {
        let path = std::env::temp_dir().join(format!("stampede-tls-{}", std::process::id()));
        std::fs::write(&path, "-----BEGIN hunter2-----\nhunter2\n").unwrap();
        let told = [
            format!("{:#}", roots(&path).unwrap_err()),
            format!("{:#}", identity(&path, &path).unwrap_err()),
            format!("{:#}", roots(Path::new("/nothing/there")).unwrap_err()),
        ];
        std::fs::remove_file(&path).unwrap();
        let path = path.display();
        assert_eq!(told[0], format!("{path} is no file of certificates in PEM format"));
        assert_eq!(told[1], format!("{path} has no unencrypted private key in PEM format"));
        assert_eq!(told[2], "/nothing/there cannot be read: No such file or directory (os error 2)");
    }
}
