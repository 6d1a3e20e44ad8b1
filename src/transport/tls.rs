//! Which certificates to trust: one TLS configuration for all connections.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot use the certificates in {}: {reason}", path.display())]
    CaFile { path: PathBuf, reason: String },
    #[error(
        "no trusted root certificate was found ({reason}); \
         install the system's ca-certificates, or set api.ca_file"
    )]
    NoRoots { reason: String },
    /// The cryptography library refuses its own defaults.
    #[error("cannot set up TLS: {0}")]
    Provider(#[from] rustls::Error),
}

/// The system's roots (or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`), and those in `ca_file`. No
/// root is an error only if `roots_needed`. ALPN is left empty; each client sets its own.
pub fn tls_config(ca_file: Option<&Path>, roots_needed: bool) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    // The system's bundle may hold certificates that this library cannot read; `ca_file` may not.
    roots.add_parsable_certificates(native.certs);
    if let Some(path) = ca_file {
        add_file(&mut roots, path)?;
    }
    if roots.is_empty() && roots_needed {
        let reason = match native.errors.first() {
            Some(error) => error.to_string(),
            None => "the system has none".to_owned(),
        };
        return Err(TlsError::NoRoots { reason });
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    let refused = |reason: String| TlsError::CaFile { path: path.to_owned(), reason };
    let before = roots.len();
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| refused(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| refused(error.to_string()))?;
        roots.add(certificate).map_err(|error| refused(error.to_string()))?;
    }
    let added = roots.len() > before;
    added.then_some(()).ok_or_else(|| refused("it holds none, in PEM form".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("absent.pem");
        let empty = folder.path().join("empty.pem");
        let broken = folder.path().join("broken.pem");
        std::fs::File::create(&empty).unwrap();
        std::fs::copy(
            file_with("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").path(),
            &broken,
        )
        .unwrap();
        for path in [absent, empty, broken] {
            let error = tls_config(Some(&path), false).unwrap_err();
            assert!(matches!(error, TlsError::CaFile { .. }), "{error}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn without_need_for_roots_there_is_always_a_configuration() {
        assert!(tls_config(None, false).unwrap().alpn_protocols.is_empty());
    }

    fn file_with(text: &str) -> tempfile::NamedTempFile {
        use std::io::Write as _;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }
}
