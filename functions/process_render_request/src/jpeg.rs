//! JPEG, decoded no larger than it is needed, and only if the whole picture is there.
//!
//! Decoders for browsers fill up what is missing with grey and keep quiet about it, so a photo that was cut off would be rendered with a
//! grey floor. And a photo of a phone has sixty megapixels, of which a model gets four: here each block is turned into as many pixels as
//! are asked for, one to eight in a row, before there is a picture. Baseline, extended and progressive coding with Huffman codes and
//! eight bits a sample (ITU-T T.81), which is what cameras, phones and browsers write.

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
/// The most pixels in a row that a block becomes: at full size, where a component is stored at a quarter of it.
const LONGEST: usize = 32;
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
            // Alone it is coded block by block, whatever it says.
            (only.across, only.down) = (1, 1);
        }
        Ok(Some(Self { width: width.into(), height: height.into(), progressive: marker == 0xc2, parts }))
    }

    fn most(&self) -> (usize, usize) {
        let across = self.parts.iter().map(|part| part.across).max().unwrap_or(1);
        (across, self.parts.iter().map(|part| part.down).max().unwrap_or(1))
    }
}

/// The codes of a table: a look-up for the first nine bits, and the largest code of each length for longer ones.
#[derive(Clone)]
struct Codes {
    short: Vec<(u8, u8)>,
    largest: [i32; 17],
    first: [i32; 17],
    symbols: Vec<u8>,
}

const SHORT: u32 = 9;

impl Codes {
    fn read(counts: &[u8; 16], symbols: &[u8]) -> Result<Self, JpegError> {
        let mut codes =
            Self { short: vec![(0, 0); 1 << SHORT], largest: [-1; 17], first: [0; 17], symbols: symbols.to_vec() };
        let (mut code, mut at) = (0_i32, 0_usize);
        for (length, count) in (1_usize..).zip(counts) {
            codes.first[length] = i32::try_from(at).map_err(|_| JpegError::Damaged)? - code;
            for _ in 0..*count {
                // More codes than the length has room for.
                if code >= 1 << length {
                    return Err(JpegError::Damaged);
                }
                let symbol = *symbols.get(at).ok_or(JpegError::Damaged)?;
                if length <= SHORT as usize {
                    let spare = SHORT as usize - length;
                    let from = usize::try_from(code).map_err(|_| JpegError::Damaged)? << spare;
                    for place in &mut codes.short[from..from + (1 << spare)] {
                        *place = (u8::try_from(length).unwrap_or_default(), symbol);
                    }
                }
                (code, at) = (code + 1, at + 1);
            }
            codes.largest[length] = if *count > 0 { code - 1 } else { -1 };
            code <<= 1;
        }
        Ok(codes)
    }
}

/// The coded bits of a scan, up to the marker that ends them.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, held: 0, count: 0 }
    }

    fn fill(&mut self) {
        while self.count <= 56 {
            let Some(byte) = self.bytes.get(self.at) else { return };
            if *byte == 0xff {
                // A zero behind it says that it is data. Anything else is a marker, at which the data ends.
                if self.bytes.get(self.at + 1) != Some(&0) {
                    return;
                }
                self.at += 1;
            }
            self.at += 1;
            self.held = self.held << 8 | u64::from(*byte);
            self.count += 8;
        }
    }

    /// The next bits, with zeros for those that are not there; nothing is used up.
    fn peek(&mut self, bits: u32) -> usize {
        if self.count < bits {
            self.fill();
        }
        let held = if self.count >= bits { self.held >> (self.count - bits) } else { self.held << (bits - self.count) };
        usize::try_from(held & ((1 << bits) - 1)).unwrap_or_default()
    }

    fn skip(&mut self, bits: u32) -> Result<(), JpegError> {
        self.count = self.count.checked_sub(bits).ok_or(JpegError::Damaged)?;
        Ok(())
    }

    fn take(&mut self, bits: u32) -> Result<i32, JpegError> {
        let value = self.peek(bits);
        self.skip(bits)?;
        i32::try_from(value).map_err(|_| JpegError::Damaged)
    }

    fn symbol(&mut self, codes: &Codes) -> Result<u8, JpegError> {
        let (length, symbol) = codes.short[self.peek(SHORT)];
        if length > 0 {
            self.skip(length.into())?;
            return Ok(symbol);
        }
        let next = self.peek(16);
        for length in SHORT as usize + 1..=16 {
            let code = i32::try_from(next >> (16 - length)).map_err(|_| JpegError::Damaged)?;
            if code <= codes.largest[length] {
                self.skip(u32::try_from(length).unwrap_or_default())?;
                let place = usize::try_from(code + codes.first[length]).map_err(|_| JpegError::Damaged)?;
                return codes.symbols.get(place).copied().ok_or(JpegError::Damaged);
            }
        }
        Err(JpegError::Damaged)
    }

    /// A number of so many bits: those that begin with zero are negative.
    fn number(&mut self, bits: u8) -> Result<i32, JpegError> {
        if bits == 0 {
            return Ok(0);
        }
        if bits > 15 {
            return Err(JpegError::Damaged);
        }
        let value = self.take(bits.into())?;
        Ok(if value < 1 << (bits - 1) { value - (1 << bits) + 1 } else { value })
    }

    /// Goes behind the restart marker with this number, which must be the next one.
    fn restart(&mut self, number: u8) -> Result<(), JpegError> {
        (self.held, self.count) = (0, 0);
        let (marker, behind) = next_marker(self.bytes, self.at).ok_or(JpegError::Damaged)?;
        if marker != 0xd0 + number {
            return Err(JpegError::Damaged);
        }
        self.at = behind;
        Ok(())
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
/// [`JpegError`], for whatever bytes.
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
                        // Whatever follows is not needed. Without an end marker there may be no more than a byte or two, else this was cut
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

/// Decodes the blocks of a scan.
struct Coder<'a> {
    bits: Bits<'a>,
    /// The last first coefficient of each component in the scan.
    before: [i32; 4],
    /// How many blocks have nothing more in this band.
    run: u32,
    scan: &'a Scan,
    direct: &'a [Option<Codes>; 4],
    alternating: &'a [Option<Codes>; 4],
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "coefficients have sixteen bits; a file that exceeds them gets what they wrap to"
)]
impl Coder<'_> {
    fn restart(&mut self, number: u8) -> Result<(), JpegError> {
        self.bits.restart(number)?;
        (self.before, self.run) = ([0; 4], 0);
        Ok(())
    }

    fn direct(&mut self, which: usize) -> Result<i32, JpegError> {
        let codes = self.direct.get(self.scan.planes[which].1).and_then(Option::as_ref).ok_or(JpegError::Damaged)?;
        let bits = self.bits.symbol(codes)?;
        let difference = self.bits.number(bits)?;
        self.before[which] = self.before[which].wrapping_add(difference);
        Ok(self.before[which])
    }

    fn sequential(&mut self, which: usize, block: &mut [i16; 64]) -> Result<(), JpegError> {
        block[0] = self.direct(which)? as i16;
        let scan = self.scan;
        let tables = self.alternating;
        let codes = tables.get(scan.planes[which].2).and_then(Option::as_ref).ok_or(JpegError::Damaged)?;
        let mut place = 1;
        while place < 64 {
            let symbol = self.bits.symbol(codes)?;
            let (zeros, bits) = (usize::from(symbol >> 4), symbol & 15);
            if bits == 0 {
                if zeros < 15 {
                    break;
                }
                place += 16;
                continue;
            }
            place += zeros;
            let at = *ZIGZAG.get(place).ok_or(JpegError::Damaged)?;
            block[usize::from(at)] = self.bits.number(bits)? as i16;
            place += 1;
        }
        Ok(())
    }

    fn progressive(&mut self, which: usize, block: &mut [i16; 64]) -> Result<(), JpegError> {
        match (self.scan.from, self.scan.high) {
            (0, 0) => block[0] = (self.direct(which)? << self.scan.low) as i16,
            (0, _) => block[0] |= (self.bits.take(1)? << self.scan.low) as i16,
            (_, 0) => self.begin_band(which, block)?,
            _ => self.refine_band(which, block)?,
        }
        Ok(())
    }

    /// The first bits of a band of frequencies.
    fn begin_band(&mut self, which: usize, block: &mut [i16; 64]) -> Result<(), JpegError> {
        if self.run > 0 {
            self.run -= 1;
            return Ok(());
        }
        let tables = self.alternating;
        let codes = tables.get(self.scan.planes[which].2).and_then(Option::as_ref).ok_or(JpegError::Damaged)?;
        let mut place = self.scan.from;
        while place <= self.scan.to {
            let symbol = self.bits.symbol(codes)?;
            let (zeros, bits) = (symbol >> 4, symbol & 15);
            if bits == 0 {
                if zeros < 15 {
                    self.run = self.end_of_band(zeros)? - 1;
                    break;
                }
                place += 16;
                continue;
            }
            place += usize::from(zeros);
            if place > self.scan.to {
                return Err(JpegError::Damaged);
            }
            block[usize::from(ZIGZAG[place])] = (self.bits.number(bits)? << self.scan.low) as i16;
            place += 1;
        }
        Ok(())
    }

    /// How many blocks, this one among them, have nothing more.
    fn end_of_band(&mut self, bits: u8) -> Result<u32, JpegError> {
        let more = u32::try_from(self.bits.take(bits.into())?).map_err(|_| JpegError::Damaged)?;
        Ok((1 << bits) + more)
    }

    /// One more bit for each coefficient of a band.
    fn refine_band(&mut self, which: usize, block: &mut [i16; 64]) -> Result<(), JpegError> {
        let bit = 1_i16 << self.scan.low;
        let tables = self.alternating;
        let codes = tables.get(self.scan.planes[which].2).and_then(Option::as_ref).ok_or(JpegError::Damaged)?;
        let mut place = self.scan.from;
        if self.run == 0 {
            while place <= self.scan.to {
                let symbol = self.bits.symbol(codes)?;
                let (mut zeros, bits) = (symbol >> 4, symbol & 15);
                let mut value = 0;
                if bits == 0 {
                    if zeros < 15 {
                        self.run = self.end_of_band(zeros)?;
                        break;
                    }
                } else {
                    value = if self.bits.take(1)? == 1 { bit } else { -bit };
                }
                // What has a value gets its bit; what is passed over besides are zeros.
                while place <= self.scan.to {
                    let coefficient = &mut block[usize::from(ZIGZAG[place])];
                    if *coefficient != 0 {
                        self.bits.refine(coefficient, bit)?;
                    } else if zeros == 0 {
                        *coefficient = value;
                        place += 1;
                        break;
                    } else {
                        zeros -= 1;
                    }
                    place += 1;
                }
            }
        }
        if self.run > 0 {
            for place in place..=self.scan.to {
                let coefficient = &mut block[usize::from(ZIGZAG[place])];
                if *coefficient != 0 {
                    self.bits.refine(coefficient, bit)?;
                }
            }
            self.run -= 1;
        }
        Ok(())
    }
}

impl Bits<'_> {
    /// Moves a coefficient away from zero by `bit`, if the next bit says so.
    fn refine(&mut self, coefficient: &mut i16, bit: i16) -> Result<(), JpegError> {
        if self.take(1)? == 1 && *coefficient & bit == 0 {
            *coefficient = coefficient.wrapping_add(if *coefficient > 0 { bit } else { -bit });
        }
        Ok(())
    }
}

impl Plane {
    /// Turns a block's coefficients into pixels.
    fn draw(&mut self, block: &[i16; 64], x: usize, y: usize) {
        let Some(factors) = &self.factors else { return };
        let (wide, tall) = self.size;
        let stride = self.blocks.0 * wide;
        let from = y * tall * stride + x * wide;
        let mut rows = self.samples.get_mut(from..).unwrap_or_default().chunks_mut(stride).take(tall);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte's range")]
        let byte = |value: f32| (value + 128.5).clamp(0.0, 255.0) as u8;
        if block[1..].iter().all(|coefficient| *coefficient == 0) {
            let flat = byte(f32::from(block[0]) * f32::from(factors[0]) / 8.0);
            rows.for_each(|row| row.iter_mut().take(wide).for_each(|pixel| *pixel = flat));
            return;
        }
        // Factors come in the order of the code.
        let mut values = [0.0_f32; 64];
        for (factor, at) in factors.iter().zip(ZIGZAG) {
            values[usize::from(at)] = f32::from(block[usize::from(at)]) * f32::from(*factor);
        }
        let (across, down) = (waves(wide), waves(tall));
        // A block of fewer pixels than coefficients shows the low frequencies alone.
        let mut lines = [[0.0_f32; LONGEST]; 8];
        for (v, line) in lines.iter_mut().enumerate().take(tall) {
            for (value, wave) in values[8 * v..8 * v + 8].iter().zip(across).take(wide) {
                if *value != 0.0 {
                    line.iter_mut().zip(wave).take(wide).for_each(|(pixel, wave)| *pixel += value * wave);
                }
            }
        }
        for y in 0..tall {
            let mut sum = [0.0_f32; LONGEST];
            for (line, wave) in lines.iter().zip(down).take(tall) {
                sum.iter_mut().zip(line).take(wide).for_each(|(sum, pixel)| *sum += pixel * wave[y]);
            }
            let Some(row) = rows.next() else { return };
            row.iter_mut().zip(sum).take(wide).for_each(|(pixel, value)| *pixel = byte(value));
        }
    }
}

/// The eight waves of which a row of so many pixels is made, each with its share.
fn waves(pixels: usize) -> &'static [[f32; LONGEST]; 8] {
    static WAVES: std::sync::OnceLock<Vec<[[f32; LONGEST]; 8]>> = std::sync::OnceLock::new();
    let all = WAVES.get_or_init(|| (0..=LONGEST).map(make_waves).collect());
    &all[pixels.min(LONGEST)]
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "numbers up to 64, and shares below one"
)]
fn make_waves(pixels: usize) -> [[f32; LONGEST]; 8] {
    let mut waves = [[0.0; LONGEST]; 8];
    for (u, wave) in waves.iter_mut().enumerate() {
        let share = if u == 0 { 8.0_f64.sqrt().recip() } else { 0.5 };
        for (x, value) in wave.iter_mut().enumerate().take(pixels) {
            let turn = (2 * x + 1) as f64 * u as f64 * std::f64::consts::PI / (2 * pixels) as f64;
            *value = (share * turn.cos()) as f32;
        }
    }
    waves
}

#[cfg(test)]
mod tests {
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
                assert_eq!(
                    decode(&bytes[..cut], 4096).err(),
                    Some(JpegError::Damaged),
                    "{way:?} cut at {cut} of {end}"
                );
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

    #[test]
    fn a_picture_in_more_scans_than_encoders_make_is_refused_before_it_takes_long() {
        let bytes = encode(&picture(64, 64), Way { progressive: true, restart: 0, sampling: SamplingFactor::F_1_1 });
        let first = bytes.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        // A scan of nothing that is new, over and over.
        let scan = [0xff, 0xda, 0, 8, 1, 1, 0, 1, 63, 0, 0];
        let many = [&bytes[..first], &scan.repeat(3), &bytes[first..]].concat();
        assert_eq!(decode(&many, 64).err(), Some(JpegError::Damaged));
        assert!(decode(&bytes, 64).is_ok());
        let scans = bytes.windows(2).filter(|pair| *pair == [0xff, 0xda]).count();
        assert!(scans > 3 && scans < MOST_SCANS / 5, "{scans}");
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
        for (marker, told) in [
            (0xc3, "lossless"),
            (0xc5, "hierarchical"),
            (0xde, "hierarchical"),
            (0xc9, "arithmetic"),
            (0xcc, "arithmetic"),
        ] {
            let mut other = bytes.clone();
            other[place + 1] = marker;
            let Err(JpegError::Unsupported(what)) = decode(&other, 64) else { panic!("{marker:x} was taken") };
            assert!(what.contains(told), "{what}");
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
}
