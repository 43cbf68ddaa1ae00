//! The blocks of a scan.

use super::{
    JpegError, Scan, ZIGZAG,
    bits::{Bits, Codes},
};

/// Decodes the blocks of a scan.
pub(super) struct Coder<'a> {
    pub(super) bits: Bits<'a>,
    /// The last first coefficient of each component in the scan.
    pub(super) before: [i32; 4],
    /// How many blocks have nothing more in this band.
    pub(super) run: u32,
    pub(super) scan: &'a Scan,
    pub(super) direct: &'a [Option<Codes>; 4],
    pub(super) alternating: &'a [Option<Codes>; 4],
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "coefficients have sixteen bits; a file that exceeds them gets what they wrap to"
)]
impl Coder<'_> {
    pub(super) fn restart(&mut self, number: u8) -> Result<(), JpegError> {
        self.bits.restart(number)?;
        (self.before, self.run) = ([0; 4], 0);
        Ok(())
    }

    pub(super) fn direct(&mut self, which: usize) -> Result<i32, JpegError> {
        let codes = self.direct.get(self.scan.planes[which].1).and_then(Option::as_ref).ok_or(JpegError::Damaged)?;
        let bits = self.bits.symbol(codes)?;
        let difference = self.bits.number(bits)?;
        self.before[which] = self.before[which].wrapping_add(difference);
        Ok(self.before[which])
    }

    pub(super) fn sequential(&mut self, which: usize, block: &mut [i16; 64]) -> Result<(), JpegError> {
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

    pub(super) fn progressive(&mut self, which: usize, block: &mut [i16; 64]) -> Result<(), JpegError> {
        match (self.scan.from, self.scan.high) {
            (0, 0) => block[0] = (self.direct(which)? << self.scan.low) as i16,
            (0, _) => block[0] |= (self.bits.take(1)? << self.scan.low) as i16,
            (_, 0) => self.begin_band(which, block)?,
            _ => self.refine_band(which, block)?,
        }
        Ok(())
    }

    /// The first bits of a band of frequencies.
    pub(super) fn begin_band(&mut self, which: usize, block: &mut [i16; 64]) -> Result<(), JpegError> {
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
    pub(super) fn end_of_band(&mut self, bits: u8) -> Result<u32, JpegError> {
        let more = u32::try_from(self.bits.take(bits.into())?).map_err(|_| JpegError::Damaged)?;
        Ok((1 << bits) + more)
    }

    /// One more bit for each coefficient of a band.
    pub(super) fn refine_band(&mut self, which: usize, block: &mut [i16; 64]) -> Result<(), JpegError> {
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
