//! A batch of token ids, their positions and which of them are hidden.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// Prompts of equal length, padded on the right.
///
/// A token is *hidden* when it is padding or belongs to a view that is not present: no token may attend to it. Positions
/// are those in the full prompt, so that hidden tokens can be left out ([`Self::without_hidden`]) without moving others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    ids: Vec<Vec<u32>>,
    attention_mask: Vec<Vec<bool>>,
    positions: Vec<Vec<usize>>,
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
        Self { ids, attention_mask, positions }
    }

    /// The batch without its hidden tokens, padded on the right with `padding_id` to the longest that remains.
    ///
    /// What is computed for the remaining tokens is the same, because no token could attend to those left out.
    pub fn without_hidden(&self, padding_id: u32) -> Self {
        let kept = |row: &usize| self.attention_mask[*row].iter().filter(|visible| **visible).count();
        let rows = 0..self.ids.len();
        let length = rows.clone().map(|row| kept(&row)).max().unwrap_or(0);
        let mut batch = Self { ids: vec![], attention_mask: vec![], positions: vec![] };
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

    /// The first `length` tokens of one prompt.
    ///
    /// # Panics
    /// When there is no such prompt, or it is shorter.
    pub fn sample(&self, row: usize, length: usize) -> Self {
        Self {
            ids: vec![self.ids[row][..length].to_vec()],
            attention_mask: vec![self.attention_mask[row][..length].to_vec()],
            positions: vec![self.positions[row][..length].to_vec()],
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
        let ids: Vec<i32> = self.ids.iter().flatten().map(|&id| id as i32).collect();
        Tensor::from_data(TensorData::new(ids, self.dims()), device)
    }

    /// Which tokens are hidden, `[batch, tokens]`.
    pub fn hidden(&self, device: &Device) -> Tensor<2, Bool> {
        let hidden: Vec<bool> = self.attention_mask.iter().flatten().map(|visible| !visible).collect();
        Tensor::from_data(TensorData::new(hidden, self.dims()), device)
    }

    /// The last token of each sample that is visible; 0 when none is.
    pub fn last_visible(&self) -> Vec<usize> {
        self.attention_mask.iter().map(|row| row.iter().rposition(|visible| *visible).unwrap_or(0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
