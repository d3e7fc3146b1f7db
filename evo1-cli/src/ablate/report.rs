//! What came of a study, as CSV, Markdown, pictures and one page.

use std::{fs, path::Path};

use evo1::{CoreError, files::write_atomically};
use evo1_bench::Provenance;
use evo1_plot::{Bar, Lines, bars, html::Page, sheet};
use eyre::Result;
use indicatif::HumanCount;

use super::{
    study::Study,
    summary::{Mean, Row},
};
use crate::plot::write_png;

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

/// Writes every file of the results into `out`; the Markdown table.
pub(crate) fn write(out: &Path, study: &Study, rows: &[Row]) -> Result<String> {
    let (error, curves) = (out.join("error.png"), out.join("curves.png"));
    let has_bars = rows.iter().any(|row| !row.measured.is_empty());
    if has_bars {
        let foot = "mean over seeds, line: ± one standard deviation, dots: seeds; shorter is better";
        write_png(&error, bars::draw("Held-out action error", foot, &error_bars(rows)))?;
    }
    let has_curves = write_curves(&curves, rows)?;
    let table = table(rows);
    let markdown = markdown(&table);
    let document = format!(
        "# {}\n\n{}\n\n{markdown}\n{}\n\n{}",
        study.title,
        study.question.trim(),
        NOTES.join("\n\n"),
        failures(rows).map_or_else(String::new, |lines| format!("Without a result:\n\n```text\n{lines}\n```\n"))
    );
    write_atomically(&out.join("results.md"), document.trim_end().as_bytes())?;
    write_atomically(&out.join("results.csv"), csv(rows).as_bytes())?;
    let pictures = [(has_bars, error, "Held-out action error"), (has_curves, curves, "Training loss over the steps")];
    let mut shown = Vec::new();
    for (_, path, name) in pictures.iter().filter(|(is_there, ..)| *is_there) {
        let bytes = fs::read(path).map_err(|reason| CoreError::io("read", path, reason))?;
        shown.push((bytes, *name));
    }
    write_atomically(&out.join("report.html"), page(study, rows, &table, &shown).as_bytes())?;
    Ok(markdown)
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

/// Header and rows.
fn table(rows: &[Row]) -> Vec<Vec<String>> {
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
    let lines = rows.iter().flat_map(|row| row.errors.iter().map(|error| format!("{}: {error}", row.cell)));
    let lines: Vec<String> = lines.collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The page of a study; `pictures` are PNG files with their names.
fn page(study: &Study, rows: &[Row], table: &[Vec<String>], pictures: &[(Vec<u8>, &str)]) -> String {
    let Provenance { version, commit, burn, build, processor, system, .. } = Provenance::here();
    let made = format!(
        "evo1 {version} ({}), burn {burn}, {build} build, {} on {system}",
        commit.as_deref().unwrap_or("unknown commit"),
        processor.as_deref().unwrap_or("unknown processor"),
    );
    let mut page = Page::new(&study.title, &study.title).text(study.question.trim()).table(&table[0], &table[1..]);
    for (png, name) in pictures {
        page = page.picture(png, name);
    }
    if let Some(lines) = failures(rows) {
        page = page.heading("Without a result").warning_lines(&lines);
    }
    page = page.heading("How to read it");
    for note in NOTES {
        page = page.text(note);
    }
    let page = page.heading("The study").lines(&study.text).heading("Every result").lines(&csv(rows));
    page.text(&made).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::evaluate::Measured;

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
            errors: if rmse.is_empty() { vec!["out of memory".into()] } else { vec![] },
            rmse_difference: Mean::of(&differences),
            rmse_differences: differences,
            curve: (1..=250).map(|step| (f64::from(step) * 10.0, 1.0 / f64::from(step))).collect(),
        }
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
        assert_eq!(failures(&rows).as_deref(), Some("c: out of memory"));

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
