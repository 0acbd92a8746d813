//! Whom to trust: the certificates that `tls_config` names, as their files are now.
//!
//! The client's own settings know neither a server's certificate that is named itself nor a name that is not the URL's,
//! so the judgement of certificates is here. Not here: connections (`connections`).

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::http::{TlsConfig, read_file};

/// Most bytes of a file with certificates or a key.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// What the files of a [`TlsConfig`] hold.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct TlsFiles {
    ca: Option<Vec<u8>>,
    cert_and_key: Option<(Vec<u8>, Vec<u8>)>,
}

/// The files, names or certificates in `tls_config` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct TlsError(String);

impl TlsError {
    /// This went wrong.
    pub(super) fn new(why: String) -> TlsError {
        TlsError(why)
    }
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read, or the key of a certificate is not named; which one.
    pub(super) fn read(config: &TlsConfig) -> Result<TlsFiles, TlsError> {
        let cert_and_key = match (&config.cert_file, &config.key_file) {
            (Some(cert), Some(key)) => Some((read(cert, "cert_file")?, read(key, "key_file")?)),
            (None, None) => None,
            _ => {
                let why = "tls_config must have both cert_file and key_file, or neither; got one of them";
                return Err(TlsError(why.to_owned()));
            }
        };
        let ca = config.ca_file.as_deref().map(|path| read(path, "ca_file")).transpose()?;
        Ok(TlsFiles { ca, cert_and_key })
    }
}

fn read(path: &Path, key: &str) -> Result<Vec<u8>, TlsError> {
    let why =
        |error: &dyn fmt::Display| TlsError(format!("reading tls_config.{key} {}: {error}", path.display()));
    read_file(path, FILE_BYTES_MAX).map_err(|error| why(&error))
}

/// The name that the server's certificate has to bear, if `tls_config` gives one.
///
/// # Errors
/// It is neither a DNS name nor an IP address.
pub(super) fn server_name(config: &TlsConfig) -> Result<Option<ServerName<'static>>, TlsError> {
    let Some(name) = &config.server_name else { return Ok(None) };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let parsed = ServerName::try_from(bare.to_owned());
    parsed
        .map(Some)
        .map_err(|_| TlsError(format!("a server's name must be a DNS name or an IP address; got {bare:?}")))
}

/// The certificates in the text of a file.
fn certificates(pem: &[u8], key: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(TlsError(format!("tls_config.{key} holds no certificate in PEM form"))),
        Err(error) => Err(TlsError(format!("tls_config.{key} cannot be used: {error}"))),
    }
}

/// The configuration of rustls for what the files hold.
///
/// # Errors
/// A file that does not hold what it should, named.
pub(super) fn client_config(config: &TlsConfig, files: &TlsFiles) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let trusted = match config.insecure_skip_verify {
        true => None,
        false => Some(TrustAnchors::new(files.ca.as_deref(), Arc::clone(&provider))?),
    };
    let verifier = CertVerifier { name: server_name(config)?, trusted, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some((cert, key)) = &files.cert_and_key else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(cert, "cert_file")?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| TlsError("tls_config.key_file holds no private key in PEM form".to_owned()))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| TlsError(format!("tls_config.cert_file and key_file do not go together: {error}")))
}

/// The configuration for a server without TLS: the client wants one, and uses none.
///
/// # Errors
/// None that is known.
pub(super) fn no_certificates() -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(error.to_string()))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// Those whose certificates are taken.
#[derive(Debug)]
struct TrustAnchors {
    signed: Arc<WebPkiServerVerifier>,
    /// The certificates in `ca_file`.
    named: Vec<CertificateDer<'static>>,
}

impl TrustAnchors {
    /// Those in `ca_file`, else those the system trusts.
    fn new(ca: Option<&[u8]>, provider: Arc<CryptoProvider>) -> Result<TrustAnchors, TlsError> {
        let mut store = RootCertStore::empty();
        let mut named = Vec::new();
        if let Some(pem) = ca {
            named = certificates(pem, "ca_file")?;
            for certificate in &named {
                let added = store.add(certificate.clone());
                added.map_err(|error| TlsError(format!("tls_config.ca_file cannot be used: {error}")))?;
            }
        } else {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
                return Err(TlsError(format!(
                    "the system trusts no certificates{why}: install them, or name a file in tls_config.ca_file"
                )));
            }
        }
        let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build();
        let signed =
            signed.map_err(|error| TlsError(format!("tls_config.ca_file cannot be used: {error}")))?;
        Ok(TrustAnchors { signed, named })
    }
}

/// Takes what those we trust have signed, and a server's own certificate that is in `ca_file` itself: so people secure
/// one Prometheus by `openssl req -x509`, whose certificates may sign, which the library takes for no server's. With
/// `insecure_skip_verify` any certificate is taken; that the server owns its key is still checked.
#[derive(Debug)]
struct CertVerifier {
    /// The name the certificate has to bear, where it is not that of the URL.
    name: Option<ServerName<'static>>,
    /// None takes any.
    trusted: Option<TrustAnchors>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for CertVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(TrustAnchors { signed, named }) = &self.trusted else {
            return Ok(ServerCertVerified::assertion());
        };
        let name = self.name.as_ref().unwrap_or(name);
        match signed.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if named.iter().any(|named| named == end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
