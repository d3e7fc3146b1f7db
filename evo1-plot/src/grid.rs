//! A grid of pictures with titles, for example heat maps over camera frames.

use image::RgbImage;

use crate::{
    canvas::{self, Align, BLACK, Canvas, Font, GREY, Rect},
    error::{Error, Result},
};

/// All sizes are in pixels.
const MARGIN: f64 = 24.0;
const TITLE_HEIGHT: f64 = 40.0;
const NOTE_HEIGHT: f64 = 24.0;
const HEADING_HEIGHT: f64 = 44.0;
const COLUMN_HEIGHT: f64 = 24.0;
const ROW_LABEL: f64 = 150.0;
/// Side of a cell's picture, which is scaled to fill it with its aspect kept.
const CELL: u32 = 160;
const CELL_GAP: f64 = 10.0;
const CELL_LABEL: f64 = 20.0;

const TITLE_FONT: Font = Font { size: 24.0, is_bold: true, color: BLACK };
const NOTE_FONT: Font = Font { size: 15.0, is_bold: false, color: GREY };
const HEADING_FONT: Font = Font { size: 18.0, is_bold: true, color: BLACK };
const LABEL_FONT: Font = Font { size: 15.0, is_bold: false, color: BLACK };
const CELL_FONT: Font = Font { size: 13.0, is_bold: false, color: GREY };

/// A picture of sections, each a table of pictures.
#[derive(Debug, Clone)]
pub struct Grid {
    /// What stands above everything.
    pub title: String,
    /// How the pictures are read.
    pub notes: Vec<String>,
    /// The tables, from top to bottom.
    pub sections: Vec<Section>,
}

/// Rows of pictures below a heading and the names of the columns.
#[derive(Debug, Clone)]
pub struct Section {
    /// What stands above the rows.
    pub heading: String,
    /// What stands above each cell of the rows.
    pub columns: Vec<String>,
    /// The rows, from top to bottom.
    pub rows: Vec<Row>,
}

/// Pictures side by side.
#[derive(Debug, Clone)]
pub struct Row {
    /// What stands before the pictures, one line for each entry.
    pub label: Vec<String>,
    /// The pictures, from left to right.
    pub cells: Vec<Cell>,
}

/// A picture with a line below it.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The picture, which is scaled to the size of a cell.
    pub picture: RgbImage,
    /// What stands below the picture.
    pub label: String,
}

/// Draws a grid.
///
/// # Errors
/// When the grid has no picture.
pub fn draw(grid: &Grid) -> Result<RgbImage> {
    let cells = grid.sections.iter().flat_map(|section| &section.rows).map(|row| row.cells.len()).max().unwrap_or(0);
    if cells == 0 {
        return Err(Error::Empty { what: "picture" });
    }
    let pitch = f64::from(CELL) + CELL_GAP;
    let row_height = f64::from(CELL) + CELL_LABEL + CELL_GAP;
    let left = MARGIN + ROW_LABEL;
    let width = (left + cells as f64 * pitch + MARGIN).max(760.0);
    let section_height = |section: &Section| HEADING_HEIGHT + COLUMN_HEIGHT + section.rows.len() as f64 * row_height;
    let top = MARGIN + TITLE_HEIGHT + grid.notes.len() as f64 * NOTE_HEIGHT;
    let height = top + grid.sections.iter().map(section_height).sum::<f64>() + MARGIN;

    let mut pictures = Vec::new();
    let mut out = canvas::render((width, height), |canvas| {
        let text_width = width - 2.0 * MARGIN;
        line(canvas, &grid.title, (MARGIN, MARGIN + 12.0), text_width, Align::Left, TITLE_FONT)?;
        for (index, note) in grid.notes.iter().enumerate() {
            let y = MARGIN + TITLE_HEIGHT + (index as f64 + 0.3) * NOTE_HEIGHT;
            line(canvas, note, (MARGIN, y), text_width, Align::Left, NOTE_FONT)?;
        }
        let mut y = top;
        for section in &grid.sections {
            line(canvas, &section.heading, (MARGIN, y + 0.6 * HEADING_HEIGHT), text_width, Align::Left, HEADING_FONT)?;
            y += HEADING_HEIGHT;
            for (column, name) in section.columns.iter().enumerate() {
                let at = (left + column as f64 * pitch + 0.5 * f64::from(CELL), y + 0.5 * COLUMN_HEIGHT);
                line(canvas, name, at, f64::from(CELL), Align::Center, LABEL_FONT)?;
            }
            y += COLUMN_HEIGHT;
            for row in &section.rows {
                for (index, label) in row.label.iter().enumerate() {
                    let at = (MARGIN, y + 0.5 * f64::from(CELL) + (index as f64 - 0.5 * row.label.len() as f64) * 20.0);
                    line(canvas, label, at, ROW_LABEL - 12.0, Align::Left, LABEL_FONT)?;
                }
                for (column, cell) in row.cells.iter().enumerate() {
                    let x = left + column as f64 * pitch;
                    let (width, height) = fitted(&cell.picture);
                    let place = (x + 0.5 * f64::from(CELL - width), y + 0.5 * f64::from(CELL - height));
                    let rect = Rect {
                        left: place.0,
                        top: place.1,
                        right: place.0 + f64::from(width),
                        bottom: place.1 + f64::from(height),
                    };
                    canvas.rect(rect.grown(1.0), GREY)?;
                    let at = (x + 0.5 * f64::from(CELL), y + f64::from(CELL) + 0.5 * CELL_LABEL);
                    line(canvas, &cell.label, at, f64::from(CELL), Align::Center, CELL_FONT)?;
                    pictures.push((&cell.picture, rect));
                }
                y += row_height;
            }
        }
        Ok(())
    })?;
    for (picture, place) in pictures {
        canvas::paste(&mut out, picture, place);
    }
    Ok(out)
}

/// The size at which a picture fills a cell.
fn fitted(picture: &RgbImage) -> (u32, u32) {
    let (width, height) = (f64::from(picture.width().max(1)), f64::from(picture.height().max(1)));
    let scale = f64::from(CELL) / width.max(height);
    (((width * scale).round() as u32).clamp(1, CELL), ((height * scale).round() as u32).clamp(1, CELL))
}

fn line(canvas: &Canvas<'_>, text: &str, at: (f64, f64), width: f64, align: Align, font: Font) -> Result<()> {
    canvas.text(&canvas::shortened(text, font, width)?, at, align, font)
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn grid(cells: usize) -> Grid {
        let cell = |_| Cell { picture: RgbImage::from_pixel(8, 4, Rgb([255, 0, 0])), label: "12 %".into() };
        let row = Row { label: vec!["view 1".into()], cells: (0..cells).map(cell).collect() };
        Grid {
            title: "Open the drawer".into(),
            notes: vec!["bright is much".into()],
            sections: vec![Section { heading: "Words".into(), columns: vec!["drawer".into(); cells], rows: vec![row] }],
        }
    }

    #[test]
    fn pictures_fill_their_cells_with_their_aspect_kept() {
        let picture = draw(&grid(5)).expect("a picture");
        let red = picture.pixels().filter(|pixel| pixel.0 == [255, 0, 0]).count();
        assert_eq!(red as u32, 5 * CELL * CELL / 2);
        assert!(picture.width() > 5 * CELL);
    }

    #[test]
    fn a_grid_without_pictures_is_an_error() {
        assert!(draw(&grid(0)).is_err());
    }
}
