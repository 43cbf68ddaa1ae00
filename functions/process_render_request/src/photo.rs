//! Photos as people send them, and pictures as models return them: judged by content, bounded before they are decoded, and
//! rid of what they tell about whoever took them. Pure: bytes in, bytes out.

use std::io::Cursor;

use bytes::Bytes;
use image::{
    DynamicImage, GenericImageView, ImageDecoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage, Rgba, RgbaImage,
    codecs::jpeg::JpegEncoder, imageops::FilterType,
};
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};
use sha2::{Digest, Sha256};

/// The most a photo may hold, in bytes.
pub const MAX_BYTES: usize = 20 * 1024 * 1024;
/// The most pixels a picture may have: what decoding costs is theirs, not the file's size.
const MAX_PIXELS: u64 = 40_000_000;
const MIN_SIDE: u32 = 64;
/// The longest side of what is sent to a model.
const SENT_SIDE: u32 = 2048;
const SENT_QUALITY: u8 = 90;
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

/// Why a photo cannot be used; each says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PhotoError {
    /// Nothing in it.
    #[error("The photo is empty; upload it again.")]
    Empty,
    /// Too many bytes.
    #[error("The photo holds more than 20 MB; export it smaller.")]
    TooLarge,
    /// No picture that is known here.
    #[error("The file is no JPEG, PNG or WebP picture, whatever its name says.")]
    NotAPicture,
    /// A picture, of a kind that is not taken.
    #[error("The photo is {0}, which is not accepted; export it as JPEG.")]
    Kind(&'static str),
    /// Too many pixels.
    #[error("The photo has {0} megapixels; export it with at most 40.")]
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
}

impl Photo {
    /// Checks an uploaded file and makes it fit to be sent.
    ///
    /// # Errors
    /// [`PhotoError`], for whatever bytes.
    pub fn check(bytes: &[u8]) -> Result<Self, PhotoError> {
        let upright = decode(bytes)?;
        let (width, height) = upright.dimensions();
        if width.min(height) < MIN_SIDE {
            return Err(PhotoError::TooSmall(width, height));
        }
        let sent = if width.max(height) > SENT_SIDE {
            upright.resize(SENT_SIDE, SENT_SIDE, FilterType::Triangle)
        } else {
            upright
        };
        // Encoding anew is what removes position, camera and thumbnail: nothing is carried over but pixels.
        let mut encoded = Vec::new();
        JpegEncoder::new_with_quality(&mut encoded, SENT_QUALITY)
            .encode_image(&on_white(&sent))
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
        })
    }
}

/// Eight bits of red, green and blue; what shines through shows white, since JPEG knows no transparency.
fn on_white(picture: &DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.to_rgb8();
    }
    let source = picture.to_rgba8();
    RgbImage::from_fn(source.width(), source.height(), |x, y| {
        let Rgba([red, green, blue, alpha]) = *source.get_pixel(x, y);
        let over = |channel: u8| {
            let blended = u32::from(channel) * u32::from(alpha) + 255 * (255 - u32::from(alpha));
            u8::try_from(blended / 255).unwrap_or(255)
        };
        Rgb([over(red), over(green), over(blue)])
    })
}

/// [`Photo::check`], for which a decoder that panics has met a damaged photo: it is no reason to try again.
///
/// # Errors
/// [`PhotoError`].
pub fn check(bytes: &[u8]) -> Result<Photo, PhotoError> {
    std::panic::catch_unwind(|| Photo::check(bytes)).unwrap_or(Err(PhotoError::Damaged))
}

/// Decodes within bounds, and turns it the way it was held.
fn decode(bytes: &[u8]) -> Result<DynamicImage, PhotoError> {
    if bytes.is_empty() {
        return Err(PhotoError::Empty);
    }
    if bytes.len() > MAX_BYTES {
        return Err(PhotoError::TooLarge);
    }
    let format = kind(bytes)?;
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(512 * 1024 * 1024);
    reader.limits(limits);
    if format == ImageFormat::Jpeg {
        check_jpeg(bytes)?;
    }
    let mut decoder = reader.into_decoder().map_err(|_| PhotoError::Damaged)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MAX_PIXELS {
        return Err(PhotoError::TooManyPixels(pixels / 1_000_000));
    }
    // A photo whose orientation cannot be read is taken as it is stored.
    let orientation = decoder.orientation().ok();
    let profile = decoder.icc_profile().ok().flatten();
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|_| PhotoError::Damaged)?;
    if let Some(orientation) = orientation {
        picture.apply_orientation(orientation);
    }
    Ok(match profile.and_then(|profile| in_srgb(&picture, &profile)) {
        Some(converted) => converted,
        None => picture,
    })
}

/// The picture in sRGB: the profile that says otherwise is not sent along. `None` if the profile is none for RGB, or unreadable:
/// then the colours are taken as they stand.
fn in_srgb(picture: &DynamicImage, profile: &[u8]) -> Option<DynamicImage> {
    if !picture.color().has_color() {
        return None;
    }
    let profile = ColorProfile::new_from_slice(profile).ok().filter(|read| read.color_space == DataColorSpace::Rgb)?;
    let source = picture.to_rgba8();
    let srgb = ColorProfile::new_srgb();
    let transform =
        profile.create_transform_8bit(Layout::Rgba, &srgb, Layout::Rgba, TransformOptions::default()).ok()?;
    let mut converted = vec![0; source.len()];
    transform.transform(&source, &mut converted).ok()?;
    let converted = DynamicImage::ImageRgba8(RgbaImage::from_raw(source.width(), source.height(), converted)?);
    Some(if picture.color().has_alpha() { converted } else { DynamicImage::ImageRgb8(converted.to_rgb8()) })
}

/// Follows a JPEG to its end marker, segments by their lengths and scans up to the marker that ends each: decoders fill up what is
/// missing with grey, and guess at colours that nobody told them.
fn check_jpeg(bytes: &[u8]) -> Result<(), PhotoError> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    let (mut inks, mut adobe) = (false, false);
    loop {
        let [0xff, marker, after @ ..] = rest else { return Err(PhotoError::Damaged) };
        rest = match marker {
            0xd9 if inks && !adobe => {
                return Err(PhotoError::Kind("a CMYK file that does not say how its inks are stored"));
            }
            0xd9 => return Ok(()),
            // Any number of fill bytes may come before a marker.
            0xff => &rest[1..],
            0x01 | 0xd0..=0xd7 => after,
            _ => {
                let [high, low, segment @ ..] = after else { return Err(PhotoError::Damaged) };
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                match marker {
                    0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => {
                        if segment.first() != Some(&8) {
                            return Err(PhotoError::Kind("a JPEG of more than eight bits a colour"));
                        }
                        inks = segment.get(5) == Some(&4);
                    }
                    0xee => adobe |= segment.starts_with(b"Adobe"),
                    _ => {}
                }
                let behind = after.get(length.max(2)..).ok_or(PhotoError::Damaged)?;
                if *marker == 0xda { behind_scan(behind) } else { behind }
            }
        };
    }
}

/// What follows the coded data of a scan, in which 0xff is followed by zero or a restart marker.
fn behind_scan(data: &[u8]) -> &[u8] {
    let end = data.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd7));
    end.and_then(|end| data.get(end..)).unwrap_or_default()
}

/// What the first bytes say it is.
fn kind(bytes: &[u8]) -> Result<ImageFormat, PhotoError> {
    match bytes {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedRender {
    /// `image/png` or `image/jpeg`, by content.
    pub mime: &'static str,
    /// `png` or `jpg`.
    pub extension: &'static str,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// Checks that what came back is a whole picture, of the documented shape nearest to a photo of `width` by `height`.
///
/// # Errors
/// [`RenderError`].
pub fn check_render(bytes: &[u8], width: u32, height: u32) -> Result<CheckedRender, RenderError> {
    let (mime, extension) = match kind(bytes) {
        Ok(ImageFormat::Png) => ("image/png", "png"),
        Ok(ImageFormat::Jpeg) => ("image/jpeg", "jpg"),
        _ => return Err(RenderError::NotAPicture),
    };
    let picture = decode(bytes).map_err(|_| RenderError::NotAPicture)?;
    let (made_width, made_height) = picture.dimensions();
    let made = f64::from(made_width) / f64::from(made_height.max(1));
    let name = nearest_aspect_ratio(width, height);
    let asked = ASPECT_RATIOS.iter().find(|(other, _)| *other == name).map_or(1.0, |(_, ratio)| *ratio);
    let photo = f64::from(width) / f64::from(height.max(1));
    // The shape asked for, or the photo's own: models keep either.
    if made_width.min(made_height) < MIN_SIDE
        || (made / asked).ln().abs().min((made / photo).ln().abs()) > SHAPE_TOLERANCE
    {
        return Err(RenderError::Shape(made_width, made_height));
    }
    Ok(CheckedRender { mime, extension, width: made_width, height: made_height })
}

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub(crate) fn is_png(bytes: &Bytes) -> bool {
    kind(bytes) == Ok(ImageFormat::Png)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mark::{DIGITAL_SOURCE_TYPE, mark_ai_generated, read_mark};

    /// A picture whose corners tell which way is up: red is top left.
    fn corners(width: u32, height: u32) -> DynamicImage {
        DynamicImage::ImageRgb8(RgbImage::from_fn(width, height, |x, y| match (x < width / 2, y < height / 2) {
            (true, true) => Rgb([220, 20, 20]),
            (false, true) => Rgb([20, 220, 20]),
            (true, false) => Rgb([20, 20, 220]),
            (false, false) => Rgb([220, 220, 220]),
        }))
    }

    fn encode(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// As a camera stores it: with an EXIF block that says how it was held.
    fn jpeg_with_orientation(picture: &DynamicImage, orientation: u8) -> Vec<u8> {
        let plain = encode(picture, ImageFormat::Jpeg);
        let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
        let mut bytes = vec![0xff, 0xd8, 0xff, 0xe1];
        bytes.extend(u16::try_from(exif.len() + 2).unwrap().to_be_bytes());
        bytes.extend(exif);
        bytes.extend(&plain[2..]);
        bytes
    }

    #[test]
    fn every_orientation_comes_out_upright() {
        use image::metadata::Orientation;
        for orientation in 1..=8_u8 {
            // Stored so that applying the orientation gives the corners back.
            let mut stored = corners(160, 120);
            let inverse = match Orientation::from_exif(orientation).unwrap() {
                Orientation::Rotate90 => Orientation::Rotate270,
                Orientation::Rotate270 => Orientation::Rotate90,
                own_inverse => own_inverse,
            };
            stored.apply_orientation(inverse);
            let photo = Photo::check(&jpeg_with_orientation(&stored, orientation)).unwrap();
            let upright = image::load_from_memory(&photo.bytes).unwrap().to_rgb8();
            assert_eq!((photo.width, photo.height), (160, 120), "orientation {orientation}");
            let Rgb([red, green, blue]) = *upright.get_pixel(20, 20);
            assert!(red > 150 && green < 100 && blue < 100, "orientation {orientation}: {red} {green} {blue}");
        }
    }

    #[test]
    fn nothing_but_pixels_is_carried_over() {
        let photo = Photo::check(&jpeg_with_orientation(&corners(160, 120), 6)).unwrap();
        assert!(!photo.bytes.windows(4).any(|four| four == b"Exif"));
    }

    #[test]
    fn what_is_no_photo_is_told_what_to_change() {
        let check = |bytes: &[u8], code: &str| assert_eq!(Photo::check(bytes).unwrap_err().code(), code);
        check(b"", "photo_empty");
        check(b"this is text named photo.jpg", "photo_not_a_picture");
        check(b"\0\0\0\x18ftypheic\0\0\0\0", "photo_type_unsupported");
        check(b"GIF89a", "photo_type_unsupported");
        check(&vec![0xff; MAX_BYTES + 1], "photo_too_large");
        check(&encode(&corners(32, 400), ImageFormat::Png), "photo_too_small");
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_decoded() {
        // A PNG header that claims 60,000 by 60,000 pixels.
        let mut bytes = encode(&corners(64, 64), ImageFormat::Png);
        bytes[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
        bytes[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
        let code = Photo::check(&bytes).unwrap_err().code();
        assert!(matches!(code, "photo_too_many_pixels" | "photo_damaged"), "{code}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(cut in 0_usize..4000, place in 0_usize..4000, byte in any::<u8>(), kind in 0..3) {
            let format = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP][usize::try_from(kind).unwrap()];
            let mut bytes = encode(&corners(80, 64), format);
            bytes.truncate(cut.max(16).min(bytes.len()));
            let place = place % bytes.len();
            bytes[place] = byte;
            let _ = Photo::check(&bytes);
            let _ = check_render(&bytes, 80, 64);
        }
    }

    #[test]
    fn a_render_must_have_the_photos_shape() {
        let png = encode(&corners(128, 96), ImageFormat::Png);
        assert_eq!(check_render(&png, 1600, 1200).unwrap().extension, "png");
        assert_eq!(check_render(&png, 1200, 1600), Err(RenderError::Shape(128, 96)));
        assert_eq!(check_render(&png[..png.len() / 2], 1600, 1200), Err(RenderError::NotAPicture));
    }

    #[test]
    fn a_marked_picture_says_so_and_is_still_the_picture() {
        for format in [ImageFormat::Jpeg, ImageFormat::Png] {
            let bytes = encode(&corners(128, 96), format);
            assert_eq!(read_mark(&bytes), None);
            let marked = mark_ai_generated(&bytes).unwrap();
            assert_eq!(read_mark(&marked).as_deref(), Some(DIGITAL_SOURCE_TYPE));
            let twice = mark_ai_generated(&marked).unwrap();
            assert_eq!(twice.len(), marked.len());
            assert_eq!(image::load_from_memory(&marked).unwrap(), image::load_from_memory(&bytes).unwrap());
        }
    }
}
