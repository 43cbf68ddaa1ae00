//! Fetches a file from an address that a stranger chose, such as the attachment of a message.
//!
//! Such an address can point into our own network, at a service that trusts its neighbours or at the metadata of the machine. So only
//! `https` on its usual port is spoken, and only with addresses that the public internet reaches. A name is resolved once for each request,
//! and the connection goes to the addresses that were checked: a second answer of the name's server is never asked for. Redirects are
//! followed here and not by the HTTP client, so that each of them is checked in the same way. The file's kind is what its content says.

mod address;
mod kind;

#[cfg(test)]
mod tests;

use std::{
    error::Error,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, LOCATION};
use reqwest::{
    Response,
    dns::{Addrs, Name, Resolve, Resolving},
};
use tokio::time::timeout;
use url::{Host, Url};

pub use self::kind::Kind;
use crate::{
    clients::client_builder,
    config::{ConfigError, Env},
};

/// How long a download may take, unless a setting says otherwise.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How many redirects are followed.
const MOST_REDIRECTS: usize = 3;
/// The port of `https`.
const HTTPS_PORT: u16 = 443;

/// A file that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// The whole of it.
    pub bytes: Bytes,
    /// What it is by its content, not by what the server called it.
    pub kind: Kind,
}

/// Why a file was not fetched. No text of it names the address, which may hold a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DownloadError {
    /// The address, or one that it redirects to, is not a URL, or names a user.
    #[error("the address is not a URL that is fetched")]
    UrlInvalid,
    /// It is not `https`.
    #[error("the address is not https")]
    NotHttps,
    /// It has a port of its own.
    #[error("the address has a port other than that of https")]
    PortRefused,
    /// It is, or its name stands for, an address that the public internet does not reach.
    #[error("the address is not a public one")]
    AddressPrivate,
    /// It leads on too often.
    #[error("the address redirects more than {MOST_REDIRECTS} times")]
    TooManyRedirects,
    /// The file is larger than allowed.
    #[error("the file is larger than allowed")]
    TooLarge,
    /// The file is of no kind that is kept.
    #[error("the file is of no kind that is kept")]
    KindRefused,
    /// The file is not there any more: addresses of attachments expire.
    #[error("the file is not at the address any more")]
    Gone,
    /// The server refused, and would again.
    #[error("the server refused")]
    Refused,
    /// The name is not to be resolved.
    #[error("the address's name was not resolved")]
    Unresolved,
    /// No connection came about.
    #[error("the server was not reached")]
    Unreachable,
    /// The server failed, asked for patience, or broke off.
    #[error("the server did not answer")]
    Unavailable,
    /// It all took too long.
    #[error("the download took too long")]
    TimedOut,
}

impl DownloadError {
    /// A stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::UrlInvalid => "url_invalid",
            Self::NotHttps => "not_https",
            Self::PortRefused => "port_refused",
            Self::AddressPrivate => "address_private",
            Self::TooManyRedirects => "too_many_redirects",
            Self::TooLarge => "too_large",
            Self::KindRefused => "kind_refused",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Unresolved => "unresolved",
            Self::Unreachable => "unreachable",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
        }
    }

    /// Whether the same address may lead to the file at another time.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unresolved | Self::Unreachable | Self::Unavailable | Self::TimedOut)
    }
}

/// Fetches files from addresses that strangers chose.
#[derive(Debug)]
pub struct Downloader {
    /// Built when it is first needed, since that reads the system's certificates.
    client: OnceLock<reqwest::Client>,
    allowed: AllowedHosts,
    /// Where `https` is spoken. A test's own server has another port.
    https_port: u16,
    timeout: Duration,
}

impl Downloader {
    /// Reads `DOWNLOAD_TIMEOUT_MS`, which a download may take as a whole, and `DOWNLOAD_ALLOWED_HOSTS`: `host:port` pairs with commas
    /// between, which may be private and speak `http`. The latter is for tests and development, and not set in production.
    ///
    /// # Errors
    /// [`ConfigError`] if one is malformed.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        Ok(Self {
            client: OnceLock::new(),
            allowed: AllowedHosts::from_env(env, "DOWNLOAD_ALLOWED_HOSTS")?,
            https_port: HTTPS_PORT,
            timeout: env.duration_ms("DOWNLOAD_TIMEOUT_MS", TIMEOUT)?,
        })
    }

    /// Fetches the file at `url`, of at most `most_bytes`.
    ///
    /// # Errors
    /// [`DownloadError`]; nothing was connected to but public addresses and allowed hosts.
    pub async fn download(&self, url: &str, most_bytes: u64) -> Result<Downloaded, DownloadError> {
        timeout(self.timeout, self.fetch(url, most_bytes)).await.map_err(|_| DownloadError::TimedOut)?
    }

    async fn fetch(&self, url: &str, most_bytes: u64) -> Result<Downloaded, DownloadError> {
        let mut url = Url::parse(url).map_err(|_| DownloadError::UrlInvalid)?;
        self.admit(&url)?;
        for _ in 0..=MOST_REDIRECTS {
            let request = self.client()?.get(url.clone()).header(ACCEPT_ENCODING, "identity");
            let response = request.send().await.map_err(|error| failed(&error))?;
            match response.status().as_u16() {
                200 => {
                    let bytes = read(response, most_bytes).await?;
                    let kind = Kind::of(&bytes).ok_or(DownloadError::KindRefused)?;
                    return Ok(Downloaded { bytes, kind });
                }
                301 | 302 | 303 | 307 | 308 => {
                    let next = location(&url, &response)?;
                    if url.scheme() == "https" && next.scheme() != "https" {
                        return Err(DownloadError::NotHttps);
                    }
                    self.admit(&next)?;
                    url = next;
                }
                403 | 404 | 410 => return Err(DownloadError::Gone),
                408 | 425 | 429 | 500.. => return Err(DownloadError::Unavailable),
                _ => return Err(DownloadError::Refused),
            }
        }
        Err(DownloadError::TooManyRedirects)
    }

    /// Checks what can be known without asking for the name's addresses. An address that stands in the URL itself is checked here in every
    /// notation: the parser has made four numbers of it, and the client does not look it up.
    fn admit(&self, url: &Url) -> Result<(), DownloadError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(DownloadError::NotHttps);
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(DownloadError::UrlInvalid);
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(DownloadError::UrlInvalid);
        }
        if self.allowed.has(&host, port) {
            return Ok(());
        }
        if url.scheme() != "https" {
            return Err(DownloadError::NotHttps);
        }
        let public = match host {
            // The resolver lets the name of an allowed host pass and knows no port, so it must not be asked for it for another port.
            Host::Domain(name) => !self.allowed.names(name),
            Host::Ipv4(address) => address::is_public(IpAddr::V4(address)),
            Host::Ipv6(address) => address::is_public(IpAddr::V6(address)),
        };
        if !public {
            return Err(DownloadError::AddressPrivate);
        }
        if port == self.https_port { Ok(()) } else { Err(DownloadError::PortRefused) }
    }

    fn client(&self) -> Result<&reqwest::Client, DownloadError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let resolver = CheckedResolver { inner: Arc::new(SystemResolver), allowed: self.allowed.clone() };
        let built = builder(self.timeout, Arc::new(resolver)).build().map_err(|_| DownloadError::Unavailable)?;
        Ok(self.client.get_or_init(|| built))
    }
}

/// A client that asks `resolver` for each connection. It goes through no proxy, which would resolve names itself, and keeps no connection:
/// each request's name is resolved and checked for itself.
fn builder(timeout: Duration, resolver: Arc<dyn Resolve>) -> reqwest::ClientBuilder {
    client_builder(timeout).no_proxy().referer(false).pool_max_idle_per_host(0).dns_resolver(resolver)
}

/// Reads a body of at most `most_bytes`. The length that the server names is not relied on.
async fn read(mut response: Response, most_bytes: u64) -> Result<Bytes, DownloadError> {
    if response.content_length().is_some_and(|length| length > most_bytes) {
        return Err(DownloadError::TooLarge);
    }
    let mut bytes = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
        if (bytes.len() + chunk.len()) as u64 > most_bytes {
            return Err(DownloadError::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

fn location(from: &Url, response: &Response) -> Result<Url, DownloadError> {
    let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
    to.and_then(|to| from.join(to).ok()).ok_or(DownloadError::UrlInvalid)
}

/// What a failure of the client means. Nothing of it is kept, since its text names the address.
fn failed(error: &reqwest::Error) -> DownloadError {
    let mut cause = error.source();
    while let Some(known) = cause {
        if let Some(ours) = known.downcast_ref::<DownloadError>() {
            return *ours;
        }
        cause = known.source();
    }
    if error.is_builder() {
        DownloadError::UrlInvalid
    } else if error.is_timeout() {
        DownloadError::TimedOut
    } else if error.is_dns() {
        DownloadError::Unresolved
    } else if error.is_connect() {
        DownloadError::Unreachable
    } else {
        DownloadError::Unavailable
    }
}

/// Hosts that may be private, with their ports.
#[derive(Debug, Clone, Default)]
struct AllowedHosts(Arc<[(Host, u16)]>);

impl AllowedHosts {
    fn from_env(env: &Env, name: &str) -> Result<Self, ConfigError> {
        let expected = "host:port pairs with commas between, such as 127.0.0.1:9000";
        let malformed = || ConfigError::Malformed { name: name.to_owned(), expected };
        let pairs = env.or(name, "").split(',').map(str::trim).filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (host, port) = pair.rsplit_once(':').ok_or_else(malformed)?;
            Ok((Host::parse(host).map_err(|_| malformed())?, port.parse().map_err(|_| malformed())?))
        });
        Ok(Self(pairs.collect::<Result<_, _>>()?))
    }

    fn has(&self, host: &Host<&str>, port: u16) -> bool {
        self.0.iter().any(|(known, at)| known == host && *at == port)
    }

    fn names(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| matches!(known, Host::Domain(known) if known == name))
    }
}

/// Resolves names to public addresses only. The client connects to what this answers, so nothing lies between the check and the connection.
struct CheckedResolver {
    inner: Arc<dyn Resolve>,
    allowed: AllowedHosts,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.allowed.names(name.as_str());
        let answer = self.inner.resolve(name);
        Box::pin(async move {
            let addresses: Vec<_> = answer.await?.collect();
            // One private address among public ones is enough to refuse: which of them is connected to is the client's choice.
            if !allowed && !addresses.iter().all(|address| address::is_public(address.ip())) {
                return Err(DownloadError::AddressPrivate.into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The system's resolver.
struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The client replaces port 0 with the URL's.
            let addresses = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(addresses.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}
