//! Products of half precision on tensor cores, with what follows them in the same pass.
//!
//! A cube of threads computes a tile of the result. Its planes go over the inner dimension together: copies from memory
//! into shared memory run some stages ahead of the arithmetic (`cp.async`), `ldmatrix` reads operands from there, and sums
//! stay in registers until the last stage, from where they pass through shared memory, so that whole rows are written.

use std::sync::atomic::{AtomicUsize, Ordering};

use burn::{
    backend::TensorMetadata,
    tensor::{DType, Shape},
};
use burn_cubecl::{
    cubecl::{
        self,
        ir::ElemType,
        prelude::{
            barrier::copy_async_checked,
            cmma::{MatrixIdent, MmaDefinition},
            *,
        },
    },
    kernel::into_contiguous,
    ops::numeric::empty_device_contiguous_dtype,
    tensor::CubeTensor,
};

use super::{
    CHUNK, MMA, PLANE, address_type, commit_copies, cubes, element_of,
    epilogue::{self, Epilogue, Followed},
    has_tensor_cores, wait_for_copies,
};

/// Values of a result that a thread writes at once.
const WRITTEN: u32 = 4;

/// How a product is cut into tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Tiling {
    /// Rows and columns of a cube's tile.
    rows: u32,
    columns: u32,
    /// Inner values of a stage.
    inner: u32,
    /// Planes along the rows, the columns and the inner values of a tile.
    planes: (u32, u32, u32),
    /// Stages in shared memory.
    stages: u32,
}

impl Tiling {
    const fn new(rows: u32, columns: u32, inner: u32, planes: (u32, u32, u32), stages: u32) -> Self {
        Self { rows, columns, inner, planes, stages }
    }

    const fn threads(&self) -> u32 {
        self.planes.0 * self.planes.1 * self.planes.2 * PLANE
    }

    /// Bytes of shared memory: of the stages, and of the sums that are written.
    fn memory(&self) -> usize {
        let stages = self.stages * self.inner * (self.rows + self.columns) * 2;
        let sums = self.planes.2 * self.planes.0 * MMA.0 * (self.columns + CHUNK) * 4;
        (stages + sums) as usize
    }

    fn tiles(&self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.rows as usize) * columns.div_ceil(self.columns as usize)
    }
}

/// All that can be measured ([`crate::set_tiling`]); the first ones are those that are chosen from.
const TILINGS: [Tiling; 16] = [
    Tiling::new(128, 128, 32, (2, 4, 1), 4),
    Tiling::new(64, 64, 64, (2, 2, 1), 4),
    Tiling::new(64, 32, 128, (2, 1, 4), 4),
    Tiling::new(64, 16, 128, (2, 1, 4), 4),
    Tiling::new(128, 128, 32, (2, 2, 1), 4),
    Tiling::new(128, 128, 64, (2, 4, 1), 3),
    Tiling::new(96, 128, 64, (2, 4, 1), 3),
    Tiling::new(128, 256, 32, (2, 4, 1), 4),
    Tiling::new(256, 128, 32, (4, 2, 1), 3),
    Tiling::new(128, 64, 64, (4, 2, 1), 3),
    Tiling::new(64, 128, 64, (2, 4, 1), 3),
    Tiling::new(64, 64, 64, (2, 2, 1), 6),
    Tiling::new(64, 64, 128, (2, 2, 2), 3),
    Tiling::new(64, 16, 256, (1, 1, 8), 3),
    Tiling::new(64, 32, 256, (1, 1, 8), 3),
    Tiling::new(32, 64, 128, (1, 2, 4), 4),
];

/// Tilings that are chosen from, the larger ones first: a value of a larger tile reads less, but there have to be as many
/// tiles as there are multiprocessors, nearly.
const CHOSEN: usize = 4;

/// Multiprocessors of a device that does not say.
const MULTIPROCESSORS: usize = 108;

/// Inner values that a part of a product has at least, where few tiles make it worth dividing.
const PART: usize = 896;

/// The number of a tiling of [`TILINGS`] plus one, and of parts of the inner dimension, that are taken for every product;
/// 0 where they are chosen.
static FORCED: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

pub(crate) fn tilings() -> Vec<String> {
    let name = |Tiling { rows, columns, inner, planes: (down, across, layers), stages }: &Tiling| {
        format!("{rows} × {columns} × {inner}, planes {down} × {across} × {layers}, {stages} stages")
    };
    TILINGS.iter().map(name).collect()
}

pub(crate) fn set_tiling(tiling: Option<(usize, usize)>) {
    let (index, parts) = tiling.map_or((0, 0), |(index, parts)| (index + 1, parts));
    FORCED[0].store(index, Ordering::Relaxed);
    FORCED[1].store(parts, Ordering::Relaxed);
}

/// Where a chunk of a row lies, so that eight rows' chunks of one column lie in all banks of the shared memory.
#[cube]
fn place(row: u32, chunk: u32, #[comptime] chunks: u32) -> u32 {
    let period = comptime!(if chunks < 8 { chunks } else { 8 });
    let rows_of_bank = comptime!(8 / period);
    row * chunks + (chunk ^ (row / rows_of_bank % period))
}

/// Starts copies of a tile's rows into shared memory; zeros past the end of either dimension.
#[cube]
#[allow(clippy::too_many_arguments, reason = "where a tile lies in a matrix, and how large both are")]
fn copy_tile<F: Float>(
    from: &Tensor<F>,
    pitch: u32,
    first_row: u32,
    row_end: u32,
    first_column: u32,
    column_end: u32,
    to: &mut Shared<[F]>,
    offset: u32,
    #[comptime] rows: u32,
    #[comptime] columns: u32,
    #[comptime] threads: u32,
) {
    let chunks = comptime!(columns / CHUNK);
    let count = comptime!(rows * chunks);
    #[unroll]
    for turn in 0..comptime!(count.div_ceil(threads)) {
        let index = UNIT_POS + comptime!(turn * threads);
        if comptime!((turn + 1) * threads <= count) || index < count {
            let (row, chunk) = (index / chunks, index % chunks);
            let (of_row, of_column) = (first_row + row, first_column + chunk * CHUNK);
            let is_inside = of_row < row_end && of_column < column_end;
            let start = select(is_inside, of_row as usize * pitch as usize + of_column as usize, 0usize);
            let length = select(is_inside, comptime!(CHUNK as usize), 0usize);
            let source = &from.as_slice()[start..start + length];
            let at = ((offset + place(row, chunk, chunks)) * CHUNK) as usize;
            let target = &mut to[at..at + comptime!(CHUNK as usize)];
            copy_async_checked(source, target, CHUNK);
        }
    }
}

/// Starts the copies of both operands' tiles of a step into a slot of the shared memory, as one group. Past the last step
/// they are of zeros.
#[cube]
#[allow(clippy::too_many_arguments, reason = "where two tiles lie in their matrices, and how large all are")]
fn copy_step<F: Float>(
    lhs: &Tensor<F>,
    rhs: &Tensor<F>,
    lhs_pitch: u32,
    rhs_pitch: u32,
    first_row: u32,
    first_column: u32,
    first_inner: u32,
    rows: u32,
    columns: u32,
    inner: u32,
    lhs_tiles: &mut Shared<[F]>,
    rhs_tiles: &mut Shared<[F]>,
    slot: u32,
    #[comptime] tiling: Tiling,
) {
    copy_tile::<F>(
        lhs,
        lhs_pitch,
        first_row,
        rows,
        first_inner,
        inner,
        lhs_tiles,
        slot * comptime!(tiling.rows * tiling.inner / CHUNK),
        tiling.rows,
        tiling.inner,
        comptime!(tiling.threads()),
    );
    copy_tile::<F>(
        rhs,
        rhs_pitch,
        first_inner,
        inner,
        first_column,
        columns,
        rhs_tiles,
        slot * comptime!(tiling.inner * tiling.columns / CHUNK),
        tiling.inner,
        tiling.columns,
        comptime!(tiling.threads()),
    );
    commit_copies();
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments, reason = "what a product and what follows it are given")]
fn product_kernel<F: Float, O: Float, N: Size>(
    lhs: &Tensor<F>,
    rhs: &Tensor<F>,
    bias: &Tensor<Vector<F, N>>,
    scale: &Tensor<Vector<F, N>>,
    base: &Tensor<Vector<F, N>>,
    output: &mut Tensor<Vector<O, N>>,
    rows: u32,
    columns: u32,
    inner: u32,
    lhs_pitch: u32,
    rhs_pitch: u32,
    parts: u32,
    #[comptime] tiling: Tiling,
    #[comptime] followed: Followed,
    #[define(F)] _element: ElemType,
    #[define(O)] _rounded: ElemType,
) {
    let threads = comptime!(tiling.threads());
    let (planes_down, planes_across, planes_inner) = comptime!(tiling.planes);
    let lane = UNIT_POS_PLANE;
    let plane = UNIT_POS / PLANE;
    let down = plane / comptime!(planes_across * planes_inner);
    let across = plane / planes_inner % planes_across;
    let layer = plane % planes_inner;

    let tiles_across = columns.div_ceil(tiling.columns);
    let tiles_down = rows.div_ceil(tiling.rows);
    let tile = CUBE_POS as u32 % (tiles_across * tiles_down);
    let part = CUBE_POS as u32 / (tiles_across * tiles_down);
    if part >= parts {
        terminate!();
    }
    let first_row = tile % tiles_down * tiling.rows;
    let first_column = tile / tiles_down * tiling.columns;

    // The part of the inner dimension that is this cube's.
    let steps_in_all = inner.div_ceil(tiling.inner);
    let first_step = steps_in_all * part / parts;
    let steps = steps_in_all * (part + 1) / parts - first_step;
    let first_inner = first_step * tiling.inner;

    let lhs_chunks = comptime!(tiling.inner / CHUNK);
    let rhs_chunks = comptime!(tiling.columns / CHUNK);
    let lhs_stage = comptime!(tiling.rows * lhs_chunks);
    let rhs_stage = comptime!(tiling.inner * rhs_chunks);
    let mut lhs_tiles =
        Shared::<[F]>::new_aligned_slice(comptime!((tiling.stages * lhs_stage * CHUNK) as usize), 16usize);
    let mut rhs_tiles =
        Shared::<[F]>::new_aligned_slice(comptime!((tiling.stages * rhs_stage * CHUNK) as usize), 16usize);

    let plane_rows = comptime!(tiling.rows / planes_down);
    let plane_columns = comptime!(tiling.columns / planes_across);
    let down_count = comptime!(plane_rows / MMA.0);
    let across_count = comptime!(plane_columns / MMA.1);
    let definition = MmaDefinition::<F, F, f32>::new(
        comptime!(MMA.0 as usize),
        comptime!(MMA.1 as usize),
        comptime!(MMA.2 as usize),
    );
    let size!(NA) = definition.vector_size(MatrixIdent::A);
    let size!(NC) = definition.vector_size(MatrixIdent::Accumulator);
    let mut sums = Sequence::<Array<Vector<f32, NC>>>::new();
    #[unroll]
    for _ in 0..comptime!(down_count * across_count) {
        let mut zeros = Array::<Vector<f32, NC>>::new(2usize);
        zeros[0] = Vector::new(0.0f32);
        zeros[1] = Vector::new(0.0f32);
        sums.push(zeros);
    }

    #[unroll]
    for stage in 0..comptime!(tiling.stages - 1) {
        let from = first_inner + comptime!(stage * tiling.inner);
        let end = select(stage < steps, inner, 0u32);
        copy_step::<F>(
            lhs,
            rhs,
            lhs_pitch,
            rhs_pitch,
            first_row,
            first_column,
            from,
            rows,
            columns,
            end,
            &mut lhs_tiles,
            &mut rhs_tiles,
            stage,
            tiling,
        );
    }

    let slot = RuntimeCell::<u32>::new(0u32);
    for step in 0..steps {
        // This step's copies have come, and the stage before has been used.
        wait_for_copies(comptime!(tiling.stages - 2));
        sync_cube();
        let ahead = step + comptime!(tiling.stages - 1);
        let filled = select(slot.read() == 0, comptime!(tiling.stages - 1), slot.read() - 1);
        let from = first_inner + ahead * tiling.inner;
        let end = select(ahead < steps, inner, 0u32);
        copy_step::<F>(
            lhs,
            rhs,
            lhs_pitch,
            rhs_pitch,
            first_row,
            first_column,
            from,
            rows,
            columns,
            end,
            &mut lhs_tiles,
            &mut rhs_tiles,
            filled,
            tiling,
        );

        let of_lhs = slot.read() * lhs_stage;
        let of_rhs = slot.read() * rhs_stage;
        #[unroll]
        for turn in 0..comptime!(tiling.inner / MMA.2 / planes_inner) {
            let slice = layer + comptime!(turn * planes_inner);
            let mut of_rows = Sequence::<Array<Vector<F, NA>>>::new();
            #[unroll]
            for at in 0..down_count {
                let row = down * plane_rows + comptime!(at * MMA.0) + lane % MMA.0;
                let chunk = slice * 2 + lane / MMA.0;
                let start = ((of_lhs + place(row, chunk, lhs_chunks)) * CHUNK) as usize;
                let chunk = &lhs_tiles[start..start + comptime!(CHUNK as usize)];
                of_rows.push(definition.load_matrix::<_, NA>(chunk, MatrixIdent::A, 4usize, false));
            }
            #[unroll]
            for pair in 0..comptime!(across_count / 2) {
                let row = slice * MMA.2 + lane % MMA.2;
                let chunk = across * comptime!(plane_columns / CHUNK) + comptime!(pair * 2) + lane / MMA.2;
                let start = ((of_rhs + place(row, chunk, rhs_chunks)) * CHUNK) as usize;
                let chunk = &rhs_tiles[start..start + comptime!(CHUNK as usize)];
                let both = definition.load_matrix::<_, NA>(chunk, MatrixIdent::B, 4usize, true);
                #[unroll]
                for half in 0..2u32 {
                    let mut of_columns = Array::<Vector<F, NA>>::new(2usize);
                    of_columns[0] = both[comptime!(2 * half) as usize];
                    of_columns[1] = both[comptime!(2 * half + 1) as usize];
                    #[unroll]
                    for at in 0..down_count {
                        let index = comptime!((at * across_count + pair * 2 + half) as usize);
                        let mine = sums.index_mut(index);
                        definition.execute_inplace(&of_rows[comptime!(at as usize)], &of_columns, mine);
                    }
                }
            }
        }
        slot.store(select(slot.read() == comptime!(tiling.stages - 1), 0u32, slot.read() + 1));
    }
    // Those that were started past the end, of zeros.
    wait_for_copies(0u32);

    // Of each plane some rows at a time; a row of sums is one chunk longer, so that rows begin in other banks.
    let sum_pitch = comptime!(tiling.columns + CHUNK);
    let layer_size = comptime!(planes_down * MMA.0 * sum_pitch);
    let mut written = Shared::<[f32]>::new_aligned_slice(comptime!((planes_inner * layer_size) as usize), 16usize);
    let vectors = comptime!(tiling.columns / WRITTEN);
    let count = comptime!(planes_down * MMA.0 * vectors);
    #[unroll]
    for at in 0..down_count {
        #[unroll]
        for column in 0..across_count {
            #[unroll]
            for half in 0..2u32 {
                let row = down * MMA.0 + comptime!(half * 8) + lane / 4;
                let column_of_sum = across * plane_columns + comptime!(column * MMA.1) + lane % 4 * 2;
                let to = (layer * layer_size + row * sum_pitch + column_of_sum) as usize;
                let pair = sums[comptime!((at * across_count + column) as usize)][half as usize];
                written[to] = pair.extract(0usize);
                written[to + 1] = pair.extract(1usize);
            }
        }
        sync_cube();
        #[unroll]
        for turn in 0..comptime!(count.div_ceil(threads)) {
            let index = UNIT_POS + comptime!(turn * threads);
            let (row, column) = (index / vectors, index % vectors);
            let of_row = first_row + row / MMA.0 * plane_rows + comptime!(at * MMA.0) + row % MMA.0;
            let of_column = first_column + column * WRITTEN;
            if index < count && of_row < rows && of_column < columns {
                let mut sum = Vector::<f32, N>::new(0.0f32);
                #[unroll]
                for other in 0..planes_inner {
                    let from = comptime!(other * layer_size) + row * sum_pitch + column * WRITTEN;
                    #[unroll]
                    for value in 0..WRITTEN {
                        let one = sum.extract(value as usize) + written[(from + value) as usize];
                        sum.insert(value as usize, one);
                    }
                }
                let to = (of_row as usize * columns as usize + of_column as usize) / N::value();
                let column = of_column as usize / N::value();
                let result = epilogue::follow::<F, N>(sum, bias, scale, base, column, to, followed);
                let of_part = part as usize * (rows as usize * columns as usize / N::value());
                output[of_part + to] = Vector::cast_from(result);
            }
        }
        // Before the next rows' sums are written there.
        sync_cube();
    }
}

/// `base + scale ⊙ activation(lhs·rhs + bias)` for `lhs` of `[.., inner]` and `rhs` of `[inner, columns]`, all of one type;
/// `None` where this device or this shape has no such kernel.
pub(super) fn product(lhs: &CubeTensor, rhs: &CubeTensor, epilogue: &Epilogue) -> Option<CubeTensor> {
    let client = &lhs.client;
    let [inner, columns] = rhs.meta.shape()[..] else { return None };
    let is_whole = |size: usize| size.is_multiple_of(CHUNK as usize);
    let has_rows = lhs.meta.shape()[lhs.meta.num_dims() - 1] == inner;
    if !has_tensor_cores(lhs) || !has_rows || !is_whole(inner) || !is_whole(columns) || columns == 0 {
        return None;
    }
    let (lhs, lhs_pitch) = in_rows(lhs)?;
    let (rhs, rhs_pitch) = in_rows(rhs)?;
    let rows = lhs.meta.num_elements() / inner;
    let mut shape = lhs.shape();
    let last = shape.num_dims() - 1;
    shape[last] = columns;
    let (tiling, parts) = chosen(client, rows, columns, inner)?;
    let tiles = tiling.tiles(rows, columns);
    let (rows, columns, inner) = (rows as u32, columns as u32, inner as u32);

    let is_split = parts > 1;
    let followed = if is_split { Epilogue::default().followed() } else { epilogue.followed() };
    let (out_shape, out_type) = match is_split {
        true => (Shape::from([parts as usize, rows as usize, columns as usize]), DType::F32),
        false => (shape.clone(), lhs.dtype),
    };
    let out = empty_device_contiguous_dtype(client.clone(), lhs.device.clone(), out_shape, out_type);
    // What is absent is not read: any tensor of the type stands for it.
    let [bias, scale, base] = [&epilogue.bias, &epilogue.scale, &epilogue.base]
        .map(|given| given.as_ref().map_or_else(|| rhs.clone(), |given| into_contiguous(given.clone())));
    product_kernel::launch(
        client,
        cubes(tiles * parts as usize),
        CubeDim::new_1d(tiling.threads()),
        address_type([&lhs, &rhs, &out]),
        WRITTEN as usize,
        lhs.clone().into_tensor_arg(),
        rhs.into_tensor_arg(),
        bias.into_tensor_arg(),
        scale.into_tensor_arg(),
        base.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        rows,
        columns,
        inner,
        lhs_pitch,
        rhs_pitch,
        parts,
        tiling,
        followed,
        element_of(lhs.dtype),
        element_of(out_type),
    );
    Some(match is_split {
        true => epilogue::apply(out, shape, epilogue.clone(), lhs.dtype),
        false => out,
    })
}

/// A tensor whose rows are one piece each, equally far apart, and that distance in values: as it lies if it is like that,
/// with rows where 16 bytes begin, or a copy. `None` where even that does not begin there.
fn in_rows(x: &CubeTensor) -> Option<(CubeTensor, u32)> {
    let is_aligned = |x: &CubeTensor| x.handle.offset_start.unwrap_or_default().is_multiple_of(16);
    let (shape, strides) = (x.meta.shape(), x.meta.strides());
    let last = shape.num_dims() - 1;
    // Of a single row there is no distance.
    let long: Vec<usize> = (0..last).filter(|&dim| shape[dim] > 1).collect();
    let pitch = long.last().map_or(shape[last], |&dim| strides[dim]);
    let are_even = long.windows(2).all(|pair| strides[pair[0]] == strides[pair[1]] * shape[pair[1]]);
    if strides[last] == 1 && are_even && pitch.is_multiple_of(CHUNK as usize) && is_aligned(x) {
        return Some((x.clone(), pitch as u32));
    }
    let copy = into_contiguous(x.clone());
    let pitch = copy.meta.shape()[last];
    is_aligned(&copy).then_some((copy, pitch as u32))
}

/// The tiling of a product, and in how many parts its inner dimension is computed.
fn chosen(client: &Client, rows: usize, columns: usize, inner: usize) -> Option<(Tiling, u32)> {
    let [forced, parts] = [&FORCED[0], &FORCED[1]].map(|forced| forced.load(Ordering::Relaxed));
    let hardware = &client.properties().hardware;
    let fits = |tiling: &Tiling| tiling.memory() <= hardware.max_shared_memory_size;
    if let Some(&tiling) = forced.checked_sub(1).and_then(|index| TILINGS.get(index)) {
        return fits(&tiling).then_some((tiling, parts.max(1) as u32));
    }
    let multiprocessors = hardware.num_streaming_multiprocessors.map_or(MULTIPROCESSORS, |count| count as usize);
    let is_busy = |cubes: usize| 4 * cubes >= 3 * multiprocessors;
    let fit: Vec<&Tiling> = TILINGS[..CHOSEN].iter().filter(|tiling| fits(tiling)).collect();
    // A tile that is half empty is as long at work as a full one.
    let suits =
        |tiling: &&Tiling| tiling.rows as usize <= rows.next_multiple_of(MMA.0 as usize) + tiling.rows as usize / 2;
    let mut suitable = fit.iter().copied().filter(suits);
    let tiling = match suitable.clone().find(|tiling| is_busy(tiling.tiles(rows, columns))) {
        Some(tiling) => return Some((*tiling, 1)),
        None => suitable.next_back().or(fit.last().copied())?,
    };
    let wanted = (2 * multiprocessors).div_ceil(tiling.tiles(rows, columns));
    Some((*tiling, wanted.min(inner / PART).max(1) as u32))
}
