//! What people do, messages aside: accounts and their tokens, media, comments, and figures. Each fails if what it names is not there.

use anyhow::{Context, Result, ensure};
use chrono::NaiveDate;
use serde_json::{Value, json};

use super::{
    Instagram, MediaKind,
    events::{Event, What},
    world::{Account, Comment, Media, Person, SCOPES, Token, WEBHOOK_FIELDS, World, new_id},
};
use crate::front::catch_up;

/// In seconds.
const DAY: i64 = 24 * 60 * 60;

/// An account that allowed the application everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// `user_id`, which webhooks name.
    pub id: String,
    /// `id`, which only this application sees.
    pub scoped_id: String,
    /// An access token, for 60 days.
    pub token: String,
}

/// Accounts, people and tokens.
impl Instagram {
    fn account<T>(&self, account: &str, act: impl FnOnce(&mut Account) -> T) -> Result<T> {
        let mut world = self.world();
        Ok(act(world.accounts.get_mut(account).with_context(|| format!("there is no account {account}"))?))
    }

    /// A professional account that is connected: subscribed to everything, with a token for all scopes.
    pub fn add_account(&self, username: &str, name: &str) -> Connected {
        let (id, scoped_id) = self.add_unconnected(username, name);
        let mut world = self.world();
        if let Some(account) = world.accounts.get_mut(&id) {
            account.subscribed = WEBHOOK_FIELDS.map(str::to_owned).into();
        }
        let token = world.add_token(&id);
        Connected { id, scoped_id, token }
    }

    /// A professional account whose owner was not asked yet: no token, no subscription. Its `user_id` and its `id`.
    pub fn add_unconnected(&self, username: &str, name: &str) -> (String, String) {
        let (id, scoped_id) = (new_id("1784"), new_id("2"));
        let account = Account {
            id: id.clone(),
            scoped_id: scoped_id.clone(),
            username: username.to_owned(),
            name: name.to_owned(),
            followers: 1200,
            follows: 80,
            media: Vec::new(),
            conversations: Vec::new(),
            subscribed: std::collections::BTreeSet::new(),
            refused: None,
            figures: std::collections::BTreeMap::new(),
        };
        self.world().accounts.insert(id.clone(), account);
        (id, scoped_id)
    }

    /// Another token for an account, beside those there are.
    pub fn new_token(&self, account: &str) -> Result<String> {
        let mut world = self.world();
        ensure!(world.accounts.contains_key(account), "there is no account {account}");
        Ok(world.add_token(account))
    }

    fn tokens(&self, account: &str, act: impl Fn(&mut Token, i64)) {
        let mut world = self.world();
        let now = world.now();
        world.tokens.values_mut().filter(|token| token.account == account).for_each(|token| act(token, now));
    }

    /// All its tokens expire in so many seconds: 190, subcode 463.
    pub fn expire_tokens_in(&self, account: &str, seconds: i64) {
        self.tokens(account, |token, now| token.expires = now + seconds * 1000);
    }

    /// The person removes the application in so many seconds: 190, subcode 458.
    pub fn revoke_tokens_in(&self, account: &str, seconds: i64) {
        self.tokens(account, |token, now| token.revoked = Some(now + seconds * 1000));
    }

    /// Its tokens are for these scopes alone.
    pub fn set_scopes(&self, account: &str, scopes: &[&str]) {
        self.tokens(account, |token, _| token.scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect());
    }

    /// It is subscribed to these fields alone. At first an account is subscribed to all.
    pub fn set_subscribed(&self, account: &str, fields: &[&str]) -> Result<()> {
        self.account(account, |account| account.subscribed = fields.iter().map(|field| (*field).to_owned()).collect())
    }

    /// What it is subscribed to.
    pub fn subscribed(&self, account: &str) -> Result<Vec<String>> {
        self.account(account, |account| account.subscribed.iter().cloned().collect())
    }

    /// How many follow it: below 100, `follower_count` is no metric of it.
    pub fn set_followers(&self, account: &str, followers: i64) -> Result<()> {
        self.account(account, |account| account.followers = followers)
    }

    /// A day's figure of it, or a gap.
    pub fn set_figure(&self, account: &str, metric: &str, day: NaiveDate, value: Option<i64>) -> Result<()> {
        self.account(account, |account| {
            let key = (metric.to_owned(), day);
            match value {
                Some(value) => account.figures.insert(key, value),
                None => account.figures.remove(&key),
            };
        })
    }

    /// A person. Their IGSID.
    pub fn add_person(&self, username: &str, name: Option<&str>) -> String {
        let id = new_id("1");
        let person = Person { username: username.to_owned(), name: name.map(str::to_owned) };
        self.world().people.insert(id.clone(), person);
        id
    }
}

impl World {
    fn add_token(&mut self, account: &str) -> String {
        self.issue(account, true, SCOPES.map(str::to_owned).into(), 60 * DAY)
    }

    fn add_media(&mut self, owner: Option<&str>, kind: MediaKind, caption: Option<&str>) -> String {
        let (id, at) = (new_id("180"), self.now());
        let media = Media {
            id: id.clone(),
            owner: owner.map(str::to_owned),
            kind,
            caption: caption.map(str::to_owned),
            at,
            deleted: false,
            likes: 0,
            figures: std::collections::BTreeMap::new(),
            few_viewers: false,
            refused_metrics: std::collections::BTreeSet::new(),
            unlisted: false,
            comments: Vec::new(),
        };
        self.media.insert(id.clone(), media);
        id
    }

    pub(super) fn add_comment(
        &mut self,
        media: &str,
        (author, username): (&str, &str),
        text: &str,
        parent: Option<&str>,
        mentions: Option<&str>,
    ) -> Result<String> {
        let (id, at) = (new_id("179"), self.now());
        let parent = parent.map(|parent| {
            let answered = self.comments.get(parent).filter(|comment| comment.media == media && !comment.deleted);
            let answered = answered.with_context(|| format!("there is no comment {parent} on {media}"))?;
            // An answer to an answer is one to the comment above them.
            Ok::<_, anyhow::Error>(answered.parent.clone().unwrap_or_else(|| answered.id.clone()))
        });
        let comment = Comment {
            id: id.clone(),
            media: media.to_owned(),
            author: author.to_owned(),
            username: username.to_owned(),
            text: text.to_owned(),
            at,
            likes: 0,
            parent: parent.transpose()?,
            hidden: false,
            deleted: false,
            replied: false,
            mentions: mentions.map(str::to_owned),
        };
        let on = self.media.get_mut(media).filter(|media| !media.deleted);
        let on = on.with_context(|| format!("there is no medium {media}"))?;
        on.comments.push(id.clone());
        let (owner, product) = (on.owner.clone(), on.kind.product());
        let mut value = json!({
            "id": id, "from": { "id": author, "username": username }, "text": text,
            "media": { "id": media, "media_product_type": product },
        });
        if let Some(parent) = &comment.parent {
            value["parent_id"] = json!(parent);
        }
        self.comments.insert(id.clone(), comment);
        if let Some(owner) = owner {
            self.append(&owner, "comments", What::Comment(value));
        } else if let Some(mentioned) = mentions {
            self.append(mentioned, "mentions", What::Mention(value));
        }
        Ok(id)
    }

    fn person(&self, person: &str) -> Result<(String, String)> {
        let found = self.people.get(person).with_context(|| format!("there is no person {person}"))?;
        Ok((person.to_owned(), found.username.clone()))
    }
}

/// Media and comments.
impl Instagram {
    /// Publishes. The id of the medium.
    pub fn publish(&self, account: &str, kind: MediaKind, caption: Option<&str>) -> Result<String> {
        let mut world = self.world();
        ensure!(world.accounts.contains_key(account), "there is no account {account}");
        let id = world.add_media(Some(account), kind, caption);
        if let Some(account) = world.accounts.get_mut(account).filter(|_| kind != MediaKind::Story) {
            account.media.push(id.clone());
        }
        Ok(id)
    }

    fn medium(&self, media: &str, act: impl FnOnce(&mut Media)) -> Result<()> {
        act(self.world().media.get_mut(media).with_context(|| format!("there is no medium {media}"))?);
        Ok(())
    }

    /// Deletes a medium. There is no webhook for it.
    pub fn delete_media(&self, media: &str) -> Result<()> {
        self.medium(media, |media| media.deleted = true)
    }

    /// A medium's figure so far, or none.
    pub fn set_media_figure(&self, media: &str, metric: &str, value: Option<i64>) -> Result<()> {
        self.medium(media, |media| {
            match value {
                Some(value) => media.figures.insert(metric.to_owned(), value),
                None => media.figures.remove(metric),
            };
        })
    }

    /// Too few people saw it for figures: code 10.
    pub fn set_few_viewers(&self, media: &str, few: bool) -> Result<()> {
        self.medium(media, |media| media.few_viewers = few)
    }

    /// This medium does not have this metric: every call that names it fails with code 100.
    pub fn refuse_metric_of(&self, media: &str, metric: &str) -> Result<()> {
        self.medium(media, |media| {
            media.refused_metrics.insert(metric.to_owned());
        })
    }

    /// Whether lists show a medium. One that they leave out is there by its id.
    pub fn set_listed(&self, media: &str, listed: bool) -> Result<()> {
        self.medium(media, |media| media.unlisted = !listed)
    }

    /// How many like a medium.
    pub fn set_likes(&self, media: &str, likes: i64) -> Result<()> {
        self.medium(media, |media| media.likes = likes)
    }

    /// A person comments, or answers a comment. The comment's id.
    pub fn comment(&self, media: &str, person: &str, text: &str, parent: Option<&str>) -> Result<String> {
        let mut world = self.world();
        let (author, username) = world.person(person)?;
        let id = world.add_comment(media, (&author, &username), text, parent, None);
        self.hooks.changed.notify_one();
        id
    }

    /// The account comments itself, in the app. The comment's id.
    pub fn own_comment(&self, account: &str, media: &str, text: &str, parent: Option<&str>) -> Result<String> {
        let mut world = self.world();
        let known = world.accounts.get(account).with_context(|| format!("there is no account {account}"))?;
        let username = known.username.clone();
        let id = world.add_comment(media, (account, &username), text, parent, None);
        self.hooks.changed.notify_one();
        id
    }

    /// A person mentions the account in a comment on another account's medium. The ids of the medium and the comment.
    pub fn mention(&self, account: &str, person: &str, text: &str) -> Result<(String, String)> {
        let mut world = self.world();
        let known = world.accounts.get(account).with_context(|| format!("there is no account {account}"))?;
        let text = format!("@{} {text}", known.username);
        let (author, username) = world.person(person)?;
        let media = world.add_media(None, MediaKind::Image, None);
        let comment = world.add_comment(&media, (&author, &username), &text, None, Some(account))?;
        self.hooks.changed.notify_one();
        Ok((media, comment))
    }

    /// Another account mentions this one in the caption of its own medium, for which only Facebook Login has a webhook. The medium's id.
    pub fn mention_in_caption(&self, account: &str, caption: &str) -> Result<String> {
        let mut world = self.world();
        let known = world.accounts.get(account).with_context(|| format!("there is no account {account}"))?;
        let caption = format!("{caption} @{}", known.username);
        let media = world.add_media(None, MediaKind::Image, Some(&caption));
        if world.flavour == super::Flavour::FacebookLogin {
            world.append(account, "mentions", What::Mention(json!({ "media": { "id": media } })));
        }
        self.hooks.changed.notify_one();
        Ok(media)
    }

    fn change_comment(&self, comment: &str, act: impl FnOnce(&mut Comment)) -> Result<()> {
        act(self.world().comments.get_mut(comment).with_context(|| format!("there is no comment {comment}"))?);
        Ok(())
    }

    /// Hides a comment or shows it again. There is no webhook for it.
    pub fn hide_comment(&self, comment: &str, hidden: bool) -> Result<()> {
        self.change_comment(comment, |comment| comment.hidden = hidden)
    }

    /// How many like a comment.
    pub fn like_comment(&self, comment: &str, likes: i64) -> Result<()> {
        self.change_comment(comment, |comment| comment.likes = likes)
    }

    /// Deletes a comment, and the answers to it. There is no webhook for it.
    pub fn delete_comment(&self, comment: &str) -> Result<()> {
        self.change_comment(comment, |comment| comment.deleted = true)?;
        let mut world = self.world();
        let below = |other: &&mut Comment| other.parent.as_deref() == Some(comment);
        world.comments.values_mut().filter(below).for_each(|answer| answer.deleted = true);
        Ok(())
    }

    /// Appends an entry as it is given, unchecked, to be delivered like any other.
    pub fn push_entry(&self, entry: Value) {
        let mut world = self.world();
        let (account, at) = (entry["id"].as_str().unwrap_or_default().to_owned(), world.now());
        world.outbox.push(Event { account, at, what: What::Entry(entry) });
        self.hooks.changed.notify_one();
    }

    /// The entries of all webhooks so far, delivered or not, the oldest first.
    #[must_use]
    pub fn entries(&self) -> Vec<Value> {
        catch_up(self);
        let world = self.world();
        world.outbox.all().map(|event| event.entry(world.flavour)).collect()
    }
}
