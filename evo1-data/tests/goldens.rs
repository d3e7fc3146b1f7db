//! Datasets read as PyAV and LeRobot read them, suites and statistics as NumPy computes them.

use std::num::NonZeroUsize;

use evo1_core::{View, normalize::RobotStatistics};
use evo1_data::{DataConfig, Dataset, DatasetConfig, Mixture, OpenOptions, StatisticsPer, VideoPool, VideoReader};

mod common;

use common::{HORIZON, Reference, difference, fixture};

/// Frames may differ from FFmpeg's by this many grey levels on average: its conversion to RGB rounds otherwise.
const LEVELS: f64 = 2.0;
const CAMERAS: [&str; 2] = ["observation.images.front", "observation.images.wrist"];

fn open(name: &str) -> Dataset {
    Dataset::open(&fixture(name), &OpenOptions::default()).expect("a dataset")
}

fn pool() -> VideoPool {
    VideoPool::new(NonZeroUsize::new(4).expect("not 0"))
}

fn mixture(config: DatasetConfig) -> Mixture {
    Mixture::open(&DataConfig::single(config), HORIZON).expect("a mixture")
}

#[test]
fn tables_and_frames_of_version_2_equal_pyarrow_and_pyav() {
    let (dataset, reference, videos) = (open("v21"), Reference::open(), pool());
    let mut worst = 0.0_f64;
    for episode in 0..3 {
        let table = dataset.table(episode).expect("table");
        for column in ["observation.state", "action", "timestamp"] {
            let (values, shape) = reference.values(&format!("v21.episode{episode}.{column}"));
            assert_eq!(table.rows(), shape[0]);
            let got: Vec<f64> =
                (0..table.rows()).flat_map(|row| table.floats(column, row).expect("row")).map(|&v| v.into()).collect();
            assert_eq!(got, values, "{column} of episode {episode}");
        }
        for camera in CAMERAS {
            let clip = dataset.clip(episode, camera).expect("clip");
            let pictures = reference.pictures(&format!("v21.episode{episode}.{camera}"));
            // Backwards, so that every frame needs a seek, and forwards, so that none does.
            let numbers = (0..pictures.len()).rev().chain(0..pictures.len());
            for number in numbers {
                let frame = videos.frame_at(&clip.path, number as f64 / 10.0, 0.05).expect("frame");
                assert_eq!((frame.width(), frame.height()), (48, 32));
                let difference = difference(frame.rgb(), &pictures[number]);
                worst = worst.max(difference);
                assert!(difference < LEVELS, "{camera}, episode {episode}, frame {number}: {difference} levels");
            }
        }
    }
    eprintln!("largest mean difference: {worst:.3} levels");
}

#[test]
fn version_3_equals_lerobots_reader() {
    let reference = Reference::open();
    let mixture = mixture(DatasetConfig { process_suite: "metaworld".into(), ..DatasetConfig::new(fixture("v30")) });
    let source = &mixture.sources()[0];
    let (states, _) = reference.values("v30.state");
    let (actions, _) = reference.values("v30.actions");
    let (pads, _) = reference.values("v30.action_is_pad");
    let (times, _) = reference.values("v30.timestamp");
    let (episodes, _) = reference.values("v30.episode");
    let (tasks, _) = reference.values("v30.task");
    let pictures = CAMERAS.map(|camera| reference.pictures(&format!("v30.{camera}")));
    let videos = pool();
    let mut index = 0;
    for episode in 0..3 {
        let table = source.dataset.table(episode).expect("table");
        for frame in 0..table.rows() {
            let sample = source.sample(episode, frame, HORIZON, &videos).expect("sample");
            let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
            assert_eq!(episodes[index], episode as f64);
            assert_eq!(wide(&sample.observation.state), states[index * 8..][..8]);
            assert_eq!(wide(&sample.actions), actions[index * HORIZON * 7..][..HORIZON * 7]);
            let got: Vec<f64> = sample.action_is_pad.iter().map(|&pad| f64::from(u8::from(pad))).collect();
            assert_eq!(got, pads[index * HORIZON..][..HORIZON]);
            assert_eq!(f64::from(table.floats("timestamp", frame).expect("time")[0]), times[index]);
            let task = ["Push the red block.", "Open the drawer."][tasks[index] as usize];
            assert_eq!(sample.observation.instruction, task);
            for (view, pictures) in sample.observation.views.iter().zip(&pictures) {
                let View::Present(got) = view else { panic!("present") };
                let difference = difference(got.rgb(), &pictures[index]);
                assert!(difference < LEVELS, "frame {index}: {difference} levels");
            }
            index += 1;
        }
    }
    assert_eq!(index, times.len());
}

#[test]
fn versions_2_and_3_of_a_dataset_are_the_same_samples() {
    let of = |name: &str| mixture(DatasetConfig::new(fixture(name)));
    let (two, three, videos) = (of("v21"), of("v30"), pool());
    for (episode, frame) in [(0, 6), (1, 0), (1, 7), (2, 2)] {
        let sample = |mixture: &Mixture| {
            let sample = mixture.sources()[0].sample(episode, frame, HORIZON, &videos).expect("sample");
            (sample.observation.views, sample.observation.state, sample.actions, sample.observation.instruction)
        };
        assert!(sample(&two) == sample(&three), "episode {episode}, frame {frame}");
    }
}

#[test]
fn version_2_0_is_read_like_2_1() {
    let directory = common::copied("v21");
    let path = directory.path().join("meta/info.json");
    let text = std::fs::read_to_string(&path).expect("info").replace("v2.1", "v2.0");
    std::fs::write(&path, text).expect("write");
    std::fs::remove_file(directory.path().join("meta/episodes_stats.jsonl")).expect("it has none");
    let dataset = Dataset::open(directory.path(), &OpenOptions::default()).expect("a dataset");
    assert_eq!(dataset.info().codebase_version, "v2.0");
    assert_eq!(dataset.table(1).expect("table"), open("v21").table(1).expect("table"));
}

#[test]
fn pictures_in_tables_are_read() {
    let (mixture, reference, videos) = (mixture(DatasetConfig::new(fixture("images"))), Reference::open(), pool());
    let encoded = reference.pictures("v21.episode0.observation.images.front");
    for (frame, encoded) in encoded.iter().enumerate() {
        let sample = mixture.sources()[0].sample(0, frame, HORIZON, &videos).expect("sample");
        let View::Present(picture) = &sample.observation.views[0] else { panic!("present") };
        // The same picture was encoded as video; this one has lost nothing.
        assert!(difference(picture.rgb(), encoded) < 25.0, "frame {frame}");
        assert_eq!(picture.rgb()[(8 * 48 + 3 * frame) * 3..][..3], [250, 240, 30], "the square of frame {frame}");
    }
}

/// The same frames in codecs that only `ffmpeg` decodes, with B frames in HEVC, cameras read in turn and in any order.
#[cfg(feature = "ffmpeg")]
#[test]
fn hevc_and_vp9_are_read_through_ffmpeg() {
    let directory = tempfile::tempdir().expect("directory");
    let whole = open("v21").clip(1, CAMERAS[0]).expect("clip").path;
    let encoders = [
        ("HEVC", ["libx265", "-g", "5", "-bf", "2", "-x265-params", "lossless=1:log-level=none"]),
        ("VP9", ["libvpx-vp9", "-g", "5", "-lossless", "1", "-auto-alt-ref", "1"]),
    ];
    for (name, encoder) in encoders {
        let path = directory.path().join(format!("{name} 1.mp4"));
        let done = std::process::Command::new("ffmpeg")
            .args(["-nostdin", "-loglevel", "error", "-i"])
            .arg(&whole)
            .arg("-c:v")
            .args(encoder)
            .arg(&path)
            .status()
            .expect("ffmpeg is installed");
        assert!(done.success(), "{name}");
        let [mut got, mut expected] = [&path, &whole].map(|path| VideoReader::open(path).expect("a video"));
        assert_eq!((got.codec(), got.frames()), (name, 12));
        for number in [7, 0, 1, 2, 11, 4, 3, 3, 5, 10, 9, 6, 8] {
            let time = number as f64 / 10.0;
            let [got, expected] = [&mut got, &mut expected].map(|video| video.frame_at(time, 0.05).expect("a frame"));
            let difference = difference(got.rgb(), expected.rgb());
            assert!(difference < LEVELS, "{name}, frame {number}: {difference} levels");
        }
        let cut = directory.path().join("cut.mp4");
        let bytes = std::fs::read(&path).expect("video");
        let damaged: Vec<u8> =
            bytes.iter().enumerate().map(|(at, &b)| if at % 7 == 3 && at > 900 { !b } else { b }).collect();
        for bytes in [&bytes[..bytes.len() / 2], &damaged] {
            std::fs::write(&cut, bytes).expect("write");
            if let Ok(mut video) = VideoReader::open(&cut) {
                let _ = video.frame(11);
            }
        }
    }
}

/// A video of the fixtures, and PyAV's frames of it.
fn video(name: &str) -> (VideoReader, Vec<Vec<u8>>) {
    let folder = evo1_core::test_support::fixture("videos");
    let reference = Reference::of(&folder.join("reference.safetensors"));
    (VideoReader::open(&folder.join(format!("{name}.mp4"))).expect("a video"), reference.pictures(name))
}

#[test]
fn h264_means_what_its_description_of_colours_says() {
    for name in ["plain", "bt601", "bt709", "full-range", "full-range-bt709", "slices", "scaling-lists", "grey"] {
        let (mut video, reference) = video(name);
        assert_eq!((video.codec(), video.frames()), ("H.264", 3));
        for (number, expected) in reference.iter().enumerate() {
            let frame = video.frame(number).expect("a frame");
            let difference = difference(frame.rgb(), expected);
            assert!(difference < LEVELS, "{name}, frame {number}: {difference} levels");
        }
    }
}

const BEYOND: [(&str, &str); 6] = [
    ("10-bit", "the profile High 10 with 10 bits"),
    ("422", "the profile High 4:2:2 with chroma 4:2:2"),
    ("444", "the profile High 4:4:4 Predictive with chroma 4:4:4"),
    ("lossless", "the profile High 4:4:4 Predictive with lossless pictures"),
    ("interlaced", "the profile High with interlaced frames"),
    ("rgb", "the profile High 4:4:4 Predictive with chroma 4:4:4"),
];

#[cfg(not(feature = "ffmpeg"))]
#[test]
fn h264_beyond_the_decoder_names_its_profile() {
    for (name, profile) in BEYOND {
        let path = evo1_core::test_support::fixture("videos").join(format!("{name}.mp4"));
        let message = VideoReader::open(&path).err().expect("refused").to_string();
        assert!(message.contains(profile) && message.contains("`--features ffmpeg`"), "{message}");
    }
}

#[cfg(feature = "ffmpeg")]
#[test]
fn h264_beyond_the_decoder_is_read_through_ffmpeg() {
    for (name, _) in BEYOND {
        let (mut video, reference) = video(name);
        for (number, expected) in reference.iter().enumerate() {
            let frame = video.frame(number).expect("a frame");
            // Between patches of colour it matters how chroma is interpolated, which versions of FFmpeg do in several ways.
            let mut differences: Vec<u8> = frame.rgb().iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).collect();
            differences.sort_unstable();
            let median = differences[differences.len() / 2];
            assert!(median <= 3, "{name}, frame {number}: {median} levels");
        }
    }
}

#[cfg(feature = "rerun")]
#[test]
fn an_episode_becomes_a_recording() {
    let mixture = mixture(DatasetConfig::new(fixture("v21")));
    let mut last = (0, 0);
    let recording = mixture.sources()[0].recording(1, &pool(), |done, total| last = (done, total));
    let bytes = recording.expect("a recording");
    assert_eq!((last, &bytes[..4]), ((12, 12), &b"RRF2"[..]));
    for entity in CAMERAS.iter().chain(&["state", "action", "instruction"]) {
        let path = format!("/{entity}");
        assert!(bytes.windows(path.len()).any(|window| window == path.as_bytes()), "{entity}");
    }
}

/// Suites of the reference with their settings and whether their actions are relative.
fn suites() -> [(&'static str, &'static str, serde_json::Value); 8] {
    let none = serde_json::json!({});
    let arms = serde_json::json!({ "state_key": "observation.state.arms", "action_key": "action.arms" });
    let joined = ["action.cartesian_position", "action.gripper_position"];
    [
        ("default", "default", none.clone()),
        ("franka_ee_pose", "franka_ee_pose", none.clone()),
        ("franka_ee_pose_2", "franka_ee_pose", serde_json::json!({ "ee_pose_dims": [2, 4], "gripper_indices": [6] })),
        ("franka_joint_angle", "franka_joint_angle", none.clone()),
        ("droid_eef", "droid_eef", none.clone()),
        ("aloha_joint_angle", "aloha_joint_angle", arms),
        ("metaworld", "metaworld", none),
        (
            "custom",
            "custom",
            serde_json::json!({ "action_concat_keys": joined, "relative_dims": [[0, 2], [4, 5], [9, 12]] }),
        ),
    ]
}

fn with_suite(suite: &str, settings: &serde_json::Value) -> Mixture {
    mixture(DatasetConfig {
        process_suite: suite.into(),
        suite_config: serde_json::from_value(settings.clone()).expect("a map"),
        use_delta_action: true,
        ..DatasetConfig::new(fixture("v21"))
    })
}

#[test]
fn suites_equal_their_reference() {
    let reference = Reference::open();
    for (name, suite, settings) in suites() {
        let mixture = with_suite(suite, &settings);
        let source = &mixture.sources()[0];
        let (mut states, mut actions) = (Vec::new(), Vec::new());
        for episode in source.episodes() {
            let table = source.dataset.table(episode).expect("table");
            for frame in 0..table.rows() {
                states.extend(source.state(&table, episode, frame).expect("state"));
                for step in frame..frame + HORIZON {
                    actions.extend(source.action(&table, episode, step.min(table.rows() - 1)).expect("action"));
                }
            }
        }
        for (part, got) in [("state", states), ("actions", actions)] {
            let (expected, _) = reference.values(&format!("suite.{name}.{part}"));
            assert_eq!(got.len(), expected.len(), "{name} {part}");
            for (got, expected) in got.iter().zip(&expected) {
                assert!((f64::from(*got) - expected).abs() < 1e-6, "{name} {part}: {got} is not {expected}");
            }
        }
    }
}

#[test]
fn statistics_equal_numpys() {
    let reference = Reference::open();
    for (name, suite, settings) in suites() {
        let mixture = with_suite(suite, &settings);
        let statistics = mixture.statistics(|_, _| ()).expect("statistics");
        let robot = statistics.select(&mixture.sources()[0].statistics_key()).expect("the dataset's");
        assert_statistics(&reference, name, robot);
    }
}

#[test]
fn statistics_of_an_arm_equal_numpys_over_all_its_datasets() {
    let relative = DatasetConfig { use_delta_action: true, ..DatasetConfig::new(fixture("v21")) };
    let of = |episodes: &str| DatasetConfig { episodes: Some(episodes.into()), ..relative.clone() };
    let sets = [("first", of("0:1")), ("last", of("2:3"))].map(|(name, set)| (name.to_owned(), set));
    let config = DataConfig { data_groups: [("arm".to_owned(), sets.into())].into(), ..DataConfig::single(relative) };
    let mixture = Mixture::open(&config, HORIZON).expect("a mixture");
    let statistics = mixture.statistics_per(StatisticsPer::Arm, |_, _| ()).expect("statistics");
    for source in mixture.sources() {
        let robot = statistics.select(&source.statistics_key()).expect("the arm's");
        assert_statistics(&Reference::open(), "merged", robot);
    }
}

fn assert_statistics(reference: &Reference, name: &str, robot: &RobotStatistics) {
    for (part, vector) in [("state", &robot.state), ("action", &robot.action)] {
        let lists = vector.lists();
        assert_eq!(lists.len(), 8);
        for (statistic, got) in lists {
            let (expected, _) = reference.values(&format!("statistics.{name}.{part}.{statistic}"));
            assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(&expected) {
                let error = (f64::from(*got) - expected).abs() / expected.abs().max(1.0);
                assert!(error < 1e-6, "{name} {part} {statistic}: {got} is not {expected}");
            }
        }
    }
}
