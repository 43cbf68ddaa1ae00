//! Photos as they really come: which are accepted, how they are treated, and with which code the others are refused. The table of that in
//! docs/FEATURES.md is written by these tests. What each file of the fixtures is, tests/fixtures/photos/README.md says.

use std::{fmt::Write as _, path::Path};

use image::{DynamicImage, GenericImageView, ImageFormat, Rgb, RgbImage, Rgba};
use integration_tests::{
    TestApp, errors,
    people::{DORA, LAKESIDE},
    render_body,
};
use jpeg_encoder::{ColorType, Encoder};
use process_render_request::photo::{MAX_BYTES, Photo};
use rand::{RngExt, SeedableRng, rngs::StdRng};

pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/photos");
    std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What a photo shows at the middle of its quarters.
pub(crate) type Quarters = [[u8; 3]; 4];

pub(crate) const COLOURS: Quarters = [[220, 20, 20], [20, 220, 20], [20, 20, 220], [220, 220, 220]];
const GREYS: Quarters = [[80; 3], [137; 3], [43; 3], [220; 3]];

/// A file, and what it is.
type File = (String, Vec<u8>);

/// What becomes of a photo.
enum Becomes {
    /// It is rendered. It shows these colours, each within so many.
    Rendered { treated: &'static str, shows: Quarters, within: u8 },
    /// It is refused, with this in the explanation.
    Refused { code: &'static str, says: &'static str },
}

/// A row of the table: photos that are treated alike.
struct Kind {
    is: &'static str,
    files: Vec<File>,
    becomes: Becomes,
}

fn files(names: &[&str]) -> Vec<File> {
    names.iter().map(|name| ((*name).to_owned(), fixture(name))).collect()
}

fn file(name: &str, bytes: Vec<u8>) -> File {
    (name.to_owned(), bytes)
}

/// The quarters, as an array of pixels.
pub(crate) fn quarters(width: u32, height: u32, shows: Quarters) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb(shows[usize::from(x >= width / 2) + 2 * usize::from(y >= height / 2)]))
}

pub(crate) fn encode(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A JPEG of the quarters, whose data end where the file ends but for the end marker.
fn jpeg(progressive: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 92);
    encoder.set_progressive(progressive);
    encoder.encode(quarters(160, 120, COLOURS).as_raw(), 160, 120, ColorType::Rgb).unwrap();
    assert_eq!(bytes[bytes.len() - 2..], [0xff, 0xd9]);
    bytes
}

fn without_end(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - 2);
    bytes
}

/// A chunk of a PNG right behind its header.
pub(crate) fn with_chunk(png: &[u8], kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let chunk = [kind.as_slice(), data].concat();
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    let sum = crc32fast::hash(&chunk).to_be_bytes();
    [&png[..33], &length, &chunk, &sum, &png[33..]].concat()
}

fn hundred_thousandths(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| ((value * 100_000.0).round() as u32).to_be_bytes()).collect()
}

/// The sRGB curve, and back.
fn linear(value: u8) -> f64 {
    let value = f64::from(value) / 255.0;
    if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
}

fn byte(value: f64) -> u8 {
    (value.clamp(0.0, 1.0) * 255.0).round() as u8
}

/// A PNG whose numbers are proportional to light (`gAMA` 1): without it, its colours would be far too dark.
fn linear_png() -> Vec<u8> {
    let stored = COLOURS.map(|colour| colour.map(|channel| byte(linear(channel))));
    with_chunk(&encode(quarters(160, 120, stored), ImageFormat::Png), *b"gAMA", &hundred_thousandths(&[1.0]))
}

/// A PNG in the primaries of Display P3 (`cHRM`).
fn wide_png() -> Vec<u8> {
    const TO_P3: [[f64; 3]; 3] =
        [[0.822_462, 0.177_538, 0.0], [0.033_194, 0.966_806, 0.0], [0.017_083, 0.072_397, 0.910_520]];
    let encoded = |light: f64| if light <= 0.003_130_8 { light * 12.92 } else { 1.055 * light.powf(1.0 / 2.4) - 0.055 };
    let stored = COLOURS.map(|colour| {
        let light = colour.map(linear);
        TO_P3.map(|row| byte(encoded(row.iter().zip(light).map(|(share, light)| share * light).sum())))
    });
    // Without the primaries, red is seen to be another.
    assert!(stored[0][1] > 40, "{stored:?}");
    let primaries = [0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06];
    let png =
        with_chunk(&encode(quarters(160, 120, stored), ImageFormat::Png), *b"cHRM", &hundred_thousandths(&primaries));
    with_chunk(&png, *b"gAMA", &hundred_thousandths(&[0.454_55]))
}

/// A profile of inks (ICC, a table in Lab) in which full cyan is a bright orange, and all other inks are black.
fn strange_inks() -> Vec<u8> {
    let mut table = b"mft1\0\0\0\0\x04\x03\x02\0".to_vec();
    for value in [1, 0, 0, 0, 1, 0, 0, 0, 1_i32] {
        table.extend((value << 16).to_be_bytes());
    }
    (0..4).for_each(|_| table.extend(0..=u8::MAX));
    for corner in 0..16 {
        table.extend(match corner {
            0 => [255, 128, 128],
            0b1000 => [166, 173, 188],
            _ => [0, 128, 128],
        });
    }
    (0..3).for_each(|_| table.extend(0..=u8::MAX));
    let start = 128 + 4 + 12;
    let mut profile = u32::try_from(start + table.len()).unwrap().to_be_bytes().to_vec();
    profile.extend(b"\0\0\0\0\x02\x40\0\0prtrCMYKLab ");
    profile.extend([7, 232, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
    profile.extend(b"acsp");
    profile.resize(68, 0);
    // The light under which it is seen: D50.
    for value in [0xf6d6_u32, 0x1_0000, 0xd32d] {
        profile.extend(value.to_be_bytes());
    }
    profile.resize(128, 0);
    profile.extend(1_u32.to_be_bytes());
    profile.extend(b"A2B0");
    profile.extend(u32::try_from(start).unwrap().to_be_bytes());
    profile.extend(u32::try_from(table.len()).unwrap().to_be_bytes());
    profile.extend(table);
    profile
}

/// Full cyan, all of it; with this profile, or none.
fn cyan(profile: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 95);
    if let Some(profile) = profile {
        encoder.add_icc_profile(profile).unwrap();
    }
    let inks = [255, 0, 0, 0].repeat(160 * 120);
    encoder.encode(&inks, 160, 120, ColorType::Cmyk).unwrap();
    bytes
}

/// EXIF with nothing but an orientation, as an entry of this type, in this order of bytes.
pub(crate) fn exif(orientation: u8, kind: u16, big: bool) -> Vec<u8> {
    let two = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
    let four = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut value = match kind {
        1 | 6 => vec![orientation],
        3 | 8 => two(orientation.into()).to_vec(),
        _ => four(orientation.into()).to_vec(),
    };
    value.resize(4, 0);
    let head = if big { b"MM\0\x2a" } else { b"II\x2a\0" };
    [head.as_slice(), &four(8), &two(1), &two(0x0112), &two(kind), &four(1), &value, &four(0)].concat()
}

/// A photo of a camera held upright, whose sensor is wide: stored on its side, in each format, with each way to say so.
fn on_their_sides() -> Vec<File> {
    let stored = DynamicImage::ImageRgb8(quarters(160, 120, COLOURS)).rotate270();
    let mut all: Vec<File> =
        (1..=8).map(|value| format!("orientation-{value}.jpg")).map(|name| (name.clone(), fixture(&name))).collect();
    for (kind, big) in [1, 3, 4, 6, 8, 9].into_iter().flat_map(|kind| [(kind, true), (kind, false)]) {
        let exif = exif(6, kind, big);
        let named =
            |format: &str| format!("{format} with an orientation of type {kind}, {}", if big { "MM" } else { "II" });
        let block = [b"Exif\0\0", exif.as_slice()].concat();
        let jpeg = encode(stored.clone(), ImageFormat::Jpeg);
        let length = u16::try_from(block.len() + 2).unwrap().to_be_bytes();
        all.push((named("JPEG"), [&jpeg[..2], &[0xff, 0xe1], &length, &block, &jpeg[2..]].concat()));
        all.push((named("PNG"), with_chunk(&encode(stored.clone(), ImageFormat::Png), *b"eXIf", &exif)));
        let webp = encode(stored.clone(), ImageFormat::WebP);
        for (how, exif) in [("", &exif), (" behind a prefix", &block)] {
            let length = u32::try_from(exif.len()).unwrap().to_le_bytes();
            // It has EXIF, and is 120 by 160.
            let head = b"VP8X\x0a\0\0\0\x08\0\0\0\x77\0\0\x9f\0\0";
            let body = [b"WEBP", head.as_slice(), &webp[12..], b"EXIF", &length, exif].concat();
            let length = u32::try_from(body.len()).unwrap().to_le_bytes();
            all.push((named("WebP") + how, [b"RIFF", length.as_slice(), &body].concat()));
        }
    }
    all
}

/// A JPEG that says it is coded in another way: its frame header has another marker, or another number of bits.
fn coded(marker: u8, bits: u8) -> Vec<u8> {
    let mut bytes = jpeg(false);
    let place = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    (bytes[place + 1], bytes[place + 4]) = (marker, bits);
    bytes
}

fn renamed(name: &str, fixture_name: &str) -> File {
    (format!("{fixture_name} as {name}"), fixture(fixture_name))
}

fn kinds() -> Vec<Kind> {
    let rendered = |treated, shows, within| Becomes::Rendered { treated, shows, within };
    let refused = |code, says| Becomes::Refused { code, says };
    let (baseline, progressive) = (jpeg(false), jpeg(true));
    let trailer = b"SEFH\x6a\0\0\0SEFT".repeat(100);
    let cut = |bytes: &[u8], of_ten: usize| bytes[..bytes.len() * of_ten / 10].to_vec();
    vec![
        Kind {
            is: "JPEG, baseline or progressive, at any sampling; PNG, of 8 or 16 bits, interlaced too; WebP, lossy or not",
            files: files(&["rgb.jpg", "progressive.jpg", "rgb16.png", "interlaced.png", "lossless.webp", "lossy.webp"]),
            becomes: rendered("as it is", COLOURS, 12),
        },
        Kind { is: "Shades of grey", files: files(&["grey.jpg", "grey16.png"]), becomes: rendered("grey", GREYS, 6) },
        Kind {
            is: "A JPEG without an end marker, all of whose picture is there",
            files: vec![
                file("baseline", without_end(baseline.clone())),
                file("progressive", without_end(progressive.clone())),
                file("half a marker", baseline[..baseline.len() - 1].to_vec()),
            ],
            becomes: rendered("as if it had one", COLOURS, 12),
        },
        Kind {
            is: "A JPEG with something behind its end: a vendor's trailer, a second picture, a zip",
            files: vec![
                file("a zip", fixture("trailing.jpg")),
                file("a trailer", [baseline.as_slice(), &trailer].concat()),
                file(
                    "a picture",
                    [progressive.as_slice(), &encode(quarters(64, 64, GREYS), ImageFormat::Jpeg)].concat(),
                ),
                file("zeros", [baseline.as_slice(), &[0; 5000]].concat()),
            ],
            becomes: rendered("what is behind the end is dropped", COLOURS, 12),
        },
        Kind {
            is: "On its side or mirrored, by an EXIF orientation of any integer type and order of bytes, in JPEG, PNG and WebP",
            files: on_their_sides(),
            becomes: rendered("turned upright", COLOURS, 12),
        },
        Kind {
            is: "With a colour profile, or a PNG with `gAMA` and `cHRM`",
            files: [
                files(&["display-p3.jpg"]),
                vec![file("a PNG in linear light", linear_png()), file("a PNG in wide primaries", wide_png())],
            ]
            .concat(),
            becomes: rendered("turned into sRGB", COLOURS, 14),
        },
        Kind {
            is: "A JPEG in inks (CMYK, YCCK) with a profile",
            files: vec![file("orange cyan", cyan(Some(&strange_inks())))],
            // Lab 65, 45, 60 under D50, in sRGB.
            becomes: rendered("turned into sRGB by the profile", [[244, 121, 48]; 4], 6),
        },
        Kind {
            is: "A JPEG in inks without one",
            files: files(&["cmyk-adobe.jpg", "ycck-adobe.jpg"]),
            becomes: rendered("each ink takes away its own light", COLOURS, 30),
        },
        Kind {
            is: "Partly transparent",
            files: files(&["palette-transparent.png"]),
            becomes: rendered("laid on white", [COLOURS[0], COLOURS[1], COLOURS[2], [255; 3]], 12),
        },
        Kind {
            is: "Animated",
            files: files(&["animated.webp", "animated.png"]),
            becomes: rendered("its first picture", COLOURS, 12),
        },
        Kind {
            is: "With position, owner or serial number in its metadata",
            files: files(&["gps.jpg"]),
            becomes: rendered("nothing but the pixels is sent to a model", COLOURS, 12),
        },
        Kind {
            is: "More than 2,048 pixels on a side, up to 65 megapixels and 50 MiB",
            files: files(&["large.jpg"]),
            becomes: rendered("made smaller, to 2,048 on the longer side", [[128; 3]; 4], 1),
        },
        Kind {
            is: "Nothing in it",
            files: vec![file("nothing", Vec::new())],
            becomes: refused("photo_empty", "upload it again"),
        },
        Kind {
            is: "No picture, or one drawn by a program (SVG)",
            files: files(&["text.jpg", "script.svg"]),
            becomes: refused("photo_not_a_picture", "no JPEG, PNG or WebP picture"),
        },
        Kind {
            is: "HEIC or AVIF, under any name",
            files: vec![renamed("photo.jpg", "photo.heic"), renamed("photo.png", "photo.avif")],
            becomes: refused("photo_type_unsupported", "export it as an ordinary JPEG"),
        },
        Kind {
            is: "GIF, TIFF, camera raw or BMP",
            files: files(&["photo.gif", "photo.tiff", "photo.bmp"]),
            becomes: refused("photo_type_unsupported", "export it as an ordinary JPEG"),
        },
        Kind {
            is: "A JPEG of 12 bits, or with lossless, hierarchical or arithmetic coding",
            files: vec![
                file("12 bits", fixture("jpeg-12bit.jpg")),
                file("lossless", coded(0xc3, 8)),
                file("hierarchical", coded(0xc5, 8)),
                file("arithmetic", coded(0xc9, 8)),
                file("arithmetic, progressive", coded(0xca, 8)),
            ],
            becomes: refused("photo_type_unsupported", "export it as an ordinary JPEG"),
        },
        Kind {
            is: "A JPEG in inks that does not say whether a number counts ink or what it leaves (no Adobe marker)",
            files: files(&["cmyk.jpg"]),
            becomes: refused("photo_type_unsupported", "export it as an ordinary JPEG"),
        },
        Kind {
            is: "More than 65 megapixels",
            files: files(&["bomb.webp"]),
            becomes: refused("photo_too_many_pixels", "at most 65"),
        },
        Kind {
            is: "Less than 64 pixels on a side",
            files: vec![file("a strip", encode(quarters(200, 63, COLOURS), ImageFormat::Png))],
            becomes: refused("photo_too_small", "at least 64"),
        },
        Kind {
            is: "Cut off, filled up with zeros or not, given an end marker or not",
            files: vec![
                file("JPEG", fixture("truncated.jpg")),
                file("PNG", fixture("truncated.png")),
                file("WebP", cut(&fixture("lossy.webp"), 7)),
                file("JPEG, near its end", cut(&baseline, 9)),
                file("JPEG, progressive", cut(&progressive, 9)),
                file("JPEG, with an end marker", [cut(&baseline, 9).as_slice(), &[0xff, 0xd9]].concat()),
                file("JPEG, filled up", [cut(&baseline, 8).as_slice(), &[0; 5000]].concat()),
            ],
            becomes: refused("photo_damaged", "upload it again"),
        },
    ]
}

/// Checks what a photo shows once it is fit to be sent.
fn shows(name: &str, bytes: &[u8], expected: Quarters, within: u8) {
    let photo = Photo::check(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    let sent = image::load_from_memory(&photo.bytes).unwrap();
    assert_eq!(sent.dimensions(), (photo.width, photo.height), "{name}");
    assert_eq!(sent.color(), image::ColorType::Rgb8, "{name}");
    let (width, height) = sent.dimensions();
    assert_eq!((width, height), if name.starts_with("large") { (2048, 1229) } else { (160, 120) }, "{name}");
    for ((right, down), wanted) in [(1, 1), (3, 1), (1, 3), (3, 3)].into_iter().zip(expected) {
        let Rgba([red, green, blue, _]) = sent.get_pixel(width * right / 4, height * down / 4);
        let near = [red, green, blue].into_iter().zip(wanted).all(|(is, wanted)| is.abs_diff(wanted) <= within);
        assert!(near, "{name} at {right}, {down}: {:?}, not {wanted:?}", [red, green, blue]);
    }
}

#[test]
fn every_photo_that_is_accepted_comes_out_upright_and_in_its_colours() {
    for kind in kinds() {
        let Becomes::Rendered { shows: expected, within, .. } = kind.becomes else { continue };
        for (name, bytes) in &kind.files {
            shows(name, bytes, expected, within);
        }
    }
    // Values that differ where the cause differs.
    shows("cyan without a profile", &cyan(None), [[0, 255, 255]; 4], 8);
    shows("alpha.webp", &fixture("alpha.webp"), [COLOURS[0], COLOURS[1], COLOURS[2], [238; 3]], 14);
    shows("grey-alpha.png", &fixture("grey-alpha.png"), [GREYS[0], GREYS[1], GREYS[2], [238; 3]], 14);
    shows("large.png", &fixture("large.png"), [[0; 3]; 4], 1);
    let photo = Photo::check(&fixture("large.webp")).unwrap();
    assert_eq!((photo.width, photo.height), (2048, 2048));
}

#[test]
fn every_photo_that_is_refused_says_what_to_change() {
    for kind in kinds() {
        let Becomes::Refused { code, says } = kind.becomes else { continue };
        for (name, bytes) in &kind.files {
            let Err(error) = Photo::check(bytes) else { panic!("{}: {name} was accepted", kind.is) };
            assert_eq!(error.code(), code, "{}: {name}", kind.is);
            assert!(error.to_string().contains(says), "{name}: {error}");
        }
    }
    assert_eq!(Photo::check(&vec![0xff; MAX_BYTES + 1]).unwrap_err().code(), "photo_too_large");
}

/// What becomes of an upload: `None` if it is rendered, else the code, and whether the request itself was refused.
async fn becomes(app: &TestApp, token: &str, name: &str, bytes: &[u8]) -> Option<(String, bool)> {
    let upload = app.upload(token, bytes).await;
    let answer = app.post("/v1/render-requests", token, &render_body(LAKESIDE, upload)).await;
    if answer.status == 422 {
        let [code, detail] = ["code", "detail"].map(|name| answer.body[name].as_str().unwrap());
        errors::check(422, code, detail);
        return Some((code.to_owned(), true));
    }
    let render = answer.expect(202);
    let shown = app.finished(token, render["id"].as_str().unwrap()).await;
    if shown["status"] == "completed" {
        return None;
    }
    assert_eq!(shown["status"], "failed", "{name}: {shown} {}", app.logs());
    Some((shown["error"]["code"].as_str().unwrap().to_owned(), false))
}

const BEGIN: &str = "<!-- photos: written by tests/it/photos.rs -->\n";
const END: &str = "<!-- end of photos -->";

#[tokio::test(flavor = "multi_thread")]
async fn the_features_say_what_becomes_of_every_kind_of_photo() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let mut table = "| photo | what becomes of it |\n| --- | --- |\n".to_owned();
    for kind in kinds() {
        // All of a kind are checked above; one of each goes the whole way, and all that are refused.
        let count = if matches!(kind.becomes, Becomes::Rendered { .. }) { 1 } else { kind.files.len() };
        let mut all = Vec::new();
        for (name, bytes) in &kind.files[..count] {
            all.push(becomes(&app, &token, name, bytes).await);
        }
        let what = match kind.becomes {
            Becomes::Rendered { treated, .. } => {
                assert_eq!(all, [None], "{}", kind.is);
                treated.to_owned()
            }
            Becomes::Refused { code, .. } => {
                let all: Vec<(String, bool)> = all.into_iter().map(Option::unwrap).collect();
                assert!(all.iter().all(|(found, _)| found == code), "{}: {all:?}", kind.is);
                let early = all.iter().all(|(_, early)| *early);
                // What takes more than the header is found by the worker.
                let late = ["Cut off", "A JPEG in inks"].iter().any(|other| kind.is.starts_with(other));
                assert_eq!(early, !late, "{}: {all:?}", kind.is);
                format!("refused: `{code}`, {}", if early { "422 to the request" } else { "the render fails" })
            }
        };
        writeln!(table, "| {} | {what} |", kind.is).unwrap();
    }
    let path = local::home::root().join("docs/FEATURES.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (kept, after) = rest.split_once(END).unwrap();
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        std::fs::write(&path, [before, BEGIN, &table, END, after].concat()).unwrap();
    } else {
        assert_eq!(kept, table, "INSTA_UPDATE=always rewrites it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_photo_that_cannot_be_used_costs_nothing_and_queues_nothing() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    for (name, bytes) in [("HEIC", fixture("photo.heic")), ("a bomb", fixture("bomb.webp")), ("nothing", Vec::new())] {
        assert!(becomes(&app, &token, name, &bytes).await.unwrap().1, "{name}");
    }
    for table in ["render_requests", "jobs", "usage_reservations", "provider_calls", "idempotency_keys"] {
        assert_eq!(app.db.count(&format!("select count(*) from {table}")).await, 0, "{table}");
    }
}

#[test]
fn no_byte_that_is_wrong_makes_a_photo_panic() {
    // Profiles, headers and coded data alike; what is large only takes longer.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/photos");
    let names = std::fs::read_dir(folder).unwrap().flatten().map(|file| file.file_name().into_string().unwrap());
    let photos: Vec<String> =
        names.filter(|name| !["bomb", "large", "make", "README"].iter().any(|other| name.starts_with(other))).collect();
    assert!(photos.len() > 30);
    let made = [linear_png(), wide_png(), cyan(Some(&strange_inks()))].map(|bytes| ("made here".to_owned(), bytes));
    for (name, whole) in photos.into_iter().map(|name| (name.clone(), fixture(&name))).chain(made) {
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..random.random_range(1..4) {
                let place = random.random_range(0..bytes.len().min(900));
                bytes[place] = random.random();
            }
            // A size that a header claims by chance takes long to fill.
            if Photo::check(&bytes).is_ok_and(|photo| photo.bytes.is_empty()) {
                panic!("{name}: nothing is sent");
            }
        }
    }
}

#[test]
fn nothing_tells_where_or_by_whom_a_photo_was_taken() {
    let bytes = fixture("gps.jpg");
    let personal = ["SN-FIXTURE-0042", "Fixture Owner", "Exif"];
    let tells = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(personal.iter().all(|text| tells(&bytes, text)));
    let photo = Photo::check(&bytes).unwrap();
    assert!(!personal.iter().any(|text| tells(&photo.bytes, text)));
    assert!(!tells(&Photo::check(&fixture("trailing.jpg")).unwrap().bytes, "PK\u{3}\u{4}"));
}
