//! What one run of the benchmark program printed.

use std::collections::HashMap;

/// A row's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Nanoseconds of guest time for one operation.
    Time { median: u64, min: u64, max: u64 },
    /// The kernel refused, with this error number.
    Unsupported(i32),
}

impl Figure {
    pub fn median(self) -> Option<u64> {
        match self {
            Figure::Time { median, .. } => Some(median),
            Figure::Unsupported(_) => None,
        }
    }
}

/// Figures by the name of the row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures(HashMap<String, Figure>);

impl Figures {
    /// Reads the lines `row NAME MEDIAN MIN MAX` and `row NAME unsupported ERRNO`; whatever else there is is not ours.
    pub fn parse(console: &str) -> Figures {
        Figures(console.lines().filter_map(parse_line).collect())
    }

    pub fn get(&self, name: &str) -> Option<Figure> {
        self.0.get(name).copied()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Row by row the faster of the two.
    pub fn faster(&self, other: &Figures) -> Figures {
        let key = |figure: &Figure| figure.median().unwrap_or(u64::MAX);
        let mut best = self.clone();
        for (name, figure) in &other.0 {
            let entry = best.0.entry(name.clone()).or_insert(*figure);
            if key(figure) < key(entry) {
                *entry = *figure;
            }
        }
        best
    }
}

fn parse_line(line: &str) -> Option<(String, Figure)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let figure = match words.as_slice() {
        ["row", _, "unsupported", errno] => Figure::Unsupported(errno.parse().ok()?),
        ["row", _, median, min, max] => {
            Figure::Time { median: median.parse().ok()?, min: min.parse().ok()?, max: max.parse().ok()? }
        }
        _ => return None,
    };
    Some((words[1].to_string(), figure))
}

#[cfg(test)]
mod tests {
    use super::{Figure, Figures};

    #[test]
    fn lines_of_a_console_are_read_and_others_passed_over() {
        let figures = Figures::parse("boot\r\nrow fork 30 20 40\r\nrow unshare unsupported 38\r\nrow broken 1\r\n");
        assert_eq!(figures.get("fork"), Some(Figure::Time { median: 30, min: 20, max: 40 }));
        assert_eq!(figures.get("unshare"), Some(Figure::Unsupported(38)));
        assert_eq!(figures.get("broken"), None);
    }

    #[test]
    fn the_faster_figure_of_each_row_counts() {
        let first = Figures::parse("row a 10 1 1\nrow b 5 1 1\nrow c unsupported 38\n");
        let second = Figures::parse("row a 8 1 1\nrow b 6 1 1\nrow c 7 7 7\n");
        let best = first.faster(&second);
        let medians: Vec<_> = ["a", "b", "c"].map(|name| best.get(name).and_then(Figure::median)).into();
        assert_eq!(medians, [Some(8), Some(5), Some(7)]);
    }
}
