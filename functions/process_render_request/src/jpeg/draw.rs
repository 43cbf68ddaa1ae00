//! Blocks as pixels, at the size that is asked for.

use super::{Plane, ZIGZAG};

/// The most pixels in a row that a block becomes: at full size, where a component is stored at a quarter of it.
const LONGEST: usize = 32;

impl Plane {
    /// Turns a block's coefficients into pixels.
    pub(super) fn draw(&mut self, block: &[i16; 64], x: usize, y: usize) {
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
