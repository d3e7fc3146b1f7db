//! Sixteen bytes at a time, with the shuffles of x86 processors.

use core::arch::x86_64::__m128i;

use pulp::{NullaryFnOnce, cast, x86::V3};

use super::{BY_MARKS, SPELLINGS, Spelling, TABLE, WINDOW};

/// Pixels between two appends.
const PIXELS: usize = 64;

/// What the vectors of one spelling are compared and shuffled with.
#[derive(Clone, Copy)]
struct Lanes {
    /// Bytes to shuffle the digits with: hundreds, tens and units of each level, and a zero after them.
    digits: [u8; 16],
    /// The smallest number of so many digits, of each level.
    least: [i32; 4],
}

impl Lanes {
    /// The control byte of a shuffle that gives zero.
    const ZERO: u8 = 0x80;

    const fn new(spelling: Spelling) -> Self {
        let mut lanes = Self { digits: [Self::ZERO; 16], least: [0; 4] };
        let mut level = 0;
        while level < 3 {
            let digits = spelling.digits[level];
            let mut digit = 0;
            while digit < digits {
                lanes.digits[4 * level + 3 - (digits - digit) as usize] = spelling.starts[level] + digit;
                digit += 1;
            }
            lanes.least[level] = [0, 10, 100][digits as usize - 1];
            level += 1;
        }
        lanes
    }
}

static LANES: [Lanes; SPELLINGS + 1] = {
    // What is no pixel stays below one in the lane that no level is in.
    let (mut lanes, mut index) = ([Lanes { digits: [Lanes::ZERO; 16], least: [1; 4] }; SPELLINGS + 1], 0);
    while index < SPELLINGS {
        lanes[index] = Lanes::new(TABLE[index]);
        index += 1;
    }
    lanes
};

/// See [`super::followed_pixels`].
pub(super) fn followed_pixels<'text>(simd: V3, text: &'text [u8], swap: bool, values: &mut Vec<u8>) -> &'text [u8] {
    simd.vectorize(Read { simd, text, swap, values })
}

struct Read<'text, 'values> {
    simd: V3,
    text: &'text [u8],
    swap: bool,
    values: &'values mut Vec<u8>,
}

impl<'text> NullaryFnOnce for Read<'text, '_> {
    type Output = &'text [u8];

    #[inline(always)]
    fn call(self) -> &'text [u8] {
        // The lowest byte of each lane.
        let order: u128 = if self.swap { 0x0c_00_04_08 } else { 0x0c_08_04_00 };
        let mut rest = self.text;
        loop {
            // A pixel is written as four bytes, the last of which the next one overwrites.
            let (mut levels, mut filled) = ([0; 3 * PIXELS + 1], 0);
            while filled < 3 * PIXELS
                && let Some((pixel, length)) = rest.first_chunk().and_then(|window| followed_pixel(self.simd, window))
            {
                let [ordered, ..]: [u32; 4] = cast(self.simd.ssse3._mm_shuffle_epi8(pixel, cast(order)));
                levels[filled..filled + 4].copy_from_slice(&ordered.to_le_bytes());
                filled += 3;
                rest = &rest[length..];
            }
            self.values.extend_from_slice(&levels[..filled]);
            if filled < 3 * PIXELS {
                return rest;
            }
        }
    }
}

/// The levels of the pixel that starts here and is followed by a comma, in lanes of 32 bits, and how many bytes there are
/// up to the next one; nothing when it is written otherwise, or is none.
#[inline(always)]
fn followed_pixel(simd: V3, window: &[u8; WINDOW]) -> Option<(__m128i, usize)> {
    let V3 { sse2, ssse3, .. } = simd;
    let text: __m128i = cast(*window.first_chunk::<16>()?);
    let digits = sse2._mm_sub_epi8(text, cast([b'0'; 16]));
    // Above nine the highest bit is set.
    let no_digits = sse2._mm_movemask_epi8(sse2._mm_adds_epu8(digits, cast([0x76_u8; 16])));
    let known = BY_MARKS[(no_digits as usize >> 1) % BY_MARKS.len()];
    let length = usize::from(known >> 8);
    let index = usize::from(known & 0xff).min(SPELLINGS);
    let (spelling, lanes) = (&TABLE[index], &LANES[index]);
    let is_marked = sse2._mm_cmpeq_epi8(sse2._mm_and_si128(text, cast(spelling.is_mark)), cast(spelling.marks));
    let digits = ssse3._mm_shuffle_epi8(digits, cast(lanes.digits));
    let pairs = ssse3._mm_maddubs_epi16(digits, cast([100_u8, 10, 1, 0, 100, 10, 1, 0, 100, 10, 1, 0, 100, 10, 1, 0]));
    let levels = sse2._mm_madd_epi16(pairs, cast([1_i16; 8]));
    let is_outside = sse2._mm_or_si128(
        sse2._mm_cmpgt_epi32(levels, cast([255_i32; 4])),
        sse2._mm_cmpgt_epi32(cast(lanes.least), levels),
    );
    let is_right = sse2._mm_movemask_epi8(sse2._mm_andnot_si128(is_outside, is_marked)) == 0xffff;
    (is_right && window[length.wrapping_sub(1) % WINDOW] == spelling.last).then_some((levels, length))
}
