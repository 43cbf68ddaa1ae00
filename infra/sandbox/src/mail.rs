//! A mail server: as much of SMTP (RFC 5321) as a sender needs, for one user who must sign in, and the mailbox that all mail ends up in.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{
    Key,
    plan::{Calls, Plan},
};

/// Who may send.
pub const USER: &str = "spine";
/// The most that a mail may hold, in bytes.
const SIZE: usize = 256 * 1024;
/// The most that a line may hold.
const LINE: u64 = 2048;

/// What can go wrong with a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its recipient is refused for good.
    Refuse,
    /// It is to come again later.
    Busy,
    /// It is taken, and the connection ends before that is said.
    DropAfterData,
}

/// What can go wrong, by name.
#[must_use]
pub fn fault(name: &str) -> Option<Fault> {
    FAULTS.into_iter().find(|(known, _)| *known == name).map(|(_, fault)| fault)
}

/// The names that [`fault`] knows.
pub const FAULTS: [(&str, Fault); 3] = [("550", Fault::Refuse), ("451", Fault::Busy), ("drop", Fault::DropAfterData)];

/// A mail that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The sender of the envelope.
    pub from: String,
    /// The recipients of the envelope.
    pub to: Vec<String>,
    /// The headers, unfolded, in order.
    pub headers: Vec<(String, String)>,
    /// The subject, decoded.
    pub subject: String,
    /// The plain text.
    pub text: String,
    /// The HTML.
    pub html: String,
}

impl Received {
    /// A header's value, if it came once.
    #[must_use]
    pub fn header(&self, wanted: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        let first = found.next().map(|(_, value)| value.as_str());
        if found.next().is_some() { None } else { first }
    }
}

/// The server and what it has received.
#[derive(Debug)]
pub struct Mailbox {
    password: Key,
    received: Mutex<Vec<Received>>,
    plan: Mutex<Plan<Fault>>,
}

impl Mailbox {
    pub(crate) fn new() -> Self {
        Self { password: Key::generate(""), received: Mutex::default(), plan: Mutex::default() }
    }

    /// What [`USER`] signs in with.
    #[must_use]
    pub fn password(&self) -> &Key {
        &self.password
    }

    /// All mail that came, in order.
    #[must_use]
    pub fn mails(&self) -> Vec<Received> {
        self.kept().clone()
    }

    /// Empties the mailbox.
    pub fn clear(&self) {
        self.kept().clear();
    }

    /// Makes these mails go wrong.
    pub fn arrange(&self, fault: Fault, calls: Calls) {
        self.plan().arrange(fault, calls);
    }

    /// Lets all mails arrive again.
    pub fn mend(&self) {
        *self.plan() = Plan::default();
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Received>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self) -> MutexGuard<'_, Plan<Fault>> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let mailbox = Arc::clone(&self);
            tokio::spawn(async move {
                let _ = Conversation::new(mailbox, stream).run().await;
            });
        }
    }

    fn may_send(&self, credentials: &str) -> bool {
        let plain = STANDARD.decode(credentials).ok().and_then(|plain| String::from_utf8(plain).ok());
        plain.is_some_and(|plain| plain == format!("\0{USER}\0{}", self.password.get()))
    }
}

/// One connection.
struct Conversation {
    mailbox: Arc<Mailbox>,
    stream: BufReader<TcpStream>,
    greeted: bool,
    signed_in: bool,
    from: Option<String>,
    to: Vec<String>,
    /// What is to go wrong with the mail that is being sent.
    fault: Option<Fault>,
}

impl Conversation {
    fn new(mailbox: Arc<Mailbox>, stream: TcpStream) -> Self {
        let stream = BufReader::new(stream);
        Self { mailbox, stream, greeted: false, signed_in: false, from: None, to: Vec::new(), fault: None }
    }

    async fn say(&mut self, line: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).await
    }

    /// A line without its end; none when the connection is over or the line is too long.
    async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        (&mut self.stream).take(LINE).read_until(b'\n', &mut line).await?;
        if line.pop() != Some(b'\n') {
            return Ok(None);
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(line))
    }

    async fn run(mut self) -> io::Result<()> {
        self.say("220 sandbox ESMTP").await?;
        while let Some(line) = self.line().await? {
            let line = String::from_utf8_lossy(&line).into_owned();
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            let answer = match verb.to_ascii_uppercase().as_str() {
                "EHLO" => {
                    self.greeted = true;
                    self.say("250-sandbox").await?;
                    self.say(&format!("250-SIZE {SIZE}")).await?;
                    self.say("250-8BITMIME").await?;
                    "250 AUTH PLAIN"
                }
                "AUTH" if !self.greeted || self.signed_in => "503 not now",
                "AUTH" => match rest.split_once(' ') {
                    Some((mechanism, credentials)) if mechanism.eq_ignore_ascii_case("PLAIN") => {
                        self.signed_in = self.mailbox.may_send(credentials);
                        if self.signed_in { "235 welcome" } else { "535 5.7.8 these credentials are not known" }
                    }
                    _ => "504 PLAIN alone is known, with its initial response",
                },
                "NOOP" => "250 well",
                "RSET" => {
                    self.forget();
                    "250 forgotten"
                }
                "QUIT" => return self.say("221 goodbye").await,
                "MAIL" | "RCPT" | "DATA" if !self.signed_in => "530 5.7.0 sign in first",
                "MAIL" if self.from.is_some() => "503 one mail at a time",
                "MAIL" => match path(rest, "FROM:") {
                    Some(from) => {
                        self.from = Some(from);
                        self.fault = self.mailbox.plan().meet();
                        "250 ok"
                    }
                    None => "501 a sender is <name@domain>",
                },
                "RCPT" if self.from.is_none() => "503 from whom?",
                "RCPT" => match (path(rest, "TO:").filter(|to| to.contains('@')), self.fault) {
                    (None, _) => "501 a recipient is <name@domain>",
                    (_, Some(Fault::Refuse)) => "550 5.1.1 nobody here has that name",
                    (_, Some(Fault::Busy)) => "451 4.3.2 come again later",
                    (Some(to), _) => {
                        self.to.push(to);
                        "250 ok"
                    }
                },
                "DATA" if self.to.is_empty() => "503 to whom?",
                "DATA" => {
                    self.say("354 end with a dot").await?;
                    match self.data().await? {
                        None => return Ok(()),
                        Some(None) => "552 5.3.4 too large",
                        Some(Some(mail)) => {
                            let received =
                                parse(self.from.take().unwrap_or_default(), std::mem::take(&mut self.to), &mail);
                            self.mailbox.kept().push(received);
                            if self.fault == Some(Fault::DropAfterData) {
                                return Ok(());
                            }
                            self.forget();
                            "250 taken"
                        }
                    }
                }
                _ => "500 not understood",
            };
            self.say(answer).await?;
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.from = None;
        self.to.clear();
        self.fault = None;
    }

    /// A mail up to its last dot. None if the connection ends before it; none within if it is too large.
    async fn data(&mut self) -> io::Result<Option<Option<Vec<u8>>>> {
        let mut mail = Vec::new();
        while let Some(line) = self.line().await? {
            if line == b"." {
                return Ok(Some((mail.len() <= SIZE).then_some(mail)));
            }
            if mail.len() <= SIZE {
                // A dot in front of a line that begins with one is not part of it.
                mail.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
                mail.extend_from_slice(b"\r\n");
            }
        }
        Ok(None)
    }
}

/// The address between the brackets that follow a word.
fn path(rest: &str, word: &str) -> Option<String> {
    let start = rest.get(..word.len()).filter(|start| start.eq_ignore_ascii_case(word))?;
    let inner = rest.get(start.len()..)?.trim_start().strip_prefix('<')?;
    inner.split_once('>').map(|(address, _)| address.to_owned())
}

fn parse(from: String, to: Vec<String>, mail: &[u8]) -> Received {
    let mail = String::from_utf8_lossy(mail);
    let (headers, body) = part(&mail);
    let subject = find(&headers, "Subject").map(decoded).unwrap_or_default();
    let boundary = find(&headers, "Content-Type").and_then(|kind| {
        let (_, rest) = kind.split_once("boundary=")?;
        Some(rest.trim_matches('"').split('"').next().unwrap_or_default().to_owned())
    });
    let mut received = Received { from, to, subject, headers, text: String::new(), html: String::new() };
    let parts = match boundary {
        Some(boundary) => {
            let boundary = format!("--{boundary}");
            let inner = body.split(&boundary).skip(1).map(str::trim_start);
            // Behind the last boundary stand two hyphens.
            inner.take_while(|inner| !inner.starts_with("--")).map(part).collect()
        }
        None => vec![(received.headers.clone(), body.to_owned())],
    };
    for (headers, body) in parts {
        let body = match find(&headers, "Content-Transfer-Encoding").unwrap_or_default() {
            encoding if encoding.eq_ignore_ascii_case("quoted-printable") => quoted(&body.replace("=\r\n", ""), false),
            encoding if encoding.eq_ignore_ascii_case("base64") => {
                let packed: String = body.split_whitespace().collect();
                String::from_utf8_lossy(&STANDARD.decode(packed).unwrap_or_default()).into_owned()
            }
            _ => body,
        };
        let body = body.replace("\r\n", "\n");
        match find(&headers, "Content-Type").unwrap_or("text/plain") {
            kind if kind.starts_with("text/html") => received.html = body,
            kind if kind.starts_with("text/plain") => received.text = body,
            _ => {}
        }
    }
    received
}

/// Headers, unfolded, and what follows them.
fn part(text: &str) -> (Vec<(String, String)>, String) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let head = head.replace("\r\n ", " ").replace("\r\n\t", " ");
    let headers = head.split("\r\n").filter_map(|line| line.split_once(':'));
    (headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect(), body.to_owned())
}

fn find<'h>(headers: &'h [(String, String)], wanted: &str) -> Option<&'h str> {
    headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.as_str())
}

/// A header with its encoded words (RFC 2047) read.
fn decoded(value: &str) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some((before, word)) = rest.split_once("=?") {
        let mut parts = word.splitn(4, '?');
        let (Some(_), Some(encoding), Some(text), Some(after)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            break;
        };
        // Spaces between two encoded words are not part of the text.
        if !before.trim().is_empty() || out.is_empty() {
            out.push_str(before);
        }
        out.push_str(&match encoding {
            "b" | "B" => String::from_utf8_lossy(&STANDARD.decode(text).unwrap_or_default()).into_owned(),
            _ => quoted(text, true),
        });
        rest = after.strip_prefix('=').unwrap_or(after);
    }
    out + rest
}

/// Quoted-printable text, read; in a header an underscore is a space.
fn quoted(text: &str, header: bool) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let hex = after.get(..2).and_then(|pair| hex::decode(pair).ok());
        match (byte, hex) {
            (b'=', Some(decoded)) => {
                bytes.extend(decoded);
                rest = &after[2..];
            }
            (b'_', _) if header => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn started() -> (Arc<Mailbox>, BufReader<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mailbox = Arc::new(Mailbox::new());
        tokio::spawn(Arc::clone(&mailbox).serve(listener));
        (mailbox, BufReader::new(TcpStream::connect(address).await.unwrap()))
    }

    /// Says a line; the code of the answer, which may have several lines. Empty when the connection is over.
    async fn say(stream: &mut BufReader<TcpStream>, line: &str) -> String {
        if !line.is_empty() {
            stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        }
        loop {
            let mut answer = String::new();
            stream.read_line(&mut answer).await.unwrap();
            if answer.is_empty() || answer.as_bytes()[3] == b' ' {
                return answer.chars().take(3).collect();
            }
        }
    }

    fn credentials(user: &str, password: &str) -> String {
        format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{user}\0{password}")))
    }

    #[tokio::test]
    async fn only_who_signs_in_sends_and_a_mail_is_what_stands_before_its_last_dot() {
        let (mailbox, mut stream) = started().await;
        let right = credentials(USER, &mailbox.password().get());
        for (line, code) in [
            ("", "220"),
            ("EHLO x", "250"),
            ("MAIL FROM:<a@b.example>", "530"),
            (&credentials(USER, "wrong"), "535"),
            (&credentials("other", &mailbox.password().get()), "535"),
            (&right, "235"),
            ("RCPT TO:<c@d.example>", "503"),
            ("MAIL FROM:a@b.example", "501"),
            ("MAIL FROM:<a@b.example> BODY=8BITMIME", "250"),
            ("DATA", "503"),
            ("RCPT TO:<c>", "501"),
            ("RCPT TO:<c@d.example>", "250"),
            ("HELP", "500"),
            ("DATA", "354"),
            ("Subject: =?utf-8?b?w6U=?= =?utf-8?q?=C3=A4_x?=\r\n\r\n..dots\r\n.", "250"),
            ("QUIT", "221"),
        ] {
            assert_eq!(say(&mut stream, line).await, code, "{line}");
        }
        let mails = mailbox.mails();
        assert_eq!(
            (mails.len(), mails[0].to.as_slice(), mails[0].from.as_str()),
            (1, &["c@d.example".to_owned()][..], "a@b.example")
        );
        assert_eq!((mails[0].subject.as_str(), mails[0].text.as_str()), ("åä x", ".dots\n"));
    }

    #[tokio::test]
    async fn what_is_arranged_goes_wrong_with_one_mail_and_one_that_is_too_large_is_refused() {
        let (mailbox, mut stream) = started().await;
        let right = credentials(USER, &mailbox.password().get());
        for line in ["", "EHLO x", &right] {
            say(&mut stream, line).await;
        }
        for (fault, code) in [(Fault::Refuse, "550"), (Fault::Busy, "451")] {
            mailbox.arrange(fault, Calls::Next(1));
            assert_eq!(say(&mut stream, "MAIL FROM:<a@b.example>").await, "250");
            assert_eq!(say(&mut stream, "RCPT TO:<c@d.example>").await, code);
            assert_eq!(say(&mut stream, "RSET").await, "250");
        }
        let large = format!("{}.", "x\r\n".repeat(SIZE / 3 + 1));
        for (text, code) in [(large.as_str(), "552"), ("x\r\n.", "250")] {
            say(&mut stream, "RSET").await;
            say(&mut stream, "MAIL FROM:<a@b.example>").await;
            say(&mut stream, "RCPT TO:<c@d.example>").await;
            say(&mut stream, "DATA").await;
            assert_eq!(say(&mut stream, text).await, code);
        }
        mailbox.arrange(Fault::DropAfterData, Calls::Next(1));
        say(&mut stream, "MAIL FROM:<a@b.example>").await;
        say(&mut stream, "RCPT TO:<c@d.example>").await;
        say(&mut stream, "DATA").await;
        assert_eq!(say(&mut stream, "x\r\n.").await, "");
        assert_eq!(mailbox.mails().len(), 2);
    }
}
