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
        for (x, y, expected) in [(500, 400, [220, 20, 20]), (1500, 400, [20, 220, 20]), (500, 1100, [20, 20, 220])] {
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
        for text in ["c2pa", "made by x", "MM\0\u{2a}"] {
            assert!(!marked.bytes.windows(text.len()).any(|part| part == text.as_bytes()), "{format:?} {text}");
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
