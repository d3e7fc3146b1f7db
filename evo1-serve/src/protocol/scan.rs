//! A JSON scanner that reads a message where it lies, without a tree.
//!
//! Numbers of images go straight into bytes: a three-camera request is ten megabytes of text, and a tree of it would
//! take a hundred times as long as copying it.

use super::pixel::followed_pixels;

/// Deepest nesting of what is skipped.
const MAX_DEPTH: usize = 64;

/// Why a message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ScanError {
    /// It is no JSON; nothing after this place can be trusted.
    Syntax {
        /// Offset in bytes.
        at: usize,
        /// What was expected there.
        expected: &'static str,
    },
    /// It is JSON, but not of the kind that its field must hold.
    Value(String),
}

type Result<T> = std::result::Result<T, ScanError>;

/// A position in a message.
#[derive(Debug, Clone)]
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Pixels of an image, three values each.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pixels {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) values: Vec<u8>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn seek(&mut self, position: usize) {
        self.at = position;
    }

    fn peek(&self) -> u8 {
        // No JSON token starts with a zero byte, so that it stands for the end as well.
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    fn syntax<T>(&self, expected: &'static str) -> Result<T> {
        Err(ScanError::Syntax { at: self.at, expected })
    }

    pub(super) fn skip_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    /// The next byte that is no white space.
    pub(super) fn next_byte(&mut self) -> u8 {
        self.skip_space();
        self.peek()
    }

    /// Takes `byte` if it comes next.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let comes = self.next_byte() == byte;
        self.at += usize::from(comes);
        comes
    }

    pub(super) fn expect(&mut self, byte: u8, expected: &'static str) -> Result<()> {
        if self.take(byte) { Ok(()) } else { self.syntax(expected) }
    }

    /// Fails unless only white space is left.
    pub(super) fn end(&mut self) -> Result<()> {
        self.skip_space();
        if self.at == self.bytes.len() { Ok(()) } else { self.syntax("the end of the message") }
    }

    /// Calls `element` at every element of an array, which must read it.
    pub(super) fn array(&mut self, mut element: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.expect(b'[', "a list")?;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.skip_space();
            element(self)?;
            if !self.take(b',') {
                return self.expect(b']', "`,` or `]`");
            }
        }
    }

    /// Calls `member` at the value of every member of an object, which must read it.
    pub(super) fn object(&mut self, mut member: impl FnMut(&mut Self, &str) -> Result<()>) -> Result<()> {
        self.expect(b'{', "an object")?;
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            let key = self.string()?;
            self.expect(b':', "`:`")?;
            self.skip_space();
            member(self, &key)?;
            if !self.take(b',') {
                return self.expect(b'}', "`,` or `}`");
            }
        }
    }

    /// The raw text of a string, quotes included.
    fn string_text(&mut self) -> Result<&'a [u8]> {
        if self.next_byte() != b'"' {
            return self.syntax("a string");
        }
        let start = self.at;
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(&self.bytes[start..self.at]);
                }
                Some(b'\\') => self.at += 2,
                Some(0x20..) => self.at += 1,
                _ => return self.syntax("the end of a string"),
            }
        }
    }

    pub(super) fn string(&mut self) -> Result<String> {
        let start = self.next_position();
        let text = self.string_text()?;
        // Escapes are serde_json's matter.
        serde_json::from_slice(text).or(Err(ScanError::Syntax { at: start, expected: "a string" }))
    }

    fn next_position(&mut self) -> usize {
        self.skip_space();
        self.at
    }

    /// The text of a number.
    pub(super) fn number_text(&mut self) -> Result<&'a str> {
        let start = self.next_position();
        let digits = |scanner: &mut Self| {
            let from = scanner.at;
            while scanner.peek().is_ascii_digit() {
                scanner.at += 1;
            }
            scanner.at - from
        };
        self.at += usize::from(self.peek() == b'-');
        if matches!(self.peek(), b'N' | b'I') {
            return Err(ScanError::Value("not a finite number".into()));
        }
        let leads_with_zero = self.peek() == b'0';
        let whole = digits(self);
        if whole == 0 || (leads_with_zero && whole > 1) {
            return self.syntax("a number");
        }
        if self.peek() == b'.' {
            self.at += 1;
            if digits(self) == 0 {
                return self.syntax("a digit");
            }
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), b'+' | b'-'));
            if digits(self) == 0 {
                return self.syntax("a digit");
            }
        }
        std::str::from_utf8(&self.bytes[start..self.at]).or(self.syntax("a number"))
    }

    /// A finite number.
    pub(super) fn float(&mut self) -> Result<f32> {
        if !matches!(self.next_byte(), b'-' | b'0'..=b'9' | b'N' | b'I') {
            return self.wrong("a number");
        }
        let text = self.number_text()?;
        match text.parse::<f32>() {
            Ok(value) if value.is_finite() => Ok(value),
            _ => Err(ScanError::Value(format!("a number that single precision can hold, got {text}"))),
        }
    }

    /// A whole number that is not negative.
    pub(super) fn integer(&mut self) -> Result<u64> {
        if !matches!(self.next_byte(), b'-' | b'0'..=b'9') {
            return self.wrong("a whole number");
        }
        let text = self.number_text()?;
        text.parse().map_err(|_| ScanError::Value(format!("a whole number that is not negative, got {text}")))
    }

    /// 0, 1, `false` or `true`; Python writes a mask of floats as `0.0` and `1.0`.
    pub(super) fn flag(&mut self) -> Result<bool> {
        for (word, value) in [("true", true), ("false", false)] {
            if self.bytes[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        match self.float()? {
            0.0 => Ok(false),
            1.0 => Ok(true),
            other => Err(ScanError::Value(format!("0 or 1, got {other}"))),
        }
    }

    /// Calls `leaf` at every element that is no list, of lists in lists up to `depth` deep.
    pub(super) fn nested(&mut self, depth: usize, leaf: &mut impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.array(|scanner| match scanner.peek() {
            b'[' if depth <= 1 => scanner.wrong("a flatter list"),
            b'[' => scanner.nested(depth - 1, leaf),
            _ => leaf(scanner),
        })
    }

    /// An error that says what stands here in place of what is expected.
    pub(super) fn wrong<T>(&mut self, expected: &str) -> Result<T> {
        let got = match self.next_byte() {
            b'[' => "a list",
            b'{' => "an object",
            b'"' => "a string",
            b'n' => "null",
            b't' | b'f' => "a truth value",
            b'-' | b'0'..=b'9' => "a number",
            _ => return self.syntax("a value"),
        };
        Err(ScanError::Value(format!("{expected}, got {got}")))
    }

    /// Passes over a value of any kind.
    pub(super) fn skip(&mut self) -> Result<()> {
        self.skip_nested(MAX_DEPTH)
    }

    /// The text of a value of any kind.
    pub(super) fn raw(&mut self) -> Result<&'a [u8]> {
        let start = self.next_position();
        self.skip()?;
        Ok(&self.bytes[start..self.at])
    }

    fn skip_nested(&mut self, depth: usize) -> Result<()> {
        if depth == 0 {
            return self.syntax("less nesting");
        }
        match self.next_byte() {
            b'[' => self.array(|scanner| scanner.skip_nested(depth - 1)),
            b'{' => self.object(|scanner, _| scanner.skip_nested(depth - 1)),
            b'"' => self.string().map(drop),
            b'-' | b'0'..=b'9' => match self.number_text() {
                Err(ScanError::Value(_)) => self.skip_word(),
                other => other.map(drop),
            },
            _ => self.skip_word(),
        }
    }

    /// `true`, `false`, `null`, and what Python writes in place of numbers that are none.
    fn skip_word(&mut self) -> Result<()> {
        for word in ["true", "false", "null", "NaN", "Infinity"] {
            if self.bytes[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(());
            }
        }
        self.syntax("a value")
    }

    /// An image, `[height][width][3]` whole numbers from 0 to 255. With `swap` the first and the last value of every
    /// pixel change places.
    pub(super) fn image(&mut self, swap: bool) -> Result<Pixels> {
        let (mut width, mut height, mut values) = (0, 0, Vec::new());
        if self.next_byte() != b'[' {
            return self.wrong("a list of rows");
        }
        self.array(|scanner| {
            if scanner.peek() != b'[' {
                return scanner.wrong("a row of pixels");
            }
            let (start, before) = (scanner.at, values.len());
            scanner.row(swap, &mut values)?;
            let got = (values.len() - before) / 3;
            height += 1;
            if height == 1 {
                width = got;
                // Few images are higher than wide, and none has more rows than are left of the message.
                let rows = (scanner.bytes.len() - scanner.at) / (scanner.at - start);
                values.reserve_exact(3 * width * rows.min(width));
            }
            if got == width {
                return Ok(());
            }
            Err(ScanError::Value(format!("rows of one length, got {got} pixels in row {height} after {width}")))
        })?;
        if width == 0 {
            return Err(ScanError::Value("at least one pixel".into()));
        }
        Ok(Pixels { width, height, values })
    }

    fn row(&mut self, swap: bool, values: &mut Vec<u8>) -> Result<()> {
        self.expect(b'[', "a row of pixels")?;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.skip_space();
            self.at = self.bytes.len() - followed_pixels(&self.bytes[self.at..], swap, values).len();
            let [first, second, third] = self.pixel()?;
            values.extend_from_slice(&if swap { [third, second, first] } else { [first, second, third] });
            if !self.take(b',') {
                return self.expect(b']', "`,` or `]`");
            }
        }
    }

    fn pixel(&mut self) -> Result<[u8; 3]> {
        self.skip_space();
        let (mut pixel, mut count) = ([0; 3], 0);
        if self.peek() != b'[' {
            return self.wrong("a pixel of three values");
        }
        self.array(|scanner| {
            let level = scanner.integer()?;
            let level = u8::try_from(level).map_err(|_| ScanError::Value(format!("values up to 255, got {level}")))?;
            if let Some(place) = pixel.get_mut(count) {
                *place = level;
            }
            count += 1;
            Ok(())
        })?;
        if count == 3 { Ok(pixel) } else { Err(ScanError::Value(format!("pixels of 3 values, got {count}"))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> Result<Pixels> {
        let mut scanner = Scanner::new(text.as_bytes());
        let pixels = scanner.image(false)?;
        scanner.end()?;
        Ok(pixels)
    }

    #[test]
    fn images_are_read_however_they_are_spaced() {
        let expected = Pixels { width: 2, height: 2, values: vec![0, 1, 255, 10, 20, 30, 9, 99, 199, 7, 8, 9] };
        for text in [
            "[[[0, 1, 255], [10, 20, 30]], [[9, 99, 199], [7, 8, 9]]]",
            "[[[0,1,255],[10,20,30]],[[9,99,199],[7,8,9]]]",
            "[[[0,1,255], [10, 20, 30]],\n [[9, 99, 199],[7,8,9]]]",
            " [ [\n[ 0 ,1, 255 ] ,[10,20,\t30]] , [[9, 99, 199], [7, 8, 9] ]\r\n] ",
        ] {
            assert_eq!(image(text).expect(text), expected);
        }
        let mut scanner = Scanner::new(b"[[[1, 2, 3]]]");
        assert_eq!(scanner.image(true).expect("swapped").values, [3, 2, 1]);
    }

    #[test]
    fn what_is_no_image_is_refused_with_a_reason() {
        let cases = [
            ("[[[0, 1, 256]]]", "up to 255, got 256"),
            ("[[[0, 1]]]", "3 values, got 2"),
            ("[[[0, 1, 2, 3]]]", "3 values, got 4"),
            ("[[[0, 1, -2]]]", "not negative, got -2"),
            ("[[[0, 1, 2.5]]]", "whole number that is not negative, got 2.5"),
            ("[[[0, 1, null]]]", "whole number, got null"),
            ("[[0, 1, 2]]", "pixel of three values, got a number"),
            ("[[[0, 1, 2], [0, 1, 2]], [[0, 1, 2]]]", "rows of one length, got 1 pixels in row 2 after 2"),
            ("[]", "at least one pixel"),
            ("[[]]", "at least one pixel"),
            ("\"image\"", "list of rows, got a string"),
        ];
        for (text, expected) in cases {
            match image(text) {
                Err(ScanError::Value(message)) => assert!(message.contains(expected), "{text}: {message}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        for text in ["[[[0, 1, 02]]]", "[[[0, 1, 2]]", "[[[0, 1, 2]]]]", "[[[0 1 2]]]", "[[[0,,2]]]", "[[[0, 1, 2],]]"]
        {
            assert!(matches!(image(text), Err(ScanError::Syntax { .. })), "{text}");
        }
    }

    #[test]
    fn skipping_agrees_with_serde_json() {
        let values = [
            "1",
            "-0.5e+3",
            "01",
            "1.",
            ".5",
            "1e",
            "\"a\\\"b\"",
            "\"\\u12\"",
            "\"\u{1}\"",
            "[]",
            "[1,]",
            "[1 2]",
            "{}",
            "{\"a\":1}",
            "{\"a\" 1}",
            "{1:2}",
            "null",
            "nul",
            "true",
            "tru",
            "",
            "[[[[]]]]",
            "\"\\",
            "\"",
        ];
        for text in values {
            let mut scanner = Scanner::new(text.as_bytes());
            let ours = scanner.skip().and_then(|()| scanner.end());
            let theirs = serde_json::from_str::<serde_json::Value>(text);
            assert_eq!(ours.is_ok(), theirs.is_ok(), "{text}: {ours:?}, {theirs:?}");
        }
        let deep = "[".repeat(1_000_000);
        assert!(Scanner::new(deep.as_bytes()).skip().is_err());
    }
}
