//! Rows of a parquet file as plain columns.

use std::{collections::BTreeMap, fs::File, ops::Range, path::Path};

use arrow_array::{
    Array, ArrayRef, BooleanArray, RecordBatch,
    cast::AsArray,
    types::{
        Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
        UInt32Type, UInt64Type,
    },
};
use arrow_schema::DataType;
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{
        ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
    },
};

use crate::{Error, Result};

/// Columns of some rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    rows: usize,
    columns: BTreeMap<String, Column>,
}

/// A column.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// Vectors of one width, or scalars with the width 1; row-major.
    Floats {
        /// Values in a row.
        width: usize,
        /// `[rows, width]`
        values: Vec<f32>,
    },
    /// Scalars in double precision, as metadata has them.
    Doubles(Vec<f64>),
    /// Whole numbers; booleans are 0 and 1.
    Ints(Vec<i64>),
    /// Text.
    Text(Vec<String>),
    /// Lists of text.
    TextLists(Vec<Vec<String>>),
    /// Encoded pictures.
    Bytes(Vec<Vec<u8>>),
}

impl Table {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A column by its name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.get(name)
    }

    /// Names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.keys().map(String::as_str)
    }

    /// The values of a column of vectors in one row.
    pub fn floats(&self, name: &str, row: usize) -> Option<&[f32]> {
        match self.column(name)? {
            Column::Floats { width, values } => values.get(row * width..(row + 1) * width),
            _ => None,
        }
    }

    /// The same with single precision only, as states and actions are computed with.
    pub(crate) fn narrowed(mut self) -> Self {
        for column in self.columns.values_mut() {
            if let Column::Doubles(values) = column {
                let values = values.iter().map(|&value| value as f32).collect();
                *column = Column::Floats { width: 1, values };
            }
        }
        self
    }

    /// A column of scalars in double precision.
    pub fn doubles(&self, name: &str) -> Option<Vec<f64>> {
        match self.column(name)? {
            Column::Doubles(values) => Some(values.clone()),
            Column::Floats { width: 1, values } => Some(values.iter().map(|&value| f64::from(value)).collect()),
            _ => None,
        }
    }

    /// A column of whole numbers.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.column(name)? {
            Column::Ints(values) => Some(values),
            _ => None,
        }
    }

    /// Bytes that the columns take in memory.
    pub(crate) fn bytes(&self) -> usize {
        let of = |column: &Column| match column {
            Column::Floats { values, .. } => 4 * values.len(),
            Column::Doubles(values) => 8 * values.len(),
            Column::Ints(values) => 8 * values.len(),
            Column::Text(values) => values.iter().map(String::len).sum(),
            Column::TextLists(values) => values.iter().flatten().map(String::len).sum(),
            Column::Bytes(values) => values.iter().map(Vec::len).sum(),
        };
        self.columns.values().map(of).sum()
    }
}

/// A parquet file whose footer has been read.
#[derive(Debug)]
pub(crate) struct TableFile<'a> {
    path: &'a Path,
    file: File,
    metadata: ArrowReaderMetadata,
}

impl<'a> TableFile<'a> {
    pub(crate) fn open(path: &'a Path) -> Result<Self> {
        let file = File::open(path).map_err(|reason| Error::io("read", path, reason))?;
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
            .map_err(|error| Error::format(path, "parquet", error))?;
        Ok(Self { path, file, metadata })
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.metadata.metadata().file_metadata().num_rows().max(0) as usize
    }

    /// Reads the columns for which `wanted` holds, of some rows.
    ///
    /// # Errors
    /// When the file ends before the rows do, or a column has a type that no dataset has.
    pub(crate) fn read(&self, rows: Range<usize>, wanted: impl Fn(&str) -> bool) -> Result<Table> {
        let bad = |message: String| Error::format(self.path, "parquet", message);
        if rows.end > self.rows() {
            let got = format!("{} rows", self.rows());
            return Err(Error::inconsistent(self.path, "the number of rows", format!("at least {}", rows.end), got));
        }
        let file = self.file.try_clone().map_err(|reason| Error::io("read", self.path, reason))?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone());
        let roots: Vec<usize> = builder
            .schema()
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| wanted(field.name()))
            .map(|(index, _)| index)
            .collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let selection = RowSelection::from(vec![RowSelector::skip(rows.start), RowSelector::select(rows.len())]);
        let reader = builder
            .with_projection(mask)
            .with_row_selection(selection)
            .with_batch_size(rows.len().clamp(1, 65_536))
            .build()
            .map_err(|error| bad(error.to_string()))?;
        let mut table = Table { rows: rows.len(), ..Table::default() };
        for batch in reader {
            self.append(&mut table, &batch.map_err(|error| bad(error.to_string()))?)?;
        }
        for (name, column) in &table.columns {
            let got = column.rows();
            if got != table.rows {
                return Err(bad(format!("column `{name}` ends after {got} of {} rows", table.rows)));
            }
        }
        Ok(table)
    }

    fn append(&self, table: &mut Table, batch: &RecordBatch) -> Result<()> {
        for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
            let name = field.name();
            let column = column(array)
                .map_err(|message| Error::format(self.path, "parquet", format!("column `{name}`: {message}")))?;
            // Columns of types that only other programs use are left out, not refused.
            let Some(column) = column else { continue };
            match table.columns.get_mut(name) {
                None => {
                    table.columns.insert(name.clone(), column);
                }
                Some(whole) => whole
                    .extend(column)
                    .map_err(|message| Error::format(self.path, "parquet", format!("column `{name}`: {message}")))?,
            }
        }
        Ok(())
    }
}

impl Column {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Floats { width, values } => values.len() / (*width).max(1),
            Self::Doubles(values) => values.len(),
            Self::Ints(values) => values.len(),
            Self::Text(values) => values.len(),
            Self::TextLists(values) => values.len(),
            Self::Bytes(values) => values.len(),
        }
    }

    fn extend(&mut self, more: Self) -> Result<(), String> {
        match (self, more) {
            (Self::Floats { width, values }, Self::Floats { width: other, values: more }) if *width == other => {
                values.extend(more);
            }
            (Self::Floats { width, .. }, Self::Floats { width: other, .. }) => {
                return Err(format!("its rows have {width} and {other} values"));
            }
            (Self::Doubles(values), Self::Doubles(more)) => values.extend(more),
            (Self::Ints(values), Self::Ints(more)) => values.extend(more),
            (Self::Text(values), Self::Text(more)) => values.extend(more),
            (Self::TextLists(values), Self::TextLists(more)) => values.extend(more),
            (Self::Bytes(values), Self::Bytes(more)) => values.extend(more),
            _ => return Err("it changes its type".into()),
        }
        Ok(())
    }
}

/// An array as a column; `None` when its type is one that datasets do not use.
fn column(array: &ArrayRef) -> Result<Option<Column>, String> {
    if array.null_count() > 0 {
        return Err(format!("{} of its rows are empty", array.null_count()));
    }
    if let Some(values) = ints(array) {
        return Ok(Some(Column::Ints(values)));
    }
    if let DataType::Float64 = array.data_type() {
        return Ok(Some(Column::Doubles(array.as_primitive::<Float64Type>().values().to_vec())));
    }
    if let Some(values) = floats(array) {
        return Ok(Some(Column::Floats { width: 1, values }));
    }
    if let Some(values) = text(array) {
        return Ok(Some(Column::Text(values)));
    }
    Ok(match array.data_type() {
        DataType::List(_) => list(array.as_list::<i32>().iter())?,
        DataType::LargeList(_) => list(array.as_list::<i64>().iter())?,
        DataType::FixedSizeList(_, _) => list(array.as_fixed_size_list().iter())?,
        DataType::Struct(_) => {
            let pictures = array.as_struct().column_by_name("bytes");
            pictures.and_then(bytes).map(Column::Bytes)
        }
        _ => None,
    })
}

/// Lists of numbers of one length, nested lists flattened, or lists of text.
fn list(rows: impl Iterator<Item = Option<ArrayRef>>) -> Result<Option<Column>, String> {
    let (mut values, mut texts, mut width) = (Vec::new(), Vec::new(), None);
    for row in rows.flatten() {
        if let Some(list) = text(&row) {
            texts.push(list);
            continue;
        }
        let numbers = match flattened(&row)? {
            Some(numbers) => numbers,
            None => return Ok(None),
        };
        let expected = *width.get_or_insert(numbers.len());
        if numbers.len() != expected {
            return Err(format!("its rows have {expected} and {} values", numbers.len()));
        }
        values.extend(numbers);
    }
    match (width, texts.is_empty()) {
        (Some(0), _) => Err("its rows are empty lists".into()),
        (Some(width), true) => Ok(Some(Column::Floats { width, values })),
        (None, false) => Ok(Some(Column::TextLists(texts))),
        _ => Ok(None),
    }
}

/// The numbers of a list whose elements may be lists.
fn flattened(array: &ArrayRef) -> Result<Option<Vec<f32>>, String> {
    if array.null_count() > 0 {
        return Err("a value is empty".into());
    }
    if let Some(values) = floats(array) {
        return Ok(Some(values));
    }
    if let Some(values) = ints(array) {
        return Ok(Some(values.into_iter().map(|value| value as f32).collect()));
    }
    match array.data_type() {
        DataType::List(_) => flattened(array.as_list::<i32>().values()),
        DataType::FixedSizeList(_, _) => flattened(array.as_fixed_size_list().values()),
        _ => Ok(None),
    }
}

fn floats(array: &ArrayRef) -> Option<Vec<f32>> {
    Some(match array.data_type() {
        DataType::Float16 => array.as_primitive::<Float16Type>().values().iter().map(|value| value.to_f32()).collect(),
        DataType::Float32 => array.as_primitive::<Float32Type>().values().to_vec(),
        DataType::Float64 => array.as_primitive::<Float64Type>().values().iter().map(|&value| value as f32).collect(),
        _ => return None,
    })
}

fn ints(array: &ArrayRef) -> Option<Vec<i64>> {
    macro_rules! widened {
        ($kind:ty) => {
            array.as_primitive::<$kind>().values().iter().map(|&value| i64::from(value)).collect()
        };
    }
    Some(match array.data_type() {
        DataType::Int8 => widened!(Int8Type),
        DataType::Int16 => widened!(Int16Type),
        DataType::Int32 => widened!(Int32Type),
        DataType::Int64 => array.as_primitive::<Int64Type>().values().to_vec(),
        DataType::UInt8 => widened!(UInt8Type),
        DataType::UInt16 => widened!(UInt16Type),
        DataType::UInt32 => widened!(UInt32Type),
        DataType::UInt64 => array
            .as_primitive::<UInt64Type>()
            .values()
            .iter()
            .map(|&value| value.try_into().ok())
            .collect::<Option<_>>()?,
        DataType::Boolean => booleans(array.as_boolean()),
        _ => return None,
    })
}

fn booleans(array: &BooleanArray) -> Vec<i64> {
    array.values().iter().map(i64::from).collect()
}

fn text(array: &ArrayRef) -> Option<Vec<String>> {
    let owned = |value: Option<&str>| value.unwrap_or_default().to_owned();
    Some(match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().iter().map(owned).collect(),
        DataType::LargeUtf8 => array.as_string::<i64>().iter().map(owned).collect(),
        DataType::Utf8View => array.as_string_view().iter().map(owned).collect(),
        _ => return None,
    })
}

fn bytes(array: &ArrayRef) -> Option<Vec<Vec<u8>>> {
    let owned = |value: Option<&[u8]>| value.unwrap_or_default().to_owned();
    Some(match array.data_type() {
        DataType::Binary => array.as_binary::<i32>().iter().map(owned).collect(),
        DataType::LargeBinary => array.as_binary::<i64>().iter().map(owned).collect(),
        DataType::BinaryView => array.as_binary_view().iter().map(owned).collect(),
        _ => return None,
    })
}
