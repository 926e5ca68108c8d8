//! Authorities whose certificates are trusted beside the system's: those of the file that `AWS_CA_BUNDLE` names, as the AWS CLI and
//! SDKs have it. People name it where a proxy of their own takes TLS apart.
//!
//! The system's stay trusted, since not every service need be behind the proxy (the CLI trusts the file alone; for that there is
//! `SSL_CERT_FILE`, which both of our HTTP clients read in place of the system's).
//!
//! Invariant: what is in the file is looked at before a client is made of it. The SDK's panics at what is no certificate.

use std::path::Path;

use aws_smithy_http_client::tls::TrustStore;
use object_store::client::{HttpConnector, ReqwestConnector};
use object_store::{Certificate, ClientOptions};

use crate::contracts::{Error, Result};

/// The variable of the environment.
const VARIABLE: &str = "AWS_CA_BUNDLE";

/// Certificates of authorities.
#[derive(Debug)]
pub(super) struct Authorities {
    pem: Vec<u8>,
    certificates: Vec<Certificate>,
}

/// What the environment asks for.
///
/// # Errors
/// `config`, with the file's name: it cannot be read, or is not certificates.
pub(super) fn authorities() -> Result<Option<Authorities>> {
    match std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => Authorities::read(Path::new(&path)).map(Some),
        None => Ok(None),
    }
}

impl Authorities {
    fn read(path: &Path) -> Result<Self> {
        let file = path.display();
        let hint = "name a file of certificates in PEM (-----BEGIN CERTIFICATE-----), or unset the variable";
        let wrong = |what: &str| Error::config(format!("{VARIABLE} names '{file}', {what}")).hint(hint);
        let pem = std::fs::read(path).map_err(|e| wrong("which cannot be read").caused_by(e))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|e| wrong("which is no PEM").caused_by(e))?;
        if certificates.is_empty() {
            return Err(wrong("which has no certificate"));
        }
        let read = Self { pem, certificates };
        let trusting = read.trusted_by(ClientOptions::new());
        let tried = ReqwestConnector::default().connect(&trusting);
        tried.map_err(|e| wrong("of which a certificate cannot be used").caused_by(e))?;
        Ok(read)
    }

    /// For the SDK's client.
    pub(super) fn trust_store(&self) -> TrustStore {
        TrustStore::default().with_pem_certificate(self.pem.clone())
    }

    /// For that of the object store.
    pub(super) fn trusted_by(&self, options: ClientOptions) -> ClientOptions {
        self.certificates.iter().cloned().fold(options, ClientOptions::with_root_certificate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contracts::ErrorKind;

    #[test]
    fn a_file_that_is_no_bundle_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("bundle.pem");
        let refused = |expected: &str| {
            let error = Authorities::read(&file).map(|_| ()).expect_err(expected);
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
            assert!(text.contains("bundle.pem") && text.contains("AWS_CA_BUNDLE"), "{text}");
            assert!(text.contains(expected) && text.contains("hint: name a file"), "'{expected}' in {text}");
        };
        refused("cannot be read");
        std::fs::write(&file, "").expect("written");
        refused("has no certificate");
        std::fs::write(&file, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").expect("written");
        refused("has no certificate");
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n").expect("written");
        refused("which is no PEM");
        // PEM, and nothing that X.509 knows: the SDK would panic.
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAECAwQF\n-----END CERTIFICATE-----\n").expect("written");
        refused("a certificate cannot be used");
        std::fs::create_dir(folder.path().join("a folder")).expect("created");
        assert!(Authorities::read(&folder.path().join("a folder")).is_err());
    }
}
