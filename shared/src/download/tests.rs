//! What is fetched, and what is not: names and addresses, redirects, sizes, kinds.

mod world;

use std::{collections::BTreeSet, net::Ipv4Addr};

use tokio::net::TcpListener;

use super::{
    kind::tests::{examples, refused},
    *,
};
use world::*;

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
    let unreachable = downloader.download(&format!("https://media.example:{port}/"), MANY).await;
    assert_eq!(unreachable, Err(DownloadError::Unreachable));
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
