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
    container::{Chunk, MAX_PROFILE, exif_orientation, png_chunks, segments, webp_chunks},
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
    let bomb = |chunk: &Chunk<'_>| chunk.kind == *b"iCCP" && chunk.data.len() > MAX_PROFILE;
    if format != ImageFormat::Png || !png_chunks(bytes).any(|chunk| bomb(&chunk)) {
        return bytes.into();
    }
    let mut kept = bytes.to_vec();
    let bombs: Vec<_> = png_chunks(bytes).filter(bomb).map(|chunk| chunk.whole).collect();
    for whole in bombs.into_iter().rev() {
        kept.drain(whole.start..whole.end.min(bytes.len()));
    }
    kept.into()
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
            let Rgba([red, green, blue, alpha]) = picture.get_pixel(x, y);
            for (sum, channel) in sum.iter_mut().zip([red, green, blue]) {
                *sum += (u32::from(channel) * u32::from(alpha) + 255 * (255 - u32::from(alpha))) / 255;
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        header,
        mark::{DIGITAL_SOURCE_TYPE, has_credentials, mark_ai_generated, read_mark},
    };

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
        assert_eq!(Photo::check(&bytes).unwrap_err(), PhotoError::TooManyPixels(3600));
    }

    #[test]
    fn the_first_bytes_are_enough_to_refuse_a_photo() {
        let jpeg = jpeg_with_orientation(&corners(160, 120), 6);
        assert_eq!(Header::read(&jpeg[..30]), Ok(None));
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
            let bytes = encode(&corners(160, 120), format);
            let header = Header { format, width: 160, height: 120 };
            assert_eq!(Header::read(&bytes[..bytes.len() * 4 / 5]), Ok(Some(header)));
            assert_eq!(Header::read(&bytes[..13]), Ok(None), "{format:?}");
        }
        assert_eq!(Header::read(&encode(&corners(160, 63), ImageFormat::WebP)), Err(PhotoError::TooSmall(160, 63)));
    }

    #[test]
    fn a_large_picture_is_sent_smaller_and_shows_the_same() {
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
            let photo = Photo::check(&encode(&corners(4400, 3300), format)).unwrap();
            assert_eq!((photo.width, photo.height), (2048, 1536));
            let sent = image::load_from_memory(&photo.bytes).unwrap().to_rgb8();
            for (x, y, expected) in [(500, 400, [220, 20, 20]), (1500, 400, [20, 220, 20]), (500, 1100, [20, 20, 220])]
            {
                let Rgb(pixel) = *sent.get_pixel(x, y);
                assert!(
                    pixel.into_iter().zip(expected).all(|(is, wanted): (u8, u8)| is.abs_diff(wanted) < 10),
                    "{pixel:?}"
                );
            }
        }
    }

    /// EXIF that says nothing but the orientation, as an entry of this type.
    fn exif(orientation: u8, kind: u16, big: bool) -> Vec<u8> {
        let two = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let four = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
        let mut bytes = if big { b"MM\0\x2a".to_vec() } else { b"II\x2a\0".to_vec() };
        bytes.extend(four(8));
        bytes.extend(two(1));
        bytes.extend(two(0x0112));
        bytes.extend(two(kind));
        bytes.extend(four(1));
        let mut value = match kind {
            1 | 6 => vec![orientation],
            3 | 8 => two(orientation.into()).to_vec(),
            _ => four(orientation.into()).to_vec(),
        };
        value.resize(4, 0);
        bytes.extend(value);
        bytes.extend(four(0));
        bytes
    }

    /// The file with this EXIF block, where its format has it.
    fn with_exif(bytes: &[u8], exif: &[u8]) -> Vec<u8> {
        match header::kind(bytes).unwrap() {
            ImageFormat::Jpeg => {
                let block = [b"Exif\0\0", exif].concat();
                let length = u16::try_from(block.len() + 2).unwrap().to_be_bytes();
                [&bytes[..2], &[0xff, 0xe1], &length, &block, &bytes[2..]].concat()
            }
            ImageFormat::Png => {
                let chunk = [b"eXIf", exif].concat();
                let length = u32::try_from(exif.len()).unwrap().to_be_bytes();
                [&bytes[..33], &length, &chunk, &crc32fast::hash(&chunk).to_be_bytes(), &bytes[33..]].concat()
            }
            _ => {
                let even = [exif, &vec![0; exif.len() % 2]].concat();
                let length = u32::try_from(exif.len()).unwrap().to_le_bytes();
                // Upright is 160 by 120; stored it is the other way round.
                let head = [b"VP8X\x0a\0\0\0\x08\0\0\0".as_slice(), &[119, 0, 0, 159, 0, 0]].concat();
                let body = [b"WEBP", head.as_slice(), &bytes[12..], b"EXIF", &length, &even].concat();
                [b"RIFF", u32::try_from(body.len()).unwrap().to_le_bytes().as_slice(), &body].concat()
            }
        }
    }

    const FORMATS: [ImageFormat; 3] = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP];

    #[test]
    fn orientation_is_read_from_every_integer_in_every_format() {
        let stored = corners(160, 120).rotate270();
        for format in FORMATS {
            for (kind, big) in [1, 3, 4, 6, 8, 9].into_iter().flat_map(|kind| [(kind, true), (kind, false)]) {
                for prefix in [b"".as_slice(), b"Exif\0\0"] {
                    // In JPEG the prefix is always there.
                    if format == ImageFormat::Jpeg && !prefix.is_empty() {
                        continue;
                    }
                    let bytes = with_exif(&encode(&stored, format), &[prefix, &exif(6, kind, big)].concat());
                    let photo = Photo::check(&bytes).unwrap();
                    assert_eq!((photo.width, photo.height), (160, 120), "{format:?} {kind} {big} {prefix:?}");
                    let upright = image::load_from_memory(&photo.bytes).unwrap().to_rgb8();
                    let Rgb([red, green, blue]) = *upright.get_pixel(20, 20);
                    assert!(red > 150 && green < 100 && blue < 100, "{format:?} {kind} {big}");
                }
            }
        }
    }

    #[test]
    fn a_render_is_stored_upright_and_without_what_it_said_of_itself() {
        let stored = corners(160, 120).rotate270();
        for format in FORMATS {
            let bytes = with_exif(&encode(&stored, format), &exif(6, 3, true));
            let checked = check_render(&bytes, 1600, 1200).unwrap();
            assert_eq!((checked.mime, checked.width, checked.height), ("image/png", 160, 120), "{format:?}");
            let marked = mark_ai_generated(&checked.upright.unwrap()).unwrap().bytes;
            assert_eq!(read_mark(&marked).as_deref(), Some(DIGITAL_SOURCE_TYPE));
            let shown = image::load_from_memory(&marked).unwrap().to_rgb8();
            assert_eq!(shown.dimensions(), (160, 120));
            let Rgb([red, green, blue]) = *shown.get_pixel(20, 20);
            assert!(red > 150 && green < 100 && blue < 100, "{format:?}");
            // One that is upright is left as it is, in its format.
            let checked = check_render(&encode(&corners(160, 120), format), 1600, 1200).unwrap();
            assert_eq!((checked.mime, checked.upright), (format.to_mime_type(), None));
        }
    }

    /// The file with Content Credentials, a comment and EXIF, as a model's picture may come.
    fn with_credentials(bytes: &[u8]) -> Vec<u8> {
        let jumbf = b"JP\0\x01\0\0\0\x01\0\0\0\x2ajumb\0\0\0\x1ejumdc2pa manifest";
        let bytes = with_exif(bytes, &exif(1, 3, true));
        match header::kind(&bytes).unwrap() {
            ImageFormat::Jpeg => {
                let length = u16::try_from(jumbf.len() + 2).unwrap().to_be_bytes();
                let comment = b"\xff\xfe\0\x0bmade by x";
                [&bytes[..2], &[0xff, 0xeb], &length, jumbf, comment, &bytes[2..]].concat()
            }
            ImageFormat::Png => {
                let mut file = bytes[..33].to_vec();
                for chunk in [[b"caBX", jumbf.as_slice()].concat(), b"tEXtComment\0made by x".to_vec()] {
                    file.extend(u32::try_from(chunk.len() - 4).unwrap().to_be_bytes());
                    file.extend(&chunk);
                    file.extend(crc32fast::hash(&chunk).to_be_bytes());
                }
                [file.as_slice(), &bytes[33..]].concat()
            }
            _ => {
                let length = u32::try_from(jumbf.len()).unwrap().to_le_bytes();
                let body = [&bytes[8..], b"C2PA", &length, jumbf, &vec![0; jumbf.len() % 2]].concat();
                [b"RIFF", u32::try_from(body.len()).unwrap().to_le_bytes().as_slice(), &body].concat()
            }
        }
    }

    #[test]
    fn content_credentials_are_taken_out_and_that_is_said() {
        for format in FORMATS {
            let plain = encode(&corners(120, 160), format);
            assert!(!mark_ai_generated(&plain).unwrap().credentials_removed);
            let bytes = with_credentials(&plain);
            assert!(has_credentials(&bytes) && !has_credentials(&plain));
            let marked = mark_ai_generated(&bytes).unwrap();
            assert!(marked.credentials_removed, "{format:?}");
            assert!(!has_credentials(&marked.bytes), "{format:?}");
            for told in ["c2pa", "made by x", "MM\0\u{2a}"] {
                assert!(!marked.bytes.windows(told.len()).any(|part| part == told.as_bytes()), "{format:?} {told}");
            }
            assert_eq!(read_mark(&marked.bytes).as_deref(), Some(DIGITAL_SOURCE_TYPE));
            assert_eq!(image::load_from_memory(&marked.bytes).unwrap(), image::load_from_memory(&plain).unwrap());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(cut in 0_usize..4000, place in 0_usize..4000, byte in any::<u8>(), kind in 0..3) {
            let format = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP][usize::try_from(kind).unwrap()];
            let mut bytes = encode(&corners(80, 64), format);
            bytes.truncate(cut.max(16).min(bytes.len()));
            let place = place % bytes.len();
            bytes[place] = byte;
            let _ = check(&bytes);
            let _ = check_render(&bytes, 80, 64);
            let _ = mark_ai_generated(&bytes);
            let _ = read_mark(&bytes);
        }

        #[test]
        fn no_exif_makes_it_panic(exif in prop::collection::vec(any::<u8>(), 0..60), big in any::<bool>(), raw in any::<bool>()) {
            let head = if big { b"MM\0\x2a" } else { b"II\x2a\0" };
            let bytes = if raw { exif } else { [head.as_slice(), &exif].concat() };
            prop_assert!(exif_orientation(&bytes).is_none_or(|orientation| (1..=8).contains(&orientation)));
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
        for format in FORMATS {
            let bytes = encode(&corners(128, 96), format);
            assert_eq!(read_mark(&bytes), None);
            let marked = mark_ai_generated(&bytes).unwrap().bytes;
            assert_eq!(read_mark(&marked).as_deref(), Some(DIGITAL_SOURCE_TYPE));
            assert_eq!(mark_ai_generated(&marked).unwrap().bytes, marked);
            assert_eq!(image::load_from_memory(&marked).unwrap(), image::load_from_memory(&bytes).unwrap());
        }
    }
}
