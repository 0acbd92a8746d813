//! TLS under the HTTP client: certificates as `tls_config` says, read again at each connection, so that they can be
//! replaced while Tidewatch runs.
//!
//! Not here: HTTP. The client calls [`Tls`] for the transport under it.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use crate::config::http::{TlsConfig, read_file};

/// Most bytes of a file with certificates or a key.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Puts TLS around connections to `https` URLs.
#[derive(Clone)]
pub struct Tls {
    config: TlsConfig,
    made: Arc<Mutex<Option<TlsSetup>>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

/// The configuration of rustls, and what it was made from.
type TlsSetup = (TlsFiles, Arc<ClientConfig>);

/// What the files held when the configuration was made from them.
#[derive(Clone, PartialEq, Eq)]
struct TlsFiles {
    ca: Option<Vec<u8>>,
    cert_and_key: Option<(Vec<u8>, Vec<u8>)>,
}

/// The files, names or certificates in `tls_config` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

impl Tls {
    /// Judges everything that `config` names.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold what it should, named.
    pub fn new(config: TlsConfig) -> Result<Tls, TlsError> {
        let tls = Tls { config, made: Arc::default() };
        if let Some(name) = &tls.config.server_name {
            server_name(name)?;
        }
        tls.client_config()?;
        Ok(tls)
    }

    /// The configuration of rustls for what the files hold now.
    fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let config = &self.config;
        let cert_and_key = match (&config.cert_file, &config.key_file) {
            (Some(cert), Some(key)) => Some((read(cert, "cert_file")?, read(key, "key_file")?)),
            (None, None) => None,
            _ => {
                let why = "tls_config must have both cert_file and key_file, or neither; got one of them";
                return Err(TlsError(why.to_owned()));
            }
        };
        let ca = config.ca_file.as_deref().map(|path| read(path, "ca_file")).transpose()?;
        let files = TlsFiles { ca, cert_and_key };
        let mut made = self.made.lock();
        if let Some((of, made)) = &*made
            && *of == files
        {
            return Ok(Arc::clone(made));
        }
        let fresh = Arc::new(build(config, &files)?);
        *made = Some((files, Arc::clone(&fresh)));
        Ok(fresh)
    }
}

fn read(path: &Path, key: &str) -> Result<Vec<u8>, TlsError> {
    let why =
        |error: &dyn fmt::Display| TlsError(format!("reading tls_config.{key} {}: {error}", path.display()));
    read_file(path, FILE_BYTES_MAX).map_err(|error| why(&error))
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    let name = name.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(name.to_owned())
        .map_err(|_| TlsError(format!("a server's name must be a DNS name or an IP address; got {name:?}")))
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

fn build(config: &TlsConfig, files: &TlsFiles) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(error.to_string()))?;
    let builder = if config.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.dangerous().with_custom_certificate_verifier(trusted(files.ca.as_deref(), provider)?)
    };
    let Some((cert, key)) = &files.cert_and_key else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(cert, "cert_file")?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| TlsError("tls_config.key_file holds no private key in PEM form".to_owned()))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| TlsError(format!("tls_config.cert_file and key_file do not go together: {error}")))
}

/// Whom to trust: those in `ca_file`, else those the system trusts.
fn trusted(ca: Option<&[u8]>, provider: Arc<CryptoProvider>) -> Result<Arc<TrustedVerifier>, TlsError> {
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
    let signed = signed.map_err(|error| TlsError(format!("tls_config.ca_file cannot be used: {error}")))?;
    Ok(Arc::new(TrustedVerifier { signed, named }))
}

/// Takes what those we trust have signed, and a server's own certificate that is in `ca_file` itself: so people secure
/// one Prometheus by `openssl req -x509`, whose certificates may sign, which the library takes for no server's.
#[derive(Debug)]
struct TrustedVerifier {
    signed: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for TrustedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.signed.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.named.iter().any(|named| named == end_entity) =>
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
        self.signed.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

/// Takes any certificate, as `insecure_skip_verify` asks; that the server owns its key is still checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl<In: Transport> Connector<In> for Tls {
    type Out = Either<In, TlsConnection>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        below: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(below) = below else { return Ok(None) };
        if !details.needs_tls() || below.is_tls() {
            return Ok(Some(Either::A(below)));
        }
        let other = |error: TlsError| ureq::Error::Other(Box::new(error));
        let host = details.uri.host().unwrap_or_default();
        let name = server_name(self.config.server_name.as_deref().unwrap_or(host)).map_err(other)?;
        let config = self.client_config().map_err(other)?;
        let mut connection = ClientConnection::new(config, name)
            .map_err(|error| ureq::Error::Io(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        let mut line =
            TransportAdapter::new(Box::new(below) as Box<dyn Transport>, details.current_time.clone());
        line.set_timeout(details.timeout);
        connection.complete_io(&mut line)?;
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(TlsConnection { buffers, stream: StreamOwned::new(connection, line) })))
    }
}

/// A connection with TLS around it.
pub struct TlsConnection {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for TlsConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").field("below", &self.stream.sock.get_ref()).finish()
    }
}

impl Transport for TlsConnection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let read = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
