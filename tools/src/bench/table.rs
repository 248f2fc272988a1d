//! The table: one line per row, Linux beside Drupe, and the geometric mean of the ratios.

use super::figures::{Figure, Figures};
use super::rows::{ROWS, Row};

/// The errors with which Linux refuses what it was not built for.
const ENOSYS: i32 = 38;
const EINVAL: i32 = 22;

/// Two kernels, row by row.
pub struct Comparison<'a> {
    pub lines: Vec<Line<'a>>,
    /// The columns' names.
    pub names: [String; 2],
    goals: Goals,
}

/// Whether the ratios to reach mean something: they do beside Linux, not beside another Drupe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goals {
    Shown,
    Hidden,
}

/// One row, measured on both.
pub struct Line<'a> {
    pub row: &'a Row,
    pub reference: Option<Figure>,
    pub ours: Option<Figure>,
}

impl Line<'_> {
    /// Ours by the reference's.
    pub fn ratio(&self) -> Option<f64> {
        let (reference, ours) = (self.reference?.median()?, self.ours?.median()?);
        Some(ours as f64 / reference as f64)
    }

    fn reaches(&self) -> Option<bool> {
        self.ratio().map(|ratio| ratio <= self.row.limit)
    }
}

impl<'a> Comparison<'a> {
    /// Of the rows that either has.
    pub fn new(names: [String; 2], reference: &Figures, ours: &Figures, goals: Goals) -> Comparison<'a> {
        let line = |row: &'a Row| Line { row, reference: reference.get(row.name), ours: ours.get(row.name) };
        let lines = ROWS.iter().map(line).filter(|line| line.reference.is_some() || line.ours.is_some()).collect();
        Comparison { lines, names, goals }
    }

    /// Over the rows that both have. `None` without any.
    pub fn geometric_mean(&self) -> Option<f64> {
        let logarithms: Vec<f64> = self.lines.iter().filter_map(Line::ratio).map(f64::ln).collect();
        (!logarithms.is_empty()).then(|| (logarithms.iter().sum::<f64>() / logarithms.len() as f64).exp())
    }

    /// As a table of Markdown, whose columns also line up on a terminal.
    pub fn markdown(&self) -> String {
        let columns = if self.goals == Goals::Shown { 6 } else { 4 };
        let header = ["", &self.names[0], &self.names[1], "ratio", "to reach", ""].map(String::from);
        let mut cells = vec![header];
        cells.extend(self.lines.iter().map(|line| {
            let number = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.3}"));
            let verdict = match line.reaches() {
                Some(false) => "missed",
                _ => "",
            };
            [
                line.row.title.to_string(),
                nanoseconds(line.reference),
                nanoseconds(line.ours),
                number(line.ratio()),
                format!("{:.2}", line.row.limit),
                verdict.to_string(),
            ]
        }));
        let mut text = String::new();
        let widths: [usize; 6] =
            std::array::from_fn(|column| cells.iter().map(|line| line[column].len()).max().unwrap_or(0).max(3));
        for (index, line) in cells.iter().enumerate() {
            text.push_str(&format!("| {:<width$} |", line[0], width = widths[0]));
            (1..columns)
                .for_each(|column| text.push_str(&format!(" {:>width$} |", line[column], width = widths[column])));
            text.push('\n');
            if index == 0 {
                text.push_str(&format!("| {} |", "-".repeat(widths[0])));
                widths[1..columns].iter().for_each(|width| text.push_str(&format!(" {}: |", "-".repeat(width - 1))));
                text.push('\n');
            }
        }
        if let Some(mean) = self.geometric_mean() {
            let counted = self.lines.iter().filter(|line| line.ratio().is_some()).count();
            text.push_str(&format!("\nGeometric mean of the ratios of {counted} rows: **{mean:.3}**.\n"));
        }
        text
    }
}

/// `1,234`, or what the kernel said instead.
pub fn nanoseconds(figure: Option<Figure>) -> String {
    match figure {
        Some(Figure::Time { median, .. }) => thousands(median),
        Some(Figure::Unsupported(ENOSYS)) => "ENOSYS".to_string(),
        Some(Figure::Unsupported(EINVAL)) => "EINVAL".to_string(),
        Some(Figure::Unsupported(errno)) => format!("error {errno}"),
        None => "-".to_string(),
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Comparison, Goals, thousands};
    use crate::bench::figures::Figures;

    #[test]
    fn numbers_have_commas() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn the_mean_is_over_the_rows_that_both_kernels_have() {
        let linux = Figures::parse("row null 100 1 1\nrow fork 100 1 1\nrow unshare_uts 9 9 9\n");
        let drupe = Figures::parse("row null 50 1 1\nrow fork 2 1 1\nrow unshare_uts unsupported 38\n");
        let table = Comparison::new(["Linux".into(), "Drupe".into()], &linux, &drupe, Goals::Shown);
        assert!((table.geometric_mean().unwrap() - 0.1).abs() < 1e-9);
        assert!(table.markdown().contains("| 0.500 |"), "{}", table.markdown());
    }
}
