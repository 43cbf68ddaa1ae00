//! Whether a render is still the room of the photo: how many of the photo's long straight edges it has too. Walls, openings and windows
//! are such edges, and other colours, furniture or light leave them where they are.

use image::{DynamicImage, GrayImage, imageops::FilterType};

/// The longer side of what is compared, in pixels.
const SIDE: u32 = 256;
/// A run of edge shorter than this is no wall, in the photo; nor a part of one, in the render, which may cover the rest of it.
const LONG: [usize; 2] = [24, 8];
/// How far an edge may have moved across its direction, in pixels: a hundredth of the picture.
const MOVED: i32 = 3;
/// With fewer pixels of edge than this, there is nothing to compare.
const FEWEST: usize = 64;
/// The weakest edge, as a Sobel operator sees it: a step of eight shades of grey in the photo, of four in the render.
const WEAKEST: [f32; 2] = [32.0, 16.0];
/// How much stronger than the picture's mean an edge must be: in the photo, and in the render.
const STRONGER: [f32; 2] = [2.0, 1.0];
/// Into how many sectors half a turn is divided.
const SECTORS: u8 = 8;

/// A picture in grey and small, for comparing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline(GrayImage);

impl Outline {
    /// The outline of a picture that is upright.
    #[must_use]
    pub fn of(picture: &DynamicImage) -> Self {
        let (width, height) = (picture.width().max(1), picture.height().max(1));
        let long = width.max(height);
        let side = |side: u32| (side * SIDE / long).max(1);
        Self(image::imageops::resize(&picture.to_luma8(), side(width), side(height), FilterType::Triangle))
    }

    /// The share of this picture's long straight edges that `render` has too, from 0 to 1. `None` if it has hardly any.
    ///
    /// Both are laid over each other. An edge is where brightness changes most across its direction (Sobel, the largest of three), by at
    /// least twice the picture's mean, in the render once. Edges that touch in one direction within 22.5 degrees are a run; runs of 24 of 256
    /// pixels count, in the render of 8. A pixel of them is kept if the render has an edge of that direction within 3 pixels across.
    #[must_use]
    pub fn kept_in(&self, render: &Self) -> Option<f32> {
        let (width, height) = self.0.dimensions();
        let own = long_runs(&edges(&self.0, WEAKEST[0], STRONGER[0]), width, LONG[0]);
        let laid = image::imageops::resize(&render.0, width, height, FilterType::Triangle);
        let theirs = long_runs(&edges(&laid, WEAKEST[1], STRONGER[1]), width, LONG[1]);
        let (width, height) = (i32::try_from(width).ok()?, i32::try_from(height).ok()?);
        let (mut all, mut kept) = (0_u16, 0_u16);
        for (place, sector) in (0_i32..).zip(&own).filter_map(|(place, sector)| Some((place, (*sector)?))) {
            let (x, y) = (place % width, place / width);
            let (across_x, across_y) = across(sector);
            let found = (-MOVED..=MOVED).any(|moved| {
                let (x, y) = (x + moved * across_x, y + moved * across_y);
                let inside = (0..width).contains(&x) && (0..height).contains(&y);
                let there = usize::try_from(y * width + x).ok().filter(|_| inside).and_then(|at| theirs[at]);
                there.is_some_and(|there| alike(there, sector))
            });
            all = all.saturating_add(1);
            kept = kept.saturating_add(found.into());
        }
        (usize::from(all) >= FEWEST).then(|| (f32::from(kept) / f32::from(all) * 100.0).round() / 100.0)
    }
}

/// Whether two directions are the same within a sector.
fn alike(one: u8, other: u8) -> bool {
    matches!((one + SECTORS - other) % SECTORS, 0 | 1 | 7)
}

/// The step that leads across an edge, by the sector of its gradient.
fn across(sector: u8) -> (i32, i32) {
    match sector {
        0 | 7 => (1, 0),
        1 | 2 => (1, 1),
        3 | 4 => (0, 1),
        _ => (-1, 1),
    }
}

/// For each pixel that is on an edge, the sector of its gradient.
fn edges(grey: &GrayImage, weakest: f32, stronger: f32) -> Vec<Option<u8>> {
    let (width, height) = (grey.width() as usize, grey.height() as usize);
    let at = |x: usize, y: usize| f32::from(grey.as_raw()[y * width + x]);
    let mut gradients = vec![(0.0_f32, 0_u8); width * height];
    let mut sum = 0.0;
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            let side = |x: usize| at(x, y - 1) + 2.0 * at(x, y) + at(x, y + 1);
            let line = |y: usize| at(x - 1, y) + 2.0 * at(x, y) + at(x + 1, y);
            let (right, below) = (side(x + 1) - side(x - 1), line(y + 1) - line(y - 1));
            let strength = right.hypot(below);
            sum += strength;
            gradients[y * width + x] = (strength, sector(right, below));
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a number of pixels, far below what a float counts")]
    let least = (stronger * sum / (width * height) as f32).max(weakest);
    let strength = |x: i32, y: i32| {
        let place = usize::try_from(x).ok().zip(usize::try_from(y).ok());
        place.filter(|(x, y)| *x < width && *y < height).map_or(0.0, |(x, y)| gradients[y * width + x].0)
    };
    let mut found = vec![None; width * height];
    for (place, (own, sector)) in gradients.iter().enumerate() {
        let (Ok(x), Ok(y)) = (i32::try_from(place % width), i32::try_from(place / width)) else { continue };
        let (across_x, across_y) = across(*sector);
        let largest = *own >= strength(x + across_x, y + across_y) && *own >= strength(x - across_x, y - across_y);
        if *own >= least && largest {
            found[place] = Some(*sector);
        }
    }
    found
}

/// The sector of a gradient. Sector 0 begins at the x axis; opposite directions are the same.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number that is not negative")]
fn sector(right: f32, below: f32) -> u8 {
    let turn = below.atan2(right).rem_euclid(std::f32::consts::PI) / std::f32::consts::PI;
    (turn * f32::from(SECTORS)) as u8 % SECTORS
}

/// The edges without those that belong to no long run in one direction.
fn long_runs(edges: &[Option<u8>], width: u32, least: usize) -> Vec<Option<u8>> {
    let width = width as usize;
    let mut seen = vec![false; edges.len()];
    let mut kept = vec![None; edges.len()];
    for first in 0..edges.len() {
        let Some(direction) = edges[first].filter(|_| !seen[first]) else { continue };
        seen[first] = true;
        let (mut run, mut next) = (vec![first], 0);
        while let Some(place) = run.get(next).copied() {
            next += 1;
            let (x, y) = (place % width, place / width);
            for (near_x, near_y) in
                (y.saturating_sub(1)..=y + 1).flat_map(|y| (x.saturating_sub(1)..=x + 1).map(move |x| (x, y)))
            {
                let near = near_y * width + near_x;
                let fits = near_x < width && near < edges.len() && !seen[near];
                if fits && edges[near].is_some_and(|sector| alike(sector, direction)) {
                    seen[near] = true;
                    run.push(near);
                }
            }
        }
        let extent = |side: fn(usize, usize) -> usize| {
            let ends = run.iter().map(|place| side(*place, width));
            ends.clone().max().unwrap_or_default() - ends.min().unwrap_or_default()
        };
        if extent(|place, width| place % width).max(extent(|place, width| place / width)) + 1 >= least {
            run.iter().for_each(|place| kept[*place] = edges[*place]);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage, imageops};
    use proptest::prelude::*;

    use super::*;

    /// A room: a floor, a corner, a window and a door, at these places, in these colours.
    fn room(corner: u32, window: u32, door: u32, floor: u32, shades: [u8; 5]) -> DynamicImage {
        DynamicImage::ImageRgb8(RgbImage::from_fn(640, 480, |x, y| {
            let shade = if (window..window + 120).contains(&x) && (80..210).contains(&y) {
                shades[0]
            } else if (door..door + 90).contains(&x) && (150..floor).contains(&y) {
                shades[1]
            } else if y > floor + x / 20 {
                shades[2]
            } else if x > corner {
                shades[3]
            } else {
                shades[4]
            };
            Rgb([shade, shade / 2 + 40, 255 - shade / 2])
        }))
    }

    fn kept(photo: &DynamicImage, render: &DynamicImage) -> f32 {
        Outline::of(photo).kept_in(&Outline::of(render)).unwrap()
    }

    #[test]
    fn a_room_in_other_colours_is_the_same_room_and_another_is_not() {
        let photo = room(420, 90, 470, 330, [230, 90, 120, 150, 190]);
        assert_eq!(kept(&photo, &photo), 1.0);
        let other_colours = room(420, 90, 470, 330, [255, 150, 60, 90, 120]);
        assert!(kept(&photo, &other_colours) > 0.9, "{}", kept(&photo, &other_colours));
        // A little smaller than it was sent, and a little wider.
        let stretched = other_colours.resize_exact(1024, 740, FilterType::Triangle);
        assert!(kept(&photo, &stretched) > 0.9, "{}", kept(&photo, &stretched));
        let mirrored = DynamicImage::ImageRgba8(imageops::flip_horizontal(&photo));
        assert!(kept(&photo, &mirrored) < 0.5, "{}", kept(&photo, &mirrored));
        let other_room = room(150, 400, 20, 390, [230, 90, 120, 150, 190]);
        assert!(kept(&photo, &other_room) < 0.3, "{}", kept(&photo, &other_room));
        let no_window = room(420, 2000, 470, 330, [230, 90, 120, 150, 190]);
        assert!(kept(&photo, &no_window) < 0.8, "{}", kept(&photo, &no_window));
    }

    #[test]
    fn grain_is_no_geometry() {
        let photo = room(420, 90, 470, 330, [230, 90, 120, 150, 190]);
        let grain = DynamicImage::ImageRgb8(RgbImage::from_fn(640, 480, |x, y| {
            let grain = (x.wrapping_mul(73_856_093) ^ y.wrapping_mul(19_349_663)) >> 3;
            Rgb([u8::try_from(grain % 256).unwrap(); 3])
        }));
        assert!(kept(&photo, &grain) < 0.4, "{}", kept(&photo, &grain));
        let blank = DynamicImage::ImageRgb8(RgbImage::from_pixel(640, 480, Rgb([200; 3])));
        assert_eq!(kept(&photo, &blank), 0.0);
        assert_eq!(Outline::of(&blank).kept_in(&Outline::of(&photo)), None);
    }

    proptest! {
        #[test]
        fn a_share_is_a_share(
            width in 1_u32..90, height in 1_u32..90, other_width in 1_u32..90, other_height in 1_u32..90,
            pixels in prop::collection::vec(any::<u8>(), 64),
        ) {
            let picture = |width, height, turn: usize| DynamicImage::ImageRgb8(RgbImage::from_fn(width, height, |x, y| {
                Rgb([pixels[(x as usize / 9 * 7 + y as usize / 5 + turn) % 64]; 3])
            }));
            let (one, other) = (Outline::of(&picture(width, height, 0)), Outline::of(&picture(other_width, other_height, 9)));
            prop_assert!(one.kept_in(&other).is_none_or(|share| (0.0..=1.0).contains(&share)));
        }
    }
}
