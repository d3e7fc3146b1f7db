//! placeholder
use std::path::Path;
pub(crate) struct Caption<'a> {
    pub(crate) title: &'a str,
    pub(crate) note: Option<&'a str>,
}
pub(crate) fn chunk_png(_: &Path, _: &evo1::ActionChunk, _: &[evo1::Frame], c: &Caption<'_>) -> eyre::Result<()> {
    let _ = (c.title, c.note);
    Ok(())
}
