//! Files that an action names: read from storage, to learn what they are.

use sha2::{Digest, Sha256};
use shared::{
    http::ApiError,
    objects::{ObjectError, ObjectPath, Objects},
    store::{access::Member, agent_actions::StoredFile},
};

use crate::request::AssetRef;

/// The most that one file may hold, in bytes: as much as an upload.
pub(crate) const MAX_BYTES: u64 = 20 * 1024 * 1024;

/// Reads each file, one after the other, since together they may be larger than the function's memory.
///
/// A file of another organisation, one that is not there and a path that is none are answered alike.
pub(crate) async fn read(objects: &Objects, member: Member, wanted: &[AssetRef]) -> Result<Vec<StoredFile>, ApiError> {
    let mut files = Vec::with_capacity(wanted.len());
    for (place, asset) in wanted.iter().enumerate() {
        let missing = || {
            ApiError::unprocessable(
                "asset_not_uploaded",
                format!(
                    "There is no file of your organisation at assets[{place}]: PUT it to the URL from POST /v1/uploads first."
                ),
            )
        };
        let path = match asset {
            AssetRef::Upload(id) => ObjectPath::upload(member.org_id, member.actor_id, *id),
            AssetRef::Path(path) => ObjectPath::parse(member.org_id, path).map_err(|_| missing())?,
        };
        let bytes = objects.for_org(member.org_id).get(&path, MAX_BYTES).await.map_err(|error| match error {
            ObjectError::NotFound | ObjectError::Path => missing(),
            ObjectError::TooLarge { .. } => ApiError::unprocessable(
                "asset_too_large",
                format!("The file at assets[{place}] holds more than {MAX_BYTES} bytes."),
            ),
            other => {
                ApiError::unavailable("storage_unavailable", "File storage does not answer; try again shortly.", 5)
                    .because(other)
            }
        })?;
        if bytes.is_empty() {
            return Err(ApiError::unprocessable("asset_empty", format!("The file at assets[{place}] is empty.")));
        }
        files.push(StoredFile {
            bucket: path.bucket(),
            path: path.key().to_owned(),
            mime: mime(&bytes),
            bytes: bytes.len(),
            sha256: hex::encode(Sha256::digest(&bytes)),
        });
    }
    Ok(files)
}

/// The type that the bytes have; the uploader's name for it does not count.
fn mime(bytes: &[u8]) -> &'static str {
    match bytes {
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        [b'%', b'P', b'D', b'F', ..] => "application/pdf",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::mime;

    #[test]
    fn a_file_is_what_its_bytes_are() {
        for (bytes, wanted) in [
            (&b"\xff\xd8\xff\xe0"[..], "image/jpeg"),
            (b"\x89PNG\r\n", "image/png"),
            (b"RIFF0000WEBPVP8 ", "image/webp"),
            (b"RIFF0000WAVEfmt ", "application/octet-stream"),
            (b"%PDF-1.7", "application/pdf"),
            (b"<script>", "application/octet-stream"),
            (b"", "application/octet-stream"),
        ] {
            assert_eq!(mime(bytes), wanted, "{bytes:?}");
        }
    }
}
