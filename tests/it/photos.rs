//! Photos as they really come. What each is, tests/fixtures/photos/README.md says.

use image::{GenericImageView, Rgba};
use process_render_request::photo::{MAX_BYTES, Photo};
use rand::{RngExt, SeedableRng, rngs::StdRng};

fn fixture(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/photos");
    std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Checks that a photo is taken, comes out upright and 160 by 120, and shows these colours at the middle of its quarters.
fn taken(name: &str, expected: [[u8; 3]; 4], tolerance: u8) {
    let photo = Photo::check(&fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!((photo.width, photo.height), (160, 120), "{name}");
    let sent = image::load_from_memory(&photo.bytes).unwrap();
    assert_eq!(sent.color(), image::ColorType::Rgb8, "{name}");
    for ((x, y), wanted) in [(40, 30), (120, 30), (40, 90), (120, 90)].into_iter().zip(expected) {
        let Rgba([red, green, blue, _]) = sent.get_pixel(x, y);
        let near = [red, green, blue].into_iter().zip(wanted).all(|(is, wanted)| is.abs_diff(wanted) <= tolerance);
        assert!(near, "{name} at {x}, {y}: {:?}, not {wanted:?}", [red, green, blue]);
    }
}

const COLOURS: [[u8; 3]; 4] = [[220, 20, 20], [20, 220, 20], [20, 20, 220], [220, 220, 220]];
const GREYS: [[u8; 3]; 4] = [[80; 3], [137; 3], [43; 3], [220; 3]];

#[test]
fn photos_of_every_kind_come_out_upright_in_eight_bits_and_in_their_colours() {
    for name in
        ["rgb.jpg", "progressive.jpg", "rgb16.png", "interlaced.png", "lossless.webp", "lossy.webp", "trailing.jpg"]
    {
        taken(name, COLOURS, 12);
    }
    for name in ["grey.jpg", "grey16.png"] {
        taken(name, GREYS, 6);
    }
    for name in ["cmyk-adobe.jpg", "ycck-adobe.jpg"] {
        taken(name, COLOURS, 30);
    }
    for orientation in 1..=8 {
        taken(&format!("orientation-{orientation}.jpg"), COLOURS, 12);
    }
    // Of an animation, the first picture; of a wide gamut, the same colours.
    for name in ["animated.webp", "animated.png"] {
        taken(name, COLOURS, 12);
    }
    taken("display-p3.jpg", COLOURS, 12);
}

#[test]
fn what_shines_through_is_white() {
    let white = [255, 255, 255];
    taken("palette-transparent.png", [COLOURS[0], COLOURS[1], COLOURS[2], white], 12);
    taken("alpha.webp", [COLOURS[0], COLOURS[1], COLOURS[2], [238; 3]], 14);
    taken("grey-alpha.png", [GREYS[0], GREYS[1], GREYS[2], [238; 3]], 14);
}

#[test]
fn what_cannot_be_used_says_what_to_change() {
    let refused = |name: &str| Photo::check(&fixture(name)).err().map(|error| (error.code(), error.to_string()));
    for (name, code, told) in [
        ("text.jpg", "photo_not_a_picture", "whatever its name says"),
        ("script.svg", "photo_not_a_picture", "JPEG, PNG or WebP"),
        ("truncated.jpg", "photo_damaged", "upload it again"),
        ("truncated.png", "photo_damaged", "upload it again"),
        ("photo.heic", "photo_type_unsupported", "HEIC"),
        ("photo.avif", "photo_type_unsupported", "AVIF"),
        ("photo.gif", "photo_type_unsupported", "GIF"),
        ("photo.tiff", "photo_type_unsupported", "TIFF"),
        ("photo.bmp", "photo_type_unsupported", "BMP"),
        ("bomb.png", "photo_too_many_pixels", "60 megapixels"),
        ("bomb.jpg", "photo_too_many_pixels", "megapixels"),
        ("bomb.webp", "photo_too_many_pixels", "65 megapixels"),
        ("cmyk.jpg", "photo_type_unsupported", "CMYK"),
        ("jpeg-12bit.jpg", "photo_type_unsupported", "eight bits"),
    ] {
        let Some((refusal, detail)) = refused(name) else { panic!("{name} was taken") };
        assert_eq!(refusal, code, "{name}: {detail}");
        assert!(detail.contains(told), "{name}: {detail}");
    }
    assert_eq!(Photo::check(&[]).unwrap_err().code(), "photo_empty");
    assert_eq!(Photo::check(&vec![0xff; MAX_BYTES + 1]).unwrap_err().code(), "photo_too_large");
}

#[test]
fn no_byte_that_is_wrong_makes_a_photo_panic() {
    // Profiles, headers and coded data alike; a bomb's size is no help here.
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/photos");
    let names = std::fs::read_dir(folder).unwrap().flatten().map(|file| file.file_name().into_string().unwrap());
    let photos: Vec<String> =
        names.filter(|name| !name.starts_with("bomb") && !name.contains("make") && !name.ends_with(".md")).collect();
    assert!(photos.len() > 30);
    for name in photos {
        let whole = fixture(&name);
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..random.random_range(1..4) {
                let place = random.random_range(0..bytes.len().min(900));
                bytes[place] = random.random();
            }
            let _ = Photo::check(&bytes);
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
