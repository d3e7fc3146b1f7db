//! Attention on tensor cores, for half precision where the device multiplies 16 × 8 × 16 tiles by the plane, loads them from
//! shared memory by rows and copies to it beside arithmetic (FlashAttention-2, arXiv 2307.08691).
//!
//! Each plane has 16 or 32 queries, whose scores, weights and results stay in its registers. Planes of a cube have either other
//! queries and the same keys or, where there are too few queries to keep a device busy, the same queries and other keys;
//! then what each of them has is merged at the end.
//!
//! Queries, keys and values are read where they lie, and the result is written as `[batch, queries, heads, width]`.

use burn_cubecl::{
    cubecl::{
        self,
        cmma::{MatrixIdent, MmaDefinition},
        ir::ElemType,
        prelude::{barrier::copy_async, *},
    },
    tensor::CubeTensor,
};

use super::{
    CHUNK, PLANE, address_type,
    attention::{Attended, HIDDEN, LOWEST, mask_of, unwritten},
    commit_copies, cubes, element_of, has_tensor_cores, wait_for_copies,
};

/// Rows of a tile of the tensor cores, of which each thread has two, so many apart.
const ROWS: u32 = 16;
const APART: usize = 8;

/// Numbers of 16 bytes.
const PIECE: usize = CHUNK as usize;

/// What a cube works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Plan {
    /// Pieces of a row of queries, keys and values.
    width: u32,
    /// Planes with other queries.
    query_planes: u32,
    /// Tiles of a plane's queries: with more of them, keys and values are loaded from shared memory less often.
    blocks: u32,
    /// Planes with other keys.
    key_planes: u32,
    /// Keys that a plane takes at once.
    columns: u32,
    /// Tiles of keys and values in shared memory.
    stages: u32,
}

impl Plan {
    fn queries(self) -> u32 {
        self.query_planes * self.plane_queries()
    }

    fn plane_queries(self) -> u32 {
        self.blocks * ROWS
    }

    fn keys(self) -> u32 {
        self.key_planes * self.columns
    }

    fn units(self) -> u32 {
        self.query_planes * self.key_planes * PLANE
    }

    /// Pieces from a row of shared memory to the next: an odd number, so that the rows of a matrix lie in different banks.
    fn pitch(self) -> u32 {
        self.width + 1
    }

    /// Numbers from a row of results to the next where planes merge theirs: for the same reason.
    fn merge_pitch(self) -> u32 {
        self.width * PIECE as u32 + 8
    }

    /// Bytes of shared memory.
    fn memory(self) -> usize {
        let tiles = self.queries() + 2 * self.stages * self.keys();
        let merged = if self.key_planes == 1 { 0 } else { self.key_planes * self.queries() * (self.merge_pitch() + 2) };
        (tiles * self.pitch()) as usize * 16 + merged as usize * 4
    }
}

/// Which keys are hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Marks {
    None,
    /// The same for all queries.
    OfKeys,
    Of,
}

/// Starts to copy rows of a head, which lie at `origin`, from the `first` of `count` on; past the last, the last again.
/// `origin` and `stride` are in pieces.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what a copy is between")]
fn copy_rows<F: Float>(
    from: &Tensor<Vector<F, Const<8>>>,
    origin: usize,
    stride: usize,
    first: usize,
    count: usize,
    tile: &mut Shared<[Vector<F, Const<8>>]>,
    at: usize,
    #[comptime] rows: u32,
    #[comptime] plan: Plan,
) {
    // A group of threads has a row, each one piece: some have none where a row is no power of two.
    let across = comptime!(plan.width.next_power_of_two());
    let step = comptime!(plan.units() / across);
    let unit = UNIT_POS;
    let (row, column) = (unit / across, (unit % across) as usize);
    if column < comptime!(plan.width as usize) {
        #[unroll]
        for pass in 0..comptime!(rows.div_ceil(step)) {
            let row = row + comptime!(pass * step);
            if comptime!((pass + 1) * step <= rows) || row < rows {
                let row = row as usize;
                let source = origin + min(first + row, count - 1) * stride + column;
                let target = at + row * comptime!(plan.pitch() as usize) + column;
                copy_async(&from[source..source + 1], &mut tile[target..target + 1], 8u32);
            }
        }
    }
}

/// `2^x`.
#[cube]
fn exp2(x: f32) -> f32 {
    let result: f32;
    gpu_asm!("ex2.approx.ftz.f32 {}, {};", out(_) result, in(_) x, options(pure, nomem));
    result
}

/// Four matrices of 8 × 8, each thread giving the place of a row.
#[cube]
fn load<F: Float>(
    tile: &Shared<[Vector<F, Const<8>>]>,
    at: usize,
    #[comptime] is_transposed: bool,
) -> Array<Vector<F, Const<2>>> {
    let definition = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
    let row = &tile[at..at + 1];
    definition.load_matrix::<Vector<F, Const<8>>, Const<2>>(row, MatrixIdent::B, 4usize, is_transposed)
}

/// Adds the product of a tile of 16 × 16 and one of 16 × 8 to the sums with the number `at`.
#[cube]
fn multiply<F: Float>(
    lhs: &Array<Vector<F, Const<2>>>,
    rhs: &Array<Vector<F, Const<2>>>,
    sums: &mut Array<Vector<f32, Const<2>>>,
    #[comptime] of_lhs: usize,
    #[comptime] of_rhs: usize,
    #[comptime] at: usize,
) {
    let definition = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
    let mut a = Array::<Vector<F, Const<2>>>::new(4usize);
    let mut b = Array::<Vector<F, Const<2>>>::new(2usize);
    let mut c = Array::<Vector<f32, Const<2>>>::new(2usize);
    #[unroll]
    for part in 0..4usize {
        a[part] = lhs[comptime!(4 * of_lhs + part)];
    }
    #[unroll]
    for part in 0..2usize {
        b[part] = rhs[comptime!(2 * of_rhs + part)];
        c[part] = sums[comptime!(2 * at + part)];
    }
    let d = definition.execute(&a, &b, &c);
    #[unroll]
    for part in 0..2usize {
        sums[comptime!(2 * at + part)] = d[part];
    }
}

/// Which of 32 keys from `first` on are past the last, a bit for each.
#[cube]
fn past(keys: usize, first: usize) -> u32 {
    let bits = RuntimeCell::<u32>::new(u32::MAX);
    if keys >= first + 32 {
        bits.store(0u32);
    } else if keys > first {
        bits.store(u32::MAX << (keys - first) as u32);
    }
    bits.consume()
}

/// Loads whether a key and every 32nd after it, as many as there are words, are hidden or past the last, for so many queries.
#[cube]
#[allow(clippy::too_many_arguments, reason = "what marks are of")]
fn load_marks<B: Numeric>(
    hidden: &Tensor<B>,
    origin: usize,
    first_query: usize,
    queries: usize,
    key: usize,
    keys: usize,
    marked: &mut Array<u32>,
    #[comptime] lines: usize,
    #[comptime] words: usize,
) {
    #[unroll]
    for line in 0..lines {
        let of_line = if comptime!(lines == 1) {
            origin
        } else {
            origin + min(first_query + line, queries - 1) * hidden.stride(2)
        };
        #[unroll]
        for word in 0..words {
            let key = key + comptime!(32 * word);
            let mark = RuntimeCell::<u32>::new(1u32);
            if key < keys {
                mark.store(u32::cast_from(hidden[of_line + key * hidden.stride(3)]));
            }
            marked[comptime!(line * words + word)] = mark.consume();
        }
    }
}

/// Where an array of sums has those of a half of a row of `tiles`.
#[cube]
fn number(#[comptime] half: usize, #[comptime] tile: usize, #[comptime] tiles: usize) -> comptime_type!(usize) {
    comptime!(2 * (half / 2 * tiles + tile) + half % 2)
}

/// The largest or the sum over the four threads that share a row.
#[cube]
fn max_of_row(x: f32) -> f32 {
    let x = max(x, plane_shuffle_xor(x, 1u32));
    max(x, plane_shuffle_xor(x, 2u32))
}

#[cube]
fn sum_of_row(x: f32) -> f32 {
    let x = x + plane_shuffle_xor(x, 1u32);
    x + plane_shuffle_xor(x, 2u32)
}

#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments, reason = "what an attention is given")]
#[allow(clippy::collapsible_if, reason = "the outer condition is known when the kernel is compiled")]
fn attention_kernel<F: Float, B: Numeric>(
    query: &Tensor<Vector<F, Const<8>>>,
    key: &Tensor<Vector<F, Const<8>>>,
    value: &Tensor<Vector<F, Const<8>>>,
    hidden: &Tensor<B>,
    output: &mut Tensor<Vector<F, Const<4>>>,
    log_sums: &mut Tensor<f32>,
    scale: f32,
    heads: u32,
    queries: u32,
    keys: u32,
    tiles: u32,
    #[comptime] group: u32,
    #[comptime] plan: Plan,
    #[comptime] marks: Marks,
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
    let pitch = comptime!(plan.pitch() as usize);
    let width = comptime!(plan.width as usize);
    let columns = comptime!(plan.columns as usize);
    let tile_keys = comptime!(plan.keys() as usize);
    let tile_size = comptime!((plan.keys() * plan.pitch()) as usize);
    let stages = comptime!(plan.stages as usize);
    let blocks = comptime!(plan.blocks as usize);
    let words = comptime!(plan.columns.div_ceil(32) as usize);
    let mut queries_tile = Shared::<[Vector<F, Const<8>>]>::new_aligned_slice(
        comptime!((plan.queries() * plan.pitch()) as usize),
        16usize,
    );
    let mut keys_tiles = Shared::<[Vector<F, Const<8>>]>::new_aligned_slice(comptime!(tile_size * stages), 16usize);
    let mut values_tiles = Shared::<[Vector<F, Const<8>>]>::new_aligned_slice(comptime!(tile_size * stages), 16usize);

    let lane = (UNIT_POS % PLANE) as usize;
    let plane = UNIT_POS / PLANE;
    let query_plane = (plane / comptime!(plan.key_planes)) as usize;
    let key_plane = (plane % comptime!(plan.key_planes)) as usize;
    let first_query = tile * comptime!(plan.queries() as usize);
    // Of the rows of a tile of sums, a thread has this one and that below, and of eight columns two neighbours.
    let plane_queries = comptime!(plan.plane_queries() as usize);
    let halves = comptime!(2 * plan.blocks as usize);
    let row = query_plane * plane_queries + lane / 4;
    let pair = lane % 4;
    let shared_head = head / comptime!(group) as usize;
    let of_query = (batch * query.stride(0) + head * query.stride(1)) / PIECE;
    let of_key = (batch * key.stride(0) + shared_head * key.stride(1)) / PIECE;
    let of_value = (batch * value.stride(0) + shared_head * value.stride(1)) / PIECE;
    let (query_stride, key_stride, value_stride) =
        (query.stride(2) / PIECE, key.stride(2) / PIECE, value.stride(2) / PIECE);
    let of_hidden = batch * hidden.stride(0) + head * hidden.stride(1);
    let first_of_plane = key_plane * columns;
    let steps = keys.div_ceil(tile_keys);

    copy_rows::<F>(
        query,
        of_query,
        query_stride,
        first_query,
        queries,
        &mut queries_tile,
        0usize,
        comptime!(plan.queries()),
        plan,
    );
    #[unroll]
    for stage in 0..comptime!(stages - 1) {
        if stage < steps {
            let (first, at) = (stage * tile_keys, stage * tile_size);
            let rows = comptime!(plan.keys());
            copy_rows::<F>(key, of_key, key_stride, first, keys, &mut keys_tiles, at, rows, plan);
            copy_rows::<F>(value, of_value, value_stride, first, keys, &mut values_tiles, at, rows, plan);
        }
        commit_copies();
    }
    // Of the marks, each thread has one in 32, those of the next tile.
    let lines = comptime!(if marks == Marks::Of { plane_queries } else { 1 });
    let first_line = first_query + query_plane * plane_queries;
    let mut marked = Array::<u32>::new(comptime!(lines * words));
    if comptime!(marks != Marks::None) {
        load_marks::<B>(hidden, of_hidden, first_line, queries, first_of_plane + lane, keys, &mut marked, lines, words);
    }

    // Queries and keys are two rows of eight to a tile, values the other way round.
    let of_rows = lane % 16 * pitch + lane / 16;
    let of_columns = (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2;
    wait_for_copies(comptime!(plan.stages - 2));
    sync_cube();
    let parts = comptime!(width / 2);
    let mut of_queries = Array::<Vector<F, Const<2>>>::new(comptime!(4 * blocks * parts));
    #[unroll]
    for block in 0..blocks {
        #[unroll]
        for part in 0..parts {
            let at = query_plane * comptime!(plane_queries * pitch)
                + of_rows
                + comptime!(ROWS as usize * block * pitch + 2 * part);
            let loaded = load::<F>(&queries_tile, at, false);
            #[unroll]
            for index in 0..4usize {
                of_queries[comptime!(4 * (block * parts + part) + index)] = loaded[index];
            }
        }
    }

    let factor = scale * comptime!(std::f32::consts::LOG2_E);
    let mut largest = Array::<f32>::new(halves);
    let mut sums = Array::<f32>::new(halves);
    #[unroll]
    for half in 0..halves {
        largest[half] = LOWEST;
        sums[half] = 0.0f32;
    }
    let mut result = Array::<Vector<f32, Const<2>>>::new(comptime!(halves * width));
    for step in 0..steps {
        // The tile of this step has come, and that of the step before has been used by all.
        wait_for_copies(comptime!(plan.stages - 2));
        sync_cube();
        let next = step + comptime!(stages - 1);
        if next < steps {
            let (first, at) = (next * tile_keys, next % stages * tile_size);
            let rows = comptime!(plan.keys());
            copy_rows::<F>(key, of_key, key_stride, first, keys, &mut keys_tiles, at, rows, plan);
            copy_rows::<F>(value, of_value, value_stride, first, keys, &mut values_tiles, at, rows, plan);
        }
        commit_copies();
        // The last tile of queries may have none for a plane; to ask costs registers that small tiles lack.
        if comptime!(plan.blocks == 1) || first_query + query_plane * plane_queries < queries {
            let tile_at = step % stages * tile_size + first_of_plane * pitch;
            let first_key = step * tile_keys + first_of_plane;

            // A bit for each key that is hidden.
            let mut bits = Array::<u32>::new(comptime!(halves * words));
            #[unroll]
            for word in 0..words {
                let first = first_key + comptime!(32 * word);
                if comptime!(marks == Marks::Of) {
                    #[unroll]
                    for half in 0..halves {
                        let of_row = RuntimeCell::<u32>::new(0u32);
                        #[unroll]
                        for other in 0..APART {
                            let is_hidden = marked[comptime!((APART * half + other) * words + word)] != 0;
                            let bits_of_line = plane_ballot(is_hidden).extract(0usize);
                            if lane / 4 == other {
                                of_row.store(bits_of_line);
                            }
                        }
                        bits[comptime!(halves * word + half)] = of_row.consume();
                    }
                } else {
                    let of_word = if comptime!(marks == Marks::None) {
                        past(keys, first)
                    } else {
                        plane_ballot(marked[word] != 0).extract(0usize)
                    };
                    #[unroll]
                    for half in 0..halves {
                        bits[comptime!(halves * word + half)] = of_word;
                    }
                }
            }
            if comptime!(marks != Marks::None) {
                let next = first_key + tile_keys + lane;
                load_marks::<B>(hidden, of_hidden, first_line, queries, next, keys, &mut marked, lines, words);
            }

            let mut scores = Array::<Vector<f32, Const<2>>>::new(comptime!(halves * columns / 8));
            #[unroll]
            for part in 0..parts {
                #[unroll]
                for both in 0..comptime!(columns / 16) {
                    let at = tile_at + of_columns + comptime!(16 * both * pitch + 2 * part);
                    let loaded = load::<F>(&keys_tiles, at, false);
                    #[unroll]
                    for block in 0..blocks {
                        let of_queries_at = comptime!(block * parts + part);
                        let to = comptime!(block * columns / 8 + 2 * both);
                        multiply::<F>(&of_queries, &loaded, &mut scores, of_queries_at, 0usize, to);
                        multiply::<F>(&of_queries, &loaded, &mut scores, of_queries_at, 1usize, comptime!(to + 1));
                    }
                }
            }

            let mut weights = Array::<Vector<F, Const<2>>>::new(comptime!(halves * columns / 8));
            #[unroll]
            for half in 0..halves {
                #[unroll]
                for word in 0..words {
                    let of_word = bits[comptime!(halves * word + half)] >> (2 * pair) as u32;
                    if of_word != 0 {
                        #[unroll]
                        for tile in 0..comptime!(if columns < 32 { columns / 8 } else { 4 }) {
                            let at = number(half, comptime!(4 * word + tile), comptime!(columns / 8));
                            let mut score = scores[at];
                            #[unroll]
                            for side in 0..2usize {
                                if of_word & comptime!(1u32 << (8 * tile + side)) != 0 {
                                    score.insert(side, HIDDEN);
                                }
                            }
                            scores[at] = score;
                        }
                    }
                }
                let most = RuntimeCell::<f32>::new(largest[half]);
                #[unroll]
                for tile in 0..comptime!(columns / 8) {
                    let score = scores[number(half, tile, comptime!(columns / 8))];
                    most.store(max(most.read(), max(score.extract(0usize), score.extract(1usize))));
                }
                let most = max_of_row(most.consume());
                let correction = exp2((largest[half] - most) * factor);
                largest[half] = most;
                let offset = most * factor;
                let sum = RuntimeCell::<f32>::new(sums[half] * correction);
                #[unroll]
                for tile in 0..comptime!(columns / 8) {
                    let at = number(half, tile, comptime!(columns / 8));
                    let score = scores[at];
                    let mut weight = Vector::<f32, Const<2>>::empty();
                    #[unroll]
                    for side in 0..2usize {
                        let value = exp2(score.extract(side) * factor - offset);
                        sum.store(sum.read() + value);
                        weight.insert(side, value);
                    }
                    weights[at] = Vector::cast_from(weight);
                }
                sums[half] = sum.consume();
                #[unroll]
                for tile in 0..width {
                    result[number(half, tile, width)] *= Vector::new(correction);
                }
            }

            #[unroll]
            for part in 0..comptime!(columns / 16) {
                #[unroll]
                for both in 0..parts {
                    let at = tile_at + of_rows + comptime!(16 * part * pitch + 2 * both);
                    let loaded = load::<F>(&values_tiles, at, true);
                    #[unroll]
                    for block in 0..blocks {
                        let of_weights = comptime!(block * columns / 16 + part);
                        let to = comptime!(block * width + 2 * both);
                        multiply::<F>(&weights, &loaded, &mut result, of_weights, 0usize, to);
                        multiply::<F>(&weights, &loaded, &mut result, of_weights, 1usize, comptime!(to + 1));
                    }
                }
            }
        }
    }

    #[unroll]
    for half in 0..halves {
        sums[half] = sum_of_row(sums[half]);
    }
    let fours = comptime!(2 * width);
    if comptime!(plan.key_planes == 1) {
        // Each plane has the place of its own queries for its results.
        let pairs = queries_tile.as_mut_slice().with_vector_size_mut::<Const<2>>();
        #[unroll]
        for half in 0..halves {
            let line = row + comptime!(APART * half);
            let sum = max(sums[half], f32::MIN_POSITIVE);
            #[unroll]
            for tile in 0..width {
                let mean = result[number(half, tile, width)] * Vector::new(1.0f32 / sum);
                pairs[(line * pitch + tile) * 4 + pair] = Vector::cast_from(mean);
            }
            if comptime!(has_sums) {
                if pair == 0 && first_query + line < queries {
                    let at = (batch * heads + head) * queries + first_query + line;
                    log_sums[at] = sum.ln() + largest[half] * scale;
                }
            }
        }
        sync_plane();
        let from = queries_tile.as_slice().with_vector_size::<Const<4>>();
        let first = query_plane * plane_queries;
        #[unroll]
        for pass in 0..comptime!((plane_queries * fours).div_ceil(PLANE as usize)) {
            let at = lane + comptime!(pass * PLANE as usize);
            let (line, column) = (first + at / fours, at % fours);
            if first_query + line < queries {
                let to = ((batch * queries + first_query + line) * heads + head) * fours + column;
                output[to] = from[line * comptime!(2 * pitch) + column];
            }
        }
    } else {
        let rows = comptime!(plan.queries() as usize);
        let merge_pitch = comptime!(plan.merge_pitch() as usize);
        let key_planes = comptime!(plan.key_planes as usize);
        let mut of_planes = Shared::<[Vector<f32, Const<4>>]>::new_aligned_slice(
            comptime!(key_planes * rows * merge_pitch / 4),
            16usize,
        );
        let mut largest_of_planes = Shared::<[f32]>::new_slice(comptime!(key_planes * rows));
        let mut sums_of_planes = Shared::<[f32]>::new_slice(comptime!(key_planes * rows));
        if pair == 0 {
            #[unroll]
            for half in 0..halves {
                let at = key_plane * rows + row + comptime!(APART * half);
                largest_of_planes[at] = largest[half];
                sums_of_planes[at] = sums[half];
            }
        }
        sync_cube();
        let pairs = of_planes.as_mut_slice().with_vector_size_mut::<Const<2>>();
        #[unroll]
        for half in 0..halves {
            let line = row + comptime!(APART * half);
            let most = RuntimeCell::<f32>::new(LOWEST);
            #[unroll]
            for plane in 0..key_planes {
                most.store(max(most.read(), largest_of_planes[comptime!(plane * rows) + line]));
            }
            let most = most.consume();
            let sum = RuntimeCell::<f32>::new(0.0f32);
            #[unroll]
            for plane in 0..key_planes {
                let at = comptime!(plane * rows) + line;
                sum.store(sum.read() + sums_of_planes[at] * exp2((largest_of_planes[at] - most) * factor));
            }
            let sum = max(sum.consume(), f32::MIN_POSITIVE);
            let share = exp2((largest[half] - most) * factor) / sum;
            #[unroll]
            for tile in 0..width {
                let at = (key_plane * rows + line) * comptime!(merge_pitch / 2) + comptime!(4 * tile) + pair;
                pairs[at] = result[number(half, tile, width)] * Vector::new(share);
            }
            if comptime!(has_sums) {
                if pair == 0 && key_plane == 0 && first_query + line < queries {
                    let at = (batch * heads + head) * queries + first_query + line;
                    log_sums[at] = sum.ln() + most * scale;
                }
            }
        }
        sync_cube();
        #[unroll]
        for pass in 0..comptime!((rows * fours).div_ceil(plan.units() as usize)) {
            let at = UNIT_POS as usize + comptime!(pass * plan.units() as usize);
            let (line, column) = (at / fours, at % fours);
            if line < rows && first_query + line < queries {
                let mean = RuntimeCell::<Vector<f32, Const<4>>>::new(Vector::new(0.0f32));
                #[unroll]
                for plane in 0..key_planes {
                    let at = (comptime!(plane * rows) + line) * comptime!(merge_pitch / 4) + column;
                    mean.store(mean.read() + of_planes[at]);
                }
                let to = ((batch * queries + first_query + line) * heads + head) * fours + column;
                output[to] = Vector::cast_from(mean.consume());
            }
        }
    }
}

/// How such an attention is cut into cubes; `None` where this kernel does not take it.
fn plan(query: &CubeTensor, key: &CubeTensor, value: &CubeTensor, marks: Marks, scale: f64) -> Option<Plan> {
    let properties = query.client.properties();
    let [batch, heads, queries, width] = query.meta.shape()[..] else { return None };
    let is_in_pieces = |tensor: &CubeTensor| {
        let (shape, strides) = (tensor.meta.shape(), tensor.meta.strides());
        strides[3] == 1
            && (0..3).all(|dim| shape[dim] == 1 || strides[dim].is_multiple_of(PIECE))
            && tensor.handle.offset_start.unwrap_or_default().is_multiple_of(16)
    };
    let is_taken = width.is_multiple_of(16)
        && width <= 128
        && value.meta.shape()[3] == width
        && scale > 0.0
        && [query, key, value].into_iter().all(is_in_pieces);
    if !has_tensor_cores(query) || !is_taken {
        return None;
    }
    let of = |query_planes, blocks, key_planes, columns, stages| Plan {
        width: (width / PIECE) as u32,
        query_planes,
        blocks,
        key_planes,
        columns,
        stages,
    };
    // Where there are many queries, few cubes share a head, so that keys and values are read less often. Two tiles of queries
    // have room in a thread's registers if they are narrow and there are no marks of each.
    let is_small = width <= 64 && marks != Marks::Of;
    let largest = if is_small { of(4, 2, 1, 64, 2) } else { of(8, 1, 1, 64, 2) };
    let processors = properties.hardware.num_streaming_multiprocessors.unwrap_or(64) as usize;
    let is_busy = |plan: Plan, least| batch * heads * queries.div_ceil(plan.queries() as usize) >= least;
    let memory = properties.hardware.max_shared_memory_size;
    [
        (largest, 2 * processors),
        (of(4, 1, 1, 64, 2), 2 * processors),
        (of(4, 1, 2, 32, 2), processors / 2),
        (of(4, 1, 1, 32, 2), processors / 2),
        (of(1, 1, 8, 16, 3), 0),
        (of(1, 1, 8, 16, 2), 0),
        (of(1, 1, 4, 16, 2), 0),
    ]
    .into_iter()
    .find_map(|(plan, least)| (plan.memory() <= memory && is_busy(plan, least)).then_some(plan))
}

/// Softmax(q·kᵀ · scale)·v of half precision, `hidden` of the scores' shape; `None` where the tensors or the device are not
/// made for it.
#[allow(unsafe_code, reason = "a checked launch compares every index with the length of what it reads")]
pub(super) fn attention(
    query: &CubeTensor,
    key: &CubeTensor,
    value: &CubeTensor,
    hidden: Option<&CubeTensor>,
    scale: f64,
    has_sums: bool,
) -> Option<Attended> {
    let [batch, heads, queries, _] = query.meta.shape()[..] else { return None };
    let [_, kv_heads, keys, _] = key.meta.shape()[..] else { return None };
    let marks = match hidden {
        None => Marks::None,
        Some(hidden) if queries == 1 || hidden.meta.strides()[2] == 0 => Marks::OfKeys,
        Some(_) => Marks::Of,
    };
    let plan = plan(query, key, value, marks, scale)?;
    let tiles = queries.div_ceil(plan.queries() as usize);
    let (output, log_sums) = unwritten(query, has_sums);
    let (mask, mask_type) = mask_of(query, hidden);
    // SAFETY: rows of queries, keys and values are read up to the last of their shapes, in pieces that their strides are
    // multiples of, as `plan` has seen to; marks and what is written likewise, of the shapes that stand here.
    unsafe {
        attention_kernel::launch_unchecked(
            &query.client,
            cubes(batch * heads * tiles),
            CubeDim::new_1d(plan.units()),
            address_type([query, key, value, &output]),
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
            plan,
            marks,
            has_sums,
            element_of(query.dtype),
            mask_type,
        );
    }
    Some(Attended::of(output, log_sums, has_sums))
}
