//! JPEG, decoded no larger than it is needed, and only if the whole picture is there.
//!
//! Decoders for browsers fill up what is missing with grey and keep quiet about it, so a photo that was cut off would be rendered with a
//! grey floor. And a photo of a phone has sixty megapixels, of which a model gets four: here each block is turned into as many pixels as
//! are asked for, one to eight in a row, before there is a picture. Baseline, extended and progressive coding with Huffman codes and
//! eight bits a sample (ITU-T T.81), which is what cameras, phones and browsers write.

mod bits;
mod draw;
mod scan;
#[cfg(test)]
mod tests;

use self::{
    bits::{Bits, Codes},
    scan::Coder,
};
use crate::container::next_marker;

/// Why a JPEG was not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JpegError {
    /// It contradicts itself, or not all of the picture is there.
    Damaged,
    /// It is coded in a way that is not decoded here; says which.
    Unsupported(&'static str),
}

/// A decoded picture.
#[derive(Debug)]
pub(crate) struct Decoded {
    /// Pixels, after scaling.
    pub(crate) width: u32,
    /// Pixels, after scaling.
    pub(crate) height: u32,
    /// 1 (grey), 3 (red, green, blue) or 4 (what is left of white under cyan, magenta, yellow and black: 255 is no ink).
    pub(crate) channels: usize,
    /// Row by row, channels side by side.
    pub(crate) pixels: Vec<u8>,
}

/// The order in which coefficients are coded.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];
/// What may lie between the last coded byte and the end of a file that has no end marker. A download that was cut off and filled up with
/// zeros has more.
const LEFT_OVER: usize = 64;
/// The most scans of a picture. Encoders make about ten; each takes a walk over all blocks.
const MOST_SCANS: usize = 100;

/// A component, as the frame header describes it.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    id: u8,
    across: usize,
    down: usize,
    table: usize,
}

/// A frame header.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// Pixels.
    pub(crate) width: u32,
    /// Pixels.
    pub(crate) height: u32,
    progressive: bool,
    parts: Vec<Part>,
}

impl Frame {
    /// Reads the frame header with this marker, if the marker is that of one.
    ///
    /// # Errors
    /// [`JpegError`], also for markers that only codings have which are not decoded here.
    pub(crate) fn read(marker: u8, header: &[u8]) -> Result<Option<Self>, JpegError> {
        let unsupported = |what| Err(JpegError::Unsupported(what));
        match marker {
            0xc0..=0xc2 => {}
            0xc3 => return unsupported("a lossless JPEG"),
            0xc5..=0xc7 | 0xde | 0xdf => return unsupported("a hierarchical JPEG"),
            0xc9..=0xcf => return unsupported("a JPEG with arithmetic coding"),
            _ => return Ok(None),
        }
        let [precision, h1, h2, w1, w2, count, rest @ ..] = header else { return Err(JpegError::Damaged) };
        if *precision != 8 {
            return unsupported("a JPEG of more than eight bits a colour");
        }
        let (height, width) = (u16::from_be_bytes([*h1, *h2]), u16::from_be_bytes([*w1, *w2]));
        if height == 0 {
            return unsupported("a JPEG that does not say its height");
        }
        let count = usize::from(*count);
        if width == 0 || count == 0 || rest.len() < 3 * count {
            return Err(JpegError::Damaged);
        }
        if !matches!(count, 1 | 3 | 4) {
            return unsupported("a JPEG of two colours");
        }
        let mut parts = Vec::with_capacity(count);
        for part in rest[..3 * count].chunks_exact(3) {
            let (across, down, table) = (usize::from(part[1] >> 4), usize::from(part[1] & 15), usize::from(part[2]));
            if !(1..=4).contains(&across) || !(1..=4).contains(&down) || table > 3 {
                return Err(JpegError::Damaged);
            }
            parts.push(Part { id: part[0], across, down, table });
        }
        if let [only] = parts.as_mut_slice() {
            // Alone it is coded block by block, and its sampling means nothing.
            (only.across, only.down) = (1, 1);
        }
        Ok(Some(Self { width: width.into(), height: height.into(), progressive: marker == 0xc2, parts }))
    }

    fn most(&self) -> (usize, usize) {
        let across = self.parts.iter().map(|part| part.across).max().unwrap_or(1);
        (across, self.parts.iter().map(|part| part.down).max().unwrap_or(1))
    }
}

/// A component while it is decoded.
struct Plane {
    part: Part,
    /// Blocks in a row, and rows of them, with those that only fill up the last unit.
    blocks: (usize, usize),
    /// The same without them.
    seen: (usize, usize),
    /// Pixels that a block becomes, across and down.
    size: (usize, usize),
    /// All coefficients, of a progressive picture.
    coefficients: Vec<[i16; 64]>,
    samples: Vec<u8>,
    /// Which factors it was coded with.
    factors: Option<[u16; 64]>,
    /// For each coefficient, how many of its lowest bits have not been read; all of them at first.
    missing: [u8; 64],
}

/// What a scan header says.
struct Scan {
    planes: Vec<(usize, usize, usize)>,
    from: usize,
    to: usize,
    high: u8,
    low: u8,
}

struct Decoder<'a> {
    bytes: &'a [u8],
    frame: Option<Frame>,
    scale: usize,
    planes: Vec<Plane>,
    factors: [Option<[u16; 64]>; 4],
    direct: [Option<Codes>; 4],
    alternating: [Option<Codes>; 4],
    restart: usize,
    jfif: bool,
    adobe: Option<u8>,
}

/// Decodes a JPEG to the smallest of full, half, quarter and eighth size whose longer side is at least `at_least` pixels, or to full size.
///
/// # Errors
/// [`JpegError`]; any bytes may come.
pub(crate) fn decode(bytes: &[u8], at_least: u32) -> Result<Decoded, JpegError> {
    let mut decoder = Decoder {
        bytes,
        frame: None,
        scale: 8,
        planes: Vec::new(),
        factors: [None; 4],
        direct: [const { None }; 4],
        alternating: [const { None }; 4],
        restart: 0,
        jfif: false,
        adobe: None,
    };
    decoder.read(at_least)?;
    decoder.finish()
}

impl Decoder<'_> {
    /// Reads all segments and scans, up to the end marker or to where the picture is complete.
    fn read(&mut self, at_least: u32) -> Result<(), JpegError> {
        let (mut at, mut scans) = (2, 0);
        loop {
            let Some((marker, behind)) = next_marker(self.bytes, at) else { return Err(JpegError::Damaged) };
            at = behind;
            match marker {
                // The end, as the one who wrote it saw it.
                0xd9 if self.planes.iter().all(|plane| plane.missing[0] < u8::MAX) && self.frame.is_some() => {
                    return Ok(());
                }
                0xd8 | 0xd9 => return Err(JpegError::Damaged),
                0x01 | 0xd0..=0xd7 => continue,
                _ => {}
            }
            let length = self.bytes.get(at..at + 2).map_or(0, |two| usize::from(two[0]) << 8 | usize::from(two[1]));
            let segment = self.bytes.get(at + 2..at + length).ok_or(JpegError::Damaged)?;
            at += length;
            match marker {
                0xc4 => self.read_codes(segment)?,
                0xdb => self.read_factors(segment)?,
                0xdd => self.restart = segment.get(..2).map_or(0, |two| usize::from(two[0]) << 8 | usize::from(two[1])),
                0xda => {
                    scans += 1;
                    if scans > MOST_SCANS {
                        return Err(JpegError::Unsupported("a JPEG in more than a hundred parts"));
                    }
                    at = self.read_scan(segment, at)?;
                    // Coded data that go on behind the last unit belong to another picture than was read: a part in between was lost.
                    let rest = self.bytes.get(at..).unwrap_or_default();
                    let gap = rest.windows(2).position(|pair| pair[0] == 0xff && pair[1] != 0).unwrap_or(rest.len());
                    if rest[..gap].iter().filter(|byte| **byte != 0).count() > LEFT_OVER {
                        return Err(JpegError::Damaged);
                    }
                    if self.is_complete() {
                        // What follows is not needed. Without an end marker there may be no more than a byte or two, else this was cut
                        // off and filled up.
                        let rest = &self.bytes[at..];
                        let whole = rest.len() <= LEFT_OVER || rest.windows(2).any(|pair| pair == [0xff, 0xd9]);
                        return if whole { Ok(()) } else { Err(JpegError::Damaged) };
                    }
                }
                0xe0 => self.jfif |= segment.starts_with(b"JFIF\0"),
                0xee if segment.starts_with(b"Adobe") => {
                    self.adobe = Some(segment.get(11).copied().unwrap_or_default())
                }
                _ => {
                    if let Some(frame) = Frame::read(marker, segment)? {
                        self.begin(frame, at_least)?;
                    }
                }
            }
        }
    }

    /// Makes room for a picture.
    fn begin(&mut self, frame: Frame, at_least: u32) -> Result<(), JpegError> {
        if self.frame.is_some() {
            return Err(JpegError::Damaged);
        }
        let long = frame.width.max(frame.height);
        self.scale = [1_u32, 2, 4].into_iter().find(|scale| long * scale / 8 >= at_least).unwrap_or(8) as usize;
        let (across, down) = frame.most();
        let units = ((frame.width as usize).div_ceil(8 * across), (frame.height as usize).div_ceil(8 * down));
        for part in &frame.parts {
            let (wide, tall) = (self.scale * across, self.scale * down);
            if !wide.is_multiple_of(part.across) || !tall.is_multiple_of(part.down) {
                return Err(JpegError::Unsupported("a JPEG whose colours are stored at an unusual size"));
            }
            let blocks = (units.0 * part.across, units.1 * part.down);
            let size = (wide / part.across, tall / part.down);
            let own = |side: u32, own: usize, most: usize| (side as usize * own).div_ceil(most).div_ceil(8);
            let count = blocks.0 * blocks.1;
            self.planes.push(Plane {
                part: *part,
                blocks,
                seen: (own(frame.width, part.across, across), own(frame.height, part.down, down)),
                size,
                coefficients: if frame.progressive { vec![[0; 64]; count] } else { Vec::new() },
                samples: if frame.progressive { Vec::new() } else { vec![0; count * size.0 * size.1] },
                factors: None,
                missing: [u8::MAX; 64],
            });
        }
        self.frame = Some(frame);
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.planes.iter().all(|plane| plane.missing == [0; 64])
    }

    fn read_factors(&mut self, mut segment: &[u8]) -> Result<(), JpegError> {
        while let [head, rest @ ..] = segment {
            let (wide, place) = (head >> 4 != 0, usize::from(head & 15));
            let table = rest.get(..if wide { 128 } else { 64 }).ok_or(JpegError::Damaged)?;
            let mut factors = [0; 64];
            for (place, factor) in factors.iter_mut().enumerate() {
                *factor = if wide {
                    u16::from_be_bytes([table[2 * place], table[2 * place + 1]])
                } else {
                    table[place].into()
                };
            }
            *self.factors.get_mut(place).ok_or(JpegError::Damaged)? = Some(factors);
            segment = &rest[table.len()..];
        }
        Ok(())
    }

    fn read_codes(&mut self, mut segment: &[u8]) -> Result<(), JpegError> {
        while let [head, rest @ ..] = segment {
            let counts: &[u8; 16] = rest.first_chunk().ok_or(JpegError::Damaged)?;
            let total = counts.iter().map(|count| usize::from(*count)).sum::<usize>();
            let symbols = rest.get(16..16 + total).ok_or(JpegError::Damaged)?;
            let tables = if head >> 4 == 0 { &mut self.direct } else { &mut self.alternating };
            let table = tables.get_mut(usize::from(head & 15)).ok_or(JpegError::Damaged)?;
            *table = Some(Codes::read(counts, symbols)?);
            segment = &rest[16 + total..];
        }
        Ok(())
    }

    fn read_scan_header(&self, segment: &[u8]) -> Result<Scan, JpegError> {
        let frame = self.frame.as_ref().ok_or(JpegError::Damaged)?;
        let [count, rest @ ..] = segment else { return Err(JpegError::Damaged) };
        let count = usize::from(*count);
        let (named, rest) = rest.split_at_checked(2 * count).ok_or(JpegError::Damaged)?;
        let [from, to, bits, ..] = rest else { return Err(JpegError::Damaged) };
        let mut planes: Vec<(usize, usize, usize)> = Vec::with_capacity(count);
        for named in named.chunks_exact(2) {
            let place = self.planes.iter().position(|plane| plane.part.id == named[0]).ok_or(JpegError::Damaged)?;
            if planes.iter().any(|(other, ..)| *other == place) {
                return Err(JpegError::Damaged);
            }
            planes.push((place, usize::from(named[1] >> 4), usize::from(named[1] & 15)));
        }
        let (from, to, high, low) = match frame.progressive {
            true => (usize::from(*from), usize::from(*to), bits >> 4, bits & 15),
            false => (0, 63, 0, 0),
        };
        // Frequencies other than the first are coded for one component at a time, and bits one at a time after the first time.
        let fits = from <= to && to <= 63 && low <= 13 && (high == 0 || high == low + 1);
        let alone = !frame.progressive || (from == 0 && to == 0) || (from > 0 && count == 1);
        if count == 0 || !fits || !alone {
            return Err(JpegError::Damaged);
        }
        Ok(Scan { planes, from, to, high, low })
    }

    /// Decodes a scan whose coded data begin at `at`; where they end.
    fn read_scan(&mut self, segment: &[u8], at: usize) -> Result<usize, JpegError> {
        let scan = self.read_scan_header(segment)?;
        let progressive = self.frame.as_ref().is_some_and(|frame| frame.progressive);
        for (place, ..) in &scan.planes {
            let plane = &mut self.planes[*place];
            if plane.factors.is_none() {
                plane.factors = Some(self.factors[plane.part.table].ok_or(JpegError::Damaged)?);
            }
            for missing in &mut plane.missing[scan.from..=scan.to] {
                // A bit that is added to what was never begun, or twice.
                let fits = if scan.high == 0 { *missing == u8::MAX } else { *missing == scan.high };
                if !fits {
                    return Err(JpegError::Damaged);
                }
                *missing = scan.low;
            }
        }
        let units = match scan.planes.as_slice() {
            [(place, ..)] => self.planes[*place].seen,
            _ => self
                .planes
                .first()
                .map_or((0, 0), |plane| (plane.blocks.0 / plane.part.across, plane.blocks.1 / plane.part.down)),
        };
        let mut coder = Coder {
            bits: Bits::new(self.bytes, at),
            before: [0; 4],
            run: 0,
            scan: &scan,
            direct: &self.direct,
            alternating: &self.alternating,
        };
        let mut block = [0_i16; 64];
        let mut left = self.restart;
        let mut number = 0;
        for down in 0..units.1 {
            for across in 0..units.0 {
                if self.restart > 0 && left == 0 {
                    coder.restart(number)?;
                    (left, number) = (self.restart, (number + 1) % 8);
                }
                left = left.wrapping_sub(1);
                for which in 0..scan.planes.len() {
                    let plane = &mut self.planes[scan.planes[which].0];
                    let (h, v) = if scan.planes.len() == 1 { (1, 1) } else { (plane.part.across, plane.part.down) };
                    for inner in 0..h * v {
                        let (x, y) = (across * h + inner % h, down * v + inner / h);
                        if progressive {
                            let place = y * plane.blocks.0 + x;
                            coder.progressive(which, plane.coefficients.get_mut(place).ok_or(JpegError::Damaged)?)?;
                        } else {
                            block.fill(0);
                            coder.sequential(which, &mut block)?;
                            plane.draw(&block, x, y);
                        }
                    }
                }
            }
        }
        Ok(coder.bits.at)
    }

    /// The picture in its colours.
    fn finish(mut self) -> Result<Decoded, JpegError> {
        let frame = self.frame.take().ok_or(JpegError::Damaged)?;
        for plane in &mut self.planes {
            if !frame.progressive {
                continue;
            }
            plane.samples = vec![0; plane.blocks.0 * plane.blocks.1 * plane.size.0 * plane.size.1];
            let coefficients = std::mem::take(&mut plane.coefficients);
            for (place, block) in coefficients.iter().enumerate() {
                plane.draw(block, place % plane.blocks.0, place / plane.blocks.0);
            }
        }
        let (width, height) =
            ((frame.width as usize * self.scale).div_ceil(8), (frame.height as usize * self.scale).div_ceil(8));
        let channels = self.planes.len();
        let mixed = self.is_mixed(&frame)?;
        let mut pixels = vec![0; width * height * channels];
        for (y, row) in pixels.chunks_exact_mut(width * channels).enumerate() {
            for (channel, plane) in self.planes.iter().enumerate() {
                let stride = plane.blocks.0 * plane.size.0;
                let source = plane.samples.get(y * stride..y * stride + width).ok_or(JpegError::Damaged)?;
                for (pixel, sample) in row.chunks_exact_mut(channels).zip(source) {
                    pixel[channel] = *sample;
                }
            }
            if mixed {
                row.chunks_exact_mut(channels).for_each(to_rgb);
            }
            if mixed && channels == 4 {
                // Adobe mixes inks, and stores what is left of white.
                for pixel in row.chunks_exact_mut(4) {
                    pixel[..3].iter_mut().for_each(|ink| *ink = 255 - *ink);
                }
            }
        }
        let side = |pixels| u32::try_from(pixels).map_err(|_| JpegError::Damaged);
        Ok(Decoded { width: side(width)?, height: side(height)?, channels, pixels })
    }

    /// Whether colours are stored as brightness and two differences.
    fn is_mixed(&self, frame: &Frame) -> Result<bool, JpegError> {
        let ids: Vec<u8> = frame.parts.iter().map(|part| part.id).collect();
        match (frame.parts.len(), self.adobe) {
            (1, _) => Ok(false),
            (4, None) => Err(JpegError::Unsupported("a CMYK file that does not say how its inks are stored")),
            (4, Some(transform)) => Ok(transform == 2),
            _ if self.jfif => Ok(true),
            (_, Some(transform)) => Ok(transform != 0),
            _ => Ok(ids != *b"RGB"),
        }
    }
}

/// One pixel from brightness and differences of colour (ITU-T T.871).
fn to_rgb(pixel: &mut [u8]) {
    let [y, blue, red] = [pixel[0], pixel[1], pixel[2]].map(i32::from);
    let (blue, red) = (blue - 128, red - 128);
    // In 65536ths, rounded.
    let y = (y << 16) + (1 << 15);
    let byte = |value: i32| u8::try_from((value >> 16).clamp(0, 255)).unwrap_or_default();
    pixel[0] = byte(y + 91_881 * red);
    pixel[1] = byte(y - 22_554 * blue - 46_802 * red);
    pixel[2] = byte(y + 116_130 * blue);
}
