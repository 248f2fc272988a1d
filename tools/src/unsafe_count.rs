//! Counts `unsafe` in the code of each crate, comments and strings left out. In the kernel it is allowed in `kernel/hal`
//! alone; the programs of userland call the C library, which is unsafe by nature. What is allowed is recorded, crate by
//! crate, in `tools/unsafe-count`, and may only fall.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

use crate::workspace;

const CRATES: [&str; 8] = [
    "kernel/abi",
    "kernel/hal",
    "kernel/kcore",
    "kernel/src",
    "tools/src",
    "userland/init",
    "userland/abitest",
    "userland/bench",
];
const RECORD: &str = "tools/unsafe-count";

/// Prints the counts and fails when one is larger than recorded. A crate without a record may have none.
pub fn check() -> Result<()> {
    let root = workspace::root();
    let record = fs::read_to_string(root.join(RECORD)).context(RECORD)?;
    let mut report = Vec::new();
    let mut excess = Vec::new();
    for name in CRATES {
        let mut files = Vec::new();
        each_source(&root.join(name), &mut |path, text| {
            let found = count_in(text);
            if found > 0 {
                files.push((found, path.strip_prefix(&root).unwrap_or(path).display().to_string()));
            }
        })?;
        let count: usize = files.iter().map(|(found, _)| found).sum();
        let allowed = allowed(&record, name).with_context(|| format!("{RECORD}: {name}"))?;
        report.push(format!("{name} {count}"));
        if count > allowed {
            let places: Vec<String> = files.iter().map(|(found, path)| format!("{path} ({found})")).collect();
            excess.push(format!("{name} has {count} `unsafe`, {allowed} are allowed: {}", places.join(", ")));
        } else if count < allowed {
            eprintln!("{RECORD}: {name} can be lowered from {allowed} to {count}");
        }
    }
    eprintln!("unsafe: {}", report.join(", "));
    ensure!(excess.is_empty(), "{}", excess.join("\n"));
    Ok(())
}

/// Lines of `crate number`.
fn allowed(record: &str, name: &str) -> Result<usize> {
    let line = record.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.map_or(Ok(0), |number| number.trim().parse())?)
}

fn each_source(folder: &Path, visit: &mut impl FnMut(&Path, &str)) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            each_source(&path, visit)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            visit(&path, &fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// How often the keyword stands in the code of a source text.
fn count_in(text: &str) -> usize {
    let code = without_comments_and_strings(text);
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| *word == "unsafe").count()
}

/// Raw strings with hashes and nested comments included; a lifetime is not the start of a character.
fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            comment_length(rest)
        } else if rest.starts_with("r#") || rest.starts_with("r\"") {
            raw_string_length(rest)
        } else if first == '"' {
            string_length(rest)
        } else if first == '\'' {
            character_length(rest)
        } else {
            0
        };
        if skipped > 0 {
            code.push(' ');
            rest = &rest[skipped..];
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    code
}

fn comment_length(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

fn raw_string_length(text: &str) -> usize {
    let hashes = text[1..].len() - text[1..].trim_start_matches('#').len();
    if !text[1 + hashes..].starts_with('"') {
        // `r#identifier`.
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    text[2 + hashes..].find(&end).map_or(text.len(), |at| 2 + hashes + at + end.len())
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn character_length(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => text[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 3),
        Some(_) => characters.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{allowed, count_in};

    #[test]
    fn a_crate_without_a_record_may_have_none() {
        let record = "kernel/hal 12\nuserland/init 3\n";
        assert_eq!(allowed(record, "kernel/hal").unwrap(), 12);
        assert_eq!(allowed(record, "kernel/kcore").unwrap(), 0);
    }

    #[test]
    fn only_code_counts() {
        assert_eq!(count_in("unsafe { x() } unsafe fn f() {}"), 2);
        assert_eq!(count_in("// unsafe\n/* unsafe /* unsafe */ unsafe */ let unsafe_op = 1;"), 0);
        assert_eq!(
            count_in(r####"let a = "unsafe \" unsafe"; let b = r#"unsafe " unsafe"#; 'u'; '\''; '"'; unsafe {}"####),
            1
        );
        assert_eq!(count_in("fn f<'a>(x: &'a str) -> &'a str { unsafe { g(x) } } let r#type = b'\"';"), 1);
    }
}
