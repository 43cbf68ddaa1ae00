//! What a platform's answer to a reply says.

use serde_json::Value;
use shared::{
    clients::social::{Answer, SocialError, id},
    store::social_replies::Sent,
};

/// What is known after a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known {
    /// That it is so.
    Sent(Sent),
    /// That the platform refuses the token, and has sent nothing.
    Token,
    /// That the platform was asked too often, and has sent nothing: whether the whole application, and how long it waits.
    Limited(bool, Option<std::time::Duration>),
}

/// What an answer says. `made` finds what the platform calls what was made; an answer without that is looked for, as if none had come.
pub(crate) fn of(
    instagram: bool,
    outcome: Result<Answer, SocialError>,
    made: impl Fn(&Value) -> Option<Option<String>>,
) -> Known {
    let error = match outcome {
        Ok(answer) => return Known::Sent(made(&answer.body).map_or(Sent::Unknown, Sent::Made)),
        Err(error) => error,
    };
    tracing::warn!(%error, "a reply was not confirmed");
    Known::Sent(match error {
        SocialError::Unsent(_) => Sent::Unsent,
        SocialError::Away(_) | SocialError::Transient { .. } | SocialError::Malformed => Sent::Unknown,
        SocialError::Token { .. } => return Known::Token,
        SocialError::Limited { app, wait, .. } => return Known::Limited(app, wait),
        SocialError::Missing => Sent::Failed("target_gone"),
        SocialError::Parameter { subcode, .. } => Sent::Failed(match subcode {
            2_534_014 => "recipient_unknown",
            2_534_029 => "blocked_by_recipient",
            _ => "text_refused",
        }),
        SocialError::Forbidden { code, subcode } => Sent::Failed(match (code, subcode) {
            (10, 2_534_022) => "window_closed",
            (10, 1_893_063) => "sending_restricted",
            (200, 2_534_041) => "messages_disabled",
            _ => "not_permitted",
        }),
        SocialError::Refused { code, .. } => Sent::Failed(match code {
            368 if instagram => "blocked_by_policy",
            551 if instagram => "recipient_unavailable",
            _ => "platform_refused",
        }),
        SocialError::FewViewers => Sent::Failed("platform_refused"),
    })
}

/// The id at a path of an answer, which is what was made.
pub(crate) fn id_at(body: &Value, path: &[&str]) -> Option<Option<String>> {
    Some(Some(id(path.iter().fold(body, |value, name| &value[*name]))?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::clients::social::Usage;

    use super::*;

    fn refused(error: SocialError) -> Known {
        of(true, Err(error), |_| None)
    }

    #[test]
    fn only_what_is_certain_is_called_so() {
        let answer = |body: Value| Ok(Answer { body, at: None, usage: Usage::default() });
        let made = |body: &Value| id_at(body, &["message_id"]);
        let sent = of(true, answer(json!({ "message_id": "m1" })), made);
        assert_eq!(sent, Known::Sent(Sent::Made(Some("m1".to_owned()))));
        assert_eq!(of(true, answer(json!({})), made), Known::Sent(Sent::Unknown));
        for error in [SocialError::Away(String::new()), SocialError::Transient { code: 2 }, SocialError::Malformed] {
            assert_eq!(refused(error), Known::Sent(Sent::Unknown));
        }
        assert_eq!(refused(SocialError::Unsent(String::new())), Known::Sent(Sent::Unsent));
        assert_eq!(refused(SocialError::Token { code: 190 }), Known::Token);
        assert_eq!(refused(SocialError::Limited { app: true, code: 4, wait: None }), Known::Limited(true, None));
    }

    #[test]
    fn each_refusal_has_its_name() {
        let forbidden = |code, subcode| refused(SocialError::Forbidden { code, subcode });
        let parameter = |subcode| refused(SocialError::Parameter { code: 100, subcode });
        let refused_as = |code| refused(SocialError::Refused { status: 400, code });
        for (known, code) in [
            (forbidden(10, 2_534_022), "window_closed"),
            (forbidden(10, 1_893_063), "sending_restricted"),
            (forbidden(200, 2_534_041), "messages_disabled"),
            (forbidden(200, 0), "not_permitted"),
            (parameter(2_534_014), "recipient_unknown"),
            (parameter(2_534_029), "blocked_by_recipient"),
            (parameter(0), "text_refused"),
            (refused_as(368), "blocked_by_policy"),
            (refused_as(551), "recipient_unavailable"),
            (refused_as(1), "platform_refused"),
            (refused(SocialError::Missing), "target_gone"),
            (of(false, Err(SocialError::Refused { status: 200, code: 551 }), |_| None), "platform_refused"),
        ] {
            assert_eq!(known, Known::Sent(Sent::Failed(code)));
        }
    }
}
