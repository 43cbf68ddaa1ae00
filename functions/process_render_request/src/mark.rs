//! Marks a picture machine-readably as made by AI: the IPTC digital source type, in XMP, where search engines, platforms and
//! the transparency duties of the EU's AI Act look for it.

use bytes::Bytes;
use img_parts::{
    jpeg::{Jpeg, JpegSegment, markers},
    png::{Png, PngChunk},
};

use crate::photo::{RenderError, is_png};

/// A photograph that generative AI has altered, by the IPTC's vocabulary. Not `trainedAlgorithmicMedia`, which is for pictures
/// that start from no photograph.
pub const DIGITAL_SOURCE_TYPE: &str =
    "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia";

const JPEG_XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const JPEG_EXIF: &[u8] = b"Exif\0\0";
/// Keyword, then: not compressed, no language, no translated keyword.
const PNG_XMP: &[u8] = b"XML:com.adobe.xmp\0\0\0\0\0";

fn xmp() -> String {
    format!(
        "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\
         <x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
         <rdf:Description rdf:about=\"\" xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\">\
         <Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>\
         </rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end=\"w\"?>"
    )
}

/// The picture with the mark, in place of whatever XMP and EXIF it had. Pixels are untouched.
///
/// # Errors
/// [`RenderError::NotAPicture`] if it is neither PNG nor JPEG.
pub fn mark_ai_generated(bytes: &[u8]) -> Result<Vec<u8>, RenderError> {
    let bytes = Bytes::copy_from_slice(bytes);
    if is_png(&bytes) {
        let mut png = Png::from_bytes(bytes).map_err(|_| RenderError::NotAPicture)?;
        png.chunks_mut().retain(|chunk| {
            chunk.kind() != *b"eXIf"
                && !(chunk.kind() == *b"iTXt" && chunk.contents().starts_with(b"XML:com.adobe.xmp\0"))
        });
        let contents = [PNG_XMP, xmp().as_bytes()].concat();
        // Right behind the header, which must come first.
        let place = png.chunks().len().min(1);
        png.chunks_mut().insert(place, PngChunk::new(*b"iTXt", contents.into()));
        return Ok(png.encoder().bytes().to_vec());
    }
    let mut jpeg = Jpeg::from_bytes(bytes).map_err(|_| RenderError::NotAPicture)?;
    jpeg.segments_mut().retain(|segment| {
        segment.marker() != markers::APP1
            || !(segment.contents().starts_with(JPEG_XMP) || segment.contents().starts_with(JPEG_EXIF))
    });
    let contents = [JPEG_XMP, xmp().as_bytes()].concat();
    // Behind JFIF's own segment, where there is one.
    let place = jpeg.segments().iter().take_while(|segment| segment.marker() == markers::APP0).count();
    jpeg.segments_mut().insert(place, JpegSegment::new_with_contents(markers::APP1, contents.into()));
    Ok(jpeg.encoder().bytes().to_vec())
}

/// The digital source type a picture carries, if it carries one.
#[must_use]
pub fn read_mark(bytes: &[u8]) -> Option<String> {
    let bytes = Bytes::copy_from_slice(bytes);
    let xmp = if is_png(&bytes) {
        let png = Png::from_bytes(bytes).ok()?;
        png.chunks_by_type(*b"iTXt").find_map(|chunk| chunk.contents().strip_prefix(PNG_XMP).map(<[u8]>::to_vec))?
    } else {
        let jpeg = Jpeg::from_bytes(bytes).ok()?;
        jpeg.segments_by_marker(markers::APP1)
            .find_map(|segment| segment.contents().strip_prefix(JPEG_XMP).map(<[u8]>::to_vec))?
    };
    let text = String::from_utf8(xmp).ok()?;
    let (_, rest) = text.split_once("<Iptc4xmpExt:DigitalSourceType>")?;
    Some(rest.split_once('<')?.0.to_owned())
}
