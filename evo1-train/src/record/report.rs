//! `report.html`: a run on one page.

use std::path::Path;

use evo1::files::write_atomically;
use evo1_plot::html::Page;

use super::{Metrics, Warned};
use crate::{Errors, Result};

/// A line of the report's table: what, and its value.
pub type Fact = (&'static str, String);

/// Rows of the table of losses.
const ROWS: usize = 12;

/// Warnings that are shown.
const WARNINGS: usize = 50;

/// Writes the page, which shows `curves.png` of the same folder.
///
/// # Errors
/// When the file cannot be written.
pub fn write_report(
    path: &Path,
    facts: &[Fact],
    warnings: &[Warned],
    metrics: &[Metrics],
    configuration: &str,
) -> Result<()> {
    let mut page = Page::new("evo1 training run", "Training run");
    for Warned { step, text } in warnings.iter().take(WARNINGS) {
        page = page.warning(&format!("after {step} steps: {text}"));
    }
    if warnings.len() > WARNINGS {
        page = page.warning(&format!("and {} more in warnings.jsonl", warnings.len() - WARNINGS));
    }
    // Where something is held out, the lines that say how far the policy is from it.
    let looked_at: Vec<&Metrics> = metrics.iter().filter(|line| line.held_out.is_some()).collect();
    let metrics = if looked_at.is_empty() { metrics.iter().collect() } else { looked_at };
    let every = metrics.len().div_ceil(ROWS).max(1);
    let row = |line: &Metrics| {
        let Metrics { step, loss, gradient_norm, learning_rate, samples, .. } = line;
        let error = |of: fn(&Errors) -> f64| {
            line.held_out.as_ref().map(of).map_or(String::new(), |value| format!("{value:.4}"))
        };
        [
            step.to_string(),
            format!("{loss:.4}"),
            error(|errors| errors.loss),
            error(|errors| errors.rmse),
            format!("{gradient_norm:.3}"),
            format!("{learning_rate:.2e}"),
            samples.to_string(),
        ]
    };
    let rows: Vec<&Metrics> = metrics.into_iter().rev().step_by(every).collect();
    let page = page
        .facts(facts.iter().map(|(what, value)| (*what, value.as_str())))
        .picture_at("curves.png", "Loss, learning rate and gradient norm over the steps")
        .table(
            &["step", "loss", "held-out loss", "held-out action error", "gradient norm", "learning rate", "samples"],
            rows.into_iter().rev().map(row),
        )
        .heading("Configuration")
        .lines(configuration)
        .finish();
    Ok(write_atomically(path, page.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_cannot_become_markup() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("report.html");
        write_report(
            &path,
            &[("steps", "3 < 4".into())],
            &[Warned { step: 0, text: "a & b".into() }],
            &[],
            "prompt: <script>",
        )
        .expect("page");
        let page = std::fs::read_to_string(path).expect("page");
        assert!(page.contains("3 &lt; 4") && page.contains("a &amp; b") && page.contains("&lt;script&gt;"), "{page}");
    }
}
