//! Colours as a screen shows them: what a file says of its own is turned into sRGB, and not sent along.

use image::{DynamicImage, RgbImage, RgbaImage};
use moxcms::{Chromaticity, ColorPrimaries, ColorProfile, DataColorSpace, Layout, ToneReprCurve, TransformOptions};

use crate::container::{png_chunks, segments};

/// The profile that a JPEG carries, put together from its segments. `None` if a part is missing.
pub(crate) fn jpeg_profile(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut parts = Vec::new();
    for segment in segments(bytes) {
        if let (0xe2, Some([number, count, data @ ..])) =
            (segment.marker, segment.payload.strip_prefix(b"ICC_PROFILE\0"))
        {
            parts.push((*number, *count, data));
        }
    }
    parts.sort_by_key(|(number, ..)| *number);
    let whole = (1..=u8::MAX)
        .zip(&parts)
        .all(|(wanted, (number, count, _))| *number == wanted && usize::from(*count) == parts.len());
    (whole && !parts.is_empty()).then(|| parts.iter().flat_map(|(_, _, data)| data.iter().copied()).collect())
}

/// The picture in sRGB. `None` if the profile is none for red, green and blue, or unreadable: then the colours are taken as they stand.
pub(crate) fn by_profile(picture: &DynamicImage, profile: &[u8]) -> Option<DynamicImage> {
    let profile = ColorProfile::new_from_slice(profile).ok().filter(|read| read.color_space == DataColorSpace::Rgb)?;
    picture.color().has_color().then(|| convert(picture, &profile))?
}

/// The picture in sRGB by what a PNG says of its gamma and its primaries (`gAMA`, `cHRM`). `None` if it says nothing, or nothing else.
pub(crate) fn by_gamma(picture: &DynamicImage, png: &[u8]) -> Option<DynamicImage> {
    convert(picture, &gamma_profile(png)?)
}

fn gamma_profile(png: &[u8]) -> Option<ColorProfile> {
    let (mut gamma, mut primaries) = (None, None);
    // They stand before the picture's data.
    for chunk in png_chunks(png).take_while(|chunk| chunk.kind != *b"IDAT") {
        match &chunk.kind {
            b"sRGB" | b"iCCP" | b"cICP" => return None,
            b"gAMA" => gamma = hundred_thousandths(chunk.data).first().copied(),
            b"cHRM" => primaries = <[f32; 8]>::try_from(hundred_thousandths(chunk.data)).ok(),
            _ => {}
        }
    }
    // What is written for sRGB itself.
    let gamma = gamma.filter(|gamma| (0.05..=5.0).contains(gamma) && (gamma - 0.454_55).abs() > 0.003);
    let primaries = primaries.filter(|named| {
        let srgb = [0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06];
        named.iter().all(|value| (0.0..=1.0).contains(value))
            && named.iter().skip(1).step_by(2).all(|y| *y > 0.001)
            && named.iter().zip(srgb).any(|(value, usual)| (value - usual).abs() > 0.002)
    });
    if gamma.is_none() && primaries.is_none() {
        return None;
    }
    let mut profile = ColorProfile::new_srgb();
    profile.cicp = None;
    if let Some(gamma) = gamma {
        let curve = ToneReprCurve::Parametric(vec![gamma.recip()]);
        profile.red_trc = Some(curve.clone());
        profile.green_trc = Some(curve.clone());
        profile.blue_trc = Some(curve);
    }
    if let Some([white_x, white_y, red_x, red_y, green_x, green_y, blue_x, blue_y]) = primaries {
        let primaries = ColorPrimaries {
            red: Chromaticity::new(red_x, red_y),
            green: Chromaticity::new(green_x, green_y),
            blue: Chromaticity::new(blue_x, blue_y),
        };
        profile.update_rgb_colorimetry(Chromaticity::new(white_x, white_y).to_xyyb(), primaries);
    }
    Some(profile)
}

#[expect(clippy::cast_precision_loss, reason = "five digits")]
fn hundred_thousandths(data: &[u8]) -> Vec<f32> {
    data.chunks_exact(4)
        .map(|four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]) as f32 / 100_000.0)
        .collect()
}

fn convert(picture: &DynamicImage, profile: &ColorProfile) -> Option<DynamicImage> {
    let source = picture.to_rgba8();
    let srgb = ColorProfile::new_srgb();
    let transform =
        profile.create_transform_8bit(Layout::Rgba, &srgb, Layout::Rgba, TransformOptions::default()).ok()?;
    let mut converted = vec![0; source.len()];
    transform.transform(&source, &mut converted).ok()?;
    let converted = DynamicImage::ImageRgba8(RgbaImage::from_raw(source.width(), source.height(), converted)?);
    Some(if picture.color().has_alpha() { converted } else { DynamicImage::ImageRgb8(converted.to_rgb8()) })
}

/// What inks look like: by their profile, or as if each took away its own light alone. `left` is what is left of white under each of cyan,
/// magenta, yellow and black, pixel by pixel.
pub(crate) fn of_inks(mut left: Vec<u8>, width: u32, height: u32, profile: Option<&[u8]>) -> Option<RgbImage> {
    let mut pixels = vec![0; left.len() / 4 * 3];
    let profile = profile.and_then(|profile| ColorProfile::new_from_slice(profile).ok());
    let transform = profile.filter(|read| read.color_space == DataColorSpace::Cmyk).and_then(|profile| {
        let srgb = ColorProfile::new_srgb();
        profile.create_transform_8bit(Layout::Rgba, &srgb, Layout::Rgb, TransformOptions::default()).ok()
    });
    if let Some(transform) = transform {
        // Profiles count ink.
        left.iter_mut().for_each(|ink| *ink = 255 - *ink);
        transform.transform(&left, &mut pixels).ok()?;
    } else {
        for (pixel, inks) in pixels.chunks_exact_mut(3).zip(left.chunks_exact(4)) {
            for (channel, ink) in pixel.iter_mut().zip(inks) {
                *channel = u8::try_from(u32::from(*ink) * u32::from(inks[3]) / 255).unwrap_or(255);
            }
        }
    }
    RgbImage::from_raw(width, height, pixels)
}
