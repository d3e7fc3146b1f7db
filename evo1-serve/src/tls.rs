//! TLS from PEM files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::{Error, Result};

/// A certificate chain and its private key, which may be renewed while the server runs.
pub(crate) struct Certificate {
    paths: Paths,
    pems: Pems,
    acceptor: TlsAcceptor,
}

#[derive(Debug, Clone)]
struct Paths {
    chain: PathBuf,
    key: PathBuf,
}

/// What the files hold.
#[derive(PartialEq, Eq)]
struct Pems {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl Certificate {
    pub(crate) fn read(chain: &Path, key: &Path) -> Result<Self> {
        let paths = Paths { chain: chain.to_owned(), key: key.to_owned() };
        let pems = Pems::read(&paths)?;
        let acceptor = pems.acceptor(&paths)?;
        Ok(Self { paths, pems, acceptor })
    }

    /// What accepts TLS connections with it.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Takes the files as they are now; says whether they hold another certificate. After an error it is what it was.
    pub(crate) fn renew(&mut self) -> Result<bool> {
        let pems = Pems::read(&self.paths)?;
        if pems == self.pems {
            return Ok(false);
        }
        self.acceptor = pems.acceptor(&self.paths)?;
        self.pems = pems;
        Ok(true)
    }
}

fn unusable(path: &Path, error: impl ToString) -> Error {
    Error::Tls { path: path.to_owned(), message: error.to_string() }
}

impl Pems {
    fn read(paths: &Paths) -> Result<Self> {
        let read = |path: &Path| std::fs::read(path).map_err(|error| unusable(path, error));
        Ok(Self { chain: read(&paths.chain)?, key: read(&paths.key)? })
    }

    fn acceptor(&self, paths: &Paths) -> Result<TlsAcceptor> {
        let chain: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.chain).collect();
        let chain = chain.map_err(|error| unusable(&paths.chain, error))?;
        if chain.is_empty() {
            return Err(unusable(&paths.chain, "it holds no certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| unusable(&paths.key, error))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&paths.chain, error))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| unusable(&paths.key, error))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
