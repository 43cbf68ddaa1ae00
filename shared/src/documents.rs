//! The door to MongoDB: it takes an organisation, and adds it to every filter, pipeline and document. There is no other.

use std::{sync::Arc, time::Duration};

use futures::TryStreamExt;
use mongodb::{
    Client, IndexModel,
    bson::{
        Bson, Document, RawArrayBuf, RawDocumentBuf, deserialize_from_document, doc, rawdoc, serialize_to_document,
    },
    error::{ErrorKind, WriteFailure},
    options::{ClientOptions, CreateCollectionOptions, ValidationAction, ValidationLevel},
};
use serde_json::Value;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::{
    config::{ConfigError, Env},
    secrets::{Secret, SecretError, SecretValue, Secrets},
};

/// How long to look for a server before giving up.
const SERVER_SELECTION: Duration = Duration::from_secs(2);

/// The most documents in one answer.
pub const PAGE: u16 = 200;

/// The largest document, in bytes of BSON. The server takes 16 MiB, with what the door adds.
pub const LARGEST: usize = 15 * 1024 * 1024;

/// How much is put in one exchange, in bytes of BSON, beyond one document. The server takes 48 MB.
const MESSAGE: usize = 16 * 1024 * 1024;

/// Codes of commands that failed for the server's state, and not for what was asked: it is elsewhere, going down, out of room or time, or
/// does not let this login in.
const STATES: &[i32] =
    &[6, 7, 13, 18, 24, 50, 89, 91, 189, 262, 8000, 9001, 10058, 10107, 11600, 11602, 13435, 13436, 14031];

/// The stages a pipeline may have. Each works on the documents it is given: none reads others, writes, or holds a pipeline.
const STAGES: &[&str] =
    &["$count", "$group", "$limit", "$match", "$project", "$set", "$skip", "$sort", "$unset", "$unwind"];

/// The operators a stage may use, at whatever depth. None runs a script; and none that a `$match` understands can fail on a
/// document, as `$expr` can: the server is free to try such a condition on others' documents before it asks whose they are,
/// and its error would tell of them.
const OPERATORS: &[&str] = &[
    "$add",
    "$addToSet",
    "$all",
    "$and",
    "$arrayElemAt",
    "$avg",
    "$concat",
    "$cond",
    "$count",
    "$dateFromString",
    "$dateTrunc",
    "$divide",
    "$elemMatch",
    "$eq",
    "$exists",
    "$first",
    "$gt",
    "$gte",
    "$ifNull",
    "$in",
    "$last",
    "$lt",
    "$lte",
    "$max",
    "$min",
    "$multiply",
    "$ne",
    "$nin",
    "$nor",
    "$not",
    "$or",
    "$push",
    "$size",
    "$subtract",
    "$sum",
];

/// Why a document could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The connection string is not to be had.
    #[error("MongoDB's address is not available")]
    Secret(#[from] SecretError),
    /// The server refused or was not reached.
    #[error("MongoDB call failed")]
    Database(#[from] mongodb::error::Error),
    /// The value has no place in a document.
    #[error("the value is not a document")]
    Shape,
    /// Another organisation has a document of this id; it is left as it is. Nothing else is said of it.
    #[error("no document can be kept under this id")]
    IdTaken,
    /// The document is larger than [`LARGEST`].
    #[error("a document of {0} bytes is too large")]
    TooLarge(usize),
    /// The answer has more documents than [`PAGE`].
    #[error("the answer has more than {PAGE} documents")]
    TooMany,
    /// A pipeline names what it may not, or is none.
    #[error("a pipeline may not have {0}")]
    Refused(String),
    /// The server has it, and does not say that it will keep it.
    #[error("MongoDB did not confirm a write")]
    Unconfirmed,
}

impl DocumentError {
    /// Whether it is MongoDB that failed, so that every other document would fare alike; else it is this document.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Secret(_) | Self::Unconfirmed => true,
            Self::Database(error) => match &*error.kind {
                ErrorKind::Write(WriteFailure::WriteError(refused)) => STATES.contains(&refused.code),
                ErrorKind::Command(refused) => STATES.contains(&refused.code),
                ErrorKind::InvalidArgument { .. } | ErrorKind::BsonSerialization(_) => false,
                _ => true,
            },
            Self::Shape | Self::IdTaken | Self::TooLarge(_) | Self::TooMany | Self::Refused(_) => false,
        }
    }
}

/// Whether there is a document of this id already.
fn is_duplicate(error: &mongodb::error::Error) -> bool {
    matches!(&*error.kind, ErrorKind::Write(WriteFailure::WriteError(refused)) if refused.code == 11000)
}

/// A collection of Spine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collection {
    /// What agents made and how.
    AgentOutputs,
    /// Texts to draw on.
    ContentCorpus,
}

impl Collection {
    /// Every collection there is.
    pub const ALL: [Self; 2] = [Self::AgentOutputs, Self::ContentCorpus];

    /// Its name in the database.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentOutputs => "agent_outputs",
            Self::ContentCorpus => "content_corpus",
        }
    }

    /// What the server refuses to keep otherwise: each document says whose it is, and its path agrees.
    fn validator(self) -> Document {
        const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
        doc! {
            "$jsonSchema": {
                "bsonType": "object",
                "required": ["_id", "org_id", "path"],
                "properties": {
                    "_id": { "bsonType": "string", "pattern": format!("^{UUID}$") },
                    "org_id": { "bsonType": "string", "pattern": format!("^{UUID}$") },
                    "path": { "bsonType": "string", "pattern": format!("^orgs/{UUID}/") },
                },
            },
            "$expr": { "$eq": ["$path", { "$concat": ["orgs/", "$org_id", format!("/{}/", self.name()), "$_id"] }] },
        }
    }

    /// The collection of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|collection| collection.name() == name)
    }
}

/// The database. Connects on first use; secret `MONGODB_URI`, setting `MONGODB_DATABASE` (default `spine`).
#[derive(Debug)]
pub struct Documents {
    secrets: Arc<Secrets>,
    database: String,
    client: Mutex<Option<Kept>>,
}

/// A client, and the URI it was built with.
#[derive(Debug, Clone)]
struct Kept {
    uri: SecretValue,
    client: Client,
}

impl Documents {
    /// Reads the settings; connects to nothing yet.
    ///
    /// # Errors
    /// None at present; settings that can be wrong may come.
    pub fn from_env(env: &Env, secrets: Arc<Secrets>) -> Result<Self, ConfigError> {
        Ok(Self { secrets, database: env.or("MONGODB_DATABASE", "spine").to_owned(), client: Mutex::default() })
    }

    /// The client for the current URI, or for what there is instead of one whose login was `refused`.
    async fn client(&self, refused: Option<&SecretValue>) -> Result<Kept, DocumentError> {
        let uri = match refused {
            Some(refused) => self.secrets.refetch(Secret::MongodbUri, refused).await?,
            None => self.secrets.get(Secret::MongodbUri).await?,
        };
        let mut place = self.client.lock().await;
        if let Some(kept) = place.as_ref().filter(|kept| kept.uri.same(&uri)) {
            return Ok(kept.clone());
        }
        let mut options = ClientOptions::parse(uri.expose()).await?;
        options.app_name = Some("spine".to_owned());
        options.server_selection_timeout = Some(SERVER_SELECTION);
        options.connect_timeout = Some(SERVER_SELECTION);
        options.max_pool_size = Some(2);
        let kept = Kept { client: Client::with_options(options)?, uri };
        *place = Some(kept.clone());
        Ok(kept)
    }

    /// Runs `call` on the database; once more with a new login, if the one that is kept was refused and there is another.
    async fn call<T>(
        &self,
        call: impl AsyncFn(mongodb::Database) -> Result<T, mongodb::error::Error>,
    ) -> Result<T, DocumentError> {
        let kept = self.client(None).await?;
        match call(kept.client.database(&self.database)).await {
            Err(error) if matches!(*error.kind, ErrorKind::Authentication { .. }) => {
                let again = self.client(Some(&kept.uri)).await?;
                Ok(call(again.client.database(&self.database)).await?)
            }
            other => Ok(other?),
        }
    }

    /// The documents of one organisation.
    #[must_use]
    pub fn for_org(&self, org_id: Uuid) -> OrgDocuments<'_> {
        OrgDocuments { documents: self, org_id }
    }

    /// An organisation that has documents here and is none of `known`, for commands that must not touch anybody else's. As its `org_id`
    /// is written; `?` for a document that has none.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub async fn other_than(&self, known: &[Uuid]) -> Result<Option<String>, DocumentError> {
        let known: Vec<String> = known.iter().map(Uuid::to_string).collect();
        self.call(async |database| {
            for collection in Collection::ALL {
                let documents = database.collection::<Document>(collection.name());
                if let Some(other) = documents.find_one(doc! { "org_id": { "$nin": &known } }).await? {
                    return Ok(Some(other.get("org_id").map_or_else(|| "?".to_owned(), ToString::to_string)));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Creates collections with their validators and indexes, and mends what differs, for the migration command. What it did,
    /// in words; nothing, when it is run again.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub async fn ensure_schema(&self) -> Result<Vec<String>, DocumentError> {
        self.call(async |database| {
            let mut done = Vec::new();
            let existing: Vec<_> = database.list_collections().await?.try_collect().await?;
            for collection in Collection::ALL {
                let (name, validator) = (collection.name(), collection.validator());
                match existing.iter().find(|known| known.name == name) {
                    None => {
                        database.create_collection(name).validator(validator).await?;
                        done.push(format!("created {name}"));
                    }
                    Some(known) if enforces(&known.options, &validator) => {}
                    Some(_) => {
                        let change = doc! {
                            "collMod": name,
                            "validator": validator,
                            "validationLevel": "strict",
                            "validationAction": "error",
                        };
                        database.run_command(change).await?;
                        done.push(format!("changed the validator of {name}"));
                    }
                }
                let documents = database.collection::<Document>(name);
                let indexes = documents.list_index_names().await?;
                let listed = IndexModel::builder().keys(doc! { "org_id": 1, "kind": 1, "_id": -1 }).build();
                let index = documents.create_index(listed).await?.index_name;
                if !indexes.contains(&index) {
                    done.push(format!("created index {index} of {name}"));
                }
            }
            Ok(done)
        })
        .await
    }
}

/// Whether the server refuses what `validator` does not take. Level and action that are not told are the strict ones.
fn enforces(options: &CreateCollectionOptions, validator: &Document) -> bool {
    options.validator.as_ref() == Some(validator)
        && options.validation_level.as_ref().is_none_or(|level| *level == ValidationLevel::Strict)
        && options.validation_action.as_ref().is_none_or(|action| *action == ValidationAction::Error)
}

/// Some documents of a longer list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The documents, newest first.
    pub documents: Vec<Value>,
    /// Where the list goes on, if it does.
    pub next: Option<Uuid>,
}

/// One organisation's documents, addressed `orgs/<org>/<collection>/<id>`. It takes no filter, so there is none to widen.
#[derive(Debug, Clone, Copy)]
pub struct OrgDocuments<'a> {
    documents: &'a Documents,
    org_id: Uuid,
}

impl OrgDocuments<'_> {
    /// Stores `value` under `id`, replacing what was there: doing it twice changes nothing. What `value` has under `_id`, `org_id`
    /// and `path` is replaced.
    ///
    /// # Errors
    /// [`DocumentError::Shape`] if it is no JSON object, [`DocumentError::TooLarge`], or [`DocumentError::IdTaken`] if the id is
    /// another organisation's.
    pub async fn put(&self, collection: Collection, id: Uuid, value: Value) -> Result<(), DocumentError> {
        let document = self.encode(collection, id, &value)?;
        self.put_encoded(collection, id, &document).await
    }

    /// Stores many as [`Self::put`] does, in as few exchanges as they fit in. What became of each, in their order.
    ///
    /// # Errors
    /// [`DocumentError`] if MongoDB itself failed: then it is not known which of them it has.
    pub async fn put_many(
        &self,
        collection: Collection,
        documents: &[(Uuid, Value)],
    ) -> Result<Vec<Result<(), DocumentError>>, DocumentError> {
        let encoded: Vec<_> = documents.iter().map(|(id, value)| self.encode(collection, *id, value)).collect();
        let mut outcomes = Vec::with_capacity(encoded.len());
        let (mut message, mut bytes) = (Vec::new(), 0);
        for ((id, _), encoded) in documents.iter().zip(encoded) {
            match encoded {
                Ok(document) => {
                    let size = document.as_bytes().len();
                    if bytes + size > MESSAGE {
                        self.send(collection, &std::mem::take(&mut message), &mut outcomes).await?;
                        bytes = 0;
                    }
                    bytes += size;
                    message.push((outcomes.len(), *id, document));
                    outcomes.push(Ok(()));
                }
                Err(error) => outcomes.push(Err(error)),
            }
        }
        self.send(collection, &message, &mut outcomes).await?;
        Ok(outcomes)
    }

    /// Puts documents in one exchange, each beside the place of its outcome. What the server does not take of them is put once more by
    /// itself, which tells why.
    async fn send(
        &self,
        collection: Collection,
        message: &[(usize, Uuid, RawDocumentBuf)],
        outcomes: &mut [Result<(), DocumentError>],
    ) -> Result<(), DocumentError> {
        if message.is_empty() {
            return Ok(());
        }
        let mut updates = RawArrayBuf::new();
        for (_, id, document) in message {
            let (id, org_id) = (id.to_string(), self.org_id.to_string());
            updates.push(rawdoc! { "q": { "_id": id, "org_id": org_id }, "u": document.clone(), "upsert": true });
        }
        // A command takes no write concern from the connection string.
        let command = rawdoc! {
            "update": collection.name(), "updates": updates, "ordered": false, "writeConcern": { "w": "majority" },
        };
        let put = async |database: mongodb::Database| database.run_raw_command(command.clone()).await;
        let alone: Vec<usize> = match self.documents.call(put).await {
            Ok(answer) if answer.contains_key("writeConcernError") => return Err(DocumentError::Unconfirmed),
            Ok(answer) => {
                let refused = answer.get_array("writeErrors").into_iter().flatten();
                let index =
                    |error: &Bson| error.as_document().and_then(|error| error.get("index").and_then(Bson::as_i32));
                refused.filter_map(index).filter_map(|index| usize::try_from(index).ok()).collect()
            }
            Err(error) if error.is_outage() => return Err(error),
            // One of them is such that the server does not read the others.
            Err(_) => (0..message.len()).collect(),
        };
        for (place, id, document) in alone.iter().filter_map(|index| message.get(*index)) {
            let outcome = self.put_encoded(collection, *id, document).await;
            match (outcome, outcomes.get_mut(*place)) {
                (Err(error), _) if error.is_outage() => return Err(error),
                (outcome, Some(place)) => *place = outcome,
                (_, None) => {}
            }
        }
        Ok(())
    }

    /// The document as it is kept.
    fn encode(&self, collection: Collection, id: Uuid, value: &Value) -> Result<RawDocumentBuf, DocumentError> {
        let mut document = serialize_to_document(value).map_err(|_| DocumentError::Shape)?;
        // Beside fields, an operator such as `$set`: neither a document nor a change of one.
        if document.keys().any(|key| key.starts_with('$')) {
            return Err(DocumentError::Shape);
        }
        document.extend(self.one(id));
        document.insert("path", format!("orgs/{}/{}/{id}", self.org_id, collection.name()));
        let document = RawDocumentBuf::try_from(&document).map_err(|_| DocumentError::Shape)?;
        let size = document.as_bytes().len();
        if size > LARGEST { Err(DocumentError::TooLarge(size)) } else { Ok(document) }
    }

    async fn put_encoded(
        &self,
        collection: Collection,
        id: Uuid,
        document: &RawDocumentBuf,
    ) -> Result<(), DocumentError> {
        let put = async |database: mongodb::Database| {
            let documents = database.collection::<RawDocumentBuf>(collection.name());
            let put = || documents.replace_one(self.one(id), document).upsert(true);
            match put().await {
                // Of two that put it first at the same time one is refused, and finds the other's when it looks again.
                Err(error) if is_duplicate(&error) => put().await,
                other => other,
            }
        };
        match self.documents.call(put).await {
            Err(DocumentError::Database(error)) if is_duplicate(&error) => Err(DocumentError::IdTaken),
            other => other.map(drop),
        }
    }

    /// The document of this id, if it is this organisation's.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub async fn find(&self, collection: Collection, id: Uuid) -> Result<Option<Value>, DocumentError> {
        let find = async |database: mongodb::Database| {
            database.collection::<Document>(collection.name()).find_one(self.one(id)).await
        };
        self.documents.call(find).await?.map(json).transpose()
    }

    /// Up to `most` documents of a kind, and no more than [`PAGE`]; those after `after`, where that is [`Page::next`] of the page
    /// before. The newest come first, by their ids, which are UUIDv7.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub async fn list(
        &self,
        collection: Collection,
        kind: &str,
        after: Option<Uuid>,
        most: u16,
    ) -> Result<Page, DocumentError> {
        let most = most.clamp(1, PAGE);
        let mut filter = self.all();
        filter.insert("kind", kind);
        if let Some(after) = after {
            filter.insert("_id", doc! { "$lt": after.to_string() });
        }
        let list = async |database: mongodb::Database| {
            let documents = database.collection::<Document>(collection.name());
            let found = documents.find(filter.clone()).sort(doc! { "_id": -1 }).limit(i64::from(most) + 1).await?;
            found.try_collect::<Vec<_>>().await
        };
        let mut found = self.documents.call(list).await?;
        let more = found.len() > usize::from(most);
        found.truncate(usize::from(most));
        let last = found.last().filter(|_| more);
        let next = last.and_then(|last| last.get_str("_id").ok()?.parse().ok());
        let documents = found.into_iter().map(json).collect::<Result<_, _>>()?;
        Ok(Page { documents, next })
    }

    /// Removes the document of this id, if it is this organisation's. Whether there was one.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub async fn delete(&self, collection: Collection, id: Uuid) -> Result<bool, DocumentError> {
        let delete = async |database: mongodb::Database| {
            database.collection::<Document>(collection.name()).delete_one(self.one(id)).await
        };
        Ok(self.documents.call(delete).await?.deleted_count > 0)
    }

    /// What a pipeline makes of this organisation's documents.
    ///
    /// # Errors
    /// [`DocumentError::Refused`] for a stage or operator that is not known to stay among them, [`DocumentError::TooMany`] if
    /// more than [`PAGE`] documents come out.
    pub async fn aggregate(&self, collection: Collection, pipeline: &[Value]) -> Result<Vec<Value>, DocumentError> {
        let mut stages = vec![doc! { "$match": self.all() }];
        for stage in pipeline {
            stages.push(checked_stage(stage)?);
        }
        stages.push(doc! { "$limit": i64::from(PAGE) + 1 });
        let aggregate = async |database: mongodb::Database| {
            let documents = database.collection::<Document>(collection.name());
            documents.aggregate(stages.clone()).await?.try_collect::<Vec<_>>().await
        };
        let made = self.documents.call(aggregate).await?;
        if made.len() > usize::from(PAGE) {
            return Err(DocumentError::TooMany);
        }
        made.into_iter().map(json).collect()
    }

    fn all(&self) -> Document {
        doc! { "org_id": self.org_id.to_string() }
    }

    fn one(&self, id: Uuid) -> Document {
        doc! { "_id": id.to_string(), "org_id": self.org_id.to_string() }
    }
}

fn json(document: Document) -> Result<Value, DocumentError> {
    deserialize_from_document(document).map_err(|_| DocumentError::Shape)
}

/// The stage as it is sent, once it is known to stay among the documents it is given.
fn checked_stage(stage: &Value) -> Result<Document, DocumentError> {
    let refused = || DocumentError::Refused("a stage that is not one operator".to_owned());
    let stage = serialize_to_document(stage).map_err(|_| refused())?;
    let mut named = stage.iter();
    let (Some((name, body)), None) = (named.next(), named.next()) else { return Err(refused()) };
    if !STAGES.contains(&name.as_str()) {
        return Err(DocumentError::Refused(name.clone()));
    }
    check_operators(body)?;
    Ok(stage)
}

fn check_operators(value: &Bson) -> Result<(), DocumentError> {
    match value {
        Bson::Document(fields) => fields.iter().try_for_each(|(name, value)| {
            if name.starts_with('$') && !OPERATORS.contains(&name.as_str()) {
                return Err(DocumentError::Refused(name.clone()));
            }
            check_operators(value)
        }),
        Bson::Array(values) => values.iter().try_for_each(check_operators),
        Bson::String(_) | Bson::Double(_) | Bson::Int32(_) | Bson::Int64(_) | Bson::Boolean(_) | Bson::Null => Ok(()),
        // What JSON spells as `$code`, `$regularExpression` and the like.
        _ => Err(DocumentError::Refused("a value that is not plain JSON".to_owned())),
    }
}
