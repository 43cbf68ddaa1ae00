use image::{GenericImageView, ImageFormat, Rgb, RgbImage};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use proptest::prelude::*;

use super::*;

/// Shades, edges and grain.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let byte = |value: u32| u8::try_from(value % 256).unwrap();
        let wall = if (x / 24 + y / 40) % 2 == 0 { 60 } else { 0 };
        let grain = x.wrapping_mul(73_856_093) ^ y.wrapping_mul(19_349_663);
        Rgb([byte(x + wall), byte(y * 2), byte(100 + wall + grain % 9)])
    })
}

#[derive(Debug, Clone, Copy)]
struct Way {
    progressive: bool,
    restart: u16,
    sampling: SamplingFactor,
}

fn encode(picture: &RgbImage, way: Way) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 85);
    encoder.set_progressive(way.progressive);
    encoder.set_restart_interval(way.restart);
    encoder.set_sampling_factor(way.sampling);
    let (width, height) = (u16::try_from(picture.width()).unwrap(), u16::try_from(picture.height()).unwrap());
    encoder.encode(picture.as_raw(), width, height, ColorType::Rgb).unwrap();
    bytes
}

const SAMPLINGS: [SamplingFactor; 6] = [
    SamplingFactor::F_1_1,
    SamplingFactor::F_2_1,
    SamplingFactor::F_1_2,
    SamplingFactor::F_2_2,
    SamplingFactor::F_4_1,
    SamplingFactor::F_4_2,
];

fn ways() -> impl Iterator<Item = Way> {
    [(false, 0), (false, 3), (true, 0), (true, 2)]
        .into_iter()
        .flat_map(|(progressive, restart)| SAMPLINGS.map(|sampling| Way { progressive, restart, sampling }))
}

/// How far two pictures are from each other, in the mean and at the most.
fn apart(one: &[u8], other: &[u8]) -> (f64, u8) {
    assert_eq!(one.len(), other.len());
    let apart = one.iter().zip(other).map(|(one, other)| one.abs_diff(*other));
    let sum: u64 = apart.clone().map(u64::from).sum();
    (sum as f64 / one.len() as f64, apart.max().unwrap())
}

#[test]
fn a_picture_is_what_another_decoder_makes_of_it() {
    for way in ways() {
        let bytes = encode(&picture(203, 117), way);
        let ours = decode(&bytes, 4096).unwrap();
        assert_eq!((ours.width, ours.height, ours.channels), (203, 117, 3), "{way:?}");
        // The image crate's decoder gives noise for 4:1:0 that is not progressive (zune-jpeg 0.5.15).
        if matches!(way.sampling, SamplingFactor::F_4_2) && !way.progressive {
            let (mean, _) = apart(&ours.pixels, picture(203, 117).as_raw());
            assert!(mean < 8.0, "{way:?}: {mean}");
            continue;
        }
        let theirs = image::load_from_memory_with_format(&bytes, ImageFormat::Jpeg).unwrap().to_rgb8();
        let (mean, most) = apart(&ours.pixels, &theirs);
        // Colours that are stored smaller are made larger in another way.
        let limits = if matches!(way.sampling, SamplingFactor::F_1_1) { (0.6, 3) } else { (4.0, 120) };
        assert!(mean < limits.0 && most <= limits.1, "{way:?}: {mean} {most}");
    }
}

#[test]
fn a_smaller_picture_is_the_mean_of_the_larger() {
    for way in ways() {
        let bytes = encode(&picture(320, 192), way);
        let whole = decode(&bytes, 4096).unwrap();
        let whole = RgbImage::from_raw(whole.width, whole.height, whole.pixels).unwrap();
        for part in [2, 4, 8] {
            let ours = decode(&bytes, 320 / part).unwrap();
            assert_eq!((ours.width, ours.height), (320 / part, 192 / part), "{way:?}");
            let mean = RgbImage::from_fn(ours.width, ours.height, |x, y| {
                let square = whole.view(x * part, y * part, part, part);
                let mut sum = [0_u32; 3];
                for (.., Rgb(pixel)) in square.pixels() {
                    sum.iter_mut().zip(pixel).for_each(|(sum, channel)| *sum += u32::from(channel));
                }
                Rgb(sum.map(|sum| u8::try_from(sum / (part * part)).unwrap()))
            });
            let (apart, _) = apart(&ours.pixels, &mean);
            assert!(apart < 6.0, "{way:?} at 1/{part}: {apart}");
        }
    }
}

/// Where the coded data of the last scan end.
fn data_end(bytes: &[u8]) -> usize {
    assert_eq!(bytes[bytes.len() - 2..], [0xff, 0xd9]);
    bytes.len() - 2
}

#[test]
fn every_cut_that_loses_a_part_of_the_picture_is_refused() {
    for way in ways() {
        let bytes = encode(&picture(97, 65), way);
        let end = data_end(&bytes);
        for cut in 0..end {
            assert_eq!(decode(&bytes[..cut], 4096).err(), Some(JpegError::Damaged), "{way:?} cut at {cut} of {end}");
        }
    }
}

#[test]
fn a_picture_that_is_whole_needs_no_end_marker_and_may_have_anything_behind_it() {
    for way in ways() {
        let bytes = encode(&picture(97, 65), way);
        let whole = decode(&bytes, 4096).unwrap().pixels;
        let second = encode(&picture(64, 64), way);
        let trailer = b"SEFH\x6a\0\0\0SEFT".repeat(100);
        for other in [
            bytes[..data_end(&bytes)].to_vec(),
            bytes[..bytes.len() - 1].to_vec(),
            [bytes.as_slice(), &second].concat(),
            [bytes.as_slice(), &trailer].concat(),
            [bytes.as_slice(), &[0; 5000]].concat(),
        ] {
            assert_eq!(decode(&other, 4096).unwrap().pixels, whole, "{way:?}");
        }
    }
}

#[test]
fn a_file_that_was_cut_off_and_filled_up_is_refused() {
    for way in ways() {
        let bytes = encode(&picture(97, 65), way);
        for kept in [bytes.len() / 3, bytes.len() / 2, bytes.len() - 20] {
            for fill in [0, 0xff, 0x55] {
                let mut filled = bytes[..kept].to_vec();
                filled.resize(bytes.len() + 4000, fill);
                assert_eq!(decode(&filled, 4096).err(), Some(JpegError::Damaged), "{way:?} {kept} {fill}");
            }
            // An end marker makes it no more whole.
            let ended = [&bytes[..kept], &[0xff, 0xd9]].concat();
            if !way.progressive {
                assert_eq!(decode(&ended, 4096).err(), Some(JpegError::Damaged), "{way:?} {kept}");
            }
        }
    }
}

#[test]
fn a_hole_within_the_data_is_a_lost_part() {
    let (mut holes, mut accepted) = (0, 0);
    let photo = picture(1024, 768);
    for (quality, sampling) in [75, 85, 95, 100]
        .into_iter()
        .flat_map(|quality| [SamplingFactor::F_1_1, SamplingFactor::F_2_2].map(|sampling| (quality, sampling)))
    {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, quality);
        encoder.set_sampling_factor(sampling);
        encoder.encode(photo.as_raw(), 1024, 768, ColorType::Rgb).unwrap();
        for length in [4096, bytes.len() / 8, bytes.len() / 4] {
            for eighth in 1..6 {
                let mut holed = bytes.clone();
                let from = bytes.len() * eighth / 8;
                holed[from..from + length].fill(0);
                holes += 1;
                accepted += usize::from(decode(&holed, 4096).is_ok());
            }
        }
    }
    // By chance the codes behind a hole end where those of the picture do.
    assert!(holes == 120 && accepted * 20 <= holes, "{accepted} of {holes} were accepted");
}

/// A grey picture of 64 blocks whose frequencies are zero, each coded in a scan of its own; with `bits_apart`, in two.
fn in_many_scans(bits_apart: bool) -> (usize, Vec<u8>) {
    let segment = |marker: u8, data: &[u8]| {
        let length = u16::try_from(data.len() + 2).unwrap().to_be_bytes();
        [&[0xff, marker], length.as_slice(), data].concat()
    };
    // One code of one bit: for no difference, and for 64 blocks that are at their end, with six bits that say how many more.
    let codes = |class: u8, symbol: u8| [&[class, 1], [0; 15].as_slice(), &[symbol]].concat();
    let mut bytes = [
        b"\xff\xd8".as_slice(),
        &segment(0xdb, &[&[0], [1; 64].as_slice()].concat()),
        &segment(0xc2, &[8, 0, 64, 0, 64, 1, 1, 0x11, 0]),
        &segment(0xc4, &codes(0x00, 0x00)),
        &segment(0xc4, &codes(0x10, 0x60)),
    ]
    .concat();
    let mut scans = vec![(0, 0x00, [0; 8].as_slice())];
    for (bits, needed) in [(if bits_apart { 0x01 } else { 0x00 }, true), (0x10, bits_apart)] {
        scans.extend((1..64).filter(|_| needed).map(|frequency| (frequency, bits, [1].as_slice())));
    }
    for (frequency, bits, data) in &scans {
        bytes.extend(segment(0xda, &[1, 1, 0, *frequency, *frequency, *bits]));
        bytes.extend(*data);
    }
    bytes.extend([0xff, 0xd9]);
    (scans.len(), bytes)
}

#[test]
fn a_picture_in_more_scans_than_encoders_make_is_refused() {
    let (few, bytes) = in_many_scans(false);
    let decoded = decode(&bytes, 64).unwrap();
    assert_eq!((few, decoded.pixels), (64, vec![128; 64 * 64]));
    let (many, bytes) = in_many_scans(true);
    assert!(many > MOST_SCANS);
    assert_eq!(decode(&bytes, 64).err(), Some(JpegError::Unsupported("a JPEG in more than a hundred parts")));
}

#[test]
fn a_lost_restart_interval_is_a_lost_part() {
    let way = Way { progressive: false, restart: 2, sampling: SamplingFactor::F_2_2 };
    let bytes = encode(&picture(97, 65), way);
    let at = |number: u8| bytes.windows(2).position(|pair| pair == [0xff, 0xd0 + number]).unwrap();
    let lost = [&bytes[..at(1)], &bytes[at(2)..]].concat();
    assert_eq!(decode(&lost, 4096).err(), Some(JpegError::Damaged));
}

#[test]
fn other_codings_are_called_what_they_are() {
    let bytes = encode(&picture(64, 64), ways().next().unwrap());
    let place = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    for (marker, named) in
        [(0xc3, "lossless"), (0xc5, "hierarchical"), (0xde, "hierarchical"), (0xc9, "arithmetic"), (0xcc, "arithmetic")]
    {
        let mut other = bytes.clone();
        other[place + 1] = marker;
        let Err(JpegError::Unsupported(what)) = decode(&other, 64) else { panic!("{marker:x} was taken") };
        assert!(what.contains(named), "{what}");
    }
    let mut twelve = bytes.clone();
    twelve[place + 1] = 0xc1;
    twelve[place + 4] = 12;
    assert_eq!(decode(&twelve, 64).err(), Some(JpegError::Unsupported("a JPEG of more than eight bits a colour")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_bytes_make_it_panic(
        way in 0_usize..24, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        at_least in prop::sample::select(vec![8_u32, 30, 50, 4096]),
    ) {
        let mut bytes = encode(&picture(49, 33), ways().nth(way).unwrap());
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        // Not what a picture of this size is refused for elsewhere, which is before it is decoded.
        if decode_small(&bytes) == Some(false) {
            return Ok(());
        }
        let _ = decode(&bytes, at_least);
    }

    #[test]
    fn pictures_of_every_size_are_decoded(width in 1_u32..70, height in 1_u32..70, way in 0_usize..24) {
        let bytes = encode(&picture(width, height), ways().nth(way).unwrap());
        let ours = decode(&bytes, 4096).unwrap();
        prop_assert_eq!((ours.width, ours.height), (width, height));
        prop_assert!(decode(&bytes[..data_end(&bytes)], 4096).is_ok());
        prop_assert!(decode(&bytes[..data_end(&bytes) - 1], 4096).is_err());
    }
}

/// Whether the header claims a size that a test has memory for.
fn decode_small(bytes: &[u8]) -> Option<bool> {
    let frame = crate::container::segments(bytes)
        .find_map(|segment| Frame::read(segment.marker, segment.payload).ok().flatten())?;
    Some(frame.width * frame.height < 1_000_000)
}
