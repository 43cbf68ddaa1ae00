//! The door to file storage, which is S3-compatible. It takes an organisation, and no path leaves it.
//!
//! S3 access keys know no row-level security, so every path is built from typed parts here and checked against the
//! organisation before use.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use object_store::{
    Attribute, Attributes, ClientOptions, ObjectStore, ObjectStoreExt, PutOptions, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
    signer::Signer,
};
use tokio::sync::Mutex;
use url::Url;
use uuid::Uuid;

use crate::{
    config::{ConfigError, Env},
    secrets::{Secret, SecretError, SecretValue, Secrets},
};

/// How long an upload URL holds.
const UPLOAD_TTL: TimeDelta = TimeDelta::minutes(15);
/// How long a download URL holds.
const DOWNLOAD_TTL: TimeDelta = TimeDelta::hours(1);

/// Why storage did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Nothing is there.
    #[error("the object does not exist")]
    NotFound,
    /// More is there than was to be read.
    #[error("the object holds {bytes} bytes, more than allowed")]
    TooLarge {
        /// What it holds.
        bytes: u64,
    },
    /// The path is not one of this organisation's.
    #[error("the path is not one of this organisation")]
    Path,
    /// A key is not to be had.
    #[error("storage's key is not available")]
    Secret(#[from] SecretError),
    /// The settings do not fit together.
    #[error("storage is not configured")]
    Config(#[from] ConfigError),
    /// Storage failed or did not answer.
    #[error("storage did not answer")]
    Unavailable(#[source] object_store::Error),
}

impl From<object_store::Error> for ObjectError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::NotFound,
            other => Self::Unavailable(other),
        }
    }
}

/// A bucket of Spine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bucket {
    /// Photos people upload, and pictures of projects.
    ProjectMedia,
    /// Finished renders.
    Renders,
    /// Files of social messages.
    SocialUploads,
}

impl Bucket {
    /// Where people may name a path. What is in the others, they read by other rights than these.
    const NAMED: [Self; 2] = [Self::ProjectMedia, Self::Renders];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ProjectMedia => "project-media",
            Self::Renders => "renders",
            Self::SocialUploads => "social-uploads",
        }
    }
}

/// Where an object is: a bucket, and a path in it that begins with its organisation. Displays as `bucket/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectPath {
    org_id: Uuid,
    bucket: Bucket,
    key: String,
}

impl ObjectPath {
    /// A photo: `<org>/uploads/<actor>/<upload>`.
    #[must_use]
    pub fn upload(org_id: Uuid, actor_id: Uuid, upload_id: Uuid) -> Self {
        Self { org_id, bucket: Bucket::ProjectMedia, key: format!("{org_id}/uploads/{actor_id}/{upload_id}") }
    }

    /// A finished render: `<org>/<request>/<result>.<extension>`.
    #[must_use]
    pub fn render(org_id: Uuid, request_id: Uuid, result_id: Uuid, extension: &str) -> Self {
        Self { org_id, bucket: Bucket::Renders, key: format!("{org_id}/{request_id}/{result_id}.{extension}") }
    }

    /// A file that a social message came with: `<org>/messages/<message>/<attachment>.<extension>`.
    #[must_use]
    pub fn attachment(org_id: Uuid, message_id: Uuid, attachment_id: Uuid, extension: &str) -> Self {
        let key = format!("{org_id}/messages/{message_id}/{attachment_id}.{extension}");
        Self { org_id, bucket: Bucket::SocialUploads, key }
    }

    /// Reads a stored `bucket/path` of a photo or a render.
    ///
    /// # Errors
    /// [`ObjectError::Path`] unless it is one of `org_id`'s, in a bucket of these, without empty or dotted segments.
    pub fn parse(org_id: Uuid, text: &str) -> Result<Self, ObjectError> {
        let (bucket, key) = text.split_once('/').ok_or(ObjectError::Path)?;
        let bucket = Bucket::NAMED.into_iter().find(|known| known.name() == bucket).ok_or(ObjectError::Path)?;
        let mut segments = key.split('/');
        if segments.next() != Some(org_id.to_string().as_str()) || !plain(key) {
            return Err(ObjectError::Path);
        }
        Ok(Self { org_id, bucket, key: key.to_owned() })
    }

    /// The bucket's name.
    #[must_use]
    pub fn bucket(&self) -> &'static str {
        self.bucket.name()
    }

    /// The path in the bucket.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket.name(), self.key)
    }
}

/// Letters, digits, dashes and dots, and no segment that is empty or leads elsewhere.
fn plain(path: &str) -> bool {
    path.len() <= 500
        && path.split('/').all(|segment| {
            !segment.is_empty()
                && !segment.starts_with('.')
                && segment.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        })
}

/// A URL that allows one thing until it expires.
#[derive(Debug, Clone)]
pub struct SignedUrl {
    /// The URL.
    pub url: Url,
    /// Until when it holds.
    pub expires_at: DateTime<Utc>,
}

/// S3-compatible storage; connects on first use. Settings `STORAGE_S3_ENDPOINT` and `STORAGE_S3_REGION`.
#[derive(Debug)]
pub struct Objects {
    secrets: Arc<Secrets>,
    endpoint: Url,
    region: String,
    timeout: Duration,
    buckets: [Mutex<Option<Kept>>; 3],
}

/// A client, and the key it was built with.
#[derive(Debug, Clone)]
struct Kept {
    key: SecretValue,
    client: Arc<AmazonS3>,
}

impl Objects {
    /// Reads the settings; connects to nothing yet.
    ///
    /// # Errors
    /// [`ConfigError`] that names the variable.
    pub fn from_env(env: &Env, secrets: Arc<Secrets>) -> Result<Self, ConfigError> {
        Ok(Self {
            secrets,
            endpoint: env.url("STORAGE_S3_ENDPOINT", None)?,
            region: env.required("STORAGE_S3_REGION", "the region of the S3-compatible service")?.to_owned(),
            timeout: env.duration_ms("STORAGE_TIMEOUT_MS", Duration::from_secs(20))?,
            buckets: Default::default(),
        })
    }

    /// The objects of one organisation.
    #[must_use]
    pub fn for_org(&self, org_id: Uuid) -> OrgObjects<'_> {
        OrgObjects { objects: self, org_id }
    }

    /// Runs `call` with the bucket's client; once more with a new one if storage refused the key and there is another.
    async fn call<T>(
        &self,
        bucket: Bucket,
        call: impl AsyncFn(&AmazonS3) -> Result<T, object_store::Error>,
    ) -> Result<T, ObjectError> {
        let kept = self.client(bucket, None).await?;
        match call(&kept.client).await {
            Err(object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }) => {
                let again = self.client(bucket, Some(&kept.key)).await?;
                Ok(call(&again.client).await?)
            }
            other => Ok(other?),
        }
    }

    /// A client with the current key, or with what there is instead of one that was `refused`.
    async fn client(&self, bucket: Bucket, refused: Option<&SecretValue>) -> Result<Kept, ObjectError> {
        let key = match refused {
            Some(refused) => self.secrets.refetch(Secret::StorageS3SecretAccessKey, refused).await?,
            None => self.secrets.get(Secret::StorageS3SecretAccessKey).await?,
        };
        let mut place = match bucket {
            Bucket::ProjectMedia => &self.buckets[0],
            Bucket::Renders => &self.buckets[1],
            Bucket::SocialUploads => &self.buckets[2],
        }
        .lock()
        .await;
        if let Some(kept) = place.as_ref().filter(|kept| kept.key.same(&key)) {
            return Ok(kept.clone());
        }
        let key_id = self.secrets.get(Secret::StorageS3AccessKeyId).await?;
        let kept = Kept { client: Arc::new(self.build(bucket, key_id.expose(), key.expose())?), key };
        *place = Some(kept.clone());
        Ok(kept)
    }

    fn build(&self, bucket: Bucket, key_id: &str, key: &str) -> Result<AmazonS3, object_store::Error> {
        crate::clients::install_tls_provider();
        let plain = self.endpoint.scheme() == "http";
        AmazonS3Builder::new()
            .with_bucket_name(bucket.name())
            .with_endpoint(self.endpoint.as_str().trim_end_matches('/'))
            .with_region(&self.region)
            .with_access_key_id(key_id)
            .with_secret_access_key(key)
            .with_virtual_hosted_style_request(false)
            // One object is deleted at a time, by the request that every S3-compatible service knows.
            .with_disable_bulk_delete(true)
            .with_client_options(ClientOptions::new().with_timeout(self.timeout).with_allow_http(plain))
            .with_retry(RetryConfig { max_retries: 2, retry_timeout: self.timeout, ..RetryConfig::default() })
            .build()
    }
}

/// One organisation's objects.
#[derive(Debug, Clone, Copy)]
pub struct OrgObjects<'a> {
    objects: &'a Objects,
    org_id: Uuid,
}

impl OrgObjects<'_> {
    fn own(&self, path: &ObjectPath) -> Result<Path, ObjectError> {
        if path.org_id != self.org_id {
            return Err(ObjectError::Path);
        }
        Path::parse(&path.key).map_err(|_| ObjectError::Path)
    }

    /// How many bytes the object holds.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`], or that storage did not answer.
    pub async fn head(&self, path: &ObjectPath) -> Result<u64, ObjectError> {
        let key = self.own(path)?;
        Ok(self.objects.call(path.bucket, async |s3| s3.head(&key).await).await?.size)
    }

    /// The object's bytes, at most `max_bytes` of them.
    ///
    /// # Errors
    /// [`ObjectError::TooLarge`] before anything is read, if it holds more.
    pub async fn get(&self, path: &ObjectPath, max_bytes: u64) -> Result<Bytes, ObjectError> {
        let key = self.own(path)?;
        let found = self.objects.call(path.bucket, async |s3| s3.get(&key).await).await?;
        if found.meta.size > max_bytes {
            return Err(ObjectError::TooLarge { bytes: found.meta.size });
        }
        Ok(found.bytes().await?)
    }

    /// The object's first `length` bytes, which must be there.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`], or that storage did not answer.
    pub async fn get_start(&self, path: &ObjectPath, length: u64) -> Result<Bytes, ObjectError> {
        let key = self.own(path)?;
        self.objects.call(path.bucket, async |s3| s3.get_range(&key, 0..length).await).await
    }

    /// Stores `bytes`, replacing what was there.
    ///
    /// # Errors
    /// [`ObjectError::Unavailable`].
    pub async fn put(&self, path: &ObjectPath, bytes: Bytes, content_type: &'static str) -> Result<(), ObjectError> {
        let key = self.own(path)?;
        let put = async |s3: &AmazonS3| {
            let mut attributes = Attributes::new();
            attributes.insert(Attribute::ContentType, content_type.into());
            let options = PutOptions { attributes, ..PutOptions::default() };
            s3.put_opts(&key, bytes.clone().into(), options).await
        };
        self.objects.call(path.bucket, put).await?;
        Ok(())
    }

    /// Deletes the object. One that is not there is as good as deleted.
    ///
    /// # Errors
    /// [`ObjectError::Unavailable`].
    pub async fn delete(&self, path: &ObjectPath) -> Result<(), ObjectError> {
        let key = self.own(path)?;
        match self.objects.call(path.bucket, async |s3| s3.delete(&key).await).await {
            Err(ObjectError::NotFound) => Ok(()),
            other => other,
        }
    }

    /// A URL to PUT the object at, for fifteen minutes. S3 cannot bound what is put at a signed URL: the reader checks the size.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn upload_url(&self, path: &ObjectPath, now: DateTime<Utc>) -> Result<SignedUrl, ObjectError> {
        self.signed(path, http::Method::PUT, UPLOAD_TTL, now).await
    }

    /// A URL to GET the object from, for an hour.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn download_url(&self, path: &ObjectPath, now: DateTime<Utc>) -> Result<SignedUrl, ObjectError> {
        self.signed(path, http::Method::GET, DOWNLOAD_TTL, now).await
    }

    async fn signed(
        &self,
        path: &ObjectPath,
        method: http::Method,
        ttl: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<SignedUrl, ObjectError> {
        let key = self.own(path)?;
        // Signing asks nobody, so a key that was rotated away is noticed only by whoever uses the URL.
        let kept = self.objects.client(path.bucket, None).await?;
        let url = kept.client.signed_url(method, &key, ttl.to_std().unwrap_or_default()).await?;
        Ok(SignedUrl { url, expires_at: now + ttl })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_another_organisation_or_out_of_its_folder_is_refused() {
        let (mine, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert!(ObjectPath::parse(mine, &format!("renders/{mine}/a/b.png")).is_ok());
        let wrong = [
            format!("renders/{other}/a/b.png"),
            format!("renders/{mine}/../{other}/b.png"),
            format!("renders/{mine}//b.png"),
            format!("secrets/{mine}/b.png"),
            format!("social-uploads/{mine}/messages/a/b.png"),
            format!("renders/{mine}/%2e%2e/b.png"),
        ];
        for path in wrong {
            assert!(ObjectPath::parse(mine, &path).is_err(), "{path}");
        }
    }
}
