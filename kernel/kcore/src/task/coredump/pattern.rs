//! `/proc/sys/kernel/core_pattern`: where a core goes (core(5), "Naming of core dump files"; Linux `format_corename`).

use alloc::vec;
use alloc::vec::Vec;

use crate::fs::proc::text::Text;

/// The longest pattern, and the longest name it may become, with its NUL.
pub const MAX: usize = 128;

/// What the % specifiers stand for.
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// `%p`: the process in its own PID namespace.
    pub pid: i32,
    /// `%P`: in the initial one.
    pub global_pid: i32,
    /// `%i`: the thread in its own PID namespace.
    pub tid: i32,
    /// `%I`: in the initial one.
    pub global_tid: i32,
    /// `%u`: real user id.
    pub uid: u32,
    /// `%g`: real group id.
    pub gid: u32,
    /// `%d`: dumpable.
    pub dumpable: u32,
    /// `%s`: the signal.
    pub signal: u32,
    /// `%t`: seconds since the Epoch.
    pub time: u64,
    /// `%h`: host name.
    pub host: Vec<u8>,
    /// `%e`: the thread's name.
    pub comm: Vec<u8>,
    /// `%E`: path of the program; its last part is `%f`.
    pub program: Vec<u8>,
    /// `%c`: soft RLIMIT_CORE.
    pub limit: u64,
}

/// Where a core goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file of this name.
    File(Vec<u8>),
    /// The standard input of this program.
    Pipe(Vec<Vec<u8>>),
}

/// Fills the pattern in. `None`: a pipe without a program.
pub fn expand(pattern: &[u8], values: &Values, append_pid: bool) -> Option<Target> {
    let Some(command) = pattern.strip_prefix(b"|") else {
        let (mut name, has_pid) = expand_word(pattern, values);
        // Before %p there was core_uses_pid, and it still counts where the pattern has none.
        if append_pid && !has_pid {
            push(&mut name, |text| {
                text.byte(b'.').int(i64::from(values.pid));
            });
        }
        return Some(Target::File(name));
    };
    // Split first, so that spaces in a program's name stay in one argument (Linux 5.3).
    let words = command.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let arguments: Vec<Vec<u8>> = words.map(|word| expand_word(word, values).0).collect();
    if arguments.is_empty() { None } else { Some(Target::Pipe(arguments)) }
}

/// Fills one word in. Also says whether it has a `%p`.
fn expand_word(word: &[u8], values: &Values) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let mut has_pid = false;
    let mut rest = word.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        // A single % at the end is dropped.
        let Some(specifier) = rest.next() else { break };
        let number = match specifier {
            b'%' => {
                out.push(b'%');
                continue;
            }
            b'h' => {
                push_component(&mut out, &values.host);
                continue;
            }
            b'e' => {
                push_component(&mut out, &values.comm);
                continue;
            }
            b'f' => {
                push_component(&mut out, values.program.rsplit(|byte| *byte == b'/').next().unwrap_or_default());
                continue;
            }
            b'E' => {
                push_component(&mut out, &values.program);
                continue;
            }
            b'p' => {
                has_pid = true;
                i64::from(values.pid)
            }
            b'P' => i64::from(values.global_pid),
            b'i' => i64::from(values.tid),
            b'I' => i64::from(values.global_tid),
            b'u' => i64::from(values.uid),
            b'g' => i64::from(values.gid),
            b'd' => i64::from(values.dumpable),
            b's' => i64::from(values.signal),
            b't' => values.time.cast_signed(),
            b'c' => {
                push(&mut out, |text| {
                    text.num(values.limit);
                });
                continue;
            }
            // Any other is dropped with its %.
            _ => continue,
        };
        push(&mut out, |text| {
            text.int(number);
        });
    }
    (out, has_pid)
}

fn push(out: &mut Vec<u8>, write: impl FnOnce(&mut Text)) {
    let mut text = Text::new();
    write(&mut text);
    out.extend_from_slice(&text.into_bytes());
}

/// Appends a text that a user chose: no slash in it makes a directory, and it is never empty, `.` or `..` (Linux
/// `cn_esc_printf`).
fn push_component(out: &mut Vec<u8>, text: &[u8]) {
    let mut part = match text {
        b"" => vec![b'!'],
        b"." | b".." => [b"!", &text[1..]].concat(),
        text => text.to_vec(),
    };
    part.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'!');
    out.append(&mut part);
}

#[cfg(test)]
mod tests {
    use super::{Target, Values, expand};

    fn values() -> Values {
        Values {
            pid: 7,
            global_pid: 1007,
            tid: 8,
            global_tid: 1008,
            uid: 1000,
            gid: 100,
            dumpable: 1,
            signal: 11,
            time: 1_700_000_000,
            host: b"drupe".to_vec(),
            comm: b"a b".to_vec(),
            program: b"/usr/bin/a b".to_vec(),
            limit: u64::MAX,
        }
    }

    fn file(pattern: &[u8]) -> String {
        match expand(pattern, &values(), false) {
            Some(Target::File(name)) => String::from_utf8(name).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_specifier_is_what_core_5_says() {
        assert_eq!(file(b"core"), "core");
        assert_eq!(file(b"%p %P %i %I"), "7 1007 8 1008");
        assert_eq!(file(b"%u.%g.%d.%s.%t"), "1000.100.1.11.1700000000");
        assert_eq!(file(b"%h-%e-%f"), "drupe-a b-a b");
        assert_eq!(file(b"/tmp/%E"), "/tmp/!usr!bin!a b");
        assert_eq!(file(b"%c"), "18446744073709551615");
        assert_eq!(file(b"100%%"), "100%");
    }

    #[test]
    fn a_percent_at_the_end_and_unknown_letters_are_dropped() {
        assert_eq!(file(b"core%"), "core");
        assert_eq!(file(b"co%zre"), "core");
        assert_eq!(file(b""), "");
    }

    #[test]
    fn names_of_users_make_no_directories() {
        for (comm, wanted) in [(&b""[..], "!"), (b".", "!"), (b"..", "!."), (b"../x", "..!x"), (b"...", "...")] {
            let values = Values { comm: comm.to_vec(), ..values() };
            assert_eq!(expand(b"%e", &values, false), Some(Target::File(wanted.as_bytes().to_vec())));
        }
    }

    #[test]
    fn core_uses_pid_adds_what_the_pattern_lacks() {
        let named = |pattern: &[u8]| expand(pattern, &values(), true);
        assert_eq!(named(b"core"), Some(Target::File(b"core.7".to_vec())));
        assert_eq!(named(b"core-%p"), Some(Target::File(b"core-7".to_vec())));
        assert_eq!(named(b""), Some(Target::File(b".7".to_vec())));
    }

    #[test]
    fn a_pipe_is_split_before_it_is_filled_in() {
        let wanted = [&b"/bin/handler"[..], b"7", b"a b"].map(<[u8]>::to_vec).to_vec();
        assert_eq!(expand(b"|/bin/handler  %p %e", &values(), true), Some(Target::Pipe(wanted)));
        assert_eq!(expand(b"|", &values(), false), None);
        assert_eq!(expand(b"| ", &values(), false), None);
    }
}
