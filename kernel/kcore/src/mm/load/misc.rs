//! binfmt_misc: formats that the administrator adds (Linux `binfmt_misc.c`, Documentation/admin-guide/binfmt-misc.rst).
//! Its file system, through which they are added, is [`crate::fs::binfmt_misc`].

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use abi::Errno;
use abi::fcntl::AT_FDCWD;
use hal::sync::SpinLock;

use super::stack::Argv0;
use super::{HEADER_SIZE, Outcome, Program};
use crate::Result;
use crate::fs::File;
use crate::sync::order;

/// Most bytes of a registration (Linux `MAX_REGISTER_LENGTH`), and the least that can be one.
const MAX_TEXT: usize = 1920;
const MIN_TEXT: usize = 11;

/// Flags of a handler, by their letters.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Flags {
    /// `P`: argv[0] is kept.
    pub preserve_argv0: bool,
    /// `O`: the program is handed over as a descriptor (AT_EXECFD).
    pub open_binary: bool,
    /// `C`: set-ID bits and capabilities are the program's, not the interpreter's. Means `O` too.
    pub credentials: bool,
    /// `F`: the interpreter is opened at once, not when it is needed.
    pub fix_binary: bool,
}

/// How a program is known.
#[derive(PartialEq, Eq, Debug)]
pub enum Pattern {
    /// Bytes at an offset, those that the mask leaves.
    Magic {
        /// Where.
        offset: usize,
        /// Which.
        magic: Vec<u8>,
        /// Which bits count.
        mask: Option<Vec<u8>>,
    },
    /// What is behind the last dot of its name.
    Extension(Vec<u8>),
}

/// A registered format.
pub struct Handler {
    /// Its file's name.
    pub name: Vec<u8>,
    /// How it knows a program.
    pub pattern: Pattern,
    /// Who runs it.
    pub interpreter: Vec<u8>,
    /// How.
    pub flags: Flags,
    /// Its inode number.
    pub ino: u64,
    /// Not asked while false.
    pub enabled: AtomicBool,
    /// With `F`.
    opened: Option<Arc<File>>,
}

hal::global! {
    /// Newest first, as they are asked.
    static HANDLERS: SpinLock<Vec<Arc<Handler>>> = SpinLock::new(order::MOUNT, Vec::new());
    /// How many there are: nearly always none, which execve sees without a lock.
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    static ENABLED: AtomicBool = AtomicBool::new(true);
    /// 1 to 3 are the root, `register` and `status`.
    static NEXT_INO: AtomicU64 = AtomicU64::new(4);
}

/// Whether any handler is asked.
pub fn is_enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// Switches all of them.
pub fn set_enabled(enabled: bool) {
    ENABLED.store(enabled, Ordering::Relaxed);
}

/// The handlers, newest first.
pub fn handlers() -> Vec<Arc<Handler>> {
    HANDLERS.lock().clone()
}

/// Removes the handlers that `gone` names.
pub fn remove(gone: impl Fn(&Handler) -> bool) {
    let mut removed = Vec::new();
    let mut handlers = HANDLERS.lock();
    handlers.retain(|handler| {
        let stays = !gone(handler);
        if !stays {
            removed.push(handler.clone());
        }
        stays
    });
    COUNT.store(handlers.len(), Ordering::Relaxed);
    drop(handlers);
    drop(removed);
}

/// Adds a handler by its text `:name:type:offset:magic:mask:interpreter:flags`; the first byte separates. `EINVAL`,
/// `EEXIST`, and with `F` what opening the interpreter says.
pub fn register(text: &[u8]) -> Result<()> {
    let mut handler = parse(text)?;
    if HANDLERS.lock().iter().any(|known| known.name == handler.name) {
        return Err(Errno::EEXIST);
    }
    if handler.flags.fix_binary {
        handler.opened = Some(crate::fs::open_exec(AT_FDCWD, &handler.interpreter, 0)?);
    }
    let handler = Arc::new(handler);
    let mut handlers = HANDLERS.lock();
    if handlers.iter().any(|known| known.name == handler.name) {
        drop(handlers);
        return Err(Errno::EEXIST);
    }
    handlers.insert(0, handler);
    COUNT.store(handlers.len(), Ordering::Relaxed);
    Ok(())
}

/// Takes the text apart (Linux `create_entry`).
fn parse(text: &[u8]) -> Result<Handler> {
    if !(MIN_TEXT..=MAX_TEXT).contains(&text.len()) {
        return Err(Errno::EINVAL);
    }
    let (separator, rest) = text.split_first().ok_or(Errno::EINVAL)?;
    let mut fields = rest.split(|byte| byte == separator);
    let mut next = || fields.next().ok_or(Errno::EINVAL);
    let (name, kind, offset, magic, mask, interpreter) = (next()?, next()?, next()?, next()?, next()?, next()?);
    let flags = parse_flags(next()?)?;
    if next().is_ok() || matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || interpreter.is_empty() {
        return Err(Errno::EINVAL);
    }
    let pattern = match kind {
        b"M" => parse_magic(offset, magic, mask)?,
        b"E" if magic.is_empty() || magic.contains(&b'/') => return Err(Errno::EINVAL),
        b"E" => Pattern::Extension(magic.to_vec()),
        _ => return Err(Errno::EINVAL),
    };
    Ok(Handler {
        name: name.to_vec(),
        pattern,
        interpreter: interpreter.to_vec(),
        flags,
        ino: NEXT_INO.fetch_add(1, Ordering::Relaxed),
        enabled: AtomicBool::new(true),
        opened: None,
    })
}

fn parse_flags(text: &[u8]) -> Result<Flags> {
    let mut flags = Flags::default();
    for letter in text.strip_suffix(b"\n").unwrap_or(text) {
        match letter {
            b'P' => flags.preserve_argv0 = true,
            b'O' => flags.open_binary = true,
            b'C' => (flags.credentials, flags.open_binary) = (true, true),
            b'F' => flags.fix_binary = true,
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(flags)
}

fn parse_magic(offset: &[u8], magic: &[u8], mask: &[u8]) -> Result<Pattern> {
    let offset = match offset {
        b"" => 0,
        digits => core::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(Errno::EINVAL)?,
    };
    let magic = unescape(magic);
    let mask = (!mask.is_empty()).then(|| unescape(mask));
    let fits = offset <= HEADER_SIZE && magic.len() <= HEADER_SIZE - offset;
    if magic.is_empty() || !fits || mask.as_ref().is_some_and(|mask| mask.len() != magic.len()) {
        return Err(Errno::EINVAL);
    }
    Ok(Pattern::Magic { offset, magic, mask })
}

/// `\xHH` is a byte; everything else is itself.
fn unescape(text: &[u8]) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        rest = match rest {
            [b'\\', b'x', high, low, behind @ ..] if digit(high).is_some() && digit(low).is_some() => {
                // Two hexadecimal digits fit a byte.
                bytes.push((digit(high).unwrap_or(0) * 16 + digit(low).unwrap_or(0)) as u8);
                behind
            }
            _ => {
                bytes.push(*first);
                behind
            }
        };
    }
    bytes
}

impl Handler {
    fn knows(&self, header: &[u8], path: &[u8]) -> bool {
        match &self.pattern {
            Pattern::Extension(extension) => path.rsplit_once_dot().is_some_and(|found| found == extension.as_slice()),
            Pattern::Magic { offset, magic, mask } => magic.iter().enumerate().all(|(n, wanted)| {
                // Behind its end a short file counts as zeros.
                let found = header.get(offset + n).copied().unwrap_or(0);
                let counts = mask.as_ref().and_then(|mask| mask.get(n)).copied().unwrap_or(u8::MAX);
                (found ^ wanted) & counts == 0
            }),
        }
    }
}

/// What is behind the last dot.
trait Extension {
    fn rsplit_once_dot(&self) -> Option<&[u8]>;
}

impl Extension for [u8] {
    fn rsplit_once_dot(&self) -> Option<&[u8]> {
        self.iter().rposition(|byte| *byte == b'.').and_then(|at| self.get(at + 1..))
    }
}

/// Runs the interpreter of the handler that knows the program.
pub(super) fn load(program: &mut Program) -> Result<Outcome> {
    if COUNT.load(Ordering::Relaxed) == 0 || !is_enabled() {
        return Err(Errno::ENOEXEC);
    }
    let is_asked = |handler: &&Arc<Handler>| handler.enabled.load(Ordering::Relaxed);
    let known = handlers();
    let handler = known
        .iter()
        .filter(is_asked)
        .find(|handler| handler.knows(&program.header, &program.path))
        .ok_or(Errno::ENOEXEC)?;
    // The interpreter could not open what execve closes.
    if program.path_is_inaccessible {
        return Err(Errno::ENOENT);
    }
    let flags = handler.flags;
    let argv0 = if flags.preserve_argv0 { Argv0::Keep } else { Argv0::Replace };
    program.stack.insert_handler(&handler.interpreter, &program.path, argv0)?;
    program.hands_over_binary |= flags.open_binary;
    let file = match &handler.opened {
        Some(file) => crate::fs::open_exec_again(file)?,
        None => crate::fs::open_exec(AT_FDCWD, &handler.interpreter, 0)?,
    };
    program.uses_binarys_credentials |= flags.credentials;
    Ok(Outcome::Interpreter { path: handler.interpreter.clone(), file })
}

#[cfg(test)]
mod tests {
    use super::{Flags, Handler, Pattern, parse};
    use abi::Errno;

    fn refused(text: &[u8]) -> bool {
        parse(text).map(|_| ()).err() == Some(Errno::EINVAL)
    }

    fn handler(text: &[u8]) -> Handler {
        parse(text).map_err(|error| panic!("{error}")).unwrap_or_else(|()| unreachable!())
    }

    #[test]
    fn a_registration_has_seven_fields() {
        let elf = handler(b":qemu:M:4:\\x7fELF:\\xff\\xff\\xff\\x00:/bin/qemu:POCF\n");
        assert_eq!(elf.name, b"qemu");
        assert_eq!(elf.interpreter, b"/bin/qemu");
        let magic = Pattern::Magic { offset: 4, magic: b"\x7fELF".to_vec(), mask: Some(b"\xff\xff\xff\0".to_vec()) };
        assert_eq!(elf.pattern, magic);
        let all = Flags { preserve_argv0: true, open_binary: true, credentials: true, fix_binary: true };
        assert_eq!(elf.flags, all);
        assert_eq!(handler(b"|java|E||jar||/bin/java|C").pattern, Pattern::Extension(b"jar".to_vec()));
        assert!(handler(b"|java|E||jar||/bin/java|C").flags.open_binary, "C means O");
        for bad in [
            &b":x:M::ab:"[..],
            b":x:M::ab::/i:Q",
            b":x:M::ab::/i::x",
            b":x:M:::::/interp:",
            b"::M::abc::/interp:",
            b":.:M::abc::/interp:",
            b":a/b:M::abc::/interp:",
            b":x:Q::abc::/interp:",
            b":x:M:-1:abc::/interp:",
            b":x:M:z:abc::/interp:",
            b":x:M:254:abc::/interp:",
            b":x:M::abc:ab:/interp:",
            b":x:M::abc:::::::",
            b":x:E::::/interp:",
            b":x:E::a/b::/interp:",
        ] {
            assert!(refused(bad), "{}", std::string::String::from_utf8_lossy(bad));
        }
        let mut long = b":x:M::abc::/".to_vec();
        long.resize(1919, b'i');
        long.push(b':');
        assert!(parse(&long).is_ok());
        long.insert(20, b'i');
        assert!(refused(&long));
    }

    #[test]
    fn masked_bits_do_not_count() {
        let handler = handler(b":x:M:1:\\x10\\x20:\\xf0\\xff:/interp:");
        assert!(handler.knows(&[9, 0x1f, 0x20], b""));
        assert!(!handler.knows(&[9, 0x2f, 0x20], b""));
        assert!(!handler.knows(&[9, 0x1f], b""), "behind the end are zeros");
    }
}
