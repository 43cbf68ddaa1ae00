//! What a file is, by its content.
//!
//! Written here since the libraries for it are content with less than a browser is: they take `moov` after any four bytes for a video,
//! and `ID3` alone for music. Here a container must be one as far as its first two structures, so that no page passes for a file.

/// A kind of file that is kept. A browser shows or plays each of them, and runs none as a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JPEG picture.
    Jpeg,
    /// PNG picture.
    Png,
    /// WebP picture.
    Webp,
    /// GIF picture.
    Gif,
    /// HEIC picture.
    Heic,
    /// MPEG-4, mostly video; a voice message may be one that has only sound.
    Mp4,
    /// QuickTime video.
    QuickTime,
    /// WebM video.
    Webm,
    /// MP3 sound.
    Mp3,
    /// MPEG-4 that says of itself that it is sound.
    M4a,
    /// Ogg with Opus, Vorbis, Speex or FLAC.
    Ogg,
    /// WAVE sound.
    Wav,
    /// AAC sound in ADTS frames.
    Aac,
    /// PDF document.
    Pdf,
}

impl Kind {
    /// Its media type.
    #[must_use]
    pub fn mime(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
            Self::Gif => "image/gif",
            Self::Heic => "image/heic",
            Self::Mp4 => "video/mp4",
            Self::QuickTime => "video/quicktime",
            Self::Webm => "video/webm",
            Self::Mp3 => "audio/mpeg",
            Self::M4a => "audio/mp4",
            Self::Ogg => "audio/ogg",
            Self::Wav => "audio/wav",
            Self::Aac => "audio/aac",
            Self::Pdf => "application/pdf",
        }
    }

    /// What the name of such a file ends in, without the dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::Webp => "webp",
            Self::Gif => "gif",
            Self::Heic => "heic",
            Self::Mp4 => "mp4",
            Self::QuickTime => "mov",
            Self::Webm => "webm",
            Self::Mp3 => "mp3",
            Self::M4a => "m4a",
            Self::Ogg => "ogg",
            Self::Wav => "wav",
            Self::Aac => "aac",
            Self::Pdf => "pdf",
        }
    }

    /// The kind of a whole file, if it is one that is kept.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', b'V', b'P', ..] => Some(Self::Webp),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Some(Self::Wav),
            [b'%', b'P', b'D', b'F', b'-', b'1'..=b'2', b'.', b'0'..=b'9', ..] => Some(Self::Pdf),
            [b'O', b'g', b'g', b'S', 0, ..] => is_sound_in_ogg(bytes).then_some(Self::Ogg),
            [0x1a, 0x45, 0xdf, 0xa3, rest @ ..] => is_webm(rest).then_some(Self::Webm),
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => brand(bytes),
            [b'I', b'D', b'3', ..] => frames(after_id3(bytes)?),
            [0xff, ..] => frames(bytes),
            _ => None,
        }
    }
}

/// What the first box of an ISO media file says: a size, `ftyp`, the brand, its version, and brands that it is compatible with.
fn brand(bytes: &[u8]) -> Option<Kind> {
    let (size, _) = bytes.split_first_chunk::<4>()?;
    let header = bytes.get(..usize::try_from(u32::from_be_bytes(*size)).ok()?)?;
    let compatible = header.get(16..)?;
    match header.get(8..12)? {
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" => Some(Kind::Heic),
        b"mif1" | b"msf1" if compatible.chunks_exact(4).any(|brand| matches!(brand, b"heic" | b"heix")) => {
            Some(Kind::Heic)
        }
        b"qt  " => Some(Kind::QuickTime),
        b"M4A " | b"M4B " => Some(Kind::M4a),
        b"isom" | b"avc1" | b"dash" | b"mmp4" | b"MSNV" | b"M4V " | b"M4VH" | b"M4VP" => Some(Kind::Mp4),
        [b'i', b's', b'o', b'2'..=b'9'] | [b'm', b'p', b'4', b'1' | b'2'] => Some(Kind::Mp4),
        _ => None,
    }
}

/// Whether the first packet of the first page begins one of the codecs of sound. The page says in byte 26 how many lengths come before it.
fn is_sound_in_ogg(bytes: &[u8]) -> bool {
    let packet = bytes.get(26).and_then(|lengths| bytes.get(27 + usize::from(*lengths)..)).unwrap_or_default();
    [b"OpusHead".as_slice(), b"\x01vorbis", b"Speex   ", b"\x7fFLAC"].iter().any(|codec| packet.starts_with(codec))
}

/// Whether an EBML header, from its size on, has the document type `webm`.
fn is_webm(bytes: &[u8]) -> bool {
    let Some((size, rest)) = ebml_size(bytes) else { return false };
    let mut header = rest.get(..size).unwrap_or_default();
    while let [first, ..] = *header {
        // Of an element's name, too, the leading zero bits say how many bytes follow.
        let Some((name, rest)) = header.split_at_checked(first.leading_zeros() as usize + 1) else { return false };
        let Some((size, rest)) = ebml_size(rest) else { return false };
        let Some((value, rest)) = rest.split_at_checked(size) else { return false };
        if name == [0x42, 0x82] {
            return value == b"webm";
        }
        header = rest;
    }
    false
}

/// A size in EBML: as many bytes follow the first as that has leading zero bits, and the bit after these is no part of the number.
fn ebml_size(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let more = first.leading_zeros() as usize;
    let (more, rest) = rest.split_at_checked(more).filter(|_| more < 8)?;
    let first = usize::from(first & (0x7f >> more.len()));
    Some((more.iter().try_fold(first, |size, byte| Some(size.checked_mul(256)? + usize::from(*byte)))?, rest))
}

/// What follows an ID3 tag and the zeros after it.
fn after_id3(bytes: &[u8]) -> Option<&[u8]> {
    let [_, _, _, 2..=4, _, flags, size @ ..] = bytes else { return None };
    let (size, _) = size.split_first_chunk::<4>()?;
    let size = size.iter().try_fold(0, |sum, byte| (*byte < 0x80).then(|| sum << 7 | usize::from(*byte)))?;
    let footer = if flags & 0x10 == 0 { 0 } else { 10 };
    let rest = bytes.get(10 + size + footer..)?;
    rest.get(rest.iter().position(|byte| *byte != 0)?..)
}

/// Two frames of sound, one right after the other.
fn frames(bytes: &[u8]) -> Option<Kind> {
    let (kind, length) = frame(bytes)?;
    (frame(bytes.get(length..)?)?.0 == kind).then_some(kind)
}

/// The kind and the length of a frame of sound.
fn frame(bytes: &[u8]) -> Option<(Kind, usize)> {
    match *bytes {
        // ADTS: twelve bits of synchronisation, a version, and no layer.
        [0xff, second, third, a, b, c, ..] if second & 0xf6 == 0xf0 => {
            let length = usize::from(a & 0x03) << 11 | usize::from(b) << 3 | usize::from(c >> 5);
            ((third >> 2 & 0x0f) < 13 && length > 7).then_some((Kind::Aac, length))
        }
        // MPEG: eleven bits of synchronisation, a version, and layer III.
        [0xff, second, third, ..] if second & 0xe6 == 0xe2 => {
            const MPEG_1: [usize; 14] = [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
            const MPEG_2: [usize; 14] = [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
            let (rates, samples, slower) = match second >> 3 & 0x03 {
                0 => (MPEG_2, 72, 4),
                2 => (MPEG_2, 72, 2),
                3 => (MPEG_1, 144, 1),
                _ => return None,
            };
            let rate = rates.get(usize::from(third >> 4).checked_sub(1)?)?;
            let frequency = [44_100, 48_000, 32_000].get(usize::from(third >> 2 & 0x03))? / slower;
            Some((Kind::Mp3, samples * rate * 1000 / frequency + usize::from(third >> 1 & 0x01)))
        }
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A box of an ISO media file with its brands.
    fn media(brand: &[u8; 4], compatible: &[u8]) -> Vec<u8> {
        let size = u32::try_from(16 + compatible.len()).unwrap().to_be_bytes();
        [&size, b"ftyp".as_slice(), brand, &[0; 4], compatible, b"\0\0\0\x08free"].concat()
    }

    fn ogg(packet: &[u8]) -> Vec<u8> {
        [b"OggS\0\x02".as_slice(), &[0; 20], &[1, u8::try_from(packet.len()).unwrap()], packet].concat()
    }

    fn ebml(document: &[u8]) -> Vec<u8> {
        let size = 0x80 | u8::try_from(document.len()).unwrap();
        let header = [b"\x42\x86\x81\x01\x42\x82".as_slice(), &[size], document, b"\x42\x87\x81\x02"].concat();
        let size = u32::try_from(header.len()).unwrap().to_be_bytes();
        [b"\x1a\x45\xdf\xa3\x01\0\0\0".as_slice(), &size, &header].concat()
    }

    /// Two frames of 128 kbit/s and 44.1 kHz: 417 bytes each.
    fn mp3() -> Vec<u8> {
        [b"\xff\xfb\x90\x00".as_slice(), &[0; 413], b"\xff\xfb\x90\x00", &[0; 413]].concat()
    }

    /// Two frames of ten bytes.
    fn aac() -> Vec<u8> {
        b"\xff\xf1\x50\x80\x01\x5f\xfc\0\0\0".repeat(2)
    }

    /// The beginning of a file of each kind.
    pub(in super::super) fn examples() -> Vec<(Kind, Vec<u8>)> {
        vec![
            (Kind::Jpeg, b"\xff\xd8\xff\xe0\0\x10JFIF\0".to_vec()),
            (Kind::Png, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec()),
            (Kind::Webp, b"RIFF\x10\0\0\0WEBPVP8 ".to_vec()),
            (Kind::Gif, b"GIF89a\x01\0\x01\0".to_vec()),
            (Kind::Gif, b"GIF87a\x01\0\x01\0".to_vec()),
            (Kind::Heic, media(b"heic", b"mif1heic")),
            (Kind::Heic, media(b"mif1", b"mif1heic")),
            (Kind::Mp4, media(b"isom", b"isomiso2avc1mp41")),
            (Kind::Mp4, media(b"mp42", b"isommp42")),
            (Kind::Mp4, media(b"iso5", b"")),
            (Kind::QuickTime, media(b"qt  ", b"qt  ")),
            (Kind::M4a, media(b"M4A ", b"M4A mp42isom")),
            (Kind::Webm, ebml(b"webm")),
            (Kind::Mp3, mp3()),
            (Kind::Mp3, [b"ID3\x03\0\0\0\0\x01\x02".as_slice(), &[b'x'; 130], &[0; 7], &mp3()].concat()),
            (Kind::Aac, aac()),
            (Kind::Ogg, ogg(b"OpusHead\x01")),
            (Kind::Ogg, ogg(b"\x01vorbis")),
            (Kind::Wav, b"RIFF\x24\0\0\0WAVEfmt ".to_vec()),
            (Kind::Pdf, b"%PDF-1.7\n".to_vec()),
        ]
    }

    /// Files that a browser would run, that are of other kinds, or that only begin as one that is kept.
    pub(in super::super) fn refused() -> Vec<Vec<u8>> {
        vec![
            Vec::new(),
            b"hello, this is text".to_vec(),
            b"<!doctype html><script>alert(1)</script>".to_vec(),
            b"<svg xmlns=\"http://www.w3.org/2000/svg\" onload=\"alert(1)\"/>".to_vec(),
            b"<?xml version=\"1.0\"?><svg/>".to_vec(),
            b"\xef\xbb\xbf<html>".to_vec(),
            b"<!--moov--><script>alert(1)</script>".to_vec(),
            b"<!--ftypisom--><script>alert(1)</script>".to_vec(),
            b"        WEBPVP8 <script>".to_vec(),
            b"GIF<script>alert(1)</script>".to_vec(),
            b"ID3<script>alert(1)</script>".to_vec(),
            b"ID3\x03\0\0\0\0\0\0<script>alert(1)</script>".to_vec(),
            b"\xff\xfb\x90\0<script>alert(1)</script>".to_vec(),
            b"\xff\xf1<script>alert(1)</script>".to_vec(),
            b"OggS\0<script>alert(1)</script>".to_vec(),
            ogg(b"\x80theora"),
            b"%PDF-<script>".to_vec(),
            b" %PDF-1.7\n".to_vec(),
            b"RIFF\x10\0\0\0AVI LIST".to_vec(),
            b"PK\x03\x04\x14\0".to_vec(),
            b"MZ\x90\0".to_vec(),
            b"\x7fELF\x02".to_vec(),
            b"\x1f\x8b\x08\0".to_vec(),
            b"BM\x36\0".to_vec(),
            b"\x1a\x45\xdf\xa3<script>webm".to_vec(),
            ebml(b"matroska"),
            media(b"avif", b"mif1avif"),
            media(b"mif1", b"mif1avif"),
            media(b"crx ", b"isom"),
        ]
    }

    #[test]
    fn each_kind_is_known_by_its_content() {
        for (kind, bytes) in examples() {
            assert_eq!(Kind::of(&bytes), Some(kind), "{:?}", bytes.escape_ascii().to_string());
        }
    }

    #[test]
    fn pages_scripts_and_unknown_kinds_are_refused() {
        for bytes in refused() {
            assert_eq!(Kind::of(&bytes), None, "{:?}", bytes.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_file_that_is_cut_off_anywhere_is_refused_or_of_the_same_kind() {
        for (kind, bytes) in examples() {
            for end in 0..bytes.len() {
                let cut = Kind::of(&bytes[..end]);
                assert!(cut.is_none() || cut == Some(kind), "{kind:?} cut to {end} bytes is {cut:?}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_content_makes_it_panic(which in 0..examples().len(), at in 0_usize..64, byte: u8) {
            let (_, mut bytes) = examples().swap_remove(which);
            let at = at % bytes.len();
            bytes[at] = byte;
            let _: Option<Kind> = Kind::of(&bytes);
        }
    }
}
