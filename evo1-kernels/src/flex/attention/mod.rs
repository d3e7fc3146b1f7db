//! Scaled dot-product attention without its matrix of scores: `softmax(q·kᵀ · scale, hidden keys at −∞) · v`.

mod backward;
mod forward;

pub(crate) use backward::backward;
pub(crate) use forward::forward;

/// Queries, keys or values of all heads somewhere in a slice; the channels of a row are contiguous.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads<'a, E = f32> {
    pub(crate) data: &'a [E],
    pub(crate) batch: usize,
    pub(crate) heads: usize,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    /// Distances of samples, heads and rows.
    pub(crate) strides: [usize; 3],
}

impl<'a, E> Heads<'a, E> {
    /// Where a sample's head begins.
    pub(crate) fn of(&self, sample: usize, head: usize) -> &'a [E] {
        let start = sample * self.strides[0] + head * self.strides[1];
        &self.data[start.min(self.data.len())..]
    }

    /// A sample's head as a matrix `[rows, width]`.
    fn matrix(&self, sample: usize, head: usize) -> crate::flex::gemm::Matrix<'a, E> {
        crate::flex::gemm::Matrix {
            data: self.of(sample, head),
            rows: self.rows,
            columns: self.width,
            row_stride: self.strides[2],
            column_stride: 1,
        }
    }
}

/// Which keys may not be seen: `[batch or 1, heads or 1, queries or 1, keys]`, not 0 where hidden, keys contiguous.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hidden<'a> {
    pub(crate) data: &'a [u8],
    /// Distances of samples, heads and queries; 0 where all share.
    pub(crate) strides: [usize; 3],
    pub(crate) keys: usize,
}

impl<'a> Hidden<'a> {
    fn row(&self, sample: usize, head: usize, query: usize) -> &'a [u8] {
        &self.data[sample * self.strides[0] + head * self.strides[1] + query * self.strides[2]..][..self.keys]
    }

    /// Whether all queries see the same keys.
    fn is_of_keys(&self) -> bool {
        self.strides[2] == 0
    }
}

/// The rows of a result `[batch, rows, heads, width]`, collected for each sample and head.
fn lines_by_head<E>(out: &mut [E], heads: usize, rows: usize, width: usize) -> Vec<Vec<&mut [E]>> {
    let samples = out.len().checked_div(rows * heads * width).unwrap_or(0);
    let mut lines: Vec<Vec<&mut [E]>> = (0..samples * heads).map(|_| Vec::with_capacity(rows)).collect();
    for (at, line) in out.chunks_exact_mut(width.max(1)).enumerate() {
        let (sample, head) = (at / heads / rows, at % heads);
        lines[sample * heads + head].push(line);
    }
    lines
}

#[cfg(test)]
mod tests;
