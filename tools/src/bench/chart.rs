//! The ratios as a bar chart: plain SVG, which the README shows.

use super::table::{Comparison, Line};

const WIDTH: f64 = 800.0;
/// Where the bars begin and where a ratio of 1 is.
const ZERO: f64 = 270.0;
const ONE: f64 = 710.0;
/// A longer bar is cut.
const LONGEST: f64 = 1.1;
const ROW: f64 = 17.0;
const HEAD: f64 = 56.0;
const FOOT: f64 = 14.0;

const REACHED: &str = "#2f8f5b";
const MISSED: &str = "#d08a1d";
const SLOWER: &str = "#c0392b";

/// Draws the rows that both kernels have.
pub fn svg(comparison: &Comparison) -> String {
    let rows: Vec<(&Line, f64)> =
        comparison.lines.iter().filter_map(|line| line.ratio().map(|ratio| (line, ratio))).collect();
    let bottom = HEAD + ROW * rows.len() as f64;
    let height = bottom + FOOT;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let title = match comparison.geometric_mean() {
        Some(mean) => format!("Time of Drupe by time of Linux; geometric mean {mean:.3}"),
        None => "Time of Drupe by time of Linux".to_string(),
    };
    text.push_str(&label(12.0, 22.0, "start", "#222222", &format!("{title}. Shorter is better.")));
    for tenth in [0, 25, 50, 75, 100] {
        let (x, share) = (at(f64::from(tenth) / 100.0), f64::from(tenth) / 100.0);
        let colour = if tenth == 100 { "#555555" } else { "#dddddd" };
        text.push_str(&format!("<path d=\"M{x} {} V{bottom}\" stroke=\"{colour}\"/>\n", HEAD - 4.0));
        let name = if tenth == 100 { "Linux".to_string() } else { format!("{share}") };
        text.push_str(&label(x, HEAD - 9.0, "middle", "#555555", &name));
    }
    for (index, (line, ratio)) in rows.iter().enumerate() {
        bar(&mut text, HEAD + ROW * index as f64, line, *ratio);
    }
    text.push_str("</svg>\n");
    text
}

/// The name, the bar, a tick at what is to be reached, and the number.
fn bar(text: &mut String, y: f64, line: &Line, ratio: f64) {
    let colour = match ratio {
        _ if ratio <= line.row.limit => REACHED,
        _ if ratio <= 1.0 => MISSED,
        _ => SLOWER,
    };
    let base = y + ROW - 5.0;
    text.push_str(&label(ZERO - 8.0, base, "end", "#222222", line.row.title));
    let (top, length, thickness) = (y + 2.0, at(ratio.min(LONGEST)) - ZERO, ROW - 4.0);
    text.push_str(&format!(
        "<rect x=\"{ZERO}\" y=\"{top}\" width=\"{length:.1}\" height=\"{thickness}\" fill=\"{colour}\"/>\n"
    ));
    let limit = at(line.row.limit);
    text.push_str(&format!(
        "<path d=\"M{limit:.1} {} v{}\" stroke=\"#222222\" stroke-width=\"1.5\"/>\n",
        y + 1.0,
        ROW - 2.0
    ));
    text.push_str(&label(WIDTH - 10.0, base, "end", "#222222", &format!("{ratio:.3}")));
}

fn at(ratio: f64) -> f64 {
    ZERO + (ONE - ZERO) * ratio
}

fn label(x: f64, y: f64, anchor: &str, colour: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::svg;
    use crate::bench::figures::Figures;
    use crate::bench::table::{Comparison, Goals};

    #[test]
    fn a_row_is_a_bar_and_a_row_without_a_ratio_is_none() {
        let linux = Figures::parse("row null 100 1 1\nrow fork 100 1 1\n");
        let drupe = Figures::parse("row null 50 1 1\nrow fork unsupported 38\n");
        let text = svg(&Comparison::new(["Linux".into(), "Drupe".into()], &linux, &drupe, Goals::Shown));
        assert_eq!(text.matches("<rect").count(), 2, "the background and one bar");
        assert!(text.contains("null system call") && !text.contains("fork+exit"));
        assert!(text.starts_with("<svg") && text.ends_with("</svg>\n"));
    }
}
