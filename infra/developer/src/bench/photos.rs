//! The largest photo that is accepted of each format: what the worker holds at most while it makes one fit to be sent, and how much longer
//! its render takes than that of an ordinary photo.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use developer::release;
use image::{DynamicImage, ImageBuffer, ImageEncoder, ImageFormat, Rgba, RgbaImage, codecs::png};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use local::home::Home;
use process_render_request::photo::MAX_BYTES;
use serde_json::Value;

use super::{Bench, Budget, Results, admitted, median, milliseconds, upload_of};
use crate::{platform, report};

/// The side of a square of 65 megapixels, the most that is accepted.
const SIDE: u32 = 8062;
/// What the worker is given, in MB of 10^6 bytes: 1,024 MiB.
const MEMORY: f64 = 1073.0;
const TIMES: usize = 3;

/// The photos, made when they are needed.
type Make = fn() -> Result<Vec<u8>>;
const PHOTOS: [(&str, Make); 6] = [
    ("JPEG, baseline, 4:2:0", || jpeg(false, SamplingFactor::F_2_2)),
    ("JPEG, progressive, 4:4:4", || jpeg(true, SamplingFactor::F_1_1)),
    ("PNG, 8 bits", png_eight),
    ("PNG, 16 bits and transparent", png_sixteen),
    ("WebP, lossless", webp_lossless),
    ("WebP, lossy", webp_lossy),
];

/// Shades with a little grain, as a camera has them.
fn pixel(x: u32, y: u32) -> [u8; 3] {
    let grain = x.wrapping_mul(73_856_093) ^ y.wrapping_mul(19_349_663);
    let byte = |value: u32| u8::try_from(value % 256).unwrap_or_default();
    [byte(x / 32 + grain % 3), byte(y / 32), byte((x + y) / 64)]
}

fn jpeg(progressive: bool, sampling: SamplingFactor) -> Result<Vec<u8>> {
    let mut pixels = Vec::with_capacity(3 * (SIDE as usize).pow(2));
    (0..SIDE).for_each(|y| (0..SIDE).for_each(|x| pixels.extend(pixel(x, y))));
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 90);
    encoder.set_progressive(progressive);
    encoder.set_sampling_factor(sampling);
    let side = u16::try_from(SIDE)?;
    encoder.encode(&pixels, side, side, ColorType::Rgb)?;
    Ok(bytes)
}

fn png_of(pixels: &[u8], color: image::ExtendedColorType) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    png::PngEncoder::new_with_quality(&mut bytes, png::CompressionType::Fast, png::FilterType::Up)
        .write_image(pixels, SIDE, SIDE, color)?;
    Ok(bytes)
}

fn png_eight() -> Result<Vec<u8>> {
    let mut pixels = Vec::with_capacity(3 * (SIDE as usize).pow(2));
    (0..SIDE).for_each(|y| (0..SIDE).for_each(|x| pixels.extend([x / 32, y / 32, 90].map(|value| value as u8))));
    png_of(&pixels, image::ExtendedColorType::Rgb8)
}

fn png_sixteen() -> Result<Vec<u8>> {
    let picture: ImageBuffer<Rgba<u16>, Vec<u16>> =
        ImageBuffer::from_fn(SIDE, SIDE, |x, y| Rgba([x, y * 8, 9_000, 60_000].map(|value| value as u16)));
    let mut bytes = std::io::Cursor::new(Vec::new());
    DynamicImage::ImageRgba16(picture).write_to(&mut bytes, ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

fn webp_lossless() -> Result<Vec<u8>> {
    let picture = RgbaImage::from_fn(SIDE, SIDE, |x, y| {
        let [red, green, blue] = [x / 32, y / 32, 90].map(|value| value as u8);
        Rgba([red, green, blue, 200])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    DynamicImage::ImageRgba8(picture).write_to(&mut bytes, ImageFormat::WebP)?;
    Ok(bytes.into_inner())
}

/// No kept crate in Rust writes it: a file that was made once.
fn webp_lossy() -> Result<Vec<u8>> {
    let path = local::home::root().join("tests/fixtures/photos/large.webp");
    std::fs::read(&path).with_context(|| path.display().to_string())
}

pub(super) async fn measure_alone(home: &Home, results: &mut Results) -> Result<()> {
    let built = home.root.join(release::HERE);
    report::line("building the function as it is deployed");
    release::bootstraps(&home.root, release::Arch::HOST, ["process_render_request"], &built, false)?;
    let databases = platform::Databases::start(home, None, platform::Given::default()).await?;
    Bench::prepare(home, &databases, &built).await?.photos(results).await
}

impl Bench<'_> {
    pub(super) async fn photos(&self, results: &mut Results) -> Result<()> {
        let ordinary = self.photo(&sandbox::photo::room_photo()?).await?;
        results.measure("a render of an ordinary photo", ordinary.0, "ms", Budget::None);
        results.measure("peak memory, an ordinary photo", ordinary.1, "MB", Budget::None);
        for (name, make) in PHOTOS {
            report::line(&format!("making the largest photo: {name}"));
            let photo = make()?;
            ensure!(photo.len() <= MAX_BYTES, "{name}: {} bytes are more than is accepted", photo.len());
            let (took, peak) = self.photo(&photo).await?;
            let (bytes, more) = (photo.len() as f64 / 1e6, took - ordinary.0);
            results.measure(&format!("{name}: 65 megapixels in"), bytes, "MB", Budget::None);
            results.measure(&format!("{name}: longer than an ordinary one"), more, "ms", Budget::None);
            results.measure(&format!("{name}: peak memory"), peak, "MB", Budget::AtMost(MEMORY));
        }
        Ok(())
    }

    /// How long a render of this photo takes, median, in ms, and how much memory its worker holds at most, in MB.
    async fn photo(&self, photo: &[u8]) -> Result<(f64, f64)> {
        let stack = self.stack(false, &[]).await?;
        let token = Self::token(&stack)?;
        let upload = upload_of(&stack, &token, photo).await?;
        let worker = stack.function("ProcessRenderRequestWorker").context("no worker")?;
        let (mut times, mut peak) = (Vec::new(), 0);
        for _ in 0..TIMES {
            stack.renders.pause();
            let render = admitted(&stack, &token, &upload).await?;
            let begun = Instant::now();
            stack.renders.resume();
            stack.renders.drained().await;
            times.push(milliseconds(begun));
            peak = peak.max(worker.peak_memory().context("the worker's memory is not known")?);
            let id = render["id"].as_str().context("no render")?;
            let status: String =
                sqlx::query_scalar("select status::text from public.render_requests where id = $1::uuid")
                    .bind(id)
                    .fetch_one(&mut self.admin().await?)
                    .await?;
            ensure!(status == "completed", "the render is {status}: {}", Value::from(id));
            // A cached result would be made without a model, and the next must read the photo as the first did.
            sqlx::raw_sql("delete from public.ai_cache").execute(&mut self.admin().await?).await?;
        }
        Ok((median(times), peak as f64 / 1e6))
    }
}
