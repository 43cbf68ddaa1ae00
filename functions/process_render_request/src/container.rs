//! The parts that picture files are made of: segments of JPEG, chunks of PNG and of RIFF, which WebP is. Any bytes may come; what is cut
//! off or contradicts itself ends the parts.

use std::ops::Range;

/// A segment of a JPEG.
#[derive(Debug, Clone)]
pub(crate) struct Segment<'a> {
    pub(crate) marker: u8,
    /// What it holds, without its length.
    pub(crate) payload: &'a [u8],
    /// Where it is with its marker and, for a scan, its coded data.
    pub(crate) whole: Range<usize>,
}

/// The segments of a JPEG up to its end marker, which is not among them.
pub(crate) fn segments(bytes: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    let mut at = 2;
    std::iter::from_fn(move || {
        loop {
            let (marker, behind) = next_marker(bytes, at)?;
            if marker == 0xd9 {
                return None;
            }
            if matches!(marker, 0x01 | 0xd0..=0xd8) {
                at = behind;
                continue;
            }
            let length = bytes.get(behind..behind + 2).map(|two| usize::from(u16::from_be_bytes([two[0], two[1]])))?;
            let payload = bytes.get(behind + 2..behind + length.max(2))?;
            at = behind + length.max(2);
            if marker == 0xda {
                at = scan_end(bytes, at);
            }
            return Some(Segment { marker, payload, whole: behind - 2..at });
        }
    })
}

/// The next marker at or behind `at`, and where what follows it begins. Stray bytes before it are passed over, as browsers do.
pub(crate) fn next_marker(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0xff)?;
        at += bytes.get(at..)?.iter().position(|byte| *byte != 0xff)?;
        let marker = *bytes.get(at)?;
        at += 1;
        if marker != 0 {
            return Some((marker, at));
        }
    }
}

/// Where the coded data that begin at `at` end: at a marker that is none for a restart.
fn scan_end(bytes: &[u8], at: usize) -> usize {
    let data = bytes.get(at..).unwrap_or_default();
    let end = data.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xd0..=0xd7 | 0xff));
    end.map_or(bytes.len(), |end| at + end)
}

/// A chunk of a PNG or of RIFF.
#[derive(Debug, Clone)]
pub(crate) struct Chunk<'a> {
    pub(crate) kind: [u8; 4],
    pub(crate) data: &'a [u8],
    /// Where it is, with its head and what follows its data.
    pub(crate) whole: Range<usize>,
}

/// The most that a PNG's profile may hold as it is stored, compressed. Zlib makes of it a thousand times as much at most.
const MAX_PROFILE: usize = 128 * 1024;

impl Chunk<'_> {
    /// Whether this is a PNG's profile, and larger than profiles are.
    pub(crate) fn is_profile_bomb(&self) -> bool {
        self.kind == *b"iCCP" && self.data.len() > MAX_PROFILE
    }
}

/// The chunks of a PNG, up to its end.
pub(crate) fn png_chunks(bytes: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let mut at = 8;
    let chunks = std::iter::from_fn(move || {
        let head = bytes.get(at..at + 8)?;
        let length = usize::try_from(u32::from_be_bytes([head[0], head[1], head[2], head[3]])).ok()?;
        let data = bytes.get(at + 8..)?.get(..length)?;
        let whole = at..at + 12 + length;
        at = whole.end;
        Some(Chunk { kind: [head[4], head[5], head[6], head[7]], data, whole })
    });
    chunks.take_while(|chunk| chunk.kind != *b"IEND")
}

/// The chunks of a WebP, up to where RIFF says that it ends.
pub(crate) fn webp_chunks(bytes: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let size = bytes.get(4..8).map_or(0, |four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    let end = usize::try_from(size).unwrap_or(usize::MAX).saturating_add(8).min(bytes.len());
    let bytes = &bytes[..end];
    let mut at = 12;
    std::iter::from_fn(move || {
        let head = bytes.get(at..at + 8)?;
        let length = usize::try_from(u32::from_le_bytes([head[4], head[5], head[6], head[7]])).ok()?;
        let data = bytes.get(at + 8..)?.get(..length)?;
        // Filled up to an even length.
        let whole = at..(at + 8 + length + length % 2).min(bytes.len());
        at = whole.end;
        Some(Chunk { kind: [head[0], head[1], head[2], head[3]], data, whole })
    })
}

/// How EXIF says a picture is to be turned, 1 to 8. Cameras write it as a short, others as any integer, in either order of bytes.
pub(crate) fn exif_orientation(exif: &[u8]) -> Option<u8> {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let big = match tiff.get(..4)? {
        b"MM\0\x2a" => true,
        b"II\x2a\0" => false,
        _ => return None,
    };
    let number = |at: usize, length: usize| -> Option<u64> {
        let bytes = tiff.get(at..at.checked_add(length)?)?;
        let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        Some(if big { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) })
    };
    let directory = usize::try_from(number(4, 4)?).ok()?;
    let count = usize::try_from(number(directory, 2)?).ok()?;
    let entries = (0..count).map_while(|entry| directory.checked_add(2 + 12 * entry));
    let found = entries.into_iter().find(|at| number(*at, 2) == Some(0x0112))?;
    // A value this small stands in the entry itself, at its beginning.
    let length = match number(found + 2, 2)? {
        1 | 6 | 7 => 1,
        3 | 8 => 2,
        4 | 9 | 13 => 4,
        _ => return None,
    };
    number(found + 8, length).and_then(|value| u8::try_from(value).ok()).filter(|value| (1..=8).contains(value))
}
