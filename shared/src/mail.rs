//! Mail to people: how it is sent. What it says, `text` knows.
//!
//! There is one way out: SMTP, to the server that the secret `MAIL_URL` names. Amazon SES is reached by its SMTP interface. Names of people and
//! organisations reach a header through the types of the library alone, which encode them.

mod text;

use std::{sync::Arc, time::Duration};

use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{self, PoolConfig, extension::ClientId},
};
use url::{Host, Url};

use crate::{
    config::{ConfigError, Env},
    secrets::{Secret, SecretError, SecretValue, Secrets},
};

pub use text::Mail;

/// How long the server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take for a whole mail.
const WHOLE: Duration = Duration::from_secs(10);

/// Why a mail was not sent. Says a code of the server's, and none of its words: they may name an address.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The server refuses it for good, or it cannot be written: another attempt would end alike.
    #[error("refused ({0})")]
    Refused(String),
    /// The server puts it off.
    #[error("put off ({0})")]
    PutOff(String),
    /// It is not known whether the server has it: the connection failed in between.
    #[error("no answer ({0})")]
    Lost(String),
    /// The server cannot be reached, or does not let us in: no other mail would fare better.
    #[error("the mail server is away ({0})")]
    Away(String),
    /// Where the server is cannot be found out.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// `MAIL_URL` is of no use. Says why, and nothing of its value.
    #[error("MAIL_URL {0}")]
    Setting(&'static str),
}

/// The code of the server's answer, or what kind of failure there was instead.
fn reason(error: &smtp::Error) -> String {
    match error.status() {
        Some(code) => code.to_string(),
        None if error.is_timeout() => "it took too long".to_owned(),
        None if error.is_client() => "the server cannot take such a mail".to_owned(),
        None if error.is_tls() => "encryption".to_owned(),
        None => "the connection failed".to_owned(),
    }
}

/// Sends mail. Connects to nothing before [`Mailer::open`].
#[derive(Debug)]
pub struct Mailer {
    from: Mailbox,
    app_url: Url,
    secrets: Arc<Secrets>,
}

impl Mailer {
    /// Reads `MAIL_FROM` and `APP_URL`. None where `MAIL_FROM` is not set: nothing is mailed then.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_env(env: &Env, secrets: Arc<Secrets>) -> Result<Option<Self>, ConfigError> {
        let expected = "an address, such as Spine <no-reply@example.com>";
        let Some(from) = env.parsed("MAIL_FROM", expected)? else { return Ok(None) };
        Ok(Some(Self { from, app_url: env.url("APP_URL", None)?, secrets }))
    }

    /// Connects and signs in; once more with the secret read again, if the server does not accept the one that was kept.
    ///
    /// # Errors
    /// [`MailError::Away`], [`MailError::Secret`] or [`MailError::Setting`].
    pub async fn open(&self) -> Result<Session<'_>, MailError> {
        let url = self.secrets.get(Secret::MailUrl).await?;
        match self.open_with(&url).await {
            Err(refused) if refused.is_permanent() => {
                let renewed = self.secrets.refetch(Secret::MailUrl, &url).await?;
                if renewed.same(&url) {
                    return Err(refused.into());
                }
                self.open_with(&renewed).await.map_err(Opening::into)
            }
            opened => opened.map_err(Opening::into),
        }
    }

    async fn open_with(&self, url: &SecretValue) -> Result<Session<'_>, Opening> {
        let transport = smtp::AsyncSmtpTransport::<Tokio1Executor>::from_url(&secured(url.expose())?)
            .map_err(|_| Opening::Setting("is not understood"))?
            .hello_name(ClientId::Domain(self.from.email.domain().to_owned()))
            .timeout(Some(PATIENCE))
            // One connection for all mails of a run.
            .pool_config(PoolConfig::new().max_size(1))
            .build();
        transport.test_connection().await?;
        Ok(Session { transport, mailer: self })
    }
}

/// Why no connection was opened.
#[derive(Debug, thiserror::Error)]
enum Opening {
    #[error("{0}")]
    Setting(&'static str),
    #[error("{0}")]
    Smtp(#[from] smtp::Error),
}

impl Opening {
    fn is_permanent(&self) -> bool {
        matches!(self, Self::Smtp(error) if error.is_permanent())
    }
}

impl From<Opening> for MailError {
    fn from(error: Opening) -> Self {
        match error {
            Opening::Setting(what) => Self::Setting(what),
            Opening::Smtp(error) => Self::Away(reason(&error)),
        }
    }
}

/// A connection that is open.
#[derive(Debug)]
pub struct Session<'m> {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    mailer: &'m Mailer,
}

impl Session<'_> {
    /// Sends one mail. Sent twice, it carries the same Message-ID.
    ///
    /// # Errors
    /// [`MailError::Refused`], [`MailError::PutOff`] or [`MailError::Lost`].
    pub async fn send(&self, mail: &Mail<'_>) -> Result<(), MailError> {
        let message = self.mailer.write(mail)?;
        match tokio::time::timeout(WHOLE, self.transport.send(message)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.is_permanent() || error.is_client() => Err(MailError::Refused(reason(&error))),
            Ok(Err(error)) if error.is_transient() => Err(MailError::PutOff(reason(&error))),
            Ok(Err(error)) => Err(MailError::Lost(reason(&error))),
            Err(_) => Err(MailError::Lost("it took too long".to_owned())),
        }
    }

    /// Ends the connection.
    pub async fn close(self) {
        self.transport.shutdown().await;
    }
}

impl Mailer {
    fn write(&self, mail: &Mail<'_>) -> Result<Message, MailError> {
        let refused = |error: &dyn std::fmt::Display| MailError::Refused(error.to_string());
        // Not the library's own reading of a mailbox: what stands here is one address, and a name in it would be somebody's text.
        let address: Address = mail.to.parse().map_err(|error| refused(&error))?;
        let written = text::write(mail, &self.app_url).ok_or_else(|| refused(&"a kind that has no text"))?;
        let automatic = |name, value: &str| HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned());
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, address))
            .subject(written.subject)
            .message_id(Some(format!("<{}@{}>", mail.id, self.from.email.domain())))
            // So that nobody's holiday answers it.
            .raw_header(automatic("Auto-Submitted", "auto-generated"))
            .raw_header(automatic("Content-Language", written.language))
            .multipart(MultiPart::alternative_plain_html(written.text, written.html))
            .map_err(|error| refused(&error))
    }
}

/// The address of the server, with encryption demanded. Without it only this machine is reached.
fn secured(url: &str) -> Result<String, Opening> {
    let mut url = Url::parse(url).map_err(|_| Opening::Setting("is not a URL"))?;
    let here = match url.host() {
        // The parser takes an address for a name where the scheme is not the web's.
        Some(Host::Domain(name)) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err(Opening::Setting("names no host")),
    };
    let tls = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value.into_owned());
    match (url.scheme(), tls.as_deref()) {
        ("smtps", _) | ("smtp", Some("required")) => {}
        ("smtp", None) if here => {}
        ("smtp", None) => url.set_query(Some("tls=required")),
        ("smtp", Some(_)) => {
            return Err(Opening::Setting("must demand encryption: smtps://, or smtp:// with tls=required"));
        }
        _ => return Err(Opening::Setting("must begin with smtp:// or smtps://")),
    }
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn mailer() -> Mailer {
        let env =
            Env::from_iter([("MAIL_FROM", "Spine <no-reply@spine.example>"), ("APP_URL", "https://app.example/x/")]);
        let secrets = Arc::new(Secrets::from_env(&env).unwrap());
        Mailer::from_env(&env, secrets).unwrap().unwrap()
    }

    fn written(to: &str, organization: &str) -> Result<String, MailError> {
        let subject = json!({ "approval_id": Uuid::nil() });
        let kind = "approval_waits";
        let mail = Mail { id: Uuid::nil(), to, language: None, kind, subject: &subject, organization, token: None };
        Ok(String::from_utf8(mailer().write(&mail)?.formatted()).unwrap())
    }

    #[test]
    fn encryption_is_demanded_of_every_server_but_one_on_this_machine() {
        for (url, becomes) in [
            ("smtp://u:p@mail.example:587", Some("smtp://u:p@mail.example:587?tls=required")),
            ("smtp://u:p@mail.example?tls=required", Some("smtp://u:p@mail.example?tls=required")),
            ("smtps://u:p@mail.example", Some("smtps://u:p@mail.example")),
            ("smtp://u:p@127.0.0.1:2525", Some("smtp://u:p@127.0.0.1:2525")),
            ("smtp://localhost:2525", Some("smtp://localhost:2525")),
            ("smtp://u:p@mail.example?tls=opportunistic", None),
            ("smtp://u:p@mail.example?tls=none", None),
            ("smtp://u:p@127.0.0.1.mail.example?tls=none", None),
            ("http://mail.example", None),
            ("mail.example", None),
        ] {
            assert_eq!(secured(url).ok().as_deref(), becomes, "{url}");
        }
        // A name that only looks like this machine is another.
        assert!(secured("smtp://127.0.0.1.mail.example").unwrap().ends_with("tls=required"));
    }

    #[test]
    fn what_an_error_says_of_the_setting_holds_nothing_of_it() {
        let error = MailError::from(secured("ftp://user:hunter2@mail.example").unwrap_err());
        assert_eq!(error.to_string(), "MAIL_URL must begin with smtp:// or smtps://");
    }

    #[test]
    fn no_name_or_address_adds_a_header_or_a_recipient() {
        let evil = "Nord\r\nBcc: eve@evil.example\r\n\r\n<b>hello</b>";
        let mail = written("dora@example.com", evil).unwrap();
        let (head, _) = mail.split_once("\r\n\r\n").unwrap();
        let names: Vec<&str> = head.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
        assert!(!names.contains(&"Bcc") && names.iter().filter(|name| **name == "To").count() == 1, "{head}");
        assert!(head.contains(&format!("Message-ID: <{}@spine.example>", Uuid::nil())), "{head}");
        assert!(!mail.contains("<b>"), "{mail}");
        for address in
            ["a@b.example\r\nBcc: eve@evil.example", "a@b.example, eve@evil.example", "Eve <a@b.example>", "", "@"]
        {
            assert!(matches!(written(address, "Nord"), Err(MailError::Refused(_))), "{address:?}");
        }
    }

    #[test]
    fn nothing_is_mailed_where_no_sender_is_set() {
        let env = Env::from_iter([("APP_URL", "https://app.example")]);
        let secrets = Arc::new(Secrets::from_env(&env).unwrap());
        assert!(Mailer::from_env(&env, Arc::clone(&secrets)).unwrap().is_none());
        let without_app = Env::from_iter([("MAIL_FROM", "no-reply@spine.example")]);
        assert!(Mailer::from_env(&without_app, secrets).is_err());
    }
}
