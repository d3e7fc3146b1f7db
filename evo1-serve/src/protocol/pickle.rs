//! Python's pickles, as data: a message of LeRobot is one.
//!
//! A pickle is a program for a stack machine that may call whatever it names, which is why Python's own reader must never
//! see one from a network. This reader calls nothing. It knows the operations that data is written with, and of names only
//! those in [`GLOBALS`], each of which stands for a value that is made here: numpy's arrays, torch's tensors, an ordered
//! dictionary, and the two dataclasses of the protocol. Any other name is refused where it is read, before there is
//! anything of it.
//!
//! Operations and nesting are limited, and arrays are views of the message, so that a pickle takes no more memory than its
//! bytes. Values lie in one list and refer to each other by place: nothing here recurses, whatever a pickle refers to.
//!
//! Sources: Python's `pickletools.py` for the operations; what numpy 2, numpy 1 and torch 2 write.

use std::collections::HashMap;

use super::array::{Array, packed_strides};

/// Most operations of a pickle. An observation has some hundred: its bulk is in arrays, which are one each.
const MAX_OPERATIONS: usize = 20_000;

/// Deepest nesting.
const MAX_DEPTH: u8 = 16;

/// Most bytes of a dtype's name that a message shows.
const MAX_SHOWN: usize = 80;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Global {
    /// A class whose objects are their fields.
    Dataclass(&'static str),
    OrderedDict,
    /// numpy's array before it is filled.
    Reconstruct,
    NdArray,
    Dtype,
    Scalar,
    FromBuffer,
    /// torch's tensor on a storage.
    RebuildTensor,
    /// A storage by the bytes of its file.
    LoadFromBytes,
    /// A storage of elements of a dtype.
    Storage(&'static str),
}

/// The module of LeRobot's dataclasses.
pub(super) const HELPERS: &str = "lerobot.async_inference.helpers";

/// Every name that a pickle may use, by module.
const GLOBALS: [(&str, &str, Global); 20] = [
    (HELPERS, "RemotePolicyConfig", Global::Dataclass("RemotePolicyConfig")),
    (HELPERS, "TimedObservation", Global::Dataclass("TimedObservation")),
    ("collections", "OrderedDict", Global::OrderedDict),
    ("numpy", "dtype", Global::Dtype),
    ("numpy", "ndarray", Global::NdArray),
    ("numpy._core.multiarray", "_reconstruct", Global::Reconstruct),
    ("numpy._core.multiarray", "scalar", Global::Scalar),
    ("numpy._core.numeric", "_frombuffer", Global::FromBuffer),
    ("numpy.core.multiarray", "_reconstruct", Global::Reconstruct),
    ("numpy.core.multiarray", "scalar", Global::Scalar),
    ("numpy.core.numeric", "_frombuffer", Global::FromBuffer),
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
    ("torch.storage", "_load_from_bytes", Global::LoadFromBytes),
    ("torch", "ByteStorage", Global::Storage("|u1")),
    ("torch", "BoolStorage", Global::Storage("|b1")),
    ("torch", "HalfStorage", Global::Storage("<f2")),
    ("torch", "FloatStorage", Global::Storage("<f4")),
    ("torch", "DoubleStorage", Global::Storage("<f8")),
    ("torch", "IntStorage", Global::Storage("<i4")),
    ("torch", "LongStorage", Global::Storage("<i8")),
];

/// numpy's short names of dtypes, and those of arrays.
const DTYPES: [(&str, &str); 8] = [
    ("u1", "|u1"),
    ("i1", "|i1"),
    ("b1", "|b1"),
    ("f2", "<f2"),
    ("f4", "<f4"),
    ("f8", "<f8"),
    ("i4", "<i4"),
    ("i8", "<i8"),
];

/// How a file of torch begins that holds one storage: two pickles, of a number that marks such files and of their version.
const STORAGE_FILE: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";

/// Place of a value.
type Id = usize;

/// A value.
#[derive(Debug, Clone, PartialEq)]
enum Node<'a> {
    None,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Dtype(&'static str),
    /// numpy's array before it is filled.
    Unfilled,
    Array(Array<'a>),
    /// Elements of a dtype, in a file whose bytes are not known yet.
    Storage(&'static str),
    /// The same with their bytes.
    Filled(&'static str, &'a [u8]),
    /// A dataclass, and the dictionary of its fields once it is there.
    Object(&'static str, Option<Id>),
}

/// What a pickle holds.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: Id,
}

/// A value of a pickle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value<'p, 'a> {
    pickle: &'p Pickle<'a>,
    id: Id,
}

impl<'a> Pickle<'a> {
    /// Reads a whole message.
    pub(super) fn read(message: &'a [u8]) -> Result<Self, String> {
        let mut operations = MAX_OPERATIONS;
        let (pickle, rest) = Machine::new(message, &mut operations, false).run()?;
        match rest {
            [] => Ok(pickle),
            rest => Err(format!("not a valid pickle: {} bytes follow it", rest.len())),
        }
    }

    pub(super) fn root(&self) -> Value<'_, 'a> {
        Value { pickle: self, id: self.root }
    }
}

impl<'p, 'a> Value<'p, 'a> {
    fn node(self) -> &'p Node<'a> {
        &self.pickle.nodes[self.id]
    }

    fn at(self, id: Id) -> Self {
        Self { id, ..self }
    }

    pub(super) fn kind(self) -> &'static str {
        self.node().kind()
    }

    /// The fields of an object of a dataclass.
    pub(super) fn object(self, class: &str) -> Result<Self, String> {
        match self.node() {
            Node::Object(name, Some(fields)) if *name == class => Ok(self.at(*fields)),
            Node::Object(name, _) => Err(format!("a {class}, got a {name}")),
            other => Err(format!("a {class}, got {}", other.kind())),
        }
    }

    /// Entries of a dictionary whose keys are texts; others are left out.
    pub(super) fn entries(self) -> Result<impl Iterator<Item = (&'a str, Self)> + 'p, String> {
        let Node::Dict(entries) = self.node() else { return Err(format!("a dictionary, got {}", self.kind())) };
        Ok(entries.iter().filter_map(move |&(key, value)| Some((self.at(key).text().ok()?, self.at(value)))))
    }

    /// The value of a dictionary's key. Where a key was set twice, the last counts, as in Python.
    pub(super) fn get(self, key: &str) -> Result<Option<Self>, String> {
        Ok(self.entries()?.filter(|(name, _)| *name == key).last().map(|(_, value)| value))
    }

    /// Values of a list or tuple.
    pub(super) fn items(self) -> Result<impl ExactSizeIterator<Item = Self> + 'p, String> {
        match self.node() {
            Node::List(items) | Node::Tuple(items) => Ok(items.iter().map(move |&id| self.at(id))),
            other => Err(format!("a list, got {}", other.kind())),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, String> {
        match self.node() {
            Node::Text(text) => Ok(text),
            other => Err(format!("a text, got {}", other.kind())),
        }
    }

    pub(super) fn flag(self) -> Result<bool, String> {
        match self.node() {
            Node::Bool(value) => Ok(*value),
            other => Err(format!("a truth value, got {}", other.kind())),
        }
    }

    pub(super) fn integer(self) -> Result<i64, String> {
        match self.node() {
            Node::Integer(value) => Ok(*value),
            other => Err(format!("a whole number, got {}", other.kind())),
        }
    }

    /// A number, also in an array that holds one alone.
    pub(super) fn number(self) -> Result<f64, String> {
        match self.node() {
            Node::Integer(value) => Ok(*value as f64),
            Node::Float(value) => Ok(*value),
            Node::Bool(value) => Ok(u8::from(*value).into()),
            Node::Array(array) if array.shape.is_empty() => match array.floats()?.as_slice() {
                [value] => Ok((*value).into()),
                _ => Err("a number, got an array of none".into()),
            },
            other => Err(format!("a number, got {}", other.kind())),
        }
    }

    pub(super) fn array(self) -> Result<&'p Array<'a>, String> {
        match self.node() {
            Node::Array(array) => Ok(array),
            other => Err(format!("an array, got {}", other.kind())),
        }
    }
}

impl Node<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a truth value",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::Bytes(_) => "bytes",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Global(_) => "a name",
            Self::Dtype(_) => "a dtype",
            Self::Unfilled | Self::Array(_) => "an array",
            Self::Storage(_) | Self::Filled(..) => "a storage",
            Self::Object(..) => "an object",
        }
    }
}

/// The stack machine. Stack and memory hold places of values.
struct Machine<'a, 'o> {
    bytes: &'a [u8],
    operations: &'o mut usize,
    /// A file of torch, whose storages are named by what stands outside of its pickle.
    is_file: bool,
    nodes: Vec<Node<'a>>,
    depths: Vec<u8>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memory: HashMap<u32, Id>,
}

impl<'a, 'o> Machine<'a, 'o> {
    fn new(bytes: &'a [u8], operations: &'o mut usize, is_file: bool) -> Self {
        Self {
            bytes,
            operations,
            is_file,
            nodes: Vec::new(),
            depths: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memory: HashMap::new(),
        }
    }

    /// What the pickle holds, and the bytes behind it.
    fn run(mut self) -> Result<(Pickle<'a>, &'a [u8]), String> {
        loop {
            *self.operations = self
                .operations
                .checked_sub(1)
                .ok_or_else(|| format!("a pickle may have {MAX_OPERATIONS} operations; arrays count as a few"))?;
            let [operation] = self.take()?;
            if operation == b'.' {
                let root = self.pop()?;
                return Ok((Pickle { nodes: self.nodes, root }, self.bytes));
            }
            self.step(operation)?;
        }
    }

    fn step(&mut self, operation: u8) -> Result<(), String> {
        match operation {
            // Protocol, and the length of a frame, which nothing needs.
            0x80 => match self.take()? {
                [2..=5] => Ok(()),
                [protocol] => Err(format!("not a valid pickle: protocol {protocol} is not one of 2 to 5")),
            },
            0x95 => self.take::<8>().map(drop),
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'J' => self.take().and_then(|bytes| self.push(Node::Integer(i32::from_le_bytes(bytes).into()))),
            b'K' => self.take().and_then(|[byte]| self.push(Node::Integer(byte.into()))),
            b'M' => self.take().and_then(|bytes| self.push(Node::Integer(u16::from_le_bytes(bytes).into()))),
            0x8a => self.long(),
            b'G' => self.take().and_then(|bytes| self.push(Node::Float(f64::from_be_bytes(bytes)))),
            0x8c => self.take().and_then(|[length]| self.text(length.into())),
            b'X' => self.take().and_then(|length| self.text(u32::from_le_bytes(length).into())),
            0x8d => self.take().and_then(|length| self.text(u64::from_le_bytes(length))),
            b'C' => self.take().and_then(|[length]| self.binary(length.into())),
            b'B' => self.take().and_then(|length| self.binary(u32::from_le_bytes(length).into())),
            0x8e | 0x96 => self.take().and_then(|length| self.binary(u64::from_le_bytes(length))),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b')' => self.push(Node::Tuple(Vec::new())),
            0x85 => self.pop_last(1).and_then(|items| self.push(Node::Tuple(items))),
            0x86 => self.pop_last(2).and_then(|items| self.push(Node::Tuple(items))),
            0x87 => self.pop_last(3).and_then(|items| self.push(Node::Tuple(items))),
            b't' => self.pop_mark().and_then(|items| self.push(Node::Tuple(items))),
            b']' => self.push(Node::List(Vec::new())),
            b'a' => self.pop_last(1).and_then(|items| self.append(items)),
            b'e' => self.pop_mark().and_then(|items| self.append(items)),
            b'}' => self.push(Node::Dict(Vec::new())),
            b's' => self.pop_last(2).and_then(|items| self.set(&items)),
            b'u' => self.pop_mark().and_then(|items| self.set(&items)),
            b'q' => self.take().and_then(|[place]| self.remember(place.into())),
            b'r' => self.take().and_then(|place| self.remember(u32::from_le_bytes(place))),
            0x94 => self.remember(self.memory.len() as u32),
            b'h' => self.take().and_then(|[place]| self.recall(place.into())),
            b'j' => self.take().and_then(|place| self.recall(u32::from_le_bytes(place))),
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.nodes[module], &self.nodes[name]) {
                    (&Node::Text(module), &Node::Text(name)) => self.global(module, name),
                    _ => Err("not a valid pickle: a name must be a text".into()),
                }
            }
            b'R' => self.reduce(),
            0x81 => self.create(),
            b'b' => self.build(),
            b'Q' if self.is_file => self.stored(),
            other => Err(format!("a pickle of data has no operation {other:#04x}")),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or("not a valid pickle: it is cut off")?;
        self.bytes = rest;
        Ok(*taken)
    }

    fn slice(&mut self, length: u64) -> Result<&'a [u8], String> {
        let cut = || format!("not a valid pickle: {length} bytes are announced, {} are left", self.bytes.len());
        let (taken, rest) =
            usize::try_from(length).ok().and_then(|length| self.bytes.split_at_checked(length)).ok_or_else(cut)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let length = self.bytes.iter().position(|&byte| byte == b'\n').ok_or("not a valid pickle: it is cut off")?;
        let line = self.slice(length as u64)?;
        self.take::<1>()?;
        utf8(line)
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), String> {
        let depth = match &node {
            Node::Tuple(items) => self.depth_over(items)?,
            _ => 0,
        };
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
        self.depths.push(depth);
        Ok(())
    }

    /// The depth of what holds these values.
    fn depth_over(&self, items: &[Id]) -> Result<u8, String> {
        let deepest = items.iter().map(|&item| self.depths[item]).max().unwrap_or(0);
        match deepest + 1 {
            depth if depth <= MAX_DEPTH => Ok(depth),
            _ => Err(format!("a pickle may be nested {MAX_DEPTH} deep")),
        }
    }

    fn pop(&mut self) -> Result<Id, String> {
        // What lies below a mark is not there before the mark is gone.
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.pop() {
            Some(id) if self.stack.len() >= floor => Ok(id),
            _ => Err("not a valid pickle: there is nothing on its stack".into()),
        }
    }

    fn pop_last(&mut self, count: usize) -> Result<Vec<Id>, String> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("not a valid pickle: there is no mark on its stack")?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&self) -> Result<Id, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.last().filter(|_| self.stack.len() > floor);
        top.copied().ok_or_else(|| "not a valid pickle: there is nothing on its stack".into())
    }

    fn long(&mut self) -> Result<(), String> {
        let [length] = self.take()?;
        let bytes = self.slice(length.into())?;
        let Some(most) = bytes.last() else { return self.push(Node::Integer(0)) };
        if bytes.len() > 8 {
            return Err(format!("a whole number may have 8 bytes, this one has {length}"));
        }
        let mut value = [if most & 0x80 > 0 { 0xff } else { 0 }; 8];
        value[..bytes.len()].copy_from_slice(bytes);
        self.push(Node::Integer(i64::from_le_bytes(value)))
    }

    fn text(&mut self, length: u64) -> Result<(), String> {
        let text = utf8(self.slice(length)?)?;
        self.push(Node::Text(text))
    }

    fn binary(&mut self, length: u64) -> Result<(), String> {
        let bytes = self.slice(length)?;
        self.push(Node::Bytes(bytes))
    }

    fn append(&mut self, mut items: Vec<Id>) -> Result<(), String> {
        let (list, depth) = (self.top()?, self.depth_over(&items)?);
        match &mut self.nodes[list] {
            Node::List(list) => list.append(&mut items),
            other => return Err(format!("not a valid pickle: it appends to {}", other.kind())),
        }
        self.depths[list] = self.depths[list].max(depth);
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<(), String> {
        let (dict, depth) = (self.top()?, self.depth_over(items)?);
        let pairs = items.chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err("not a valid pickle: a key has no value".into());
        }
        match &mut self.nodes[dict] {
            Node::Dict(entries) => entries.extend(pairs.map(|pair| (pair[0], pair[1]))),
            other => return Err(format!("not a valid pickle: it sets an entry of {}", other.kind())),
        }
        self.depths[dict] = self.depths[dict].max(depth);
        Ok(())
    }

    fn remember(&mut self, place: u32) -> Result<(), String> {
        let top = self.top()?;
        self.memory.insert(place, top);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), String> {
        let id = self.memory.get(&place).ok_or("not a valid pickle: it recalls what it does not remember")?;
        self.stack.push(*id);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let known = GLOBALS.iter().find(|(of, known, _)| (*of, *known) == (module, name));
        match known {
            Some((_, _, global)) => self.push(Node::Global(*global)),
            None => Err(format!("`{}.{}` has no place in a message", shown(module), shown(name))),
        }
    }

    /// An object of a class, without its fields.
    fn create(&mut self) -> Result<(), String> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        match (&self.nodes[class], &self.nodes[arguments]) {
            (&Node::Global(Global::Dataclass(class)), Node::Tuple(arguments)) if arguments.is_empty() => {
                self.push(Node::Object(class, None))
            }
            _ => Err("an object of a dataclass is made of nothing but its fields".into()),
        }
    }

    /// What a function that has a place in a message would return.
    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (&Node::Global(function), Node::Tuple(arguments)) = (&self.nodes[function], &self.nodes[arguments]) else {
            return Err("not a valid pickle: what it calls is no function".into());
        };
        let arguments: Vec<&Node<'a>> = arguments.iter().map(|&id| &self.nodes[id]).collect();
        let node = match (function, arguments.as_slice()) {
            (Global::OrderedDict, []) => Node::Dict(Vec::new()),
            (Global::Reconstruct, [Node::Global(Global::NdArray), Node::Tuple(_), Node::Bytes(_)]) => Node::Unfilled,
            (Global::Dtype, [Node::Text(name), ..]) => {
                let known = DTYPES.iter().find(|(short, _)| short == name);
                let unknown = || format!("arrays of dtype {} are not read", shown(name));
                Node::Dtype(known.ok_or_else(unknown)?.1)
            }
            (Global::Scalar, [Node::Dtype(dtype), Node::Bytes(bytes)]) => scalar(dtype, bytes)?,
            (Global::FromBuffer, [Node::Bytes(bytes), Node::Dtype(dtype), Node::Tuple(shape), Node::Text(order)]) => {
                Node::Array(ordered(dtype, self.sizes(shape)?, *order == "F", bytes)?)
            }
            (
                Global::RebuildTensor,
                [Node::Filled(dtype, bytes), Node::Integer(offset), Node::Tuple(shape), Node::Tuple(strides), ..],
            ) => {
                let offset = usize::try_from(*offset).unwrap_or(usize::MAX);
                Node::Array(Array::strided(dtype, self.sizes(shape)?, &self.sizes(strides)?, offset, bytes)?)
            }
            (Global::LoadFromBytes, [Node::Bytes(bytes)]) => {
                let bytes = *bytes;
                let (dtype, data) = storage(bytes, self.operations)?;
                Node::Filled(dtype, data)
            }
            _ => return Err(format!("{function:?} is not called as numpy and torch do it")),
        };
        self.push(node)
    }

    /// Gives the value below the top of the stack its state.
    fn build(&mut self) -> Result<(), String> {
        let (state, of) = (self.pop()?, self.top()?);
        let node = match (&self.nodes[of], &self.nodes[state]) {
            (&Node::Object(class, None), Node::Dict(_)) => Node::Object(class, Some(state)),
            (&Node::Dtype(dtype), Node::Tuple(state)) => match state.get(1).map(|&order| &self.nodes[order]) {
                Some(Node::Text("<" | "|")) => Node::Dtype(dtype),
                _ => return Err(format!("an array of dtype {dtype} must be little-endian")),
            },
            (Node::Unfilled, Node::Tuple(state)) => {
                let state: Vec<&Node<'a>> = state.iter().map(|&id| &self.nodes[id]).collect();
                let [_, Node::Tuple(shape), Node::Dtype(dtype), Node::Bool(is_fortran), Node::Bytes(bytes)] =
                    state.as_slice()
                else {
                    return Err("an array must have a shape, a dtype, an order and bytes".into());
                };
                Node::Array(ordered(dtype, self.sizes(shape)?, *is_fortran, bytes)?)
            }
            (of, state) => return Err(format!("{} is not made from {}", of.kind(), state.kind())),
        };
        self.nodes[of] = node;
        Ok(())
    }

    /// The storage that a file of torch names.
    fn stored(&mut self) -> Result<(), String> {
        let name = self.pop()?;
        let Node::Tuple(parts) = &self.nodes[name] else { return Err("a storage is named by a tuple".into()) };
        let parts: Vec<&Node<'a>> = parts.iter().map(|&id| &self.nodes[id]).collect();
        let [Node::Text("storage"), Node::Global(Global::Storage(dtype)), ..] = *parts.as_slice() else {
            return Err("a storage is not named as torch does it".into());
        };
        let dtype = *dtype;
        self.push(Node::Storage(dtype))
    }

    fn sizes(&self, items: &[Id]) -> Result<Vec<usize>, String> {
        let size = |&id: &Id| match self.nodes[id] {
            Node::Integer(size) => usize::try_from(size).ok(),
            _ => None,
        };
        items.iter().map(size).collect::<Option<_>>().ok_or_else(|| "sizes must be whole and not negative".into())
    }
}

/// The dtype and bytes of the one storage in a file of torch: pickles of how it was written, of the storage and of a list of
/// names, then the number of elements and their bytes.
fn storage<'a>(file: &'a [u8], operations: &mut usize) -> Result<(&'static str, &'a [u8]), String> {
    let refused = || "a tensor's storage is not in torch's format".to_owned();
    let rest = file.strip_prefix(STORAGE_FILE).ok_or_else(refused)?;
    let (system, rest) = Machine::new(rest, operations, false).run()?;
    if system.root().get("little_endian")?.is_none_or(|value| value.flag() != Ok(true)) {
        return Err("a tensor's storage must be little-endian".into());
    }
    let (content, rest) = Machine::new(rest, operations, true).run()?;
    let (_, rest) = Machine::new(rest, operations, false).run()?;
    let (count, data) = rest.split_first_chunk().ok_or_else(refused)?;
    let count = usize::try_from(i64::from_le_bytes(*count)).map_err(|_| refused())?;
    match content.nodes[content.root] {
        Node::Storage(dtype) => Array::new(dtype, vec![count], data).map(|_| (dtype, data)),
        _ => Err(refused()),
    }
}

/// An array in numpy's row-major or column-major order.
fn ordered<'a>(dtype: &'static str, shape: Vec<usize>, is_fortran: bool, data: &'a [u8]) -> Result<Array<'a>, String> {
    if !is_fortran {
        return Array::new(dtype, shape, data);
    }
    let reversed: Vec<usize> = shape.iter().rev().copied().collect();
    Array::new(dtype, reversed.clone(), data)?;
    let strides: Vec<usize> = packed_strides(&reversed).into_iter().rev().collect();
    Array::strided(dtype, shape, &strides, 0, data)
}

/// A number of numpy's.
fn scalar<'a>(dtype: &'static str, bytes: &'a [u8]) -> Result<Node<'a>, String> {
    let array = Array::new(dtype, Vec::new(), bytes)?;
    Ok(match (dtype, <[u8; 8]>::try_from(bytes)) {
        ("<f8", Ok(bytes)) => Node::Float(f64::from_le_bytes(bytes)),
        ("<i8", Ok(bytes)) => Node::Integer(i64::from_le_bytes(bytes)),
        _ => Node::Array(array),
    })
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| format!("not a valid pickle: {error}"))
}

/// As much of a text as a message needs.
fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

/// Writes a pickle.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    remembered: u8,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0x80, 4], remembered: 0 }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.push(b'.');
        self.bytes
    }

    /// Operations as they are.
    pub(super) fn raw(&mut self, operations: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(operations);
        self
    }

    /// Names something, and takes it off the stack again; [`Self::recall`] brings it back from the place returned.
    pub(super) fn declare(&mut self, module: &str, name: &str) -> u8 {
        let place = self.remembered;
        self.remembered += 1;
        self.raw(b"c").raw(module.as_bytes()).raw(b"\n").raw(name.as_bytes()).raw(b"\n").raw(&[b'q', place, b'0']);
        place
    }

    pub(super) fn recall(&mut self, place: u8) -> &mut Self {
        self.raw(&[b'h', place])
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    pub(super) fn float(&mut self, value: f64) -> &mut Self {
        self.raw(b"G").raw(&value.to_be_bytes())
    }

    pub(super) fn integer(&mut self, value: i64) -> &mut Self {
        match i32::try_from(value) {
            Ok(value) => self.raw(b"J").raw(&value.to_le_bytes()),
            Err(_) => self.raw(&[0x8a, 8]).raw(&value.to_le_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(operations: &[u8]) -> Result<Pickle<'_>, String> {
        Pickle::read(operations)
    }

    fn refused(operations: &[u8]) -> String {
        read(operations).map(|_| ()).expect_err("refused")
    }

    #[test]
    fn what_a_pickle_would_call_is_refused_by_its_name() {
        for (operations, name) in [
            (&b"cos\nsystem\n(X\x02\0\0\0lstR."[..], "`os.system`"),
            (b"\x80\x04\x8c\x08builtins\x94\x8c\x04eval\x94\x93.", "`builtins.eval`"),
            (b"cnumpy\nload\n.", "`numpy.load`"),
            (b"ctorch\nload\n.", "`torch.load`"),
            (b"clerobot.async_inference.helpers\nget_logger\n.", "get_logger"),
        ] {
            let message = refused(operations);
            assert!(message.contains(name) && message.contains("no place"), "{message}");
        }
        // Operations that build in other ways.
        for operation in [b'i', b'o', b'P', b'Q', 0x82, 0x92, 0x97, 0x98, b'0', b'2', b'I', b'F', b'V', b'd', b'l'] {
            assert!(refused(&[b'N', operation, b'.']).contains("no operation"), "{operation:#x}");
        }
        assert!(refused(b"ctorch\nFloatStorage\n)\x81.").contains("nothing but its fields"));
        assert!(refused(b"NNR.").contains("no function"));
        assert!(refused(b"cnumpy\ndtype\n)R.").contains("not called as"));
    }

    #[test]
    fn claims_take_no_memory_and_nesting_has_an_end() {
        assert!(refused(b"X\xff\xff\xff\xff.").contains("4294967295 bytes are announced"));
        assert!(refused(&[0x8d, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).contains("announced"));
        assert!(refused(&[0x96, 0xff, 0, 0, 0, 0, 0, 0, 0x80]).contains("announced"));
        let deep = [&[b'N'][..], &[0x85; 100], b"."].concat();
        assert!(refused(&deep).contains("nested 16 deep"));
        let lists = [&b"]"[..], &b"]\x94".repeat(40), &b"a".repeat(40), b"."].concat();
        assert!(refused(&lists).contains("nested 16 deep"));
        assert!(refused(&b"N".repeat(MAX_OPERATIONS + 1)).contains("20000 operations"));
        assert!(refused(b"NN").contains("cut off"));
        assert!(refused(b"N.N.").contains("2 bytes follow"));
    }

    #[test]
    fn a_broken_stack_is_noticed() {
        for broken in
            [&b"."[..], b"a.", b"t.", b"N(\x85.", b"N(q\0.", b"}(Nu.", b"Na.", b"NNNs.", b"h\x05.", b"\x93.", b"b."]
        {
            assert!(refused(broken).contains("not a valid pickle"), "{broken:?}");
        }
        assert!(refused(b"NNb.").contains("None is not made from None"));
        assert!(refused(&[0x80, 9, b'N', b'.']).contains("protocol 9"));
        assert!(refused(b"X\x01\0\0\0\xff.").contains("utf-8"));
    }

    #[test]
    fn a_value_that_holds_itself_is_only_a_value() {
        let itself = read(b"]\x94h\0a.").expect("a list");
        let item = itself.root().items().expect("a list").next().expect("one");
        assert_eq!(item.kind(), "a list");
    }

    #[test]
    fn numbers_are_pythons() {
        let number = |operations: &[u8]| read(&[operations, b"."].concat()).expect("a number").root().integer();
        assert_eq!(number(&[0x8a, 0]), Ok(0));
        assert_eq!(number(&[0x8a, 1, 0xff]), Ok(-1));
        assert_eq!(number(&[0x8a, 2, 0xff, 0]), Ok(255));
        assert_eq!(number(b"J\xff\xff\xff\xff"), Ok(-1));
        for value in [0, -1, i64::from(i32::MAX) + 1, i64::MIN] {
            let mut writer = Writer::new();
            writer.integer(value);
            assert_eq!(Pickle::read(&writer.finish()).expect("a number").root().integer(), Ok(value));
        }
    }
}
