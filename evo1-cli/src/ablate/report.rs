//! What came of a study, as CSV, Markdown, pictures and one page.

use std::{fs, path::Path};

use evo1::{CoreError, files::write_atomically};
use evo1_bench::Provenance;
use evo1_plot::{Bar, Lines, bars, html::Page, sheet};
use eyre::Result;
use indicatif::HumanCount;

use super::{
    paired::Paired,
    study::Study,
    summary::{Mean, Row, Success},
};
use crate::{plot::write_png, rollout::bar};

/// Points of a curve.
const CURVE_POINTS: usize = 100;

/// How the numbers are read, in the page and below the Markdown table.
const NOTES: [&str; 4] = [
    "Loss and action error are measured on held-out data. The action error is the root of the mean squared difference of \
     predicted and recorded actions, in normalised units. Losses can be compared only where noise, distribution of τ and \
     kind of loss are the same.",
    "Mean ± standard deviation of a sample, over seeds. A difference is to the base with the same seed, so that what the \
     seed does to both cancels.",
    "GFLOP: matrix products of one prediction. Latency: median of predictions for one prepared observation, measured \
     beside whatever else the machine did.",
    "A difference that is not much larger than its deviation is not shown to exist.",
];

/// How successes are read, where there are any.
const SUCCESS_NOTES: [&str; 2] = [
    "Success: the share of goals that were reached, over all seeds of training, with Wilson's 95 % interval; ± the standard \
     deviation of the seeds' shares. Won and lost are goals that one of cell and base reached and the other, trained with the \
     same seed, did not; p is that of the exact McNemar test over them, two-sided and corrected after Holm for the number of cells. \
     A difference is shown where it is below 0.05. What would have been seen with a power of 80 % is so at 0.05 without the \
     correction, and as far as cell and base differ goal by goal.",
    "That test asks whether these trained policies differ on such goals. Whether policies of other seeds would differ in the same \
     way, only the seeds can say: p over the seeds is that of the exact sign-flip test of the differences by seed, which cannot be below \
     2 / 2ⁿ with n seeds.",
];

/// Writes every file of the results into `out`; the Markdown table.
pub(crate) fn write(out: &Path, study: &Study, rows: &[Row]) -> Result<String> {
    let (error, curves, success) = (out.join("error.png"), out.join("curves.png"), out.join("success.png"));
    let has_bars = rows.iter().any(|row| !row.measured.is_empty());
    if has_bars {
        let foot = "mean over seeds, line: ± one standard deviation, dots: seeds; shorter is better";
        write_png(&error, bars::draw("Held-out action error", foot, &error_bars(rows)))?;
    }
    let has_curves = write_curves(&curves, rows)?;
    let successes = success_bars(rows);
    if !successes.is_empty() {
        let foot = "of all goals and seeds, line: 95 % interval (Wilson), dots: seeds; longer is better";
        write_png(&success, bars::draw_to(100.0, "Success rate (%)", foot, &successes))?;
        write_atomically(&out.join("episodes.csv"), episodes_csv(rows).as_bytes())?;
    }
    let tables: Vec<Table> = [Some(table(rows)), success_table(rows)].into_iter().flatten().collect();
    let shown: String = tables.iter().map(|table| markdown(table) + "\n").collect();
    let verdicts = verdicts(rows);
    let markdown = shown + &verdicts.iter().map(|line| format!("- {line}\n")).collect::<String>();
    let document = format!(
        "# {}\n\n{}\n\n{}\n\n{}\n\n{}",
        study.title,
        study.question.trim(),
        markdown.trim_end(),
        notes(rows).join("\n\n"),
        failures(rows).map_or_else(String::new, |lines| format!("Without a result:\n\n```text\n{lines}\n```\n"))
    );
    write_atomically(&out.join("results.md"), document.trim_end().as_bytes())?;
    write_atomically(&out.join("results.csv"), csv(rows).as_bytes())?;
    let pictures = [
        (!successes.is_empty(), success, "Success rate"),
        (has_bars, error, "Held-out action error"),
        (has_curves, curves, "Training loss over the steps"),
    ];
    let mut shown = Vec::new();
    for (_, path, name) in pictures.iter().filter(|(is_there, ..)| *is_there) {
        let bytes = fs::read(path).map_err(|reason| CoreError::io("read", path, reason))?;
        shown.push((bytes, *name));
    }
    write_atomically(&out.join("report.html"), page(study, rows, &tables, &verdicts, &shown).as_bytes())?;
    Ok(markdown.trim_end().to_owned())
}

/// Header and rows.
type Table = Vec<Vec<String>>;

fn notes(rows: &[Row]) -> Vec<&'static str> {
    let has_success = rows.iter().any(|row| row.success.is_some());
    NOTES.into_iter().chain(SUCCESS_NOTES.into_iter().filter(|_| has_success)).collect()
}

fn success_bars(rows: &[Row]) -> Vec<Bar> {
    let of_row = |row: &Row| {
        let Success { rate, by_seed, .. } = row.success.as_ref()?;
        Some(Bar { dots: by_seed.iter().map(|rate| 100.0 * rate).collect(), label: percent(rate.rate?), ..bar(rate)? })
    };
    rows.iter().filter_map(of_row).collect()
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn p_value(p: f64) -> String {
    if p < 0.001 { format!("{p:.0e}") } else { format!("{p:.3}") }
}

/// The successes of the cells; nothing where there are none.
fn success_table(rows: &[Row]) -> Option<Table> {
    let header = [
        "cell",
        "success",
        "± over seeds",
        "goals",
        "difference to base",
        "won, lost",
        "p",
        "p over the seeds",
        "shown",
    ];
    let mut table = vec![header.map(str::to_owned).to_vec()];
    for row in rows {
        let Some(Success { rate, by_seed, paired, .. }) = &row.success else { continue };
        let deviation = Mean::of(by_seed).and_then(|mean| mean.deviation).map_or_else(|| "–".into(), percent);
        let mut line = vec![row.cell.clone(), rate.in_percent(), deviation, rate.episodes.to_string()];
        line.extend(match paired {
            Some(paired) => [
                format!("{:+.1} points", 100.0 * paired.difference()),
                format!("{}, {}", paired.won, paired.lost),
                p_value(paired.adjusted),
                paired.p_of_seeds.map_or_else(|| "–".into(), p_value),
                paired.verdict().to_owned(),
            ],
            None => {
                let is_base = if row.is_reference { "base" } else { "–" };
                [is_base, "–", "–", "–", "–"].map(str::to_owned)
            }
        });
        table.push(line);
    }
    (table.len() > 1).then_some(table)
}

/// What the successes of each cell say about it, beside the base.
fn verdicts(rows: &[Row]) -> Vec<String> {
    let of_row = |row: &Row| {
        let paired = row.success.as_ref()?.paired.as_ref()?;
        let Paired { pairs, by_seed, adjusted, .. } = paired;
        let better = by_seed.iter().filter(|difference| **difference > 0.0).count();
        let (cell, verdict, p) = (&row.cell, paired.verdict(), p_value(*adjusted));
        let difference = format!("{:+.1} points", 100.0 * paired.difference());
        let seeds = format!("better in {better} of {} seeds", by_seed.len());
        Some(if paired.is_shown() {
            format!("{cell}: {verdict} than the base by {difference} on {pairs} goals (p = {p}), {seeds}")
        } else {
            let visible = 100.0 * paired.visible();
            format!(
                "{cell}: {verdict}: {difference} on {pairs} goals (p = {p}), {seeds}; a difference of {visible:.1} points \
                 would have been seen with a power of 80 %"
            )
        })
    };
    rows.iter().filter_map(of_row).collect()
}

/// One line for each goal.
fn episodes_csv(rows: &[Row]) -> String {
    let mut text = "cell,training_seed,task,goal,success,steps\n".to_owned();
    let quoted = |text: &str| text.replace('"', "\"\"");
    for (row, success) in rows.iter().filter_map(|row| Some((row, row.success.as_ref()?))) {
        for (seed, episodes) in &success.episodes {
            for episode in episodes {
                let (cell, task) = (quoted(&row.cell), quoted(&episode.task));
                text += &format!("\"{cell}\",{seed},\"{task}\",{},", episode.seed);
                text += &format!("{},{}\n", episode.success, episode.steps);
            }
        }
    }
    text
}

fn error_bars(rows: &[Row]) -> Vec<Bar> {
    let bar = |row: &Row| {
        let Mean { mean, deviation } = row.mean(|measured| measured.rmse)?;
        let spread = deviation.unwrap_or(0.0);
        Some(Bar {
            name: row.cell.clone(),
            value: mean,
            whisker: (mean - spread, mean + spread),
            dots: row.measured.iter().map(|(_, measured)| measured.rmse).collect(),
            label: written(row.mean(|measured| measured.rmse)),
        })
    };
    rows.iter().filter_map(bar).collect()
}

/// Draws the training losses of all cells; whether there are any.
fn write_curves(path: &Path, rows: &[Row]) -> Result<bool> {
    let rows: Vec<&Row> = rows.iter().filter(|row| !row.curve.is_empty()).collect();
    let Some(logged) = rows.iter().map(|row| row.curve.len()).min() else { return Ok(false) };
    let window = logged.div_ceil(CURVE_POINTS);
    let points = logged / window;
    let mut values = Vec::with_capacity(points * rows.len());
    for at in 0..points {
        for row in &rows {
            let part = &row.curve[at * window..(at + 1) * window];
            let mean = part.iter().map(|point| point.1).sum::<f64>() / window as f64;
            values.push(mean.max(f64::MIN_POSITIVE).log10() as f32);
        }
    }
    let unit = rows[0].curve[points * window - 1].0 / points as f64;
    let lines = Lines {
        values: &values,
        names: rows.iter().map(|row| row.cell.clone()).collect(),
        x_name: &format!("training, in units of {unit:.0} steps"),
        y_name: "log₁₀ of the training loss, mean over seeds",
    };
    write_png(path, sheet::draw("Training loss", &[], &[lines]))?;
    Ok(true)
}

/// A mean with its deviation.
fn written(mean: Option<Mean>) -> String {
    match mean {
        Some(Mean { mean, deviation: Some(deviation) }) => format!("{mean:.4} ± {deviation:.4}"),
        Some(Mean { mean, deviation: None }) => format!("{mean:.4}"),
        None => "–".into(),
    }
}

/// What was measured on recorded data.
fn table(rows: &[Row]) -> Table {
    let header = [
        "cell",
        "parameters",
        "GFLOP",
        "latency (ms)",
        "loss",
        "action error",
        "difference to base",
        "lower in",
        "seeds",
    ];
    let mut table = vec![header.map(str::to_owned).to_vec()];
    for row in rows {
        let first = row.measured.first().map(|(_, measured)| *measured);
        let missing = || "–".to_owned();
        let lower = row.rmse_differences.iter().filter(|difference| **difference < 0.0).count();
        let (difference, lower) = match (row.is_reference, row.rmse_differences.len()) {
            (true, _) => ("base".into(), missing()),
            (false, 0) => (missing(), missing()),
            (false, seeds) => (signed(row.rmse_difference), format!("{lower} of {seeds}")),
        };
        let latency = row.mean(|measured| measured.milliseconds);
        table.push(vec![
            row.cell.clone(),
            first.map_or_else(missing, |measured| HumanCount(measured.parameters).to_string()),
            first.map_or_else(missing, |measured| format!("{:.3}", measured.flops as f64 / 1e9)),
            latency.map_or_else(missing, |latency| format!("{:.1}", latency.mean)),
            written(row.mean(|measured| measured.loss)),
            written(row.mean(|measured| measured.rmse)),
            difference,
            lower,
            row.measured.len().to_string(),
        ]);
    }
    table
}

/// [`written`] with a plus where the mean is not negative.
fn signed(mean: Option<Mean>) -> String {
    let sign = if mean.is_some_and(|mean| mean.mean >= 0.0) { "+" } else { "" };
    format!("{sign}{}", written(mean))
}

fn markdown(table: &[Vec<String>]) -> String {
    let line = |cells: &Vec<String>| format!("| {} |\n", cells.join(" | ").replace('\n', " "));
    let rule = format!("|{}\n", " --- |".repeat(table[0].len()));
    line(&table[0]) + &rule + &table[1..].iter().map(line).collect::<String>()
}

/// One line for each result.
fn csv(rows: &[Row]) -> String {
    let mut text = "cell,seed,loss,rmse,mae,samples,milliseconds,parameters,flops\n".to_owned();
    for row in rows {
        for (seed, m) in &row.measured {
            text +=
                &format!("\"{}\",{seed},{},{},{},{}", row.cell.replace('"', "\"\""), m.loss, m.rmse, m.mae, m.samples);
            text += &format!(",{},{},{}\n", m.milliseconds, m.parameters, m.flops);
        }
    }
    text
}

/// Why cells have no result, one line each.
fn failures(rows: &[Row]) -> Option<String> {
    let of_row = |row: &Row| {
        let line = |(seed, why): &(u64, String)| format!("{}, seed {seed}: {why}", row.cell);
        row.missing.iter().map(line).collect::<Vec<_>>()
    };
    let lines: Vec<String> = rows.iter().flat_map(of_row).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The page of a study; `pictures` are PNG files with their names.
fn page(study: &Study, rows: &[Row], tables: &[Table], verdicts: &[String], pictures: &[(Vec<u8>, &str)]) -> String {
    let Provenance { version, commit, burn, build, processor, system, .. } = Provenance::here();
    let made = format!(
        "evo1 {version} ({}), burn {burn}, {build} build, {} on {system}",
        commit.as_deref().unwrap_or("unknown commit"),
        processor.as_deref().unwrap_or("unknown processor"),
    );
    let mut page = Page::new(&study.title, &study.title).text(study.question.trim());
    for table in tables {
        page = page.table(&table[0], &table[1..]);
    }
    for verdict in verdicts {
        page = page.text(verdict);
    }
    for (png, name) in pictures {
        page = page.picture(png, name);
    }
    if let Some(lines) = failures(rows) {
        page = page.heading("Without a result").warning_lines(&lines);
    }
    page = page.heading("How to read it");
    for note in notes(rows) {
        page = page.text(note);
    }
    let page = page.heading("The study").lines(&study.text).heading("Every result").lines(&csv(rows));
    page.text(&made).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ablate::summary::compare, commands::evaluate::Measured, rollout::Episode};

    fn row(cell: &str, is_reference: bool, rmse: &[f64]) -> Row {
        let measured = |&rmse: &f64| Measured {
            loss: 2.0 * rmse,
            rmse,
            mae: rmse,
            samples: 64,
            milliseconds: 3.0,
            parameters: 1_234_567,
            flops: 2_500_000_000,
        };
        let differences: Vec<f64> = if is_reference { vec![] } else { rmse.iter().map(|rmse| rmse - 0.3).collect() };
        Row {
            cell: cell.into(),
            is_reference,
            measured: rmse.iter().map(measured).zip(0..).map(|(measured, seed)| (seed, measured)).collect(),
            missing: if rmse.is_empty() { vec![(0, "out of memory".into())] } else { vec![] },
            rmse_difference: Mean::of(&differences),
            rmse_differences: differences,
            curve: (1..=250).map(|step| (f64::from(step) * 10.0, 1.0 / f64::from(step))).collect(),
            success: None,
        }
    }

    /// A cell that reached so many of 100 goals with each of three seeds.
    fn trying(cell: &str, is_reference: bool, successes: [u64; 3]) -> Row {
        let episode =
            |seed, successes| Episode { task: "reach".into(), seed, success: seed < successes, steps: 9, group: None };
        let of_seed = |(training, successes)| (training, (0..100).map(|seed| episode(seed, successes)).collect());
        let success = Success::of(cell, (0..).zip(successes).map(of_seed).collect());
        Row { success, ..row(cell, is_reference, &[0.3, 0.3, 0.3]) }
    }

    #[test]
    fn a_difference_is_said_where_it_is_shown_and_only_there() {
        let mut rows =
            [trying("a", true, [50, 52, 48]), trying("b", false, [51, 51, 50]), trying("c", false, [70, 65, 72])];
        compare(&mut rows, 0);
        let text = markdown(&success_table(&rows).expect("successes"));
        assert!(text.contains("| a | 50.0 % (44.4–55.6) | 2.0 % | 300 | base |"), "{text}");
        assert!(text.contains("| +0.7 points | 3, 1 | 0.625 | 0.750 | no difference shown |"), "{text}");
        assert!(text.contains("| +19.0 points | 57, 0 | 3e-17 | 0.250 | better |"), "{text}");
        let lines = verdicts(&rows);
        assert!(lines[0].starts_with("b: no difference shown: +0.7 points on 300 goals (p = 0.625)"), "{lines:?}");
        assert!(
            lines[0].contains("better in 2 of 3 seeds; a difference of 1.9 points would have been seen"),
            "{lines:?}"
        );
        assert!(lines[1].starts_with("c: better than the base by +19.0 points on 300 goals"), "{lines:?}");
        let csv = episodes_csv(&rows);
        assert!(csv.lines().count() == 901 && csv.contains("\"c\",2,\"reach\",71,true,9\n"), "{csv}");
        assert!(success_table(&[row("a", true, &[0.3])]).is_none());
    }

    #[test]
    fn a_table_says_how_cells_differ_and_what_failed() {
        let rows = [row("base, a", true, &[0.3, 0.3]), row("b \"<b>\"", false, &[0.2, 0.4]), row("c", false, &[])];
        let markdown = markdown(&table(&rows));
        assert!(
            markdown
                .contains("| base, a | 1,234,567 | 2.500 | 3.0 | 0.6000 ± 0.0000 | 0.3000 ± 0.0000 | base | – | 2 |")
        );
        assert!(markdown.contains("| 0.3000 ± 0.1414 | +0.0000 ± 0.1414 | 1 of 2 | 2 |"), "{markdown}");
        assert!(markdown.contains("| c | – | – | – | – | – | – | – | 0 |"), "{markdown}");
        let csv = csv(&rows);
        assert!(csv.contains("\"b \"\"<b>\"\"\",1,0.8,0.4,0.4,64,3,1234567,2500000000\n"), "{csv}");
        assert_eq!(failures(&rows).as_deref(), Some("c, seed 0: out of memory"));

        let folder = tempfile::tempdir().expect("folder");
        let text = "title: A & B\nbase: {policy: {preset: tiny}, stage: null, trained: {vision: true, language: true, \
                    action: true}, data: data.yaml}\naxes: {noise: [uniform]}\nseeds: [0]\nheld_out: {data: data.yaml}\n";
        let file = folder.path().join("study.yaml");
        fs::write(&file, text).expect("study");
        let study = Study::read::<evo1::Published>(&file, &super::super::Changes::default()).expect("a study");
        write(folder.path(), &study, &rows).expect("written");
        let page = fs::read_to_string(folder.path().join("report.html")).expect("page");
        assert!(page.contains("A &amp; B") && page.contains("b \"&lt;b&gt;\"") && page.contains("out of memory"));
        assert_eq!(page.matches("data:image/png;base64,").count(), 2);
        for name in ["error.png", "curves.png", "results.md", "results.csv"] {
            assert!(folder.path().join(name).is_file(), "{name}");
        }
    }
}
