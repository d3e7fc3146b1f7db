//! `report.html`: a run on one page.

use std::path::Path;

use evo1::files::write_atomically;

use super::Metrics;
use crate::Result;

/// A line of the report's table: what, and its value.
pub type Fact = (&'static str, String);

/// How pages look.
pub const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}\
    h1{font-size:1.4rem}td,th{text-align:left;padding:.15rem 1rem .15rem 0;vertical-align:top}\
    pre{background:#f5f5f5;padding:1rem;overflow-x:auto;font-size:.85rem}img{max-width:100%}\
    .warning{background:#fff3dc;border-left:4px solid #e69f00;padding:.5rem 1rem}";

/// Rows of the table of losses.
const ROWS: usize = 12;

/// Writes the page, which shows `curves.png` of the same folder.
///
/// # Errors
/// When the file cannot be written.
pub fn write_report(
    path: &Path,
    facts: &[Fact],
    warnings: &[String],
    metrics: &[Metrics],
    configuration: &str,
) -> Result<()> {
    let facts: String =
        facts.iter().map(|(what, value)| format!("<tr><th>{what}</th><td>{}</td></tr>\n", escaped(value))).collect();
    let warnings: String =
        warnings.iter().map(|text| format!("<p class=\"warning\">{}</p>\n", escaped(text))).collect();
    let every = metrics.len().div_ceil(ROWS).max(1);
    let row = |line: &Metrics| {
        let Metrics { step, loss, gradient_norm, learning_rate, samples, .. } = line;
        format!(
            "<tr><td>{step}</td><td>{loss:.4}</td><td>{gradient_norm:.3}</td><td>{learning_rate:.2e}</td>\
             <td>{samples}</td></tr>\n"
        )
    };
    let rows: String = metrics.iter().rev().step_by(every).collect::<Vec<_>>().into_iter().rev().map(row).collect();
    let page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>evo1 training run</title>\n\
         <style>{STYLE}</style></head><body>\n<h1>Training run</h1>\n{warnings}<table>\n{facts}</table>\n\
         <p><img src=\"curves.png\" alt=\"Loss, learning rate and gradient norm over the steps\"></p>\n\
         <table>\n<tr><th>step</th><th>loss</th><th>gradient norm</th><th>learning rate</th><th>samples</th></tr>\n\
         {rows}</table>\n<h2>Configuration</h2>\n<pre>{}</pre>\n</body></html>\n",
        escaped(configuration)
    );
    Ok(write_atomically(path, page.as_bytes())?)
}

/// Text without what HTML takes for markup.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_cannot_become_markup() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("report.html");
        write_report(&path, &[("steps", "3 < 4".into())], &["a & b".into()], &[], "prompt: <script>").expect("page");
        let page = std::fs::read_to_string(path).expect("page");
        assert!(page.contains("3 &lt; 4") && page.contains("a &amp; b") && page.contains("&lt;script&gt;"), "{page}");
    }
}
