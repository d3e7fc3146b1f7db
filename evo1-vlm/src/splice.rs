//! The splice: visual tokens take the places of image tokens.

use burn::tensor::{Tensor, TensorData};

use crate::{Result, TokenBatch};

/// Replaces the embeddings of image tokens, in order, by the visual tokens.
///
/// # Shapes
/// - embeds: `[batch, tokens, hidden]`
/// - visual: `[visual_tokens, hidden]`, those of the first sample first; `None` when there are none
/// - output: `[batch, tokens, hidden]`
///
/// # Errors
/// When the number of image tokens in the prompts is not the number of visual tokens.
pub fn splice(
    embeds: Tensor<3>,
    visual: Option<Tensor<2>>,
    tokens: &TokenBatch,
    image_token: u32,
) -> Result<Tensor<3>> {
    let [batch, length, hidden] = embeds.dims();
    let expected = visual.as_ref().map_or(0, |visual| visual.dims()[0]);
    // Rows of the text's embeddings, followed by those of the images: one index says where each token comes from.
    let rows = match tokens.tensors() {
        Some(placed) => placed.sources.clone(),
        None => {
            let rows = tokens.sources(image_token, expected)?;
            Tensor::from_data(TensorData::new(rows, [batch * length]), &embeds.device())
        }
    };
    let Some(visual) = visual else { return Ok(embeds) };
    let table = Tensor::cat(vec![embeds.reshape([batch * length, hidden]), visual], 0);
    Ok(table.select(0, rows).reshape([batch, length, hidden]))
}

#[cfg(test)]
mod tests {
    use evo1_core::device::test_devices;

    use super::*;
    use crate::Error;

    const IMAGE: u32 = 7;

    fn batch() -> TokenBatch {
        TokenBatch::new(vec![vec![1, IMAGE, 2], vec![IMAGE, IMAGE, 3]], vec![vec![true; 3]; 2])
    }

    #[test]
    fn visual_tokens_take_the_places_in_order() {
        for device in test_devices() {
            let embeds = Tensor::<3>::zeros([2, 3, 1], &device);
            let visual = Tensor::<2>::from_floats([[1.0], [2.0], [3.0]], &device);
            let spliced = splice(embeds, Some(visual), &batch(), IMAGE).expect("three of three");
            assert_eq!(spliced.into_data().iter::<f32>().collect::<Vec<_>>(), [0.0, 1.0, 0.0, 2.0, 3.0, 0.0]);
        }
    }

    #[test]
    fn another_number_of_visual_tokens_is_an_error() {
        let device = test_devices().remove(0);
        for count in [0, 2, 4] {
            let visual = (count > 0).then(|| Tensor::zeros([count, 1], &device));
            let result = splice(Tensor::zeros([2, 3, 1], &device), visual, &batch(), IMAGE);
            assert!(matches!(result, Err(Error::ImageTokens { got: 3, expected }) if expected == count));
        }
    }
}
