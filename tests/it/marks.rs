//! Pictures as models return them: what becomes of their metadata, and how much of the room they keep.

use base64::{Engine, prelude::BASE64_STANDARD};
use image::{DynamicImage, GenericImageView, ImageFormat, Rgb, RgbImage};
use integration_tests::{
    TestApp,
    people::{DORA, LAKESIDE, NORD},
    render_body,
};
use process_render_request::{mark, photo::Photo};
use sandbox::{Calls, Canned};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::photos::{COLOURS, encode, exif, fixture, quarters, with_chunk};

const FORMATS: [(ImageFormat, &str); 3] =
    [(ImageFormat::Jpeg, "image/jpeg"), (ImageFormat::Png, "image/png"), (ImageFormat::WebP, "image/webp")];

/// What a model's file has beside its pixels: each kind of metadata, with a word of its own.
const WORDS: [&str; 5] =
    ["manifest-of-credentials", "seed-in-a-comment", "maker-in-exif", "prompt-in-xmp", "behind-the-end"];

/// EXIF with an orientation, and the maker's name behind it.
fn exif_block(orientation: u8) -> Vec<u8> {
    [exif(orientation, 3, true).as_slice(), WORDS[2].as_bytes()].concat()
}

fn jpeg_segment(marker: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len() + 2).unwrap().to_be_bytes();
    [&[0xff, marker], length.as_slice(), data].concat()
}

fn riff_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap().to_le_bytes();
    [kind.as_slice(), &length, data, &vec![0; data.len() % 2]].concat()
}

/// The picture as a file with all of [`WORDS`], and with an orientation.
fn with_metadata(picture: &DynamicImage, format: ImageFormat, orientation: u8) -> Vec<u8> {
    let plain = encode(picture.clone(), format);
    let manifest = [b"\0\0\0\x20jumb\0\0\0\x18jumdc2pa".as_slice(), WORDS[0].as_bytes()].concat();
    let exif = exif_block(orientation);
    match format {
        ImageFormat::Jpeg => [
            &plain[..2],
            &jpeg_segment(0xe1, &[b"Exif\0\0", exif.as_slice()].concat()),
            &jpeg_segment(0xe1, &[b"http://ns.adobe.com/xap/1.0/\0", WORDS[3].as_bytes()].concat()),
            &jpeg_segment(0xeb, &[b"JP\0\x01\0\0\0\x01", manifest.as_slice()].concat()),
            &jpeg_segment(0xfe, WORDS[1].as_bytes()),
            &plain[2..],
            WORDS[4].as_bytes(),
        ]
        .concat(),
        ImageFormat::Png => {
            let xmp = [b"XML:com.adobe.xmp\0\0\0\0\0".as_slice(), WORDS[3].as_bytes()].concat();
            let comment = [b"Comment\0".as_slice(), WORDS[1].as_bytes()].concat();
            let mut file = plain;
            for (kind, data) in [(*b"eXIf", exif), (*b"iTXt", xmp), (*b"caBX", manifest), (*b"tEXt", comment)] {
                file = with_chunk(&file, kind, &data);
            }
            [file.as_slice(), WORDS[4].as_bytes()].concat()
        }
        _ => {
            let side = |side: u32| (side - 1).to_le_bytes()[..3].to_vec();
            let head = [[0x0c, 0, 0, 0].as_slice(), &side(picture.width()), &side(picture.height())].concat();
            let body = [
                b"WEBP",
                riff_chunk(b"VP8X", &head).as_slice(),
                &plain[12..],
                &riff_chunk(b"EXIF", &exif),
                &riff_chunk(b"XMP ", WORDS[3].as_bytes()),
                &riff_chunk(b"C2PA", &manifest),
                &riff_chunk(b"NOTE", WORDS[1].as_bytes()),
            ]
            .concat();
            [b"RIFF", u32::try_from(body.len()).unwrap().to_le_bytes().as_slice(), &body, WORDS[4].as_bytes()].concat()
        }
    }
}

fn has(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

/// A render of this photo, for which the model returns this picture.
async fn render(app: &TestApp, token: &str, photo: &[u8], mime: &str, picture: &[u8]) -> Value {
    let parts = json!([{ "inlineData": { "mimeType": mime, "data": BASE64_STANDARD.encode(picture) } }]);
    let answer = Canned::Changed(vec![("/candidates/0/content/parts", Some(parts))]);
    app.stack.sandbox.gemini.arrange(answer, Calls::Next(1));
    let upload = app.upload(token, photo).await;
    let admitted = app.post("/v1/render-requests", token, &render_body(LAKESIDE, upload)).await.expect(202);
    let shown = app.finished(token, admitted["id"].as_str().unwrap()).await;
    assert_eq!(shown["status"], "completed", "{shown} {}", app.logs());
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn a_models_picture_says_nothing_but_that_it_is_made_by_ai_and_is_stored_upright() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    for (format, mime) in FORMATS {
        for orientation in [1, 6] {
            let case = format!("{format:?}, orientation {orientation}");
            let upright = DynamicImage::ImageRgb8(quarters(160, 120, COLOURS));
            let stored = if orientation == 6 { upright.rotate270() } else { upright };
            let sent = with_metadata(&stored, format, orientation);
            assert!(WORDS.iter().all(|word| has(&sent, word)), "{case}");

            // Another photo each time, so that none is served from the cache.
            let photo = encode(quarters(160, 120, [[orientation * 9, format as u8 * 9, 77]; 4]), ImageFormat::Png);
            let shown = render(&app, &token, &photo, mime, &sent).await;

            let result = &shown["results"][0];
            let kept = app.download(result["url"].as_str().unwrap()).await;
            // A picture that is turned is encoded again, without loss.
            let wanted = if orientation == 6 { "image/png" } else { mime };
            assert_eq!(
                (result["mime"].as_str(), &result["width"], &result["height"]),
                (Some(wanted), &json!(160), &json!(120))
            );
            let left: Vec<&str> = WORDS.into_iter().filter(|word| has(&kept, word)).collect();
            assert_eq!(left, Vec::<&str>::new(), "{case}");
            assert!(!mark::has_credentials(&kept), "{case}");
            assert_eq!(mark::read_mark(&kept).as_deref(), Some(mark::DIGITAL_SOURCE_TYPE), "{case}");
            let picture = image::load_from_memory(&kept).unwrap();
            assert_eq!(picture.dimensions(), (160, 120), "{case}");
            let red = picture.get_pixel(40, 30).0;
            assert!(red[0] > 200 && red[1] < 40 && red[2] < 40, "{case}: {red:?}");
            // The audit trail says that the manifest was there.
            let id: Uuid = shown["id"].as_str().unwrap().parse().unwrap();
            let document = app.document(NORD, &id.to_string()).await.unwrap();
            assert_eq!(document["output"]["results"][0]["credentials_removed"], true, "{case}: {document}");
        }
    }
}

#[test]
fn what_is_marked_is_still_the_picture_or_nothing_is_marked() {
    // Decoders forgive a last part that is cut by a byte or two.
    for name in ["lossy.webp", "lossless.webp", "alpha.webp", "animated.webp", "rgb.jpg", "interlaced.png"] {
        let whole = fixture(name);
        let picture = image::load_from_memory(&whole).unwrap();
        let mut marked = 0;
        for cut in 0..16 {
            let Ok(kept) = mark::mark_ai_generated(&whole[..whole.len() - cut]) else { continue };
            marked += 1;
            let Ok(shown) = image::load_from_memory(&kept.bytes) else {
                // Nothing that was no picture before, either.
                assert!(image::load_from_memory(&whole[..whole.len() - cut]).is_err(), "{name} without {cut}");
                continue;
            };
            assert_eq!(shown.dimensions(), picture.dimensions(), "{name} without {cut}");
        }
        assert!(marked > 0, "{name}");
    }
}

#[test]
fn a_profile_that_is_larger_than_profiles_are_is_neither_read_nor_kept() {
    let plain = encode(quarters(160, 120, COLOURS), ImageFormat::Png);
    for (size, kept) in [(100_000, true), (200_000, false)] {
        let profile = [b"a name\0\0".as_slice(), &vec![7; size]].concat();
        let bytes = with_chunk(&plain, *b"iCCP", &profile);
        let marked = mark::mark_ai_generated(&bytes).unwrap().bytes;
        assert_eq!(has(&marked, "a name"), kept, "{size}");
        let photo = Photo::check(&bytes).unwrap();
        assert_eq!((photo.width, photo.height), (160, 120));
    }
}

#[test]
fn only_what_it_takes_to_show_a_jpeg_is_kept() {
    let plain = encode(quarters(160, 120, COLOURS), ImageFormat::Jpeg);
    for marker in (0x02..=0xbf).chain(0xe0..=0xfe) {
        let bytes = [&plain[..2], &jpeg_segment(marker, WORDS[1].as_bytes()), &plain[2..]].concat();
        let marked = mark::mark_ai_generated(&bytes).unwrap().bytes;
        assert!(!has(&marked, WORDS[1]), "{marker:x}");
        assert_eq!(image::load_from_memory(&marked).unwrap(), image::load_from_memory(&plain).unwrap(), "{marker:x}");
    }
}

/// What a photo shows, as it is sent to a model.
fn upright(photo: &[u8]) -> DynamicImage {
    image::load_from_memory(&Photo::check(photo).unwrap().bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_says_how_much_of_the_rooms_geometry_it_keeps() {
    let app = TestApp::start().await;
    let token = app.token(&DORA);
    let photo = upright(&sandbox::photo::room_photo().unwrap());
    let mut measured = Vec::new();
    for (number, picture) in [photo.clone(), photo.huerotate(140).brighten(20), photo.fliph()].into_iter().enumerate() {
        // A pixel that differs makes it another photo, for which nothing is in the cache.
        let mut photo = photo.to_rgb8();
        photo.put_pixel(0, 0, Rgb([u8::try_from(number).unwrap(); 3]));
        let photo = encode(photo, ImageFormat::Png);
        let shown = render(&app, &token, &photo, "image/png", &encode(picture, ImageFormat::Png)).await;
        let geometry = &shown["results"][0]["geometry"];
        assert_eq!(geometry["measure"], "edges_kept");
        measured.push(geometry["value"].as_f64().unwrap());
    }
    let [same, recoloured, mirrored] = measured[..] else { panic!("{measured:?}") };
    assert!(same == 1.0 && recoloured > 0.9 && mirrored < 0.5, "{measured:?}");
    assert_eq!(
        app.db.count("select count(*) from render_results where edges_kept between 0 and 1").await,
        3,
        "what is shown is what is stored"
    );

    // A photo of a blank wall has nothing to compare.
    let wall = encode(RgbImage::from_pixel(160, 120, Rgb([200; 3])), ImageFormat::Png);
    let shown = render(&app, &token, &wall, "image/png", &wall).await;
    assert_eq!(shown["results"][0]["geometry"], Value::Null);
}
