//! Pixels in the spelling of the common encoders, `[1, 2, 3], ` or `[1,2,3],`, read without a branch for each digit.
//!
//! Three lengths of three levels and two spacings make 54 spellings. Which one it is shows in the places of the bytes that
//! are no digits, so that one look into a table says where the levels are and where the next pixel starts.

#[cfg(target_arch = "x86_64")]
mod vectors;
mod words;

/// Bytes that are looked at: more than the longest pixel has.
const WINDOW: usize = 32;

/// `[255, 255, 255],` without the first bracket and the last two marks.
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
    /// How many digits it has.
    digits: [u8; 3],
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
    const NONE: Self = Self {
        marks: 0,
        is_mark: 0xff,
        starts: [0; 3],
        digits: [0; 3],
        shifts: [0; 3],
        least: [0; 3],
        length: 0,
        last: 0,
    };

    const fn new(index: usize) -> Self {
        let digits = [index % 3 + 1, index / 3 % 3 + 1, index / 9 % 3 + 1];
        let is_spaced = index / 27 == 1;
        let (mut spelling, mut level) = (Self::NONE.with(b'['), 0);
        while level < 3 {
            spelling.starts[level] = spelling.length;
            spelling.digits[level] = digits[level] as u8;
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

/// Appends the pixels at the start of `text` that are in one of the spellings and followed by a comma, and gives what
/// comes after them. With `swap` the first and the last level of every pixel change places.
pub(super) fn followed_pixels<'text>(text: &'text [u8], swap: bool, values: &mut Vec<u8>) -> &'text [u8] {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return vectors::followed_pixels(simd, text, swap, values);
    }
    words::followed_pixels(text, swap, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Option<([u8; 3], usize)> {
        let text = [text, &[b'7'; WINDOW]].concat();
        let read_by = |read: fn(&[u8], bool, &mut Vec<u8>) -> usize| {
            let (mut values, mut swapped) = (Vec::new(), Vec::new());
            let left = read(&text, false, &mut values);
            assert_eq!(read(&text, true, &mut swapped), left);
            swapped.reverse();
            assert_eq!(swapped, values);
            Some((<[u8; 3]>::try_from(values).ok()?, text.len() - left))
        };
        let pixel = read_by(|text, swap, values| words::followed_pixels(text, swap, values).len());
        assert_eq!(read_by(|text, swap, values| followed_pixels(text, swap, values).len()), pixel);
        pixel
    }

    #[test]
    fn every_level_is_read_in_every_place_and_both_spacings() {
        for value in 0..=255_u8 {
            for others in [(0, 99), (7, 255), (10, 100), (42, 9)] {
                for pixel in [[value, others.0, others.1], [others.0, value, others.1], [others.0, others.1, value]] {
                    let [first, second, third] = pixel;
                    for text in [format!("[{first}, {second}, {third}], "), format!("[{first},{second},{third}],")] {
                        assert_eq!(read(text.as_bytes()), Some((pixel, text.len())), "{text}");
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
                assert_eq!(read(text.as_bytes()), None, "{text}");
            }
        }
    }

    #[test]
    fn one_byte_that_differs_is_noticed() {
        for text in ["[25, 255, 255], ", "[1, 2, 3], ", "[1,20,3],", "[255,255,255],"] {
            assert!(read(text.as_bytes()).is_some(), "{text}");
            for place in 0..text.len() {
                for byte in (0..=255_u8).filter(|byte| !byte.is_ascii_digit() && *byte != text.as_bytes()[place]) {
                    let mut bytes = text.as_bytes().to_vec();
                    bytes[place] = byte;
                    assert_eq!(read(&bytes), None, "{text} with {byte} at {place}");
                }
            }
        }
    }

    #[test]
    fn many_pixels_are_read_up_to_the_last_that_a_comma_follows() {
        let pixels: Vec<[u8; 3]> = (0..1000_usize).map(|i| [i as u8, (i * i) as u8, (i / 9) as u8]).collect();
        let text = serde_json::to_string(&pixels).expect("numbers");
        for read in [followed_pixels, words::followed_pixels] {
            let mut values = vec![42];
            let rest = read(&text.as_bytes()[1..], false, &mut values);
            // The windows of the last pixels reach past the end.
            let got = (values.len() - 1) / 3;
            assert!((990..1000).contains(&got), "{got}");
            assert_eq!(values, [&[42], pixels[..got].concat().as_slice()].concat());
            assert_eq!(rest, &serde_json::to_vec(&pixels[got..]).expect("numbers")[1..]);
        }
    }
}
