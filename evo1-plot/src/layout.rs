//! Sizes and fonts that pictures with a title and framed pictures share; all sizes are in pixels.

use crate::{
    canvas::{Align, BLACK, Canvas, Font, GREY, shortened},
    error::Result,
};

/// Blank border around the picture.
pub const MARGIN: f64 = 28.0;
/// Room for the title, from the border to what is below it.
pub const TITLE_HEIGHT: f64 = 46.0;
/// How a title looks.
pub const TITLE_FONT: Font = Font { size: 26.0, is_bold: true, color: BLACK };
/// Height of the line above a framed picture that says what it is.
pub const FRAME_LABEL: f64 = 24.0;
/// Room between a framed picture and what is below or beside it.
pub const FRAME_GAP: f64 = 16.0;
/// How the line above a framed picture looks.
pub const FRAME_FONT: Font = Font { size: 16.0, is_bold: false, color: GREY };

/// Writes the title into the upper left corner, shortened to one line that ends before `right`.
///
/// # Errors
/// When the font cannot be read.
pub fn draw_title(canvas: &Canvas<'_>, title: &str, right: f64) -> Result<()> {
    let title = shortened(title, TITLE_FONT, right - MARGIN)?;
    canvas.text(&title, (MARGIN, MARGIN + 10.0), Align::Left, TITLE_FONT)
}
