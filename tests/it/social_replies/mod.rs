//! Replies in social threads: who may write them, and that each is sent once, also when the platform does not answer.

mod allowed;
mod sent;

use integration_tests::{
    TestApp,
    people::{ADAM, OLGA, Person},
};
use sandbox::{Sent, instagram, tiktok};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::social_fetch::connect;

const INSTAGRAM: &str =
    "{instagram_business_basic,instagram_business_manage_messages,instagram_business_manage_comments}";
const BUSINESS: &str =
    "{user.info.basic,comment.list,comment.list.manage,video.list,message.list.read,message.list.send}";

/// A kind of reply that a platform takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    InstagramMessage,
    InstagramPrivate,
    InstagramComment,
    TikTokMessage,
    TikTokComment,
}

impl Way {
    const ALL: [Self; 5] = [
        Self::InstagramMessage,
        Self::InstagramPrivate,
        Self::InstagramComment,
        Self::TikTokMessage,
        Self::TikTokComment,
    ];

    fn is_instagram(self) -> bool {
        matches!(self, Self::InstagramMessage | Self::InstagramPrivate | Self::InstagramComment)
    }

    fn kind(self) -> &'static str {
        match self {
            Self::InstagramMessage | Self::TikTokMessage => "message",
            Self::InstagramPrivate => "private",
            Self::InstagramComment | Self::TikTokComment => "comment",
        }
    }
}

/// An organisation's two accounts, and the people who wrote to them.
struct Shop<'a> {
    app: &'a TestApp,
    instagram: instagram::Connected,
    tiktok: tiktok::Connected,
    /// Who writes at Instagram, and at TikTok.
    lena: String,
    timo: String,
    /// A post at each.
    post: String,
    video: String,
}

impl<'a> Shop<'a> {
    async fn open(app: &'a TestApp) -> Self {
        let (instagram, tiktok) = (&app.stack.sandbox.instagram, &app.stack.sandbox.tiktok);
        let at_instagram = instagram.add_account("nordateljen", "Nord Ateljé");
        let at_tiktok = tiktok.add_account("nordateljen", "Nord Ateljé", &[tiktok::Platform::Business]);
        let known = (at_instagram.id.as_str(), "nordateljen", at_instagram.token.as_str());
        connect(app, &OLGA, ("instagram", "instagram_login", INSTAGRAM), known).await;
        let token = at_tiktok.business_token.clone().unwrap();
        let known = (at_tiktok.open_id.as_str(), "nordateljen", token.as_str());
        connect(app, &OLGA, ("tiktok", "tiktok_business", BUSINESS), known).await;
        let (lena, timo) = (instagram.add_person("lena", Some("Lena")), tiktok.add_person("timo"));
        let post = instagram.publish(&at_instagram.id, instagram::MediaKind::Image, Some("Vår soffa")).unwrap();
        let video = tiktok.publish(&at_tiktok.open_id, "Vår soffa").unwrap();
        Self { instagram: at_instagram, tiktok: at_tiktok, lena, timo, post, video, app }
    }

    /// Has a person write what can be answered in this way, and waits until it is in the inbox. Its thread.
    async fn written(&self, way: Way) -> Uuid {
        let (instagram, tiktok) = (&self.app.stack.sandbox.instagram, &self.app.stack.sandbox.tiktok);
        match way {
            Way::InstagramMessage => instagram.message(&self.instagram.id, &self.lena, "Har ni öppet?").unwrap(),
            Way::InstagramPrivate | Way::InstagramComment => {
                instagram.comment(&self.post, &self.lena, "Vad kostar den?", None).unwrap()
            }
            Way::TikTokMessage => tiktok.message(&self.tiktok.open_id, &self.timo, "Har ni öppet?").unwrap(),
            Way::TikTokComment => tiktok.comment(&self.video, &self.timo, "Vad kostar den?", None).unwrap(),
        };
        self.delivered().await;
        let (account, kind) = (
            if way.is_instagram() { &self.instagram.id } else { &self.tiktok.open_id },
            if way.kind() == "message" { "message" } else { "comment" },
        );
        self.app
            .db
            .text(&format!(
                "select t.id::text from social_threads t join social_accounts a on a.id = t.account_id
                  where a.platform_id = '{account}' and t.kind = '{kind}' order by t.last_message_at desc, t.id desc limit 1"
            ))
            .await
            .parse()
            .unwrap()
    }

    /// What happened at the platforms is delivered and merged.
    async fn delivered(&self) {
        for attempts in
            [self.app.stack.sandbox.instagram.deliver_all().await, self.app.stack.sandbox.tiktok.deliver_all().await]
        {
            assert!(attempts.iter().all(|attempt| attempt.status == Some(200)), "{attempts:?}");
        }
        self.app.stack.queue("social-events").unwrap().drained().await;
        self.app.stack.social.drained().await;
    }

    async fn answer(&self, person: &Person, thread: Uuid, kind: &str, text: &str) -> integration_tests::Answer {
        let body = json!({ "thread_id": thread, "kind": kind, "text": text });
        let answer = self.app.post("/v1/social/replies", &self.app.token(person), &body).await;
        assert_ne!(answer.status, 500, "{}", self.app.logs());
        answer
    }

    /// Answers as Olga. The reply's id, when its worker has looked at it once.
    async fn answered(&self, thread: Uuid, way: Way, text: &str) -> Uuid {
        let answer = self.answer(&OLGA, thread, way.kind(), text).await.expect(202);
        self.worked().await;
        answer["reply"]["id"].as_str().unwrap().parse().unwrap()
    }

    async fn worked(&self) {
        self.app.stack.queue("social-replies").unwrap().drained().await;
    }

    /// What waits is looked at again.
    async fn again(&self) {
        self.app
            .db
            .run("update jobs set run_after = now() where status = 'queued' and job_type = 'social_reply'")
            .await;
        self.app.stack.sweep().await.unwrap();
        self.worked().await;
    }

    /// Lets so much time pass since replies were sent.
    async fn sent_ago(&self, interval: &str) {
        let ago = format!(
            "set session_replication_role = replica;
             update social_replies set sent_at = now() - interval '{interval}' where ended_at is null and sent_at is not null"
        );
        self.app.db.run(&ago).await;
    }

    async fn shown(&self, reply: Uuid) -> Value {
        self.app.get(&format!("/v1/social/replies/{reply}"), &self.app.token(&ADAM)).await.expect(200)
    }

    /// What has reached the platform.
    fn arrived(&self, way: Way) -> Vec<Sent> {
        if way.is_instagram() {
            self.app.stack.sandbox.instagram.sent(&self.instagram.id)
        } else {
            self.app.stack.sandbox.tiktok.sent(&self.tiktok.open_id)
        }
    }

    /// Drafts as the agent. The reply's id, and its approval's.
    async fn drafted(&self, thread: Uuid, kind: &str, text: &str) -> (Uuid, Uuid) {
        let token = self.app.agent_token(&integration_tests::people::RENATA).await;
        let body = json!({ "thread_id": thread, "kind": kind, "text": text });
        let answer = self.app.post("/v1/social/replies", &token, &body).await.expect(202);
        let id = |value: &Value| value.as_str().unwrap().parse().unwrap();
        (id(&answer["reply"]["id"]), id(&answer["approval"]["id"]))
    }

    async fn approve(&self, person: &Person, approval: Uuid) -> integration_tests::Answer {
        let token = self.app.token(person);
        let shown = self.app.get(&format!("/v1/approvals/{approval}"), &token).await.expect(200);
        let body = json!({ "digest": shown["digest"] });
        self.app.post(&format!("/v1/approvals/{approval}/approve"), &token, &body).await
    }
}

/// Every statement that replies have: written, drafted, cancelled, listed, sent, searched for and refused.
pub(crate) async fn scenario(app: &TestApp) {
    sent::every_statement(&Shop::open(app).await).await;
}
