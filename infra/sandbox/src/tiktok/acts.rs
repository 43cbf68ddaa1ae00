//! What people do, messages aside: accounts and their tokens, videos, comments, and figures. Each fails if what it names is not there.

use anyhow::{Context, Result};
use chrono::NaiveDate;
use serde_json::{Value, json};

use super::{
    TikTok,
    events::Event,
    world::{Account, Comment, Person, Platform, Status, Token, Video, World, new_id},
};
use crate::front::catch_up;

/// An account that allowed the application everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Its open id, which is `business_id` on platform B.
    pub open_id: String,
    /// A token for platform A, if it is connected there.
    pub display_token: Option<String>,
    /// A token for platform B, if it is connected there.
    pub business_token: Option<String>,
}

/// What becomes of a post that an application made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostEvent {
    /// `post.publish.failed`.
    Failed,
    /// `post.publish.complete`.
    Complete,
    /// `post.publish.inbox_delivered`.
    InboxDelivered,
    /// `post.publish.publicly_available`.
    PubliclyAvailable,
    /// `post.publish.no_longer_publicly_available`.
    NoLongerPubliclyAvailable,
    /// The same as a page misspells it.
    NoLongerPublicalyAvailable,
}

impl PostEvent {
    fn name(self) -> &'static str {
        match self {
            Self::Failed => "post.publish.failed",
            Self::Complete => "post.publish.complete",
            Self::InboxDelivered => "post.publish.inbox_delivered",
            Self::PubliclyAvailable => "post.publish.publicly_available",
            Self::NoLongerPubliclyAvailable => "post.publish.no_longer_publicly_available",
            Self::NoLongerPublicalyAvailable => "post.publish.no_longer_publicaly_available",
        }
    }
}

impl World {
    pub(super) fn account_mut(&mut self, open_id: &str) -> Result<&mut Account> {
        self.accounts.get_mut(open_id).with_context(|| format!("there is no account {open_id}"))
    }

    pub(super) fn person(&self, person: &str) -> Result<&Person> {
        self.people.get(person).with_context(|| format!("there is no person {person}"))
    }

    /// Appends an event.
    pub(super) fn append(&mut self, platform: Platform, kind: &str, open_id: &str, content: Value) {
        let at = self.now();
        self.outbox.push(Event { platform, kind: kind.to_owned(), open_id: open_id.to_owned(), at, content });
    }

    /// Appends an event of platform B, if the account is connected there.
    pub(super) fn append_business(&mut self, kind: &str, open_id: &str, content: Value) {
        if self.connected(open_id, Platform::Business) {
            self.append(Platform::Business, kind, open_id, content);
        }
    }

    fn connected(&self, open_id: &str, platform: Platform) -> bool {
        let now = self.now();
        // What expired can be refreshed, and still has webhooks.
        let live = |token: &&Token| token.account == open_id && token.platform == platform;
        self.tokens.values().filter(live).any(|token| token.revoked.is_none_or(|at| at > now))
    }

    fn add_token(&mut self, open_id: &str, platform: Platform) -> String {
        let scopes = platform.scopes().iter().map(|scope| (*scope).to_owned()).collect();
        self.issue_access(open_id, platform, scopes)
    }

    /// What happened to a comment: ids are numbers, and there is no text.
    fn comment_event(&mut self, comment: &str, action: &str) -> Result<()> {
        let number = |id: &str| id.parse::<i64>().unwrap_or_default();
        let found = self.comments.get(comment).with_context(|| format!("there is no comment {comment}"))?;
        let parent = found.parent.as_ref();
        let owner = self.videos.get(&found.video).map(|video| video.owner.clone()).unwrap_or_default();
        let content = json!({
            "comment_id": number(&found.id), "video_id": number(&found.video),
            "parent_comment_id": parent.map_or(0, |parent| number(parent)),
            "comment_type": if parent.is_some() { "reply" } else { "comment" }, "comment_action": action,
            "unique_identifier": found.author, "timestamp": self.now() / 1000,
        });
        self.append_business("comment.update", &owner, content);
        Ok(())
    }

    pub(super) fn add_comment(
        &mut self,
        video: &str,
        (author, username, owner): (&str, &str, bool),
        text: &str,
        parent: Option<&str>,
    ) -> Result<String> {
        let (id, at) = (new_id(), self.now());
        let parent = match parent {
            None => None,
            Some(parent) => {
                let answered = self.comments.get(parent).filter(|comment| comment.video == video && !comment.deleted);
                let answered = answered.with_context(|| format!("there is no comment {parent} on {video}"))?;
                Some(answered.parent.clone().unwrap_or_else(|| answered.id.clone()))
            }
        };
        let on = self.videos.get_mut(video).filter(|video| !video.deleted);
        on.with_context(|| format!("there is no video {video}"))?.comments.push(id.clone());
        let comment = Comment {
            id: id.clone(),
            video: video.to_owned(),
            parent,
            author: author.to_owned(),
            username: username.to_owned(),
            owner,
            text: text.to_owned(),
            at,
            likes: 0,
            status: Status::Public,
            deleted: false,
        };
        self.comments.insert(id.clone(), comment);
        self.comment_event(&id, "insert")?;
        Ok(id)
    }
}

impl TikTok {
    /// Changes the world, which may append an event.
    pub(super) fn act<T>(&self, change: impl FnOnce(&mut World) -> Result<T>) -> Result<T> {
        let done = change(&mut self.world());
        self.hooks.changed.notify_one();
        done
    }
}

/// Accounts, people and tokens.
impl TikTok {
    /// An account that is connected to these platforms, with tokens for all scopes, two hours each.
    pub fn add_account(&self, username: &str, display_name: &str, platforms: &[Platform]) -> Connected {
        let open_id = format!("-000{:032x}", rand::random::<u128>());
        let account = Account {
            open_id: open_id.clone(),
            username: username.to_owned(),
            display_name: display_name.to_owned(),
            followers: 900,
            videos: Vec::new(),
            talks: Vec::new(),
            daily: std::collections::BTreeMap::new(),
        };
        let mut world = self.world();
        world.accounts.insert(open_id.clone(), account);
        let mut token = |platform| platforms.contains(&platform).then(|| world.add_token(&open_id, platform));
        let (display_token, business_token) = (token(Platform::Display), token(Platform::Business));
        Connected { open_id, display_token, business_token }
    }

    /// Another token for an account, beside those there are.
    pub fn new_token(&self, open_id: &str, platform: Platform) -> Result<String> {
        let mut world = self.world();
        world.account_mut(open_id)?;
        Ok(world.add_token(open_id, platform))
    }

    fn tokens(&self, open_id: &str, act: impl Fn(&mut Token, i64)) {
        let mut world = self.world();
        let now = world.now();
        world.tokens.values_mut().filter(|token| token.account == open_id).for_each(|token| act(token, now));
    }

    /// All its tokens expire in so many seconds.
    pub fn expire_tokens_in(&self, open_id: &str, seconds: i64) {
        self.tokens(open_id, |token, now| token.expires = now + seconds * 1000);
    }

    /// All its tokens are revoked in so many seconds, without a webhook.
    pub fn revoke_tokens_in(&self, open_id: &str, seconds: i64) {
        self.tokens(open_id, |token, now| token.revoked = Some(now + seconds * 1000));
    }

    /// Its tokens are for these scopes alone.
    pub fn set_scopes(&self, open_id: &str, scopes: &[&str]) {
        self.tokens(open_id, |token, _| token.scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect());
    }

    /// The person takes the application's rights away at both platforms: its tokens are revoked, refresh tokens included, then comes the
    /// webhook, with this reason (0 to 5).
    pub fn remove_authorization(&self, open_id: &str, reason: i64) -> Result<()> {
        self.act(|world| {
            world.account_mut(open_id)?;
            world.end(open_id, Platform::Display);
            world.end(open_id, Platform::Business);
            world.append(Platform::Display, "authorization.removed", open_id, json!({ "reason": reason }));
            Ok(())
        })
    }

    /// How many follow it now.
    pub fn set_followers(&self, open_id: &str, followers: i64) -> Result<()> {
        self.world().account_mut(open_id)?.followers = followers;
        Ok(())
    }

    /// A day's figure of it, or a gap: `followers_count`, `profile_views`, `video_views`, `likes`, `comments`, `shares`.
    pub fn set_figure(&self, open_id: &str, metric: &str, day: NaiveDate, value: Option<i64>) -> Result<()> {
        let mut world = self.world();
        let daily = &mut world.account_mut(open_id)?.daily;
        let key = (day, metric.to_owned());
        match value {
            Some(value) => daily.insert(key, value),
            None => daily.remove(&key),
        };
        Ok(())
    }

    /// A person. Their unique identifier.
    pub fn add_person(&self, username: &str) -> String {
        let id = format!("un_{:032x}", rand::random::<u128>());
        self.world().people.insert(id.clone(), Person { username: username.to_owned() });
        id
    }
}

/// Videos and comments.
impl TikTok {
    /// Publishes a video in the app. There is no webhook for it. Its id.
    pub fn publish(&self, open_id: &str, description: &str) -> Result<String> {
        let mut world = self.world();
        let now = world.now();
        let last = world.account_mut(open_id)?.videos.last().cloned();
        let last = last.and_then(|id| world.videos.get(&id)).map_or(i64::MIN, |video| video.at);
        let video = Video {
            id: new_id(),
            owner: open_id.to_owned(),
            description: description.to_owned(),
            // Pages end between two moments.
            at: now.max(last.saturating_add(1)),
            deleted: false,
            unlisted: false,
            figures: std::collections::BTreeMap::new(),
            comments: Vec::new(),
        };
        let id = video.id.clone();
        world.account_mut(open_id)?.videos.push(id.clone());
        world.videos.insert(id.clone(), video);
        Ok(id)
    }

    /// Sends what became of a post that an application made. The publish id.
    pub fn post_event(&self, open_id: &str, event: PostEvent, post: Option<&str>) -> Result<String> {
        let publish_id = format!("v_pub_url~v2.{}", new_id());
        let mut content = json!({ "publish_id": publish_id, "publish_type": "DIRECT_PUBLISH" });
        if let Some(post) = post {
            content["post_id"] = json!(post);
        }
        if event == PostEvent::Failed {
            content["reason"] = json!("file_format_check_failed");
        }
        self.act(|world| {
            world.account_mut(open_id)?;
            world.append(Platform::Display, event.name(), open_id, content);
            Ok(publish_id)
        })
    }

    /// Appends an event as it is given, unchecked, to be delivered like any other.
    pub fn push_event(&self, platform: Platform, open_id: &str, event: &str, content: Value) {
        self.world().append(platform, event, open_id, content);
        self.hooks.changed.notify_one();
    }

    fn video(&self, video: &str, act: impl FnOnce(&mut Video)) -> Result<()> {
        act(self.world().videos.get_mut(video).with_context(|| format!("there is no video {video}"))?);
        Ok(())
    }

    /// Deletes a video. There is no webhook for it.
    pub fn delete_video(&self, video: &str) -> Result<()> {
        self.video(video, |video| video.deleted = true)
    }

    /// Whether lists show a video. One that they leave out is there by its id.
    pub fn set_listed(&self, video: &str, listed: bool) -> Result<()> {
        self.video(video, |video| video.unlisted = !listed)
    }

    /// A video's figure by the name of platform B (`video_views`, `likes`, `reach`, `average_time_watched`, …), or none yet.
    pub fn set_video_figure(&self, video: &str, figure: &str, value: Option<Value>) -> Result<()> {
        self.video(video, |video| {
            match value {
                Some(value) => video.figures.insert(figure.to_owned(), value),
                None => video.figures.remove(figure),
            };
        })
    }

    /// A person comments, or answers a comment. The comment's id.
    pub fn comment(&self, video: &str, person: &str, text: &str, parent: Option<&str>) -> Result<String> {
        self.act(|world| {
            let username = world.person(person)?.username.clone();
            world.add_comment(video, (person, &username, false), text, parent)
        })
    }

    /// The account comments on its own video, in the app. The comment's id.
    pub fn own_comment(&self, video: &str, text: &str, parent: Option<&str>) -> Result<String> {
        self.act(|world| {
            let owner = world.videos.get(video).map(|video| video.owner.clone());
            let owner = owner.with_context(|| format!("there is no video {video}"))?;
            let username = world.account_mut(&owner)?.username.clone();
            world.add_comment(video, (&owner, &username, true), text, parent)
        })
    }

    fn change_comment(&self, comment: &str, action: &str, change: impl Fn(&mut Comment)) -> Result<()> {
        self.act(|world| {
            change(world.comments.get_mut(comment).with_context(|| format!("there is no comment {comment}"))?);
            world.comment_event(comment, action)
        })
    }

    /// Deletes a comment, and the answers to it, for which there is no webhook.
    pub fn delete_comment(&self, comment: &str) -> Result<()> {
        self.change_comment(comment, "delete", |comment| comment.deleted = true)?;
        let mut world = self.world();
        let below = |other: &&mut Comment| other.parent.as_deref() == Some(comment);
        world.comments.values_mut().filter(below).for_each(|answer| answer.deleted = true);
        Ok(())
    }

    /// Hides a comment.
    pub fn hide_comment(&self, comment: &str) -> Result<()> {
        self.change_comment(comment, "set_to_hidden", |comment| comment.status = Status::Hidden)
    }

    /// Shows a comment to friends alone.
    pub fn show_comment_to_friends(&self, comment: &str) -> Result<()> {
        self.change_comment(comment, "set_to_friends_only", |comment| comment.status = Status::FriendsOnly)
    }

    /// Shows a comment to everybody again.
    pub fn show_comment(&self, comment: &str) -> Result<()> {
        self.change_comment(comment, "set_to_public", |comment| comment.status = Status::Public)
    }

    /// How many like a comment.
    pub fn like_comment(&self, comment: &str, likes: i64) -> Result<()> {
        let mut world = self.world();
        world.comments.get_mut(comment).with_context(|| format!("there is no comment {comment}"))?.likes = likes;
        Ok(())
    }

    /// The bodies of all webhooks so far, delivered or not, the oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        catch_up(self);
        self.world().outbox.all().map(|event| event.payload(&self.client_key)).collect()
    }
}
