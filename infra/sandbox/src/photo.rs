//! A room, as a phone would photograph it: stored on its side with a note which way is up, and with the place it was taken at.

use anyhow::Result;
use image::{DynamicImage, Rgb, RgbImage, codecs::jpeg::JpegEncoder};

const WIDTH: u32 = 1600;
const HEIGHT: u32 = 1200;

/// The photo's file. Upright it is 1600 by 1200.
///
/// # Errors
/// If it cannot be encoded.
pub fn room_photo() -> Result<Vec<u8>> {
    let upright = DynamicImage::ImageRgb8(RgbImage::from_fn(WIDTH, HEIGHT, room));
    // Orientation 6 says: turn me a quarter to the right. So it is stored turned to the left.
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 88).encode_image(&upright.rotate270())?;
    let exif = exif();
    let mut photo = vec![0xff, 0xd8, 0xff, 0xe1];
    photo.extend(u16::try_from(exif.len() + 2)?.to_be_bytes());
    photo.extend(exif);
    photo.extend(&jpeg[2..]);
    Ok(photo)
}

/// A wall with a window, boards, a sofa and a lamp, each with its own light, and the grain of a sensor.
fn room(x: u32, y: u32) -> Rgb<u8> {
    let (u, v) = (f64::from(x) / f64::from(WIDTH), f64::from(y) / f64::from(HEIGHT));
    let daylight = 1.0 - (u - 0.28).hypot(v - 0.3) * 0.55;
    let mut colour = if v < 0.62 {
        // The side wall turns away from the light.
        let turned = if u > 0.82 { 0.78 } else { 1.0 };
        [218.0 * turned, 212.0 * turned, 203.0 * turned]
    } else {
        let board = ((u - 0.5) / (v - 0.35) * 9.0).floor().rem_euclid(2.0) * 10.0;
        let grain = ((v * 260.0).sin() * 4.0).abs();
        [150.0 + board - grain, 112.0 + board - grain, 78.0 + board * 0.6 - grain]
    };
    if (0.6..0.63).contains(&v) {
        colour = [236.0, 233.0, 228.0];
    }
    if (0.14..0.42).contains(&u) && (0.1..0.48).contains(&v) {
        let frame = !(0.152..0.408).contains(&u) || !(0.115..0.465).contains(&v) || (u - 0.28).abs() < 0.005;
        colour = if frame { [246.0, 245.0, 242.0] } else { [176.0 + 60.0 * v, 206.0 + 40.0 * v, 236.0] };
    }
    let seat = (0.44..0.86).contains(&u) && (0.58..0.76).contains(&v);
    let back = (0.46..0.84).contains(&u) && (0.44..0.6).contains(&v);
    let arm = ((0.42..0.46).contains(&u) || (0.84..0.88).contains(&u)) && (0.52..0.76).contains(&v);
    if seat || back || arm {
        let cushion = if seat && ((u - 0.65).abs() < 0.003 || (v - 0.66).abs() < 0.004) { 0.7 } else { 1.0 };
        let depth = if back { 0.9 } else { 1.0 };
        colour = [92.0 * cushion * depth, 100.0 * cushion * depth, 112.0 * cushion * depth];
    }
    if (u - 0.93).abs() < 0.004 && (0.3..0.8).contains(&v) {
        colour = [60.0, 56.0, 52.0];
    }
    let shade = (v - 0.18) / 0.13;
    if (0.0..1.0).contains(&shade) && (u - 0.93).abs() < 0.025 + 0.02 * shade {
        colour = [250.0, 232.0, 186.0];
    }
    let shadow = if (0.76..0.8).contains(&v) && (0.43..0.88).contains(&u) { 0.6 } else { 1.0 };
    let noise = f64::from((x.wrapping_mul(73_856_093) ^ y.wrapping_mul(19_349_663)) % 9) - 4.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte's range")]
    let byte = |channel: f64| (channel * daylight.clamp(0.45, 1.0) * shadow + noise).clamp(0.0, 255.0) as u8;
    Rgb(colour.map(byte))
}

/// Camera, orientation and position, as EXIF has them: big-endian, offsets from the TIFF header.
fn exif() -> Vec<u8> {
    const ASCII: u16 = 2;
    const SHORT: u16 = 3;
    const LONG: u16 = 4;
    const RATIONAL: u16 = 5;
    let make = b"Sandbox Optics\0";
    let entry = |tag: u16, kind: u16, count: u32, value: [u8; 4]| {
        let mut entry = tag.to_be_bytes().to_vec();
        entry.extend(kind.to_be_bytes());
        entry.extend(count.to_be_bytes());
        entry.extend(value);
        entry
    };
    // Header (8), a directory of three (2 + 36 + 4), the make, a directory of four (2 + 48 + 4), two positions.
    let make_at: u32 = 8 + 42;
    let gps_at = make_at + 16;
    let latitude_at = gps_at + 54;
    let longitude_at = latitude_at + 24;
    let mut tiff = b"MM\0\x2a\0\0\0\x08".to_vec();
    tiff.extend(3_u16.to_be_bytes());
    tiff.extend(entry(0x010f, ASCII, 15, make_at.to_be_bytes()));
    tiff.extend(entry(0x0112, SHORT, 1, [0, 6, 0, 0]));
    tiff.extend(entry(0x8825, LONG, 1, gps_at.to_be_bytes()));
    tiff.extend([0; 4]);
    tiff.extend(make);
    tiff.push(0);
    tiff.extend(4_u16.to_be_bytes());
    tiff.extend(entry(1, ASCII, 2, [b'N', 0, 0, 0]));
    tiff.extend(entry(2, RATIONAL, 3, latitude_at.to_be_bytes()));
    tiff.extend(entry(3, ASCII, 2, [b'E', 0, 0, 0]));
    tiff.extend(entry(4, RATIONAL, 3, longitude_at.to_be_bytes()));
    tiff.extend([0; 4]);
    for (numerator, denominator) in [(59_u32, 1_u32), (19, 1), (4550, 100), (18, 1), (4, 1), (730, 100)] {
        tiff.extend(numerator.to_be_bytes());
        tiff.extend(denominator.to_be_bytes());
    }
    [b"Exif\0\0".as_slice(), &tiff].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_photo_is_stored_on_its_side_with_a_position() {
        let photo = room_photo().unwrap();
        let stored = image::load_from_memory(&photo).unwrap();
        assert_eq!((stored.width(), stored.height()), (HEIGHT, WIDTH));
        let exif = exif::Reader::new().read_from_container(&mut std::io::Cursor::new(&photo)).unwrap();
        let field = |tag| exif.get_field(tag, exif::In::PRIMARY).map(|field| field.display_value().to_string());
        assert!(field(exif::Tag::GPSLatitude).unwrap().starts_with("59 deg 19 min"));
        assert!(field(exif::Tag::Orientation).unwrap().contains("row 0 at right"));
    }
}
