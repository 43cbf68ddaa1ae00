//! A server on loopback that speaks TLS, names that lead to it after their addresses were checked, and every way to write an address.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    future::pending,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

use crate::download::{
    address::{SPECIAL_V4, SPECIAL_V6},
    *,
};

/// What names of tests stand for, unless a test says otherwise.
pub(super) const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(93, 184, 215, 14));
pub(super) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The first bytes of a picture.
pub(super) const JPEG: &[u8] = b"\xff\xd8\xff\xe0\0\x10JFIF\0";
pub(super) const MANY: u64 = 1 << 20;

/// Bytes that a server sends, and whether it closes the connection after them or keeps silent.
pub(super) struct Answer {
    pub(super) bytes: Vec<u8>,
    pub(super) closes: bool,
}

impl Answer {
    pub(super) fn stalls(self) -> Self {
        Self { closes: false, ..self }
    }
}

pub(super) fn raw(head: &str, body: &[u8]) -> Answer {
    Answer { bytes: [head.as_bytes(), b"\r\n\r\n", body].concat(), closes: true }
}

pub(super) fn file(body: &[u8]) -> Answer {
    raw(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}", body.len()), body)
}

pub(super) fn chunked(body: &[u8]) -> Answer {
    let chunks =
        body.chunks(7).flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
    let body: Vec<u8> = chunks.chain(*b"0\r\n\r\n").collect();
    raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked", &body)
}

pub(super) fn redirect(to: &str) -> Answer {
    raw(&format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0"), b"")
}

pub(super) fn status(status: u16) -> Answer {
    raw(&format!("HTTP/1.1 {status} Reason\r\ncontent-length: 0"), b"")
}

/// A server that counts its connections.
pub(super) struct Server {
    pub(super) port: u16,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) heads: Arc<Mutex<Vec<String>>>,
    pub(super) task: JoinHandle<()>,
}

impl Server {
    /// Answers each path as `route` says, which also knows the server's port.
    pub(super) async fn start(
        tls: Option<ServerConfig>,
        route: impl Fn(&str, u16) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let (connections, heads, route) = (Arc::new(AtomicUsize::new(0)), Arc::default(), Arc::new(route));
        let (counted, seen) = (Arc::clone(&connections), Arc::clone(&heads));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let (acceptor, route, seen) = (acceptor.clone(), Arc::clone(&route), Arc::clone(&seen));
                tokio::spawn(async move {
                    match acceptor {
                        None => exchange(stream, port, &*route, &seen).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                exchange(stream, port, &*route, &seen).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, connections, heads, task }
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    port: u16,
    route: &(dyn Fn(&str, u16) -> Answer + Send + Sync),
    seen: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let answer = route(head.split(' ').nth(1).unwrap(), port);
    seen.lock().unwrap().push(head);
    // The client may have had enough before the end.
    let _: std::io::Result<()> = stream.write_all(&answer.bytes).await;
    let _: std::io::Result<()> = stream.flush().await;
    if !answer.closes {
        pending::<()>().await;
    }
    let _: std::io::Result<()> = stream.shutdown().await;
}

/// A certificate for the names of tests, and the authority to trust for it.
pub(super) fn certificate() -> (ServerConfig, reqwest::Certificate) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "Root of a test");
    let root = reqwest::Certificate::from_der(authority.self_signed(&authority_key).unwrap().der()).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let names = [
        "media.example",
        "other.example",
        "third.example",
        "turning.example",
        "inside.example",
        "localhost",
        "127.0.0.1",
    ];
    let names = names.map(str::to_owned);
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    (config, root)
}

/// Answers of a name server: for each name one after the other, and the last one again and again.
#[derive(Default)]
pub(super) struct Names {
    pub(super) answers: Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>,
    pub(super) asked: Mutex<Vec<String>>,
}

impl Names {
    pub(super) fn answer(&self, name: &str, answers: impl IntoIterator<Item = Vec<IpAddr>>) {
        self.answers.lock().unwrap().insert(name.to_owned(), answers.into_iter().collect());
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub(super) fn next(&self, name: &str) -> Vec<IpAddr> {
        self.asked.lock().unwrap().push(name.to_owned());
        match self.answers.lock().unwrap().get_mut(name) {
            Some(answers) if answers.len() > 1 => answers.pop_front().unwrap(),
            Some(answers) => answers.front().cloned().unwrap_or_default(),
            None => vec![PUBLIC],
        }
    }
}

pub(super) struct ScriptedResolver(pub(super) Arc<Names>);

impl Resolve for ScriptedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let names = Arc::clone(&self.0);
        Box::pin(async move {
            if name.as_str() == "silent.example" {
                pending::<()>().await;
            }
            let answer = names.next(name.as_str()).into_iter().map(|address| SocketAddr::from((address, 0)));
            Ok(Box::new(answer.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

/// Behind the check: notes which addresses the client is given to connect to, and gives it loopback in their place.
pub(super) struct Detour {
    pub(super) checked: CheckedResolver,
    pub(super) given: Arc<Mutex<Vec<IpAddr>>>,
}

impl Resolve for Detour {
    fn resolve(&self, name: Name) -> Resolving {
        let (answer, given) = (self.checked.resolve(name), Arc::clone(&self.given));
        Box::pin(async move {
            let addresses: Vec<_> = answer.await?.map(|address| address.ip()).collect();
            let to: Vec<_> = addresses.iter().map(|_| SocketAddr::from((LOOPBACK, 0))).collect();
            given.lock().unwrap().extend(addresses);
            Ok(Box::new(to.into_iter()) as Addrs)
        })
    }
}

/// A downloader for which the names of tests lead to a server.
pub(super) struct World {
    pub(super) server: Server,
    pub(super) names: Arc<Names>,
    pub(super) given: Arc<Mutex<Vec<IpAddr>>>,
    pub(super) downloader: Downloader,
}

impl World {
    pub(super) async fn new(route: impl Fn(&str, u16) -> Answer + Send + Sync + 'static) -> Self {
        Self::with(&[], route).await
    }

    pub(super) async fn with(
        settings: &[(&str, &str)],
        route: impl Fn(&str, u16) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let (tls, root) = certificate();
        let server = Server::start(Some(tls), route).await;
        let (names, given) = (Arc::new(Names::default()), Arc::<Mutex<Vec<IpAddr>>>::default());
        let mut downloader = Downloader::from_env(&Env::from_iter(settings.iter().copied())).unwrap();
        let inner = Arc::new(ScriptedResolver(Arc::clone(&names)));
        let checked = CheckedResolver { inner, allowed: downloader.allowed.clone() };
        let detour = Arc::new(Detour { checked, given: Arc::clone(&given) });
        let client = builder(downloader.timeout, detour).tls_certs_merge([root]).build().unwrap();
        downloader.client = OnceLock::from(client);
        downloader.https_port = server.port;
        Self { server, names, given, downloader }
    }

    pub(super) fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.server.port)
    }

    pub(super) async fn get(&self, path: &str) -> Result<Downloaded, DownloadError> {
        self.downloader.download(&self.url("media.example", path), MANY).await
    }
}

/// Ways to write an IPv4 address that a URL's host may take, and IPv6 addresses that carry it.
pub(super) fn notations(address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let bits = address.to_bits();
    let (high, low) = (bits >> 16, bits & 0xffff);
    let full_width: String = address.to_string().chars().map(|c| char::from_u32(c as u32 + 0xfee0).unwrap()).collect();
    let percent: String = address.to_string().bytes().map(|byte| format!("%{byte:02x}")).collect();
    vec![
        format!("{a}.{b}.{c}.{d}"),
        format!("{a}.{b}.{c}.{d}."),
        format!("{bits}"),
        format!("{bits:#x}"),
        format!("0X{bits:X}"),
        format!("0{bits:o}"),
        format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("000{a:o}.{b}.{c:#x}.0{d:o}"),
        format!("{a}.{}", bits & 0x00ff_ffff),
        format!("{a}.{b}.{low}"),
        format!("0{a:o}.{b:#x}.{low:#x}."),
        full_width,
        format!("{a}。{b}．{c}｡{d}"),
        percent,
        format!("{a}.{b}.{c}%2e{d}"),
        format!("[::ffff:{a}.{b}.{c}.{d}]"),
        format!("[::FFFF:{high:X}:{low:X}]"),
        format!("[0:0:0:0:0:ffff:{high:04x}:{low:04x}]"),
        format!("[::{a}.{b}.{c}.{d}]"),
        format!("[::ffff:0:{a}.{b}.{c}.{d}]"),
        format!("[64:ff9b::{a}.{b}.{c}.{d}]"),
        format!("[64:ff9b:1::{high:x}:{low:x}]"),
        format!("[64:ff9b:1:{high:x}:{:x}:{:x}::]", low >> 8, (low & 0xff) << 8),
        format!("[2002:{high:x}:{low:x}::1]"),
        format!("[2001:0:{high:x}:{low:x}::1]"),
        format!("[2001:0:5db8:d70e::{:x}:{:x}]", high ^ 0xffff, low ^ 0xffff),
        format!("[fe80::5efe:{a}.{b}.{c}.{d}]"),
    ]
}

/// The first and the last address of each block that is not public, and those that are best known.
pub(super) fn private_v4() -> Vec<Ipv4Addr> {
    let ends = SPECIAL_V4.iter().flat_map(|(first, shared)| {
        let last = first.to_bits() | u32::MAX.checked_shr(*shared).unwrap_or(0);
        [*first, Ipv4Addr::from_bits(last)]
    });
    let known =
        [[127, 0, 0, 1], [169, 254, 169, 254], [10, 1, 2, 3], [100, 100, 100, 200], [192, 168, 1, 1], [172, 17, 0, 1]];
    ends.chain(known.map(Ipv4Addr::from)).collect()
}

/// IPv6 addresses that are not public.
pub(super) fn private_v6() -> Vec<Ipv6Addr> {
    let ends = SPECIAL_V6
        .iter()
        .flat_map(|(first, shared)| [*first, Ipv6Addr::from_bits(first.to_bits() | u128::MAX >> shared)]);
    let known = [
        "::",
        "::1",
        "100::1",
        "64:ff9b::1",
        "5f00::1",
        "4000::1",
        "fc00::1",
        "fd00:ec2::254",
        "fdff:ffff::1",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "feff::1",
        "ff02::1",
        "ff0e::1",
    ];
    ends.chain(known.iter().map(|address| address.parse().unwrap())).collect()
}

/// Hosts of URLs that mean a private address.
pub(super) fn private_hosts() -> Vec<String> {
    let v4 = private_v4().into_iter().flat_map(notations);
    let v6 = private_v6().into_iter().flat_map(|address| {
        let [a, b, c, d, e, f, g, h] = address.segments();
        [format!("[{address}]"), format!("[{a:04X}:{b:04X}:{c:04X}:{d:04X}:{e:04X}:{f:04X}:{g:04X}:{h:04X}]")]
    });
    v4.chain(v6).collect::<BTreeSet<_>>().into_iter().collect()
}
