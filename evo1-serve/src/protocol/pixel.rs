//! Pixels in the spelling of the common encoders, `[1, 2, 3], ` or `[1,2,3],`, read without a branch for each digit.
//!
//! Three lengths of three levels and two spacings make 54 spellings. Which one it is shows in the places of the bytes that
//! are no digits, so that one look into a table says where the levels are and where the next pixel starts.

/// Bytes that are looked at: more than the longest pixel has.
pub(super) const WINDOW: usize = 32;

/// `[255, 255, 255],` without the first bracket, the last two marks and the digit before them.
const LOOKED_AT: usize = 13;

const SPELLINGS: usize = 54;

/// Where everything is in one spelling of a pixel.
#[derive(Clone, Copy)]
struct Spelling {
    /// The brackets, commas and spaces at their places, but for a space at the end; the first byte is the lowest.
    marks: u128,
    /// All bits of the bytes that marks are at.
    is_mark: u128,
    /// Where each level starts.
    starts: [u8; 3],
    /// Bits to the left that bring the last digit of each level into the third byte.
    shifts: [u8; 3],
    /// The smallest level of so many digits, the first digit in the highest byte.
    least: [u32; 3],
    /// Bytes up to the next pixel.
    length: u8,
    /// The last of them.
    last: u8,
}

impl Spelling {
    /// Of no pixel: it starts with a zero byte, as no JSON does.
    const NONE: Self =
        Self { marks: 0, is_mark: 0xff, starts: [0; 3], shifts: [0; 3], least: [0; 3], length: 0, last: 0 };

    const fn new(index: usize) -> Self {
        let digits = [index % 3 + 1, index / 3 % 3 + 1, index / 9 % 3 + 1];
        let is_spaced = index / 27 == 1;
        let (mut spelling, mut level) = (Self::NONE.with(b'['), 0);
        while level < 3 {
            spelling.starts[level] = spelling.length;
            spelling.shifts[level] = 24 - 8 * digits[level] as u8;
            spelling.least[level] = [0, 0x100, 0x1_0000][digits[level] - 1];
            spelling.length += digits[level] as u8;
            spelling = if level == 2 {
                spelling.with(b']')
            } else if is_spaced {
                spelling.with(b',').with(b' ')
            } else {
                spelling.with(b',')
            };
            level += 1;
        }
        spelling = spelling.with(b',');
        if is_spaced {
            // It may be the seventeenth byte.
            (spelling.last, spelling.length) = (b' ', spelling.length + 1);
        }
        spelling
    }

    /// The spelling with one more mark.
    const fn with(mut self, mark: u8) -> Self {
        let is_mark = 0xff << (8 * self.length);
        self.marks = self.marks & !is_mark | (mark as u128) << (8 * self.length);
        (self.is_mark, self.last, self.length) = (self.is_mark | is_mark, mark, self.length + 1);
        self
    }
}

static TABLE: [Spelling; SPELLINGS + 1] = {
    let (mut table, mut index) = ([Spelling::NONE; SPELLINGS + 1], 0);
    while index < SPELLINGS {
        table[index] = Spelling::new(index);
        index += 1;
    }
    table
};

/// The index of a spelling, and above it its length, by what of the bytes after the first bracket is no digit. The length
/// is here too because the next pixel waits for it.
static BY_MARKS: [u16; 1 << LOOKED_AT] = {
    let (mut table, mut index) = ([SPELLINGS as u16; 1 << LOOKED_AT], 0);
    while index < SPELLINGS {
        let spelling = TABLE[index];
        let (mut marks, mut place) = (0, 0);
        // Up to the bracket at the end. What comes after it decides nothing.
        while place < LOOKED_AT && spelling.marks >> (8 * place) & 0xff != b']' as u128 {
            marks |= (spelling.is_mark >> (8 * (place + 1)) & 1) << place;
            place += 1;
        }
        let mut marks = marks as usize;
        while marks < table.len() {
            table[marks] = index as u16 | (spelling.length as u16) << 8;
            marks += 1 << place;
        }
        index += 1;
    }
    table
};

/// The pixel that starts here and is followed by a comma, and how many bytes there are up to the next one; nothing when it
/// is written otherwise, or is none.
#[inline(always)]
pub(super) fn followed_pixel(window: &[u8; WINDOW]) -> Option<([u8; 3], usize)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<([u8; 3], usize)> {
        let mut window = [b'7'; WINDOW];
        window[..text.len()].copy_from_slice(text.as_bytes());
        followed_pixel(&window)
    }

    #[test]
    fn every_level_is_read_in_every_place_and_both_spacings() {
        for value in 0..=255_u8 {
            for others in [(0, 99), (7, 255), (10, 100), (42, 9)] {
                for pixel in [[value, others.0, others.1], [others.0, value, others.1], [others.0, others.1, value]] {
                    let [first, second, third] = pixel;
                    for text in [format!("[{first}, {second}, {third}], "), format!("[{first},{second},{third}],")] {
                        assert_eq!(read(&text), Some((pixel, text.len())), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_level_is_left_to_others() {
        for level in ["256", "300", "999", "1000", "00", "01", "007", "", "-1", "1.0", "1e1", "a", "\u{80}", "1 ", " 1"]
        {
            for text in [format!("[{level}, 2, 3], "), format!("[1, {level}, 3], "), format!("[1,2,{level}],")] {
                assert_eq!(read(&text), None, "{text}");
            }
        }
    }

    #[test]
    fn one_byte_that_differs_is_noticed() {
        for text in ["[25, 255, 255], ", "[1, 2, 3], ", "[1,20,3],", "[255,255,255],"] {
            let expected = read(text);
            assert!(expected.is_some(), "{text}");
            for place in 0..text.len() {
                for byte in (0..=255_u8).filter(|byte| !byte.is_ascii_digit() && *byte != text.as_bytes()[place]) {
                    let mut window = [b'7'; WINDOW];
                    window[..text.len()].copy_from_slice(text.as_bytes());
                    window[place] = byte;
                    assert_eq!(followed_pixel(&window), None, "{text} with {byte} at {place}");
                }
            }
        }
    }
}
