//! Marks a picture machine-readably as made by AI: the IPTC digital source type, in XMP, where search engines, platforms and
//! the transparency duties of the EU's AI Act look for it. What else the file says of itself goes: nothing says where it is from, and
//! Content Credentials (C2PA), whose signature covers every byte, would call the marked picture tampered with.

use crate::{
    container::{png_chunks, segments, webp_chunks},
    header::{Header, kind},
    photo::{CheckedRender, RenderError},
};

/// A photograph that generative AI has altered, by the IPTC's vocabulary. Not `trainedAlgorithmicMedia`, which is for pictures
/// that start from no photograph.
pub const DIGITAL_SOURCE_TYPE: &str =
    "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia";

const JPEG_XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
/// Keyword, then: not compressed, no language, no translated keyword.
const PNG_XMP: &[u8] = b"XML:com.adobe.xmp\0\0\0\0\0";
/// What a PNG keeps: what it takes to show it as it was.
const PNG_KEPT: [&[u8; 4]; 12] =
    [b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT", b"bKGD", b"pHYs"];
const WEBP_KEPT: [&[u8; 4]; 6] = [b"ICCP", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L"];
/// Flags of a WebP's header: it has EXIF, it has XMP, it is transparent.
const WEBP_EXIF: u8 = 0x08;
const WEBP_XMP: u8 = 0x04;
const WEBP_ALPHA: u8 = 0x10;

/// A picture that says what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// The file.
    pub bytes: Vec<u8>,
    /// Whether Content Credentials were taken out of it.
    pub credentials_removed: bool,
}

fn xmp() -> String {
    format!(
        "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\
         <x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
         <rdf:Description rdf:about=\"\" xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\">\
         <Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>\
         </rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end=\"w\"?>"
    )
}

/// The picture with the mark, and without anything else but what it takes to show it. Pixels are untouched. What EXIF says of its
/// orientation goes as well: the picture must be upright.
///
/// # Errors
/// [`RenderError::NotAPicture`] if it is no PNG, JPEG or WebP.
pub fn mark_ai_generated(bytes: &[u8]) -> Result<Marked, RenderError> {
    let marked = match kind(bytes).map_err(|_| RenderError::NotAPicture)? {
        image::ImageFormat::Png => mark_png(bytes),
        image::ImageFormat::Jpeg => mark_jpeg(bytes),
        _ => mark_webp(bytes),
    };
    marked.ok_or(RenderError::NotAPicture)
}

/// A model's picture as it is stored: upright, and marked.
///
/// # Errors
/// [`RenderError::NotAPicture`], as of [`mark_ai_generated`].
pub(crate) fn mark_render(bytes: &[u8], checked: &CheckedRender) -> Result<Marked, RenderError> {
    let mut marked = mark_ai_generated(checked.upright.as_deref().unwrap_or(bytes))?;
    marked.credentials_removed |= has_credentials(bytes);
    Ok(marked)
}

fn mark_jpeg(bytes: &[u8]) -> Option<Marked> {
    let contents = [JPEG_XMP, xmp().as_bytes()].concat();
    let mut mark = vec![0xff, 0xe1];
    mark.extend(u16::try_from(contents.len() + 2).ok()?.to_be_bytes());
    mark.extend(contents);

    let mut marked = vec![0xff, 0xd8];
    let (mut credentials_removed, mut mark) = (false, Some(mark));
    for segment in segments(bytes) {
        let kept = match segment.marker {
            0xe0 => segment.payload.starts_with(b"JFIF\0"),
            0xe2 => segment.payload.starts_with(b"ICC_PROFILE\0"),
            0xee => segment.payload.starts_with(b"Adobe"),
            // Frame, codes, factors, restarts and scans.
            0xc0..=0xc2 | 0xc4 | 0xda | 0xdb | 0xdd => true,
            _ => false,
        };
        credentials_removed |= segment.marker == 0xeb && segment.payload.starts_with(b"JP");
        // Behind JFIF's own segment, where there is one.
        if segment.marker != 0xe0
            && let Some(mark) = mark.take()
        {
            marked.extend(mark);
        }
        if kept {
            marked.extend(bytes.get(segment.whole)?);
        }
    }
    marked.extend([0xff, 0xd9]);
    mark.is_none().then_some(Marked { bytes: marked, credentials_removed })
}

fn mark_png(bytes: &[u8]) -> Option<Marked> {
    let mut marked = bytes.get(..8)?.to_vec();
    let mut credentials_removed = false;
    for chunk in png_chunks(bytes) {
        credentials_removed |= chunk.kind == *b"caBX";
        if PNG_KEPT.contains(&&chunk.kind) && !chunk.is_profile_bomb() {
            marked.extend(bytes.get(chunk.whole)?);
        }
        // Right behind the header, which must come first.
        if chunk.kind == *b"IHDR" {
            put_png_chunk(&mut marked, *b"iTXt", &[PNG_XMP, xmp().as_bytes()].concat())?;
        }
    }
    put_png_chunk(&mut marked, *b"IEND", &[])?;
    Some(Marked { bytes: marked, credentials_removed })
}

fn put_png_chunk(file: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) -> Option<()> {
    file.extend(u32::try_from(data.len()).ok()?.to_be_bytes());
    let from = file.len();
    file.extend(kind);
    file.extend(data);
    let sum = crc32fast::hash(&file[from..]);
    file.extend(sum.to_be_bytes());
    Some(())
}

fn mark_webp(bytes: &[u8]) -> Option<Marked> {
    let header = Header::read(bytes).ok()??;
    let mut flags = 0;
    let (mut credentials_removed, mut pictured) = (false, false);
    let mut kept = Vec::new();
    for chunk in webp_chunks(bytes) {
        match &chunk.kind {
            b"VP8X" => flags |= *chunk.data.first()?,
            // Its header says whether it is transparent.
            b"VP8L" if chunk.data.get(4)? & WEBP_ALPHA != 0 => flags |= WEBP_ALPHA,
            b"C2PA" => credentials_removed = true,
            _ => {}
        }
        if WEBP_KEPT.contains(&&chunk.kind) {
            put_webp_chunk(&mut kept, chunk.kind, chunk.data)?;
        }
        pictured |= matches!(&chunk.kind, b"VP8 " | b"VP8L" | b"ANMF");
    }
    // Decoders forgive a last chunk that claims more than the file has; then it is not among the chunks.
    if !pictured {
        return None;
    }
    flags = flags & !WEBP_EXIF | WEBP_XMP;
    let [w1, w2, w3, _] = (header.width - 1).to_le_bytes();
    let [h1, h2, h3, _] = (header.height - 1).to_le_bytes();
    let mut body = b"WEBP".to_vec();
    put_webp_chunk(&mut body, *b"VP8X", &[flags, 0, 0, 0, w1, w2, w3, h1, h2, h3])?;
    body.extend(kept);
    put_webp_chunk(&mut body, *b"XMP ", xmp().as_bytes())?;
    let mut marked = b"RIFF".to_vec();
    marked.extend(u32::try_from(body.len()).ok()?.to_le_bytes());
    marked.extend(body);
    Some(Marked { bytes: marked, credentials_removed })
}

fn put_webp_chunk(file: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) -> Option<()> {
    file.extend(kind);
    file.extend(u32::try_from(data.len()).ok()?.to_le_bytes());
    file.extend(data);
    if !data.len().is_multiple_of(2) {
        file.push(0);
    }
    Some(())
}

/// The digital source type a picture carries, if it carries one.
#[must_use]
pub fn read_mark(bytes: &[u8]) -> Option<String> {
    let xmp = match kind(bytes).ok()? {
        image::ImageFormat::Png => png_chunks(bytes)
            .filter(|chunk| chunk.kind == *b"iTXt")
            .find_map(|chunk| chunk.data.strip_prefix(PNG_XMP))?
            .to_vec(),
        image::ImageFormat::Jpeg => segments(bytes)
            .filter(|segment| segment.marker == 0xe1)
            .find_map(|segment| segment.payload.strip_prefix(JPEG_XMP))?
            .to_vec(),
        _ => webp_chunks(bytes).find(|chunk| chunk.kind == *b"XMP ")?.data.to_vec(),
    };
    let text = String::from_utf8(xmp).ok()?;
    let (_, rest) = text.split_once("<Iptc4xmpExt:DigitalSourceType>")?;
    Some(rest.split_once('<')?.0.to_owned())
}

/// Whether a picture carries Content Credentials (C2PA).
#[must_use]
pub fn has_credentials(bytes: &[u8]) -> bool {
    match kind(bytes) {
        Ok(image::ImageFormat::Png) => png_chunks(bytes).any(|chunk| chunk.kind == *b"caBX"),
        Ok(image::ImageFormat::Jpeg) => {
            segments(bytes).any(|segment| segment.marker == 0xeb && segment.payload.starts_with(b"JP"))
        }
        Ok(_) => webp_chunks(bytes).any(|chunk| chunk.kind == *b"C2PA"),
        Err(_) => false,
    }
}
