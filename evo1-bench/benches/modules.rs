//! The model's modules by themselves, at the published model's sizes, with weights from a seed.
#![allow(missing_docs)]

use std::{hint::black_box, time::Duration};

use burn::{
    module::Module,
    tensor::{DType, Device, Distribution, Tensor},
};
use criterion::{Criterion, criterion_group, criterion_main};
use evo1::{
    Context, Trace, VelocityModel,
    action::{ActionExpert, FlowTime, block::ActionBlock, embodiments, time::sinusoid},
    config::{MaskedRows, PolicyConfig},
    vlm::{
        TokenBatch,
        language::{AttentionMask, DecoderLayer, RotaryTable},
        projector::Projector,
        unshuffle::pixel_unshuffle,
        vision::{VisionEmbeddings, VisionLayer},
    },
    weights::initialize_part,
};

/// Tokens of a prompt with three views.
const TOKENS: usize = 800;

const SEED: u64 = 0;

fn weights<M: Module>(path: &str, module: M) -> M {
    initialize_part(path, module, SEED, |_| None, |_| DType::F32)
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &Device::default())
}

/// Times a module until the device has computed its output.
fn time<const D: usize>(criterion: &mut Criterion, name: &str, run: impl Fn() -> Tensor<D>) {
    let device = Device::default();
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            let out = black_box(run());
            device.sync().expect("a device that computes");
            out
        });
    });
}

fn vision(criterion: &mut Criterion) {
    let (config, device) = (PolicyConfig::evo1().vlm, Device::default());
    let vision = &config.vision;
    let patches = (vision.image_size / vision.patch_size).pow(2);
    let tokens = 1 + patches;

    let embeddings = weights("vlm.vision_tower.embeddings", VisionEmbeddings::init(&config, &device));
    let pixels = random([1, 3, vision.image_size, vision.image_size]);
    time(criterion, "vision embeddings (1 tile)", || embeddings.forward(pixels.clone()));

    let layer = weights("vlm.vision_tower.layers.0", VisionLayer::init(vision, &device));
    let x = random([1, tokens, vision.hidden_size]);
    time(criterion, &format!("vision encoder layer ({tokens} tokens)"), || layer.forward(x.clone(), &mut Trace::off()));

    let projector = weights("vlm.projector", Projector::init(&config, &device));
    let (x, factor) = (random([1, patches, vision.hidden_size]), config.unshuffle_factor());
    time(criterion, &format!("pixel unshuffle and MLP projector ({} tokens)", config.tokens_per_tile()), || {
        projector.forward(pixel_unshuffle(x.clone(), factor), &mut Trace::off())
    });
}

fn language(criterion: &mut Criterion) {
    let (config, device) = (PolicyConfig::evo1().vlm.language, Device::default());
    let layer = weights("vlm.language_model.layers.0", DecoderLayer::init(&config, &device));
    let tokens = TokenBatch::new(vec![vec![0; TOKENS]], vec![vec![true; TOKENS]]);
    let rope = RotaryTable::new(tokens.positions(), config.head_dim(), config.rope_theta, &device);
    let mask = AttentionMask::new(&tokens, MaskedRows::Attend, &device);
    let x = random([1, TOKENS, config.hidden_size]);
    time(criterion, &format!("decoder layer ({TOKENS} tokens)"), || {
        layer.forward(x.clone(), &rope, &mask, &mut Trace::off())
    });
}

fn action(criterion: &mut Criterion) {
    let (config, device) = (PolicyConfig::evo1().action, Device::default());
    let (horizon, embed) = (config.horizon, config.embed_dim);
    let context = random([1, TOKENS, embed]);

    let block = weights("action.blocks.0", ActionBlock::init(&config, &device));
    // The context, and the state's token after it.
    let keys_values = block.attention().keys_values(random([1, TOKENS + 1, embed]), None);
    let (x, block_time) = (random([1, horizon, embed]), sinusoid(&[0], embed, &device).unsqueeze::<3>());
    time(criterion, &format!("cross-attention DiT block ({horizon} actions, {TOKENS} context tokens)"), || {
        block.forward(x.clone(), block_time.clone(), |_| keys_values.clone(), &mut Trace::off())
    });

    let expert = weights("action", <ActionExpert>::init(&config, &device).expect("the published expert"));
    let state = random([1, config.max_state_dim]);
    let conditioning = || {
        let context = Context { tokens: context.clone(), layers: Vec::new(), hidden: None };
        expert.condition(context, state.clone(), &embodiments(&[0], &device), &mut Trace::off())
    };
    let (conditioning, actions) = (conditioning(), random([1, horizon, config.max_action_dim]));
    let step = expert.time(&[FlowTime::drawn(0.5, 1000.0)], &device);
    time(criterion, "action expert, velocity (1 Euler step)", || {
        expert.velocity(actions.clone(), &step, &conditioning, &mut Trace::off())
    });
}

criterion_group! {
    name = module_benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = vision, language, action
}
criterion_main!(module_benches);
