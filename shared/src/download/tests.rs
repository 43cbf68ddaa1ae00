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

use super::{
    address::{SPECIAL_V4, SPECIAL_V6},
    kind::tests::{examples, refused},
    *,
};

/// What names of tests stand for, unless a test says otherwise.
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(93, 184, 215, 14));
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The first bytes of a picture.
const JPEG: &[u8] = b"\xff\xd8\xff\xe0\0\x10JFIF\0";
const MANY: u64 = 1 << 20;

/// Bytes that a server sends, and whether it closes the connection after them or keeps silent.
struct Answer {
    bytes: Vec<u8>,
    closes: bool,
}

impl Answer {
    fn stalls(self) -> Self {
        Self { closes: false, ..self }
    }
}

fn raw(head: &str, body: &[u8]) -> Answer {
    Answer { bytes: [head.as_bytes(), b"\r\n\r\n", body].concat(), closes: true }
}

fn file(body: &[u8]) -> Answer {
    raw(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}", body.len()), body)
}

fn chunked(body: &[u8]) -> Answer {
    let chunks =
        body.chunks(7).flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
    let body: Vec<u8> = chunks.chain(*b"0\r\n\r\n").collect();
    raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked", &body)
}

fn redirect(to: &str) -> Answer {
    raw(&format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0"), b"")
}

fn status(status: u16) -> Answer {
    raw(&format!("HTTP/1.1 {status} Whatever\r\ncontent-length: 0"), b"")
}

/// A server that counts its connections.
struct Server {
    port: u16,
    connections: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Answers each path as `route` says, which also knows the server's port.
    async fn start(tls: Option<ServerConfig>, route: impl Fn(&str, u16) -> Answer + Send + Sync + 'static) -> Self {
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

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
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
fn certificate() -> (ServerConfig, reqwest::Certificate) {
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
struct Names {
    answers: Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    fn answer(&self, name: &str, answers: impl IntoIterator<Item = Vec<IpAddr>>) {
        self.answers.lock().unwrap().insert(name.to_owned(), answers.into_iter().collect());
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn next(&self, name: &str) -> Vec<IpAddr> {
        self.asked.lock().unwrap().push(name.to_owned());
        match self.answers.lock().unwrap().get_mut(name) {
            Some(answers) if answers.len() > 1 => answers.pop_front().unwrap(),
            Some(answers) => answers.front().cloned().unwrap_or_default(),
            None => vec![PUBLIC],
        }
    }
}

struct ScriptedResolver(Arc<Names>);

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
struct Detour {
    checked: CheckedResolver,
    given: Arc<Mutex<Vec<IpAddr>>>,
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
struct World {
    server: Server,
    names: Arc<Names>,
    given: Arc<Mutex<Vec<IpAddr>>>,
    downloader: Downloader,
}

impl World {
    async fn new(route: impl Fn(&str, u16) -> Answer + Send + Sync + 'static) -> Self {
        Self::with(&[], route).await
    }

    async fn with(settings: &[(&str, &str)], route: impl Fn(&str, u16) -> Answer + Send + Sync + 'static) -> Self {
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

    fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.server.port)
    }

    async fn get(&self, path: &str) -> Result<Downloaded, DownloadError> {
        self.downloader.download(&self.url("media.example", path), MANY).await
    }
}

/// Ways to write an IPv4 address that a URL's host may take, and IPv6 addresses that carry it.
fn notations(address: Ipv4Addr) -> Vec<String> {
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
fn private_v4() -> Vec<Ipv4Addr> {
    let ends = SPECIAL_V4.iter().flat_map(|(first, shared)| {
        let last = first.to_bits() | u32::MAX.checked_shr(*shared).unwrap_or(0);
        [*first, Ipv4Addr::from_bits(last)]
    });
    let known =
        [[127, 0, 0, 1], [169, 254, 169, 254], [10, 1, 2, 3], [100, 100, 100, 200], [192, 168, 1, 1], [172, 17, 0, 1]];
    ends.chain(known.map(Ipv4Addr::from)).collect()
}

/// IPv6 addresses that are not public.
fn private_v6() -> Vec<Ipv6Addr> {
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
fn private_hosts() -> Vec<String> {
    let v4 = private_v4().into_iter().flat_map(notations);
    let v6 = private_v6().into_iter().flat_map(|address| {
        let [a, b, c, d, e, f, g, h] = address.segments();
        [format!("[{address}]"), format!("[{a:04X}:{b:04X}:{c:04X}:{d:04X}:{e:04X}:{f:04X}:{g:04X}:{h:04X}]")]
    });
    v4.chain(v6).collect::<BTreeSet<_>>().into_iter().collect()
}

#[tokio::test]
async fn a_file_is_fetched_with_nothing_of_ours_in_the_request() {
    let world = World::new(|_, _| file(JPEG)).await;
    let fetched = world.get("/a.png?signature=abc").await.unwrap();
    assert_eq!((fetched.kind, fetched.kind.mime(), fetched.kind.extension()), (Kind::Jpeg, "image/jpeg", "jpg"));
    assert_eq!(fetched.bytes, JPEG);
    let heads = world.server.heads.lock().unwrap();
    let mut lines: Vec<_> = heads[0].trim_end().lines().map(str::to_lowercase).collect();
    lines[1..].sort_unstable();
    let host = format!("host: media.example:{}", world.server.port);
    let headers = ["accept-encoding: identity", "accept: */*", &host, "user-agent: spine"];
    assert_eq!((heads.len(), lines[0].as_str()), (1, "get /a.png?signature=abc http/1.1"));
    assert_eq!(lines[1..], headers);
}

#[tokio::test]
async fn an_address_that_is_not_public_is_refused_in_every_notation_and_nothing_is_connected_to() {
    let world = World::new(|_, _| file(JPEG)).await;
    let hosts = private_hosts();
    assert!(hosts.len() > 900, "only {} hosts", hosts.len());
    for host in &hosts {
        // With the port of a server that listens, and with none.
        for url in [world.url(host, "/a"), format!("https://{host}/a"), format!("HTTPS:\\\\{host}/a")] {
            let refused = world.downloader.download(&url, MANY).await.unwrap_err();
            assert_eq!(refused, DownloadError::AddressPrivate, "{url}");
        }
    }
    assert_eq!((world.server.connections(), world.names.asked()), (0, 0));
    world.get("/a").await.unwrap();
    assert_eq!(world.server.connections(), 1, "the server's queue held a connection");
}

#[tokio::test]
async fn a_host_that_is_no_host_is_refused() {
    let world = World::new(|_, _| file(JPEG)).await;
    for host in [
        "[fe80::1%25lo]",
        "[fe80::1%lo]",
        "[::1",
        "::1",
        "256.1.1.1",
        "1.2.3.4.5",
        "0x100000000",
        "127.0.0.1%00.example",
        "",
        "a b",
    ] {
        let refused = world.downloader.download(&format!("https://{host}/"), MANY).await.unwrap_err();
        assert_eq!(refused, DownloadError::UrlInvalid, "{host}");
    }
    assert_eq!((world.server.connections(), world.names.asked()), (0, 0));
}

#[tokio::test]
async fn a_redirect_to_an_address_that_is_not_public_is_refused_in_every_notation() {
    let hosts = Arc::new(private_hosts());
    let known = Arc::clone(&hosts);
    let world = World::new(move |path, port| redirect(&redirect_to(&known, path, port))).await;
    let known =
        [Ipv4Addr::LOCALHOST, Ipv4Addr::new(169, 254, 169, 254), Ipv4Addr::new(10, 0, 0, 0)].map(notations).concat();
    let known: BTreeSet<_> = known.into_iter().collect();
    // A header's value is ASCII, so the addresses in other digits cannot come this way.
    let tried: Vec<_> =
        (0..hosts.len()).filter(|at| hosts[*at].is_ascii() && (known.contains(&hosts[*at]) || at % 20 == 0)).collect();
    assert!(tried.len() > 100, "only {} hosts", tried.len());
    for at in &tried {
        assert_eq!(world.get(&format!("/{at}")).await, Err(DownloadError::AddressPrivate), "{}", hosts[*at]);
    }
    assert_eq!(world.server.connections(), tried.len());
}

fn redirect_to(hosts: &[String], path: &str, port: u16) -> String {
    format!("https://{}:{port}/", hosts[path[1..].parse::<usize>().unwrap()])
}

#[tokio::test]
async fn a_name_that_stands_for_an_address_that_is_not_public_is_refused() {
    let world = World::new(|path, port| match path {
        "/away" => redirect(&format!("https://inside.example:{port}/")),
        _ => file(JPEG),
    })
    .await;
    let v4 = private_v4().into_iter().map(IpAddr::V4);
    let mapped = private_v4().into_iter().map(|address| IpAddr::V6(address.to_ipv6_mapped()));
    let private: Vec<_> = v4.chain(mapped).chain(private_v6().into_iter().map(IpAddr::V6)).collect();
    for address in &private {
        // Alone, and hidden among public ones.
        for answer in [vec![*address], vec![PUBLIC, *address], vec![*address, PUBLIC]] {
            world.names.answer("inside.example", [answer]);
            let refused = world.downloader.download(&world.url("inside.example", "/"), MANY).await;
            assert_eq!(refused, Err(DownloadError::AddressPrivate), "{address}");
        }
    }
    for name in ["localhost", "LOCALHOST", "localhost.", "a.localhost", "ｌocalhost"] {
        world.names.answer(&Host::parse(name).unwrap().to_string(), [vec![LOOPBACK]]);
        let refused = world.downloader.download(&world.url(name, "/"), MANY).await;
        assert_eq!(refused, Err(DownloadError::AddressPrivate), "{name}");
    }
    assert_eq!((world.server.connections(), world.given.lock().unwrap().len()), (0, 0));
    assert_eq!(world.get("/away").await, Err(DownloadError::AddressPrivate));
    assert_eq!(*world.given.lock().unwrap(), [PUBLIC]);
}

#[tokio::test]
async fn the_system_resolver_is_checked_as_well() {
    let (tls, _) = certificate();
    let (front, plain) =
        (Server::start(Some(tls), |_, _| file(JPEG)).await, Server::start(None, |_, _| file(JPEG)).await);
    let allowed = format!("localhost:{}", plain.port);
    let env = Env::from_iter([("DOWNLOAD_ALLOWED_HOSTS", allowed.as_str())]);
    let strict = Downloader { https_port: front.port, ..Downloader::from_env(&Env::from_iter([("", "")])).unwrap() };
    let refused = strict.download(&format!("https://localhost:{}/", front.port), MANY).await;
    assert_eq!((refused, front.connections()), (Err(DownloadError::AddressPrivate), 0));
    let loose = Downloader { https_port: front.port, ..Downloader::from_env(&env).unwrap() };
    assert_eq!(loose.download(&format!("http://{allowed}/"), MANY).await.unwrap().bytes, JPEG);
    // The name is allowed with its port only.
    let refused = loose.download(&format!("https://localhost:{}/", front.port), MANY).await;
    assert_eq!((refused, front.connections()), (Err(DownloadError::AddressPrivate), 0));
}

#[tokio::test]
async fn a_name_is_resolved_once_for_each_request_and_what_was_checked_is_connected_to() {
    let world = World::new(|path, _| match path {
        // The connection stays open, so that a client that kept it would use it once more.
        "/again" => redirect("/").stalls(),
        _ => file(JPEG),
    })
    .await;
    let turning = || [vec![PUBLIC], vec![LOOPBACK]];
    world.names.answer("turning.example", turning());
    world.downloader.download(&world.url("turning.example", "/"), MANY).await.unwrap();
    assert_eq!((world.names.asked(), world.given.lock().unwrap().clone()), (1, vec![PUBLIC]));

    // Each request of a chain asks once more, and takes no connection that an earlier one left.
    world.names.answer("turning.example", turning());
    let refused = world.downloader.download(&world.url("turning.example", "/again"), MANY).await;
    assert_eq!(refused, Err(DownloadError::AddressPrivate));
    assert_eq!((world.names.asked(), world.given.lock().unwrap().clone()), (3, vec![PUBLIC, PUBLIC]));
    assert_eq!(world.server.connections(), 2);
}

#[tokio::test]
async fn three_redirects_are_followed_and_a_fourth_is_not() {
    let world = World::new(|path, port| match path {
        "/0" => file(JPEG),
        "/1" => redirect("0"),
        "/2" => redirect(&format!("https://other.example:{port}/1")),
        "/3" => redirect("//third.example:PORT/2".replace("PORT", &port.to_string()).as_str()),
        _ => redirect("/3"),
    })
    .await;
    assert_eq!(world.get("/3").await.unwrap().bytes, JPEG);
    assert_eq!(world.server.connections(), 4);
    assert_eq!(world.get("/4").await, Err(DownloadError::TooManyRedirects));
    assert_eq!(world.server.connections(), 8);
}

#[tokio::test]
async fn a_redirect_that_cannot_be_followed_is_refused() {
    let public = "https://8.8.8.8";
    let world = World::new(move |path, port| match path {
        "/http" => redirect(&format!("http://media.example:{port}/")),
        "/file" => redirect("file:///etc/passwd"),
        "/data" => redirect("data:image/gif;base64,R0lGODlhAQABAAAAACw="),
        "/user" => redirect(&format!("https://user@media.example:{port}/")),
        "/port" => redirect(&format!("{public}:8080/")),
        "/none" => raw("HTTP/1.1 302 Found\r\ncontent-length: 0", b""),
        _ => redirect("https://[::1/"),
    })
    .await;
    assert_eq!(world.get("/http").await, Err(DownloadError::NotHttps));
    assert_eq!(world.get("/file").await, Err(DownloadError::NotHttps));
    assert_eq!(world.get("/data").await, Err(DownloadError::NotHttps));
    assert_eq!(world.get("/user").await, Err(DownloadError::UrlInvalid));
    assert_eq!(world.get("/port").await, Err(DownloadError::PortRefused));
    assert_eq!(world.get("/none").await, Err(DownloadError::UrlInvalid));
    assert_eq!(world.get("/broken").await, Err(DownloadError::UrlInvalid));
    assert_eq!(world.server.connections(), 7);
}

#[tokio::test]
async fn only_https_on_its_port_without_a_user_is_fetched() {
    let world = World::new(|_, _| file(JPEG)).await;
    let cases = [
        (DownloadError::NotHttps, "http://media.example/"),
        (DownloadError::NotHttps, "ftp://media.example/"),
        (DownloadError::NotHttps, "file:///etc/passwd"),
        (DownloadError::NotHttps, "data:image/gif;base64,R0lGODlhAQABAAAAACw="),
        (DownloadError::NotHttps, "gopher://127.0.0.1:6379/_FLUSHALL"),
        (DownloadError::NotHttps, "blob:https://media.example/1"),
        (DownloadError::UrlInvalid, "https://user@media.example/"),
        (DownloadError::UrlInvalid, "https://:secret@media.example/"),
        (DownloadError::UrlInvalid, "https://media.example@127.0.0.1/"),
        (DownloadError::PortRefused, "https://media.example:8443/"),
        (DownloadError::PortRefused, "https://media.example:80/"),
        (DownloadError::UrlInvalid, "media.example/a"),
        (DownloadError::UrlInvalid, "https://"),
        (DownloadError::UrlInvalid, ""),
    ];
    for (expected, url) in cases {
        assert_eq!(world.downloader.download(url, MANY).await, Err(expected), "{url}");
    }
    assert_eq!((world.server.connections(), world.names.asked()), (0, 0));
    let strict = Downloader::from_env(&Env::from_iter([("", "")])).unwrap();
    assert_eq!(strict.admit(&"https://media.example/".parse().unwrap()), Ok(()));
    assert_eq!(strict.admit(&"https://8.8.8.8:443/".parse().unwrap()), Ok(()));
    assert_eq!(strict.admit(&"https://[2606:4700::1111]/".parse().unwrap()), Ok(()));
}

#[tokio::test]
async fn an_allowed_host_may_be_private_and_leads_to_no_other() {
    let (tls, _) = certificate();
    let inner = Server::start(Some(tls), |_, _| file(JPEG)).await;
    let at = inner.port;
    let friend = Server::start(None, |_, _| file(JPEG)).await;
    let to = friend.port;
    let plain = Server::start(None, move |path, _| match path {
        "/ok" => file(JPEG),
        "/friend" => redirect(&format!("http://127.0.0.1:{to}/")),
        "/http" => redirect(&format!("http://127.0.0.1:{at}/")),
        "/localhost" => redirect(&format!("https://localhost:{at}/")),
        _ => redirect(&format!("https://127.0.0.1:{at}/")),
    })
    .await;
    let allowed = format!(" 127.0.0.1:{}, 0x7f.1:{to}", plain.port);
    let env = Env::from_iter([("DOWNLOAD_ALLOWED_HOSTS", allowed.as_str())]);
    let downloader = Downloader { https_port: at, ..Downloader::from_env(&env).unwrap() };
    let get = async |path: &str| downloader.download(&format!("http://127.0.0.1:{}{path}", plain.port), MANY).await;
    assert_eq!(get("/ok").await.unwrap().bytes, JPEG);
    assert_eq!(get("/friend").await.unwrap().bytes, JPEG);
    assert_eq!(get("/http").await, Err(DownloadError::NotHttps));
    assert_eq!(get("/https").await, Err(DownloadError::AddressPrivate));
    assert_eq!(get("/localhost").await, Err(DownloadError::AddressPrivate));
    assert_eq!((inner.connections(), friend.connections(), plain.connections()), (0, 1, 5));
}

#[tokio::test]
async fn https_never_leads_to_http_not_even_of_an_allowed_host() {
    let plain = Server::start(None, |_, _| file(JPEG)).await;
    let (allowed, to) = (format!("127.0.0.1:{}", plain.port), plain.port);
    let settings = [("DOWNLOAD_ALLOWED_HOSTS", allowed.as_str())];
    let world = World::with(&settings, move |_, _| redirect(&format!("http://127.0.0.1:{to}/"))).await;
    assert_eq!(world.get("/").await, Err(DownloadError::NotHttps));
    assert_eq!(plain.connections(), 0);
}

#[test]
fn allowed_hosts_have_a_port() {
    for malformed in
        ["localhost", "127.0.0.1", "localhost:", "localhost:http", "localhost:70000", "::1:80", "a b:80", "[::1]"]
    {
        let env = Env::from_iter([("DOWNLOAD_ALLOWED_HOSTS", malformed)]);
        let refused = Downloader::from_env(&env).unwrap_err();
        assert!(refused.to_string().starts_with("DOWNLOAD_ALLOWED_HOSTS is malformed"), "{malformed}");
    }
    let env = Env::from_iter([("DOWNLOAD_ALLOWED_HOSTS", "[::1]:80,Sandbox:9000,")]);
    let downloader = Downloader::from_env(&env).unwrap();
    for (url, expected) in [
        ("http://[::1]/", Ok(())),
        ("http://sandbox:9000/", Ok(())),
        ("https://sandbox:9000/", Ok(())),
        ("http://[::1]:81/", Err(DownloadError::NotHttps)),
        ("https://[::1]/", Err(DownloadError::AddressPrivate)),
        ("https://sandbox/", Err(DownloadError::AddressPrivate)),
        ("http://sandbox.:9000/", Err(DownloadError::NotHttps)),
    ] {
        assert_eq!(downloader.admit(&url.parse().unwrap()), expected, "{url}");
    }
}

#[tokio::test]
async fn a_file_of_just_the_allowed_size_is_fetched_and_one_byte_more_is_not() {
    let body = [JPEG, &[7; 300]].concat();
    let sent = body.clone();
    let world = World::new(move |path, _| match path {
        "/length" => file(&sent),
        "/chunked" => chunked(&sent),
        _ => raw("HTTP/1.1 200 OK\r\nconnection: close", &sent),
    })
    .await;
    let most = body.len() as u64;
    for path in ["/length", "/chunked", "/close"] {
        let url = world.url("media.example", path);
        assert_eq!(world.downloader.download(&url, most).await.unwrap().bytes, body, "{path}");
        assert_eq!(world.downloader.download(&url, most - 1).await, Err(DownloadError::TooLarge), "{path}");
    }
}

#[tokio::test]
async fn the_size_that_a_server_states_is_not_believed() {
    let world = World::new(|path, _| match path {
        // States too much and then sends nothing: refused before anything is read.
        "/stated" => raw("HTTP/1.1 200 OK\r\ncontent-length: 101", b"").stalls(),
        // States nothing and does not end.
        "/endless" => raw("HTTP/1.1 200 OK", &[7; 101]).stalls(),
        "/more" => raw("HTTP/1.1 200 OK\r\ncontent-length: 20", &[JPEG, &[7; 200]].concat()),
        "/less" => raw("HTTP/1.1 200 OK\r\ncontent-length: 90", JPEG),
        _ => raw("HTTP/1.1 200 OK\r\ncontent-length: minus", JPEG),
    })
    .await;
    let get = async |path: &str| world.downloader.download(&world.url("media.example", path), 100).await;
    assert_eq!(get("/stated").await, Err(DownloadError::TooLarge));
    assert_eq!(get("/endless").await, Err(DownloadError::TooLarge));
    assert_eq!(get("/more").await.unwrap().bytes.len(), 20);
    assert_eq!(get("/less").await, Err(DownloadError::Unavailable));
    assert_eq!(get("/malformed").await, Err(DownloadError::Unavailable));
}

#[tokio::test]
async fn a_server_that_keeps_silent_is_left_in_time() {
    let world = World::with(&[("DOWNLOAD_TIMEOUT_MS", "300")], |path, _| match path {
        "/answer" => Answer { bytes: Vec::new(), closes: false },
        "/body" => raw("HTTP/1.1 200 OK\r\ncontent-length: 90", JPEG).stalls(),
        _ => redirect("/answer"),
    })
    .await;
    for path in ["/answer", "/body", "/redirect"] {
        assert_eq!(world.get(path).await, Err(DownloadError::TimedOut), "{path}");
    }
    let silent = world.downloader.download(&world.url("silent.example", "/"), MANY).await;
    assert_eq!(silent, Err(DownloadError::TimedOut));
}

#[tokio::test]
async fn a_file_is_what_its_content_says_and_not_what_its_server_says() {
    let named = |kind: &str, body: &[u8]| raw(&format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}"), body);
    let world = World::new(move |path, _| {
        let (list, at) = path[1..].split_once('/').unwrap();
        let at: usize = at.split('.').next().unwrap().parse().unwrap();
        if list == "kept" { named("text/html", &examples()[at].1) } else { named("image/jpeg", &refused()[at]) }
    })
    .await;
    for (at, (kind, bytes)) in examples().into_iter().enumerate() {
        assert_eq!(world.get(&format!("/kept/{at}.svg")).await, Ok(Downloaded { bytes: bytes.into(), kind }));
    }
    for at in 0..refused().len() {
        assert_eq!(world.get(&format!("/refused/{at}.jpg")).await, Err(DownloadError::KindRefused), "{at}");
    }
}

#[tokio::test]
async fn an_answer_without_a_file_says_whether_to_come_again() {
    let world = World::new(|path, _| match path[1..].parse() {
        Ok(number) => status(number),
        Err(_) => Answer { bytes: b"SSH-2.0-server\r\n".to_vec(), closes: true },
    })
    .await;
    for (answer, expected) in [
        (403, DownloadError::Gone),
        (404, DownloadError::Gone),
        (410, DownloadError::Gone),
        (400, DownloadError::Refused),
        (401, DownloadError::Refused),
        (204, DownloadError::Refused),
        (206, DownloadError::Refused),
        (304, DownloadError::Refused),
        (408, DownloadError::Unavailable),
        (429, DownloadError::Unavailable),
        (500, DownloadError::Unavailable),
        (503, DownloadError::Unavailable),
    ] {
        assert_eq!(world.get(&format!("/{answer}")).await, Err(expected), "{answer}");
    }
    assert_eq!(world.get("/other-protocol").await, Err(DownloadError::Unavailable));
    assert!(!DownloadError::Gone.is_transient() && DownloadError::Unavailable.is_transient());
}

#[tokio::test]
async fn a_server_that_is_not_there_or_not_itself_is_unreachable() {
    let world = World::new(|_, _| file(JPEG)).await;
    // The certificate is for other names.
    let stranger = world.downloader.download(&world.url("media.test", "/"), MANY).await;
    assert_eq!(stranger, Err(DownloadError::Unreachable));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let downloader = Downloader { https_port: port, ..world.downloader };
    let nobody = downloader.download(&format!("https://media.example:{port}/"), MANY).await;
    assert_eq!(nobody, Err(DownloadError::Unreachable));
}

#[test]
fn each_failure_has_a_code_of_its_own() {
    use DownloadError::*;
    let all = [
        UrlInvalid,
        NotHttps,
        PortRefused,
        AddressPrivate,
        TooManyRedirects,
        TooLarge,
        KindRefused,
        Gone,
        Refused,
        Unresolved,
        Unreachable,
        Unavailable,
        TimedOut,
    ];
    let codes: BTreeSet<_> = all.iter().map(|error| error.code()).collect();
    assert_eq!(codes.len(), all.len());
    let transient: Vec<_> = all.into_iter().filter(|error| error.is_transient()).map(DownloadError::code).collect();
    assert_eq!(transient, ["unresolved", "unreachable", "unavailable", "timed_out"]);
}
