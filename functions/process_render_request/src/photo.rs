//! Photos as people send them, and pictures as models return them: judged by content, bounded before they are decoded, and
//! rid of what they tell about the person who took them. Pure: bytes in, bytes out.

use std::{borrow::Cow, io::Cursor};

use image::{
    DynamicImage, GenericImageView, GrayImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage, Rgba,
    codecs::jpeg::JpegEncoder, imageops::FilterType, metadata::Orientation,
};
use sha2::{Digest, Sha256};

use crate::{
    colour,
    container::{Chunk, exif_orientation, png_chunks, segments, webp_chunks},
    header::{Header, MIN_SIDE},
    jpeg,
};
pub use crate::{
    geometry::Outline,
    header::{MAX_BYTES, PhotoError},
};

/// The longest side of what is sent to a model.
const SENT_SIDE: u32 = 2048;
const SENT_QUALITY: u8 = 90;
/// The least that is decoded of a render to compare it with its photo.
const COMPARED_SIDE: u32 = 512;
/// The most that a decoder of PNG or WebP may take, in bytes: eight for each pixel.
const MAX_DECODED: u64 = 640 * 1024 * 1024;
/// How far a render's shape may be from the photo's: providers offer a fixed set of shapes.
const SHAPE_TOLERANCE: f64 = 0.12;
/// Shapes that every image model documents.
const ASPECT_RATIOS: [(&str, f64); 8] = [
    ("1:1", 1.0),
    ("2:3", 2.0 / 3.0),
    ("3:2", 1.5),
    ("3:4", 0.75),
    ("4:3", 4.0 / 3.0),
    ("9:16", 9.0 / 16.0),
    ("16:9", 16.0 / 9.0),
    ("21:9", 21.0 / 9.0),
];

/// A photo fit to be sent to a model: upright, 8-bit RGB, as JPEG, with no word of camera or place.
#[derive(Debug, Clone)]
pub struct Photo {
    /// The file.
    pub bytes: Vec<u8>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// SHA-256 of what was uploaded.
    pub sha256: [u8; 32],
    /// The documented shape nearest to it, as in `4:3`.
    pub aspect_ratio: &'static str,
    /// What its render is compared with.
    pub outline: Outline,
}

impl Photo {
    /// Checks an uploaded file and makes it fit to be sent.
    ///
    /// # Errors
    /// [`PhotoError`], for whatever bytes.
    pub fn check(bytes: &[u8]) -> Result<Self, PhotoError> {
        let (_, upright) = decode(bytes, SENT_SIDE)?;
        let sent = if upright.width().max(upright.height()) > SENT_SIDE {
            upright.resize(SENT_SIDE, SENT_SIDE, FilterType::Triangle)
        } else {
            upright
        };
        // Encoding anew is what removes position, camera and thumbnail: nothing is carried over but pixels.
        let sent = on_white(&sent);
        let mut encoded = Vec::new();
        JpegEncoder::new_with_quality(&mut encoded, SENT_QUALITY)
            .encode_image(&sent)
            .map_err(|_| PhotoError::Damaged)?;
        let (width, height) = sent.dimensions();
        // A very long strip is one only until it is made smaller.
        if width.min(height) < MIN_SIDE {
            return Err(PhotoError::TooSmall(width, height));
        }
        Ok(Self {
            bytes: encoded,
            width,
            height,
            sha256: sha256(bytes),
            aspect_ratio: nearest_aspect_ratio(width, height),
            outline: Outline::of(&DynamicImage::ImageRgb8(sent)),
        })
    }
}

/// Eight bits of red, green and blue; what shines through shows white, since JPEG knows no transparency.
fn on_white(picture: &DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.to_rgb8();
    }
    let source = picture.to_rgba8();
    RgbImage::from_fn(source.width(), source.height(), |x, y| Rgb(over_white(*source.get_pixel(x, y))))
}

fn over_white(Rgba([red, green, blue, alpha]): Rgba<u8>) -> [u8; 3] {
    [red, green, blue].map(|channel| {
        let blended = u32::from(channel) * u32::from(alpha) + 255 * (255 - u32::from(alpha));
        u8::try_from(blended / 255).unwrap_or(255)
    })
}

/// [`Photo::check`], for which a decoder that panics has met a damaged photo: it is no reason to try again.
///
/// # Errors
/// [`PhotoError`].
pub fn check(bytes: &[u8]) -> Result<Photo, PhotoError> {
    std::panic::catch_unwind(|| Photo::check(bytes)).unwrap_or(Err(PhotoError::Damaged))
}

/// The pixels of a file, upright and in sRGB, with the header that says how many it has. Larger ones may come smaller, with a longer side
/// of `at_least` pixels or more.
fn decode(bytes: &[u8], at_least: u32) -> Result<(Header, DynamicImage), PhotoError> {
    if bytes.len() > MAX_BYTES {
        return Err(PhotoError::TooLarge);
    }
    let mut header = Header::read(bytes)?.ok_or(PhotoError::Damaged)?;
    let mut picture = match header.format {
        ImageFormat::Jpeg => decode_jpeg(bytes, at_least)?,
        other => decode_by_library(bytes, other, at_least)?,
    };
    let orientation = orientation(bytes, header.format);
    picture.apply_orientation(orientation);
    if matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    ) {
        (header.width, header.height) = (header.height, header.width);
    }
    Ok((header, picture))
}

/// How a picture is to be turned. One that does not say so, or nonsense, is taken as it is stored.
fn orientation(bytes: &[u8], format: ImageFormat) -> Orientation {
    let exif = match format {
        ImageFormat::Jpeg => segments(bytes)
            .take_while(|segment| segment.marker != 0xda)
            .filter(|segment| segment.marker == 0xe1)
            .filter_map(|segment| segment.payload.strip_prefix(b"Exif\0\0"))
            .find_map(exif_orientation),
        ImageFormat::Png => {
            png_chunks(bytes).find(|chunk| chunk.kind == *b"eXIf").and_then(|chunk| exif_orientation(chunk.data))
        }
        _ => webp_chunks(bytes).find(|chunk| chunk.kind == *b"EXIF").and_then(|chunk| exif_orientation(chunk.data)),
    };
    exif.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms)
}

fn decode_jpeg(bytes: &[u8], at_least: u32) -> Result<DynamicImage, PhotoError> {
    let jpeg::Decoded { width, height, channels, pixels } = jpeg::decode(bytes, at_least)?;
    let profile = colour::jpeg_profile(bytes);
    let picture = match channels {
        1 => GrayImage::from_raw(width, height, pixels).map(DynamicImage::ImageLuma8),
        3 => RgbImage::from_raw(width, height, pixels).map(DynamicImage::ImageRgb8),
        _ => {
            return colour::of_inks(pixels, width, height, profile.as_deref())
                .map(DynamicImage::ImageRgb8)
                .ok_or(PhotoError::Damaged);
        }
    };
    let picture = picture.ok_or(PhotoError::Damaged)?;
    let converted = profile.and_then(|profile| colour::by_profile(&picture, &profile));
    Ok(converted.unwrap_or(picture))
}

/// PNG and WebP, which are decoded whole, and made smaller before anything else is done with them.
fn decode_by_library(bytes: &[u8], format: ImageFormat, at_least: u32) -> Result<DynamicImage, PhotoError> {
    let bytes = without_bomb(bytes, format);
    let mut reader = ImageReader::with_format(Cursor::new(bytes.as_ref()), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|_| PhotoError::Damaged)?;
    // What a WebP claims of its profile, its decoder believes and makes room for.
    let profile = match format {
        ImageFormat::WebP => webp_chunks(&bytes).find(|chunk| chunk.kind == *b"ICCP").map(|chunk| chunk.data.to_vec()),
        _ => decoder.icc_profile().ok().flatten(),
    };
    let picture = DynamicImage::from_decoder(decoder).map_err(|_| PhotoError::Damaged)?;
    let picture = shrunk(picture, at_least);
    let converted = match profile {
        Some(profile) => colour::by_profile(&picture, &profile),
        None if format == ImageFormat::Png => colour::by_gamma(&picture, &bytes),
        None => None,
    };
    Ok(converted.unwrap_or(picture))
}

/// A PNG without a profile that is larger than profiles are: its decoder inflates it as far as memory goes. Colours are then taken as they
/// stand.
fn without_bomb(bytes: &[u8], format: ImageFormat) -> Cow<'_, [u8]> {
    if format != ImageFormat::Png {
        return bytes.into();
    }
    let bombs: Vec<_> = png_chunks(bytes).filter(Chunk::is_profile_bomb).map(|chunk| chunk.whole).collect();
    let mut kept = Cow::from(bytes);
    for whole in bombs.into_iter().rev() {
        kept.to_mut().drain(whole.start..whole.end.min(bytes.len()));
    }
    kept
}

/// The mean of each square of pixels, as large as leaves the longer side `at_least` pixels; in eight bits, on white.
fn shrunk(picture: DynamicImage, at_least: u32) -> DynamicImage {
    let square = picture.width().max(picture.height()) / at_least.max(1);
    if square < 2 {
        return picture;
    }
    let small = RgbImage::from_fn(picture.width() / square, picture.height() / square, |x, y| {
        let mut sum = [0_u32; 3];
        for (x, y) in (0..square).flat_map(|down| (0..square).map(move |right| (x * square + right, y * square + down)))
        {
            for (sum, channel) in sum.iter_mut().zip(over_white(picture.get_pixel(x, y))) {
                *sum += u32::from(channel);
            }
        }
        Rgb(sum.map(|sum| u8::try_from(sum / (square * square)).unwrap_or(255)))
    });
    DynamicImage::ImageRgb8(small)
}

/// The documented shape nearest to this one, by ratio rather than difference: 2:1 is as far from 1:1 as 1:2.
#[must_use]
pub fn nearest_aspect_ratio(width: u32, height: u32) -> &'static str {
    let shape = f64::from(width) / f64::from(height.max(1));
    let distance = |ratio: f64| (shape / ratio).ln().abs();
    ASPECT_RATIOS.iter().min_by(|(_, a), (_, b)| distance(*a).total_cmp(&distance(*b))).map_or("1:1", |(name, _)| name)
}

/// Why a model's picture cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// It is no picture, or a damaged one.
    #[error("The model returned something that is no picture.")]
    NotAPicture,
    /// It has another shape than what was asked for.
    #[error("The model returned a picture of {0} by {1} pixels, which is not the photo's shape.")]
    Shape(u32, u32),
}

impl RenderError {
    /// Stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAPicture => "render_not_a_picture",
            Self::Shape(..) => "render_wrong_shape",
        }
    }
}

/// A model's picture that is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedRender {
    /// `image/png`, `image/jpeg` or `image/webp`, by content.
    pub mime: &'static str,
    /// `png`, `jpg` or `webp`.
    pub extension: &'static str,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// The picture as a PNG that is stored upright, if EXIF said that it is not.
    pub upright: Option<Vec<u8>>,
    /// What is compared with the photo.
    pub outline: Outline,
}

/// Checks that what came back is a whole picture, of the documented shape nearest to a photo of `width` by `height`. All is said of the
/// picture as it is shown: upright.
///
/// # Errors
/// [`RenderError`].
pub fn check_render(bytes: &[u8], width: u32, height: u32) -> Result<CheckedRender, RenderError> {
    std::panic::catch_unwind(|| look_at_render(bytes, width, height)).unwrap_or(Err(RenderError::NotAPicture))
}

fn look_at_render(bytes: &[u8], width: u32, height: u32) -> Result<CheckedRender, RenderError> {
    let header = Header::read(bytes).ok().flatten().ok_or(RenderError::NotAPicture)?;
    let turned = orientation(bytes, header.format) != Orientation::NoTransforms;
    let at_least = if turned { u32::MAX } else { COMPARED_SIDE };
    let (header, picture) = decode(bytes, at_least).map_err(|_| RenderError::NotAPicture)?;
    let made = f64::from(header.width) / f64::from(header.height.max(1));
    let name = nearest_aspect_ratio(width, height);
    let asked = ASPECT_RATIOS.iter().find(|(other, _)| *other == name).map_or(1.0, |(_, ratio)| *ratio);
    let photo = f64::from(width) / f64::from(height.max(1));
    // The shape asked for, or the photo's own: models keep either.
    if (made / asked).ln().abs().min((made / photo).ln().abs()) > SHAPE_TOLERANCE {
        return Err(RenderError::Shape(header.width, header.height));
    }
    let mut upright = None;
    if turned {
        let mut png = Cursor::new(Vec::new());
        picture.write_to(&mut png, ImageFormat::Png).map_err(|_| RenderError::NotAPicture)?;
        upright = Some(png.into_inner());
    }
    let (mime, extension) = match header.format {
        ImageFormat::Png => ("image/png", "png"),
        _ if turned => ("image/png", "png"),
        ImageFormat::Jpeg => ("image/jpeg", "jpg"),
        _ => ("image/webp", "webp"),
    };
    let outline = Outline::of(&picture);
    Ok(CheckedRender { mime, extension, width: header.width, height: header.height, upright, outline })
}

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests;
