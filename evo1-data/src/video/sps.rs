//! The sequence parameter set of H.264 (ITU-T H.264, 7.3.2.1.1 and E.1.1): what a decoder must be able to do, and what the
//! numbers of its pictures mean.

use super::color::{Colors, Matrix};

/// What a sequence parameter set says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SequenceParameters {
    profile: u8,
    /// 0: none, 1: 4:2:0, 2: 4:2:2, 3: 4:4:4.
    chroma: u32,
    /// Bits of a sample, the larger of luminance and chroma.
    bits: u32,
    is_lossless: bool,
    /// Whether frames may consist of two fields.
    is_interlaced: bool,
    pub(super) colors: Colors,
}

impl SequenceParameters {
    /// Reads a unit with its header byte; nothing where it ends too early or has numbers that none may have.
    pub(super) fn parse(unit: &[u8]) -> Option<Self> {
        const WITH_CHROMA: [u8; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];
        let mut bits = Bits::new(unit.get(1..)?);
        let profile = bits.take(8)? as u8;
        // Constraints, level.
        bits.take(16)?;
        // Its number.
        bits.count()?;
        let (mut chroma, mut depth, mut is_lossless) = (1, 8, false);
        if WITH_CHROMA.contains(&profile) {
            chroma = bits.count()?;
            if chroma == 3 {
                // Planes apart.
                bits.take(1)?;
            }
            depth = 8 + bits.count()?.max(bits.count()?);
            is_lossless = bits.take(1)? == 1;
            if bits.take(1)? == 1 {
                skip_scaling_lists(&mut bits, if chroma == 3 { 12 } else { 8 })?;
            }
        }
        bits.count()?;
        skip_order(&mut bits)?;
        // Reference frames, gaps, width, height.
        bits.count()?;
        bits.take(1)?;
        bits.count()?;
        bits.count()?;
        let is_interlaced = bits.take(1)? == 0;
        if is_interlaced {
            bits.take(1)?;
        }
        bits.take(1)?;
        if bits.take(1)? == 1 {
            (0..4).try_for_each(|_| bits.count().map(drop))?;
        }
        let colors = if bits.take(1)? == 1 { colors(&mut bits)? } else { Colors::default() };
        Some(Self { profile, chroma, bits: depth, is_lossless, is_interlaced, colors })
    }

    pub(super) fn is_grey(&self) -> bool {
        self.chroma == 0
    }

    /// The profile, and what of it OpenH264 does not decode; nothing where it decodes everything.
    pub(super) fn beyond_openh264(&self) -> Option<String> {
        let profile = match self.profile {
            44 => "CAVLC 4:4:4 Intra".to_owned(),
            66 => "Baseline".to_owned(),
            77 => "Main".to_owned(),
            88 => "Extended".to_owned(),
            100 => "High".to_owned(),
            110 => "High 10".to_owned(),
            122 => "High 4:2:2".to_owned(),
            244 => "High 4:4:4 Predictive".to_owned(),
            other => format!("of number {other}"),
        };
        let chroma = match self.chroma {
            0 | 1 => None,
            2 => Some("chroma 4:2:2".to_owned()),
            3 => Some("chroma 4:4:4".to_owned()),
            other => Some(format!("chroma of the format {other}")),
        };
        let depth = (self.bits > 8).then(|| format!("{} bits", self.bits));
        let lossless = self.is_lossless.then(|| "lossless pictures".to_owned());
        let interlaced = self.is_interlaced.then(|| "interlaced frames".to_owned());
        let beyond: Vec<String> = [chroma, depth, lossless, interlaced].into_iter().flatten().collect();
        (!beyond.is_empty()).then(|| format!("the profile {profile} with {}", beyond.join(", ")))
    }
}

/// What a sequence parameter set says beside what is needed for decoding: the meaning of the levels.
fn colors(bits: &mut Bits<'_>) -> Option<Colors> {
    const EXTENDED_RATIO: u32 = 255;
    if bits.take(1)? == 1 && bits.take(8)? == EXTENDED_RATIO {
        bits.take(32)?;
    }
    // Overscan.
    if bits.take(1)? == 1 {
        bits.take(1)?;
    }
    let mut colors = Colors::default();
    if bits.take(1)? == 1 {
        bits.take(3)?;
        colors.is_full_range = bits.take(1)? == 1;
        if bits.take(1)? == 1 {
            // Primaries and transfer are those of the camera; RGB keeps them.
            bits.take(16)?;
            colors.matrix = Matrix::of_code(bits.take(8)?);
        }
    }
    Some(colors)
}

/// Skips the lists by which coefficients are scaled.
fn skip_scaling_lists(bits: &mut Bits<'_>, count: usize) -> Option<()> {
    for list in 0..count {
        if bits.take(1)? == 0 {
            continue;
        }
        let (mut last, mut next) = (8_i32, 8_i32);
        for _ in 0..if list < 6 { 16 } else { 64 } {
            if next != 0 {
                next = (last.checked_add(bits.signed()?)?).rem_euclid(256);
            }
            last = if next == 0 { last } else { next };
        }
    }
    Some(())
}

/// Skips how the order of pictures is told.
fn skip_order(bits: &mut Bits<'_>) -> Option<()> {
    match bits.count()? {
        0 => bits.count().map(drop),
        1 => {
            bits.take(1)?;
            bits.signed()?;
            bits.signed()?;
            let cycle = bits.count()?;
            (0..cycle).try_for_each(|_| bits.signed().map(drop))
        }
        _ => Some(()),
    }
}

/// Bits of a unit, without the bytes that keep start codes out of it.
struct Bits<'a> {
    bytes: std::slice::Iter<'a, u8>,
    byte: u8,
    left: u32,
    zeros: u32,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: bytes.iter(), byte: 0, left: 0, zeros: 0 }
    }

    fn next(&mut self) -> Option<u32> {
        if self.left == 0 {
            self.byte = *self.bytes.next()?;
            if self.zeros == 2 && self.byte == 3 {
                self.byte = *self.bytes.next()?;
                self.zeros = 0;
            }
            self.zeros = if self.byte == 0 { self.zeros + 1 } else { 0 };
            self.left = 8;
        }
        self.left -= 1;
        Some(u32::from(self.byte >> self.left) & 1)
    }

    /// A number of so many bits.
    fn take(&mut self, bits: u32) -> Option<u32> {
        (0..bits).try_fold(0_u32, |value, _| Some(value << 1 | self.next()?))
    }

    /// A number in Exp-Golomb code.
    fn count(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.next()? == 0 {
            zeros += 1;
        }
        if zeros > 31 {
            return None;
        }
        Some(((1_u32 << zeros) - 1).wrapping_add(self.take(zeros)?))
    }

    /// A number with a sign in Exp-Golomb code.
    fn signed(&mut self) -> Option<i32> {
        let count = self.count()?;
        let half = i32::try_from(count.div_ceil(2)).ok()?;
        Some(if count % 2 == 1 { half } else { -half })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_standard_codes_them() {
        // 1, 010, 011, 00100, 00101, and two of 8 bits around a byte that keeps a start code out.
        let mut bits = Bits::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000, 0, 0, 3, 1]);
        assert_eq!((0..5).map(|_| bits.count().expect("a number")).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!((bits.take(7), bits.take(16), bits.take(8), bits.take(1)), (Some(0), Some(0), Some(1), None));
        let mut bits = Bits::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000]);
        assert_eq!((0..5).map(|_| bits.signed().expect("a number")).collect::<Vec<_>>(), [0, 1, -1, 2, -2]);
        assert_eq!(Bits::new(&[0; 20]).count(), None);
    }

    #[test]
    fn a_set_that_ends_early_is_none() {
        // High, 4:2:0, of 48 x 32.
        let unit = [0x67, 0x64, 0x00, 0x0a, 0xac, 0xd9, 0x46, 0x96, 0xc0, 0x44, 0x00, 0x00, 0x03];
        for end in 0..8 {
            assert_eq!(SequenceParameters::parse(&unit[..end]), None, "{end}");
        }
    }
}
