//! The door to MongoDB: it takes an organisation, and adds it to every filter and document. There is no other.

use std::{sync::Arc, time::Duration};

use mongodb::{
    Client, IndexModel,
    bson::{Document, deserialize_from_document, doc, serialize_to_document},
    error::ErrorKind,
    options::ClientOptions,
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

    /// Creates collections with their validators and indexes, for the migration command. Safe to repeat.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub async fn ensure_schema(&self) -> Result<(), DocumentError> {
        self.call(async |database| {
            let existing = database.list_collection_names().await?;
            for collection in Collection::ALL {
                if !existing.iter().any(|name| name == collection.name()) {
                    let validator = doc! { "$jsonSchema": {
                        "bsonType": "object",
                        "required": ["_id", "org_id", "path"],
                        "properties": {
                            "org_id": { "bsonType": "string" },
                            "path": { "bsonType": "string", "pattern": "^orgs/" },
                        },
                    } };
                    database.create_collection(collection.name()).validator(validator).await?;
                }
                let documents = database.collection::<Document>(collection.name());
                for keys in [doc! { "org_id": 1, "kind": 1, "completed_at": -1 }, doc! { "org_id": 1, "path": 1 }] {
                    documents.create_index(IndexModel::builder().keys(keys).build()).await?;
                }
            }
            Ok(())
        })
        .await
    }
}

/// One organisation's documents, addressed `orgs/<org>/<collection>/<id>`.
#[derive(Debug, Clone, Copy)]
pub struct OrgDocuments<'a> {
    documents: &'a Documents,
    org_id: Uuid,
}

impl OrgDocuments<'_> {
    /// Stores `value` under `id`, replacing what was there: doing it twice changes nothing.
    ///
    /// # Errors
    /// [`DocumentError::Shape`] if it is no JSON object.
    pub async fn put(&self, collection: Collection, id: Uuid, value: Value) -> Result<(), DocumentError> {
        let mut document = serialize_to_document(&value).map_err(|_| DocumentError::Shape)?;
        let filter = self.filter(id);
        document.extend(filter.clone());
        document.insert("path", format!("orgs/{}/{}/{id}", self.org_id, collection.name()));
        let put = async |database: mongodb::Database| {
            let documents = database.collection::<Document>(collection.name());
            documents.replace_one(filter.clone(), document.clone()).upsert(true).await
        };
        self.documents.call(put).await?;
        Ok(())
    }

    /// The document of this id, if it is this organisation's.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub async fn find(&self, collection: Collection, id: Uuid) -> Result<Option<Value>, DocumentError> {
        let find = async |database: mongodb::Database| {
            database.collection::<Document>(collection.name()).find_one(self.filter(id)).await
        };
        let found = self.documents.call(find).await?;
        found.map(|document| deserialize_from_document(document).map_err(|_| DocumentError::Shape)).transpose()
    }

    fn filter(&self, id: Uuid) -> Document {
        doc! { "_id": id.to_string(), "org_id": self.org_id.to_string() }
    }
}
