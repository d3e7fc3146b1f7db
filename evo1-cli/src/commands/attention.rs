//! `evo1 attention`: what a policy looks at.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use evo1::{
    Components, CoreError, Frame, Observation,
    attention::{AttentionMaps, AttentionQuery, PatchMap, ViewTokens, Weights, attention},
    files::write_atomically,
    weights::write_safetensors,
};
use evo1_plot::{
    grid::{self, Cell, Grid, Row, Section},
    heat_map,
};
use eyre::{Result, ensure, eyre};
use image::RgbImage;
use serde::Serialize;

use crate::{
    common::Common,
    given::Given,
    output,
    plot::{picture, write_png},
};

/// Most words of an instruction that are shown one by one.
const MOST_WORDS: usize = 8;

/// Show what a policy looks at: attention from words of the instruction to the patches of each view (language model), and
/// from steps of the action chunk to them (action expert).
///
/// Writes `attention.png`, the heat maps over the frames; `attention.json`, for each map the part of the attention that
/// goes to the view, its entropy (1: spread evenly, 0: on one patch) and its overlap with the earlier checkpoint's map
/// (1: the same, 0: nothing in common); and `attention.safetensors`, all weights.
#[derive(Args)]
#[command(
    after_help = "Example:\n  evo1 attention --image docs/frame.png --image docs/frame-behind.png --prompt \"Push the puck to the goal marker\" \\\n    --words puck,goal --out attention"
)]
pub(crate) struct Attention {
    /// Policy directory; the embedded tiny policy when left out
    #[arg(long, value_name = "DIR")]
    policy: Option<PathBuf>,

    /// An earlier checkpoint of the same sizes, whose maps are shown and compared as well
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,

    #[command(flatten)]
    given: Given,

    /// Words of the instruction to look from; the first eight when left out
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    words: Vec<String>,

    /// Language layers, counted from 0; first, middle and last when left out
    #[arg(long, value_name = "LAYERS", value_delimiter = ',')]
    layers: Vec<usize>,

    /// Blocks of the action expert, counted from 0; first, middle and last that see the context when left out
    #[arg(long, value_name = "BLOCKS", value_delimiter = ',')]
    blocks: Vec<usize>,

    /// Heads, counted from 0, whose mean is shown; all when left out
    #[arg(long, value_name = "HEADS", value_delimiter = ',')]
    heads: Vec<usize>,

    /// Steps of the action chunk, counted from 0; first, middle and last when left out
    #[arg(long, value_name = "STEPS", value_delimiter = ',')]
    steps: Vec<usize>,

    /// Step of the sampler, counted from 0, at which the action expert is looked at; the last when left out
    #[arg(long, value_name = "N")]
    flow_step: Option<usize>,

    /// Seed of the noise that the flow starts from
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// One heat map and its numbers.
#[derive(Serialize)]
struct Entry {
    /// `language` or `action`.
    part: &'static str,
    /// The layer or block, counted from 0.
    layer: usize,
    /// A word, a step of the chunk, or `all`.
    from: String,
    /// The view, counted from 1.
    view: usize,
    #[serde(flatten)]
    numbers: Numbers,
    /// The earlier checkpoint's numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    earlier: Option<Numbers>,
    /// What both maps have in common.
    #[serde(skip_serializing_if = "Option::is_none")]
    overlap: Option<f32>,
    #[serde(skip)]
    maps: Vec<PatchMap>,
}

#[derive(Serialize)]
struct Numbers {
    /// The part of the attention that goes to the view.
    mass: f32,
    /// Entropy over the view's patches as a part of the largest possible.
    entropy: f32,
}

impl Numbers {
    fn of(map: &PatchMap) -> Self {
        Self { mass: map.mass(), entropy: map.entropy() }
    }
}

impl Attention {
    pub(crate) fn run<C: Components>(self, common: &Common) -> Result<()> {
        let device = common.open_device()?;
        let policy = common.policy::<C>(self.policy.as_deref(), &device)?;
        let observation = self.given.observation(&policy.config, self.policy.is_none())?;
        let query = AttentionQuery {
            layers: self.layers.clone(),
            blocks: self.blocks.clone(),
            flow_step: self.flow_step,
            seed: self.seed,
        };
        let mut checkpoints = vec![attention(&policy, &observation, &query)?];
        if let Some(directory) = &self.against {
            let earlier = common.load::<C>(directory, &device)?;
            checkpoints.push(attention(&earlier, &observation, &query)?);
            let views = |maps: &AttentionMaps| maps.views.iter().map(|view| view.tokens.len()).collect::<Vec<_>>();
            ensure!(
                views(&checkpoints[0]) == views(&checkpoints[1]),
                "the two checkpoints do not look at the same views with the same patches"
            );
        }
        let entries = self.entries(&checkpoints, policy.config.action.horizon)?;
        // What the patches are of: the part of a frame that the policy looks at.
        let seen = |frame: &Frame| policy.config.crop.map_or_else(|| frame.clone(), |crop| crop.of(frame));
        let frames: Vec<Option<Frame>> = observation.views.iter().map(|view| view.frame().map(seen)).collect();

        fs::create_dir_all(&self.out).map_err(|reason| CoreError::io("create", &self.out, reason))?;
        let grid = self.grid(&entries, &checkpoints[0], &frames, &observation)?;
        write_png(&self.out.join("attention.png"), grid::draw(&grid))?;
        let document = serde_json::to_string_pretty(&entries)? + "\n";
        write_atomically(&self.out.join("attention.json"), document.as_bytes())?;
        self.write_weights(&checkpoints)?;
        output::print(format_args!("{}", table(&entries, &self.out)))
    }

    /// Every map, language model first. `checkpoints` are the policy's and, where there is one, the earlier one's.
    fn entries(&self, checkpoints: &[AttentionMaps], horizon: usize) -> Result<Vec<Entry>> {
        let maps = &checkpoints[0];
        let words: Vec<Source> = match self.words.as_slice() {
            [] => maps.words.iter().take(MOST_WORDS).map(|word| (word.text.clone(), word.tokens.clone())).collect(),
            wanted => wanted.iter().map(|wanted| find_word(maps, wanted)).collect::<Result<_>>()?,
        };
        let all_words: Vec<usize> = maps.words.iter().flat_map(|word| word.tokens.clone()).collect();
        let all_words = (!all_words.is_empty()).then(|| ("all words".to_owned(), all_words));
        let words: Vec<_> = all_words.into_iter().chain(words).collect();
        let mut steps = match self.steps.as_slice() {
            [] => vec![0, (horizon - 1) / 2, horizon - 1],
            steps => steps.to_vec(),
        };
        steps.dedup();
        if let Some(step) = steps.iter().find(|step| **step >= horizon) {
            return Err(eyre!("step {step} does not exist: a chunk has {horizon}, counted from 0"));
        }
        let named = steps.iter().map(|&step| (format!("step {step}"), vec![step]));
        let steps: Vec<_> = [("all steps".to_owned(), (0..horizon).collect())].into_iter().chain(named).collect();
        let mut entries = Vec::new();
        let parts: [(&'static str, Part, &[Source]); 2] =
            [("language", |maps| &maps.language, &words), ("action", |maps| &maps.action, &steps)];
        for (part, weights, sources) in parts {
            for (&layer, of_layer) in weights(maps) {
                if let Some(head) = self.heads.iter().find(|head| **head >= of_layer.heads) {
                    return Err(eyre!("head {head} does not exist: {part} has {}, counted from 0", of_layer.heads));
                }
                for view in &maps.views {
                    for (from, queries) in sources {
                        let map = |maps: &AttentionMaps| weights(maps)[&layer].patch_map(&self.heads, queries, view);
                        let maps: Vec<PatchMap> = checkpoints.iter().map(map).collect();
                        entries.push(Entry {
                            part,
                            layer,
                            from: from.clone(),
                            view: view.view + 1,
                            numbers: Numbers::of(&maps[0]),
                            earlier: maps.get(1).map(Numbers::of),
                            overlap: maps.get(1).map(|earlier| maps[0].overlap(earlier)),
                            maps,
                        });
                    }
                }
            }
        }
        Ok(entries)
    }

    fn grid(
        &self,
        entries: &[Entry],
        maps: &AttentionMaps,
        frames: &[Option<Frame>],
        observation: &Observation,
    ) -> Result<Grid> {
        let mut sections = Vec::new();
        for (part, name, what) in [
            ("language", "layer", "Language model: from words of the instruction"),
            ("action", "block", "Action expert: from steps of the action chunk"),
        ] {
            let of_part: Vec<&Entry> = entries.iter().filter(|entry| entry.part == part).collect();
            let mut columns: Vec<String> = vec!["frame".into()];
            for entry in &of_part {
                if !columns.contains(&entry.from) {
                    columns.push(entry.from.clone());
                }
            }
            let mut rows = Vec::new();
            for ViewTokens { view, .. } in &maps.views {
                let frame = frames[*view].as_ref().ok_or_else(|| eyre!("view {} has no frame", view + 1))?;
                let of_view: Vec<&&Entry> = of_part.iter().filter(|entry| entry.view == view + 1).collect();
                let layers: BTreeSet<usize> = of_view.iter().map(|entry| entry.layer).collect();
                for layer in layers {
                    let of_row: Vec<&Entry> =
                        of_view.iter().filter(|entry| entry.layer == layer).map(|e| **e).collect();
                    for checkpoint in (0..of_row[0].maps.len()).rev() {
                        let mut label = vec![format!("view {}, {name} {layer}", view + 1)];
                        if self.against.is_some() {
                            label.push(if checkpoint == 0 { "policy".into() } else { "earlier".into() });
                        }
                        let mut cells = vec![Cell { picture: picture(frame)?, label: String::new() }];
                        for entry in &of_row {
                            cells.push(cell(frame, entry, checkpoint)?);
                        }
                        rows.push(Row { label, cells });
                    }
                }
            }
            sections.push(Section { heading: what.into(), columns, rows });
        }
        let heads = if self.heads.is_empty() { "all heads".into() } else { format!("heads {:?}", self.heads) };
        let mut notes = vec![
            format!(
                "Mean over {heads}. Each map is scaled to its largest weight, over the part of the frame that is looked at."
            ),
            "Below it: the part of all attention that goes to the view, and the entropy H over its patches (1: even)."
                .into(),
        ];
        if self.against.is_some() {
            notes.push("Overlap: what a map has in common with the earlier checkpoint's (1: the same).".into());
        }
        Ok(Grid { title: format!("What the policy looks at: {}", observation.instruction), notes, sections })
    }

    fn write_weights(&self, checkpoints: &[AttentionMaps]) -> Result<()> {
        let mut tensors = BTreeMap::new();
        for (maps, prefix) in checkpoints.iter().zip(["", "earlier."]) {
            for (layer, weights) in &maps.language {
                tensors.insert(format!("{prefix}language.layer.{layer}"), weights.data());
            }
            for (block, weights) in &maps.action {
                tensors.insert(format!("{prefix}action.block.{block}"), weights.data());
            }
        }
        for view in &checkpoints[0].views {
            let tokens: Vec<i64> = view.tokens.iter().map(|&token| token as i64).collect();
            let data = burn::tensor::TensorData::new(tokens, [view.tokens.len()]);
            tensors.insert(format!("view.{}.tokens", view.view + 1), data);
        }
        Ok(write_safetensors(&self.out.join("attention.safetensors"), &tensors)?)
    }
}

/// A name of queries, and their indices.
type Source = (String, Vec<usize>);

type Part = fn(&AttentionMaps) -> &BTreeMap<usize, Weights>;

/// A word of the instruction by its letters, case and punctuation aside.
fn find_word(maps: &AttentionMaps, wanted: &str) -> Result<Source> {
    let bare = |word: &str| word.trim_matches(|letter: char| !letter.is_alphanumeric()).to_lowercase();
    let found = maps.words.iter().find(|word| bare(&word.text) == bare(wanted));
    let found = found.ok_or_else(|| {
        let words = maps.words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(", ");
        eyre!("the instruction has no word `{wanted}`; its words are: {words}")
    })?;
    Ok((found.text.clone(), found.tokens.clone()))
}

fn cell(frame: &Frame, entry: &Entry, checkpoint: usize) -> Result<Cell> {
    let map = &entry.maps[checkpoint];
    let heat: RgbImage = heat_map(&picture(frame)?, &map.weights)?;
    let mut label = format!("{:.0} %, H {:.2}", 100.0 * map.mass(), map.entropy());
    if let (Some(overlap), 0) = (entry.overlap, checkpoint) {
        label += &format!(", overlap {overlap:.2}");
    }
    Ok(Cell { picture: heat, label })
}

fn table(entries: &[Entry], out: &Path) -> String {
    let has_earlier = entries.iter().any(|entry| entry.overlap.is_some());
    let width = entries.iter().map(|entry| entry.from.chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!("part      layer  view  {:width$}   mass  entropy", "from");
    text += if has_earlier { "   mass before  entropy before  overlap\n" } else { "\n" };
    for Entry { part, layer, from, view, numbers, earlier, overlap, .. } in entries {
        let Numbers { mass, entropy } = numbers;
        text += &format!("{part:8}  {layer:>5}  {view:>4}  {from:width$}  {mass:.3}    {entropy:.3}");
        if let (Some(Numbers { mass, entropy }), Some(overlap)) = (earlier, overlap) {
            text += &format!("         {mass:.3}           {entropy:.3}    {overlap:.3}");
        }
        text += "\n";
    }
    text + &format!("\nheat maps in {}\n", out.join("attention.png").display())
}
