//! How costs grow with the memory of the process and with the number of sleeping tasks (`bench --growth`).

use super::figures::Figures;
use super::table::nanoseconds;

const COMPANY: [&str; 8] = ["1MiB", "16MiB", "64MiB", "256MiB", "10tasks", "100tasks", "1000tasks", "10000tasks"];
const OPERATIONS: [(&str, &str); 3] = [("fork", "fork+exit+wait"), ("exec", "fork+exec+wait"), ("fault", "page fault")];

/// Each operation on both kernels, ns, as a table of Markdown.
pub fn markdown(names: [&str; 2], reference: &Figures, ours: &Figures) -> String {
    let mut text = format!("| {:<25} |", "ns");
    COMPANY.iter().for_each(|company| {
        let unit = company.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(0);
        text.push_str(&format!(" {:>11} |", format!("{} {}", &company[..unit], &company[unit..])));
    });
    text.push_str(&format!("\n| {} |", "-".repeat(25)));
    COMPANY.iter().for_each(|_| text.push_str(&format!(" {}: |", "-".repeat(10))));
    text.push('\n');
    for (name, title) in OPERATIONS {
        for (kernel, figures) in names.into_iter().zip([reference, ours]) {
            text.push_str(&format!("| {:<25} |", format!("{title}, {kernel}")));
            COMPANY.iter().for_each(|company| {
                let figure = figures.get(&format!("{name}/{company}"));
                text.push_str(&format!(" {:>11} |", nanoseconds(figure)));
            });
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Figures, markdown};

    #[test]
    fn each_operation_has_a_line_for_each_kernel() {
        let linux = Figures::parse("row fork/16MiB 1669760 1 1\n");
        let text = markdown(["Linux", "Drupe"], &linux, &Figures::default());
        assert!(text.contains("| fork+exit+wait, Linux     |           - |   1,669,760 |"), "{text}");
        assert_eq!(text.lines().count(), 8);
    }
}
