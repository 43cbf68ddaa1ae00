//! What the first bytes of a photo tell: what it is, how large, and so whether it can be used, before it is fetched whole.

use image::ImageFormat;

use crate::{
    container::{next_marker, segments},
    jpeg::{Frame, JpegError},
};

/// The most a photo may hold, in bytes.
pub const MAX_BYTES: usize = 50 * 1024 * 1024;
/// The most pixels a picture may have: what decoding costs is theirs, not the file's size. Phones have sensors of up to 64 million.
pub(crate) const MAX_PIXELS: u64 = 65_000_000;
pub(crate) const MIN_SIDE: u32 = 64;

/// Why a photo cannot be used; each says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PhotoError {
    /// Nothing in it.
    #[error("The photo is empty; upload it again.")]
    Empty,
    /// Too many bytes.
    #[error("The photo holds more than 50 MiB; export it smaller.")]
    TooLarge,
    /// No picture that is known here.
    #[error("The content of the file is no JPEG, PNG or WebP picture.")]
    NotAPicture,
    /// A picture, of a kind that is not taken.
    #[error("The photo is {0}, which is not accepted; export it as an ordinary JPEG.")]
    Kind(&'static str),
    /// Too many pixels.
    #[error("The photo has {0} megapixels; export it with at most 65.")]
    TooManyPixels(u64),
    /// Too few.
    #[error("The photo is {0} by {1} pixels; both sides need at least 64.")]
    TooSmall(u32, u32),
    /// It ends early or is damaged.
    #[error("The photo is damaged or was cut off; upload it again.")]
    Damaged,
}

impl PhotoError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "photo_empty",
            Self::TooLarge => "photo_too_large",
            Self::NotAPicture => "photo_not_a_picture",
            Self::Kind(_) => "photo_type_unsupported",
            Self::TooManyPixels(_) => "photo_too_many_pixels",
            Self::TooSmall(..) => "photo_too_small",
            Self::Damaged => "photo_damaged",
        }
    }
}

impl From<JpegError> for PhotoError {
    fn from(error: JpegError) -> Self {
        match error {
            JpegError::Damaged => Self::Damaged,
            JpegError::Unsupported(what) => Self::Kind(what),
        }
    }
}

/// What a photo says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) format: ImageFormat,
    /// Pixels, as stored.
    pub(crate) width: u32,
    /// Pixels, as stored.
    pub(crate) height: u32,
}

impl Header {
    /// Reads a photo's header from its first bytes. `None` if it is longer than they are.
    ///
    /// # Errors
    /// [`PhotoError`] if the photo cannot be used, by its first bytes alone.
    pub(crate) fn read(start: &[u8]) -> Result<Option<Self>, PhotoError> {
        let format = kind(start)?;
        let size = match format {
            ImageFormat::Jpeg => jpeg_size(start)?,
            ImageFormat::Png => png_size(start)?,
            _ => webp_size(start)?,
        };
        let Some((width, height)) = size else { return Ok(None) };
        let pixels = u64::from(width) * u64::from(height);
        if pixels > MAX_PIXELS {
            return Err(PhotoError::TooManyPixels(pixels / 1_000_000));
        }
        if width.min(height) < MIN_SIDE {
            return Err(PhotoError::TooSmall(width, height));
        }
        Ok(Some(Self { format, width, height }))
    }
}

/// What the first bytes say it is.
pub(crate) fn kind(bytes: &[u8]) -> Result<ImageFormat, PhotoError> {
    match bytes {
        [] => Err(PhotoError::Empty),
        [0xff, 0xd8, 0xff, ..] => Ok(ImageFormat::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(ImageFormat::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(ImageFormat::WebP),
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', ..] => Err(PhotoError::Kind("AVIF")),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Err(PhotoError::Kind("HEIC")),
        [b'G', b'I', b'F', b'8', ..] => Err(PhotoError::Kind("a GIF")),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Err(PhotoError::Kind("a TIFF or camera raw file")),
        [b'B', b'M', ..] => Err(PhotoError::Kind("a BMP")),
        _ => Err(PhotoError::NotAPicture),
    }
}

fn jpeg_size(start: &[u8]) -> Result<Option<(u32, u32)>, PhotoError> {
    for segment in segments(start) {
        if let Some(frame) = Frame::read(segment.marker, segment.payload)? {
            return Ok(Some((frame.width, frame.height)));
        }
        // Its data before its size: no decoder reads that.
        if segment.marker == 0xda {
            return Err(PhotoError::Damaged);
        }
    }
    // A picture that ends before it has a size.
    let ends = next_marker(start, 2).is_some_and(|(marker, _)| marker == 0xd9);
    if ends { Err(PhotoError::Damaged) } else { Ok(None) }
}

fn png_size(start: &[u8]) -> Result<Option<(u32, u32)>, PhotoError> {
    let Some(header) = start.get(12..24) else { return Ok(None) };
    let [b'I', b'H', b'D', b'R', w1, w2, w3, w4, h1, h2, h3, h4] = *header else { return Err(PhotoError::Damaged) };
    Ok(Some((u32::from_be_bytes([w1, w2, w3, w4]), u32::from_be_bytes([h1, h2, h3, h4]))))
}

fn webp_size(start: &[u8]) -> Result<Option<(u32, u32)>, PhotoError> {
    let Some(header) = start.get(12..30) else { return Ok(None) };
    let data = &header[8..];
    let side = |low: u8, middle: u8, high: u8| 1 + u32::from_le_bytes([low, middle, high, 0]);
    match &header[..4] {
        b"VP8X" => Ok(Some((side(data[4], data[5], data[6]), side(data[7], data[8], data[9])))),
        b"VP8 " if data[3..6] == [0x9d, 0x01, 0x2a] => {
            let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            Ok(Some((side(data[6], data[7]), side(data[8], data[9]))))
        }
        b"VP8L" if data[0] == 0x2f => {
            let bits = u32::from_le_bytes([data[1], data[2], data[3], data[4]]);
            Ok(Some((1 + (bits & 0x3fff), 1 + (bits >> 14 & 0x3fff))))
        }
        _ => Err(PhotoError::Damaged),
    }
}
