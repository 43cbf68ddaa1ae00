//! A TLS front before a test's Postgres, whose own build has no TLS.
//!
//! It listens on loopback, and tests reach it as `0.0.0.0`: the kernel takes that address to this machine, and it is none of the
//! loopback addresses, so a client must treat the server as one elsewhere.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, ServerConfig, pki_types::PrivateKeyDer},
};
use url::Url;

/// The host that tests give a server "elsewhere".
pub const ELSEWHERE: &str = "0.0.0.0";

/// A certificate authority of one test.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, as text.
    pub pem: String,
}

impl Authority {
    /// Makes one.
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Root of a test");
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A server's configuration with a certificate for `host`, which ended in 2020 if `expired`.
    pub fn server(&self, host: &str, expired: bool) -> ServerConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(2019, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// What stands before Postgres; it goes when this is dropped.
#[derive(Debug)]
pub struct Front {
    /// Where it listens.
    pub address: SocketAddr,
    unprotected: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Front {
    /// Stands before the server of `url`. Without a configuration it refuses TLS, and passes on what comes without.
    pub async fn before(url: &str, tls: Option<ServerConfig>) -> Self {
        let upstream = SocketAddr::from(([127, 0, 0, 1], Url::parse(url).unwrap().port().unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let unprotected = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&unprotected);
        let server = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A failed connection is the client's to report.
                tokio::spawn(serve(client, upstream, acceptor.clone(), Arc::clone(&counted)));
            }
        });
        Self { address, unprotected, server }
    }

    /// The URL with this front in place of its server, called `host`.
    pub fn url(&self, url: &str, host: &str) -> String {
        let mut url = Url::parse(url).unwrap();
        url.set_host(Some(host)).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.into()
    }

    /// How many bytes came without protection, the question for TLS itself left out.
    pub fn unprotected(&self) -> usize {
        self.unprotected.load(Ordering::SeqCst)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The message that asks for TLS.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

async fn serve(
    mut client: TcpStream,
    upstream: SocketAddr,
    tls: Option<TlsAcceptor>,
    unprotected: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let mut first = [0; 8];
    client.read_exact(&mut first).await?;
    let mut server = TcpStream::connect(upstream).await?;
    if first != SSL_REQUEST {
        unprotected.fetch_add(first.len(), Ordering::SeqCst);
        server.write_all(&first).await?;
    } else if let Some(tls) = tls {
        client.write_all(b"S").await?;
        let mut client = tls.accept(client).await?;
        return copy_bidirectional(&mut client, &mut server).await.map(drop);
    } else {
        client.write_all(b"N").await?;
    }
    let mut piece = [0; 1024];
    let length = client.read(&mut piece).await?;
    unprotected.fetch_add(length, Ordering::SeqCst);
    server.write_all(&piece[..length]).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
