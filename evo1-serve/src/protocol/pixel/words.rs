//! Two machine words at a time, on every processor.

use super::{BY_MARKS, SPELLINGS, TABLE, WINDOW};

/// See [`super::followed_pixels`].
pub(super) fn followed_pixels<'text>(mut text: &'text [u8], swap: bool, values: &mut Vec<u8>) -> &'text [u8] {
    while let Some((pixel, length)) = text.first_chunk().and_then(followed_pixel) {
        let [first, second, third] = pixel;
        values.extend_from_slice(&if swap { [third, second, first] } else { pixel });
        text = &text[length..];
    }
    text
}

/// The pixel that starts here and is followed by a comma, and how many bytes there are up to the next one; nothing when it
/// is written otherwise, or is none.
#[inline(always)]
fn followed_pixel(window: &[u8; WINDOW]) -> Option<([u8; 3], usize)> {
    let text = u128::from_le_bytes(*window.first_chunk()?);
    let known = BY_MARKS[usize::from(no_digits(text) >> 1) % BY_MARKS.len()];
    let length = usize::from(known >> 8);
    let spelling = &TABLE[usize::from(known & 0xff).min(SPELLINGS)];
    let mut is_wrong = (text ^ spelling.marks) & spelling.is_mark != 0;
    is_wrong |= window[length.wrapping_sub(1) % WINDOW] != spelling.last;
    let mut pixel = [0; 3];
    for (level, place) in pixel.iter_mut().enumerate() {
        let text = u32::from_le_bytes(*window[usize::from(spelling.starts[level] % 16)..].first_chunk()?);
        let digits = ((text ^ 0x3030_3030) << (spelling.shifts[level] % 32)) & 0x00ff_ffff;
        // The third byte of the product is a hundred times the first, ten times the second and the third.
        *place = (digits.wrapping_mul(0x0064_0a01) >> 16) as u8;
        // Digits in their order are as large as their number is.
        let ordered = digits.swap_bytes() >> 8;
        is_wrong |= ordered < spelling.least[level] || ordered > 0x0002_0505;
    }
    (!is_wrong).then_some((pixel, length))
}

/// A bit for each byte that is no digit, the first byte's the lowest.
#[inline(always)]
fn no_digits(text: u128) -> u16 {
    let half = |text: u64| {
        let text = text ^ 0x3030_3030_3030_3030;
        // The highest bit of a byte shows that it is no digit. A byte that carries into the next is itself none, and is
        // then no mark either.
        let bits = (text.wrapping_add(0x7676_7676_7676_7676) | text) & 0x8080_8080_8080_8080;
        ((bits >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u16
    };
    half(text as u64) | half((text >> 64) as u64) << 8
}
