//! Rows of a parquet file as plain columns.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use arrow_array::{
    Array, ArrayRef, ListArray, RecordBatch,
    cast::AsArray,
    types::{
        Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
        UInt32Type, UInt64Type,
    },
};
use arrow_schema::DataType;
use evo1_core::files;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
            RowSelection, RowSelector,
        },
    },
    file::{metadata::ParquetMetaDataReader, statistics::Statistics},
};

use super::shared_file::SharedFile;
use crate::{Error, Result};

/// The largest whole number up to which every whole number is a `f64`.
pub(super) const MOST_EXACT: f64 = (1_u64 << 53) as f64;

/// Columns of some rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    rows: usize,
    columns: BTreeMap<String, Column>,
    /// Columns that are in the file and cannot be used, with the reason.
    unusable: BTreeMap<String, String>,
}

/// A column.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// Vectors of one width, or scalars with the width 1; row-major. Nested lists are flattened row by row.
    Floats {
        /// Values in a row.
        width: usize,
        /// `[rows, width]`
        values: Vec<f32>,
    },
    /// Scalars in double precision, as metadata has them.
    Doubles(Vec<f64>),
    /// Whole numbers, of index columns in the tables of episodes; booleans are 0 and 1.
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

    /// The values of a column of vectors in one row. Scalars of every kind of number, booleans too, are vectors of one value.
    pub fn floats(&self, name: &str, row: usize) -> Option<&[f32]> {
        match self.column(name)? {
            Column::Floats { width, values } => values.get(row * width..(row + 1) * width),
            _ => None,
        }
    }

    /// [`Self::floats`], or why there are none.
    ///
    /// # Errors
    /// Whether the column is missing, holds no numbers, or has rows without a value or of different widths.
    pub fn vector(&self, name: &str, row: usize) -> Result<&[f32], String> {
        self.floats(name, row).ok_or_else(|| self.without(name, "numbers"))
    }

    /// The same as the tables of episodes are used: `indices` hold whole numbers, all other numbers single precision.
    pub(super) fn for_frames(mut self, indices: &[&str]) -> Self {
        for (name, column) in std::mem::take(&mut self.columns) {
            let is_index = indices.contains(&name.as_str());
            self.columns.insert(name, if is_index { column } else { column.narrowed() });
        }
        for &name in indices {
            if !self.columns.contains_key(name) {
                continue;
            }
            match self.whole(name) {
                Ok(values) => {
                    self.columns.insert(name.to_owned(), Column::Ints(values));
                }
                Err(reason) => {
                    self.columns.remove(name);
                    self.unusable.insert(name.to_owned(), reason);
                }
            }
        }
        self
    }

    /// Makes a column unusable whose rows have not as many values as its description says.
    pub(super) fn check_width(&mut self, name: &str, width: usize) {
        let Some(Column::Floats { width: found, .. }) = self.columns.get(name).filter(|column| column.rows() > 0)
        else {
            return;
        };
        if *found != width {
            let reason =
                format!("column `{name}`: its rows have {found} values, and {width} by its shape in info.json");
            self.columns.remove(name);
            self.unusable.insert(name.to_owned(), reason);
        }
    }

    /// A column of scalars in double precision, or why there is none.
    pub(super) fn doubles(&self, name: &str) -> Result<Vec<f64>, String> {
        match self.column(name) {
            Some(Column::Doubles(values)) => Ok(values.clone()),
            Some(Column::Floats { width: 1, values }) => Ok(values.iter().map(|&value| f64::from(value)).collect()),
            Some(Column::Ints(values)) => Ok(values.iter().map(|&value| value as f64).collect()),
            _ => Err(self.without(name, "single numbers")),
        }
    }

    /// A column of whole numbers, of any number type, or why there is none.
    pub(super) fn whole(&self, name: &str) -> Result<Vec<i64>, String> {
        if let Some(Column::Ints(values)) = self.column(name) {
            return Ok(values.clone());
        }
        let values = self.doubles(name).map_err(|_| self.without(name, "whole numbers"))?;
        let is_whole = |value: f64| value.fract() == 0.0 && value.abs() <= MOST_EXACT;
        match values.iter().enumerate().find(|&(_, &value)| !is_whole(value)) {
            Some((row, value)) => Err(format!("column `{name}` must hold whole numbers, got {value} in row {row}")),
            None => Ok(values.into_iter().map(|value| value as i64).collect()),
        }
    }

    /// A column of whole numbers.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.column(name)? {
            Column::Ints(values) => Some(values),
            _ => None,
        }
    }

    /// Why a column that is in the file cannot be used; nothing where it can, or is not there.
    pub fn reason(&self, name: &str) -> Option<&str> {
        self.unusable.get(name).map(String::as_str)
    }

    /// What to say where a column has not what is looked for.
    pub(super) fn without(&self, name: &str, what: &str) -> String {
        match self.reason(name) {
            Some(reason) => reason.to_owned(),
            None => format!("there is no column `{name}` of {what}"),
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
pub(crate) struct TableFile {
    path: PathBuf,
    file: SharedFile,
    metadata: ArrowReaderMetadata,
}

impl TableFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (file, bytes) = files::open(path)?;
        let file = SharedFile::new(file, bytes);
        // Types as the file itself has them: what a writer had in memory (dictionaries, views, long or fixed lists) says
        // nothing about the values.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata =
            ArrowReaderMetadata::load(&file, options).map_err(|error| Error::format(path, "parquet", error))?;
        Ok(Self { path: path.to_owned(), file, metadata })
    }

    /// Number of rows of a file, of which nothing else is looked at.
    pub(super) fn count_rows(path: &Path) -> Result<usize> {
        let (file, _) = files::open(path)?;
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&file);
        let metadata = metadata.map_err(|error| Error::format(path, "parquet", error))?;
        Ok(metadata.file_metadata().num_rows().max(0) as usize)
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.metadata.metadata().file_metadata().num_rows().max(0) as usize
    }

    /// The smallest and largest number of a column, where the footer tells them for all rows.
    pub(super) fn range(&self, column: &str) -> Option<(f64, f64)> {
        let mut range: Option<(f64, f64)> = None;
        for group in self.metadata.metadata().row_groups() {
            let chunk = group.columns().iter().find(|chunk| chunk.column_path().string() == column)?;
            let (low, high) = match chunk.statistics()? {
                Statistics::Int32(found) => (f64::from(*found.min_opt()?), f64::from(*found.max_opt()?)),
                Statistics::Int64(found) => (*found.min_opt()? as f64, *found.max_opt()? as f64),
                Statistics::Float(found) => (f64::from(*found.min_opt()?), f64::from(*found.max_opt()?)),
                Statistics::Double(found) => (*found.min_opt()?, *found.max_opt()?),
                _ => return None,
            };
            range = Some(range.map_or((low, high), |(least, most)| (least.min(low), most.max(high))));
        }
        range
    }

    /// Reads the columns for which `wanted` holds, of some rows. Those that cannot be used are left out, with the reason.
    ///
    /// # Errors
    /// When the file is damaged, or ends before the rows do.
    pub(crate) fn read(&self, rows: Range<usize>, wanted: impl Fn(&str) -> bool) -> Result<Table> {
        let mut table = Table { rows: rows.len(), ..Table::default() };
        for batch in self.batches(rows, wanted)? {
            table.append(&batch.map_err(|error| Error::format(&self.path, "parquet", error))?);
        }
        for (name, column) in &table.columns {
            let got = column.rows();
            if got != table.rows {
                let message = format!("column `{name}` ends after {got} of {} rows", table.rows);
                return Err(Error::format(&self.path, "parquet", message));
            }
        }
        Ok(table)
    }

    /// The numbers of a column of all rows, each of which may be missing or none, with the reason.
    pub(super) fn each(&self, name: &str) -> Result<Vec<Result<f64, String>>> {
        let mut values = Vec::with_capacity(self.rows());
        for batch in self.batches(0..self.rows(), |column| column == name)? {
            let batch = batch.map_err(|error| Error::format(&self.path, "parquet", error))?;
            for row in 0..batch.num_rows() {
                let mut one = Table { rows: 1, ..Table::default() };
                one.append(&batch.slice(row, 1));
                values.push(one.doubles(name).map(|values| values[0]));
            }
        }
        Ok(values)
    }

    fn batches(&self, rows: Range<usize>, wanted: impl Fn(&str) -> bool) -> Result<ParquetRecordBatchReader> {
        if rows.end > self.rows() {
            let got = format!("{} rows", self.rows());
            return Err(Error::inconsistent(&self.path, "the number of rows", format!("at least {}", rows.end), got));
        }
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), self.metadata.clone());
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
        builder
            .with_projection(mask)
            .with_row_selection(selection)
            .with_batch_size(rows.len().clamp(1, 65_536))
            .build()
            .map_err(|error| Error::format(&self.path, "parquet", error))
    }
}

impl Table {
    /// Appends rows. A column becomes unusable as a whole where a part of it is.
    fn append(&mut self, batch: &RecordBatch) {
        for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
            let name = field.name();
            if self.unusable.contains_key(name) {
                continue;
            }
            let appended = column(array).and_then(|column| match self.columns.get_mut(name) {
                None => {
                    self.columns.insert(name.clone(), column);
                    Ok(())
                }
                Some(whole) => whole.extend(column),
            });
            if let Err(reason) = appended {
                self.columns.remove(name);
                self.unusable.insert(name.clone(), format!("column `{name}`: {reason}"));
            }
        }
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
            (Self::Doubles(values), Self::Doubles(more)) => values.extend(more),
            (Self::Ints(values), Self::Ints(more)) => values.extend(more),
            (Self::Text(values), Self::Text(more)) => values.extend(more),
            (Self::TextLists(values), Self::TextLists(more)) => values.extend(more),
            (Self::Bytes(values), Self::Bytes(more)) => values.extend(more),
            (whole, more) => {
                let (before, after) = (whole.values_of_a_row(), more.values_of_a_row());
                return Err(format!("its rows have {before} and {after} values"));
            }
        }
        Ok(())
    }

    /// Numbers in a row.
    fn values_of_a_row(&self) -> usize {
        if let Self::Floats { width, .. } = self { *width } else { 1 }
    }

    /// The same with numbers in single precision.
    fn narrowed(self) -> Self {
        match self {
            Self::Doubles(values) => scalars(values, |value| value as f32),
            Self::Ints(values) => scalars(values, |value| value as f32),
            other => other,
        }
    }

    /// The same with `width` rows as one: numbers only.
    fn grouped(self, width: usize) -> Result<Self, String> {
        match self {
            Self::Text(_) | Self::TextLists(_) | Self::Bytes(_) => Err("its lists hold no numbers".into()),
            scalar if width == 1 => Ok(scalar),
            numbers => match numbers.narrowed() {
                Self::Floats { width: inner, values } => Ok(Self::Floats { width: width * inner, values }),
                other => Ok(other),
            },
        }
    }
}

/// Scalars in single precision.
fn scalars<T>(values: Vec<T>, narrowed: impl Fn(T) -> f32) -> Column {
    Column::Floats { width: 1, values: values.into_iter().map(narrowed).collect() }
}

/// An array as a column, or why it cannot be one.
fn column(array: &ArrayRef) -> Result<Column, String> {
    if array.null_count() > 0 {
        return Err(format!("{} of its values are empty", array.null_count()));
    }
    macro_rules! whole {
        ($kind:ty) => {
            Column::Ints(array.as_primitive::<$kind>().values().iter().map(|&value| i64::from(value)).collect())
        };
    }
    Ok(match array.data_type() {
        DataType::Int8 => whole!(Int8Type),
        DataType::Int16 => whole!(Int16Type),
        DataType::Int32 => whole!(Int32Type),
        DataType::Int64 => whole!(Int64Type),
        DataType::UInt8 => whole!(UInt8Type),
        DataType::UInt16 => whole!(UInt16Type),
        DataType::UInt32 => whole!(UInt32Type),
        DataType::UInt64 => {
            let values = array.as_primitive::<UInt64Type>().values().iter();
            let small = values.map(|&value| i64::try_from(value).map_err(|_| format!("{value} is too large")));
            Column::Ints(small.collect::<Result<_, _>>()?)
        }
        DataType::Boolean => Column::Ints(array.as_boolean().values().iter().map(i64::from).collect()),
        DataType::Float16 => scalars(array.as_primitive::<Float16Type>().values().to_vec(), |value| value.to_f32()),
        DataType::Float32 => scalars(array.as_primitive::<Float32Type>().values().to_vec(), |value| value),
        DataType::Float64 => Column::Doubles(array.as_primitive::<Float64Type>().values().to_vec()),
        DataType::Utf8 => {
            Column::Text(array.as_string::<i32>().iter().map(|text| text.unwrap_or_default().to_owned()).collect())
        }
        DataType::List(_) => list(array.as_list())?,
        DataType::Binary => Column::Bytes(bytes(array)),
        // An encoded picture and its path.
        DataType::Struct(_) => match array.as_struct().column_by_name("bytes") {
            Some(pictures) if *pictures.data_type() == DataType::Binary => Column::Bytes(bytes(pictures)),
            _ => return Err("a structure that is no picture".into()),
        },
        other => return Err(format!("values of the type {other} are not read")),
    })
}

/// Lists of numbers of one length, nested lists flattened, or lists of text.
fn list(lists: &ListArray) -> Result<Column, String> {
    // The child array may hold more than these rows.
    let offsets = lists.value_offsets();
    let (first, end) = (offsets[0] as usize, offsets[lists.len()] as usize);
    let mut lengths = offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize);
    let elements = lists.values().slice(first, end - first);
    if let DataType::Utf8 = elements.data_type() {
        let Column::Text(texts) = column(&elements)? else { return Err("its lists hold no text".into()) };
        let mut texts = texts.into_iter();
        return Ok(Column::TextLists(lengths.map(|length| texts.by_ref().take(length).collect()).collect()));
    }
    let width = lengths.next().unwrap_or(0);
    if let Some(other) = lengths.find(|&other| other != width) {
        return Err(format!("its rows have {width} and {other} values"));
    }
    if width == 0 {
        return Err("its rows are empty lists".into());
    }
    column(&elements)?.grouped(width)
}

fn bytes(array: &ArrayRef) -> Vec<Vec<u8>> {
    array.as_binary::<i32>().iter().map(|value| value.unwrap_or_default().to_owned()).collect()
}
