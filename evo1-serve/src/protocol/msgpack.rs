//! msgpack with numpy's arrays, read where it lies.
//!
//! A message of a hundred megabytes may claim a hundred million elements, so that their number is limited: observations
//! have few, and their bulk is in arrays, which are slices of the message.

use rmp::{Marker, decode};

use super::array::Array;

/// Most values of a message.
const MAX_VALUES: usize = 10_000;

/// Deepest nesting.
const MAX_DEPTH: usize = 16;

/// A value of a message.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Nil,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(&'a str),
    Binary(&'a [u8]),
    List(Vec<Value<'a>>),
    Map(Vec<(Value<'a>, Value<'a>)>),
    Array(Array<'a>),
}

/// The value of a whole message.
pub(super) fn decode(message: &[u8]) -> Result<Value<'_>, String> {
    let mut reader = Reader { bytes: message, values: 0 };
    let value = reader.value(MAX_DEPTH)?;
    match reader.bytes {
        [] => Ok(value),
        rest => Err(format!("not valid msgpack: {} bytes follow the value", rest.len())),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    values: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value<'a>, String> {
        self.values += 1;
        if self.values > MAX_VALUES || depth == 0 {
            return Err(format!(
                "a message may have {MAX_VALUES} values, nested {MAX_DEPTH} deep; arrays count as one"
            ));
        }
        let cut = |error: &dyn std::fmt::Display| format!("not valid msgpack: {error}");
        let mut look = self.bytes;
        let marker = decode::read_marker(&mut look).map_err(|_| "not valid msgpack: it is cut off".to_owned())?;
        match marker {
            Marker::Null => {
                self.bytes = look;
                Ok(Value::Nil)
            }
            Marker::True | Marker::False => {
                self.bytes = look;
                Ok(Value::Bool(marker == Marker::True))
            }
            Marker::F32 => Ok(Value::Float(decode::read_f32(&mut self.bytes).map_err(|error| cut(&error))?.into())),
            Marker::F64 => Ok(Value::Float(decode::read_f64(&mut self.bytes).map_err(|error| cut(&error))?)),
            Marker::FixPos(_)
            | Marker::FixNeg(_)
            | Marker::U8
            | Marker::U16
            | Marker::U32
            | Marker::U64
            | Marker::I8
            | Marker::I16
            | Marker::I32
            | Marker::I64 => Ok(Value::Integer(decode::read_int(&mut self.bytes).map_err(|error| cut(&error))?)),
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                let length = decode::read_str_len(&mut self.bytes).map_err(|error| cut(&error))?;
                let text = std::str::from_utf8(self.take(length)?);
                Ok(Value::Text(text.map_err(|error| cut(&error))?))
            }
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
                let length = decode::read_bin_len(&mut self.bytes).map_err(|error| cut(&error))?;
                Ok(Value::Binary(self.take(length)?))
            }
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
                let length = decode::read_array_len(&mut self.bytes).map_err(|error| cut(&error))?;
                (0..length).map(|_| self.value(depth - 1)).collect::<Result<_, _>>().map(Value::List)
            }
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
                let length = decode::read_map_len(&mut self.bytes).map_err(|error| cut(&error))?;
                let mut entry = || Ok((self.value(depth - 1)?, self.value(depth - 1)?));
                array((0..length).map(|_| entry()).collect::<Result<_, String>>()?)
            }
            other => Err(format!("not valid msgpack for an observation: {other:?}")),
        }
    }

    fn take(&mut self, length: u32) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(length as usize)
            .ok_or_else(|| format!("not valid msgpack: {length} bytes are announced, {} are left", self.bytes.len()))?;
        self.bytes = rest;
        Ok(taken)
    }
}

/// A map, or the array or number of numpy that it stands for.
fn array<'a>(entries: Vec<(Value<'a>, Value<'a>)>) -> Result<Value<'a>, String> {
    let get = |name: &str| entries.iter().find(|(key, _)| key.name().as_deref() == Some(name)).map(|(_, value)| value);
    if get("__npgeneric__").is_some() {
        return get("data").cloned().ok_or_else(|| "a numpy number has no `data`".to_owned());
    }
    if get("__ndarray__").is_none() {
        return Ok(Value::Map(entries));
    }
    let (Some(Value::Text(dtype)), Some(Value::Binary(data)), Some(Value::List(sizes))) =
        (get("dtype"), get("data"), get("shape"))
    else {
        return Err("an array needs `dtype`, `data` and `shape`".to_owned());
    };
    let shape: Vec<usize> = sizes
        .iter()
        .map(|size| Ok(usize::try_from(size.whole()?).unwrap_or(usize::MAX)))
        .collect::<Result<_, String>>()?;
    Array::new(dtype, shape, data).map(Value::Array)
}

impl Value<'_> {
    /// The text of a key, which numpy's encoder writes as binary.
    pub(super) fn name(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some((*text).to_owned()),
            Self::Binary(bytes) => std::str::from_utf8(bytes).ok().map(str::to_owned),
            _ => None,
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::Binary(_) => "bytes",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
            Self::Array(_) => "an array",
        }
    }

    pub(super) fn text(&self) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok((*text).to_owned()),
            other => Err(format!("a text, got {}", other.kind())),
        }
    }

    pub(super) fn whole(&self) -> Result<u64, String> {
        let expected = "a whole number that is not negative";
        match self {
            Self::Integer(value) => u64::try_from(*value).map_err(|_| format!("{expected}, got {value}")),
            other => Err(format!("{expected}, got {}", other.kind())),
        }
    }

    pub(super) fn float(&self) -> Result<f32, String> {
        match self {
            Self::Integer(value) => Ok(*value as f32),
            Self::Float(value) => Ok(*value as f32),
            Self::Bool(value) => Ok(f32::from(u8::from(*value))),
            other => Err(format!("a number, got {}", other.kind())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_take_no_memory() {
        for claim in
            [&[0xdd, 0xff, 0xff, 0xff, 0xff][..], &[0xdf, 0xff, 0xff, 0xff, 0xff], &[0xc6, 0xff, 0xff, 0xff, 0xff]]
        {
            assert!(decode(claim).is_err());
        }
        let many = [&[0xdd, 0x00, 0x0f, 0xff, 0xff][..], &[0xc0; 1 << 20]].concat();
        assert!(decode(&many).expect_err("too many").contains("10000 values"));
        assert!(decode(&[0x91; 100]).expect_err("too deep").contains("nested"));
        assert!(decode(&[0xc0, 0xc0]).expect_err("two").contains("1 bytes follow"));
        assert!(decode(&[]).is_err());
    }
}
