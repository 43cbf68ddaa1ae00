//! What mails say, in English and Swedish: as plain text, and the same as simple HTML.
//!
//! Two texts are not ours: the organisation's name and an agent's. They are shown without line breaks and markup. A mail names no person and
//! no figure; the person who wants to know more follows the link and signs in.

use chrono::DateTime;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

/// The most characters of a name that are shown.
const NAME: usize = 80;

/// What is to be mailed, and to whom. Nothing of it is trusted to be free of markup or line breaks.
#[derive(Debug, Clone, Copy)]
pub struct Mail<'a> {
    /// What the Message-ID is made of, so that a repetition is known as one.
    pub id: Uuid,
    /// The address.
    pub to: &'a str,
    /// `sv` for Swedish; else it is English.
    pub language: Option<&'a str>,
    /// The kind of the notification.
    pub kind: &'a str,
    /// Its subject: ids and plain facts.
    pub subject: &'a Value,
    /// What the organisation is called.
    pub organization: &'a str,
    /// What lets one in, of an invitation.
    pub token: Option<&'a str>,
}

/// A mail's words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) language: &'static str,
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: String,
}

/// A mail's words before they are put together.
struct Words {
    subject: String,
    body: String,
    /// Where the link leads, below the app's address.
    path: String,
    link: &'static str,
    why: &'static str,
}

/// Writes a mail. None if its kind has no text.
pub(super) fn write(mail: &Mail<'_>, app: &Url) -> Option<Written> {
    let org = plain(mail.organization);
    let swedish = mail.language == Some("sv");
    let words = if swedish { in_swedish(mail, &org)? } else { in_english(mail, &org)? };
    let url = format!("{}/{}", app.as_str().trim_end_matches('/'), words.path);
    Some(Written {
        language: if swedish { "sv" } else { "en" },
        text: format!("{}\n\n{}:\n{url}\n\n--\n{}\n", words.body, words.link, words.why),
        html: format!(
            "<!doctype html><html><body><p>{}</p><p><a href=\"{}\">{}</a></p><p><small>{}</small></p></body></html>",
            escaped(&words.body),
            escaped(&url),
            escaped(words.link),
            escaped(words.why)
        ),
        subject: words.subject,
    })
}

fn in_english(mail: &Mail<'_>, org: &str) -> Option<Words> {
    let subject = mail.subject;
    let (subject, body, path, link) = match mail.kind {
        "approval_waits" => (
            format!("{org}: something waits for your approval"),
            format!("Something was proposed in {org} that you may approve or refuse. It expires if nobody decides."),
            below("approvals", subject, "approval_id"),
            "Read it and decide",
        ),
        "approval_overdue" => (
            format!("{org}: something approved has not been done"),
            format!("Something in {org} was approved more than an hour ago and has not been done yet."),
            below("approvals", subject, "approval_id"),
            "See what it is",
        ),
        "approval_failed" if subject["status"] == "unknown" => (
            format!("{org}: the outcome of something approved is not known"),
            format!(
                "Something approved in {org} was sent, and no answer came. It is not tried again before it is known what became of it."
            ),
            below("approvals", subject, "approval_id"),
            "See what it is",
        ),
        "approval_failed" => (
            format!("{org}: something approved could not be done"),
            format!("Something that was approved in {org} was refused when it was to be done."),
            below("approvals", subject, "approval_id"),
            "See why",
        ),
        "connection_needs_person" if subject["status"] == "ending" => (
            format!("{org}: the connection with {} ends soon", provider(subject)),
            format!(
                "The consent by which {org} is connected with {} ends{}. Connect it again before that, and nothing is missed.",
                provider(subject),
                day(subject, " on ")
            ),
            "settings/integrations".to_owned(),
            "Connect it again",
        ),
        "connection_needs_person" => (
            format!("{org}: the connection with {} needs you", provider(subject)),
            format!(
                "{org} is no longer connected with {}. Nothing is read or written there until somebody connects it again.",
                provider(subject)
            ),
            "settings/integrations".to_owned(),
            "Connect it again",
        ),
        "limit_near" if subject["reached"] == true => (
            format!("{org}: a limit is reached"),
            format!(
                "The agent {} of {org} has reached its limit. Its work waits until the limit is raised or a new period begins.",
                agent(subject)
            ),
            "settings/limits".to_owned(),
            "See limits and use",
        ),
        "limit_near" => (
            format!("{org}: a limit is near"),
            format!("The agent {} of {org} has used most of what its limit allows.", agent(subject)),
            "settings/limits".to_owned(),
            "See limits and use",
        ),
        "job_failed" => (
            format!("{org}: a job that you asked for failed"),
            format!("A job that you asked for in {org} failed."),
            below("jobs", subject, "job_id"),
            "See why",
        ),
        "invitation" => (
            format!("You are invited to {org}"),
            format!(
                "You are invited to work with {org}. Sign in with this address, and the invitation is yours. It is good for 14 days and for you alone."
            ),
            invitation(mail)?,
            "Accept the invitation",
        ),
        _ => return None,
    };
    let why = match mail.kind {
        "invitation" => "If you did not expect this, you need not do anything.",
        _ => "You choose in the app, under settings, which of these you get by mail.",
    };
    Some(Words { subject, body, path, link, why })
}

fn in_swedish(mail: &Mail<'_>, org: &str) -> Option<Words> {
    let subject = mail.subject;
    let (subject, body, path, link) = match mail.kind {
        "approval_waits" => (
            format!("{org}: något väntar på ditt godkännande"),
            format!(
                "Något har föreslagits i {org} som du kan godkänna eller avslå. Förslaget går ut om ingen beslutar."
            ),
            below("approvals", subject, "approval_id"),
            "Läs och besluta",
        ),
        "approval_overdue" => (
            format!("{org}: något godkänt har inte utförts"),
            format!("Något i {org} godkändes för mer än en timme sedan och har ännu inte utförts."),
            below("approvals", subject, "approval_id"),
            "Se vad det gäller",
        ),
        "approval_failed" if subject["status"] == "unknown" => (
            format!("{org}: det är oklart om något godkänt har utförts"),
            format!(
                "Något godkänt i {org} skickades, men inget svar kom. Det görs inget nytt försök förrän det är känt vad som hände."
            ),
            below("approvals", subject, "approval_id"),
            "Se vad det gäller",
        ),
        "approval_failed" => (
            format!("{org}: något godkänt kunde inte utföras"),
            format!("Något som godkändes i {org} avvisades när det skulle utföras."),
            below("approvals", subject, "approval_id"),
            "Se varför",
        ),
        "connection_needs_person" if subject["status"] == "ending" => (
            format!("{org}: kopplingen till {} går snart ut", provider(subject)),
            format!(
                "Medgivandet som kopplar {org} till {} går ut{}. Koppla igen innan dess, så missas inget.",
                provider(subject),
                day(subject, " den ")
            ),
            "settings/integrations".to_owned(),
            "Koppla igen",
        ),
        "connection_needs_person" => (
            format!("{org}: kopplingen till {} behöver dig", provider(subject)),
            format!(
                "{org} är inte längre kopplat till {}. Inget läses eller skrivs där förrän någon kopplar det igen.",
                provider(subject)
            ),
            "settings/integrations".to_owned(),
            "Koppla igen",
        ),
        "limit_near" if subject["reached"] == true => (
            format!("{org}: en gräns är nådd"),
            format!(
                "Agenten {} i {org} har nått sin gräns. Arbetet väntar tills gränsen höjs eller en ny period börjar.",
                agent(subject)
            ),
            "settings/limits".to_owned(),
            "Se gränser och förbrukning",
        ),
        "limit_near" => (
            format!("{org}: en gräns är nära"),
            format!("Agenten {} i {org} har förbrukat det mesta av vad gränsen tillåter.", agent(subject)),
            "settings/limits".to_owned(),
            "Se gränser och förbrukning",
        ),
        "job_failed" => (
            format!("{org}: ett jobb som du beställde misslyckades"),
            format!("Ett jobb som du beställde i {org} misslyckades."),
            below("jobs", subject, "job_id"),
            "Se varför",
        ),
        "invitation" => (
            format!("Du är inbjuden till {org}"),
            format!(
                "Du är inbjuden att arbeta med {org}. Logga in med den här adressen, så är inbjudan din. Den gäller i 14 dagar och bara för dig."
            ),
            invitation(mail)?,
            "Tacka ja till inbjudan",
        ),
        _ => return None,
    };
    let why = match mail.kind {
        "invitation" => "Om du inte väntade dig det här behöver du inte göra något.",
        _ => "I appens inställningar väljer du vilka av dessa du får som e-post.",
    };
    Some(Words { subject, body, path, link, why })
}

/// A page of one thing, or that of all where the subject names none.
fn below(page: &str, subject: &Value, id: &str) -> String {
    let id = subject[id].as_str().and_then(|id| Uuid::parse_str(id).ok());
    id.map_or_else(|| page.to_owned(), |id| format!("{page}/{id}"))
}

/// Behind the sign `#`, so that no server on the way, nor the page's own, is sent the token.
fn invitation(mail: &Mail<'_>) -> Option<String> {
    Some(format!("invitation#token={}", mail.token?))
}

fn provider(subject: &Value) -> &'static str {
    match subject["provider"].as_str() {
        Some("fortnox") => "Fortnox",
        Some("instagram") => "Instagram",
        Some("facebook") => "Facebook",
        Some("tiktok") => "TikTok",
        _ => "another system",
    }
}

/// The day that it ends, after `before`. Nothing where that is not said.
fn day(subject: &Value, before: &str) -> String {
    let ends_at = subject["ends_at"].as_str().and_then(|at| DateTime::parse_from_rfc3339(at).ok());
    ends_at.map_or_else(String::new, |at| format!("{before}{}", at.format("%Y-%m-%d")))
}

fn agent(subject: &Value) -> String {
    plain(subject["agent"].as_str().unwrap_or_default())
}

/// A name as one line without markup, and without what a reader's program would make a link of.
fn plain(name: &str) -> String {
    let invisible =
        |c: char| matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}');
    let seen: String = name
        .replace("://", " ")
        .chars()
        .map(|c| if c.is_control() || matches!(c, '<' | '>') { ' ' } else { c })
        .filter(|c| !invisible(*c))
        .collect();
    seen.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(NAME).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KINDS: [&str; 7] = [
        "approval_waits",
        "approval_overdue",
        "approval_failed",
        "connection_needs_person",
        "limit_near",
        "job_failed",
        "invitation",
    ];

    fn wrote(kind: &str, language: Option<&str>, organization: &str, subject: &Value) -> Option<Written> {
        let app = "https://app.example/x/".parse().unwrap();
        write(
            &Mail { id: Uuid::nil(), to: "a@b.example", language, kind, subject, organization, token: Some("t0ken") },
            &app,
        )
    }

    #[test]
    fn every_kind_is_written_in_both_languages_with_a_link_into_the_app() {
        let subject =
            json!({ "approval_id": Uuid::nil(), "job_id": Uuid::nil(), "provider": "fortnox", "agent": "renderer" });
        let mut subjects = std::collections::BTreeSet::new();
        for kind in KINDS {
            for language in [None, Some("sv")] {
                let written = wrote(kind, language, "Nord & Co", &subject).unwrap();
                assert!(written.subject.contains("Nord & Co"), "{written:?}");
                assert!(
                    written.text.contains("https://app.example/x/") && !written.text.contains("x//"),
                    "{written:?}"
                );
                assert!(written.html.contains("Nord &amp; Co"), "{written:?}");
                assert_eq!(written.language, language.unwrap_or("en"));
                subjects.insert(written.subject);
            }
        }
        assert_eq!(subjects.len(), 2 * KINDS.len());
        assert_eq!(wrote("another", None, "Nord", &subject), None);
    }

    #[test]
    fn a_consent_that_ends_soon_is_not_taken_for_one_that_is_over() {
        let text = |language, ends_at: Value| {
            let subject = json!({ "provider": "instagram", "status": "ending", "ends_at": ends_at });
            let written = wrote("connection_needs_person", language, "Nord", &subject).unwrap();
            format!("{} {}", written.subject, written.text)
        };
        // As Postgres writes a time into JSON.
        let at = json!("2026-12-14T09:30:00.123456+00:00");
        let english = text(None, at.clone());
        assert!(english.contains("Nord: the connection with Instagram ends soon"), "{english}");
        assert!(english.contains("ends on 2026-12-14. Connect it again before that"), "{english}");
        let swedish = text(Some("sv"), at);
        assert!(swedish.contains("går snart ut") && swedish.contains("går ut den 2026-12-14."), "{swedish}");
        assert!(text(None, Value::Null).contains("is connected with Instagram ends. Connect"));
    }

    #[test]
    fn nothing_that_others_wrote_is_markup_a_line_or_a_link() {
        let subject = json!({ "approval_id": "\"><script>", "agent": "<i>\n\nx" });
        for kind in ["approval_waits", "limit_near"] {
            let written = wrote(kind, None, "A\r\nB\u{202E} <script>\"'&http://evil.example", &subject).unwrap();
            let all = format!("{}{}{}", written.subject, written.text, written.html);
            assert!(
                !all.contains("<script") && !all.contains("<i>") && !all.contains("http://") && !all.contains('\r'),
                "{all}"
            );
            assert!(written.subject.starts_with("A B script"), "{}", written.subject);
        }
        assert_eq!(plain(&"å".repeat(200)).chars().count(), NAME);
    }

    #[test]
    fn the_link_of_an_invitation_carries_its_token_where_no_server_reads_it() {
        let written = wrote("invitation", None, "Nord", &json!({})).unwrap();
        assert!(written.text.contains("https://app.example/x/invitation#token=t0ken"), "{}", written.text);
    }
}
