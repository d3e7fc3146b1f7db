//! Attention without the matrix of scores: a cube of threads for a tile of queries of one head, which goes over the keys tile by
//! tile and corrects what it has when a larger score comes (the online softmax of FlashAttention, arXiv 2205.14135).
//!
//! Queries, keys and values are read where they lie, and the result is written as `[batch, queries, heads, width]`: heads are
//! neither split nor merged by a copy.

use burn::tensor::{BoolStore, DType, Shape};
use burn_cubecl::{
    cubecl::{
        self,
        ir::{ElemType, UIntKind},
        prelude::*,
    },
    ops::numeric::empty_device_contiguous_dtype,
    tensor::CubeTensor,
};

use super::{address_type, common_vector_size, cubes, element_of};

/// Threads along each side of a tile.
const SIDE: u32 = 16;

/// Scores of hidden keys: below any other.
pub(super) const HIDDEN: f32 = -1e38;

/// The largest score of a row in which all keys are hidden, so that their exponentials are 0.
pub(super) const LOWEST: f32 = -1e30;

/// Cubes that keep a GPU busy: with fewer, tiles are made smaller.
const BUSY: usize = 256;

/// How a tile is cut: queries and keys of each thread. The first that there is memory for is taken.
const TILES: [(u32, u32); 5] = [(4, 4), (2, 4), (1, 4), (1, 2), (1, 1)];

/// Loads a tile of the rows of a head, which lie at `origin`, from the `first` of `count` rows on; there are zeros past the
/// last. `width` are the vectors of a row, behind which the tile has one more.
#[cube]
fn load<F: Float, N: Size>(
    from: &Tensor<Vector<F, N>>,
    origin: usize,
    first: usize,
    count: usize,
    tile: &mut Shared<[Vector<F, N>]>,
    rows: usize,
    #[comptime] width: u32,
) {
    let width = comptime!(width) as usize;
    let mut at = UNIT_POS as usize;
    while at < rows * width {
        let (row, column) = (at / width, at % width);
        let mut vector = Vector::<F, N>::new(F::new(0.0));
        if first + row < count {
            vector = from[(origin + (first + row) * from.stride(2)) / N::value() + column];
        }
        tile[row * (width + 1) + column] = vector;
        at += comptime!(SIDE * SIDE) as usize;
    }
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments, reason = "what an attention is given")]
#[allow(clippy::collapsible_if, reason = "the outer condition is known when the kernel is compiled")]
fn attention_kernel<F: Float, B: Numeric, N: Size>(
    query: &Tensor<Vector<F, N>>,
    key: &Tensor<Vector<F, N>>,
    value: &Tensor<Vector<F, N>>,
    hidden: &Tensor<B>,
    output: &mut Tensor<Vector<F, N>>,
    log_sums: &mut Tensor<f32>,
    scale: f32,
    heads: u32,
    queries: u32,
    keys: u32,
    tiles: u32,
    #[comptime] group: u32,
    // Vectors of a row.
    #[comptime] width: u32,
    // Queries and keys of a thread, and vectors of the result's rows.
    #[comptime] rows: u32,
    #[comptime] columns: u32,
    #[comptime] parts: u32,
    #[comptime] has_hidden: bool,
    #[comptime] has_sums: bool,
    #[define(F)] _element: ElemType,
    #[define(B)] _bool: ElemType,
) {
    let (queries, keys, heads) = (queries as usize, keys as usize, heads as usize);
    let tile = CUBE_POS % tiles as usize;
    let line = CUBE_POS / tiles as usize;
    let head = line % heads;
    let batch = line / heads;
    if batch >= query.shape(0) {
        terminate!();
    }
    let tile_queries = comptime!(SIDE * rows) as usize;
    let tile_keys = comptime!(SIDE * columns) as usize;
    // One vector more, so that threads of neighbouring rows read other banks of the shared memory.
    let pitch = comptime!(width + 1) as usize;
    let width_vectors = comptime!(width) as usize;
    let mut queries_tile = Shared::<[Vector<F, N>]>::new_slice(comptime!((SIDE * rows * (width + 1)) as usize));
    let mut keys_tile = Shared::<[Vector<F, N>]>::new_slice(comptime!((SIDE * columns * (width + 1)) as usize));
    let mut weights = Shared::<[f32]>::new_slice(comptime!((SIDE * rows * (SIDE * columns + 1)) as usize));
    let mut partial = Shared::<[f32]>::new_slice(comptime!((SIDE * rows * SIDE) as usize));

    let unit = UNIT_POS as usize;
    let (across, down) = (unit % comptime!(SIDE) as usize, unit / comptime!(SIDE) as usize);
    let first_query = tile * tile_queries;
    let of_query = batch * query.stride(0) + head * query.stride(1);
    let shared_head = head / comptime!(group) as usize;
    let of_key = batch * key.stride(0) + shared_head * key.stride(1);
    let of_value = batch * value.stride(0) + shared_head * value.stride(1);
    let of_hidden = batch * hidden.stride(0) + head * hidden.stride(1);

    load::<F, N>(query, of_query, first_query, queries, &mut queries_tile, tile_queries, width);

    let mut largest = Array::<f32>::new(comptime!(rows as usize));
    let mut sums = Array::<f32>::new(comptime!(rows as usize));
    let mut result = Array::<Vector<f32, N>>::new(comptime!((rows * parts) as usize));
    #[unroll]
    for row in 0..rows {
        largest[row as usize] = LOWEST;
        sums[row as usize] = 0.0f32;
        #[unroll]
        for part in 0..parts {
            result[comptime!(row * parts + part) as usize] = Vector::new(0.0f32);
        }
    }

    let mut first_key = 0usize;
    while first_key < keys {
        // The values of the tile before have been used.
        sync_cube();
        load::<F, N>(key, of_key, first_key, keys, &mut keys_tile, tile_keys, width);
        sync_cube();

        let mut products = Array::<Vector<f32, N>>::new(comptime!((rows * columns) as usize));
        #[unroll]
        for score in 0..comptime!(rows * columns) {
            products[score as usize] = Vector::new(0.0f32);
        }
        for column in 0..width_vectors {
            let mut of_keys = Array::<Vector<f32, N>>::new(comptime!(columns as usize));
            #[unroll]
            for at in 0..columns {
                let row = across + comptime!(SIDE * at) as usize;
                of_keys[at as usize] = Vector::cast_from(keys_tile[row * pitch + column]);
            }
            #[unroll]
            for row in 0..rows {
                let of_query =
                    Vector::<f32, N>::cast_from(queries_tile[(down + comptime!(SIDE * row) as usize) * pitch + column]);
                #[unroll]
                for at in 0..columns {
                    products[comptime!(row * columns + at) as usize] += of_query * of_keys[at as usize];
                }
            }
        }

        let mut scores = Array::<f32>::new(comptime!((rows * columns) as usize));
        #[unroll]
        for row in 0..rows {
            let query_at = first_query + down + comptime!(SIDE * row) as usize;
            let most = RuntimeCell::<f32>::new(LOWEST);
            #[unroll]
            for at in 0..columns {
                let index = comptime!(row * columns + at) as usize;
                let key_at = first_key + across + comptime!(SIDE * at) as usize;
                let score = RuntimeCell::<f32>::new(0.0f32);
                #[unroll]
                for lane in 0..N::value() {
                    score.store(score.read() + products[index].extract(lane));
                }
                score.store(score.read() * scale);
                if key_at >= keys {
                    score.store(HIDDEN);
                } else if comptime!(has_hidden) {
                    if query_at < queries {
                        let mark = hidden[of_hidden + query_at * hidden.stride(2) + key_at * hidden.stride(3)];
                        if u32::cast_from(mark) != 0 {
                            score.store(HIDDEN);
                        }
                    }
                }
                scores[index] = score.read();
                most.store(max(most.read(), score.consume()));
            }
            partial[(down + comptime!(SIDE * row) as usize) * comptime!(SIDE) as usize + across] = most.consume();
        }
        // The largest scores are there, and the keys of the tile have been used.
        sync_cube();

        load::<F, N>(value, of_value, first_key, keys, &mut keys_tile, tile_keys, width);
        #[unroll]
        for row in 0..rows {
            let line = down + comptime!(SIDE * row) as usize;
            let most = RuntimeCell::<f32>::new(largest[row as usize]);
            for other in 0..comptime!(SIDE) as usize {
                most.store(max(most.read(), partial[line * comptime!(SIDE) as usize + other]));
            }
            let most = most.consume();
            let correction = (largest[row as usize] - most).exp();
            largest[row as usize] = most;
            sums[row as usize] *= correction;
            #[unroll]
            for at in 0..columns {
                let weight = (scores[comptime!(row * columns + at) as usize] - most).exp();
                sums[row as usize] += weight;
                weights[line * (tile_keys + 1) + across + comptime!(SIDE * at) as usize] = weight;
            }
            #[unroll]
            for part in 0..parts {
                result[comptime!(row * parts + part) as usize] *= Vector::new(correction);
            }
        }
        sync_cube();

        for row_of_values in 0..tile_keys {
            let mut of_values = Array::<Vector<f32, N>>::new(comptime!(parts as usize));
            #[unroll]
            for part in 0..parts {
                let column = across + comptime!(SIDE * part) as usize;
                // Rows end in a vector of their own that nothing is read from.
                of_values[part as usize] =
                    Vector::cast_from(keys_tile[row_of_values * pitch + min(column, width_vectors - 1)]);
            }
            #[unroll]
            for row in 0..rows {
                let line = down + comptime!(SIDE * row) as usize;
                let weight = Vector::<f32, N>::new(weights[line * (tile_keys + 1) + row_of_values]);
                #[unroll]
                for part in 0..parts {
                    result[comptime!(row * parts + part) as usize] += weight * of_values[part as usize];
                }
            }
        }
        first_key += tile_keys;
    }

    #[unroll]
    for row in 0..rows {
        partial[(down + comptime!(SIDE * row) as usize) * comptime!(SIDE) as usize + across] = sums[row as usize];
    }
    sync_cube();
    #[unroll]
    for row in 0..rows {
        let line = down + comptime!(SIDE * row) as usize;
        let sum = RuntimeCell::<f32>::new(0.0f32);
        for other in 0..comptime!(SIDE) as usize {
            sum.store(sum.read() + partial[line * comptime!(SIDE) as usize + other]);
        }
        let sum = max(sum.consume(), f32::MIN_POSITIVE);
        let query_at = first_query + line;
        if query_at < queries {
            let to = ((batch * queries + query_at) * heads + head) * width_vectors;
            #[unroll]
            for part in 0..parts {
                let column = across + comptime!(SIDE * part) as usize;
                if column < width_vectors {
                    let mean = result[comptime!(row * parts + part) as usize] / Vector::new(sum);
                    output[to + column] = Vector::cast_from(mean);
                }
            }
            if comptime!(has_sums) {
                if across == 0 {
                    log_sums[(batch * heads + head) * queries + query_at] = sum.ln() + largest[row as usize];
                }
            }
        }
    }
}

/// What an attention gives.
pub(super) struct Attended {
    /// `[batch, heads, queries, width]`, each row of width in one piece.
    pub(super) output: CubeTensor,
    /// `[batch, heads, queries]` in f32, where it was asked for.
    pub(super) log_sums: Option<CubeTensor>,
}

impl Attended {
    /// Of what a kernel has written where [`unwritten`] said.
    pub(super) fn of(mut output: CubeTensor, log_sums: CubeTensor, has_sums: bool) -> Self {
        output.meta.swap(1, 2);
        Self { output, log_sums: has_sums.then_some(log_sums) }
    }
}

/// Where a kernel writes: `[batch, queries, heads, width]`, and sums, which are a single number where they are not asked for
/// and not written.
pub(super) fn unwritten(query: &CubeTensor, has_sums: bool) -> (CubeTensor, CubeTensor) {
    let [batch, heads, queries, width] = query.meta.shape()[..] else {
        unreachable!("attention is of four dimensions")
    };
    let empty = |shape, dtype| empty_device_contiguous_dtype(query.client.clone(), query.device.clone(), shape, dtype);
    let sums_shape = if has_sums { [batch, heads, queries] } else { [1, 1, 1] };
    (empty(Shape::from([batch, queries, heads, width]), query.dtype), empty(Shape::from(sums_shape), DType::F32))
}

/// A mask and its type. Where there is none it is not read: any tensor of its type stands for it.
pub(super) fn mask_of(query: &CubeTensor, hidden: Option<&CubeTensor>) -> (CubeTensor, ElemType) {
    match hidden {
        Some(hidden) => (hidden.clone(), bool_type(hidden.dtype)),
        None => (query.clone(), element_of(query.dtype)),
    }
}

/// Softmax(q·kᵀ · scale)·v for tensors of one type whose rows lie in one piece, `hidden` of the scores' shape; `None` where the
/// device has too little memory for a tile of such rows.
pub(super) fn attention(
    query: &CubeTensor,
    key: &CubeTensor,
    value: &CubeTensor,
    hidden: Option<&CubeTensor>,
    scale: f64,
    has_sums: bool,
) -> Option<Attended> {
    let [batch, heads, queries, width] = query.meta.shape()[..] else {
        unreachable!("attention is of four dimensions")
    };
    let [_, kv_heads, keys, _] = key.meta.shape()[..] else { unreachable!("attention is of four dimensions") };
    let mut size = common_vector_size([query, key, value]);
    // Every thread along a row of the result has a vector of it.
    while size > 1 && width / size < SIDE as usize {
        size /= 2;
    }
    let memory = query.client.properties().hardware.max_shared_memory_size;
    let vectors = width / size;
    let lines = batch * heads;
    let tiles_of = |rows: u32| queries.div_ceil((SIDE * rows) as usize);
    let fits = |&(rows, columns): &(u32, u32)| {
        let (rows, columns, side) = ((SIDE * rows) as usize, (SIDE * columns) as usize, SIDE as usize);
        let tiles = (rows + columns) * (vectors + 1) * size * query.dtype.size();
        tiles + 4 * rows * (columns + 1 + side) <= memory
    };
    let is_busy = |&(rows, _): &(u32, u32)| rows == 1 || lines * tiles_of(rows) >= BUSY;
    let &(rows, columns) = TILES.iter().find(|tile| fits(tile) && is_busy(tile))?;
    let tiles = tiles_of(rows);
    let (output, log_sums) = unwritten(query, has_sums);
    let (mask, mask_type) = mask_of(query, hidden);
    attention_kernel::launch(
        &query.client,
        cubes(lines * tiles),
        CubeDim::new_1d(SIDE * SIDE),
        address_type([query, key, value, &output]),
        size,
        query.clone().into_tensor_arg(),
        key.clone().into_tensor_arg(),
        value.clone().into_tensor_arg(),
        mask.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        log_sums.clone().into_tensor_arg(),
        scale as f32,
        heads as u32,
        queries as u32,
        keys as u32,
        tiles as u32,
        (heads / kv_heads) as u32,
        vectors as u32,
        rows,
        columns,
        vectors.div_ceil(SIDE as usize) as u32,
        hidden.is_some(),
        has_sums,
        element_of(query.dtype),
        mask_type,
    );
    Some(Attended::of(output, log_sums, has_sums))
}

/// How a device keeps truth values.
fn bool_type(dtype: DType) -> ElemType {
    match dtype {
        DType::Bool(BoolStore::U8) => ElemType::UInt(UIntKind::U8),
        DType::Bool(BoolStore::U32) => ElemType::UInt(UIntKind::U32),
        _ => ElemType::Bool,
    }
}
