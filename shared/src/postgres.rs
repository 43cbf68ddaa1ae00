//! How a connection to Postgres is protected.
//!
//! The host decides. Towards this machine (a Unix socket, an address in 127/8, `::1` or `localhost`) the URL's `sslmode` holds,
//! `prefer` where it names none. Towards any other host TLS is verified, the chain and the host's name: `sslmode` in the URL
//! and `PGSSLMODE` do not count, nothing can ask for less, and a server without TLS is refused before the login is sent.
//!
//! A certificate may come from a public authority; from Supabase's own where the host is Supabase's; and from those that `DATABASE_CA`
//! names, or `sslrootcert` in the URL. The public ones are compiled in: reading a system's takes 6 ms of each cold start.

use std::{net::IpAddr, str::FromStr, sync::Arc};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use crate::config::{ConfigError, Env};

/// Where Supabase's own authority is kept in the checkout, for programs that read it from a file.
pub const SUPABASE_CA_FILE: &str = "shared/src/supabase-root-2021-ca.crt";
const SUPABASE_CA: &str = include_str!("supabase-root-2021-ca.crt");
const SUPABASE_HOSTS: [&str; 2] = [".supabase.co", ".supabase.com"];
/// By what names sqlx takes an authority from a URL.
const ROOT_PARAMETERS: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];
const PEM: &str = "-----BEGIN CERTIFICATE-----";

/// Which authorities a server's certificate may come from, besides the public ones and Supabase's.
#[derive(Debug, Clone, Default)]
pub struct Trust(Option<Arc<str>>);

impl Trust {
    /// Reads `DATABASE_CA`: certificates as PEM, in which `\n` may stand for a line's end, or the path of a file of them.
    ///
    /// # Errors
    /// [`ConfigError`] if it is neither.
    pub fn from_env(env: &Env) -> Result<Self, ConfigError> {
        let Some(value) = env.get("DATABASE_CA") else { return Ok(Self(None)) };
        let pem = value.replace("\\n", "\n");
        let whole = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        if whole.is_ok_and(|certificates| !certificates.is_empty()) {
            return Ok(Self(Some(pem.into())));
        }
        if !pem.contains(PEM) && std::path::Path::new(value).is_file() {
            return Ok(Self(Some(value.into())));
        }
        let expected = "certificates in PEM, or the path of a file of them";
        Err(ConfigError::Malformed { name: "DATABASE_CA".to_owned(), expected })
    }

    /// The options of a connection to the server of `url`.
    ///
    /// # Errors
    /// [`sqlx::Error::Configuration`] if it is not a URL of Postgres.
    pub fn options(&self, url: &str) -> Result<PgConnectOptions, sqlx::Error> {
        let options = PgConnectOptions::from_str(url)?;
        let host = options.get_host().trim_matches(['[', ']']).to_owned();
        let options = match &self.0 {
            Some(pem) if pem.contains(PEM) => options.ssl_root_cert_from_pem(pem.as_bytes().to_vec()),
            Some(path) => options.ssl_root_cert(path.as_ref()),
            None if is_supabase(&host) && !names_authority(url) => options.ssl_root_cert_from_pem(SUPABASE_CA.into()),
            None => options,
        };
        if options.get_socket().is_some() || is_here(&host) {
            return Ok(options);
        }
        // Brackets around an address are the URL's, and no certificate has them.
        Ok(options.host(&host).ssl_mode(PgSslMode::VerifyFull))
    }
}

/// Whether a host, as the URL spells it, is this machine. What a resolver would make of another name does not count.
#[must_use]
pub fn is_here(host: &str) -> bool {
    host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a host is one of Supabase's, whose servers have certificates of its own authority.
#[must_use]
pub fn is_supabase(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    SUPABASE_HOSTS.iter().any(|domain| host.ends_with(domain))
}

fn names_authority(url: &str) -> bool {
    let names = |url: Url| url.query_pairs().any(|(name, _)| ROOT_PARAMETERS.contains(&&*name));
    Url::parse(url).is_ok_and(names)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};
    use sqlx::ConnectOptions;

    use super::*;

    /// What `sslmode` may say, and how sqlx calls it.
    const MODES: [(&str, &str); 6] = [
        ("disable", "Disable"),
        ("allow", "Allow"),
        ("prefer", "Prefer"),
        ("require", "Require"),
        ("verify-ca", "VerifyCa"),
        ("verify-full", "VerifyFull"),
    ];

    fn mode(url: &str) -> String {
        format!("{:?}", Trust(None).options(url).unwrap().get_ssl_mode())
    }

    /// The authority that a connection would be made with.
    fn authority(trust: &Trust, url: &str) -> Option<String> {
        let url = trust.options(url).unwrap().to_url_lossy();
        url.query_pairs().find(|(name, _)| name == "sslrootcert").map(|(_, value)| value.into_owned())
    }

    #[test]
    fn towards_another_host_nothing_asks_for_less_than_a_verified_server() {
        let elsewhere = [
            "db.example.com",
            "10.0.0.1",
            "0.0.0.0",
            "[2001:db8::1]",
            "[::ffff:127.0.0.1]",
            "127.1",
            "localhost.",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "localhost/x?host=db.example.com",
            "127.0.0.1/x?hostaddr=10.0.0.1",
        ];
        for host in elsewhere {
            assert_eq!(mode(&format!("postgres://u:p@{host}")), "VerifyFull", "{host}");
            let separator = if host.contains('?') { '&' } else { '?' };
            for (less, _) in MODES {
                for parameter in ["sslmode", "ssl-mode"] {
                    let url = format!("postgres://u:p@{host}{separator}{parameter}={less}");
                    assert_eq!(mode(&url), "VerifyFull", "{url}");
                }
            }
        }
    }

    #[test]
    fn towards_this_machine_the_url_decides() {
        for host in ["127.0.0.1", "127.8.8.8", "[::1]", "localhost", "LOCALHOST", "%2Fvar%2Frun", "x/x?host=/var/run"] {
            let separator = if host.contains('?') { '&' } else { '?' };
            for (said, wanted) in MODES {
                let url = format!("postgres://u:p@{host}{separator}sslmode={said}");
                assert_eq!(mode(&url), wanted, "{url}");
            }
        }
    }

    #[test]
    fn an_address_in_brackets_is_compared_with_a_certificate_without_them() {
        let options = Trust(None).options("postgres://u@[2001:db8::1]:6543/x").unwrap();
        assert_eq!((options.get_host(), options.get_port()), ("2001:db8::1", 6543));
    }

    #[test]
    fn supabases_authority_is_trusted_for_its_hosts_alone() {
        for host in ["db.abcdefgh.supabase.co", "aws-0-eu-north-1.pooler.supabase.com", "DB.ABCDEFGH.SUPABASE.CO"] {
            let url = format!("postgres://u@{host}/postgres");
            assert_eq!(mode(&url), "VerifyFull");
            assert_eq!(authority(&Trust(None), &url).unwrap().trim_end(), SUPABASE_CA.trim_end(), "{host}");
        }
        for host in ["supabase.co.example.com", "notsupabase.co", "db.example.com", "localhost"] {
            assert_eq!(authority(&Trust(None), &format!("postgres://u@{host}/postgres")), None, "{host}");
        }
    }

    #[test]
    fn a_setting_goes_before_what_is_shipped_and_what_the_url_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        for (setting, wanted) in [(SUPABASE_CA, SUPABASE_CA), (path, path)] {
            let trust = Trust::from_env(&Env::from_iter([("DATABASE_CA", setting)])).unwrap();
            for url in ["postgres://u@db.abc.supabase.co/x", "postgres://u@db.example.com/x?sslrootcert=other.pem"] {
                let ca = authority(&trust, url).unwrap();
                assert!(ca.contains(wanted.trim_end()), "{url}: {ca}");
            }
        }
        for host in ["db.example.com", "db.abc.supabase.co"] {
            let ca = authority(&Trust(None), &format!("postgres://u@{host}/x?sslrootcert=other.pem"));
            assert!(ca.unwrap().contains("other.pem"));
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused_at_the_start() {
        let cut = &SUPABASE_CA[..SUPABASE_CA.len() / 2];
        for value in ["hunter2", "/no/such/file.pem", cut, "-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----"]
        {
            let error = Trust::from_env(&Env::from_iter([("DATABASE_CA", value)])).unwrap_err();
            assert!(error.to_string().starts_with("DATABASE_CA is malformed"), "{error}");
        }
        assert!(Trust::from_env(&Env::from_iter([("DATABASE_CA", "")])).unwrap().0.is_none());
    }

    #[test]
    fn the_shipped_certificate_is_the_one_that_supabase_publishes() {
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(SUPABASE_CA.as_bytes()).collect::<Result<_, _>>().unwrap();
        let digests: Vec<String> =
            certificates.iter().map(|certificate| hex::encode(Sha256::digest(certificate))).collect();
        assert_eq!(digests, ["807025ad50d4ed219d2c9c7d299c004f824eb00cf7f65afef607d07b72e6cafa"]);
    }
}
