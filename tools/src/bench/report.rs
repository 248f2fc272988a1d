//! What `make bench` saves: `build/bench.md` and `build/bench.svg`, and, with `RECORD=1`, the same in the tree.

use anyhow::{Context, Result};
use std::fs;
use std::process::Command;

use crate::steps;
use crate::workspace;

/// Where the tables stand in README.md.
const BEGIN: &str = "<!-- make bench RECORD=1 writes from here -->";
const END: &str = "<!-- to here -->";

/// All of one comparison with Linux, as Markdown.
pub struct Report {
    pub rows: String,
    /// SVG.
    pub chart: String,
    pub growth: Option<String>,
    pub boot: Option<String>,
    /// What rt-tests found.
    pub response: Option<String>,
    /// QEMU's command lines: Linux as shipped, plain Linux, Drupe.
    pub commands: [String; 3],
}

impl Report {
    pub fn tables(&self) -> String {
        let mut text = self.rows.clone();
        for table in [&self.boot, &self.growth, &self.response].into_iter().flatten() {
            text.push('\n');
            text.push_str(table);
        }
        text
    }

    /// The page with everything that is needed to measure again.
    pub fn page(&self) -> Result<String> {
        let mut text = format!(
            "# Drupe beside Linux\n\nMeasured on {} by `make bench`. Times are guest time, one nanosecond an instruction; \
             a row is held against\nthe faster of Linux's two runs, as Debian ships it and plain.\n\n![](bench.svg)\n\n{}",
            today()?,
            self.rows
        );
        if let Some(boot) = &self.boot {
            text.push_str(&format!("\n## The boot\n\n{boot}"));
        }
        if let Some(growth) = &self.growth {
            text.push_str(&format!(
                "\n## How costs grow\n\nWith memory that the process has written to, and with tasks that sleep \
                 meanwhile. Drupe's fork shares tables of\n2 MiB, so it grows with those and not with pages.\n\n{growth}"
            ));
        }
        if let Some(response) = &self.response {
            text.push_str(&format!(
                "\n## Response under load\n\nDebian's rt-tests: cyclictest with SCHED_FIFO beside hackbench on four cores, \
                 then hackbench alone.\n\n{response}"
            ));
        }
        text.push_str("\n## The command lines\n\nLinux as shipped, plain Linux, and Drupe:\n\n");
        self.commands.iter().for_each(|command| text.push_str(&format!("    {command}\n\n")));
        text.push_str("They run `bench --boot; bench; bench --growth` (userland/bench).\n");
        Ok(text)
    }

    /// Writes the page and the chart into kernel/doc, and the chart and the tables into README.md.
    pub fn record(&self) -> Result<()> {
        let root = workspace::root();
        fs::write(root.join("kernel/doc/bench.md"), self.page()?)?;
        fs::write(root.join("kernel/doc/bench.svg"), &self.chart)?;
        let readme = root.join("README.md");
        let text = fs::read_to_string(&readme)?;
        let section = format!(
            "\n![Time of Drupe by time of Linux, row by row](kernel/doc/bench.svg)\n\nMeasured on {}; the command lines are in \
             [kernel/doc/bench.md](kernel/doc/bench.md).\n\n{}\n",
            today()?,
            self.tables()
        );
        fs::write(&readme, between_marks(&text, &section).context("README.md has lost its marks")?)?;
        Ok(())
    }
}

fn between_marks(text: &str, section: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{section}{END}{after}"))
}

fn today() -> Result<String> {
    Ok(steps::ask(Command::new("date").env("LC_ALL", "C").args(["-u", "+%-d %B %Y"]))?.trim().to_string())
}

/// A command line as it is typed, with paths that begin in the tree.
pub fn words(command: &Command) -> String {
    let root = format!("{}/", workspace::root().display());
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| {
        let word = word.to_string_lossy().replace(&root, "");
        if word.contains(' ') { format!("'{word}'") } else { word }
    }));
    words[0] = words[0].rsplit('/').next().unwrap_or_default().to_string();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::{BEGIN, END, between_marks};

    #[test]
    fn what_stands_between_the_marks_is_replaced() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        assert_eq!(between_marks(&text, "new\n"), Some(format!("before\n{BEGIN}\nnew\n{END}\nafter\n")));
        assert_eq!(between_marks("no marks", "new"), None);
    }
}
