//! The error of this crate.

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a picture cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A picture would show nothing.
    #[error("there is no {what} to draw")]
    Empty {
        /// What there is none of.
        what: &'static str,
    },
    /// The weights of a heat map are not those of a square of patches.
    #[error("{count} weights are no square")]
    NotSquare {
        /// How many weights there are.
        count: usize,
    },
    /// The font cannot be read.
    #[error("the font {family} cannot be read")]
    Font {
        /// The name of the font.
        family: &'static str,
    },
    /// Something cannot be put on the bitmap.
    #[error("{message}")]
    Drawing {
        /// What the drawing library says.
        message: String,
    },
    /// The picture cannot be written as a PNG file.
    #[error(transparent)]
    Png(#[from] image::ImageError),
}

impl Error {
    /// What the drawing library reports.
    pub(crate) fn drawing(error: impl std::fmt::Display) -> Self {
        Self::Drawing { message: error.to_string() }
    }
}
