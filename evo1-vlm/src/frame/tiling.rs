//! How many tiles a frame is cut into (InternVL's dynamic tiling).

use evo1_core::config::TilingConfig;

/// The grid of tiles, `(columns, rows)`, for a frame of `width` × `height` pixels and tiles of `size` × `size`.
///
/// Candidates are all grids of `min_tiles` to `max_tiles` tiles, smaller ones first. The one whose columns / rows is
/// closest to width / height wins; of several equally close ones, a later one replaces an earlier one when the frame
/// has more than half of the later grid's pixels. (1, 1) with the default configuration.
///
/// Grids of equally many tiles come in the order of their columns. Upstream leaves that order to its hash table; with
/// `min_tiles` 1 the order has no influence, with more tiles it decides between, say, 2 × 1 and 1 × 2 for 5 : 4.
///
/// # Panics
/// When no grid is allowed: `max_tiles` is 0 or less than `min_tiles`.
pub fn grid(width: usize, height: usize, size: usize, tiling: &TilingConfig) -> (usize, usize) {
    let TilingConfig { min_tiles, max_tiles, .. } = *tiling;
    assert!(max_tiles >= min_tiles.max(1), "no grid has at least {min_tiles} and at most {max_tiles} tiles");

    let aspect = width as f64 / height as f64;
    let area = width as f64 * height as f64;
    let mut best = (1, 1);
    let mut best_distance = f64::INFINITY;
    for (columns, rows) in candidates(min_tiles, max_tiles) {
        let distance = (aspect - columns as f64 / rows as f64).abs();
        let fills_half = area > 0.5 * (size * size * columns * rows) as f64;
        if distance < best_distance || (distance == best_distance && fills_half) {
            best = (columns, rows);
            best_distance = distance;
        }
    }
    best
}

/// All grids of `min` to `max` tiles, by number of tiles and then by columns.
fn candidates(min: usize, max: usize) -> impl Iterator<Item = (usize, usize)> {
    let divisors = |tiles: usize| (1..=tiles).filter(move |columns| tiles.is_multiple_of(*columns));
    (min.max(1)..=max).flat_map(move |tiles| divisors(tiles).map(move |columns| (columns, tiles / columns)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiling(min_tiles: usize, max_tiles: usize) -> TilingConfig {
        TilingConfig { min_tiles, max_tiles, thumbnail: false }
    }

    #[test]
    fn one_tile_by_default() {
        for (width, height) in [(448, 448), (1280, 720), (1, 4000), (4000, 1)] {
            assert_eq!(grid(width, height, 448, &TilingConfig::default()), (1, 1));
        }
    }

    #[test]
    fn candidates_are_every_grid_once() {
        let six = candidates(1, 6).collect::<Vec<_>>();
        assert_eq!(six.len(), 1 + 2 + 2 + 3 + 2 + 4);
        assert_eq!(six[..6], [(1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (1, 4)]);
        assert_eq!(candidates(0, 2).collect::<Vec<_>>(), [(1, 1), (1, 2), (2, 1)]);
        assert_eq!(candidates(6, 6).collect::<Vec<_>>(), [(1, 6), (2, 3), (3, 2), (6, 1)]);
    }

    #[test]
    #[should_panic(expected = "no grid has at least 3 and at most 2 tiles")]
    fn an_empty_range_is_refused() {
        grid(640, 480, 448, &tiling(3, 2));
    }

    #[test]
    fn grids_are_those_of_the_rule_written_in_python() {
        // (width, height), size, (min_tiles, max_tiles), grid
        let cases = [
            ((1280, 720), 448, (1, 6), (2, 1)),
            ((1280, 720), 448, (1, 12), (4, 2)),
            ((640, 480), 448, (1, 6), (3, 2)),
            ((640, 480), 448, (1, 12), (4, 3)),
            ((480, 640), 448, (1, 12), (3, 4)),
            ((448, 448), 448, (1, 12), (1, 1)),
            ((633, 633), 448, (1, 12), (1, 1)),
            ((634, 634), 448, (1, 12), (2, 2)),
            ((951, 951), 448, (1, 12), (3, 3)),
            ((950, 950), 448, (1, 12), (2, 2)),
            ((672, 448), 448, (1, 2), (2, 1)),
            ((600, 400), 448, (1, 2), (2, 1)),
            ((60, 40), 448, (1, 2), (1, 1)),
            ((1300, 400), 448, (1, 12), (3, 1)),
            ((400, 1300), 448, (1, 12), (1, 3)),
            ((4000, 100), 448, (1, 6), (6, 1)),
            ((1280, 720), 448, (3, 4), (2, 2)),
            ((640, 640), 448, (2, 2), (1, 2)),
            ((1000, 800), 448, (2, 2), (2, 1)),
            ((50, 40), 448, (2, 2), (1, 2)),
            ((1920, 1080), 448, (6, 12), (4, 2)),
            ((100, 100), 56, (1, 9), (2, 2)),
        ];
        for ((width, height), size, (min_tiles, max_tiles), expected) in cases {
            let found = grid(width, height, size, &tiling(min_tiles, max_tiles));
            assert_eq!(found, expected, "{width} × {height}, {min_tiles} to {max_tiles} tiles of {size}");
        }
    }

    #[test]
    fn a_tie_goes_to_the_larger_grid_only_when_the_frame_fills_half_of_it() {
        // 1 × 1 and 2 × 2 are equally close to a square frame; half of the latter are 2 · 448² = 401 408 pixels.
        assert_eq!(grid(633, 633, 448, &tiling(1, 4)), (1, 1));
        assert_eq!(grid(634, 634, 448, &tiling(1, 4)), (2, 2));
    }
}
