//! Coded bits, and the codes in them.

use super::JpegError;
use crate::container::next_marker;

/// The codes of a table: a look-up for the first nine bits, and the largest code of each length for longer ones.
#[derive(Clone)]
pub(super) struct Codes {
    pub(super) short: Vec<(u8, u8)>,
    pub(super) largest: [i32; 17],
    pub(super) first: [i32; 17],
    pub(super) symbols: Vec<u8>,
}

pub(super) const SHORT: u32 = 9;

impl Codes {
    pub(super) fn read(counts: &[u8; 16], symbols: &[u8]) -> Result<Self, JpegError> {
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
pub(super) struct Bits<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) held: u64,
    pub(super) count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, held: 0, count: 0 }
    }

    pub(super) fn fill(&mut self) {
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
    pub(super) fn peek(&mut self, bits: u32) -> usize {
        if self.count < bits {
            self.fill();
        }
        let held = if self.count >= bits { self.held >> (self.count - bits) } else { self.held << (bits - self.count) };
        usize::try_from(held & ((1 << bits) - 1)).unwrap_or_default()
    }

    pub(super) fn skip(&mut self, bits: u32) -> Result<(), JpegError> {
        self.count = self.count.checked_sub(bits).ok_or(JpegError::Damaged)?;
        Ok(())
    }

    pub(super) fn take(&mut self, bits: u32) -> Result<i32, JpegError> {
        let value = self.peek(bits);
        self.skip(bits)?;
        i32::try_from(value).map_err(|_| JpegError::Damaged)
    }

    pub(super) fn symbol(&mut self, codes: &Codes) -> Result<u8, JpegError> {
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
    pub(super) fn number(&mut self, bits: u8) -> Result<i32, JpegError> {
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
    pub(super) fn restart(&mut self, number: u8) -> Result<(), JpegError> {
        (self.held, self.count) = (0, 0);
        let (marker, behind) = next_marker(self.bytes, self.at).ok_or(JpegError::Damaged)?;
        if marker != 0xd0 + number {
            return Err(JpegError::Damaged);
        }
        self.at = behind;
        Ok(())
    }
}

impl Bits<'_> {
    /// Moves a coefficient away from zero by `bit`, if the next bit says so.
    pub(super) fn refine(&mut self, coefficient: &mut i16, bit: i16) -> Result<(), JpegError> {
        if self.take(1)? == 1 && *coefficient & bit == 0 {
            *coefficient = coefficient.wrapping_add(if *coefficient > 0 { bit } else { -bit });
        }
        Ok(())
    }
}
