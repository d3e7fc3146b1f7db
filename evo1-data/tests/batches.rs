//! What a trainer is given: order, masks, normalisation, noise, and continuing where one stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::Arc,
};

use burn::{
    data::{
        dataloader::{DataLoader, split::split_dataloader},
        dataset,
    },
    tensor::{Device, Tensor},
};
use evo1::Policy;
use evo1_core::{
    View,
    config::{Cameras, FrameCrop, PolicyConfig, Profile},
    rng,
};
use evo1_data::{
    Augmentation, Batch, Changes, DataConfig, DatasetConfig, Exclusion, FrameWeight, Loader, LoaderOptions, Mixture,
    Position, StateNoise, Suites,
};
use indexmap::IndexMap;

mod common;

use common::fixture;

fn policy(profile: Profile, device: &Device) -> Policy {
    Policy::random(PolicyConfig::tiny().with_profile(profile), 0, device).expect("tiny is valid")
}

fn device() -> Device {
    evo1::device::test_devices().remove(0)
}

fn loader_for(profile: Profile, config: &DataConfig, workers: usize, batch_size: usize) -> Loader {
    let mut policy = policy(profile, &device());
    let mixture = Mixture::open(config, policy.config.action.horizon).expect("a mixture");
    policy.statistics = Some(mixture.statistics(|_, _| ()).expect("statistics"));
    let options = LoaderOptions { workers, ..LoaderOptions::new(NonZeroUsize::new(batch_size).expect("not 0")) };
    Loader::new(Arc::new(mixture), policy.preparer(), options).expect("a loader")
}

fn loader(config: &DataConfig, workers: usize) -> Loader {
    loader_for(Profile::LeRobot, config, workers, 6)
}

fn fixture_set() -> DatasetConfig {
    DatasetConfig::new(fixture("v21"))
}

fn data() -> DataConfig {
    DataConfig::single(fixture_set())
}

fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().iter().collect()
}

fn take(loader: &Loader, from: Position, count: usize) -> Vec<Batch> {
    loader.batches(from).take(count).map(|batch| batch.expect("a batch")).collect()
}

fn assert_same(a: &Batch, b: &Batch) {
    assert_eq!((&a.samples, a.position), (&b.samples, b.position));
    assert_eq!(values(&a.actions), values(&b.actions));
    assert_eq!(values(&a.mask), values(&b.mask));
    assert_eq!(values(&a.inputs.state), values(&b.inputs.state));
    assert_eq!(a.inputs.pixels.as_ref().map(values), b.inputs.pixels.as_ref().map(values));
    assert_eq!(a.inputs.tokens, b.inputs.tokens);
}

#[test]
fn threads_change_nothing() {
    let config = DataConfig { state_noise: StateNoise::All(0.1), ..data() };
    let alone = take(&loader(&config, 0), Position::start(1), 7);
    let threaded = take(&loader(&config, 3), Position::start(1), 7);
    alone.iter().zip(&threaded).for_each(|(a, b)| assert_same(a, b));
}

#[test]
fn as_many_batches_are_made_as_are_wanted() {
    for workers in [0, 3] {
        let loader = loader(&data(), workers);
        let some: Vec<Batch> =
            loader.batches_until(Position::start(1), 15).map(|batch| batch.expect("a batch")).collect();
        assert_eq!(some.iter().map(|batch| batch.samples.len()).collect::<Vec<_>>(), [6, 6, 3]);
        some.iter().zip(take(&loader, Position::start(1), 2)).for_each(|(some, endless)| assert_same(some, &endless));
    }
}

#[test]
fn a_run_continues_exactly_from_a_saved_position() {
    let config = DataConfig { state_noise: StateNoise::All(0.1), ..data() };
    let loader = loader(&config, 2);
    let whole = take(&loader, Position::start(9), 9);
    for stop in [1, 4, 6] {
        let saved = serde_json::to_string(&whole[stop - 1].position).expect("json");
        let position = serde_json::from_str(&saved).expect("a position");
        let rest = take(&loader, position, 9 - stop);
        whole[stop..].iter().zip(&rest).for_each(|(a, b)| assert_same(a, b));
    }
}

#[test]
fn an_epoch_holds_every_frame_once() {
    let loader = loader(&data(), 1);
    assert_eq!(loader.mixture().len(), 24);
    let batches = take(&loader, Position::start(2), 8);
    let epoch = |batches: &[Batch]| batches.iter().flat_map(|batch| batch.samples.clone()).collect::<Vec<_>>();
    let (first, second) = (epoch(&batches[..4]), epoch(&batches[4..]));
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 24);
    assert_eq!(second.iter().collect::<BTreeSet<_>>().len(), 24);
    assert_ne!(first, second);
    assert_eq!(batches[3].position, Position { seed: 2, epoch: 1, index: 0 });
}

#[test]
fn past_the_end_the_last_action_is_repeated_and_masked_as_the_profile_does() {
    for (profile, mask_past_end, is_masked) in [
        (Profile::LeRobot, None, true),
        (Profile::Official, None, false),
        (Profile::Official, Some(true), true),
        (Profile::LeRobot, Some(false), false),
    ] {
        let config = DataConfig { mask_past_end, ..data() };
        let batch = take(&loader_for(profile, &config, 0, 24), Position::start(0), 1).remove(0);
        let [_, horizon, width] = batch.actions.dims();
        let (actions, mask) = (values(&batch.actions), values(&batch.mask));
        let lengths = [7, 12, 5];
        for (index, sample) in batch.samples.iter().enumerate() {
            for step in 0..horizon {
                let is_past = sample.frame + step >= lengths[sample.episode];
                assert_eq!(batch.action_is_pad[index][step], is_past);
                let at = (index * horizon + step) * width;
                let expected: Vec<f32> =
                    (0..width).map(|column| f32::from(u8::from(column < 7 && !(is_past && is_masked)))).collect();
                assert_eq!(mask[at..at + width], expected, "{profile}, {sample}, step {step}");
                if is_past {
                    assert_eq!(actions[at..at + width], actions[at - width..at], "the last action is repeated");
                }
                assert!(actions[at + 7..at + width].iter().all(|&value| value == 0.0), "padded with zeros");
            }
        }
        assert!(actions.iter().all(|value| (-1.0..=1.0).contains(value)), "normalised with their own statistics");
    }
}

#[test]
fn a_batch_is_what_the_policy_prepares() {
    let device = device();
    let mut policy = policy(Profile::LeRobot, &device);
    let mixture = Arc::new(Mixture::open(&data(), policy.config.action.horizon).expect("a mixture"));
    policy.statistics = Some(mixture.statistics(|_, _| ()).expect("statistics"));
    let options = LoaderOptions { workers: 0, ..LoaderOptions::new(NonZeroUsize::new(3).expect("not 0")) };
    let loader = Loader::new(mixture.clone(), policy.preparer(), options).expect("a loader");
    let batch = take(&loader, Position::start(5), 1).remove(0);
    let observations: Vec<_> = (0..3)
        .map(|index| mixture.draw(Position { seed: 5, epoch: 0, index }).expect("a sample").observation)
        .collect();
    let inputs = policy.prepare(&observations, true).expect("inputs");
    assert_eq!(inputs.pixels.as_ref().map(values), batch.inputs.pixels.as_ref().map(values));
    assert_eq!(values(&inputs.state), values(&batch.inputs.state));
    assert_eq!(inputs.tokens, batch.inputs.tokens);
    assert_eq!(values(&inputs.action_mask), values(&batch.inputs.action_mask));
}

#[test]
fn augmentation_changes_some_frames_the_same_way_at_every_visit() {
    let config = DataConfig { augmentation: Augmentation::Recipe, ..data() };
    let (clean, changed) = (loader(&data(), 0), loader(&config, 2));
    let [clean, first] = [&clean, &changed].map(|loader| take(loader, Position::start(4), 8));
    first.iter().zip(&take(&changed, Position::start(4), 8)).for_each(|(a, b)| assert_same(a, b));
    // A run that continues draws the same changes, and the next epoch others.
    let rest = take(&changed, first[2].position, 5);
    first[3..].iter().zip(&rest).for_each(|(a, b)| assert_same(a, b));

    let tiles = |batch: &Batch| {
        let pixels = batch.inputs.pixels.as_ref().expect("frames");
        let size: usize = pixels.dims()[1..].iter().product();
        values(pixels).chunks(size).map(<[f32]>::to_vec).collect::<Vec<_>>()
    };
    let (mut same, mut total) = (0, 0);
    for (clean, changed) in clean.iter().zip(&first) {
        assert_eq!((&clean.samples, values(&clean.actions)), (&changed.samples, values(&changed.actions)));
        let (clean, changed) = (tiles(clean), tiles(changed));
        total += clean.len();
        same += clean.iter().zip(&changed).filter(|(a, b)| a == b).count();
    }
    // Each of 2 views of 48 samples is changed with probability one half.
    assert_eq!(total, 96);
    assert!((24..=72).contains(&same), "{same} of {total} are as they were");
    let by_sample = |batches: &[Batch]| -> BTreeMap<_, _> {
        let tiles = batches.iter().flat_map(tiles).collect::<Vec<_>>();
        let samples = batches.iter().flat_map(|batch| batch.samples.clone());
        samples.zip(tiles.chunks(2).map(<[_]>::to_vec)).collect()
    };
    assert_ne!(by_sample(&first[..4]), by_sample(&first[4..]), "each epoch draws anew");
}

#[test]
fn frames_are_changed_as_the_policy_sees_them() {
    let (device, crop) = (device(), FrameCrop { left: 0.25, top: 0.25, width: 0.5, height: 0.5 });
    for max_tiles in [1, 4] {
        let mut config = PolicyConfig::tiny().with_profile(Profile::LeRobot);
        (config.crop, config.tiling.max_tiles, config.max_text_length) = (Some(crop), max_tiles, 4096);
        let mut policy = Policy::random(config, 0, &device).expect("a policy");
        let data = DataConfig { augmentation: Augmentation::Recipe, ..data() };
        let mixture = Arc::new(Mixture::open(&data, policy.config.action.horizon).expect("a mixture"));
        policy.statistics = Some(mixture.statistics(|_, _| ()).expect("statistics"));
        let options = LoaderOptions { workers: 0, ..LoaderOptions::new(NonZeroUsize::new(6).expect("not 0")) };
        let loader = Loader::new(mixture.clone(), policy.preparer(), options).expect("a loader");
        let batch = take(&loader, Position::start(5), 1).remove(0);
        let (size, mut changed) = (policy.config.vlm.image_size, 0);
        let observation = |index| {
            let mut observation = mixture.draw(Position { seed: 5, epoch: 0, index }).expect("a sample").observation;
            let mut rng = rng::stream(5, &format!("augmentation 0 {index}"));
            for view in &mut observation.views {
                let View::Present(frame) = view else { continue };
                *frame = crop.of(frame);
                let [width, height] = [frame.width(), frame.height()];
                if let Some(changes) = Changes::draw(width, height, &mut rng) {
                    *frame = changes.apply(frame, if max_tiles == 1 { [size; 2] } else { [width, height] });
                    changed += 1;
                }
            }
            observation
        };
        let observations: Vec<_> = (0..6).map(observation).collect();
        assert!(changed > 0);
        let mut uncut = policy.preparer();
        uncut.config.crop = None;
        let inputs = uncut.prepare(&observations, true).expect("inputs");
        assert_eq!(inputs.pixels.as_ref().map(values), batch.inputs.pixels.as_ref().map(values), "{max_tiles} tiles");
        assert_eq!(inputs.tokens, batch.inputs.tokens);
    }
}

#[test]
fn burns_loader_gives_the_same_batches_epoch_by_epoch() {
    let loader = loader_for(Profile::LeRobot, &data(), 2, 7);
    let epochs = loader.epochs(3);
    assert_eq!(epochs.num_items(), 24);
    for epoch in 0..2 {
        let mut batches = epochs.iter();
        let mut samples = Vec::new();
        for taken in [7, 14, 21, 24] {
            let batch = batches.next().expect("four batches").expect("a batch");
            assert_eq!(batch.actions.dims()[0], batch.samples.len());
            samples.extend(batch.samples);
            assert_eq!((samples.len(), batches.progress().items_processed), (taken, taken));
        }
        assert!(batches.next().is_none() && batches.progress().is_completed());
        let drawn = (0..24).map(|index| loader.mixture().drawn_id(Position { seed: 3, epoch, index }));
        assert!(samples.into_iter().eq(drawn));
    }
}

#[test]
fn burns_loader_is_split_over_devices_without_losing_a_sample() {
    let epochs: Arc<dyn DataLoader<Batch>> = Arc::new(loader_for(Profile::LeRobot, &data(), 0, 4).epochs(3));
    let parts = split_dataloader(epochs.clone(), &vec![device(); 3]);
    assert_eq!(parts.iter().map(|part| part.num_items()).collect::<Vec<_>>(), [8, 8, 8]);
    let ids = |loader: &Arc<dyn DataLoader<Batch>>| {
        loader.iter().flat_map(|batch| batch.expect("a batch").samples).collect::<Vec<_>>()
    };
    assert_eq!(parts.iter().flat_map(ids).collect::<Vec<_>>(), ids(&epochs));
    assert_eq!(epochs.slice(20, 99).slice(1, 3).num_items(), 2);
}

#[test]
fn a_mixture_is_burns_dataset_in_the_order_of_its_files() {
    let mixture = Mixture::open(&DataConfig::single(DatasetConfig { frame_stride: 5, ..fixture_set() }), 4);
    let mixture = mixture.expect("a mixture");
    let samples: Vec<_> = dataset::Dataset::iter(&mixture).map(|sample| sample.expect("a sample").id).collect();
    let places: Vec<_> = samples.iter().map(|sample| (sample.episode, sample.frame)).collect();
    assert_eq!(places, [(0, 0), (0, 5), (1, 0), (1, 5), (1, 10), (2, 0)]);
}

#[test]
fn noise_and_clamp_act_on_the_robots_dimensions_of_the_normalised_state() {
    let states = |config: &DataConfig| values(&take(&loader(config, 0), Position::start(3), 1)[0].inputs.state);
    let clean = states(&data());
    let noisy = states(&DataConfig { state_noise: StateNoise::Each(vec![0.0, 0.5, 0.5]), ..data() });
    for (index, (clean, noisy)) in clean.iter().zip(&noisy).enumerate() {
        assert_eq!(clean != noisy, [1, 2].contains(&(index % 24)), "dimension {}", index % 24);
    }
    let clamped = states(&DataConfig { state_noise: StateNoise::All(3.0), state_clamp: Some(1.5), ..data() });
    assert!(clamped.iter().all(|value| value.abs() <= 1.5));
    assert!(clamped.iter().any(|value| value.abs() == 1.5));
    assert!(clamped.chunks_exact(24).all(|state| state[8..].iter().all(|&value| value == 0.0)));
}

/// How often each frame comes in some epochs, by episode and frame.
fn counts(dataset: DatasetConfig, epochs: u64) -> BTreeMap<(usize, usize), usize> {
    counts_of(&DataConfig::single(dataset), epochs)
        .into_iter()
        .map(|((_, episode, frame), n)| ((episode, frame), n))
        .collect()
}

fn counts_of(config: &DataConfig, epochs: u64) -> BTreeMap<(String, usize, usize), usize> {
    let mixture = Mixture::open(config, 4).expect("a mixture");
    let mut counts = BTreeMap::new();
    for epoch in 0..epochs {
        for index in 0..mixture.len() {
            let sample = mixture.drawn_id(Position { seed: 1, epoch, index });
            *counts.entry((sample.dataset.to_string(), sample.episode, sample.frame)).or_default() += 1;
        }
    }
    counts
}

#[test]
fn frames_are_left_out_by_column_by_list_and_by_stride() {
    let all = DatasetConfig::new(fixture("v21"));
    let frames = |dataset| counts(dataset, 3).into_keys().collect::<BTreeSet<_>>();
    let exclude_frames =
        Exclusion { column: Some("is_bad".into()), episodes: BTreeMap::from([(1, vec![[0, 2], [9, 12]])]) };
    let kept = frames(DatasetConfig { exclude_frames, ..all.clone() });
    let expected: BTreeSet<_> = [(0, 7), (1, 12), (2, 5)]
        .into_iter()
        .flat_map(|(episode, length)| (0..length).map(move |frame| (episode, frame)))
        .filter(|&(episode, frame)| frame % 5 != 3 && (episode != 1 || (2..9).contains(&frame)))
        .collect();
    assert_eq!(kept, expected);
    let strided = frames(DatasetConfig { frame_stride: 5, ..all.clone() });
    assert_eq!(strided, BTreeSet::from([(0, 0), (0, 5), (1, 0), (1, 5), (1, 10), (2, 0)]));
    let chosen = frames(DatasetConfig { episodes: Some("1:2".into()), ..all });
    assert!(chosen.len() == 12 && chosen.iter().all(|&(episode, _)| episode == 1));
}

#[test]
fn early_frames_and_weighted_columns_come_as_often_as_they_weigh() {
    let all = DatasetConfig::new(fixture("v21"));
    let early = DatasetConfig { frame_weights: vec![FrameWeight { from: 0, to: Some(2), weight: 5.0 }], ..all.clone() };
    // 24 frames, of which 6 weigh 5: 48 in all.
    let drawn = counts(early, 20);
    for ((_, frame), count) in drawn {
        let expected = if frame < 2 { 50.0 } else { 10.0 };
        assert!((count as f64 - expected).abs() < 10.0, "frame {frame}: {count} times");
    }
    let weighted = counts(DatasetConfig { weight_column: Some("weight".into()), ..all }, 200);
    assert_eq!(weighted.values().sum::<usize>(), 24 * 200);
    let (least, most) = (weighted.values().min().expect("some"), weighted.values().max().expect("some"));
    assert!(most > &(3 * least), "weights differ: {least} to {most}");
}

#[test]
fn tasks_and_datasets_have_their_shares() {
    let task_weights = BTreeMap::from([("Push the red block.".to_owned(), 3.0), ("Open the drawer.".to_owned(), 1.0)]);
    let drawn = counts(DatasetConfig { task_weights: Some(task_weights), ..DatasetConfig::new(fixture("v21")) }, 50);
    // Episode 0 and the first frames of episode 2 are pushed.
    let pushed: usize =
        drawn.iter().filter(|((episode, frame), _)| *episode == 0 || *episode == 2 && *frame < 3).map(|(_, n)| n).sum();
    assert!((pushed as f64 / (24.0 * 50.0) - 0.75).abs() < 0.01, "{pushed}");

    let dataset = |name: &str, weight| DatasetConfig { weight, ..DatasetConfig::new(fixture(name)) };
    let of = |weights: [Option<f64>; 2]| {
        let sets = [("a", dataset("v21", weights[0])), ("b", dataset("v30", weights[1]))];
        let sets = sets.map(|(name, set)| (name.to_owned(), set)).into();
        DataConfig { data_groups: [("arm".to_owned(), sets)].into(), ..data() }
    };
    let drawn = counts_of(&of([Some(1.0), Some(4.0)]), 20);
    let first: usize = drawn.iter().filter(|((name, ..), _)| name == "arm/a").map(|(_, count)| count).sum();
    assert!((first as f64 / (48.0 * 20.0) - 0.2).abs() < 0.01, "{first}");
    let Err(error) = Mixture::open(&of([Some(1.0), None]), 4) else { panic!("one has no weight") };
    assert!(error.to_string().contains("arm/b.weight"), "{error}");
}

#[test]
fn instructions_without_a_share_are_refused() {
    let task_weights = Some(BTreeMap::from([("Push the red block.".to_owned(), 3.0)]));
    let config = DataConfig::single(DatasetConfig { task_weights, ..DatasetConfig::new(fixture("v21")) });
    let Err(error) = Mixture::open(&config, 4) else { panic!("one task is missing") };
    assert!(error.to_string().contains("Open the drawer."), "{error}");
}

#[test]
fn embodiments_follow_the_arm_keys() {
    let group = |name: &str| (name.to_owned(), [("x".to_owned(), DatasetConfig::new(fixture("images")))].into());
    let config = DataConfig { data_groups: [group("b"), group("a")].into(), ..data() };
    let mixture = Mixture::open(&config, 4).expect("a mixture");
    let ids: Vec<_> = mixture.sources().iter().map(|source| (source.group.as_str(), source.embodiment)).collect();
    assert_eq!(ids, [("a", 0), ("b", 1)]);
}

/// The names of a dataset's views for a policy with these cameras.
fn views(cameras: &Cameras, config: &DataConfig) -> evo1_data::Result<Vec<Option<String>>> {
    Ok(Mixture::open_with(config, 4, cameras, &Suites::default())?.sources()[0].views.clone())
}

#[test]
fn cameras_are_views_in_the_order_of_the_policy_else_of_the_dataset() {
    let [front, wrist] = ["observation.images.front", "observation.images.wrist"].map(String::from);
    let of = |cameras: &Cameras| views(cameras, &data()).expect("opens");
    assert_eq!(of(&Cameras::default()), [Some(front.clone()), Some(wrist.clone())]);
    assert_eq!(of(&Cameras::named([&wrist, &front].map(String::clone))), [Some(wrist.clone()), Some(front.clone())]);
    let third =
        Cameras { optional: 1, ..Cameras::named(["observation.images.top".into(), wrist.clone(), front.clone()]) };
    // The policy's first camera may be lacking, but another one that nobody knows may be it.
    assert_eq!(of(&third), [None, Some(wrist.clone()), Some(front.clone())]);

    let message = views(&Cameras::named(["top", "side"]), &data()).expect_err("other cameras").to_string();
    assert!(message.contains("the policy's cameras are top, side, those given are"), "{message}");
    assert!(message.contains(&front) && message.contains("view_map"), "{message}");
    let view_map = IndexMap::from([("image_1".into(), wrist.clone()), ("image_2".into(), front.clone())]);
    let mapped = DataConfig::single(DatasetConfig { view_map, ..fixture_set() });
    assert_eq!(views(&Cameras::named(["top", "side"]), &mapped).expect("told"), [Some(wrist), Some(front)]);
}

/// A dataset whose `info.json` lists its cameras in another order than that of the alphabet.
#[test]
fn the_order_of_a_dataset_is_that_of_its_file() {
    let root = common::copied("v21");
    let path = root.path().join("meta/info.json");
    let text = std::fs::read_to_string(&path).expect("info.json");
    let swapped = text.replace("images.front", "images.xx").replace("images.wrist", "images.aa");
    let swapped = swapped.replace("images.aa", "images.front").replace("images.xx", "images.wrist");
    std::fs::write(&path, swapped).expect("written");
    let found = views(&Cameras::default(), &DataConfig::single(DatasetConfig::new(root.path()))).expect("opens");
    assert_eq!(found, ["observation.images.wrist", "observation.images.front"].map(|name| Some(name.to_owned())));
}

#[test]
fn more_cameras_than_the_policy_has_views_are_named() {
    let mut policy = policy(Profile::LeRobot, &device());
    policy.config.max_views = 1;
    let mixture = Arc::new(Mixture::open(&data(), policy.config.action.horizon).expect("a mixture"));
    let options = LoaderOptions::new(NonZeroUsize::MIN);
    let Err(error) = Loader::new(mixture, policy.preparer(), options) else { panic!("two cameras, one view") };
    let message = error.to_string();
    assert!(message.contains("2 cameras (observation.images.front, observation.images.wrist)"), "{message}");
    assert!(message.contains("at most 1 views") && message.contains("view_map"), "{message}");
}
