//! Checkpoint files, the names of their tensors, strict loading and seeded initialisation.

mod adapter;
mod audit;
mod burnpack;
mod convert;
mod file;
mod init;
mod load;
mod names;
mod pack;
mod pytorch;
mod quantize;
mod safetensors;
mod write;

pub use adapter::{ADAPTER_FILES, Adapter, Factors, base_sum};
pub use audit::{Audit, Finding, LARGEST_PLAUSIBLE};
pub use burnpack::{write_burnpack_lazily, write_pack};
pub use convert::converted;
pub use file::WeightFile;
pub use init::{InitialScales, InitialValue, initialize, initialize_part};
pub use load::{LoadOptions, Loaded, check, load};
pub use names::{ModelPart, Naming, Place, TABLES};
pub use pack::pack;
pub use quantize::{dequantize, quantize, quantize_bases, quantize_weight, require_quantization};
pub use write::{
    GradientsOf, LazyTensor, TensorReader, checkpoint_tensors, module_tensors, write_safetensors,
    write_safetensors_lazily,
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Bytes, DType, Tensor, TensorData},
};

/// A parameter of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSpec {
    /// Dotted path of the parameter in the module, for example `vlm.vision_tower.layers.0.norm1.gamma`.
    pub path: String,
    /// Shape as burn stores it.
    pub shape: Vec<usize>,
    /// What the parameter belongs to.
    pub owner: Owner,
}

/// The kind of module that a parameter belongs to, where that decides how PyTorch stores or initialises it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A linear layer: PyTorch stores its weight transposed.
    Linear,
    /// A layer or RMS norm: PyTorch calls its parameters `weight` and `bias`.
    Norm,
    /// An embedding table.
    Embedding,
    /// Anything else.
    Other,
}

impl Owner {
    fn of(container: &str) -> Self {
        match container.rsplit(':').next().unwrap_or(container) {
            "Linear" => Self::Linear,
            "LayerNorm" | "RmsNorm" => Self::Norm,
            "Embedding" => Self::Embedding,
            _ => Self::Other,
        }
    }
}

impl ParamSpec {
    /// Whether PyTorch stores the parameter transposed.
    pub fn is_transposed(&self) -> bool {
        self.owner == Owner::Linear && self.shape.len() == 2
    }

    /// Shape as PyTorch stores it.
    pub fn torch_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if self.is_transposed() {
            shape.reverse();
        }
        shape
    }
}

/// The parameters of a module in the order of its fields. Initialises nothing.
pub fn params<M: Module>(module: &M) -> Vec<ParamSpec> {
    let mut lister = Lister::default();
    module.visit(&mut lister);
    lister.specs
}

/// The number type of a module's weights: that of its first parameter, f32 where it has none.
pub fn number_type<M: Module>(module: &M) -> DType {
    struct First(Option<DType>);

    impl ModuleVisitor for First {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.get_or_insert_with(|| param.val().dtype());
        }
    }

    let mut first = First(None);
    module.visit(&mut first);
    first.0.unwrap_or(DType::F32)
}

/// Where a visitor or mapper of modules is: the names and kinds of the modules around it.
#[derive(Default)]
struct Position {
    names: Vec<String>,
    containers: Vec<String>,
}

impl Position {
    /// Inside the part `name` of a larger module.
    fn inside(name: &str) -> Self {
        Self { names: vec![name.to_owned()], containers: vec![] }
    }

    fn enter(&mut self, name: &str, container: &str) {
        self.names.push(name.to_owned());
        self.containers.push(container.to_owned());
    }

    fn exit(&mut self) {
        self.names.pop();
        self.containers.pop();
    }

    fn spec(&self, shape: &[usize]) -> ParamSpec {
        let owner = self.containers.last().map_or(Owner::Other, |container| Owner::of(container));
        ParamSpec { path: self.names.join("."), shape: shape.to_vec(), owner }
    }
}

#[derive(Default)]
struct Lister {
    position: Position,
    specs: Vec<ParamSpec>,
}

impl ModuleVisitor for Lister {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.position.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.position.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.specs.push(self.position.spec(&param.lazy_shape()));
    }
}

/// The values of a tensor of numbers as `f32`.
pub fn floats(data: &TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}

/// The transpose of a matrix, in the same number type.
fn transposed(data: &TensorData) -> TensorData {
    let [rows, columns] = data.shape().dims();
    let dtype = data.dtype();
    let bytes = data.as_bytes();
    let out = match dtype.size() {
        2 => transposed_elements::<2>(bytes, rows, columns),
        4 => transposed_elements::<4>(bytes, rows, columns),
        8 => transposed_elements::<8>(bytes, rows, columns),
        size => unreachable!("float tensors have elements of 2, 4 or 8 bytes, not {size}"),
    };
    TensorData::from_bytes(out, [columns, rows], dtype)
}

/// Transposes in squares, by way of a copy of each: its rows are fetched together, and with a power of two between them
/// they would push each other out of the first-level cache.
fn transposed_elements<const SIZE: usize>(bytes: &[u8], rows: usize, columns: usize) -> Bytes {
    use rayon::prelude::*;
    const SQUARE: usize = 64;
    let (elements, _) = bytes.as_chunks::<SIZE>();
    let mut out = file::RecycledBuffer::default().into_bytes(bytes.len());
    if out.is_empty() {
        return out;
    }
    out.par_chunks_mut(SQUARE * rows * SIZE).enumerate().for_each(|(band, out)| {
        let (out, _) = out.as_chunks_mut::<SIZE>();
        let first = band * SQUARE;
        let width = out.len() / rows;
        let mut square = [[[0; SIZE]; SQUARE]; SQUARE];
        for top in (0..rows).step_by(SQUARE) {
            let height = SQUARE.min(rows - top);
            for (row, copy) in square.iter_mut().take(height).enumerate() {
                copy[..width].copy_from_slice(&elements[(top + row) * columns + first..][..width]);
            }
            for column in 0..width {
                let out = &mut out[column * rows + top..][..height];
                out.iter_mut().zip(&square).for_each(|(element, copy)| *element = copy[column]);
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_twice_changes_nothing() {
        for (rows, columns) in [(1, 1), (3, 70), (65, 33), (128, 64)] {
            let values: Vec<f32> = (0..rows * columns).map(|value| value as f32).collect();
            let data = TensorData::new(values.clone(), [rows, columns]);
            let once = transposed(&data);
            assert_eq!(floats(&once)[rows * (columns - 1)], values[columns - 1]);
            assert_eq!(transposed(&once), data);
        }
    }
}
