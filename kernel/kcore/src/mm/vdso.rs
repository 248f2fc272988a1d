//! The vDSO: an ELF image that the kernel maps into every program, with clock calls that need no system call (vdso(7)).
//!
//! The code is hal's. The image around it (headers, dynamic symbols, hash, version) is built here as data, once at boot.
//! Layout in user space: the data page (`[vvar]`), then the image's page (`[vdso]`).

use alloc::vec;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::{Ordering, fence};

use hal::mem::{self, PAGE_SIZE, Pfn};
use hal::timer::{Line, VdsoData};
use spin::Once;

use super::{Mm, Protection, Role, frame};
use crate::Result;
use crate::task::Task;

const PAGE: u64 = PAGE_SIZE as u64;

struct Vdso {
    image: Pfn,
    data: Pfn,
    /// Of `__kernel_rt_sigreturn` in the image.
    sigreturn: u64,
}

hal::global! {
    static VDSO: Once<Vdso> = Once::new();
}

/// Builds the image. Once, at boot.
pub fn init() -> Result<()> {
    let (code, symbols) = hal::timer::vdso_code();
    let (bytes, code_at) = build(code, &symbols);
    let image = frame::allocate_zeroed()?;
    let data = frame::allocate_zeroed()?;
    mem::write(image, 0, &bytes);
    mem::sync_instruction_cache(image);
    let sigreturn = symbols.iter().find(|(name, _)| *name == "__kernel_rt_sigreturn").map_or(0, |(_, at)| *at);
    VDSO.call_once(|| Vdso { image, data, sigreturn: (code_at + sigreturn) as u64 });
    crate::time::publish_vdso();
    Ok(())
}

/// Tells user space's clock code the scale of the counter and the offsets of the clocks, the same that the system calls add:
/// the two must agree to the nanosecond.
pub fn publish(real_offset_ns: i64, tai_offset_ns: i64, time_zone: u64) {
    let Some(vdso) = VDSO.get() else { return };
    let (mult, _shift) = hal::timer::counter_scale();
    store(vdso, offset_of!(VdsoData, raw_mult), u64::from(mult));
    store(vdso, offset_of!(VdsoData, real_offset_ns), real_offset_ns.cast_unsigned());
    store(vdso, offset_of!(VdsoData, tai_offset_ns), tai_offset_ns.cast_unsigned());
    store(vdso, offset_of!(VdsoData, time_zone), time_zone);
    if hal::timer::line().is_none() {
        store(vdso, offset_of!(VdsoData, mult), u64::from(mult));
    }
}

/// Tells it how the clock runs, now that its speed has changed. One caller at a time.
pub fn publish_rate() {
    let (Some(vdso), Some(line)) = (VDSO.get(), hal::timer::line()) else { return };
    let sequence = mem::table(vdso.data)[offset_of!(VdsoData, sequence) / size_of::<u64>()].load(Ordering::Relaxed);
    store(vdso, offset_of!(VdsoData, sequence), sequence + 1);
    fence(Ordering::SeqCst);
    let at = offset_of!(VdsoData, line);
    store(vdso, at + offset_of!(Line, raw_ns), line.raw_ns);
    store(vdso, at + offset_of!(Line, clock_ns), line.clock_ns);
    store(vdso, at + offset_of!(Line, rate), line.rate.cast_unsigned());
    fence(Ordering::SeqCst);
    store(vdso, offset_of!(VdsoData, sequence), sequence + 2);
    fence(Ordering::SeqCst);
    // The line is there before the first reader looks for it.
    store(vdso, offset_of!(VdsoData, mult), 0);
}

/// Tells it the time of the last tick, for the coarse clocks. Called at each tick.
pub fn publish_coarse(monotonic_ns: u64) {
    if let Some(vdso) = VDSO.get() {
        store(vdso, offset_of!(VdsoData, coarse_ns), monotonic_ns);
    }
}

/// Each word is written on its own, as the code reads them.
fn store(vdso: &Vdso, offset: usize, value: u64) {
    mem::table(vdso.data)[offset / size_of::<u64>()].store(value, Ordering::Relaxed);
}

/// Maps data and code into `mm`. Returns the address of the image (AT_SYSINFO_EHDR).
pub fn map(mm: &Mm) -> Result<u64> {
    let Some(vdso) = VDSO.get() else { return Ok(0) };
    let data = Protection { read: true, write: false, exec: false };
    let code = Protection { exec: true, ..data };
    Ok(mm.map_special(&[(vdso.data, Role::Vvar, data), (vdso.image, Role::Vdso, code)])? + PAGE)
}

/// Where a handler without SA_RESTORER returns to.
pub fn sigreturn_address(task: &Task) -> u64 {
    let base = task.mm().map_or(0, |mm| mm.marks().vdso);
    base + VDSO.get().map_or(0, |vdso| vdso.sigreturn)
}

/// The ELF file: header, two program headers, hash, symbols, strings, versions, dynamic section, code. Returns the bytes
/// and the offset of the code. At most a page.
fn build(code: &[u8], symbols: &[(&str, usize)]) -> (Vec<u8>, usize) {
    const EHDR: usize = 64;
    const PHDR: usize = 56;
    const VERSION: &str = "LINUX_2.6.39";
    const SONAME: &str = "linux-vdso.so.1";
    let mut strings = vec![0u8];
    let mut add = |text: &str| {
        let at = strings.len();
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        at as u32
    };
    let names: Vec<u32> = symbols.iter().map(|(name, _)| add(name)).collect();
    let (soname, version) = (add(SONAME), add(VERSION));
    let count = symbols.len() + 1;
    let hash_at = EHDR + 2 * PHDR;
    let symtab_at = (hash_at + 4 * (2 + 1 + count)).next_multiple_of(8);
    let strtab_at = symtab_at + 24 * count;
    let versym_at = (strtab_at + strings.len()).next_multiple_of(8);
    let verdef_at = (versym_at + 2 * count).next_multiple_of(8);
    let dynamic_at = verdef_at + 2 * 28;
    let code_at = (dynamic_at + 16 * 10).next_multiple_of(64);
    let mut image = Image(vec![0; code_at + code.len()]);
    let total = image.0.len();
    image.header(dynamic_at, total);
    // One bucket, all symbols in one chain.
    image.words(hash_at, &[1, count as u32, if count > 1 { 1 } else { 0 }]);
    for n in 1..count {
        let next = if n + 1 < count { n as u32 + 1 } else { 0 };
        image.words(hash_at + 4 * (3 + n), &[next]);
    }
    for (n, ((_, offset), name)) in symbols.iter().zip(&names).enumerate() {
        let at = symtab_at + 24 * (n + 1);
        // Global function in section 1 (any but undefined).
        image.words(at, &[*name, 0x12 | 1 << 16]);
        image.long(at + 8, (code_at + offset) as u64);
        image.long(at + 16, 16);
        image.half(versym_at + 2 * (n + 1), 2);
    }
    image.bytes(strtab_at, &strings);
    image.version_definition(verdef_at, 1, 1, SONAME, soname, 28);
    image.version_definition(verdef_at + 28, 0, 2, VERSION, version, 0);
    let dynamic: [(u64, u64); 9] = [
        (14, u64::from(soname)),
        (4, hash_at as u64),
        (5, strtab_at as u64),
        (6, symtab_at as u64),
        (10, strings.len() as u64),
        (11, 24),
        (0x6fff_fff0, versym_at as u64),
        (0x6fff_fffc, verdef_at as u64),
        (0x6fff_fffd, 2),
    ];
    for (n, (tag, value)) in dynamic.into_iter().enumerate() {
        image.long(dynamic_at + 16 * n, tag);
        image.long(dynamic_at + 16 * n + 8, value);
    }
    image.bytes(code_at, code);
    assert!(image.0.len() <= PAGE_SIZE, "the vDSO fits a page");
    (image.0, code_at)
}

struct Image(Vec<u8>);

impl Image {
    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn half(&mut self, at: usize, value: u16) {
        self.bytes(at, &value.to_le_bytes());
    }

    fn words(&mut self, at: usize, values: &[u32]) {
        for (n, value) in values.iter().enumerate() {
            self.bytes(at + 4 * n, &value.to_le_bytes());
        }
    }

    fn long(&mut self, at: usize, value: u64) {
        self.bytes(at, &value.to_le_bytes());
    }

    /// ELF header and the program headers: everything loaded read-execute, and the dynamic section.
    fn header(&mut self, dynamic_at: usize, total: usize) {
        self.bytes(0, &[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        self.half(16, 3); // ET_DYN
        self.half(18, 183); // EM_AARCH64
        self.words(20, &[1]);
        self.long(32, 64); // program headers
        self.half(52, 64);
        self.half(54, 56);
        self.half(56, 2);
        self.half(58, 64);
        self.words(64, &[1, 5]); // PT_LOAD, R+X
        self.long(64 + 32, total as u64);
        self.long(64 + 40, total as u64);
        self.long(64 + 48, 4096);
        let second = 64 + 56;
        self.words(second, &[2, 4]); // PT_DYNAMIC, R
        let length = 16 * 10;
        for (n, value) in [dynamic_at, dynamic_at, dynamic_at, length, length, 8].into_iter().enumerate() {
            self.long(second + 8 + 8 * n, value as u64);
        }
    }

    fn version_definition(&mut self, at: usize, flags: u16, index: u16, name: &str, string: u32, next: u32) {
        for (n, value) in [1, flags, index, 1].into_iter().enumerate() {
            self.half(at + 2 * n, value);
        }
        self.words(at + 8, &[elf_hash(name), 20, next, string, 0]);
    }
}

/// The System V ABI's symbol hash.
fn elf_hash(name: &str) -> u32 {
    name.bytes().fold(0u32, |hash, byte| {
        let hash = (hash << 4).wrapping_add(u32::from(byte));
        let top = hash & 0xf000_0000;
        (hash ^ top >> 24) & !top
    })
}

#[cfg(test)]
mod tests {
    use super::{build, elf_hash};

    #[test]
    fn the_hash_is_the_abis() {
        assert_eq!(elf_hash("printf"), 0x077905a6);
    }

    #[test]
    fn the_image_is_an_elf_file_with_its_symbols() {
        let (bytes, code_at) = build(&[0; 64], &[("__kernel_clock_gettime", 0), ("__kernel_rt_sigreturn", 32)]);
        let elf = goblin::elf::Elf::parse(&bytes).expect("a valid ELF file");
        assert_eq!(elf.soname, Some("linux-vdso.so.1"));
        let found: std::vec::Vec<_> =
            elf.dynsyms.iter().filter_map(|s| Some((elf.dynstrtab.get_at(s.st_name)?, s.st_value))).collect();
        assert!(found.contains(&("__kernel_rt_sigreturn", code_at as u64 + 32)));
    }
}
