//! What a boot takes: time to the shell, memory in use then, and the kernel's code.

/// The memory that the firmware leaves to the kernel of a Pi 3 (QEMU: 1 GiB less 64 MiB for graphics).
const RAM_KIB: u64 = 983_040;

/// As `bench --boot` prints it; the size of the code as Linux tells it in its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// From power-on to the first command of the shell, ns of guest time.
    pub prompt_ns: u64,
    /// What the kernel keeps for itself before anything runs, KiB.
    pub reserved_kib: u64,
    /// What is in use beside that when the shell is there, KiB.
    pub used_kib: u64,
    pub text_kib: Option<u64>,
}

impl Boot {
    /// `None` when the console shows no boot.
    pub fn parse(console: &str) -> Option<Boot> {
        let mut boot = Boot::default();
        let mut seen = false;
        for line in console.lines() {
            match line.split_whitespace().collect::<Vec<_>>().as_slice() {
                ["boot", ns] => boot.prompt_ns = ns.parse().ok()?,
                ["memory", total, free] => {
                    let (total, free): (u64, u64) = (total.parse().ok()?, free.parse().ok()?);
                    boot.reserved_kib = RAM_KIB.checked_sub(total)?;
                    boot.used_kib = total.checked_sub(free)?;
                    seen = true;
                }
                // [    0.000000] Memory: 98320K/983040K available (13248K kernel code, ...
                words => {
                    let code = words.windows(3).find(|words| words[1..] == ["kernel", "code,"]);
                    let size = code.and_then(|words| words[0].trim_matches(['(', 'K']).parse().ok());
                    boot.text_kib = size.or(boot.text_kib);
                }
            }
        }
        seen.then_some(boot)
    }
}

/// Linux beside Drupe, as a table of Markdown.
pub fn markdown(linux: &Boot, drupe: &Boot) -> String {
    let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
    let kib = |kib: Option<u64>| kib.map_or("-".to_string(), |kib| kib.to_string());
    let line = |title: &str, value: &dyn Fn(&Boot) -> String, limit: &str| {
        format!("| {title:<46} | {:>8} | {:>8} | {limit:>8} |\n", value(linux), value(drupe))
    };
    let mut text = format!("| {:<46} | {:>8} | {:>8} | {:>8} |\n", "", "Linux", "Drupe", "to reach");
    text.push_str(&format!("| {} | {1}: | {1}: | {1}: |\n", "-".repeat(46), "-".repeat(7)));
    let ms = |boot: &Boot| format!("{:.1}", boot.prompt_ns as f64 / 1e6);
    text.push_str(&line("power-on to the shell's first command, ms", &ms, "60"));
    text.push_str(&line("memory in use then, MiB", &|boot| mib(boot.used_kib + boot.reserved_kib), "16"));
    text.push_str(&line("of that, reserved by the kernel from the start", &|boot| mib(boot.reserved_kib), ""));
    text.push_str(&line("code of the kernel, KiB", &|boot| kib(boot.text_kib), ""));
    text
}

#[cfg(test)]
mod tests {
    use super::Boot;

    #[test]
    fn a_boot_is_read_from_the_console() {
        let console = "boot 933598832\r\nmemory 936104 900520\r\nrow fork 1 2 3\r\n\
                       [    0.000000] Memory: 98320K/983040K available (13248K kernel code, 2806K rwdata)\r\n";
        let expected = Boot { prompt_ns: 933_598_832, reserved_kib: 46_936, used_kib: 35_584, text_kib: Some(13_248) };
        assert_eq!(Boot::parse(console), Some(expected));
        assert_eq!(Boot::parse("row fork 1 2 3\n"), None);
    }
}
