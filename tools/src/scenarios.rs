//! What a person does at the console, as tests: each boots QEMU, types, and looks. In the order of a first hour with the
//! system.
//!
//! A test gets a [`Bench`], which knows how to boot; `Machine::run` is one command at the prompt, `Machine::check` one
//! that must succeed.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::cpio::Archive;
use crate::debian::{self, PackageSet};
use crate::initramfs::{self, Overlay};
use crate::kernel;
use crate::machine::{Machine, PROMPT};
use crate::options::Options;
use crate::qemu::{Boot, Console};
use crate::sdcard;
use crate::setup::{self, Outfit};
use crate::stress;
use crate::workspace::{self, Profile};

/// The whole life of a machine in a test, in wall-clock time on a busy build machine.
const DEADLINE: Duration = Duration::from_secs(90);
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_Z: &str = "\x1a";
const ESCAPE: &str = "\x1b";

/// What all tests boot.
#[derive(Clone, Debug)]
pub struct Bench {
    pub outfit: Outfit,
    pub options: Options,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

impl Bench {
    fn boot_description(&self) -> Boot {
        Boot::new(&self.kernel, &self.initrd)
    }

    fn start(&self, boot: &Boot, options: &Options) -> Result<Machine> {
        Machine::start(boot.command(&self.outfit, options, Console::Pipes), DEADLINE)
    }

    /// Boots to the prompt.
    pub fn boot(&self) -> Result<Machine> {
        self.boot_with(&self.options)
    }

    fn boot_with(&self, options: &Options) -> Result<Machine> {
        self.boot_for(options, DEADLINE)
    }

    /// Boots with other options to the prompt, for a life of `time`.
    pub fn boot_for(&self, options: &Options, time: Duration) -> Result<Machine> {
        let boot = self.boot_description();
        let mut machine = Machine::start(boot.command(&self.outfit, options, Console::Pipes), time)?;
        machine.expect(PROMPT)?;
        Ok(machine)
    }

    /// Boots with files laid over the root file system, to the prompt.
    fn boot_overlaid(&self, overlays: &[Overlay]) -> Result<Machine> {
        let initrd = Scratch::new("overlay.cpio");
        initramfs::append(&self.initrd, overlays, initrd.path())?;
        let mut machine = self.start(&Boot::new(&self.kernel, initrd.path()), &self.options)?;
        machine.expect(PROMPT)?;
        Ok(machine)
    }

    /// Boots with a command for init and returns the console when QEMU has ended.
    pub fn boot_command(&self, command: &str, overlays: &[Overlay]) -> Result<String> {
        let initrd = Scratch::new("command.cpio");
        let mut all = vec![Overlay::new("etc/drupe/cmd", format!("{command}\n"))];
        all.extend_from_slice(overlays);
        initramfs::append(&self.initrd, &all, initrd.path())?;
        let mut boot = Boot::new(&self.kernel, initrd.path());
        boot.command_line.push_str(" loglevel=4");
        let time = DEADLINE.max(self.options.timeout);
        let mut machine = Machine::start(boot.command(&self.outfit, &self.options, Console::Pipes), time)?;
        machine.close_input();
        machine.expect("=== CMD END status=")?;
        machine.expect(" ===")?;
        // Debian's Linux has no driver that could switch this machine off.
        if !self.options.boots_linux() {
            machine.expect_end()?;
        }
        Ok(machine.console())
    }

    /// The same with Debian's own programs in the root file system.
    fn with_packages(&self, set: &PackageSet) -> Result<Bench> {
        // Each built once; who comes second waits.
        static BUILT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
        let initrd = workspace::build(&format!("{}/initramfs.cpio", set.name()));
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        if !built.contains(&initrd) {
            initramfs::build_at(&self.outfit, Some(&set.root()?), &initrd)?;
            built.push(initrd.clone());
        }
        Ok(Bench { initrd, ..self.clone() })
    }

    /// The same with a debug kernel, which checks the order of locks.
    pub fn with_debug_kernel(&self) -> Result<Bench> {
        static BUILT: Mutex<()> = Mutex::new(());
        let _one_at_a_time = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        let kernel = workspace::build("debug/kernel8.img");
        kernel::build_at(Profile::Debug, &kernel)?;
        Ok(Bench { kernel, ..self.clone() })
    }

    /// Runs a BusyBox command on this machine.
    pub fn busybox_here(&self, arguments: &[&str], input: &[u8]) -> Result<String> {
        Ok(String::from_utf8(self.busybox_here_bytes(arguments, input)?)?)
    }

    /// The same for output that is no text.
    fn busybox_here_bytes(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.outfit.qemu_user);
        command.arg(&self.outfit.busybox).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        child.stdin.take().context("no input")?.write_all(input)?;
        Ok(child.wait_with_output()?.stdout)
    }
}

/// A file of one test, removed with the value.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Scratch(workspace::build(&format!("scratch/{}-{number}-{name}", std::process::id())))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The test may have ended before it wrote the file.
        let _ = fs::remove_file(&self.0);
    }
}

type Scenario = fn(&Bench) -> Result<()>;

/// All of them, with names that are sentences.
pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("boots to a prompt and poweroff ends QEMU", poweroff),
    ("reboot ends QEMU", reboot),
    ("one core is enough", |bench| processors(bench, 1)),
    ("all four cores run", |bench| processors(bench, 4)),
    ("boots without a device tree", without_device_tree),
    ("the busybox is Debian's, byte for byte", busybox_is_debians),
    ("CMD passes its output and its status", command_status),
    ("the console's input may be closed", closed_input),
    ("APPEND reaches the kernel's command line", append_reaches_the_kernel),
    ("a missing init is a clear message", missing_init),
    ("an init that is no program is a clear message", broken_init),
    ("a garbage initramfs is a clear message", garbage_initramfs),
    ("a truncated initramfs is a clear message", truncated_initramfs),
    ("Ctrl-C ends cat", interrupt),
    ("Ctrl-Z, bg, fg and jobs", job_control),
    ("the line editor edits and remembers", line_editing),
    ("pipes pass data and statuses", pipes),
    ("redirections", redirections),
    ("here-documents", here_documents),
    ("command substitution", substitution),
    ("a background job is killed", background),
    ("ps, top, free, uptime, dmesg and mount tell", tellers),
    ("ls -l /proc/self/fd shows the console", proc_self_fd),
    ("vi changes a small file", vi),
    ("a paste of 4 KiB loses nothing", paste),
    ("script errors are the messages of Linux", error_messages),
    ("a process that takes all memory is killed and the shell goes on", memory_hog),
    ("a crash of a program is its own", crash),
    ("gdb opens a core and shows its three threads", core_in_gdb),
    ("the long script prints what it prints on Linux", long_script),
    ("Debian's own programs do what they do on Linux", debian_programs),
    ("strace shows what it shows on Linux", |bench| compare(bench, &STRACE_SCRIPT)),
    ("EXTRA lays files over the root file system", overlay),
    ("the SD card's files boot", sd_card),
    ("a fork bomb is contained by the user's limit", stress::fork_bomb),
    ("storms of signals, of descendants and of programs are survived", stress::storms),
    ("processes torture each other for five minutes and nothing is left", stress::torture),
];

fn poweroff(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    machine.line("poweroff")?;
    let status = machine.expect_end()?;
    machine.ensure(status.success(), &format!("QEMU exited with {status}"))
}

fn reboot(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    machine.line("reboot")?;
    machine.expect_end().map(|_| ())
}

fn processors(bench: &Bench, count: u32) -> Result<()> {
    let options = Options { cpus: Some(count), ..bench.options.clone() };
    let mut machine = bench.boot_with(&options)?;
    let online = machine.check("grep -c ^processor /proc/cpuinfo")?;
    machine.ensure(online.trim() == count.to_string(), &format!("{count} cores, /proc/cpuinfo has {online}"))?;
    // Work for all of them at once, and its result.
    let sum = machine.check("for n in 1 2 3 4 5 6; do (i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; echo $i) & done | sort | uniq -c; wait")?;
    machine.ensure(sum.trim() == "6 2000", &format!("six loops gave {sum:?}"))
}

fn without_device_tree(bench: &Bench) -> Result<()> {
    let bench = Bench { outfit: Outfit { device_tree: None, ..bench.outfit.clone() }, ..bench.clone() };
    bench.boot()?.check("true").map(|_| ())
}

fn busybox_is_debians(bench: &Bench) -> Result<()> {
    let expected = bench.busybox_here(&["md5sum"], &fs::read(&bench.outfit.busybox)?)?;
    let mut machine = bench.boot()?;
    let sum = machine.check("md5sum </bin/busybox")?;
    machine.ensure(sum == expected, &format!("{sum:?} instead of {expected:?}"))
}

fn command_status(bench: &Bench) -> Result<()> {
    let console = bench.boot_command("echo to be seen; exit 42", &[])?;
    ensure!(console.contains("=== CMD BEGIN ===\nto be seen\n=== CMD END status=42 ==="), "{console}");
    let console = bench.boot_command("kill -9 $$", &[])?;
    ensure!(console.contains("=== CMD END status=137 ==="), "{console}");
    Ok(())
}

fn closed_input(bench: &Bench) -> Result<()> {
    let mut machine = bench.start(&bench.boot_description(), &bench.options)?;
    machine.close_input();
    machine.expect(PROMPT).map(|_| ())
}

fn append_reaches_the_kernel(bench: &Bench) -> Result<()> {
    let options = Options { append: Some("some.word=\"of ours\"".to_string()), ..bench.options.clone() };
    let mut machine = bench.boot_with(&options)?;
    let line = machine.check("cat /proc/cmdline")?;
    machine.ensure(line.contains("some.word=\"of ours\""), &line)
}

/// Boots what cannot run and returns the panic's message.
fn panic_of(bench: &Bench, boot: &Boot) -> Result<String> {
    let mut machine = bench.start(boot, &bench.options)?;
    machine.expect("Kernel panic - not syncing: ")?;
    let message = machine.expect("\n")?;
    Ok(message.trim().to_string())
}

fn missing_init(bench: &Bench) -> Result<()> {
    let initrd = Scratch::new("empty.cpio");
    let mut archive = Archive::new(Vec::new(), 0);
    archive.directory("etc", 0o755)?;
    fs::write(initrd.path(), archive.finish()?)?;
    let message = panic_of(bench, &Boot::new(&bench.kernel, initrd.path()))?;
    ensure!(message.contains("No working init found"), "{message}");
    Ok(())
}

fn broken_init(bench: &Bench) -> Result<()> {
    let initrd = Scratch::new("broken.cpio");
    initramfs::append(&bench.initrd, &[Overlay::new("init", "no program\n")], initrd.path())?;
    let mut machine = bench.start(&Boot::new(&bench.kernel, initrd.path()), &bench.options)?;
    // As Linux does, the kernel says so and tries the next: /sbin/init, which is BusyBox's.
    machine.expect("/init: Exec format error")?;
    machine.expect("Please press Enter").map(|_| ())
}

fn garbage_initramfs(bench: &Bench) -> Result<()> {
    let initrd = Scratch::new("garbage.cpio");
    fs::write(initrd.path(), b"this is no archive. ".repeat(1000))?;
    let message = panic_of(bench, &Boot::new(&bench.kernel, initrd.path()))?;
    ensure!(message.contains("init"), "{message}");
    Ok(())
}

fn truncated_initramfs(bench: &Bench) -> Result<()> {
    let initrd = Scratch::new("truncated.cpio");
    let bytes = fs::read(&bench.initrd)?;
    // In the middle of the data of /init, which comes first.
    fs::write(initrd.path(), &bytes[..12 * 1024])?;
    let message = panic_of(bench, &Boot::new(&bench.kernel, initrd.path()))?;
    ensure!(message.contains("init"), "{message}");
    Ok(())
}

fn interrupt(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    machine.line("cat")?;
    // Until cat runs, the shell's line editor has the terminal.
    std::thread::sleep(Duration::from_millis(700));
    machine.line("echoed twice")?;
    machine.expect("echoed twice\r\nechoed twice\r\n")?;
    machine.send(CTRL_C)?;
    machine.expect("^C")?;
    machine.expect(PROMPT)?;
    let (_, status) = machine.run("echo $?")?;
    machine.ensure(status == "0\n", &status)?;
    machine.line("sleep 1000; echo status=$?")?;
    std::thread::sleep(Duration::from_millis(500));
    machine.send(CTRL_C)?;
    machine.expect(PROMPT).map(|_| ())
}

fn job_control(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    machine.line("sleep 1000")?;
    std::thread::sleep(Duration::from_millis(500));
    machine.send(CTRL_Z)?;
    machine.expect("[1]+  Stopped")?;
    machine.expect(PROMPT)?;
    machine.line("bg")?;
    machine.expect("[1] sleep 1000")?;
    machine.expect(PROMPT)?;
    machine.line("jobs")?;
    machine.expect("[1]+  Running")?;
    machine.expect(PROMPT)?;
    machine.line("fg")?;
    machine.expect("sleep 1000")?;
    std::thread::sleep(Duration::from_millis(500));
    machine.send(CTRL_C)?;
    machine.expect(PROMPT)?;
    let none = machine.check("jobs")?;
    machine.ensure(none.is_empty(), &none)?;
    // One that is stopped for reading in the background.
    machine.line("cat &")?;
    machine.expect(PROMPT)?;
    machine.line("sleep 1")?;
    machine.expect(PROMPT)?;
    machine.line("")?;
    machine.expect(PROMPT)?;
    let jobs = machine.check("jobs")?;
    machine.ensure(jobs.contains("Stopped (tty input)"), &jobs)?;
    machine.check("kill -9 %1").map(|_| ())
}

fn line_editing(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    // Type, go left twice, delete one back, insert.
    machine.send("echo abXde\x1b[D\x1b[D\x7fc\r")?;
    machine.expect("\nabcde\r\n")?;
    machine.expect(PROMPT)?;
    // The line before, with more at its end.
    machine.send("\x1b[Af\r")?;
    machine.expect("\nabcdef\r\n")?;
    machine.expect(PROMPT)?;
    // Tab completes.
    machine.send("ls -d /proc/sel\tf\t\x15echo completed\r")?;
    machine.expect("\ncompleted\r\n")?;
    machine.expect(PROMPT).map(|_| ())
}

fn same(machine: &mut Machine, command: &str, expected: &str) -> Result<()> {
    let (_, output) = machine.run(command)?;
    machine.ensure(output == expected, &format!("{command:?} gave {output:?} instead of {expected:?}"))
}

fn pipes(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    same(&mut machine, "seq 1 20000 | grep 7 | sort -rn | head -n 2", "19997\n19987\n")?;
    same(&mut machine, "yes | head -n 100000 | wc -l", "100000\n")?;
    same(&mut machine, "false | true; echo $?; true | false; echo $?", "0\n1\n")?;
    same(&mut machine, "dd if=/dev/zero bs=64k count=64 2>/dev/null | md5sum", "b5cfa9d6c8febd618f91ac2843d50a1c  -\n")
}

fn redirections(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    same(&mut machine, "cd /tmp; echo one >f; echo two >>f; cat <f; wc -l <f", "one\ntwo\n2\n")?;
    same(&mut machine, "ls /none 2>e; cat e", "ls: /none: No such file or directory\n")?;
    same(&mut machine, "(echo out; echo err >&2) 2>&1 >/dev/null", "err\n")?;
    same(&mut machine, "exec 7<f; read a <&7; read b <&7; exec 7<&-; echo $b $a", "two one\n")
}

fn here_documents(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    machine.line("X=value; cat <<'A'; cat <<B")?;
    machine.expect("> ")?;
    machine.line("not $X")?;
    machine.expect("> ")?;
    machine.line("A")?;
    machine.expect("> ")?;
    machine.line("its $X")?;
    machine.expect("> ")?;
    machine.line("B")?;
    machine.expect("not $X\r\nits value\r\n")?;
    machine.expect(PROMPT).map(|_| ())
}

fn substitution(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    same(&mut machine, "echo $(echo $(uname -m)) `echo b`", "aarch64 b\n")?;
    same(&mut machine, "x=$(exit 3); echo $?", "3\n")?;
    same(&mut machine, "x=$(seq 1 5000); echo ${#x}", "23892\n")
}

fn background(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    same(&mut machine, "sh -c 'sleep 100 & kill $!; wait $! 2>/dev/null; echo $?'", "143\n")?;
    machine.line("sleep 100 &")?;
    machine.expect(PROMPT)?;
    machine.line("kill %1; sleep 1")?;
    machine.expect(PROMPT)?;
    machine.line("")?;
    machine.expect(PROMPT)?;
    same(&mut machine, "pidof sleep", "")?;
    same(&mut machine, "trap 'echo caught' USR1; kill -USR1 $$; trap - USR1", "caught\n")
}

fn tellers(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    let shows = |machine: &mut Machine, command: &str, words: &[&str]| -> Result<()> {
        let output = machine.check(command)?;
        let missing = words.iter().find(|word| !output.contains(**word));
        machine.ensure(missing.is_none(), &format!("{command}: no {missing:?} in {output}"))
    };
    shows(&mut machine, "ps", &["PID", "USER", "1 root", "init", "{ps}"])?;
    shows(&mut machine, "top -b -n1", &["Mem:", "CPU:", "Load average:", "PID", "init"])?;
    shows(&mut machine, "free", &["total", "Mem:", "Swap:"])?;
    shows(&mut machine, "uptime", &["up", "load average:"])?;
    shows(&mut machine, "dmesg", &["]"])?;
    shows(&mut machine, "mount", &["/proc type proc", " on / type ", "/sys type sysfs", " on /dev type "])?;
    shows(&mut machine, "id", &["uid=0(root) gid=0(root)"])?;
    shows(&mut machine, "df /tmp", &["Filesystem"])?;
    shows(&mut machine, "cat /proc/version", &["Linux version "])?;
    shows(&mut machine, "cat /proc/self/maps", &["/bin/busybox", "[stack]", "[vdso]"])?;
    shows(&mut machine, "stat /", &["directory"])
}

fn proc_self_fd(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    let output = machine.check("ls -l /proc/self/fd")?;
    let console = output.lines().filter(|line| line.starts_with("l") && line.contains(" -> /dev/")).count();
    machine.ensure(console >= 3, &output)?;
    machine.check("test -t 0 && tty && stty -a | grep -q isig").map(|_| ())
}

fn vi(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    machine.check("printf 'first\\nsecond\\nthird\\n' >/tmp/v")?;
    machine.line("vi /tmp/v")?;
    machine.expect("third")?;
    // Delete the second line, append to the next, write, leave.
    machine.send("jdd")?;
    machine.send(format!("A and more{ESCAPE}"))?;
    std::thread::sleep(Duration::from_millis(500));
    machine.send(":wq\r")?;
    machine.expect(PROMPT)?;
    same(&mut machine, "cat /tmp/v", "first\nthird and more\n")
}

fn paste(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    let line = |n: u32| format!("{n:04} the quick brown fox jumps over the lazy dog 0123456789 +-*/=\n");
    let text: String = (0..64).map(line).collect();
    let expected = bench.busybox_here(&["md5sum"], text.as_bytes())?;
    machine.line("cat >/tmp/paste")?;
    machine.expect("/tmp/paste\r\n")?;
    machine.send(text.replace('\n', "\r"))?;
    machine.send(CTRL_D)?;
    machine.expect(PROMPT)?;
    same(&mut machine, "wc -c </tmp/paste", &format!("{}\n", text.len()))?;
    same(&mut machine, "md5sum </tmp/paste", &expected)
}

fn error_messages(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    machine.check("cd /tmp; echo '#!/no/such' >s; head -c 200 /bin/busybox >t; echo garbage >g; chmod +x s t g")?;
    same(&mut machine, "./s 2>/dev/null; echo $?", "127\n")?;
    same(&mut machine, "./t >/dev/null 2>&1; test $? -ge 126 && echo refused", "refused\n")?;
    same(&mut machine, "/tmp >/dev/null 2>&1; echo $?", "126\n")?;
    same(&mut machine, "no-such-command 2>/dev/null; echo $?", "127\n")?;
    same(&mut machine, "cat /tmp 2>&1", "cat: read error: Is a directory\n")?;
    same(
        &mut machine,
        "mkdir /tmp 2>&1; rmdir / 2>&1 | head -n 1",
        "mkdir: can't create directory '/tmp': File exists\nrmdir: '/': Device or resource busy\n",
    )
}

fn memory_hog(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    // tail keeps all of a line that never ends.
    let (status, _) = machine.run("tail -n 1 /dev/zero >/dev/null 2>&1")?;
    machine.ensure(status != 0, "all memory was not enough to fail")?;
    same(&mut machine, "echo alive", "alive\n")
}

fn crash(bench: &Bench) -> Result<()> {
    let mut machine = bench.boot()?;
    same(&mut machine, "sh -c 'kill -SEGV $$' 2>/dev/null; echo $?", "139\n")?;
    same(&mut machine, "sh -c 'kill -ILL $$' 2>/dev/null; echo $?", "132\n")
}

/// The core comes over the console as text; gdb on this machine looks at it beside the program.
fn core_in_gdb(bench: &Bench) -> Result<()> {
    let gdb = setup::gdb()?;
    let program = workspace::artifact(workspace::USER_TARGET, Profile::Release, "abitest");
    let command = "cd /tmp; /usr/bin/abitest helper:core; echo status $?; gzip -c core | base64";
    let console = bench.boot_command(command, &[])?;
    let output = between_marks(&console)?;
    ensure!(output.contains("status 139"), "the program did not crash:\n{output}");
    let text = output.split_once("status 139").map_or("", |(_, text)| text);
    let core = Scratch::new("core");
    let packed = Scratch::new("core.gz");
    let printed = Scratch::new("core.text");
    fs::write(printed.path(), text)?;
    let decoded = bench.busybox_here_bytes(&["base64", "-d", &printed.path().to_string_lossy()], b"")?;
    fs::write(packed.path(), decoded)?;
    let unpacked = Command::new("gzip").arg("-dc").stdin(fs::File::open(packed.path())?).output()?.stdout;
    fs::write(core.path(), &unpacked)?;
    let mut debugger = Command::new(gdb);
    debugger.args(["-batch", "-nx", "-ex", "info threads", "-ex", "thread apply all backtrace"]);
    let shown = debugger.arg(&program).arg(core.path()).output()?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned() + &String::from_utf8_lossy(&shown.stderr);
    ensure!(shown.contains("SIGSEGV"), "gdb does not know the signal:\n{shown}");
    ensure!(shown.matches("\nThread ").count() == 3, "gdb does not see three threads:\n{shown}");
    // Who calls whom, in each thread.
    for chain in [&["inner_function", "outer_function"][..], &["first_thread_waits"], &["second_thread_waits"]] {
        let has_chain = |part: &str| {
            let found = chain.iter().map(|name| part.find(name)).collect::<Option<Vec<_>>>();
            found.is_some_and(|places| places.is_sorted())
        };
        ensure!(shown.split("\nThread ").any(has_chain), "no thread is in {chain:?}:\n{shown}");
    }
    Ok(())
}

/// A script and what Debian's Linux printed for it on the same machine ([`record`]).
struct Script {
    /// `tools/tests/scripts/NAME.sh` and `NAME.expected`.
    name: &'static str,
    shell: &'static str,
    /// The packages that it calls.
    packages: Option<&'static PackageSet>,
}

const SHELL_SCRIPT: Script = Script { name: "shell", shell: "sh", packages: None };
const PROGRAMS_SCRIPT: Script = Script { name: "programs", shell: "bash", packages: Some(&debian::DEBIAN) };
const STRACE_SCRIPT: Script = Script { name: "strace", shell: "sh", packages: Some(&debian::DEBUG) };
const SCRIPTS: [&Script; 3] = [&SHELL_SCRIPT, &PROGRAMS_SCRIPT, &STRACE_SCRIPT];

fn compare(bench: &Bench, script: &Script) -> Result<()> {
    let expected = fs::read_to_string(scripts().join(format!("{}.expected", script.name)))?;
    let output = script_output(bench, script)?;
    if output != expected {
        let number = output.lines().zip(expected.lines()).take_while(|(a, b)| a == b).count();
        let at = |text: &str| text.lines().nth(number).unwrap_or("(the end)").to_string();
        bail!("line {}: {:?} instead of {:?}\n{output}", number + 1, at(&output), at(&expected));
    }
    Ok(())
}

fn long_script(bench: &Bench) -> Result<()> {
    compare(bench, &SHELL_SCRIPT)
}

fn debian_programs(bench: &Bench) -> Result<()> {
    compare(bench, &PROGRAMS_SCRIPT)
}

fn scripts() -> PathBuf {
    workspace::root().join("tools/tests/scripts")
}

fn script_output(bench: &Bench, script: &Script) -> Result<String> {
    let file = format!("{}.sh", script.name);
    let text = Overlay::new(&format!("root/{file}"), fs::read(scripts().join(&file))?);
    let command = format!("cd /tmp && {} /root/{file}", script.shell);
    let console = match script.packages {
        Some(set) => bench.with_packages(set)?.boot_command(&command, &[text])?,
        None => bench.boot_command(&command, &[text])?,
    };
    between_marks(&console).map(str::to_string)
}

/// Writes down what the scripts print, or those that `TESTS` names. Only Linux says what is right.
pub fn record(bench: &Bench) -> Result<()> {
    ensure!(bench.options.boots_linux(), "record what Linux prints: KERNEL=linux");
    let words = std::env::var("TESTS").unwrap_or_default();
    let is_wanted = |name: &str| words.is_empty() || words.split_whitespace().any(|word| name.contains(word));
    for script in SCRIPTS.into_iter().filter(|script| is_wanted(script.name)) {
        fs::write(scripts().join(format!("{}.expected", script.name)), script_output(bench, script)?)?;
    }
    Ok(())
}

/// What a command printed on a console.
pub fn between_marks(console: &str) -> Result<&str> {
    let start = console.find("=== CMD BEGIN ===\n").context("no begin mark")? + "=== CMD BEGIN ===\n".len();
    let rest = &console[start..];
    Ok(&rest[..rest.find("=== CMD END").context("no end mark")?])
}

fn overlay(bench: &Bench) -> Result<()> {
    let data: Vec<u8> = (0..100_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let expected = bench.busybox_here(&["md5sum"], &data)?;
    let overlays = [
        Overlay::new("opt/deep/data", data),
        Overlay::new("usr/local/bin/hello", "#!/bin/sh\necho hello from $0 $1\n"),
    ];
    let mut machine = bench.boot_overlaid(&overlays)?;
    same(&mut machine, "md5sum </opt/deep/data", &expected)?;
    same(&mut machine, "/usr/local/bin/hello you", "hello from /usr/local/bin/hello you\n")
}

/// Takes the files out of the image with mtools and boots exactly those.
fn sd_card(bench: &Bench) -> Result<()> {
    let image = Scratch::new("sd.img");
    sdcard::write(image.path(), &bench.kernel, &bench.initrd, None)?;
    let (kernel, initrd, line) =
        (Scratch::new("kernel8.img"), Scratch::new("initramfs.cpio"), Scratch::new("cmdline.txt"));
    for (name, file) in [("kernel8.img", &kernel), ("initramfs.cpio", &initrd), ("cmdline.txt", &line)] {
        sdcard::take_out(image.path(), name, file.path())?;
    }
    let mut boot = Boot::new(kernel.path(), initrd.path());
    boot.command_line = fs::read_to_string(line.path())?.trim().to_string();
    let mut machine = bench.start(&boot, &bench.options)?;
    machine.expect(PROMPT)?;
    machine.check("test -x /bin/busybox").map(|_| ())
}
