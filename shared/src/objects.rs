//! The door to file storage: S3-compatible, or local files. It takes an organisation, and no path leaves it.
//!
//! S3 access keys know no row-level security, so every path is built from typed parts here and checked against the
//! organisation before use.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use object_store::{
    Attribute, Attributes, ClientOptions, ObjectStore, ObjectStoreExt, PutOptions, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    local::LocalFileSystem,
    path::Path,
    signer::Signer,
};
use sha2::Sha256;
use tokio::sync::OnceCell;
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
/// How long one call to storage may take.
const CALL: Duration = Duration::from_secs(20);

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
}

impl Bucket {
    const ALL: [Self; 2] = [Self::ProjectMedia, Self::Renders];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ProjectMedia => "project-media",
            Self::Renders => "renders",
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

    /// Reads a stored `bucket/path`.
    ///
    /// # Errors
    /// [`ObjectError::Path`] unless it is one of `org_id`'s, in a known bucket, without empty or dotted segments.
    pub fn parse(org_id: Uuid, text: &str) -> Result<Self, ObjectError> {
        let (bucket, key) = text.split_once('/').ok_or(ObjectError::Path)?;
        let bucket = Bucket::ALL.into_iter().find(|known| known.name() == bucket).ok_or(ObjectError::Path)?;
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

/// File storage; connects on first use. `STORAGE_URL` is `s3`, or `file:///…` for local files.
#[derive(Debug)]
pub struct Objects {
    env: Env,
    secrets: Arc<Secrets>,
    place: Place,
    buckets: [OnceCell<AmazonS3>; 2],
}

#[derive(Debug)]
enum Place {
    S3,
    Files { directory: PathBuf, public_url: Url },
}

impl Objects {
    /// Reads the settings; connects to nothing yet.
    ///
    /// # Errors
    /// [`ConfigError`] that names the variable.
    pub fn from_env(env: &Env, secrets: Arc<Secrets>) -> Result<Self, ConfigError> {
        let expected = "`s3`, or a directory as file:///path";
        let place = match env.required("STORAGE_URL", expected)? {
            "s3" => Place::S3,
            _ => {
                let malformed = || ConfigError::Malformed { name: "STORAGE_URL".to_owned(), expected };
                let directory = env.url("STORAGE_URL", None)?.to_file_path().map_err(|()| malformed())?;
                Place::Files { directory, public_url: env.url("STORAGE_PUBLIC_URL", None)? }
            }
        };
        Ok(Self { env: env.clone(), secrets, place, buckets: Default::default() })
    }

    /// The objects of one organisation.
    #[must_use]
    pub fn for_org(&self, org_id: Uuid) -> OrgObjects<'_> {
        OrgObjects { objects: self, org_id }
    }

    async fn s3(&self, bucket: Bucket) -> Result<&AmazonS3, ObjectError> {
        let cell = match bucket {
            Bucket::ProjectMedia => &self.buckets[0],
            Bucket::Renders => &self.buckets[1],
        };
        cell.get_or_try_init(async || {
            crate::client::install_tls_provider();
            let endpoint = self.env.required("STORAGE_S3_ENDPOINT", "the URL of an S3-compatible service")?;
            let options = ClientOptions::new().with_timeout(CALL).with_allow_http(endpoint.starts_with("http://"));
            Ok(AmazonS3Builder::new()
                .with_bucket_name(bucket.name())
                .with_endpoint(endpoint)
                .with_region(self.env.required("STORAGE_S3_REGION", "the region of the S3-compatible service")?)
                .with_access_key_id(self.secrets.get(Secret::StorageS3AccessKeyId).await?.expose())
                .with_secret_access_key(self.secrets.get(Secret::StorageS3SecretAccessKey).await?.expose())
                .with_virtual_hosted_style_request(false)
                .with_client_options(options)
                .with_retry(RetryConfig { max_retries: 2, retry_timeout: CALL, ..RetryConfig::default() })
                .build()?)
        })
        .await
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
        Ok(match &self.objects.place {
            Place::S3 => self.objects.s3(path.bucket).await?.head(&key).await?.size,
            Place::Files { directory, .. } => files(directory, path.bucket)?.head(&key).await?.size,
        })
    }

    /// The object's bytes, at most `max_bytes` of them.
    ///
    /// # Errors
    /// [`ObjectError::TooLarge`] before anything is read, if it holds more.
    pub async fn get(&self, path: &ObjectPath, max_bytes: u64) -> Result<Bytes, ObjectError> {
        let key = self.own(path)?;
        let found = match &self.objects.place {
            Place::S3 => self.objects.s3(path.bucket).await?.get(&key).await?,
            Place::Files { directory, .. } => files(directory, path.bucket)?.get(&key).await?,
        };
        if found.meta.size > max_bytes {
            return Err(ObjectError::TooLarge { bytes: found.meta.size });
        }
        Ok(found.bytes().await?)
    }

    /// Stores `bytes`, replacing what was there.
    ///
    /// # Errors
    /// [`ObjectError::Unavailable`].
    pub async fn put(&self, path: &ObjectPath, bytes: Vec<u8>, content_type: &'static str) -> Result<(), ObjectError> {
        let key = self.own(path)?;
        match &self.objects.place {
            Place::S3 => {
                let mut attributes = Attributes::new();
                attributes.insert(Attribute::ContentType, content_type.into());
                let options = PutOptions { attributes, ..PutOptions::default() };
                self.objects.s3(path.bucket).await?.put_opts(&key, bytes.into(), options).await?;
            }
            // A file has no type of its own; whoever serves it judges by content.
            Place::Files { directory, .. } => {
                files(directory, path.bucket)?.put(&key, bytes.into()).await?;
            }
        }
        Ok(())
    }

    /// A URL to PUT at most `max_bytes` of `content_type` at, for fifteen minutes. S3 cannot bound a signed PUT: the reader
    /// checks the size again.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn upload_url(
        &self,
        path: &ObjectPath,
        max_bytes: u64,
        now: DateTime<Utc>,
    ) -> Result<SignedUrl, ObjectError> {
        self.signed(path, "PUT", Some(max_bytes), UPLOAD_TTL, now).await
    }

    /// A URL to GET the object from, for an hour.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn download_url(&self, path: &ObjectPath, now: DateTime<Utc>) -> Result<SignedUrl, ObjectError> {
        self.signed(path, "GET", None, DOWNLOAD_TTL, now).await
    }

    async fn signed(
        &self,
        path: &ObjectPath,
        method: &str,
        max_bytes: Option<u64>,
        ttl: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<SignedUrl, ObjectError> {
        let key = self.own(path)?;
        let expires_at = now + ttl;
        let url = match &self.objects.place {
            Place::S3 => {
                let method = if method == "PUT" { http::Method::PUT } else { http::Method::GET };
                let ttl = ttl.to_std().unwrap_or_default();
                self.objects.s3(path.bucket).await?.signed_url(method, &key, ttl).await?
            }
            Place::Files { public_url, .. } => {
                let secret = self.objects.secrets.get(Secret::StorageSigningKey).await?;
                let signature = hex::encode(
                    mac(&secret, method, &path.to_string(), expires_at.timestamp(), max_bytes).finalize().into_bytes(),
                );
                let mut url = public_url.clone();
                url.set_path(&format!("{}/{path}", public_url.path().trim_end_matches('/')));
                let mut query = url.query_pairs_mut();
                query.append_pair("method", method).append_pair("expires", &expires_at.timestamp().to_string());
                if let Some(most) = max_bytes {
                    query.append_pair("max_bytes", &most.to_string());
                }
                query.append_pair("signature", &signature);
                drop(query);
                url
            }
        };
        Ok(SignedUrl { url, expires_at })
    }
}

fn files(directory: &std::path::Path, bucket: Bucket) -> Result<LocalFileSystem, ObjectError> {
    let directory = directory.join(bucket.name());
    std::fs::create_dir_all(&directory).map_err(|error| {
        ObjectError::Unavailable(object_store::Error::Generic { store: "local files", source: Box::new(error) })
    })?;
    Ok(LocalFileSystem::new_with_prefix(directory)?)
}

fn mac(secret: &SecretValue, method: &str, path: &str, expires: i64, max_bytes: Option<u64>) -> Hmac<Sha256> {
    let most = max_bytes.map(|most| most.to_string()).unwrap_or_default();
    // HMAC's own rule for long keys, applied to every key: a hash always fits, where a slice might not.
    let mut key = hmac::digest::Key::<Hmac<Sha256>>::default();
    let hashed = <Sha256 as sha2::Digest>::digest(secret.expose().as_bytes());
    key.iter_mut().zip(hashed).for_each(|(to, from)| *to = from);
    let mut mac = Hmac::<Sha256>::new(&key);
    mac.update(format!("{method}\n{path}\n{expires}\n{most}").as_bytes());
    mac
}

/// Why a signed URL of local storage was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignedUrlError {
    /// A part is missing or malformed.
    #[error("the URL is not a signed one")]
    Malformed,
    /// Its time is over.
    #[error("the URL has expired")]
    Expired,
    /// It was signed for something else, or with another key.
    #[error("the signature does not match")]
    Signature,
}

/// Checks a signed URL of local storage, for the gateway that serves it. Returns how many bytes may be put, if it is for that.
///
/// `path` is `bucket/path`; `query` is the URL's query as key-value pairs.
///
/// # Errors
/// [`SignedUrlError`].
pub fn verify_local(
    secret: &SecretValue,
    method: &str,
    path: &str,
    query: &[(String, String)],
    now: DateTime<Utc>,
) -> Result<Option<u64>, SignedUrlError> {
    let find = |wanted: &str| query.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let expires: i64 = find("expires").and_then(|text| text.parse().ok()).ok_or(SignedUrlError::Malformed)?;
    let max_bytes: Option<u64> =
        find("max_bytes").map(str::parse).transpose().map_err(|_| SignedUrlError::Malformed)?;
    let signature = find("signature").and_then(|text| hex::decode(text).ok()).ok_or(SignedUrlError::Malformed)?;
    if find("method") != Some(method) || !plain(path) {
        return Err(SignedUrlError::Malformed);
    }
    mac(secret, method, path, expires, max_bytes).verify_slice(&signature).map_err(|_| SignedUrlError::Signature)?;
    if now.timestamp() >= expires {
        return Err(SignedUrlError::Expired);
    }
    Ok(max_bytes)
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
            format!("renders/{mine}/%2e%2e/b.png"),
        ];
        for path in wrong {
            assert!(ObjectPath::parse(mine, &path).is_err(), "{path}");
        }
    }
}
