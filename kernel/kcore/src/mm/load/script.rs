//! `#!` scripts (execve(2), "Interpreter scripts"; Linux `binfmt_script.c`).

use abi::Errno;
use abi::fcntl::AT_FDCWD;

use super::{HEADER_SIZE, Outcome, Program};
use crate::Result;

pub(super) fn load(program: &mut Program) -> Result<Outcome> {
    let (interpreter, argument) = parse(&program.header)?;
    let (interpreter, argument) = (interpreter.to_vec(), argument.map(<[u8]>::to_vec));
    // The interpreter could not open what execve closes (execveat(2)).
    if program.path_is_inaccessible {
        return Err(Errno::ENOENT);
    }
    program.stack.insert_interpreter(&interpreter, argument.as_deref(), &program.path)?;
    let file = crate::fs::open_exec(AT_FDCWD, &interpreter, 0)?;
    Ok(Outcome::Interpreter { path: interpreter, file })
}

fn is_blank(byte: &u8) -> bool {
    *byte == b' ' || *byte == b'\t'
}

/// The interpreter and its one optional argument, blanks inside it included. A line that is cut off by the end of the
/// header is accepted only if the interpreter's name is complete.
pub(super) fn parse(header: &[u8]) -> Result<(&[u8], Option<&[u8]>)> {
    let line = header.strip_prefix(b"#!").ok_or(Errno::ENOEXEC)?;
    let complete = line.iter().position(|byte| *byte == b'\n');
    let ended = complete.is_some() || header.len() < HEADER_SIZE;
    // Without an end in sight the last byte is not looked at: Linux keeps it for a NUL.
    let line = &line[..complete.unwrap_or(line.len().min(HEADER_SIZE - 3))];
    let line = &line[..line.iter().position(|byte| *byte == 0).unwrap_or(line.len())];
    let start = line.iter().position(|byte| !is_blank(byte)).ok_or(Errno::ENOEXEC)?;
    let line = &line[start..];
    let name_end = line.iter().position(is_blank);
    if name_end.is_none() && !ended {
        return Err(Errno::ENOEXEC);
    }
    let (name, rest) = line.split_at(name_end.unwrap_or(line.len()));
    let first = rest.iter().position(|byte| !is_blank(byte));
    let last = rest.iter().rposition(|byte| !is_blank(byte));
    Ok((name, first.zip(last).map(|(first, last)| &rest[first..=last])))
}

#[cfg(test)]
mod tests {
    use super::parse;
    use abi::Errno;

    #[test]
    fn one_argument_keeps_its_inner_blanks() {
        assert_eq!(parse(b"#!/bin/sh\necho"), Ok((&b"/bin/sh"[..], None)));
        assert_eq!(parse(b"#! /usr/bin/env  python3 -u \n"), Ok((&b"/usr/bin/env"[..], Some(&b"python3 -u"[..]))));
        assert_eq!(parse(b"#!\t/bin/sh"), Ok((&b"/bin/sh"[..], None)));
    }

    #[test]
    fn a_line_without_a_complete_name_is_no_script() {
        assert_eq!(parse(b"#!\n"), Err(Errno::ENOEXEC));
        assert_eq!(parse(b"#!   \n"), Err(Errno::ENOEXEC));
        let mut long = alloc::vec![b'x'; 256];
        long[..2].copy_from_slice(b"#!");
        assert_eq!(parse(&long), Err(Errno::ENOEXEC));
        assert_eq!(parse(b"echo"), Err(Errno::ENOEXEC));
    }
}
