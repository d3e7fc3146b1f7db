//! A batch of token ids, their positions and which of them are hidden.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::{Error, Result};

/// Prompts of equal length, padded on the right.
///
/// A token is *hidden* when it is padding or belongs to a view that is not present: no token may attend to it. Positions
/// are those in the full prompt, so that hidden tokens can be left out ([`Self::without_hidden`]) without moving others.
#[derive(Debug, Clone)]
pub struct TokenBatch {
    ids: Vec<Vec<u32>>,
    attention_mask: Vec<Vec<bool>>,
    positions: Vec<Vec<usize>>,
    placed: Option<PlacedTokens>,
}

/// A batch of prompts as tensors, in place of what is on the host.
///
/// Of a batch that is placed ([`TokenBatch::placed`]) a model reads these alone: work that was recorded with them can be
/// repeated with other prompts in the same buffers. Only shapes, and whether any token is hidden, are those of the host.
#[derive(Debug, Clone)]
pub struct PlacedTokens {
    /// Token ids, `[batch, tokens]`.
    pub ids: Tensor<2, Int>,
    /// Positions in the full prompt, `[batch, tokens]`.
    pub positions: Tensor<2, Int>,
    /// What all positions are below.
    pub position_limit: usize,
    /// True where a token is hidden, `[batch, tokens]`.
    pub hidden: Tensor<2, Bool>,
    /// Where each token's embedding is: a row of the text's, or behind those a row of the visual tokens,
    /// `[batch · tokens]`.
    pub sources: Tensor<1, Int>,
    /// Rows of the last visible tokens, `[batch]`.
    pub last_visible: Tensor<1, Int>,
}

impl PartialEq for TokenBatch {
    fn eq(&self, other: &Self) -> bool {
        let on_host = |batch: &Self| (batch.ids.clone(), batch.attention_mask.clone(), batch.positions.clone());
        on_host(self) == on_host(other)
    }
}

impl TokenBatch {
    /// A batch of prompts whose positions count from 0.
    ///
    /// # Panics
    /// When there is no prompt, the prompts differ in length, or the mask has another shape than the ids.
    pub fn new(ids: Vec<Vec<u32>>, attention_mask: Vec<Vec<bool>>) -> Self {
        let length = ids.first().expect("a batch has at least one prompt").len();
        assert_eq!(ids.len(), attention_mask.len(), "one mask for each prompt");
        assert!(
            ids.iter().all(|row| row.len() == length) && attention_mask.iter().all(|row| row.len() == length),
            "prompts and masks of a batch have one length"
        );
        let positions = vec![(0..length).collect(); ids.len()];
        Self { ids, attention_mask, positions, placed: None }
    }

    /// The batch without its hidden tokens, padded on the right with `padding_id` to the longest that remains.
    ///
    /// What is computed for the remaining tokens is the same, because no token could attend to those left out.
    pub fn without_hidden(&self, padding_id: u32) -> Self {
        let kept = |row: &usize| self.attention_mask[*row].iter().filter(|visible| **visible).count();
        let rows = 0..self.ids.len();
        let length = rows.clone().map(|row| kept(&row)).max().unwrap_or(0);
        let mut batch = Self { ids: vec![], attention_mask: vec![], positions: vec![], placed: None };
        for row in rows {
            let visible: Vec<usize> = self.attention_mask[row]
                .iter()
                .enumerate()
                .filter(|(_, visible)| **visible)
                .map(|(at, _)| at)
                .collect();
            let mut ids: Vec<u32> = visible.iter().map(|&at| self.ids[row][at]).collect();
            let mut positions: Vec<usize> = visible.iter().map(|&at| self.positions[row][at]).collect();
            let mut mask = vec![true; visible.len()];
            ids.resize(length, padding_id);
            positions.resize(length, positions.last().copied().unwrap_or(0));
            mask.resize(length, false);
            batch.ids.push(ids);
            batch.positions.push(positions);
            batch.attention_mask.push(mask);
        }
        batch
    }

    /// The batch padded on the right with hidden tokens, until its length is a multiple of `multiple`.
    ///
    /// No token attends to them. Whoever sees hidden tokens too sees them as well.
    pub fn padded_to_multiple(mut self, multiple: usize, padding_id: u32) -> Self {
        let length = self.dims()[1].next_multiple_of(multiple);
        for row in &mut self.ids {
            row.resize(length, padding_id);
        }
        for row in &mut self.positions {
            row.resize(length, row.last().copied().unwrap_or(0));
        }
        for row in &mut self.attention_mask {
            row.resize(length, false);
        }
        Self { placed: None, ..self }
    }

    /// Where the embedding of each token is, `[batch · tokens]`: its own row, or for an image token the next one of those
    /// behind them.
    ///
    /// # Errors
    /// When there are not `visual` image tokens.
    pub(crate) fn sources(&self, image_token: u32, visual: usize) -> Result<Vec<i32>> {
        let own = self.dims().iter().product::<usize>();
        let mut next = 0;
        let rows = self.ids.iter().flatten().enumerate().map(|(row, &id)| {
            if id == image_token {
                next += 1;
                (own + next - 1) as i32
            } else {
                row as i32
            }
        });
        let rows = rows.collect();
        if next == visual { Ok(rows) } else { Err(Error::ImageTokens { expected: visual, got: next }) }
    }

    /// What [`Self::placed`] is given on a device: numbers of all tokens, and of each sample.
    ///
    /// # Errors
    /// When the prompts have not `visual` image tokens.
    pub fn numbers(&self, image_token: u32, visual: usize) -> Result<Vec<i32>> {
        let mut numbers: Vec<i32> = self.ids.iter().flatten().map(|&id| id as i32).collect();
        numbers.extend(self.positions.iter().flatten().map(|&position| position as i32));
        numbers.extend(self.attention_mask.iter().flatten().map(|&visible| i32::from(!visible)));
        numbers.extend(self.sources(image_token, visual)?);
        numbers.extend(self.last_rows());
        Ok(numbers)
    }

    /// The batch with tensors in place of what is on the host, from [`Self::numbers`] of a batch of its shape.
    pub fn placed(self, numbers: Tensor<1, Int>, position_limit: usize) -> Self {
        let shape @ [batch, length] = self.dims();
        let tokens = batch * length;
        let part = |index: usize| numbers.clone().narrow(0, index * tokens, tokens);
        let placed = PlacedTokens {
            ids: part(0).reshape(shape),
            positions: part(1).reshape(shape),
            position_limit,
            hidden: part(2).not_equal_scalar(0).reshape(shape),
            sources: part(3),
            last_visible: numbers.clone().narrow(0, 4 * tokens, batch),
        };
        Self { placed: Some(placed), ..self }
    }

    /// The tensors in place of what is on the host, if there are any.
    pub fn tensors(&self) -> Option<&PlacedTokens> {
        self.placed.as_ref()
    }

    /// The first `length` tokens of one prompt.
    ///
    /// # Panics
    /// When there is no such prompt, or it is shorter.
    pub fn sample(&self, row: usize, length: usize) -> Self {
        Self {
            ids: vec![self.ids[row][..length].to_vec()],
            attention_mask: vec![self.attention_mask[row][..length].to_vec()],
            positions: vec![self.positions[row][..length].to_vec()],
            placed: None,
        }
    }

    /// Number of prompts and their length.
    pub fn dims(&self) -> [usize; 2] {
        [self.ids.len(), self.ids.first().map_or(0, Vec::len)]
    }

    /// Token ids, `[batch][tokens]`.
    pub fn ids(&self) -> &[Vec<u32>] {
        &self.ids
    }

    /// Positions in the full prompt, `[batch][tokens]`.
    pub fn positions(&self) -> &[Vec<usize>] {
        &self.positions
    }

    /// Whether each token may be attended to, sample by sample.
    pub fn attention_mask(&self) -> impl Iterator<Item = &Vec<bool>> {
        self.attention_mask.iter()
    }

    /// Whether no token is hidden.
    pub fn is_all_visible(&self) -> bool {
        self.attention_mask.iter().flatten().all(|visible| *visible)
    }

    /// Token ids as a tensor, `[batch, tokens]`.
    pub fn ids_tensor(&self, device: &Device) -> Tensor<2, Int> {
        if let Some(placed) = &self.placed {
            return placed.ids.clone();
        }
        let ids: Vec<i32> = self.ids.iter().flatten().map(|&id| id as i32).collect();
        Tensor::from_data(TensorData::new(ids, self.dims()), device)
    }

    /// Which tokens are hidden, `[batch, tokens]`.
    pub fn hidden(&self, device: &Device) -> Tensor<2, Bool> {
        if let Some(placed) = &self.placed {
            return placed.hidden.clone();
        }
        let hidden: Vec<bool> = self.attention_mask.iter().flatten().map(|visible| !visible).collect();
        Tensor::from_data(TensorData::new(hidden, self.dims()), device)
    }

    /// The last token of each sample that is visible; 0 when none is.
    pub fn last_visible(&self) -> Vec<usize> {
        self.attention_mask.iter().map(|row| row.iter().rposition(|visible| *visible).unwrap_or(0)).collect()
    }

    /// [`Self::last_visible`] as rows of all samples' tokens together, `[batch]`.
    pub(crate) fn last_rows_tensor(&self, device: &Device) -> Tensor<1, Int> {
        match &self.placed {
            Some(placed) => placed.last_visible.clone(),
            None => Tensor::from_data(TensorData::new(self.last_rows(), [self.ids.len()]), device),
        }
    }

    fn last_rows(&self) -> Vec<i32> {
        let length = self.dims()[1];
        self.last_visible().into_iter().enumerate().map(|(row, at)| (row * length + at) as i32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placed_batch_is_read_from_its_tensors() {
        let batch = |ids: &[u32]| {
            let batch =
                TokenBatch::new(vec![ids.to_vec(), vec![7, 5, 0]], vec![vec![true; 3], vec![true, true, false]]);
            batch.padded_to_multiple(4, 9)
        };
        let padded = batch(&[1, 7, 3]);
        assert_eq!(
            (padded.dims(), &padded.ids()[0], &padded.positions()[1]),
            ([2, 4], &vec![1, 7, 3, 9], &vec![0, 1, 2, 2])
        );
        assert!(padded.numbers(7, 3).is_err());
        for device in evo1_core::device::test_devices() {
            let numbers = padded.numbers(7, 2).expect("two image tokens");
            let numbers = Tensor::from_data(numbers.as_slice(), &device);
            let placed = batch(&[7, 0, 0]).placed(numbers, 16);
            fn values<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i32> {
                tensor.into_data().iter().collect()
            }
            assert_eq!(values(placed.ids_tensor(&device)), [1, 7, 3, 9, 7, 5, 0, 9]);
            assert_eq!(values(placed.hidden(&device).int()), [0, 0, 0, 1, 0, 0, 1, 1]);
            assert_eq!(values(placed.last_rows_tensor(&device)), [2, 5]);
            let PlacedTokens { positions, sources, .. } = placed.tensors().expect("placed").clone();
            assert_eq!(values(positions), [0, 1, 2, 2, 0, 1, 2, 2]);
            assert_eq!(values(sources), [0, 8, 2, 3, 9, 5, 6, 7]);
            assert_eq!(values(padded.ids_tensor(&device)), values(placed.ids_tensor(&device)));
        }
    }

    #[test]
    fn tokens_left_out_do_not_move_the_others() {
        let batch = TokenBatch::new(
            vec![vec![1, 2, 3, 4], vec![5, 6, 0, 0]],
            vec![vec![true, false, true, true], vec![true, true, false, false]],
        );
        let compact = batch.without_hidden(9);
        assert_eq!(compact.ids(), [vec![1, 3, 4], vec![5, 6, 9]]);
        assert_eq!(compact.positions()[0], [0, 2, 3]);
        assert_eq!(compact.positions()[1][..2], [0, 1]);
        assert_eq!(compact.last_visible(), [2, 1]);
        assert_eq!(compact.without_hidden(9), compact);
    }
}
