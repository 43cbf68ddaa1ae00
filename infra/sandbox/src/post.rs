//! How providers reach an endpoint: one connection for one request, to this machine alone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use url::Url;

/// The most an endpoint may say before its body.
const MAX_HEAD: usize = 64 * 1024;
/// The most an endpoint may say in a body that is read.
const MAX_BODY: u64 = 64 * 1024;

/// An endpoint on this machine.
///
/// # Errors
/// If it is no http URL: the sandbox reaches nothing but this machine.
pub(crate) fn local(url: &str) -> Result<Url> {
    let url: Url = url.parse().context("the endpoint is no URL")?;
    let local = ["127.0.0.1", "localhost", "[::1]"];
    ensure!(
        url.scheme() == "http" && url.host_str().is_some_and(|host| local.contains(&host)),
        "the endpoint is not on this machine"
    );
    Ok(url)
}

/// Posts, and waits for so long. The status of the answer, if one came: what follows its head is of no interest, and redirects are not
/// followed.
pub(crate) async fn post(url: &Url, headers: &[(&str, String)], body: &[u8], patience: Duration) -> Option<u16> {
    let exchange = async { Ok::<_, anyhow::Error>(ask(url, "POST", headers, body).await?.0) };
    timeout(patience, exchange).await.ok()?.ok()
}

/// Gets, and waits for so long. The status and the body of the answer, if one came.
pub(crate) async fn get(url: &Url, patience: Duration) -> Option<(u16, String)> {
    let exchange = async {
        let (status, mut body, stream) = ask(url, "GET", &[], b"").await?;
        stream.take(MAX_BODY).read_to_end(&mut body).await?;
        Ok::<_, anyhow::Error>((status, String::from_utf8_lossy(&body).into_owned()))
    };
    timeout(patience, exchange).await.ok()?.ok()
}

/// The status, what was read of the body with the head, and the connection that the rest comes from.
async fn ask(url: &Url, method: &str, headers: &[(&str, String)], body: &[u8]) -> Result<(u16, Vec<u8>, TcpStream)> {
    let (host, port) = (url.host_str().context("no host")?, url.port_or_known_default().context("no port")?);
    let mut stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    let mut answer = Vec::new();
    let end = loop {
        if let Some(end) = answer.windows(4).position(|end| end == b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(answer.len() < MAX_HEAD && stream.read_buf(&mut answer).await? > 0, "no answer");
    };
    let body = answer.split_off(end);
    let head = String::from_utf8_lossy(&answer);
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).context("no status")?;
    Ok((status.parse()?, body, stream))
}
