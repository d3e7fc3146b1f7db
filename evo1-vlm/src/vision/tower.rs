//! The whole vision tower.

use burn::{
    module::Module,
    tensor::{DType, Device, Tensor},
};
use evo1_core::{Trace, config::VlmConfig};

use super::{VisionEmbeddings, VisionLayer};
use crate::segments::Segment;

/// Embeddings and pre-norm layers. There is no norm after the last layer.
#[derive(Module, Debug)]
pub struct VisionTower {
    embeddings: VisionEmbeddings,
    layers: Vec<VisionLayer>,
}

impl VisionTower {
    /// An uninitialised tower of the configuration's sizes.
    pub fn init(config: &VlmConfig, device: &Device) -> Self {
        let layer = || VisionLayer::init(&config.vision, device);
        Self {
            embeddings: VisionEmbeddings::init(config, device),
            layers: std::iter::repeat_with(layer).take(config.vision.num_layers).collect(),
        }
    }

    /// The number type of the weights.
    pub fn dtype(&self) -> DType {
        self.embeddings.dtype()
    }

    /// Encodes normalised tiles; the class token is dropped at the end.
    ///
    /// # Shapes
    /// - pixels: `[tiles, 3, size, size]`
    /// - output: `[tiles, patches, hidden]`
    pub fn forward(&self, pixels: Tensor<4>, trace: &mut Trace) -> Tensor<3> {
        let mut x = self.embeddings.forward(pixels);
        trace.record("embeddings", &x);
        for (index, layer) in self.layers.iter().enumerate() {
            x = trace.scope(format_args!("layer.{index}"), |trace| layer.forward(x, trace));
            trace.record(format_args!("layer.{index}"), &x);
        }
        without_class_token(x)
    }

    /// [`Self::forward`] layer by layer: the first segment embeds the pixels, the last one drops the class token.
    pub(crate) fn segments(&self, pixels: Tensor<4>) -> Vec<Segment<'_>> {
        let embeddings = Segment::vision(move |_| self.embeddings.forward(pixels.clone()));
        let layers = self.layers.iter().map(|layer| Segment::vision(|x| layer.forward(x, &mut Trace::off())));
        [embeddings].into_iter().chain(layers).chain([Segment::vision(without_class_token)]).collect()
    }
}

fn without_class_token(x: Tensor<3>) -> Tensor<3> {
    let tokens = x.dims()[1];
    x.narrow(1, 1, tokens - 1)
}
